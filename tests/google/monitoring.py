"""Cloud Monitoring of the local Google: what Cloud Run measures of its services.

`timeSeries.list`, asked and answered with Google's own messages. What Google refuses is refused: a
filter of more or less than one metric, a period below a minute, an aligner or a reducer that does
not go with the metric. Percentiles are exact, which Google's are not.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from google.api.metric_pb2 import MetricDescriptor
from google.cloud import monitoring_v3 as monitoring
from google.protobuf.json_format import MessageToDict

from tests.google.server import Call, Refusal
from tests.google.serving import Served

COMPARISON = re.compile(r'([\w.]+) = "((?:[^"\\]|\\.)*)"')
DELTA, GAUGE = "DELTA", "GAUGE"
NUMBER, FRACTION, DISTRIBUTION = "INT64", "DOUBLE", "DISTRIBUTION"
METRICS = {
    "request_count": (DELTA, NUMBER, {"response_code", "response_code_class"}),
    "request_latencies": (DELTA, DISTRIBUTION, {"response_code", "response_code_class"}),
    "container/cpu/utilizations": (DELTA, DISTRIBUTION, set()),
    "container/memory/utilizations": (DELTA, DISTRIBUTION, set()),
    "container/instance_count": (GAUGE, NUMBER, {"state"}),
    "container/billable_instance_time": (DELTA, FRACTION, set()),
}
# What each aligner is for (metric kinds, value types), and what comes of it.
ALIGNERS: dict[str, tuple[set[str], set[str], Callable[[list[float]], Any]]] = {
    "ALIGN_DELTA": ({DELTA}, {NUMBER, FRACTION, DISTRIBUTION}, lambda values: values),
    "ALIGN_MAX": ({DELTA, GAUGE}, {NUMBER}, lambda values: [max(values)]),
}
REDUCERS: dict[str, Callable[[list[float]], float]] = {
    "REDUCE_SUM": sum,
    **{f"REDUCE_PERCENTILE_{p:02}": (lambda values, p=p: _percentile(values, p))
       for p in (5, 50, 95, 99)},
}  # fmt: skip
PAGE = 50
"""Points of a page, few, so that a caller who reads the first alone is found out."""


class Usage(NamedTuple):
    """What an instance used at a moment."""

    at: datetime
    service: str
    revision: str
    cpu: float
    memory: float
    instances: int


class Billed(NamedTuple):
    """What instances were charged for at a moment."""

    at: datetime
    service: str
    revision: str
    seconds: float


class MonitoringApi:
    """What was `served` as tests.google.serving notes it, `used` and `billed`."""

    def __init__(self, project: str, region: str, served: list[Served] | None = None) -> None:
        self.project, self.region = project, region
        self.served: list[Served] = [] if served is None else served
        self.used: list[Usage] = []
        self.billed: list[Billed] = []
        self.routes = [("GET", r"/v3/(projects/[^/]+)/timeSeries", self._list)]

    def _list(self, call: Call) -> Any:
        request = _request(call)
        metric, wanted = _filter(request.filter)
        begin, end, step = _interval(request)
        kind, value_type, labels = METRICS[metric]
        align, reduce = _aggregation(request, metric, kind, value_type, labels)
        by = [field.rsplit(".", 1)[-1] for field in request.aggregation.group_by_fields]
        # Each series is aligned by itself, then those of a group are reduced to one.
        groups: dict[tuple[str, ...], dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for identity, at, value in self._points(metric, request.name.split("/")[1]):
            if begin < at <= end and all(identity.get(name) == wanted[name] for name in wanted):
                back = int((end - at) / step)
                groups[tuple(identity[name] for name in by)][back].append((identity, value))
        series = [
            self._series(metric, dict(zip(by, key, strict=True)), [
                (end - step * back, reduce(_aligned(found, align)))
                for back, found in sorted(periods.items())
            ], step)
            for key, periods in sorted(groups.items())
        ]  # fmt: skip
        return _page(series, call)

    def _points(self, metric: str, project: str) -> Iterator[tuple[dict[str, str], datetime, Any]]:
        if project != self.project:
            return
        place = {"type": "cloud_run_revision", "location": self.region, "project_id": project}
        if metric.startswith("request_"):
            for one in self.served:
                names = {"service_name": one.service, "revision_name": one.revision}
                codes = {
                    "response_code": str(one.status),
                    "response_code_class": f"{one.status // 100}xx",
                }
                value = 1 if metric == "request_count" else 1000 * one.seconds
                yield place | names | codes, one.at, value
            return
        if metric == "container/billable_instance_time":
            for bill in self.billed:
                names = {"service_name": bill.service, "revision_name": bill.revision}
                yield place | names, bill.at, bill.seconds
            return
        for used in self.used:
            names = {"service_name": used.service, "revision_name": used.revision}
            value = {"cpu": used.cpu, "memory": used.memory}.get(metric.split("/")[1])
            if value is None:
                names, value = names | {"state": "active"}, used.instances
            yield place | names, used.at, value

    def _series(
        self, metric: str, labels: dict[str, str], points: list[tuple[datetime, float]],
        step: timedelta,
    ) -> monitoring.TimeSeries:  # fmt: skip
        return monitoring.TimeSeries(
            metric={"type": f"run.googleapis.com/{metric}", "labels": labels},
            resource={"type": "cloud_run_revision", "labels": {"project_id": self.project}},
            metric_kind=MetricDescriptor.MetricKind.GAUGE,
            value_type=MetricDescriptor.ValueType.DOUBLE,
            points=[
                {
                    "interval": {"start_time": at - step, "end_time": at},
                    "value": {"int64_value" if isinstance(value, int) else "double_value": value},
                }
                for at, value in points
            ],
        )


def _request(call: Call) -> monitoring.ListTimeSeriesRequest:
    """The message that the address says, field by field."""
    asked: dict[str, Any] = {"name": call.match[1]}
    for field, value in call.query.items():
        *path, last = field.split(".")
        inside = asked
        for name in path:
            inside = inside.setdefault(name, {})
        inside[last] = [value] if last == "groupByFields" else value
    return monitoring.ListTimeSeriesRequest.from_json(json.dumps(asked))


def _filter(text: str) -> tuple[str, dict[str, str]]:
    """The metric of a filter, and the labels it wants."""
    if re.sub(r"\bAND\b", "", COMPARISON.sub("", text)).strip():
        raise Refusal("INVALID_ARGUMENT", f"Field filter had an invalid value: {text}")
    found = COMPARISON.findall(text)
    metrics = [value for field, value in found if field == "metric.type"]
    if len(metrics) != 1:
        raise Refusal("INVALID_ARGUMENT", "The filter must specify exactly one metric type.")
    metric = metrics[0].removeprefix("run.googleapis.com/")
    if metric not in METRICS or metric == metrics[0]:
        raise Refusal("NOT_FOUND", f"Cannot find metric(s) that match type = “{metrics[0]}”.")
    fields = [field for field, _ in found if field != "metric.type"]
    for field in fields:
        if not re.fullmatch(r"resource\.type|(resource|metric)\.labels?\.\w+", field):
            raise Refusal("INVALID_ARGUMENT", f"Field filter had an invalid value: {field}")
    return metric, {
        field.rsplit(".", 1)[-1]: value for field, value in found if field != "metric.type"
    }


def _interval(request: monitoring.ListTimeSeriesRequest) -> tuple[datetime, datetime, timedelta]:
    interval, step = request.interval, request.aggregation.alignment_period
    if not interval.end_time or not interval.start_time:
        raise Refusal("INVALID_ARGUMENT", "Field interval.end_time: required")
    if interval.start_time > interval.end_time:
        raise Refusal("INVALID_ARGUMENT", "The start time must be before the end time.")
    if step < timedelta(minutes=1):
        raise Refusal(
            "INVALID_ARGUMENT",
            "Field aggregation.alignmentPeriod had an invalid value: must be at least 60 seconds.",
        )
    return interval.start_time, interval.end_time, step


def _aggregation(
    request: monitoring.ListTimeSeriesRequest, metric: str, kind: str, value_type: str,
    labels: set[str],
) -> tuple[Callable[[list[float]], Any], Callable[[list[float]], float]]:  # fmt: skip
    aligner = request.aggregation.per_series_aligner.name
    reducer = request.aggregation.cross_series_reducer.name
    kinds, types, align = ALIGNERS.get(aligner, (set(), set(), list))
    if kind not in kinds or value_type not in types:
        raise Refusal(
            "INVALID_ARGUMENT",
            f"The aligner {aligner} can't be applied to {metric} with kind {kind} and value type "
            f"{value_type}.",
        )
    if reducer not in REDUCERS or (reducer == "REDUCE_SUM" and value_type == DISTRIBUTION):
        raise Refusal("UNIMPLEMENTED", f"the reducer {reducer} on {value_type}")
    for field in request.aggregation.group_by_fields:
        if field not in {f"metric.labels.{label}" for label in labels}:
            raise Refusal("INVALID_ARGUMENT", f"Unknown label in groupByFields: {field}")
    return align, REDUCERS[reducer]


def _aligned(
    found: list[tuple[dict[str, str], float]], align: Callable[[list[float]], Any]
) -> list[float]:
    """The values of a period, after those of each series were brought together."""
    each: dict[str, list[float]] = defaultdict(list)
    for identity, value in found:
        each[json.dumps(identity, sort_keys=True)].append(value)
    return [value for values in each.values() for value in align(values)]


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return float(ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)])


def _page(series: list[monitoring.TimeSeries], call: Call) -> Any:
    """So many points, in series that may go on on the next page."""
    flat = [(one, point) for one in series for point in one.points]
    begin = int(call.query.get("pageToken", "0"))
    page: dict[int, monitoring.TimeSeries] = {}
    for one, point in flat[begin : begin + PAGE]:
        if id(one) not in page:
            page[id(one)] = monitoring.TimeSeries(one, points=[])
        page[id(one)].points.append(point)
    response = monitoring.ListTimeSeriesResponse(time_series=list(page.values()))
    if begin + PAGE < len(flat):
        response.next_page_token = str(begin + PAGE)
    return MessageToDict(type(response).pb(response))
