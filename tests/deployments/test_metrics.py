"""Metrics of a service, from a local Cloud Monitoring."""

from datetime import UTC, datetime, timedelta

import pytest

from deployments.gcp import metrics
from deployments.gcp.errors import CloudError
from deployments.gcp.metrics import service_metrics, sparkline
from deployments.gcp.services import ServiceName
from tests.google.monitoring import MonitoringApi, Usage
from tests.google.runs import PROJECT, REGION
from tests.google.serving import Served

NAME = ServiceName(PROJECT, REGION, "ml-engine")
OLD, NEW = "ml-engine-v1-0-0-a1", "ml-engine-v1-1-0-b2"
END = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def monitoring(google_run):
    api = MonitoringApi(PROJECT, REGION)
    google_run.google.add(api)
    return api


def serve(monitoring, minutes_ago, count, *, revision=OLD, status=200, ms=10.0):
    at = END - timedelta(minutes=minutes_ago, seconds=-1)
    one = Served(at, "ml-engine", revision, status, ms / 1000)
    monitoring.served += [one] * count


def look(minutes=10, **changes):
    return service_metrics(NAME, since=END - timedelta(minutes=minutes), until=END, **changes)


def test_a_service_is_measured_minute_by_minute(monitoring):
    for ms in range(1, 101):
        serve(monitoring, 3, 1, ms=ms)
    serve(monitoring, 1, 54)
    serve(monitoring, 1, 6, status=503, revision=NEW)
    used = END - timedelta(seconds=50)
    monitoring.used += [
        Usage(used, "ml-engine", OLD, 0.25, 0.5, 2), Usage(used, "ml-engine", NEW, 0.75, 0.6, 1),
    ]  # fmt: skip
    found = look()
    assert (found.step_s, len(found.times), found.times[-1]) == (60, 10, END)
    assert found.requests == [0] * 7 + [100 / 60, 0, 1]
    assert found.errors == [None] * 7 + [0, None, 0.1]
    assert found.p50_ms[7:] == [50, None, 10]
    assert (found.p95_ms[7], found.p99_ms[7]) == (95, 99)
    assert (found.cpu[-1], found.memory[-1], found.instances[-2:]) == (0.75, 0.6, [0, 3])
    assert (found.request_count, found.error_count) == (160, 6)
    assert found.summary == (
        "160 requests in 10 min, 6 of them (3.75 %) answered with an error of the service."
    )


def test_one_revision_is_measured_alone(monitoring):
    serve(monitoring, 2, 9)
    serve(monitoring, 2, 1, revision=NEW, ms=70)
    found = look(revision=NEW)
    assert (found.request_count, found.p50_ms[8]) == (1, 70)


def test_a_long_time_has_longer_periods_and_loses_nothing(monitoring):
    for minutes in range(1, 24 * 60, 7):
        serve(monitoring, minutes, 1)
    found = look(24 * 60)
    assert (found.step_s, len(found.times)) == (720, 120)
    assert found.request_count == len(monitoring.served) == 206
    assert "in the last 24 h" in found.summary


def test_every_page_is_read(monitoring, google_run):
    for minutes in range(1, 121):
        serve(monitoring, minutes, 1)
        serve(monitoring, minutes, 1, status=500)
    google_run.google.calls.clear()
    found = look(120)
    assert (found.request_count, found.error_count) == (240, 120)
    assert all(share == 0.5 for share in found.errors)
    assert len(google_run.google.calls) > 5 + 4 + 6


def test_another_service_and_another_region_are_not_counted(monitoring):
    serve(monitoring, 2, 5)
    monitoring.served = [one._replace(service="another") for one in monitoring.served]
    assert look().request_count == 0
    serve(monitoring, 2, 5)
    monitoring.region = "us-central1"
    assert look().is_empty


def test_a_service_nobody_asks_says_so(monitoring):
    found = look(180)
    assert found.is_empty
    assert found.requests == [0] * 90
    assert found.p99_ms == [None] * 90
    assert "Nothing was measured in the last 3 h: no request came, or it is newer than the 4 " in (
        found.summary
    )
    monitoring.used.append(Usage(END, "ml-engine", OLD, 0.1, 0.1, 1))
    assert look().summary == "No request came in 10 min."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"STEP": timedelta(seconds=30), "POINTS": 99}, "must be at least 60 seconds"),
        ({"LATENCIES": "run.googleapis.com/no_such"}, "Cannot find metric"),
        ({"INSTANCES": metrics.CPU}, "ALIGN_MAX can't be applied to container/cpu/utilizations"),
        ({"CODES": "metric.labels.colour"}, "Unknown label in groupByFields"),
    ],
    ids=["period", "metric", "aligner", "label"],
)
def test_the_local_monitoring_refuses_what_google_refuses(monitoring, monkeypatch, change, words):
    for name, value in change.items():
        monkeypatch.setattr(metrics, name, value)
    with pytest.raises(CloudError, match=words):
        look()


def test_who_may_not_read_metrics_is_told_the_role(monitoring, google_run):
    google_run.google.fault(
        "timeSeries", "PERMISSION_DENIED",
        "Permission monitoring.timeSeries.list denied (or the resource may not exist).",
    )  # fmt: skip
    with pytest.raises(CloudError, match=r"--role roles/monitoring\.viewer") as refused:
        look()
    assert refused.value.reason == "permission"
    assert refused.value.detail.startswith("Reading the metrics of ml-engine: ")


def test_a_sparkline_shows_what_there_is():
    assert sparkline([0, 1, None, 4, 8]) == "▁▂ ▅█"
    assert sparkline([0.0] * 3) == "▁▁▁"
    assert len(sparkline([1.0] * 120)) == 60
