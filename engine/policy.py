"""From scores to a decision: weights, boost, calibration and two thresholds.

The formula is the one of the business rules: with the boosts B of the rules that fired,
`raw = clip((w_rule·r + w_sup·s + w_unsup·u)·(1 + r), 0, 1)` where `r = min(1, B)`, and
`risk = calibration(raw)`. A rule that blocks never reaches it. The same code decides one live
transaction and a whole data set, so they agree to the last bit.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Outcome = Literal["APPROVE", "REVIEW", "BLOCK"]
APPROVE: Outcome = "APPROVE"
REVIEW: Outcome = "REVIEW"
BLOCK: Outcome = "BLOCK"
OUTCOMES: Final = (APPROVE, REVIEW, BLOCK)
"""From the mildest to the hardest."""


@dataclass(frozen=True)
class PiecewiseLinear:
    """A strictly increasing curve through the points (x, y), constant outside them."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.x) < 2:
            raise ValueError("a curve needs as many y as x, at least two")
        for name, values in (("x", self.x), ("y", self.y)):
            if not all(map(math.isfinite, values)):
                raise ValueError(f"the curve's {name} must be finite")
            if any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"the curve's {name} must be strictly increasing")

    def __call__(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the curve at `values`, in their shape."""
        points = np.asarray(values, dtype=np.float64)
        return np.asarray(np.interp(points, self.x, self.y), dtype=np.float64)


@dataclass(frozen=True)
class Weights:
    """The share of each part in the raw score: finite, at least 0, not all 0."""

    rule: float = 0.2
    supervised: float = 0.6
    unsupervised: float = 0.2

    def __post_init__(self) -> None:
        values = (self.rule, self.supervised, self.unsupervised)
        if not all(math.isfinite(v) and v >= 0 for v in values) or not any(values):
            raise ValueError("weights must be finite, at least 0 and not all 0")


@dataclass(frozen=True)
class Policy:
    """Weights, thresholds on the risk score (`review <= block`) and an optional calibration.

    `calibration` maps [0, 1] onto [0, 1]; None is the identity.
    """

    review: float
    block: float
    weights: Weights = field(default_factory=Weights)
    calibration: PiecewiseLinear | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.review) and math.isfinite(self.block)):
            raise ValueError("thresholds must be finite")
        if not 0 < self.review <= self.block:
            raise ValueError("thresholds must satisfy 0 < review <= block")
        curve = self.calibration
        if curve and (curve.x[0], curve.x[-1], curve.y[0], curve.y[-1]) != (0, 1, 0, 1):
            raise ValueError("a calibration must lead from (0, 0) to (1, 1)")

    def risk(
        self, rule_score: ArrayLike, supervised: ArrayLike, unsupervised: ArrayLike
    ) -> NDArray[np.float64]:
        """Return the risk in [0, 1] of transactions that no rule blocked.

        `rule_score` is min(1, sum of boosts); the three are in [0, 1], scalars or arrays of
        shapes that broadcast to the result's.
        """
        rule = np.asarray(rule_score, dtype=np.float64)
        weights = self.weights
        raw = (
            weights.rule * rule
            + weights.supervised * np.asarray(supervised, dtype=np.float64)
            + weights.unsupervised * np.asarray(unsupervised, dtype=np.float64)
        ) * (1.0 + rule)
        raw = np.minimum(np.maximum(raw, 0.0), 1.0)
        return raw if self.calibration is None else self.calibration(raw)

    def decide(self, risk: float) -> Outcome:
        """Return the decision for one unrounded risk; a threshold belongs to the harder side."""
        return OUTCOMES[int(self.severity(risk))]

    def severity(self, risk: ArrayLike) -> NDArray[np.int8]:
        """Return the decisions for unrounded risks, in their shape, as positions in OUTCOMES."""
        risks = np.asarray(risk, dtype=np.float64)
        return (risks >= self.review).astype(np.int8) + (risks >= self.block)

    def carriers(
        self, rule_score: ArrayLike, supervised: ArrayLike, unsupervised: ArrayLike
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return whether the supervised, and whether the unsupervised model carried the decision.

        A model carried it when the decision would be milder had that model said 0. When that
        holds for neither alone, but for both together, the larger contribution did. Nothing
        carries an APPROVE. Takes what `risk` does.
        """
        first, second = np.asarray(supervised), np.asarray(unsupervised)
        decided = self.severity(self.risk(rule_score, first, second))

        def is_milder(supervised: ArrayLike, unsupervised: ArrayLike) -> NDArray[np.bool_]:
            return self.severity(self.risk(rule_score, supervised, unsupervised)) < decided

        by_first, by_second = is_milder(0.0, second), is_milder(first, 0.0)
        jointly = is_milder(0.0, 0.0) & ~by_first & ~by_second
        larger = self.weights.supervised * first >= self.weights.unsupervised * second
        return by_first | (jointly & larger), by_second | (jointly & ~larger)
