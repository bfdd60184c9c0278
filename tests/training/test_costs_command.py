"""`manage.py costs`: a month as a table, CSV and JSON, and what a run or a service would cost."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from tests.bundles import seed_registry
from tests.training.support import make_run
from training import launchers
from training.cost_report import monthly_totals
from training.models import RunState, TrainingRun

pytestmark = pytest.mark.django_db


class NoPlace:
    """What is asked of a launcher when a run is made."""

    is_attached = False


@pytest.fixture(autouse=True)
def _site(settings, monkeypatch):
    for launcher in ("cloud-run", "vm"):
        monkeypatch.setitem(launchers._LAUNCHERS, launcher, NoPlace())
    settings.GOOGLE_CLOUD_PROJECT = "shop"
    for name in ("DATA_DIR", "RUNS_DIR", "ARTIFACTS_DIR"):
        setattr(settings, name, f"gs://shop/{name}")
    seed_registry()


def costs(*args: str) -> str:
    out = io.StringIO()
    call_command("costs", *args, stdout=out)
    return out.getvalue()


def run_of(version: str, at: datetime, usd: str | None, launcher: str = "cloud-run") -> TrainingRun:
    run = make_run(version, launcher=launcher)
    changes: dict[str, Any] = {
        "state": RunState.FAILED,
        "started_at": at - timedelta(seconds=2800),
        "finished_at": at,
        "cost_usd": None if usd is None else Decimal(usd),
        "place_started_at": at - timedelta(seconds=2700),
        "place_ended_at": at,
    }
    TrainingRun.objects.filter(pk=run.pk).update(**changes)
    return run


@pytest.fixture
def month() -> list[TrainingRun]:
    """October 2026, with runs of a known and of an unknown cost; and one that is active now."""
    day = datetime(2026, 10, 20, 12, tzinfo=UTC)
    runs = [
        run_of("1.0.0", day, "0.5724"),
        run_of("1.1.0", day + timedelta(days=1), None, launcher="vm"),
        run_of("1.2.0", day + timedelta(days=2), "0", launcher="local"),
        run_of("1.3.0", day + timedelta(days=60), "9"),
    ]
    TrainingRun.objects.filter(version="1.1.0").update(estimated_cost_usd=None, place_ended_at=None)
    return runs


def test_a_month_as_a_table(month):
    lines = costs("--month", "2026-10").splitlines()
    assert lines[0] == "Training in October 2026"
    assert lines[1].split() == [
        "Run", "Launcher", "Resources", "State", "Time", "Estimate", "Actual",
    ]  # fmt: skip
    first = f"fraud v1.0.0 ({str(month[0].pk)[:8]})"
    assert [line.split("  ")[0] for line in lines[2:5]][2] == first
    (row,) = [line for line in lines if line.startswith(first)]
    assert "8 vCPU, 8Gi, at most 2 h, 1 retry; job sentinelle-training" in row
    assert row.split()[-4:] == ["45", "min", "$0.0131", "$0.57"]
    (vm,) = [line for line in lines if "v1.1.0" in line]
    assert vm.split()[-2:] == ["unknown", "unknown"]
    assert "Total: $0.57 = €0.49" in lines
    assert "Without 1 of which the cost is not known." in lines
    assert "Free tiers are not subtracted" in lines[-1]


def test_a_month_as_csv_and_json(month):
    (rows, data) = (
        list(csv.DictReader(io.StringIO(costs("--month", "2026-10", "--format", "csv")))),
        json.loads(costs("--month", "2026-10", "--format", "json")),
    )
    assert [row["model_version"] for row in rows] == [
        "fraud v1.2.0",
        "fraud v1.1.0",
        "fraud v1.0.0",
    ]
    assert rows[2] | {"resources": ""} == {
        "run": str(month[0].pk),
        "model_version": "fraud v1.0.0",
        "launcher": "cloud-run",
        "resources": "",
        "state": "failed",
        "ended_utc": "2026-10-20T12:00:00Z",
        "charged_seconds": "2700.0",
        "estimate_usd": "0.0131",
        "actual_usd": "0.5724",
        "actual_eur": "0.4857",
    }
    assert (rows[1]["estimate_usd"], rows[1]["actual_usd"]) == ("", "")
    assert rows[0]["actual_usd"] == "0.0000"
    assert (data["total_usd"], data["unknown_runs"]) == ("0.5724", 1)
    assert [run["run"] for run in data["runs"]] == [row["run"] for row in rows]
    assert data["runs"][1]["actual_usd"] is None


def test_this_month_has_what_is_active():
    make_run("1.0.0", launcher="cloud-run")
    said = costs()
    assert said.splitlines()[2].split()[-2:] == ["$0.0131", "-"]
    assert "Total: $0.0131" in said


def test_an_empty_month_and_what_is_no_month():
    assert costs("--month", "2020-01").startswith("No training run counts in January 2020.")
    with pytest.raises(CommandError, match="“last” is no month such as"):
        costs("--month", "last")


def test_totals_by_month_and_launcher(month):
    totals = monthly_totals(datetime(2026, 12, 1).date(), timezone.now(), 4)
    assert [f"{month:%Y-%m}" for month, _ in totals] == ["2026-09", "2026-10", "2026-11", "2026-12"]
    assert totals[1][1] == {"cloud-run": Decimal("0.5724"), "vm": 0, "local": 0}
    assert totals[3][1] == {"cloud-run": 9}


def test_what_a_run_would_cost_at_each_place(settings):
    settings.GOOGLE_CLOUD_PROJECT = ""
    said = costs("estimate", "--rows", "1000000")
    assert "local: all cores, no limit of memory; this machine\n  1,000,000 rows take" in said
    assert "cloud-run: 8 vCPU, 8Gi" in said
    assert "it costs about $0.02" in said
    assert "vm: e2-micro" in said
    assert "It needs about 1.8 GB of memory and has 774 MB on e2-micro" in said
    assert "Not vm: The launcher “vm” needs GOOGLE_CLOUD_PROJECT." in said


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("GOOGLE_CLOUD_REGION", "europe-west1-b", "a region such as europe-west1, not a zone"),
        ("TRAINING_VM_ZONE", "us-central1", "a zone such as us-central1-a, not a region"),
    ],
)
def test_what_is_no_region_or_zone_is_refused(settings, setting, value, told):
    setattr(settings, setting, value)
    with pytest.raises(CommandError, match=f"is “{value}”; expected {told}") as refused:
        costs("estimate", "--rows", "1000")
    assert refused.value.returncode == 2


def test_a_region_without_a_price_is_told(settings):
    settings.TRAINING_VM_ZONE = "mars-north1-a"
    said = costs("estimate", "--rows", "1000", "--launcher", "vm")
    assert "what it costs is not known" in said
    assert "no price for e2-micro in mars-north1" in said


def test_an_estimate_tells_the_free_tier_and_nothing_is_free_by_rounding():
    said = costs("estimate", "--rows", "1000", "--launcher", "vm")
    assert "it costs under $0.01." in said
    assert "is free all month in us-central1" in said
    assert "The first 240,000 vCPU-s" in costs("estimate", "--rows", "9", "--launcher", "cloud-run")


def test_what_is_given_counts():
    said = costs("estimate", "--launcher", "cloud-run", "--rows", "9", "--cpu", "4",
                 "--memory", "4Gi")  # fmt: skip
    assert said.startswith("cloud-run: 4 vCPU, 4Gi")
    assert "e2-standard-4" in costs("estimate", "--rows", "9", "--machine-type", "e2-standard-4")
    with pytest.raises(CommandError, match="vm: There is no cpu here"):
        costs("estimate", "--launcher", "vm", "--rows", "9", "--cpu", "4")
    with pytest.raises(CommandError, match="Give --rows"):
        costs("estimate")


def test_what_a_service_would_cost():
    said = costs("service", "--requests", "1000000", "--seconds", "0.2", "--cpu", "2",
                 "--memory", "2Gi")  # fmt: skip
    assert [line.strip().split("  ") for line in said.splitlines()] == [
        ["$9.60", "2 vCPU × 200,000 s"],
        ["$1.00", "2 GiB × 200,000 s"],
        ["$0.00", "1,000,000 requests, the first 2,000,000 of a month free"],
        ["$10.60", "in all, €9.00"],
    ]
    with pytest.raises(CommandError, match="Give --requests, --memory as well"):
        costs("service", "--cpu", "2", "--seconds", "1")


def test_what_sentinelle_itself_costs_is_told_with_its_region() -> None:
    text = costs("control-plane")
    assert "worker pool, 1 instance, 1 vCPU, 2 GiB                         $36.04 a month" in text
    assert "These are prices of us-central1" in text
