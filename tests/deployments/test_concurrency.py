"""Promotions and rollbacks at once, from several connections."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from threading import Barrier

import pytest
from django.db import connection

from deployments import selectors, services
from deployments.models import Action, PromotionEvent, RegisteredModel
from engine.errors import RegistryMoved, SentinelleError
from tests import bundles

pytestmark = pytest.mark.django_db(transaction=True)
NUMBERS = [f"1.{minor}.0" for minor in range(6)]


@pytest.fixture
def fraud(transactional_db, artifacts_dir) -> RegisteredModel:
    model = bundles.seed_registry()
    for number in NUMBERS:
        bundles.register(number)
    return model


def at_once(calls: list[Callable[[], object]]) -> list[SentinelleError | None]:
    """Make every call in a thread of its own, all starting together; returns what they raised."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], object]) -> SentinelleError | None:
        try:
            barrier.wait(timeout=20)
            call()
        except SentinelleError as error:
            return error
        finally:
            connection.close()
        return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def assert_chain(model: RegisteredModel) -> None:
    """Each event comes from where the one before it went, and the last one is what serves."""
    events = list(PromotionEvent.objects.filter(model=model).order_by("id"))
    assert events[0].from_version is None
    for before, after in pairwise(events):
        assert after.from_version_id == before.to_version_id
    assert selectors.live_pointer(model.name).version == events[-1].to_version


def test_promotions_at_once_follow_one_another(fraud):
    promote = partial(services.promote, model=fraud, actor="ana", reason="race")
    raised = at_once([partial(promote, version=number) for number in NUMBERS])
    assert raised == [None] * len(NUMBERS)
    assert PromotionEvent.objects.count() == len(NUMBERS)
    assert_chain(fraud)


def test_one_version_promoted_twice_at_once_is_promoted_once(fraud):
    promote = partial(services.promote, model=fraud, version="1.0.0", actor="ana", reason="race")
    raised = at_once([promote] * 4)
    assert sorted(str(error) for error in raised) == [
        *["None"],
        *["v1.0.0 is the champion of fraud already."] * 3,
    ]
    assert_chain(fraud)


def test_rollbacks_and_promotions_at_once_keep_the_chain(fraud):
    move = {"model": fraud, "actor": "ana", "reason": "race"}
    for number in NUMBERS[:4]:
        services.promote(version=number, **move)
    raised = at_once(
        [
            *[partial(services.rollback, **move)] * 3,
            *[partial(services.promote, version=number, **move) for number in NUMBERS[4:]],
        ]
    )
    # A rollback whose target moved meanwhile is refused; nothing else may fail.
    assert {type(error) for error in raised if error} <= {RegistryMoved}
    assert_chain(fraud)
    undone = PromotionEvent.objects.filter(action=Action.ROLLBACK).values_list("undoes", flat=True)
    assert len(set(undone)) == len(undone)


def test_a_double_click_on_rollback_goes_back_once(fraud):
    move = {"model": fraud, "actor": "ana", "reason": "race"}
    for number in NUMBERS[:3]:
        services.promote(version=number, **move)
    raised = at_once([partial(services.rollback, seen_champion="1.2.0", **move)] * 3)
    assert sum(error is None for error in raised) == 1
    assert selectors.live_pointer("fraud").version.version == "1.1.0"
