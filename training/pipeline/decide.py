"""The policy: weights, calibration and thresholds, from validation, with the rules replayed.

The thresholds decide what is blocked, past blocks raise the risk of what follows (R15), and the
thresholds are read off those risks: they are set again until they stay the same.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidDataset
from engine.policy import PiecewiseLinear, Policy, Weights
from training.pipeline.calibrate import choose_weights, fit_calibration
from training.pipeline.rules_replay import Replayed, RuleReplay
from training.pipeline.spec import Options
from training.pipeline.thresholds import (
    Thresholds,
    saving,
    thresholds_by_budget,
    thresholds_by_cost,
)

# They settle in two rounds or three.
ROUNDS = 5
# No risk reaches 2: only rules block.
NEVER = 2.0


class Validation(NamedTuple):
    """The rows that the policy is set on, which come first among the rows that are replayed."""

    labels: NDArray[np.bool_]
    """(rows,) the frauds known at the cut-off."""
    amount: NDArray[np.float64]
    """(rows,) in units of the currency."""
    usable: NDArray[np.bool_]
    """(rows,) whose label can be learnt from. Of the others it is only known that a decision is
    made about them: they count where thresholds are set by rates."""

    def take(self, rows: NDArray[np.bool_]) -> "Validation":
        """The rows where `rows` is True."""
        return Validation(self.labels[rows], self.amount[rows], self.usable[rows])


class Decided(NamedTuple):
    """A policy, and what it makes of every row that was replayed."""

    policy: Policy
    thresholds: Thresholds
    frauds: int
    """Frauds among the validation rows that reach the models: what the policy was chosen by."""
    saving: float | None
    """Expected on validation, units of the currency per 1,000 rows that reach the models, beside
    approving them; None without costs."""
    replayed: Replayed


def set_policy(
    rule_replay: RuleReplay,
    supervised: NDArray[np.float64],
    unsupervised: NDArray[np.float64],
    validation: Validation,
    options: Options,
) -> Decided:
    """Weights, calibration and thresholds from the validation part, and the replay under them.

    Args:
        supervised, unsupervised: (rows,) scores in [0, 1] of the rows that are replayed.

    Raises:
        InvalidDataset: thresholds by cost are asked, and no probability can be told.
    """
    first = slice(0, len(validation.labels))
    policy = Policy(NEVER, NEVER)
    replayed = rule_replay.replay(policy, supervised, unsupervised)
    asked = ~replayed.rule_blocked[first] & validation.usable
    weights = choose_weights(
        replayed.rule_score[first][asked],
        supervised[first][asked],
        unsupervised[first][asked],
        validation.labels[asked],
    )
    for _ in range(ROUNDS):
        asked = ~replayed.rule_blocked[first]
        raw = Policy(NEVER, NEVER, weights).risk(
            replayed.rule_score[first][asked], supervised[first][asked], unsupervised[first][asked]
        )
        reached = validation.take(asked)
        earlier = policy
        policy, thresholds, gain = _read_off(raw, reached, weights, options)
        if policy == earlier:
            break
        replayed = rule_replay.replay(policy, supervised, unsupervised)
    frauds = int(reached.labels[reached.usable].sum())
    return Decided(policy, thresholds, frauds, gain, replayed)


def _read_off(
    raw: NDArray[np.float64], reached: Validation, weights: Weights, options: Options
) -> tuple[Policy, Thresholds, float | None]:
    """The policy for these raw risks of the rows that reach the models, and its saving."""
    known = reached.take(reached.usable)
    calibration = fit_calibration(raw[reached.usable], known.labels)
    risk = _calibrated(raw, calibration)
    if options.costs is None:
        budgets = options.budgets
        thresholds = thresholds_by_budget(risk, budgets.block, budgets.review)
        gain = None
    elif calibration is None:
        raise InvalidDataset(
            "Thresholds by cost need probabilities, and none can be told: of the "
            f"{len(raw):,} validation rows that the rules do not block, "
            f"{int(known.labels.sum()):,} are known frauds, too few or with no higher risks than "
            "other rows. Set the thresholds by rates (--block-rate, --review-rate), take other "
            "rules (--rules) that block less, or a longer validation part."
        )
    else:
        thresholds = thresholds_by_cost(risk, reached.amount, options.costs)
        gain = saving(risk[reached.usable], known.labels, known.amount, thresholds, options.costs)
    policy = Policy(thresholds.review, thresholds.block, weights, calibration)
    return policy, thresholds, gain


def _calibrated(
    raw: NDArray[np.float64], calibration: PiecewiseLinear | None
) -> NDArray[np.float64]:
    return raw if calibration is None else calibration(raw)
