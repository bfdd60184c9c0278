"""How a service is doing, as its page draws it."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from datetime import timedelta
from typing import Any

from django.utils import timezone

from deployments.gcp.errors import CloudError
from deployments.gcp.metrics import ServiceMetrics, service_metrics
from deployments.models import CloudService
from deployments.rollouts.specs import service_name

HOURS = ((1, "1 hour"), (24, "24 hours"), (168, "7 days"))
SECONDS = 15.0
"""How long a page waits for Google."""
PLOTS = (
    ("requests", "Requests a second", "number", (("requests", "requests"),)),
    ("times", "Time to answer", "ms", (("p50", "p50_ms"), ("p95", "p95_ms"), ("p99", "p99_ms"))),
    ("errors", "Answered with an error of the service", "share", (("5xx", "errors"),)),
    (
        "machines",
        "Use of an instance, 95th percentile",
        "share",
        (("processors", "cpu"), ("memory", "memory")),
    ),
    ("instances", "Instances", "number", (("instances", "instances"),)),
)


def charts(service: CloudService, *, within: timedelta) -> dict[str, Any]:
    """Series for the plots of a page, and a sentence. Raises CloudError, also when Google takes
    too long for somebody who waits."""
    until = timezone.now()
    pool = ThreadPoolExecutor(1)
    asked = pool.submit(service_metrics, service_name(service), since=until - within, until=until)
    try:
        found = asked.result(SECONDS)
    except TooLate:
        raise CloudError(
            f"Google has not answered within {SECONDS:.0f} s. Load the page again later.",
            is_transient=True,
        ) from None
    finally:
        pool.shutdown(wait=False)
    return _drawn(found)


def _drawn(found: ServiceMetrics) -> dict[str, Any]:
    return {
        "summary": found.summary,
        "is_empty": found.is_empty,
        "times": [at.timestamp() for at in found.times],
        "plots": [
            {
                "key": key,
                "title": title,
                "unit": unit,
                "series": [
                    {"name": name, "values": getattr(found, field)} for name, field in series
                ],
            }
            for key, title, unit, series in PLOTS
        ],
    }
