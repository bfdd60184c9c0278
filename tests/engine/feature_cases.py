"""How the tests of the features make histories and push them through both doors of the engine."""

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from engine.features.catalogue import ADDITIVE_WINDOWS, CATALOGUE, FAILURE_WINDOWS, PLAN, Plan
from engine.features.live import (
    SourceHistory,
    compute_live,
    decode_events,
    effective_time,
    next_event,
    windows_to_seek,
)
from engine.features.replay import NEVER, replay
from tests.engine.oracle import DAY, HOUR, MINUTE, Row, Value

START = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z, a Thursday
NAMES = [feature.name for feature in CATALOGUE]
EDGES = (5 * MINUTE, 10 * MINUTE, HOUR, DAY, 7 * DAY, 30 * DAY)


def replayed(rows: Sequence[Row], plan: Plan = PLAN, threads: int | None = None) -> np.ndarray:
    """What training computes for `rows`."""
    return replay(
        *(
            np.array([getattr(row, name) for row in rows], dtype=np.int64)
            for name in ("created_at", "amount", "source", "destination", "country")
        ),
        failed_visible_from=np.array(
            [NEVER if row.failed_from is None else row.failed_from for row in rows], dtype=np.int64
        ),
        blocked=np.array([row.blocked for row in rows], dtype=bool),
        threads=threads,
        plan=plan,
    )


class LiveStore:
    """A store as the live path has one: encoded events, and failures in the order received."""

    def __init__(self) -> None:
        self.events: dict[int, list[bytes]] = defaultdict(list)
        self.times: dict[int, list[int]] = defaultdict(list)
        self.failures: dict[int, list[int]] = defaultdict(list)

    def history(self, source: int, created_at: int) -> SourceHistory:
        stored = self.events[source]
        tail = decode_events(b"".join(stored[-1_000:]))
        now = effective_time(created_at, tail)
        edges = np.full((len(ADDITIVE_WINDOWS), 3), 987_654_321, dtype=np.int64)
        older = len(stored) > len(tail)
        if not older:
            assert windows_to_seek(tail, now) == ()
            edges[:] = 0
        for index in windows_to_seek(tail, now):
            edge = now - ADDITIVE_WINDOWS[index]
            before = bisect_left(self.times[source], edge)
            edges[index] = decode_events(stored[before - 1])[0, 4:] if before else 0
        failed = self.failures[source]
        counts = [len(failed)] + [sum(t < now - w for t in failed) for w in FAILURE_WINDOWS]
        return SourceHistory(tail, edges, np.array(counts, dtype=np.int64))

    def accept(self, row: Row) -> np.ndarray:
        """Compute a row's features, then store it."""
        history = self.history(row.source, row.created_at)
        values = compute_live(
            created_at_us=row.created_at,
            destination=row.destination,
            country=row.country,
            history=history,
        )
        event = next_event(
            history.events,
            created_at_us=row.created_at,
            amount=row.amount,
            destination=row.destination,
            country=row.country,
            blocked=row.blocked,
        )
        self.events[row.source].append(event)
        self.times[row.source].append(int(decode_events(event)[0, 0]))
        return values

    def fail(self, source: int, time: int) -> None:
        timeline = self.failures[source]
        timeline.append(max([time, *timeline[-1:]]))


def served(rows: Sequence[Row]) -> np.ndarray:
    """What the live path computes for `rows`, one call each, feeding on its own events."""
    store = LiveStore()
    own_time: list[int] = []
    out = np.empty((len(rows), len(CATALOGUE)))
    told = sorted((row.failed_from, i) for i, row in enumerate(rows) if row.failed_from is not None)
    for i, row in enumerate(rows):
        while told and told[0][0] <= i:
            failed = told.pop(0)[1]
            store.fail(rows[failed].source, own_time[failed])
        out[i] = store.accept(row)
        own_time.append(store.times[row.source][-1])
    return out


def expected_row(values: dict[str, Value]) -> list[float]:
    """The oracle's values as the engine's row: catalogue order, NaN for what is not known."""
    assert set(values) == set(NAMES)
    return [np.nan if (v := values[name]) is None else float(v) for name in NAMES]


def assert_matches(actual: np.ndarray, oracle: list[dict[str, Value]]) -> None:
    """Equal in every bit, but for the entropy: within 1e-8."""
    expected = np.array([expected_row(values) for values in oracle]).reshape(-1, len(NAMES))
    assert actual.shape == expected.shape
    for column, name in enumerate(NAMES):
        tolerance = 1e-8 if name == "src_destination_entropy_7d" else 0
        np.testing.assert_allclose(
            actual[:, column], expected[:, column], rtol=0, atol=tolerance, err_msg=name
        )


@st.composite
def histories(draw: st.DrawFn, max_rows: int = 30) -> list[Row]:
    """Rows in the order of acceptance: bursts, gaps, exact edges and late arrivals among them."""
    rows: list[Row] = []
    wallets = draw(st.integers(1, 3))
    offsets = st.one_of(
        st.just(0),
        st.sampled_from(EDGES).flatmap(lambda w: st.sampled_from((w - 1, w, w + 1))),
        st.integers(-40 * DAY, 40 * DAY),
        st.integers(-HOUR, HOUR),
    )
    for i in range(draw(st.integers(0, max_rows))):
        anchor = rows[draw(st.integers(0, i - 1))].created_at if i else START
        rows.append(
            Row(
                created_at=anchor + draw(offsets),
                amount=draw(st.one_of(st.integers(-(10**13), 10**13), st.integers(1, 50))),
                source=draw(st.integers(1, wallets)) * 7_919 - 10_000,
                destination=draw(st.sampled_from((1, 2, 3, -(2**63), 2**63 - 1))),
                country=draw(st.sampled_from((-1, 0, 147, 675))),
                failed_from=draw(st.one_of(st.none(), st.integers(i + 1, i + 8))),
                blocked=draw(st.booleans()),
            )
        )
    return rows


def eventful_rows(count: int, seed: int = 1) -> list[Row]:
    """A fixed data set in which every feature takes many values and every edge is met exactly."""
    rng = random.Random(seed)
    rows: list[Row] = []
    times: dict[int, list[int]] = defaultdict(lambda: [START])
    for i in range(count):
        source = rng.choice((1, 1, 1, 2, 3))
        latest = times[source][-1]
        kind = rng.choices(("step", "edge", "late", "gap"), (50, 42, 5, 3))[0]
        if kind == "edge":
            ends = (t + w for t in times[source][-25:] for w in EDGES)
            created_at = rng.choice([e for e in ends if e > latest]) + rng.choice((-1, 0, 1))
        elif kind == "late":
            created_at = latest - rng.randrange(DAY)
        else:
            steps = (0, 0, 1, MINUTE, MINUTE, 7 * MINUTE, 20 * MINUTE, 2 * HOUR, 9 * HOUR)
            created_at = latest + (rng.choice(steps) if kind == "step" else 31 * DAY)
        times[source].append(max(created_at, latest))
        rows.append(
            Row(
                created_at=created_at,
                amount=rng.randrange(-1_000, 9_000_000),
                source=source,
                destination=rng.choice((1, 1, 1, 2, 3, 4, 5, rng.randrange(-(2**63), 2**63))),
                country=rng.choice((-1, 147, 147, 147, 10, 20, 675)),
                failed_from=i + rng.choice((1, 1, 2, 30)) if rng.random() < 0.3 else None,
                blocked=rng.random() < 0.2,
            )
        )
    return rows
