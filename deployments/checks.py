"""What Django checks before a command runs."""

from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from deployments.costs import prices


@register
def prices_can_be_read(**_options: Any) -> list[CheckMessage]:
    """PRICES_FILE is a table of prices."""
    try:
        prices()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="deployments.E001")]
    return []
