"""What the runs of a month cost: for the command, the page of the admin and the file."""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple

from django.db.models import F, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from deployments.costs import prices
from engine.errors import RunRefused
from training.budgets import ZERO, month_of, runs_of
from training.launchers.resources import describe_resources, read_resources
from training.models import ACTIVE, RunState, TrainingRun

LATEST_FIRST = (F("finished_at").desc(nulls_first=True), "-created_at")


class RunCost(NamedTuple):
    """One run of the month."""

    run_id: str
    name: str
    """The model and its version."""
    model: str
    launcher: str
    resources: str
    state: str
    is_active: bool
    ended: datetime | None
    charged: timedelta | None
    """By the clock of its place; of this machine by ours. None when that is not known."""
    estimate: Decimal | None
    actual: Decimal | None

    @property
    def counted(self) -> Decimal | None:
        """What the month has of it: the actual cost, or what is expected while it is not known."""
        return self.estimate if self.actual is None else self.actual


class Total(NamedTuple):
    """Several runs."""

    name: str
    runs: int
    charged: timedelta
    usd: Decimal
    unknown: int
    """Of how many runs neither the cost nor an estimate is known."""


class MonthCosts(NamedTuple):
    """A calendar month."""

    month: date
    runs: list[RunCost]
    total: Total

    @property
    def title(self) -> str:
        return f"{self.month:%B %Y}"

    def by_launcher(self) -> list[Total]:
        return _totals(self.runs, "launcher")

    def by_model(self) -> list[Total]:
        return _totals(self.runs, "model")


def read_month(text: str, now: datetime) -> date:
    """The month that is written 2026-11; this one for nothing.

    Raises RunRefused.
    """
    if not text:
        return month_of(now)
    try:
        return datetime.strptime(text, "%Y-%m").date()
    except ValueError:
        raise RunRefused(f"“{text}” is no month such as {now:%Y-%m}.") from None


def month_costs(month: date, now: datetime) -> MonthCosts:
    """The runs that count in a month: those that have not ended, then those that ended last."""
    found = runs_of(month, now).select_related("model").defer("report", "options")
    runs = [_run_cost(run) for run in found.order_by(*LATEST_FIRST)]
    return MonthCosts(month, runs, _total("All", runs))


def monthly_totals(
    last: date, now: datetime, months: int = 12
) -> list[tuple[date, dict[str, Decimal]]]:
    """Dollars by launcher of so many months, the earliest first."""
    begins = [last]
    while len(begins) < months:
        begins.append((begins[-1] - timedelta(days=1)).replace(day=1))
    counted = Coalesce(Sum(Coalesce("cost_usd", "estimated_cost_usd")), ZERO)
    sums = {
        month: runs_of(month, now).order_by().values_list("launcher").annotate(usd=counted)
        for month in reversed(begins)
    }
    return [(month, dict(by_launcher)) for month, by_launcher in sums.items()]


def costs_csv(costs: MonthCosts) -> str:
    """The month as CSV, one line a run. Unknown amounts are empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["run", "model_version", "launcher", "resources", "state", "ended_utc", "charged_seconds",
         "estimate_usd", "actual_usd", "actual_eur"]
    )  # fmt: skip
    for run in costs.runs:
        writer.writerow(_values(run).values())
    return file.getvalue()


def costs_json(costs: MonthCosts) -> dict[str, Any]:
    """The month for programs. Amounts are texts, so that none is rounded."""
    table = prices()
    return {
        "month": f"{costs.month:%Y-%m}",
        "total_usd": str(costs.total.usd),
        "total_eur": _euros(costs.total.usd),
        "unknown_runs": costs.total.unknown,
        "usd_per_eur": str(table.euro.usd_per_eur),
        "rate_date": str(table.euro.date),
        "prices_date": str(table.date),
        "runs": [_values(run) for run in costs.runs],
    }


def _values(run: RunCost) -> dict[str, Any]:
    return {
        "run": run.run_id,
        "model_version": run.name,
        "launcher": run.launcher,
        "resources": run.resources,
        "state": run.state,
        "ended": run.ended.strftime("%Y-%m-%dT%H:%M:%SZ") if run.ended else None,
        "charged_seconds": None if run.charged is None else round(run.charged.total_seconds(), 1),
        "estimate_usd": None if run.estimate is None else str(run.estimate),
        "actual_usd": None if run.actual is None else str(run.actual),
        "actual_eur": _euros(run.actual),
    }


def _euros(usd: Decimal | None) -> str | None:
    return None if usd is None else str(prices().euros(usd).quantize(Decimal("0.0001")))


def _run_cost(run: TrainingRun) -> RunCost:
    return RunCost(
        run_id=str(run.pk),
        name=f"{run.model.name} v{run.version}",
        model=run.model.name,
        launcher=run.launcher,
        resources=_resources(run),
        state=RunState(run.state).label.lower(),
        is_active=run.state in ACTIVE,
        ended=None if run.finished_at is None else run.finished_at.astimezone(UTC),
        charged=_charged(run),
        estimate=run.estimated_cost_usd,
        actual=run.cost_usd,
    )


def _resources(run: TrainingRun) -> str:
    try:
        return describe_resources(read_resources(run.launcher, run.resources))
    except (KeyError, RunRefused):  # of an older form, or a launcher that is gone
        return ""


def _charged(run: TrainingRun) -> timedelta | None:
    if run.launcher == "local":
        return run.duration
    if run.place_started_at is None:
        return None
    end = run.place_ended_at or run.finished_at or timezone.now()
    return max(end - run.place_started_at, timedelta())


def _totals(runs: Iterable[RunCost], field: str) -> list[Total]:
    def name(run: RunCost) -> str:
        return str(getattr(run, field))

    return [_total(each, list(group)) for each, group in groupby(sorted(runs, key=name), key=name)]


def _total(name: str, runs: list[RunCost]) -> Total:
    known = [run.counted for run in runs if run.counted is not None]
    times = [run.charged for run in runs if run.charged is not None]
    return Total(
        name,
        len(runs),
        sum(times, timedelta()),
        sum(known, Decimal(0)),
        len(runs) - len(known),
    )
