"""How far a figure could be from what it is, by chance.

Frauds come in episodes: a stolen wallet is emptied in a burst, and either all of its payments are
caught or none. So wallets are resampled, not rows: each source wallet counts Poisson(1) times in a
replicate (Oza and Russell, 2001; nearly the multinomial bootstrap, and one independent draw a
wallet), and an interval is the range of the middle 95 % of the replicates (Efron's percentile
method).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from training.pipeline.evaluate.part import Array
from training.pipeline.evaluate.ranking import Weights

LEVEL = 0.95
# A figure that more replicates than this can't give has no interval.
MOST_UNDEFINED = 0.5

Path = tuple[str, ...]
Figures = Callable[[Weights], Mapping[str, Any]]


class Estimates:
    """Figures, each with the values that the replicates gave it.

    Args:
        figures: gives a nested mapping of numbers for weights of the wallets; the same keys always.
        wallets: how many wallets there are.
        replicates: how many resamples.
    """

    def __init__(self, figures: Figures, *, wallets: int, replicates: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._found = _flat(figures(np.ones(wallets, np.uint8)))
        drawn = [
            _flat(figures(rng.poisson(1.0, wallets).astype(np.uint8))) for _ in range(replicates)
        ]
        self._drawn = {path: np.array([draw[path] for draw in drawn]) for path in self._found}

    def values(self) -> dict[str, Any]:
        """The figures, nested as they were given; None where one is not defined."""
        return _nested({path: _known(value) for path, value in self._found.items()})

    def intervals(self) -> dict[str, Any]:
        """`[low, high]` of each figure, nested as they were given; None where there is none."""
        return _nested({path: interval(drawn) for path, drawn in self._drawn.items()})

    def difference(self, ours: Path, theirs: Path) -> dict[str, Any]:
        """How much higher a figure is than another one on the same rows, and the interval of that.

        Paired: both see the same resampled wallets, so what is hard for both does not widen it.
        """
        return {
            "difference": _known(self._found[ours] - self._found[theirs]),
            "interval": interval(self._drawn[ours] - self._drawn[theirs]),
        }


def interval(drawn: Array) -> list[float] | None:
    """The range of the middle 95 % of the values that are not NaN; None when most are."""
    undefined = np.isnan(drawn)
    if undefined.mean() > MOST_UNDEFINED:
        return None
    edge = (1 - LEVEL) / 2
    low, high = np.quantile(drawn[~undefined], [edge, 1 - edge])
    return [float(low), float(high)]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _flat(figures: Mapping[str, Any], above: Path = ()) -> dict[Path, float]:
    flat: dict[Path, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, (*above, name))
        else:
            flat[(*above, name)] = value
    return flat


def _nested(flat: Mapping[Path, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for (*above, name), value in flat.items():
        level = nested
        for key in above:
            level = level.setdefault(key, {})
        level[name] = value
    return nested
