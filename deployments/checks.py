"""Settings that contradict one another, told by `manage.py check --deploy`."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register


@register(Tags.database, deploy=True)
def database_outlives_the_machine(
    app_configs: Sequence[AppConfig] | None,  # noqa: ARG001
    **kwargs: Any,  # noqa: ARG001
) -> list[CheckMessage]:
    """What is stored is in a bucket, so that a machine can be thrown away, but the database is a
    file on it."""
    if settings.BUCKET_NAME and settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        return [
            Error(
                f"BUCKET_NAME is {settings.BUCKET_NAME}, but DATABASE_URL is SQLite, which is lost "
                "with its machine.",
                hint="Set DATABASE_URL to PostgreSQL; docs/deployment.md makes one on Cloud SQL.",
                id="sentinelle.E001",
            )
        ]
    return []
