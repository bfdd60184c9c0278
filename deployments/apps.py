from django.apps import AppConfig

from deployments.costs import prices


class DeploymentsConfig(AppConfig):
    name = "deployments"
    verbose_name = "Deployments"

    def ready(self) -> None:
        """Read the prices: a PRICES_FILE that holds none stops the start."""
        prices()
