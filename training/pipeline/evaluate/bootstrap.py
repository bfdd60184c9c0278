"""How far a figure could be from what it is, by chance.

Frauds come in episodes: a stolen wallet is emptied in a burst, or a compromised shop sees the
frauds of many wallets, and either all payments of an episode are caught or none. So wallets are
resampled, not rows: each counts Poisson(1) times in a replicate (Oza and Russell, 2001; nearly the
multinomial bootstrap, and one independent draw a wallet), and an interval is the range of the
middle 95 % of the replicates (Efron's percentile method). Which side the episodes are of is not
known: the source wallets are resampled and, apart from that, the destinations, and the interval
that is given spans both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from training.pipeline.evaluate.part import Array
from training.pipeline.evaluate.ranking import Weights

LEVEL = 0.95
# A figure that more replicates than this can't give has no interval.
MOST_UNDEFINED = 0.5

Path = tuple[str, ...]
Figures = Callable[[Weights], Mapping[str, Any]]


class Side(NamedTuple):
    """The wallets of one side of the transactions, each resampled as a whole."""

    wallets: int
    figures: Figures
    """Gives a nested mapping of numbers for weights of the wallets; the same keys always."""

    def draws(self, replicates: int, rng: np.random.Generator) -> dict[Path, Array]:
        """(replicates,) the values of each figure."""
        drawn = [
            _flat(self.figures(rng.poisson(1.0, self.wallets).astype(np.uint8)))
            for _ in range(replicates)
        ]
        return {path: np.array([draw[path] for draw in drawn]) for path in drawn[0]}


class Estimates:
    """Figures, each with the values that the replicates gave it.

    Args:
        sides: the first has every figure; of one that another side lacks, that side says nothing.
        replicates: how many resamples of each side, 1 or more.
    """

    def __init__(self, sides: Sequence[Side], *, replicates: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._found = _flat(sides[0].figures(np.ones(sides[0].wallets, np.uint8)))
        self._drawn = [side.draws(replicates, rng) for side in sides]

    def values(self) -> dict[str, Any]:
        """The figures, nested as they were given; None where one is not defined."""
        return _nested({path: _known(value) for path, value in self._found.items()})

    def intervals(self) -> dict[str, Any]:
        """`[low, high]` of each figure, nested as they were given; None where there is none."""
        return _nested(
            {
                path: interval([drawn[path] for drawn in self._drawn if path in drawn])
                for path in self._found
            }
        )

    def difference(self, ours: Path, theirs: Path) -> dict[str, Any]:
        """How much higher a figure is than another one on the same rows, and the interval of that.

        Paired: both see the same resampled wallets, so what is hard for both does not widen it.
        """
        return {
            "difference": _known(self._found[ours] - self._found[theirs]),
            "interval": interval(
                [drawn[ours] - drawn[theirs] for drawn in self._drawn if ours in drawn]
            ),
        }


def interval(draws: Sequence[Array]) -> list[float] | None:
    """From the lowest to the highest end of what each side's draws say; None if one can't say."""
    ends = [_middle(drawn) for drawn in draws]
    known = [each for each in ends if each is not None]
    if len(known) < len(ends):
        return None
    return [min(low for low, _ in known), max(high for _, high in known)]


def _middle(drawn: Array) -> tuple[float, float] | None:
    """The range of the middle 95 % of the values that are not NaN; None when most are."""
    undefined = np.isnan(drawn)
    if undefined.mean() > MOST_UNDEFINED:
        return None
    edge = (1 - LEVEL) / 2
    low, high = np.quantile(drawn[~undefined], [edge, 1 - edge])
    return float(low), float(high)


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
