"""The feature catalogue: every feature the engine knows, declared once, as data."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

SOURCE: Final = "source"
PAIR: Final = "source, destination"
PLACE: Final = "source, country"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature computed from a wallet's history.

    `key` says which attempts of the history count, `window` how far back they go (microseconds,
    the edge included), `aggregate` what is made of them, and `default` what the value is when
    there is nothing to aggregate. `model_input` is false for what only rules read.
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
    (SOURCE, "distinct destinations"): (kernel.OP_COUNT, kernel.STAT_DESTINATIONS),
    (SOURCE, "top destination share"): (kernel.OP_TOP_SHARE, 0),
    (SOURCE, "destination entropy"): (kernel.OP_ENTROPY, 0),
    (SOURCE, "failed count"): (kernel.OP_COUNT, kernel.STAT_FAILED),
    (SOURCE, "failed ratio"): (kernel.OP_FAILED_RATIO, 0),
    (SOURCE, "blocked count"): (kernel.OP_COUNT, kernel.STAT_BLOCKED),
    (PAIR, "count"): (kernel.OP_COUNT, kernel.STAT_PAIR),
    (PAIR, "is new"): (kernel.OP_NEW_DESTINATION, 0),
    (PAIR, "days since last"): (kernel.OP_DAYS_SINCE, 0),
    (PLACE, "is new"): (kernel.OP_NEW_COUNTRY, 0),
    (PLACE, "is below top"): (kernel.OP_BELOW_TOP_COUNTRY, 0),
}
_FAILURE_AGGREGATES: Final = frozenset({"failed count", "failed ratio"})

OWN: Final = (
    "amount", "log_amount", "hour_of_day", "day_of_week", "currency_is_pyc",
    "direction_outgoing", "direction_incoming",
)  # fmt: skip
OWN_BALANCE: Final = ("source_balance", "amount_to_balance")
"""What a model reads of the transaction itself, beside one column a category."""


class Plan(NamedTuple):
    """A catalogue as the kernel's tables."""

    windows: NDArray[np.int64]  # (windows, 2): length in µs ascending; failures slot, or 0
    program: NDArray[np.int64]  # (features, 3): operation, window, statistic
    defaults: NDArray[np.float64]  # (features,)

    @property
    def edges(self) -> tuple[int, ...]:
        """The lengths of the windows whose edges a long history is looked up at."""
        return tuple(self.windows[:, 0].tolist())

    @property
    def failure_edges(self) -> tuple[int, ...]:
        """The lengths of the windows over which failures are counted, in slot order."""
        return tuple(self.windows[self.windows[:, 1] > 0, 0].tolist())


def compile_catalogue(features: Sequence[Feature]) -> Plan:
    """The kernel's tables for `features`.

    Raises ValueError for an aggregate that its key does not have.
    """
    lengths = sorted({feature.window for feature in features})
    failing = sorted({f.window for f in features if f.aggregate in _FAILURE_AGGREGATES})
    program = []
    for feature in features:
        try:
            operation, statistic = _OPERATIONS[feature.key, feature.aggregate]
        except KeyError:
            raise ValueError(
                f"{feature.name}: there is no {feature.aggregate!r} over {feature.key!r}"
            ) from None
        program.append((operation, lengths.index(feature.window), statistic))
    slots = [(n, failing.index(n) + 1 if n in failing else 0) for n in lengths]
    return Plan(
        np.array(slots, dtype=np.int64),
        np.array(program, dtype=np.int64),
        np.array([feature.default for feature in features], dtype=np.float64),
    )


PLAN: Final = compile_catalogue(CATALOGUE)

ADDITIVE_WINDOWS: Final = PLAN.edges
"""Windows (µs, ascending) over which running totals are subtracted: rows of `edges`."""

FAILURE_WINDOWS: Final = PLAN.failure_edges
"""Windows (µs, ascending) over which failures are counted: `failures[1:]`."""

FEATURE_INDEX: Final[Mapping[str, int]] = {f.name: i for i, f in enumerate(CATALOGUE)}
"""Where a feature is in a row that the kernel returns."""


def fingerprint() -> str:
    """SHA-256 (hex) of the declarations: equal when every feature means the same."""
    declared = {
        "features": [asdict(feature) for feature in CATALOGUE],
        "own": [*OWN, *OWN_BALANCE],
        "tail": kernel.TAIL,
        "units": kernel.UNITS,
    }
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()
