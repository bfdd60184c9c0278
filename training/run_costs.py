"""What a run is expected to cost when it is made, and what it cost when it has ended."""

import logging
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured

from deployments.costs import STORED, actual
from engine.errors import SentinelleError
from training.budgets import budget_check
from training.launchers import launcher_named
from training.launchers.estimate import run_estimate
from training.models import TrainingRun

logger = logging.getLogger(__name__)
CLOCKS_AGREE = timedelta(minutes=2)


class Outlook(NamedTuple):
    """What is known of a run before it begins."""

    words: str
    """Time, memory and cost in one sentence, after why the launcher was chosen."""
    warnings: tuple[str, ...]

    @property
    def message(self) -> str:
        """All of it, for the run's timeline."""
        return " ".join((self.words, *self.warnings))


def run_outlook(run: TrainingRun, now: datetime) -> Outlook:
    """Set what the run is expected to cost, on the object, and say what to expect.

    Called in the transaction that saves it. Raises RunRefused when the budget does not allow it.
    """
    expected = run_estimate(
        run.launcher,
        run.resources,
        run.dataset,
        run.sample,
        run.typed_options,
        model=run.model.name,
    )
    run.estimated_cost_usd = None if expected.usd is None else expected.usd.quantize(STORED)
    warning = budget_check(run.estimated_cost_usd, now, unpriced=expected.price_note)
    warnings = (*expected.warnings, warning) if warning else expected.warnings
    return Outlook(run.launcher_reason or expected.words, warnings)


def run_expectation(run: TrainingRun) -> str:
    """What was said of the run when it was made, without why its launcher was chosen."""
    first = run.events.first()
    told = "" if first is None else first.message
    return told.removeprefix(run.launcher_reason).strip()


def book_cost(run: TrainingRun, _now: datetime) -> None:
    """Keep what a run that has ended cost; null when that can't be known. One that no worker ever
    took cost nothing."""
    begin, end = _charged(run)
    try:
        cost = actual(run.launcher, run.resources, begin, end)
    except ImproperlyConfigured as error:
        logger.warning("The cost of run %s is not known: %s", run.pk, error)
        return
    usd = Decimal(0) if run.started_at is None else cost.stored
    TrainingRun.objects.filter(pk=run.pk).update(
        cost_usd=usd, place_started_at=begin, place_ended_at=run.place_ended_at
    )
    run.cost_usd = usd


def _charged(run: TrainingRun) -> tuple[datetime | None, datetime | None]:
    """From when until when the place charged, as far as it says. A machine that we have just
    stopped does not say its end yet: ours is taken, if the clocks agree."""
    if run.handle and run.launcher != "local" and run.place_ended_at is None:
        _look_again(run)
    begin, end = run.place_started_at, run.place_ended_at
    if begin is None or end is not None or run.started_at is None or run.finished_at is None:
        return begin, end
    agree = run.started_at - CLOCKS_AGREE <= begin <= run.finished_at + CLOCKS_AGREE
    return begin, max(begin, run.finished_at) if agree else None


def _look_again(run: TrainingRun) -> None:
    try:
        seen = launcher_named(run.launcher).poll(run.handle)
    except (SentinelleError, OSError) as error:
        logger.info("Run %s: its place does not say when it ended: %s", run.pk, error)
        return
    run.place_started_at = seen.started_at or run.place_started_at
    run.place_ended_at = seen.ended_at
