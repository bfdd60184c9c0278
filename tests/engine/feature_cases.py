"""How the tests of the features make histories and push them through both doors of the engine."""

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from engine.features.catalogue import (
    ADDITIVE_WINDOWS,
    CATALOGUE,
    FAILURE_WINDOWS,
    LABEL_DELAY,
    PLAN,
    Plan,
)
from engine.features.live import (
    NO_INCOMING_EDGES,
    History,
    compute_live,
    decode_events,
    decode_incoming,
    effective_time,
    fraud_edge_times,
    incoming_edge_times,
    incoming_edges_to_seek,
    next_event,
    next_incoming,
    windows_to_seek,
)
from engine.features.replay import NEVER, Past, replay
from tests.engine.oracle import DAY, HOUR, MINUTE, Row, Value

START = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z, a Thursday
NAMES = [feature.name for feature in CATALOGUE]
EDGES = (5 * MINUTE, 10 * MINUTE, HOUR, DAY, 7 * DAY, 30 * DAY)


def replayed(
    rows: Sequence[Row],
    plan: Plan = PLAN,
    threads: int | None = None,
    label_delay: int = LABEL_DELAY,
    only: Sequence[int] | None = None,
) -> np.ndarray:
    """What training computes for `rows`, or for `only` some of them."""
    return replay(
        **_columns(rows),
        label_delay=label_delay,
        rows=None if only is None else np.array(only, dtype=np.int64),
        threads=threads,
        plan=plan,
    )


def past_of(rows: Sequence[Row]) -> Past:
    """What `replayed` computes the features from."""
    return Past(**_columns(rows))


def _columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    names = ("created_at", "amount", "source", "destination", "country")
    numbers = {n: np.array([getattr(row, n) for row in rows], dtype=np.int64) for n in names}
    return {
        **numbers,
        "failed_visible_from": _visible_from(rows, "failed_from"),
        "fraud_visible_from": _visible_from(rows, "fraud_from"),
        "blocked": np.array([row.blocked for row in rows], dtype=bool),
    }


def _visible_from(rows: Sequence[Row], name: str) -> np.ndarray:
    values = (getattr(row, name) for row in rows)
    return np.array([NEVER if value is None else value for value in values], dtype=np.int64)


class LiveStore:
    """A store as the live path has one: encoded events, and what became known of them."""

    def __init__(self, label_delay: int = LABEL_DELAY) -> None:
        self.label_delay = label_delay
        self.events: dict[int, list[bytes]] = defaultdict(list)
        self.times: dict[int, list[int]] = defaultdict(list)
        self.incoming: dict[int, list[bytes]] = defaultdict(list)
        self.incoming_times: dict[int, list[int]] = defaultdict(list)
        self.failures: dict[int, list[int]] = defaultdict(list)
        self.source_frauds: dict[int, list[int]] = defaultdict(list)
        self.destination_frauds: dict[int, list[int]] = defaultdict(list)

    def history(self, row: Row) -> History:
        tail = decode_events(b"".join(self.events[row.source][-1_000:]))
        now = effective_time(row.created_at, tail)
        incoming = decode_incoming(b"".join(self.incoming[row.destination][-1_000:]))
        incoming_now = effective_time(row.created_at, incoming)
        failed = self.failures[row.source]
        failures = [len(failed)] + [sum(t < now - w for t in failed) for w in FAILURE_WINDOWS]
        return History(
            tail,
            self._edges(row.source, tail, now),
            np.array(failures, dtype=np.int64),
            incoming,
            self._incoming_edges(row.destination, incoming, incoming_now),
            self._frauds(self.source_frauds[row.source], now),
            self._frauds(self.destination_frauds[row.destination], incoming_now),
        )

    def _edges(self, source: int, tail: np.ndarray, now: int) -> np.ndarray:
        stored = self.events[source]
        edges = np.full((len(ADDITIVE_WINDOWS), 3), 987_654_321, dtype=np.int64)
        if len(stored) == len(tail):
            assert windows_to_seek(tail, now) == ()
            edges[:] = 0
        for index in windows_to_seek(tail, now):
            before = bisect_left(self.times[source], now - ADDITIVE_WINDOWS[index])
            edges[index] = decode_events(stored[before - 1])[0, 4:] if before else 0
        return edges

    def _incoming_edges(self, destination: int, tail: np.ndarray, now: int) -> np.ndarray:
        stored = self.incoming[destination]
        edges = np.full_like(NO_INCOMING_EDGES, 987_654_321)
        if len(stored) == len(tail):
            assert incoming_edges_to_seek(tail, now, self.label_delay) == ()
            edges[:] = 0
        times = incoming_edge_times(now, self.label_delay)
        for index in incoming_edges_to_seek(tail, now, self.label_delay):
            before = bisect_left(self.incoming_times[destination], times[index])
            edges[index] = decode_incoming(stored[before - 1])[0, 2:] if before else 0
        return edges

    def _frauds(self, times: Sequence[int], now: int) -> np.ndarray:
        edges = fraud_edge_times(now, self.label_delay)
        return np.array([sum(t < edge for t in times) for edge in edges], dtype=np.int64)

    def accept(self, row: Row) -> np.ndarray:
        """Compute a row's features, then store it."""
        history = self.history(row)
        values = compute_live(
            created_at_us=row.created_at,
            destination=row.destination,
            country=row.country,
            history=history,
            label_delay=self.label_delay,
        )
        event = next_event(
            history.events,
            created_at_us=row.created_at,
            amount=row.amount,
            destination=row.destination,
            country=row.country,
            blocked=row.blocked,
        )
        incoming = next_incoming(
            history.incoming, created_at_us=row.created_at, amount=row.amount, source=row.source
        )
        self.events[row.source].append(event)
        self.times[row.source].append(int(decode_events(event)[0, 0]))
        self.incoming[row.destination].append(incoming)
        self.incoming_times[row.destination].append(int(decode_incoming(incoming)[0, 0]))
        return values

    def fail(self, source: int, time: int) -> None:
        timeline = self.failures[source]
        timeline.append(max([time, *timeline[-1:]]))


def served(rows: Sequence[Row], label_delay: int = LABEL_DELAY) -> np.ndarray:
    """What the live path computes for `rows`, one call each, feeding on its own events."""
    store = LiveStore(label_delay)
    own_times: list[tuple[int, int]] = []
    out = np.empty((len(rows), len(CATALOGUE)))
    failures, frauds = _told(rows, "failed_from"), _told(rows, "fraud_from")
    for i, row in enumerate(rows):
        for failed in failures.get(i, ()):
            store.fail(rows[failed].source, own_times[failed][0])
        for fraud in frauds.get(i, ()):
            source_time, destination_time = own_times[fraud]
            store.source_frauds[rows[fraud].source].append(source_time)
            store.destination_frauds[rows[fraud].destination].append(destination_time)
        out[i] = store.accept(row)
        own_times.append((store.times[row.source][-1], store.incoming_times[row.destination][-1]))
    return out


def _told(rows: Sequence[Row], name: str) -> dict[int, list[int]]:
    """What is told just before each row: the rows of which it is told, in their order."""
    told: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if getattr(row, name) is not None:
            told[getattr(row, name)].append(i)
    return told


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


DELAYS = (0, 1, HOUR, DAY, LABEL_DELAY)


@st.composite
def histories(draw: st.DrawFn, max_rows: int = 30) -> list[Row]:
    """Rows in the order of acceptance: bursts, gaps, exact edges and late arrivals among them."""
    rows: list[Row] = []
    wallets = draw(st.integers(1, 3))
    edges = sorted({*EDGES, *(delay + window for delay in DELAYS for window in (0, *EDGES))})
    offsets = st.one_of(
        st.just(0),
        st.sampled_from(edges).flatmap(lambda w: st.sampled_from((w - 1, w, w + 1))),
        st.integers(-40 * DAY, 40 * DAY),
        st.integers(-HOUR, HOUR),
    )
    told = st.one_of(st.none(), st.integers(1, 8))
    for i in range(draw(st.integers(0, max_rows))):
        anchor = rows[draw(st.integers(0, i - 1))].created_at if i else START
        source = draw(st.integers(1, wallets)) * 7_919 - 10_000
        heard = draw(told), draw(told)
        rows.append(
            Row(
                created_at=anchor + draw(offsets),
                amount=draw(st.one_of(st.integers(-(10**13), 10**13), st.integers(1, 50))),
                source=source,
                destination=draw(st.sampled_from((source, 1, 2, 3, -(2**63), 2**63 - 1))),
                country=draw(st.sampled_from((-1, 0, 147, 675))),
                failed_from=None if heard[0] is None else i + heard[0],
                fraud_from=None if heard[1] is None else i + heard[1],
                blocked=draw(st.booleans()),
            )
        )
    return rows


def eventful_rows(count: int, seed: int = 1) -> list[Row]:
    """A fixed data set in which every feature takes many values and every edge is met exactly."""
    rng = random.Random(seed)
    rows: list[Row] = []
    times: dict[int, list[int]] = defaultdict(lambda: [START])
    incoming: dict[int, list[int]] = defaultdict(list)
    delayed = tuple(LABEL_DELAY + window for window in (0, DAY, 7 * DAY, 30 * DAY))
    for i in range(count):
        source = rng.choice((1, 1, 1, 2, 3))
        destination = rng.choice((1, 1, 1, 2, 3, 4, 5, rng.randrange(-(2**63), 2**63)))
        latest = times[source][-1]
        kind = rng.choices(("step", "edge", "incoming edge", "late", "gap"), (40, 30, 24, 4, 2))[0]
        if kind == "edge" or not incoming[destination]:
            ends = [t + w for t in times[source][-25:] for w in EDGES]
            if rng.random() < 0.3:
                ends = [t + w for t in times[source] for w in delayed]
            created_at = rng.choice([e for e in ends if e > latest]) + rng.choice((-1, 0, 1))
        elif kind == "incoming edge":
            ends = [t + w for t in incoming[destination] for w in rng.choice((EDGES, delayed))]
            ends = [e for e in ends if latest < e < latest + 2 * DAY] or [latest]
            created_at = rng.choice(ends) + rng.choice((-1, 0, 1))
        elif kind == "late":
            created_at = latest - rng.randrange(DAY)
        else:
            steps = (0, 0, 1, MINUTE, MINUTE, 7 * MINUTE, 20 * MINUTE, 2 * HOUR, 9 * HOUR)
            created_at = latest + (rng.choice(steps) if kind == "step" else 31 * DAY)
        times[source].append(max(created_at, latest))
        incoming[destination].append(max([created_at, *incoming[destination][-1:]]))
        rows.append(
            Row(
                created_at=created_at,
                amount=rng.randrange(-1_000, 9_000_000),
                source=source,
                destination=destination,
                country=rng.choice((-1, 147, 147, 147, 10, 20, 675)),
                failed_from=i + rng.choice((1, 1, 2, 30)) if rng.random() < 0.3 else None,
                fraud_from=i + rng.choice((1, 2, 30)) if rng.random() < 0.5 else None,
                blocked=rng.random() < 0.2,
            )
        )
    return rows
