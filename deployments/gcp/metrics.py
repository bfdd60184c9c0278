"""How a Cloud Run service is doing, from Cloud Monitoring. Everything raises CloudError.

Google writes a point a minute and has it after two to four; a period without a request has none.
Percentiles are Google's, worked out from the buckets of its histograms
(https://cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-run).
"""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from deployments.gcp.rest import Request, send
from deployments.gcp.services import ServiceName

RUN = "run.googleapis.com"
REQUESTS = f"{RUN}/request_count"
LATENCIES = f"{RUN}/request_latencies"
CPU = f"{RUN}/container/cpu/utilizations"
MEMORY = f"{RUN}/container/memory/utilizations"
INSTANCES = f"{RUN}/container/instance_count"
BILLED = f"{RUN}/container/billable_instance_time"
CODES = "metric.labels.response_code_class"
# As many points as a plot and a table can show; Google has none shorter than a minute.
POINTS = 120
STEP = timedelta(minutes=1)
LAG = timedelta(minutes=4)

Series = list[float | None]


class ServiceMetrics(NamedTuple):
    """Series of a service or of one of its revisions, a value for each period; None: nothing was
    measured in it."""

    step_s: int
    """How long a period is."""
    times: list[datetime]
    """When each period ended, in order."""
    requests: Series
    """Requests a second; 0 without any."""
    errors: Series
    """Which share of them was answered with 5xx."""
    p50_ms: Series
    p95_ms: Series
    p99_ms: Series
    cpu: Series
    """Which share of an instance's processors was used, 95th percentile of the instances."""
    memory: Series
    """The same of its memory."""
    instances: Series
    """Most instances at once, those that were idle too."""
    request_count: int
    """In the whole time."""
    error_count: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.request_count and not any(self.instances)

    @property
    def summary(self) -> str:
        """One sentence."""
        hours = self.step_s * len(self.times) / 3600
        within = f"in the last {hours:.0f} h" if hours >= 1 else f"in {60 * hours:.0f} min"
        if self.is_empty:
            return (
                f"Nothing was measured {within}: no request came, or it is newer than the "
                f"{LAG.seconds // 60} minutes that Google takes."
            )
        if not self.request_count:
            return f"No request came {within}."
        share = self.error_count / self.request_count
        return (
            f"{self.request_count:,} requests {within}, {self.error_count:,} of them "
            f"({100 * share:.2f} %) answered with an error of the service."
        )


def service_metrics(
    name: ServiceName, *, since: datetime, until: datetime, revision: str = ""
) -> ServiceMetrics:
    """Metrics from `since` to `until`, in periods of whole minutes, at most 120.

    Args:
        revision: of this one alone.
    """
    grid = _Grid.of(since, until)
    ask = _Asker(name, revision, grid)
    counts = ask.by_label(REQUESTS, "ALIGN_DELTA", "REDUCE_SUM", CODES)
    totals = [sum(found) for found in zip(*counts.values(), strict=True)] or grid.filled(0.0)
    errors = counts.get("5xx") or grid.filled(0.0)
    latencies = {
        percent: ask.one(LATENCIES, "ALIGN_DELTA", f"REDUCE_PERCENTILE_{percent}")
        for percent in (50, 95, 99)
    }
    return ServiceMetrics(
        step_s=grid.step_s,
        times=grid.times,
        requests=[total / grid.step_s for total in totals],
        errors=[e / total if total else None for e, total in zip(errors, totals, strict=True)],
        p50_ms=latencies[50],
        p95_ms=latencies[95],
        p99_ms=latencies[99],
        cpu=ask.one(CPU, "ALIGN_DELTA", "REDUCE_PERCENTILE_95"),
        memory=ask.one(MEMORY, "ALIGN_DELTA", "REDUCE_PERCENTILE_95"),
        instances=[found or 0.0 for found in ask.one(INSTANCES, "ALIGN_MAX", "REDUCE_SUM")],
        request_count=round(sum(totals)),
        error_count=round(sum(errors)),
    )


def billed_seconds(
    name: ServiceName, *, since: datetime, until: datetime, revision: str = ""
) -> float:
    """Instance time that Google charged in that time."""
    grid = _Grid.of(since, until)
    found = _Asker(name, revision, grid).one(BILLED, "ALIGN_DELTA", "REDUCE_SUM")
    return sum(value for value in found if value is not None)


class _Grid(NamedTuple):
    """The periods, which Google counts backwards from the end."""

    times: list[datetime]
    step_s: int

    @classmethod
    def of(cls, since: datetime, until: datetime) -> "_Grid":
        end = until.astimezone(UTC).replace(second=0, microsecond=0)
        minutes = max(1, math.ceil((end - since) / STEP))
        step = STEP * math.ceil(minutes / POINTS)
        count = math.ceil(minutes * STEP / step)
        times = [end - step * back for back in reversed(range(count))]
        return cls(times, int(step.total_seconds()))

    def filled(self, value: float) -> list[float]:
        return [value] * len(self.times)

    def place(self, at: datetime) -> int | None:
        """The period that a point at `at` belongs to."""
        back = round((self.times[-1] - at).total_seconds() / self.step_s)
        return len(self.times) - 1 - back if 0 <= back < len(self.times) else None


class _Asker(NamedTuple):
    name: ServiceName
    revision: str
    grid: _Grid

    def one(self, metric: str, align: str, reduce: str) -> Series:
        """The series of everything together."""
        values: Series = [None] * len(self.grid.times)
        for series in self._series(metric, align, reduce, ""):
            self._fill(values, series)
        return values

    def by_label(self, metric: str, align: str, reduce: str, label: str) -> dict[str, list[float]]:
        """A series for each value of a label; 0 where there is nothing."""
        found: dict[str, list[float]] = {}
        key = label.rsplit(".", 1)[-1]
        for series in self._series(metric, align, reduce, label):
            value = series.get("metric", {}).get("labels", {}).get(key, "")
            self._fill(found.setdefault(value, self.grid.filled(0.0)), series)
        return found

    def _fill(self, values: Any, series: dict[str, Any]) -> None:
        for point in series.get("points", ()):
            at = self.grid.place(datetime.fromisoformat(point["interval"]["endTime"]))
            if at is not None:
                # A whole number comes as a text.
                values[at] = float(next(iter(point["value"].values())))

    def _series(self, metric: str, align: str, reduce: str, by: str) -> Iterator[dict[str, Any]]:
        """Every page of `timeSeries.list`; a series may go on on the next page."""
        place = {
            "resource.type": "cloud_run_revision",
            "resource.labels.service_name": self.name.service,
            "resource.labels.location": self.name.region,
            **({"resource.labels.revision_name": self.revision} if self.revision else {}),
        }
        comparisons = {"metric.type": metric, **place}
        step = timedelta(seconds=self.grid.step_s)
        asked = {
            "filter": " AND ".join(f'{field} = "{value}"' for field, value in comparisons.items()),
            "interval.startTime": _written(self.grid.times[0] - step),
            "interval.endTime": _written(self.grid.times[-1]),
            "aggregation.alignmentPeriod": f"{self.grid.step_s}s",
            "aggregation.perSeriesAligner": align,
            "aggregation.crossSeriesReducer": reduce,
            **({"aggregation.groupByFields": by} if by else {}),
        }
        while True:
            path = f"v3/projects/{self.name.project}/timeSeries?{urlencode(asked)}"
            answer = send(
                Request("GET", "monitoring", path), f"Reading the metrics of {self.name.service}"
            )
            yield from answer.get("timeSeries", ())
            if not answer.get("nextPageToken"):
                return
            asked["pageToken"] = answer["nextPageToken"]


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Series, width: int = 60) -> str:
    """The values as a line of bars, a space where there is none; the highest of those that share
    a bar."""
    per = max(1, math.ceil(len(values) / width))
    groups = [values[at : at + per] for at in range(0, len(values), per)]
    highest = [max((one for one in group if one is not None), default=None) for group in groups]
    top = max((one for one in highest if one is not None), default=0.0) or 1.0
    return "".join(
        " " if one is None else BARS[min(len(BARS) - 1, int(one / top * len(BARS)))]
        for one in highest
    )


def _written(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


Written = Callable[[float], str]
ROWS: tuple[tuple[str, str, Written], ...] = (
    ("requests/s", "requests", "{:,.2f}".format),
    ("errors", "errors", "{:.2%}".format),
    ("p50", "p50_ms", "{:,.0f} ms".format),
    ("p95", "p95_ms", "{:,.0f} ms".format),
    ("p99", "p99_ms", "{:,.0f} ms".format),
    ("processors", "cpu", "{:.0%}".format),
    ("memory", "memory", "{:.0%}".format),
    ("instances", "instances", "{:.0f}".format),
)
"""What people are told: its name, the field, how a value is written."""
