"""What Celery runs. Each task translates and calls one function."""

from celery import shared_task

from deployments import pointers


@shared_task  # type: ignore[untyped-decorator]
def mend_pointers() -> None:
    """Every 60 s: write beside the bundles what serves, where that could not be done at once."""
    pointers.pointers_mend()
