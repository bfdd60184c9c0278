"""The timelines of confirmed frauds are what the attempts and their last labels say, always."""

import json
import random
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.transaction import decode_score_requests
from scoring import services
from scoring.labels import LabelReport, labels_record
from scoring.live_model import live_model
from scoring.models import Attempt, ConfirmedFraud, Label
from tests.scoring.requests import request
from tests.scoring.server import in_parallel

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
KNOWN = datetime(2026, 3, 1, tzinfo=UTC)

_tries = count()


@pytest.fixture
def scoring(champion: Any) -> None:
    live_model.serving()


def transfer(name: str, source: str, destination: str, minutes: int = 0) -> dict[str, Any]:
    return request(
        transaction_id=name, source_wallet_id=source, destination_wallet_id=destination,
        created_at=(START + timedelta(minutes=minutes)).isoformat(),
    )  # fmt: skip


def score(*transfers: dict[str, Any]) -> None:
    """Score one, or several as a batch."""
    if len(transfers) == 1:
        services.score(json.dumps(transfers[0]).encode(), NOW)
        return
    items = decode_score_requests(json.dumps({"transactions": transfers}).encode())
    results = services.score_batch(items, NOW)
    assert all(isinstance(result, services.Scored) for result in results)


def label(*verdicts: tuple[str, str], known: int = 0) -> None:
    """Labels of transactions, which became known `known` minutes after KNOWN."""
    at = KNOWN + timedelta(minutes=known)
    reports = [
        LabelReport(transaction_id=name, label=verdict, known_at=at) for name, verdict in verdicts
    ]
    labels_record(reports, stated_by="test", now=NOW)


def assert_timelines_are_right() -> int:
    """What is kept is what is worked out anew; returns how many frauds there are."""
    verdicts = dict(Label.objects.order_by("id").values_list("transaction_id", "verdict"))
    expected, totals = set(), {}
    for attempt in Attempt.objects.order_by("id"):
        if verdicts.get(attempt.transaction_id) != "fraud":
            continue
        for side in ("source", "destination"):
            wallet = getattr(attempt, f"{side}_wallet_id")
            totals[side, wallet] = total = totals.get((side, wallet), 0) + 1
            time = getattr(attempt, f"{side}_time")
            expected.add((side, wallet, time, attempt.pk, total))
    columns = ("side", "wallet_id", "time", "attempt_id", "total")
    kept = list(ConfirmedFraud.objects.values_list(*columns))
    assert set(kept) == expected
    assert len(kept) == len(expected)
    return len(expected) // 2


TRANSACTIONS, WALLETS = 8, 3
names = st.integers(0, TRANSACTIONS - 1)
wallets = st.integers(0, WALLETS - 1)
verdicts = st.sampled_from(["fraud", "fraud", "legitimate"])
scores = st.tuples(
    st.just("score"),
    st.lists(st.tuples(names, wallets, wallets, st.integers(0, 60)), min_size=1, max_size=3),
)
labels = st.tuples(
    st.just("label"),
    st.lists(st.tuples(names, verdicts), min_size=1, max_size=5),
    st.integers(0, 3),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(scores | labels, min_size=5, max_size=30))
def test_any_order_of_scores_and_labels(scoring: None, steps: list[Any]) -> None:
    number = next(_tries)
    transfers: dict[str, dict[str, Any]] = {}
    for step in steps:
        if step[0] == "score":
            sent = []
            for at, source, destination, minutes in step[1]:
                wallets = f"{number}-{source}", f"{number}-{destination}"
                made = transfer(f"{number}-{at}", *wallets, minutes)
                sent.append(transfers.setdefault(f"{number}-{at}", made))
            score(*sent)
        else:
            _, stated, known = step
            label(*((f"{number}-{at}", verdict) for at, verdict in stated), known=known)
    assert_timelines_are_right()


class TestInParallel:
    """Callers in threads, each with a connection of its own."""

    def run(self, callers: int, work: Any) -> None:
        def call(caller: int) -> None:
            try:
                work(caller)
            finally:
                connection.close()

        in_parallel(callers, call)

    def test_label_sent_while_its_transaction_is_scored_is_never_missed(
        self, scoring: None
    ) -> None:
        rounds = 25

        def work(caller: int) -> None:
            for at in range(rounds):
                if caller % 2:
                    label((f"t{caller // 2}-{at}", "fraud"))
                else:
                    score(transfer(f"t{caller // 2}-{at}", f"w{at % 3}", f"w{at % 5}"))

        self.run(4, work)
        assert assert_timelines_are_right() == 2 * rounds

    def test_labels_decisions_and_outcomes_of_the_same_wallets(self, scoring: None) -> None:
        transfers = {
            f"t{at}": transfer(f"t{at}", *[f"w{at % 3}", f"w{at % 4}"][:: 1 if at % 2 else -1])
            for at in range(60)
        }
        ended = {"status": "FAILED", "occurred_at": START.isoformat()}

        def work(caller: int) -> None:
            pick = random.Random(caller)
            for known in range(6):
                names = pick.sample(list(transfers), 30)
                if caller % 3 == 0:
                    verdicts = ((name, pick.choice(["fraud", "legitimate"])) for name in names)
                    label(*verdicts, known=known)
                elif caller % 3 == 1:
                    score(*(transfers[name] for name in names))
                else:
                    for name in names[:10]:
                        score(transfers[name])
                        report = {"transaction_id": name} | ended
                        services.outcomes_record(json.dumps(report).encode(), NOW)

        self.run(6, work)
        assert assert_timelines_are_right() > 10
