"""Where features computed again differ from what was recorded when the decisions were made.

What was recorded is what the model of the day was given, and a run uses it. That it can be computed
again from the traffic alone is a check: of the engine, and of how complete the traffic is.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.features.catalogue import CATALOGUE, FEATURE_INDEX
from training.pipeline.features import BLOCK, Features
from training.pipeline.recorded import LABEL_GROUP, Recorded
from training.pipeline.table import Transactions

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]

TOLERANCE = 1e-6
MOST_ROWS = 1_000_000
"""Of more, every second, third, … is compared."""
CAUSES = ("sent", "before the data", "out of order", "loaded history", "labels", "outcomes", "none")
"""Why a value can differ, the first that holds: the caller sent it; its window begins before the
data set; a wallet's transactions were not accepted in the order of their times; a wallet's history
was loaded and not scored; a label came late or was changed; an outcome came later than at once.
`none`: nothing explains it."""
_OF_GROUP = {LABEL_GROUP: "labels", "status": "outcomes"}
_WINDOWS = np.array([feature.window for feature in CATALOGUE])
_FROM_LABELS = np.array([feature.group == LABEL_GROUP for feature in CATALOGUE])


def compare(
    data: Transactions,
    features: Features,
    label_delay: int,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Any] | None:
    """What `report.json` says of recorded values; None for other than recorded traffic.

    For each feature: on how many rows both are known and mean the same, on how many they differ by
    more than 1e-6, the largest difference, and by cause how many rows.
    """
    recorded = data.recorded
    if recorded is None or data.label_from is None:
        return None
    in_period = ~data.label_from.is_in(("history",))
    decided = np.flatnonzero(in_period & (recorded.version[: len(data)] >= 0))
    rows = decided[:: -(-len(decided) // MOST_ROWS) or 1]
    comparison = _Comparison(data, recorded, label_delay)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        comparison.add(block, features.computed(block))
        progress((start + len(block)) / len(rows))
    return {
        "decided_rows": len(decided),
        "compared_rows": len(rows),
        "history_rows": len(data) - len(decided),
        "versions": _versions(recorded, decided, label_delay),
        "features": comparison.described(),
    }


def _versions(recorded: Recorded, decided: Rows, label_delay: int) -> list[dict[str, Any]]:
    """By version: its rows, how many of its features are used, and whether those made of labels
    are among them."""
    counts = np.bincount(recorded.version[decided], minlength=len(recorded.versions))
    comparable = recorded.comparable(label_delay)
    return [
        {
            "version": name,
            "rows": int(counts[at]),
            "features_used": int(comparable[at].sum()),
            "same_definitions": recorded.definitions_of(name).hold,
            "same_label_delay": recorded.definitions_of(name).label_delay_us == label_delay,
        }
        for at, name in enumerate(recorded.versions)
        if counts[at]
    ]


class _Comparison:
    """What was found so far, feature by feature."""

    def __init__(self, data: Transactions, recorded: Recorded, label_delay: int) -> None:
        count = len(CATALOGUE)
        self._recorded = recorded
        self._comparable = recorded.comparable(label_delay)
        self._since = data.created_at - data.created_at[0]
        self._reach = _WINDOWS + np.where(_FROM_LABELS, label_delay, 0)
        self._unordered = _of_wallets(
            data,
            _out_of_order(data.source, recorded.accepted[: len(data)]),
            _out_of_order(data.destination, recorded.accepted[: len(data)]),
        )
        loaded = recorded.version[: len(data)] < 0
        self._loaded = _of_wallets(data, data.source[loaded], data.destination[loaded])
        self._compared, self._differing = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._largest = np.zeros(count)
        self._causes = np.zeros((len(CAUSES), count), np.int64)

    def add(self, rows: Rows, computed: NDArray[np.float64]) -> None:
        """Compare some rows with what was computed for them."""
        values = self._recorded.values(rows)
        known = self._comparable[self._recorded.version[rows]] & ~np.isnan(values)
        sent = self._sent(rows)
        known |= sent & ~np.isnan(values)
        difference = np.where(known, np.abs(values - computed), 0.0)
        difference[np.isnan(difference)] = np.inf  # computed again, it is not known
        differs = difference > TOLERANCE
        self._compared += known.sum(axis=0)
        self._differing += differs.sum(axis=0)
        finite = np.where(np.isinf(difference), 0.0, difference)
        self._largest = np.maximum(self._largest, finite.max(axis=0, initial=0.0))
        self._explain(rows, differs, sent)

    def _explain(self, rows: Rows, differs: Mask, sent: Mask) -> None:
        of_group = [_OF_GROUP.get(feature.group, "none") for feature in CATALOGUE]
        holding = {
            "sent": sent,
            "before the data": (self._since[rows][:, None] < self._reach)
            & (not self._recorded.is_complete),
            "out of order": self._unordered[rows][:, None],
            "loaded history": self._loaded[rows][:, None],
        }
        left = differs
        for at, cause in enumerate(CAUSES):
            holds = holding.get(cause, np.array([cause == each for each in of_group]))
            self._causes[at] += (left & holds).sum(axis=0)
            left = left & ~holds

    def _sent(self, rows: Rows) -> Mask:
        found = np.zeros((len(rows), len(CATALOGUE)), np.bool_)
        for name in self._recorded.sent.keys() & FEATURE_INDEX.keys():
            places, _ = self._recorded.sent[name].among(rows)
            found[places, FEATURE_INDEX[name]] = True
        return found

    def described(self) -> list[dict[str, Any]]:
        """Each feature that was compared, those that differ most often first."""
        order = np.argsort(-self._differing, kind="stable")
        return [
            {
                "name": CATALOGUE[at].name,
                "compared": int(self._compared[at]),
                "differ": int(self._differing[at]),
                "largest": float(self._largest[at]),
                "causes": {
                    cause: int(count)
                    for cause, count in zip(CAUSES, self._causes[:, at], strict=True)
                    if count
                },
            }
            for at in order
            if self._compared[at]
        ]


def _out_of_order(wallets: Rows, accepted: Rows) -> Rows:
    """The wallets whose transactions were not accepted in the order in which they stand."""
    order = np.argsort(wallets, kind="stable")
    same = wallets[order][1:] == wallets[order][:-1]
    fell = accepted[order][1:] < accepted[order][:-1]
    found: Rows = wallets[order][1:][same & fell]
    return found


def _of_wallets(data: Transactions, sources: Rows, destinations: Rows) -> Mask:
    """(rows,) whose source is one of some wallets, or whose destination is one of others."""
    is_source, is_destination = np.zeros((2, len(data.wallets)), np.bool_)
    is_source[sources], is_destination[destinations] = True, True
    found: Mask = is_source[data.source] | is_destination[data.destination]
    return found
