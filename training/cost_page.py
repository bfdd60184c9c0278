"""The page “Costs” of the admin: what it shows of a month."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from django.conf import settings

from deployments.costs import Prices, dollars, euros, prices
from training.budgets import month_of
from training.cost_report import RunCost, Total, month_costs, monthly_totals
from training.launchers.resources import about_time
from training.metrics import Cell, Table

SHOWN_TYPES = (
    "e2-micro", "e2-small", "e2-medium", "e2-standard-2", "e2-standard-4", "e2-standard-8",
)  # fmt: skip
# The classes of plots.js's series.
SERIES = {"local": "series-rules", "cloud-run": "series-risk", "vm": "series-supervised"}


class Budget(NamedTuple):
    """A limit and what is spent of it."""

    name: str
    limit: str
    share: float
    """Of the limit, in percent, at most 100."""
    words: str
    kind: str
    """A class of a badge."""


def costs_context(month: date, now: datetime) -> dict[str, Any]:
    """What `costs.html` shows of a month."""
    costs, table = month_costs(month, now), prices()
    this_month = month_of(now)
    return {
        "costs": costs,
        "total": dollars(costs.total.usd),
        "total_euros": euros(costs.total.usd),
        "active": sum(run.is_active for run in costs.runs),
        "charged": _time(costs.total.charged),
        "month_value": f"{month:%Y-%m}",
        "before": f"{month - timedelta(days=1):%Y-%m}",
        "after": f"{month + timedelta(days=31):%Y-%m}" if month < this_month else "",
        "budgets": _budgets(costs.total.usd) if month == this_month else [],
        "tables": [
            _totals("By launcher", "Launcher", costs.by_launcher()),
            _totals("By model", "Model", costs.by_model()),
        ],
        "rows": [(run, _row(run)) for run in costs.runs],
        "prices": table,
        "price_tables": _price_tables(table),
        "embedded": _plot(month, now),
    }


def _budgets(spent: Decimal) -> list[Budget]:
    limits = (
        ("Warns above", settings.BUDGET_WARN_USD, "warn"),
        ("Refuses above", settings.BUDGET_REFUSE_USD, "bad"),
    )
    return [_budget(name, limit, spent, kind) for name, limit, kind in limits if limit is not None]


def _budget(name: str, limit: Decimal, spent: Decimal, kind: str) -> Budget:
    share = float(spent / limit * 100) if limit else 100.0
    left = limit - spent
    words = f"{dollars(left)} left" if left >= 0 else f"{dollars(-left)} above"
    return Budget(name, dollars(limit), min(share, 100.0), words, "good" if left >= 0 else kind)


def _totals(title: str, first: str, totals: list[Total]) -> Table:
    rows = [
        _cells(
            total.name,
            f"{total.runs:,}",
            _time(total.charged),
            dollars(total.usd),
            euros(total.usd),
            f"{total.unknown:,}" if total.unknown else "-",
        )
        for total in totals
    ]
    return Table(title, (first, "Runs", "Time", "Dollars", "Euros", "Unknown cost"), rows)


def _cells(*texts: str) -> tuple[Cell, ...]:
    return tuple(map(Cell, texts))


def _row(run: RunCost) -> tuple[str, ...]:
    charged = "unknown" if run.charged is None else _time(run.charged)
    figures = (charged, dollars(run.estimate), dollars(run.actual))
    if run.is_active:
        figures = ("not yet", dollars(run.estimate), "not yet")
    return run.launcher, run.resources, run.state, *figures


def _time(charged: timedelta) -> str:
    return about_time(charged.total_seconds()) if charged else "-"


def _price_tables(table: Prices) -> list[tuple[Table, str]]:
    """What is charged, as tables with the page that each comes from."""
    run, vm, storage = table.cloud_run, table.vm, table.storage
    job_rows = [
        _cells(", ".join(tier.regions), _plain(tier.vcpu_second), _plain(tier.gib_second))
        for tier in run.tiers
    ]
    machine_rows = [
        _cells(
            ", ".join(region.names),
            *(_hour(table, kind, region.names[0]) for kind in SHOWN_TYPES),
        )
        for region in vm.regions
    ]
    others = [
        _cells("Disk, a GB and month", _plain(vm.disk_gb_month)),
        _cells("External address, an hour", _plain(vm.address_hour)),
        _cells("Bucket, a GB and month", _plain(storage.gb_month)),
        _cells("Bucket, a thousand writes", _plain(storage.thousand_writes)),
        _cells("Bucket, a thousand reads", _plain(storage.thousand_reads)),
        _cells("A million requests to a service", _plain(run.million_requests)),
    ]
    return [
        (Table("Cloud Run", ("Regions", "vCPU-second", "GiB-second"), job_rows), run.source),
        (Table("Machine types, per hour", ("Regions", *SHOWN_TYPES), machine_rows), vm.source),
        (Table("Address, disk, bucket", ("What", "Dollars"), others), storage.source),
    ]


def _hour(table: Prices, kind: str, region: str) -> str:
    hour = table.vm.hour(kind, region)
    return "unknown" if hour is None else f"${hour:.4f}"


def _plain(price: Decimal) -> str:
    return f"${price.normalize():f}"


def _plot(month: date, now: datetime) -> dict[str, Any]:
    """Twelve months for plots.js: dollars of each launcher that has cost something."""
    totals = monthly_totals(month, now)
    used = sorted({launcher for _, usd in totals for launcher in usd if usd[launcher]})
    return {
        "months": [f"{each:%b %Y}" for each, _ in totals],
        "series": [
            {
                "name": launcher,
                "className": SERIES.get(launcher, "series-unsupervised"),
                "usd": [float(usd.get(launcher, 0)) for _, usd in totals],
            }
            for launcher in used
        ],
    }
