"""A snapshot holds what was known at a moment, and nothing else."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoring.models import Attempt, Label, Outcome, ScoreRecord
from tests.scoring.requests import request
from tests.training.snapshots.recorded import caller, rewrite
from training.models import Dataset
from training.snapshots import snapshot_count, snapshot_create

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DELAY = 48 * HOUR
SINCE = BEGIN + 24 * HOUR
NAMES = [f"t{number}" for number in range(6)]
_numbers = count()


class Fact(NamedTuple):
    """A decision: hours after BEGIN, and what it was; how it ended, and when that was told."""

    made: int
    received: int
    decision: str
    outcome: str = ""
    told: int = 0


class Statement(NamedTuple):
    """A label; times in hours after BEGIN."""

    name: str
    verdict: str
    known: int
    received: int


facts = st.builds(
    lambda made, late, decision, outcome, told: Fact(
        made, made + late, decision, outcome, made + late + told
    ),
    st.integers(0, 120),
    st.sampled_from((0, 0, 1, 30)),
    st.sampled_from(("APPROVE", "REVIEW", "BLOCK")),
    st.sampled_from(("", "SUCCESS", "FAILED", "CANCELED")),
    st.sampled_from((0, 1, 60)),
)
statements = st.lists(
    st.builds(
        Statement,
        st.sampled_from((*NAMES, "never-seen")),
        st.sampled_from(("fraud", "legitimate")),
        st.integers(0, 200),
        st.integers(0, 200),
    ),
    max_size=12,
).map(lambda made: sorted(made, key=lambda each: each.received))


@pytest.fixture
def scored():
    """A few decisions."""
    api = caller()
    for name in NAMES:
        body = request(transaction_id=name, created_at=BEGIN.isoformat())
        assert api.score(body).status_code == 200


def happened(decided: Iterable[Fact], stated: Iterable[Statement]) -> None:
    """Let the decisions, in the order of their receipt, and the labels be these."""
    for name, fact in zip(NAMES, decided, strict=True):
        rewrite(
            "UPDATE scoring_scorerecord SET created_at = %s, scored_at = %s, decision = %s WHERE "
            "attempt_id = (SELECT id FROM scoring_attempt WHERE transaction_id = %s)",
            [BEGIN + fact.made * HOUR, BEGIN + fact.received * HOUR, fact.decision, name],
        )
    rewrite("DELETE FROM scoring_outcome")
    attempts = dict(Attempt.objects.values_list("transaction_id", "pk"))
    Outcome.objects.bulk_create(
        Outcome(
            attempt_id=attempts[name],
            status=fact.outcome,
            occurred_at=BEGIN + fact.made * HOUR,
            received_at=BEGIN + fact.told * HOUR,
        )
        for name, fact in zip(NAMES, decided, strict=True)
        if fact.outcome
    )
    rewrite("DELETE FROM scoring_label")
    Label.objects.bulk_create(
        Label(
            transaction_id=each.name,
            verdict=each.verdict,
            known_at=BEGIN + each.known * HOUR,
            received_at=BEGIN + each.received * HOUR,
            stated_by="test",
        )
        for each in stated
    )


def make(as_of: datetime, **changes: Any) -> Dataset:
    """A snapshot of everything from SINCE on."""
    asked = {"since": SINCE, "as_of": as_of, "label_delay": DELAY // timedelta(microseconds=1)}
    return snapshot_create(name=f"s{next(_numbers)}", **(asked | changes))


def rows_of(dataset: Dataset) -> dict[str, tuple[Any, ...]]:
    """By transaction: is_fraud, label_from, and when the label was known."""
    table = pq.read_table(dataset.file).to_pylist()
    return {
        row["transaction_id"]: (row["is_fraud"], row["label_from"], _aware(row["label_known_at"]))
        for row in table
    }


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def oracle(
    decided: list[Fact], stated: list[Statement], as_of: datetime
) -> dict[str, tuple[Any, ...]]:
    """What `rows_of` must give, worked out one transaction after the other."""
    expected: dict[str, tuple[Any, ...]] = {}
    for name, fact in zip(NAMES, decided, strict=True):
        made = BEGIN + fact.made * HOUR
        if BEGIN + fact.received * HOUR > as_of or made >= as_of:
            continue
        told = [
            (each.verdict, BEGIN + max(each.known, each.received) * HOUR)
            for each in stated
            if each.name == name and BEGIN + max(each.known, each.received) * HOUR <= as_of
        ]
        verdict, known = told[-1] if told else (None, None)
        while told and told[-1][0] == verdict:
            known = min(known, told.pop()[1])
        known = max(known, made) if known else None
        if made < SINCE:
            fraud = verdict == "fraud"
            expected[name] = (fraud or None, "history", known if fraud else None)
        elif verdict:
            expected[name] = (verdict == "fraud", "stated", known)
        elif fact.decision == "BLOCK":
            expected[name] = (None, "blocked", None)
        elif fact.outcome in ("FAILED", "CANCELED") and BEGIN + fact.told * HOUR <= as_of:
            expected[name] = (None, "not_made", None)
        elif made + DELAY > as_of:
            expected[name] = (None, "recent", None)
        else:
            expected[name] = (False, "age", made + DELAY)
    return expected


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(facts, min_size=6, max_size=6), statements, st.integers(30, 220))
def test_it_is_what_a_simple_oracle_says(scored, decided, stated, hours):
    # One is always of the period and received, or there would be nothing to make.
    certain = decided[0]._replace(made=25, received=25)
    decided = sorted([certain, *decided[1:]], key=lambda fact: fact.received)
    happened(decided, stated)
    as_of = BEGIN + hours * HOUR
    dataset = make(as_of)
    expected = oracle(decided, stated, as_of)
    assert rows_of(dataset) == expected
    found = list(expected.values())
    assert dataset.summary["traffic"]["counts"] == {
        "labelled_fraud": sum(row[:2] == (True, "stated") for row in found),
        "labelled_legitimate": sum(row[:2] == (False, "stated") for row in found),
        "taken_as_legitimate": sum(row[1] == "age" for row in found),
        "blocked_unlabelled": sum(row[1] == "blocked" for row in found),
        "not_made": sum(row[1] == "not_made" for row in found),
        "too_recent": sum(row[1] == "recent" for row in found),
        "history_only": sum(row[1] == "history" for row in found),
        "control_group": 0,
    }
    delay = DELAY // timedelta(microseconds=1)
    counts = snapshot_count(since=SINCE, as_of=as_of, label_delay=delay)
    assert counts == dataset.summary["traffic"]["counts"]


def test_what_comes_later_changes_nothing(scored):
    """Made again later, a snapshot of a moment has the same content."""
    decided = [Fact(30 + number, 30 + number, "APPROVE") for number in range(6)]
    early = [Statement("t1", "fraud", 60, 60), Statement("t2", "legitimate", 61, 61)]
    as_of = BEGIN + 100 * HOUR
    happened(decided, early)
    before = make(as_of)
    happened(decided, [*early, Statement("t1", "legitimate", 60, 101)])
    assert make(as_of).fingerprint == before.fingerprint
    later = make(as_of + 2 * HOUR)
    assert later.fingerprint != before.fingerprint
    assert rows_of(later)["t1"][0] is False


def test_history_reaches_back_as_far_as_any_window(scored):
    """30 days and the label delay before the period, and no further."""
    reach = 24 - 30 * 24
    hours = (reach - 49, reach - 47, reach - 1, reach + 1, -1, 25)
    happened([Fact(hour, hour, "APPROVE") for hour in hours], [])
    as_of = BEGIN + 100 * HOUR
    rows = rows_of(make(as_of))
    assert {name: row[1] for name, row in rows.items()} == {
        **dict.fromkeys(("t1", "t2", "t3", "t4"), "history"), "t5": "age",
    }  # fmt: skip
    assert set(rows_of(make(as_of, label_delay=0))) == {"t3", "t4", "t5"}


def test_days_count_back_from_the_end(scored):
    happened([Fact(24 * day, 24 * day, "APPROVE") for day in range(6)], [])
    dataset = make(BEGIN + 200 * HOUR, since=None, days=2, until=BEGIN + 24 * 4 * HOUR)
    rows = rows_of(dataset)
    assert {name for name, row in rows.items() if row[1] != "history"} == {"t2", "t3"}
    assert set(rows) == {"t0", "t1", "t2", "t3"}
    assert ScoreRecord.objects.count() == 6
