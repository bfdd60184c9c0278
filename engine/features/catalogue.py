"""The feature catalogue: every feature the engine knows, declared once, as data."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features import kernel

MINUTE: Final = 60_000_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_SOURCE_WINDOWS: Final = {
    "5m": 5 * MINUTE, "1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY
}  # fmt: skip
_DESTINATION_WINDOWS: Final = {"1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
_FRAUD_WINDOWS: Final = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}

LABEL_DELAY: Final = 7 * DAY
"""How long (µs) a label takes to be known, where nothing else is said."""

SOURCE: Final = "source"
PAIR: Final = "source, destination"
PLACE: Final = "source, country"
DESTINATION: Final = "destination"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature computed from the history of a wallet.

    `key` says which attempts of the history count, `window` how far back they go (microseconds,
    the edge included), `aggregate` what is made of them, and `default` what the value is when
    there is nothing to aggregate. `model_input` is false for what only rules read. A window of
    confirmed frauds ends the label delay ago (its end excluded), any other one now.
    """

    name: str
    group: str
    key: str
    window: int
    aggregate: str
    default: float
    model_input: bool = True


def _source_wallet() -> tuple[Feature, ...]:
    return tuple(
        Feature(f"src_{name}_{suffix}", "source wallet", SOURCE, window, aggregate, 0.0)
        for suffix, window in _SOURCE_WINDOWS.items()
        for name, aggregate in (
            ("tx_count_out", "count"),
            ("tx_amount_sum_out", "amount sum"),
            ("tx_amount_mean_out", "amount mean"),
            ("tx_amount_max_out", "amount max"),
            ("unique_destinations", "distinct destinations"),
        )
    )


def _destination_wallet() -> tuple[Feature, ...]:
    return tuple(
        Feature(f"dst_{name}_{suffix}", "destination wallet", DESTINATION, window, aggregate, 0.0)
        for suffix, window in _DESTINATION_WINDOWS.items()
        for name, aggregate in (
            ("tx_count_in", "count"),
            ("tx_amount_sum_in", "amount sum"),
            ("tx_amount_mean_in", "amount mean"),
            ("unique_sources", "distinct sources"),
        )
    )


def _confirmed_fraud() -> tuple[Feature, ...]:
    return tuple(
        Feature(f"{name}_{suffix}", "confirmed fraud", key, window, aggregate, 0.0)
        for suffix, window in _FRAUD_WINDOWS.items()
        for name, key, aggregate in (
            ("dst_fraud_count", DESTINATION, "fraud count"),
            ("dst_fraud_ratio", DESTINATION, "fraud ratio"),
            ("src_fraud_count", SOURCE, "fraud count"),
        )
    )


CATALOGUE: Final[tuple[Feature, ...]] = (
    *_source_wallet(),
    Feature("is_new_destination_24h", "relation", PAIR, DAY, "is new", 1.0),
    Feature("is_new_destination_7d", "relation", PAIR, 7 * DAY, "is new", 1.0),
    Feature("is_new_destination_30d", "relation", PAIR, 30 * DAY, "is new", 1.0),
    Feature("src_to_dst_tx_count_30d", "relation", PAIR, 30 * DAY, "count", 0.0),
    Feature("days_since_last_src_to_dst", "relation", PAIR, 30 * DAY, "days since last", -1.0),
    Feature(
        "src_destination_concentration_7d", "dispersion", SOURCE, 7 * DAY,
        "top destination share", 0.0,
    ),
    Feature(
        "src_destination_entropy_7d", "dispersion", SOURCE, 7 * DAY, "destination entropy", 0.0
    ),
    Feature("is_new_country_30d", "place", PLACE, 30 * DAY, "is new", 1.0),
    Feature("country_mismatch", "place", PLACE, 30 * DAY, "is below top", 0.0),
    Feature("src_failed_count_24h", "status", SOURCE, DAY, "failed count", 0.0),
    Feature("src_failed_ratio_7d", "status", SOURCE, 7 * DAY, "failed ratio", 0.0),
    *_destination_wallet(),
    *_confirmed_fraud(),
    Feature("avg_amount_30d", "for rules", SOURCE, 30 * DAY, "amount mean", math.nan, False),
    Feature("tx_last_10min", "for rules", SOURCE, 10 * MINUTE, "count", 0.0, False),
    Feature("is_new_beneficiary", "for rules", PAIR, 30 * DAY, "is new", math.nan, False),
    Feature("blocked_tx_last_24h", "for rules", SOURCE, DAY, "blocked count", 0.0, False),
)  # fmt: skip
"""Every feature that the kernel computes, in the order in which it returns them."""

_OPERATIONS: Final[Mapping[tuple[str, str], tuple[int, int]]] = {
    (SOURCE, "count"): (kernel.OP_COUNT, kernel.STAT_COUNT),
    (SOURCE, "amount sum"): (kernel.OP_MONEY, kernel.STAT_SUM),
    (SOURCE, "amount mean"): (kernel.OP_MEAN, 0),
    (SOURCE, "amount max"): (kernel.OP_MONEY, kernel.STAT_MAX),
    (SOURCE, "distinct destinations"): (kernel.OP_COUNT, kernel.STAT_WALLETS),
    (SOURCE, "top destination share"): (kernel.OP_TOP_SHARE, 0),
    (SOURCE, "destination entropy"): (kernel.OP_ENTROPY, 0),
    (SOURCE, "failed count"): (kernel.OP_COUNT, kernel.STAT_FAILED),
    (SOURCE, "failed ratio"): (kernel.OP_SHARE, kernel.STAT_FAILED),
    (SOURCE, "blocked count"): (kernel.OP_COUNT, kernel.STAT_BLOCKED),
    (PAIR, "count"): (kernel.OP_COUNT, kernel.STAT_PAIR),
    (PAIR, "is new"): (kernel.OP_NEW_DESTINATION, 0),
    (PAIR, "days since last"): (kernel.OP_DAYS_SINCE, 0),
    (PLACE, "is new"): (kernel.OP_NEW_COUNTRY, 0),
    (PLACE, "is below top"): (kernel.OP_BELOW_TOP_COUNTRY, 0),
    (DESTINATION, "count"): (kernel.OP_COUNT, kernel.STAT_COUNT),
    (DESTINATION, "amount sum"): (kernel.OP_MONEY, kernel.STAT_SUM),
    (DESTINATION, "amount mean"): (kernel.OP_MEAN, 0),
    (DESTINATION, "distinct sources"): (kernel.OP_COUNT, kernel.STAT_WALLETS),
    (SOURCE, "fraud count"): (kernel.OP_COUNT, kernel.STAT_FRAUDS_OUT),
    (DESTINATION, "fraud count"): (kernel.OP_COUNT, kernel.STAT_FRAUDS_IN),
    (DESTINATION, "fraud ratio"): (kernel.OP_SHARE, kernel.STAT_FRAUDS_IN),
}
_FAILURE_AGGREGATES: Final = frozenset({"failed count", "failed ratio"})
_FRAUD_AGGREGATES: Final = frozenset({"fraud count", "fraud ratio"})

OWN: Final = (
    "amount", "log_amount", "hour_of_day", "day_of_week", "currency_is_pyc",
    "direction_outgoing", "direction_incoming",
)  # fmt: skip
OWN_BALANCE: Final = ("source_balance", "amount_to_balance")
"""What a model reads of the transaction itself, beside one column a category."""

RATIOS: Final[Mapping[str, str]] = {
    "amount_to_src_mean_7d": "src_tx_amount_mean_out_7d",
    "amount_to_src_mean_30d": "src_tx_amount_mean_out_30d",
    "amount_to_src_max_30d": "src_tx_amount_max_out_30d",
    "amount_to_dst_mean_30d": "dst_tx_amount_mean_in_30d",
}
"""Inputs that are the transaction's amount over a feature: unknown unless that is above 0."""


class Plan(NamedTuple):
    """A catalogue as the kernel's tables."""

    windows: NDArray[np.int64]  # (windows, 2): length in µs ascending; failures slot, or 0
    incoming: NDArray[np.int64]  # of the destination's windows: length in µs ascending
    delayed: NDArray[np.int64]  # of the windows of confirmed frauds: likewise
    program: NDArray[np.int64]  # (features, 3): operation, window of the three lists, statistic
    defaults: NDArray[np.float64]  # (features,)


def compile_catalogue(features: Sequence[Feature]) -> Plan:
    """The kernel's tables for `features`.

    Raises ValueError for an aggregate that its key does not have.
    """
    kinds = [_kind(feature) for feature in features]
    windows = sorted({(k, f.window) for k, f in zip(kinds, features, strict=True)})
    failing = sorted({f.window for f in features if f.aggregate in _FAILURE_AGGREGATES})
    program = []
    for kind, feature in zip(kinds, features, strict=True):
        try:
            operation, statistic = _OPERATIONS[feature.key, feature.aggregate]
        except KeyError:
            raise ValueError(
                f"{feature.name}: there is no {feature.aggregate!r} over {feature.key!r}"
            ) from None
        program.append((operation, windows.index((kind, feature.window)), statistic))
    outgoing, incoming, delayed = (
        [length for kind, length in windows if kind == each] for each in range(3)
    )
    slots = [(n, failing.index(n) + 1 if n in failing else 0) for n in outgoing]
    return Plan(
        np.array(slots, dtype=np.int64).reshape(-1, 2),
        np.array(incoming, dtype=np.int64),
        np.array(delayed, dtype=np.int64),
        np.array(program, dtype=np.int64),
        np.array([feature.default for feature in features], dtype=np.float64),
    )


def _kind(feature: Feature) -> int:
    """Which of a plan's lists of windows, in their order, a feature's window is in."""
    if feature.aggregate in _FRAUD_AGGREGATES:
        return 2
    return 1 if feature.key == DESTINATION else 0


PLAN: Final = compile_catalogue(CATALOGUE)

ADDITIVE_WINDOWS: Final[tuple[int, ...]] = tuple(PLAN.windows[:, 0].tolist())
"""Windows (µs, ascending) of a source over which running totals are subtracted: `edges`."""

FAILURE_WINDOWS: Final[tuple[int, ...]] = tuple(PLAN.windows[PLAN.windows[:, 1] > 0, 0].tolist())
"""Windows (µs, ascending) over which failures are counted: `failures[1:]`."""

INCOMING_WINDOWS: Final[tuple[int, ...]] = tuple(PLAN.incoming.tolist())
"""Windows (µs, ascending) of a destination: the first rows of `incoming_edges`."""

FRAUD_WINDOWS: Final[tuple[int, ...]] = tuple(PLAN.delayed.tolist())
"""Windows (µs, ascending) over which confirmed frauds are counted, from the label delay back."""

FEATURE_INDEX: Final[Mapping[str, int]] = {f.name: i for i, f in enumerate(CATALOGUE)}
"""Where a feature is in a row that the kernel returns."""


def fingerprint(names: Iterable[str]) -> str:
    """SHA-256 (hex) of what these inputs mean: names of features, or of ratios to one.

    Equal when each of them is defined as it was; what else the catalogue has does not matter.
    """
    features = {feature.name: feature for feature in CATALOGUE}
    declared = {
        "features": [(name, _definition(features[RATIOS.get(name, name)])) for name in names],
        "own": [*OWN, *OWN_BALANCE],
        "tail": kernel.TAIL,
        "units": kernel.UNITS,
    }
    return hashlib.sha256(json.dumps(declared).encode()).hexdigest()


def _definition(feature: Feature) -> tuple[str, str, int, str, float]:
    return feature.name, feature.key, feature.window, feature.aggregate, feature.default
