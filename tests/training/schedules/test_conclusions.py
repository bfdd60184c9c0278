"""What is done with the version of a run that ended, once, whoever dies meanwhile."""

from datetime import UTC, datetime
from typing import Any

import pytest

from deployments import selectors, services
from deployments.models import Action, PromotionEvent, RuleSet
from tests import bundles
from tests.deployments.test_gates import compared
from tests.training.schedules.support import make_schedule, run_due
from tests.training.support import make_run
from training import after, conclusions
from training.models import RunState, ScheduleEvent, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)
NIGHT = datetime(2026, 3, 3, 3, tzinfo=UTC)
BETTER = "Better than the champion v1.0.0. On the same 20,000 transactions"
CLOSE = compared(0.01, (-0.02, 0.04))


@pytest.fixture
def champion(fraud):
    bundles.register("1.0.0")
    bundles.promote("1.0.0")
    return fraud


def trained(then: str, metrics: dict[str, Any], **version: Any) -> TrainingRun:
    """A run of a schedule that ended with a version, and what follows."""
    run = run_due(make_schedule(then=then), NIGHT)
    succeed(run, metrics, **version)
    return run


def succeed(run: TrainingRun, metrics: dict[str, Any], **version: Any) -> None:
    made = bundles.register(run.version, metrics=metrics, training_run_id=run.pk, **version)
    TrainingRun.objects.filter(pk=run.pk).update(state=RunState.SUCCEEDED, model_version=made)
    assert after.run_ended(str(run.pk), worker="one", now=NIGHT)


def serving() -> str:
    return selectors.live_pointer("fraud").version.version


def proposed() -> PromotionEvent | None:
    return selectors.standing_proposal(selectors.model_by_name("fraud"))


def told(run: TrainingRun) -> str:
    return ScheduleEvent.objects.get(run=run, kind__in=("ended", "failed")).message


def test_keep_keeps(champion):
    run = trained("keep", compared())
    assert serving() == "1.0.0"
    assert proposed() is None
    assert told(run) == "v1.1.0: Kept."


def test_propose_moves_the_challenger_with_the_words_of_the_gate(champion):
    run = trained("propose", compared())
    assert serving() == "1.0.0"
    event = proposed()
    assert event.to_version.version == "1.1.0"
    assert event.reason.startswith(BETTER)
    assert event.actor == "schedule nightly"
    assert told(run).startswith(f"v1.1.0: Proposed. {BETTER}")
    assert run.events.filter(message__startswith="Proposed. Better").count() == 1


def test_promote_promotes_what_is_better(champion):
    run = trained("promote", compared())
    assert serving() == "1.1.0"
    event = PromotionEvent.objects.first()
    assert (event.action, event.alias) == (Action.PROMOTE, "champion")
    assert event.reason.startswith(BETTER)
    assert proposed() is None
    assert told(run).startswith("v1.1.0: Promoted. Better")


def test_promote_promotes_the_first(fraud):
    trained("promote", bundles.METRICS)
    assert serving() == "1.0.0"


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (CLOSE, "Too close to the champion v1.0.0 to call."),
        (compared(-0.05, (-0.08, -0.02)), "Worse than the champion v1.0.0."),
        (bundles.METRICS, "Not comparable with the champion."),
    ],
    ids=["close", "worse", "not-comparable"],
)
def test_promote_proposes_what_is_not_better(champion, metrics, words):
    trained("promote", metrics)
    assert serving() == "1.0.0"
    assert proposed().reason.startswith(words)


@pytest.mark.parametrize("then", ["propose", "promote"])
def test_the_champions_model_again_is_kept_and_told(champion, then):
    run = trained(then, compared(0.0, (0.0, 0.0), same_scores=True))
    assert serving() == "1.0.0"
    assert proposed() is None
    words = f"v1.1.0: Kept, not {then}d. It is the same model as v1.0.0."
    assert told(run).startswith(words)


def test_promote_proposes_what_was_tuned_with_other_rules_than_serve(champion):
    none = RuleSet.objects.get(name="none")
    run = run_due(make_schedule(then="promote", rule_set=none), NIGHT)
    succeed(run, compared(), rules="none")
    assert serving() == "1.0.0"
    assert "rule set “none”, and “default” serves" in proposed().reason


def test_a_sample_is_kept_with_a_message(champion):
    run = trained("propose", compared(), deployable=False)
    assert proposed() is None
    assert told(run) == "v1.1.0: Kept, not proposed: it was trained on a sample."


def test_a_failure_is_told_on_the_schedule(champion):
    schedule = make_schedule(then="propose")
    run = run_due(schedule, NIGHT)
    reason = "The test part has 0 frauds of the 5 needed."
    TrainingRun.objects.filter(pk=run.pk).update(state=RunState.FAILED, error=reason)
    assert after.run_ended(str(run.pk), worker="one", now=NIGHT)
    schedule.refresh_from_db()
    assert schedule.message == told(run) == f"v1.1.0 failed. {reason}"
    assert proposed() is None


@pytest.mark.parametrize("then", ["keep", "propose", "promote"])
def test_it_is_done_once(champion, then):
    run = trained(then, compared())
    before = PromotionEvent.objects.count(), ScheduleEvent.objects.count(), run.events.count()
    for _ in range(2):
        TrainingRun.objects.filter(pk=run.pk).update(settled_at=None)
        assert after.run_ended(str(run.pk), worker="two", now=NIGHT)
    # Not after a person has gone back either.
    if then == "promote":
        services.rollback(model=champion, actor="ana", reason="worse", seen_champion="1.1.0")
        TrainingRun.objects.filter(pk=run.pk).update(settled_at=None)
        after.run_ended(str(run.pk), worker="three", now=NIGHT)
        assert serving() == "1.0.0"
        before = (before[0] + 1, *before[1:])
    now = PromotionEvent.objects.count(), ScheduleEvent.objects.count(), run.events.count()
    assert now == before


def test_a_worker_that_dies_after_the_promotion_is_recovered(champion, monkeypatch):
    run = run_due(make_schedule(then="promote"), NIGHT)
    tell = conclusions._tell_schedule

    def die(*_args):
        raise SystemExit

    monkeypatch.setattr(conclusions, "_tell_schedule", die)
    with pytest.raises(SystemExit):
        succeed(run, compared())
    assert serving() == "1.1.0"
    monkeypatch.setattr(conclusions, "_tell_schedule", tell)
    later = NIGHT.replace(hour=4)
    assert after.run_ended(str(run.pk), worker="two", now=later)
    assert PromotionEvent.objects.filter(to_version__version="1.1.0").count() == 1
    assert told(run).startswith("v1.1.0: Promoted.")


def test_a_champion_that_moves_meanwhile_is_compared_with_anew(champion, monkeypatch):
    bundles.register("1.0.5")
    promote = conclusions.promote

    def move_first(**asked):
        monkeypatch.setattr(conclusions, "promote", promote)
        bundles.promote("1.0.5")
        return promote(**asked)

    monkeypatch.setattr(conclusions, "promote", move_first)
    trained("promote", compared())
    assert serving() == "1.0.5"
    assert "The champion was v1.0.0 when it was trained" in proposed().reason


def test_a_bundle_that_is_damaged_is_kept_with_the_reason(champion, settings):
    from pathlib import Path

    run = run_due(make_schedule(then="promote"), NIGHT)
    made = bundles.register(run.version, metrics=compared(), training_run_id=run.pk)
    TrainingRun.objects.filter(pk=run.pk).update(state=RunState.SUCCEEDED, model_version=made)
    damaged = Path(settings.ARTIFACTS_DIR) / "fraud/v1.1.0/supervised.treelite"
    damaged.write_bytes(b"other")
    assert after.run_ended(str(run.pk), worker="one", now=NIGHT)
    assert serving() == "1.0.0"
    assert "Kept, not promoted" in told(run)
    assert "supervised.treelite" in told(run)


def test_a_run_by_hand_may_be_proposed_too(champion):
    run = make_run("2.0.0", then="propose", requested_by="ana")
    succeed(run, compared())
    assert proposed().actor == "ana"
    assert run.events.filter(message__startswith="Proposed.").exists()
