"""Training and live compute the same features, and they are the ones that were defined."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.features.catalogue import CATALOGUE
from tests.engine.feature_cases import (
    DELAYS,
    NAMES,
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
@given(histories(), st.sampled_from(DELAYS))
def test_replay_is_equal_to_the_oracle(rows: list[Row], delay: int) -> None:
    assert_matches(replayed(rows, label_delay=delay), features(rows, label_delay=delay))


@settings(max_examples=150, deadline=None)
@given(histories(), st.sampled_from(DELAYS))
def test_live_is_equal_to_replay_in_every_bit(rows: list[Row], delay: int) -> None:
    assert served(rows, delay).tobytes() == replayed(rows, label_delay=delay).tobytes()


@settings(max_examples=100, deadline=None)
@given(histories(), st.data())
def test_some_rows_have_what_they_have_among_all(rows: list[Row], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12) if rows else st.just([]))
    chosen = np.array(some, dtype=np.int64)
    assert replayed(rows, only=some).tobytes() == replayed(rows)[chosen].tobytes()


@settings(max_examples=200, deadline=None)
@given(histories(), st.data())
def test_nothing_that_comes_later_changes_a_row(rows: list[Row], data: st.DataObject) -> None:
    """Neither a later transaction, nor what became known of an earlier one after the row."""
    if not rows:
        return
    i = data.draw(st.integers(0, len(rows) - 1))
    later = data.draw(st.none() | st.integers(1, 9))
    told = None if later is None else i + later

    def unheard(known_from: int | None, row: int) -> int | None:
        """As it was, if row i knows of it; something else otherwise."""
        if known_from is not None and known_from <= i:
            return known_from
        return None if told is None else max(told, row + 1)

    changed = [
        replace(row, failed_from=unheard(row.failed_from, j), fraud_from=unheard(row.fraud_from, j))
        for j, row in enumerate(rows[: i + 1])
    ]
    others = data.draw(histories(max_rows=4))
    shift = i + 1
    changed += [
        replace(
            row,
            failed_from=None if row.failed_from is None else row.failed_from + shift,
            fraud_from=None if row.fraud_from is None else row.fraud_from + shift,
        )
        for row in others
    ]
    assert replayed(changed)[: i + 1][-1].tobytes() == replayed(rows)[i].tobytes()


def test_what_the_caller_decides_of_a_row_is_not_among_its_own_features() -> None:
    rows = eventful_rows(300)
    for i in range(0, 300, 7):
        own = replace(
            rows[i], amount=7, blocked=not rows[i].blocked, failed_from=i + 1, fraud_from=i + 1
        )
        changed = [*rows[:i], own, *rows[i + 1 :]]
        assert replayed(changed)[i].tobytes() == replayed(rows)[i].tobytes()


def test_two_wallets_pay_each_other_and_themselves() -> None:
    rng = random.Random(4)
    rows = [
        replace(row, source=rng.choice((1, 2)), destination=rng.choice((1, 2)))
        for row in eventful_rows(300, seed=8)
    ]
    assert sum(row.source == row.destination for row in rows) > 100
    assert_matches(replayed(rows), features(rows))
    assert served(rows).tobytes() == replayed(rows).tobytes()


def test_an_eventful_data_set_is_equal_to_the_oracle_live_and_in_replay() -> None:
    rows = eventful_rows(700)
    assert_matches(replayed(rows), features(rows))
    assert served(rows).tobytes() == replayed(rows).tobytes()


def _busy(count: int, mean_gap: int, seed: int, *, is_source: bool) -> list[Row]:
    """Payments of one wallet to many, or of many to one."""
    rng = random.Random(seed)
    now, rows = START, []
    for i in range(count):
        now += rng.choice((0, 0, 1, mean_gap, 2 * mean_gap))
        rows.append(
            Row(
                created_at=now - rng.choice((0, 0, 0, HOUR)),
                amount=rng.randrange(-(10**9), 10**11),
                source=5 if is_source else rng.randrange(300) ** 2,
                destination=rng.randrange(300) ** 2 if is_source else 5,
                country=rng.choice((-1, 0, 1, 26)),
                failed_from=i + rng.randrange(1, 50) if rng.random() < 0.1 else None,
                fraud_from=i + rng.randrange(1, 900) if rng.random() < 0.1 else None,
                blocked=rng.random() < 0.1,
            )
        )
    return rows


@pytest.mark.parametrize("is_source", [True, False], ids=["source", "destination"])
@pytest.mark.parametrize(
    ("mean_gap", "delay"),
    [(SECOND, 0), (5 * MINUTE, DAY), (HOUR, 7 * DAY)],
    ids=["all within an hour", "tail within 7 days", "tail within 30 days"],
)
def test_a_wallet_with_more_events_than_the_tail(
    mean_gap: int, delay: int, is_source: bool
) -> None:
    rows = _busy(3_000, mean_gap, seed=mean_gap % 97, is_source=is_source)
    matrix = replayed(rows, label_delay=delay)
    sample = [998, 999, 1_000, 1_001, 1_002, *range(1_100, 3_000, 400), 2_999]
    assert_matches(matrix[sample], features(rows, at=sample, label_delay=delay))
    assert served(rows, delay).tobytes() == matrix.tobytes()
    frauds = matrix[:, NAMES.index(f"{'src' if is_source else 'dst'}_fraud_count_30d")]
    assert frauds.max() > 5


@pytest.mark.parametrize("is_source", [True, False], ids=["source", "destination"])
@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("distance", [DAY, 7 * DAY, 8 * DAY, 14 * DAY, 37 * DAY])
def test_edges_beyond_the_tail_are_met_exactly(distance: int, off: int, is_source: bool) -> None:
    """The window's edge falls on, just after and just before an event that the tail has lost."""
    told = {"fraud_from": 500, "failed_from": 500}
    first = [Row(created_at=START + i * HOUR, amount=i + 1, **told) for i in range(5)]
    burst = [Row(created_at=START + 6 * HOUR, amount=7) for _ in range(1_200)]
    rows = [*first, *burst, Row(created_at=START + 2 * HOUR + distance + off)]
    rows = [
        replace(row, **{"destination" if is_source else "source": i}) for i, row in enumerate(rows)
    ]
    last = len(rows) - 1
    assert_matches(replayed(rows, only=[last]), features(rows, at=[last]))
    assert served(rows)[-1].tobytes() == replayed(rows)[-1].tobytes()


def test_a_tail_of_one_timestamp_has_its_edge_on_the_lost_events_too() -> None:
    fraud = Row(created_at=START, amount=3, fraud_from=1_400)
    for distance in (5 * MINUTE, HOUR, DAY, 7 * DAY, 37 * DAY):
        rows = [fraud] * 1_400 + [Row(created_at=START + distance)]
        matrix = replayed(rows)
        assert_matches(matrix[-1:], features(rows, at=[1_400]))
        assert served(rows)[-1].tobytes() == matrix[-1].tobytes()


@pytest.mark.parametrize("period", [997, 998, 999, 1_000, 1_001])
def test_sources_are_told_apart_among_the_last_thousand_at_every_position(period: int) -> None:
    """Each source comes back just inside the tail, at its very edge, or just outside."""
    rows = [Row(created_at=START + i, source=i % period) for i in range(3_500)]
    column = NAMES.index("dst_unique_sources_1h")
    expected = [min(i, period, 1_000) for i in range(3_500)]
    assert replayed(rows)[:, column].tolist() == expected


def test_a_label_counts_once_it_is_known_and_old_enough_until_its_window_is_over() -> None:
    """Known early, it waits for the delay; known late, it has lost that much of its window."""
    ages = (0, 7 * DAY, 7 * DAY + 1, 8 * DAY, 8 * DAY + 1, 14 * DAY, 14 * DAY + 1, 37 * DAY)
    later = [Row(created_at=START + age) for age in (*ages, 37 * DAY + 1)]

    def counts(known_from: int, name: str) -> list[float]:
        matrix = replayed([Row(created_at=START, fraud_from=known_from), *later])
        return matrix[1:, NAMES.index(name)].tolist()

    for side in ("src", "dst"):
        assert counts(1, f"{side}_fraud_count_1d") == [0, 0, 1, 1, 0, 0, 0, 0, 0]
        assert counts(1, f"{side}_fraud_count_7d") == [0, 0, 1, 1, 1, 1, 0, 0, 0]
        assert counts(1, f"{side}_fraud_count_30d") == [0, 0, 1, 1, 1, 1, 1, 1, 0]
        assert counts(4, f"{side}_fraud_count_7d") == [0, 0, 0, 1, 1, 1, 0, 0, 0]
        assert counts(7, f"{side}_fraud_count_1d") == [0] * 9
    # The first row and the first of the later ones are equally old: one of two attempts.
    assert counts(1, "dst_fraud_ratio_1d") == [0, 0, 0.5, 0.5, 0, 0, 0, 0, 0]


def test_without_labels_nothing_is_a_confirmed_fraud() -> None:
    rows = [replace(row, fraud_from=None) for row in eventful_rows(100)]
    frauds = [at for at, feature in enumerate(CATALOGUE) if feature.group == "confirmed fraud"]
    assert len(frauds) == 9
    assert not replayed(rows)[:, frauds].any()


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    rows = _busy(45_000, MINUTE, seed=5, is_source=True)
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
