"""Features of small histories, with values worked out by hand."""

import math

import numpy as np
import pytest

from engine.features.catalogue import ADDITIVE_WINDOWS, CATALOGUE, FEATURE_INDEX
from engine.features.live import (
    EMPTY_HISTORY,
    EVENT_BYTES,
    INCOMING_BYTES,
    NO_INCOMING_EDGES,
    compute_live,
    countries_30d,
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
from engine.features.replay import NEVER, replay, visible_at_once
from tests.engine.feature_cases import START, LiveStore, replayed, served
from tests.engine.oracle import DAY, HOUR, MINUTE, Row

FR, US = 5 * 26 + 17, 20 * 26 + 18
NOW = START + 40 * DAY


def last(*rows: Row) -> dict[str, float]:
    """The features of the last row, which live and replay must agree on."""
    values = served(rows)[-1]
    assert values.tobytes() == replayed(rows)[-1].tobytes()
    return {name: float(values[at]) for name, at in FEATURE_INDEX.items()}


def ago(age: int, **fields: int) -> Row:
    return Row(created_at=NOW - age, **fields)


def test_without_history_every_feature_has_its_default() -> None:
    values = last(ago(0, country=FR))
    nothing = dict.fromkeys(values, 0.0)
    nothing |= {f"is_new_destination_{window}": 1.0 for window in ("24h", "7d", "30d")}
    nothing |= {"days_since_last_src_to_dst": -1.0, "is_new_country_30d": 1.0}
    assert math.isnan(values.pop("avg_amount_30d"))
    assert math.isnan(values.pop("is_new_beneficiary"))
    assert values == {name: nothing[name] for name in values}


def test_a_wallet_with_one_payment_in_each_window() -> None:
    values = last(
        ago(31 * DAY, amount=990_000, destination=8),
        ago(29 * DAY, amount=160_000, destination=2, country=US),
        ago(6 * DAY, amount=80_000, destination=3, country=FR),
        ago(23 * HOUR, amount=40_000, destination=3, country=FR),
        ago(59 * MINUTE, amount=20_000, destination=4),
        ago(9 * MINUTE, amount=10_000, destination=5),
        ago(4 * MINUTE, amount=5_000, destination=5),
        ago(0, destination=2, country=US),
    )
    windows = ("5m", "1h", "24h", "7d", "30d")

    def by_window(name: str) -> list[float]:
        return [values[f"src_{name}_{window}"] for window in windows]

    assert by_window("tx_count_out") == [1, 3, 4, 5, 6]
    assert by_window("tx_amount_sum_out") == [0.5, 3.5, 7.5, 15.5, 31.5]
    assert by_window("tx_amount_mean_out") == [0.5, 3.5 / 3, 1.875, 3.1, 5.25]
    assert by_window("tx_amount_max_out") == [0.5, 2, 4, 8, 16]
    assert by_window("unique_destinations") == [1, 2, 3, 3, 4]
    assert [values[f"is_new_destination_{w}"] for w in windows[2:]] == [1, 1, 0]
    assert values["src_to_dst_tx_count_30d"] == 1
    assert values["days_since_last_src_to_dst"] == 29
    assert values["src_destination_concentration_7d"] == 2 / 5
    # Shares of 2/5, 2/5 and 1/5: log2(5) - 4/5 bits.
    assert values["src_destination_entropy_7d"] == pytest.approx(math.log2(5) - 0.8, abs=1e-8)
    assert values["is_new_country_30d"] == 0
    assert values["country_mismatch"] == 1
    assert values["avg_amount_30d"] == 5.25
    assert values["tx_last_10min"] == 2
    assert values["is_new_beneficiary"] == 0


WINDOWED = [
    (name, window)
    for suffix, window in {
        "5m": 5 * MINUTE, "1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY
    }.items()
    for name in (
        f"src_tx_count_out_{suffix}",
        f"src_tx_amount_sum_out_{suffix}",
        f"src_tx_amount_mean_out_{suffix}",
        f"src_tx_amount_max_out_{suffix}",
        f"src_unique_destinations_{suffix}",
    )
] + [
    ("is_new_destination_24h", DAY),
    ("is_new_destination_7d", 7 * DAY),
    ("is_new_destination_30d", 30 * DAY),
    ("src_to_dst_tx_count_30d", 30 * DAY),
    ("days_since_last_src_to_dst", 30 * DAY),
    ("src_destination_concentration_7d", 7 * DAY),
    ("is_new_country_30d", 30 * DAY),
    *(
        (f"dst_{name}_{suffix}", window)
        for suffix, window in {"1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}.items()
        for name in ("tx_count_in", "tx_amount_sum_in", "tx_amount_mean_in", "unique_sources")
    ),
    *(
        (f"{name}_{suffix}", 7 * DAY + window)
        for suffix, window in {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}.items()
        for name in ("dst_fraud_count", "dst_fraud_ratio", "src_fraud_count")
    ),
    ("src_failed_count_24h", DAY),
    ("src_failed_ratio_7d", 7 * DAY),
    ("avg_amount_30d", 30 * DAY),
    ("tx_last_10min", 10 * MINUTE),
    ("is_new_beneficiary", 30 * DAY),
    ("blocked_tx_last_24h", DAY),
]  # fmt: skip


@pytest.mark.parametrize(("name", "window"), WINDOWED, ids=[name for name, _ in WINDOWED])
def test_the_window_ends_with_its_edge_included(name: str, window: int) -> None:
    empty = last(ago(0, country=FR))[name]

    def with_one(age: int) -> float:
        failed = {"failed_from": 1, "fraud_from": 1, "blocked": True}
        return last(ago(age, amount=30_000, country=FR, **failed), ago(0, country=FR))[name]

    inside, edge, outside = (with_one(window + off) for off in (-1, 0, 1))
    if name == "days_since_last_src_to_dst":
        assert (inside, edge) == ((30 * DAY - 1) / DAY, 30.0)
    else:
        assert inside == edge
    assert edge != empty
    np.testing.assert_equal(outside, empty)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_windows_of_entropy_and_country_mismatch_end_with_their_edge_included(off: int) -> None:
    rows = (
        ago(30 * DAY + off, destination=3, country=US),
        ago(7 * DAY + off, destination=4),
        ago(0, destination=5),
        ago(0, country=FR),
    )
    inside = off <= 0
    assert last(*rows)["src_destination_entropy_7d"] == (1.0 if inside else 0.0)
    assert last(*rows)["country_mismatch"] == (1.0 if inside else 0.0)


def test_a_burst_within_one_timestamp_counts_itself_up() -> None:
    matrix = replayed([ago(0)] * 50)
    assert matrix[:, FEATURE_INDEX["tx_last_10min"]].tolist() == list(range(50))
    assert served([ago(0)] * 50).tobytes() == matrix.tobytes()


def test_a_late_transaction_takes_its_place_at_the_end() -> None:
    late = (ago(0, amount=70_000), ago(3 * DAY, amount=10_000))
    values = last(*late)
    assert values["src_tx_count_out_5m"] == 1
    assert values["src_tx_amount_max_out_5m"] == 7
    assert values["days_since_last_src_to_dst"] == 0
    following = last(*late, Row(created_at=NOW + 5 * MINUTE))
    assert following["src_tx_count_out_5m"] == 2


def test_only_negative_amounts_have_a_negative_maximum() -> None:
    values = last(ago(1, amount=-50_000), ago(1, amount=-20_000), ago(0))
    assert values["src_tx_amount_max_out_5m"] == -2
    assert values["src_tx_amount_sum_out_5m"] == -7
    assert values["src_tx_amount_mean_out_5m"] == -3.5


def test_payments_that_cancel_out_leave_a_sum_and_a_mean_of_zero() -> None:
    values = last(ago(1, amount=-50_000), ago(1, amount=50_000), ago(0))
    assert values["src_tx_amount_sum_out_5m"] == 0
    assert values["avg_amount_30d"] == 0


def test_days_since_the_last_payment_to_this_destination_counts_from_the_latest() -> None:
    values = last(ago(20 * DAY), ago(36 * HOUR), ago(HOUR, destination=9), ago(0))
    assert values["days_since_last_src_to_dst"] == 1.5
    assert values["src_to_dst_tx_count_30d"] == 2


def test_entropy_of_known_shares() -> None:
    def entropy(*destinations: int) -> float:
        rows = [ago(1, destination=d) for d in destinations]
        return last(*rows, ago(0))["src_destination_entropy_7d"]

    assert entropy(1) == 0
    assert entropy(1, 1, 1) == 0
    assert entropy(1, 2) == 1
    assert entropy(*range(8)) == 3
    assert entropy(1, 1, 1, 2) == pytest.approx(2 - 0.75 * math.log2(3), abs=1e-8)


def test_countries() -> None:
    def place(here: int, *before: int) -> tuple[float, float]:
        values = last(*(ago(1, country=c) for c in before), ago(0, country=here))
        return values["is_new_country_30d"], values["country_mismatch"]

    assert place(FR) == (1, 0)
    assert place(-1) == (0, 0)
    assert place(FR, -1) == (1, 0), "attempts without a country say nothing of others"
    assert place(-1, FR) == (0, 0)
    assert place(FR, FR) == (0, 0)
    assert place(FR, US) == (1, 1)
    assert place(FR, US, FR) == (0, 0), "as many as the top country's is no mismatch"
    assert place(FR, US, FR, US) == (0, 1)
    assert place(FR, US, FR, -1, -1) == (0, 0)
    assert place(0) == (1, 0)
    assert place(675, 0) == (1, 1)
    assert place(676) == (0, 0), "no two letters have this code"
    assert place(FR, 676, 676, FR) == (0, 0)


def test_a_failure_counts_once_it_is_known() -> None:
    rows = [ago(2 * HOUR, failed_from=3), ago(HOUR), ago(30 * MINUTE), ago(0), ago(0)]
    at = FEATURE_INDEX["src_failed_count_24h"]
    assert replayed(rows)[:, at].tolist() == [0, 0, 0, 1, 1]
    assert served(rows)[:, at].tolist() == [0, 0, 0, 1, 1]
    assert last(*rows[:4])["src_failed_ratio_7d"] == 1 / 3


def test_a_failure_heard_of_late_takes_its_place_at_the_end_of_the_failures() -> None:
    """The first attempt's failure is told after the second's, and so lasts as long as it."""
    rows = [
        ago(25 * HOUR, failed_from=3),
        ago(23 * HOUR, failed_from=2),
        ago(HOUR),
        ago(0),
    ]
    assert last(*rows)["src_failed_count_24h"] == 2
    in_order = [ago(25 * HOUR, failed_from=2), ago(23 * HOUR, failed_from=2), ago(HOUR), ago(0)]
    assert last(*in_order)["src_failed_count_24h"] == 1


def test_the_failed_ratio_is_at_most_one() -> None:
    rows = [
        ago(8 * DAY, failed_from=3),
        ago(6 * DAY, failed_from=2),
        ago(1, source=99),
        ago(0),
    ]
    assert last(*rows)["src_tx_count_out_7d"] == 1
    assert last(*rows)["src_failed_ratio_7d"] == 1


def test_blocked_attempts_are_attempts_too() -> None:
    values = last(ago(2, blocked=True), ago(1), ago(1, blocked=True), ago(0))
    assert values["blocked_tx_last_24h"] == 2
    assert values["tx_last_10min"] == 3


def test_counts_and_sums_go_beyond_the_tail_and_the_others_do_not() -> None:
    rows = [ago(2, destination=i, amount=10_000 * (i == 0) + 1) for i in range(1_500)]
    values = last(*rows, ago(0, destination=0))
    assert values["src_tx_count_out_5m"] == 1_500
    assert values["src_tx_amount_sum_out_5m"] == (1_500 + 10_000) / 10_000
    assert values["src_tx_amount_max_out_5m"] == 0.0001
    assert values["src_unique_destinations_5m"] == 1_000
    assert values["is_new_beneficiary"] == 1
    assert values["src_destination_concentration_7d"] == 0.001


# The store of the live path.


def test_an_event_is_seven_little_endian_integers() -> None:
    first = next_event(
        EMPTY_HISTORY.events,
        created_at_us=NOW, amount=15_000, destination=-7, country=FR, blocked=False,
    )  # fmt: skip
    assert len(first) == EVENT_BYTES == 56
    assert first == b"".join(
        value.to_bytes(8, "little", signed=True) for value in (NOW, 15_000, -7, FR, 1, 15_000, 0)
    )
    second = next_event(
        decode_events(first),
        created_at_us=NOW - 1, amount=-1, destination=9, country=-1, blocked=True,
    )  # fmt: skip
    assert decode_events(second).tolist() == [[NOW, -1, 9, -1, 2, 14_999, 1]]


def test_the_running_total_wraps_and_its_differences_stay_exact() -> None:
    top = np.array([[NOW, 1, 2, -1, 1, 2**63 - 5, 0]], dtype=np.int64)
    wrapped = decode_events(
        next_event(top, created_at_us=NOW, amount=10, destination=2, country=-1, blocked=False)
    )
    assert wrapped[0, 5] == -(2**63) + 5
    edges = np.zeros_like(EMPTY_HISTORY.edges)
    edges[:] = (1, 2**63 - 5, 0)
    history = EMPTY_HISTORY._replace(events=wrapped, edges=edges)
    values = compute_live(created_at_us=NOW, destination=2, country=-1, history=history)
    assert values[FEATURE_INDEX["src_tx_amount_sum_out_5m"]] == 0.001


def test_an_incoming_event_is_four_little_endian_integers() -> None:
    first = next_incoming(EMPTY_HISTORY.incoming, created_at_us=NOW, amount=2**63 - 5, source=-7)
    assert len(first) == INCOMING_BYTES == 32
    assert decode_incoming(first).tolist() == [[NOW, -7, 1, 2**63 - 5]]
    second = next_incoming(decode_incoming(first), created_at_us=NOW - 1, amount=10, source=9)
    assert decode_incoming(second).tolist() == [[NOW, 9, 2, 5 - 2**63]]


def test_half_an_event_is_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        decode_events(b"\0" * 64)
    with pytest.raises(ValueError, match="reshape"):
        decode_incoming(b"\0" * 40)


@pytest.mark.parametrize(("part", "columns"), [("events", 7), ("incoming", 4)])
def test_a_history_longer_than_the_tail_is_refused(part: str, columns: int) -> None:
    history = EMPTY_HISTORY._replace(**{part: np.ones((1_001, columns), dtype=np.int64)})
    with pytest.raises(ValueError, match="at most 1000"):
        compute_live(created_at_us=NOW, destination=1, country=-1, history=history)


def test_windows_to_seek_are_those_that_begin_at_or_before_a_cut_tail() -> None:
    store = LiveStore()
    for _ in range(1_001):
        store.accept(ago(0))
    tail = decode_events(b"".join(store.events[1][-1_000:]))
    last_window = len(ADDITIVE_WINDOWS) - 1
    assert windows_to_seek(tail, NOW) == tuple(range(len(ADDITIVE_WINDOWS)))
    assert windows_to_seek(tail, NOW + 30 * DAY) == (last_window,)
    assert windows_to_seek(tail, NOW + 30 * DAY + 1) == ()
    whole = decode_events(b"".join(store.events[1][:1_000]))
    assert windows_to_seek(whole, NOW) == ()
    assert windows_to_seek(EMPTY_HISTORY.events, NOW) == ()


def test_the_edges_of_a_destination() -> None:
    assert fraud_edge_times(NOW, 2 * DAY) == (
        NOW - 2 * DAY, NOW - 3 * DAY, NOW - 9 * DAY, NOW - 32 * DAY,
    )  # fmt: skip
    assert incoming_edge_times(NOW, 2 * DAY) == (
        NOW - HOUR, NOW - DAY, NOW - 7 * DAY, NOW - 30 * DAY, *fraud_edge_times(NOW, 2 * DAY)
    )  # fmt: skip
    assert NO_INCOMING_EDGES.shape == (8, 2)


def test_incoming_edges_to_seek_are_those_at_or_before_a_cut_tail() -> None:
    store = LiveStore()
    for _ in range(1_001):
        store.accept(ago(0))
    tail = decode_incoming(b"".join(store.incoming[2][-1_000:]))
    assert incoming_edges_to_seek(tail, NOW, 0) == tuple(range(8))
    assert incoming_edges_to_seek(tail, NOW + 7 * DAY, 7 * DAY) == (2, 3, 4, 5, 6, 7)
    assert incoming_edges_to_seek(tail, NOW + 30 * DAY, 7 * DAY) == (3, 7)
    assert incoming_edges_to_seek(tail, NOW + 30 * DAY + 1, 7 * DAY) == (7,)
    assert incoming_edges_to_seek(tail, NOW + 37 * DAY + 1, 7 * DAY) == ()
    whole = decode_incoming(b"".join(store.incoming[2][:1_000]))
    assert incoming_edges_to_seek(whole, NOW, 0) == ()
    assert incoming_edges_to_seek(EMPTY_HISTORY.incoming, NOW, 0) == ()


def test_effective_time() -> None:
    events = np.array([[NOW, 1, 2, -1, 1, 1, 0]], dtype=np.int64)
    assert effective_time(NOW - 1, EMPTY_HISTORY.events) == NOW - 1
    assert effective_time(NOW - 1, events) == NOW
    assert effective_time(NOW + 1, events) == NOW + 1


def test_countries_of_the_last_30_days_are_sorted_and_distinct() -> None:
    store = LiveStore()
    for row in (
        ago(30 * DAY + 1, country=675),
        ago(30 * DAY, country=US),
        ago(2, country=FR),
        ago(1, country=FR),
        ago(1, country=0),
        ago(1, country=676),
        ago(1),
    ):
        store.accept(row)
    events = decode_events(b"".join(store.events[1]))
    assert countries_30d(events, NOW) == ["AA", "FR", "US"]
    assert countries_30d(EMPTY_HISTORY.events, NOW) == []


# The data set's side.


def test_an_empty_data_set_has_no_rows() -> None:
    assert replayed([]).shape == (0, len(CATALOGUE))


def test_failures_of_a_data_set_are_known_to_the_next_row() -> None:
    assert visible_at_once(np.array([True, False, True])).tolist() == [1, NEVER, 3]


def test_faulty_columns_are_refused() -> None:
    two, three = np.zeros(2, dtype=np.int64), np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="differ in length"):
        replay(two, two, two, three, two)
    with pytest.raises(ValueError, match="differ in length"):
        replay(two, two, two, two, two, failed_visible_from=np.full(3, NEVER))
    with pytest.raises(ValueError, match="differ in length"):
        replay(two, two, two, two, two, fraud_visible_from=np.full(3, NEVER))
    with pytest.raises(ValueError, match="failure is visible only to rows after its own"):
        replay(two, two, two, two, two, failed_visible_from=np.array([0, NEVER]))
    with pytest.raises(ValueError, match="fraud is visible only to rows after its own"):
        replay(two, two, two, two, two, fraud_visible_from=np.array([NEVER, 1]))
    with pytest.raises(ValueError, match="delay is not negative"):
        replay(two, two, two, two, two, label_delay=-1)
    for rows in ([2], [-1, 0]):
        with pytest.raises(ValueError, match="there are 2 rows"):
            replay(two, two, two, two, two, rows=np.array(rows))


def test_progress_ends_with_every_row() -> None:
    seen: list[int] = []
    column = np.zeros(50_000, dtype=np.int64)
    wallets = np.arange(50_000)
    replay(column, column, wallets, column, column, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 50_000
    assert len(seen) > 1
