"""Training and live compute the same features, and they are the ones that were defined."""

import random

import numpy as np
import pytest
from hypothesis import given, settings

from tests.engine.feature_cases import (
    START,
    assert_matches,
    eventful_rows,
    histories,
    past_of,
    replayed,
    served,
)
from tests.engine.oracle import DAY, HOUR, MINUTE, SECOND, Row, features


@settings(max_examples=300, deadline=None)
@given(histories())
def test_replay_is_equal_to_the_oracle(rows: list[Row]) -> None:
    assert_matches(replayed(rows), features(rows))


@settings(max_examples=150, deadline=None)
@given(histories())
def test_live_is_equal_to_replay_in_every_bit(rows: list[Row]) -> None:
    assert served(rows).tobytes() == replayed(rows).tobytes()


def test_an_eventful_data_set_is_equal_to_the_oracle_live_and_in_replay() -> None:
    rows = eventful_rows(700)
    assert_matches(replayed(rows), features(rows))
    assert served(rows).tobytes() == replayed(rows).tobytes()


def _busy(count: int, mean_gap: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    now, rows = START, []
    for i in range(count):
        now += rng.choice((0, 0, 1, mean_gap, 2 * mean_gap))
        rows.append(
            Row(
                created_at=now - rng.choice((0, 0, 0, HOUR)),
                amount=rng.randrange(-(10**9), 10**11),
                destination=rng.randrange(300) ** 2,
                country=rng.choice((-1, 0, 1, 26)),
                failed_from=i + rng.randrange(1, 50) if rng.random() < 0.1 else None,
                blocked=rng.random() < 0.1,
            )
        )
    return rows


@pytest.mark.parametrize(
    "mean_gap",
    [SECOND, 5 * MINUTE, HOUR],
    ids=["all within an hour", "tail within 7 days", "tail within 30 days"],
)
def test_a_wallet_with_more_events_than_the_tail(mean_gap: int) -> None:
    rows = _busy(3_000, mean_gap, seed=mean_gap % 97)
    matrix = replayed(rows)
    sample = [998, 999, 1_000, 1_001, 1_002, *range(1_100, 3_000, 400), 2_999]
    assert_matches(matrix[sample], features(rows, at=sample))
    assert served(rows).tobytes() == matrix.tobytes()


def test_edges_beyond_the_tail_are_met_exactly() -> None:
    """The window's edge falls on, just after and just before an event that the tail has lost."""
    first = [Row(created_at=START + i * HOUR, amount=i + 1) for i in range(5)]
    burst = [Row(created_at=START + 6 * HOUR, amount=7) for _ in range(1_200)]
    for off in (-1, 0, 1):
        rows = [*first, *burst, Row(created_at=START + 2 * HOUR + DAY + off)]
        last = len(rows) - 1
        assert_matches(replayed(rows)[-1:], features(rows, at=[last]))
        assert served(rows).tobytes() == replayed(rows).tobytes()


def test_a_tail_of_one_timestamp_has_its_edge_on_the_lost_events_too() -> None:
    rows = [Row(created_at=START, amount=3)] * 1_500 + [Row(created_at=START + 5 * MINUTE)]
    matrix = replayed(rows)
    assert_matches(matrix[-1:], features(rows, at=[1_500]))
    assert served(rows).tobytes() == matrix.tobytes()


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    rows = eventful_rows(45_000, seed=5)
    once = replayed(rows, threads=1)
    assert replayed(rows, threads=2).tobytes() == once.tobytes()
    assert replayed(rows, threads=7).tobytes() == once.tobytes()


def test_a_past_is_asked_part_by_part() -> None:
    rows = eventful_rows(3_000, seed=6)
    past = past_of(rows)
    parts = [past.features(np.arange(start, start + 1_000)) for start in (0, 1_000, 2_000)]
    assert np.concatenate(parts).tobytes() == replayed(rows).tobytes() == past.features().tobytes()


def test_amounts_add_up_exactly_beyond_the_precision_of_floats() -> None:
    """0.1 + 0.2 style drift: a sum of ten-thousandths is the nearest float to the true sum."""
    rows = [Row(created_at=START, amount=10**13 - 1)] * 900 + [
        Row(created_at=START, amount=1),
        Row(created_at=START),
    ]
    assert replayed(rows)[-1][4 * 5 + 1] == float(900 * (10**13 - 1) + 1) / 10_000
