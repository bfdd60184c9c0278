"""What training has cost in this calendar month, and the two budgets for it.

One budget warns and one refuses. A run that has ended counts in the month in which it ended, with
what it cost or, while that is not known, with what it was expected to cost; one that is queued or
runs counts with what is expected.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, NoReturn

from django.conf import settings
from django.db import connection
from django.db.models import Count, DecimalField, Q, QuerySet, Sum, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from deployments.costs import about_dollars, dollars
from engine.errors import FieldError, RunRefused
from training.models import ACTIVE, TrainingRun

# Runs are created one after another while a budget may refuse them.
_LOCK = 1_129_270_100
ZERO = Value(Decimal(0), output_field=DecimalField())


class Spent(NamedTuple):
    """What the runs of a month cost."""

    actual: Decimal
    """Of those that have ended."""
    expected: Decimal
    """Of those that have not."""
    unknown: int
    """How many runs have neither a cost nor an estimate: they are in neither sum."""

    @property
    def total(self) -> Decimal:
        return self.actual + self.expected


def month_of(moment: datetime) -> date:
    """The first day of its calendar month, where this installation is (TIME_ZONE)."""
    return timezone.localtime(moment).date().replace(day=1)


def bounds(month: date) -> tuple[datetime, datetime]:
    """When a month begins and when the next one does."""
    following = (month + timedelta(days=31)).replace(day=1)
    begin, end = (
        timezone.make_aware(datetime(day.year, day.month, 1)) for day in (month, following)
    )
    return begin, end


def runs_of(month: date, now: datetime) -> QuerySet[TrainingRun]:
    """The runs that count in a month: those that ended in it; in this one also the active ones."""
    begin, end = bounds(month)
    counted = Q(finished_at__gte=begin, finished_at__lt=end)
    if month == month_of(now):
        counted |= Q(state__in=ACTIVE)
    return TrainingRun.objects.filter(counted)


def spent(month: date, now: datetime) -> Spent:
    """What counts in a month."""
    known = Coalesce("cost_usd", "estimated_cost_usd")
    ended = ~Q(state__in=ACTIVE)
    sums = runs_of(month, now).aggregate(
        actual=Coalesce(Sum(known, filter=ended), ZERO),
        expected=Coalesce(Sum("estimated_cost_usd", filter=~ended), ZERO),
        unknown=Count("pk", filter=Q(cost_usd=None, estimated_cost_usd=None)),
    )
    return Spent(sums["actual"], sums["expected"], sums["unknown"])


def budget_check(cost: Decimal | None, now: datetime, *, unpriced: str = "") -> str:
    """What a run that would cost so much does to this month's budgets: a warning, or nothing.

    A run that costs nothing is never refused; one whose cost is not known always is where a budget
    refuses, with `unpriced`, the reason why. Called in the transaction that creates the run, so
    that two runs at the same time can't both take what is left.

    Raises RunRefused, with the figures.
    """
    if cost == 0:
        return ""
    if settings.BUDGET_REFUSE_USD is not None:
        if cost is None:
            _refuse_unpriced(unpriced, settings.BUDGET_REFUSE_USD)
        _one_at_a_time()
    so_far = spent(month_of(now), now)
    total = so_far.total + (cost or 0)
    told = _told(so_far, cost, now)
    refuse, warn = settings.BUDGET_REFUSE_USD, settings.BUDGET_WARN_USD
    if refuse is not None and total > refuse:
        message = (
            f"{told}, above the budget of {dollars(refuse)} (BUDGET_REFUSE_USD). Wait for the next "
            "month, raise the budget, or train where it costs less."
        )
        raise RunRefused(message, [FieldError("launcher", message)])
    if warn is not None and total > warn:
        return f"{told}, above {dollars(warn)} (BUDGET_WARN_USD)."
    return ""


def _refuse_unpriced(reason: str, budget: Decimal) -> NoReturn:
    message = (
        f"{reason} What has no price can't be held to the budget of {dollars(budget)} "
        "(BUDGET_REFUSE_USD): train where it has one, or put it into PRICES_FILE (docs/costs.md)."
    )
    raise RunRefused(message, [FieldError("launcher", message)])


def _told(so_far: Spent, cost: Decimal | None, now: datetime) -> str:
    """The sum in words, as far as the comma before the budget."""
    parts = [f"{dollars(so_far.actual)} for runs that have ended"]
    if so_far.expected:
        parts.append(f"{dollars(so_far.expected)} expected of those that have not")
    this = "an unknown amount" if cost is None else about_dollars(cost)
    total = so_far.total + (cost or 0)
    runs = "1 run" if so_far.unknown == 1 else f"{so_far.unknown} runs"
    also = f" (and {runs} of unknown cost)" if so_far.unknown else ""
    return (
        f"Training in {month_of(now):%B %Y} has cost {' and '.join(parts)}{also}; with {this} for "
        f"this run it comes to {dollars(total)}"
    )


def _one_at_a_time() -> None:
    """Wait for whoever else creates a run. SQLite has one writer at a time anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
