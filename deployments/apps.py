from django.apps import AppConfig

from deployments.costs import prices


class DeploymentsConfig(AppConfig):
    name = "deployments"
    verbose_name = "Deployments"

    def ready(self) -> None:
        """Read the prices: a PRICES_FILE that holds none stops the start. Register the checks."""
        from deployments import checks  # noqa: F401

        prices()
