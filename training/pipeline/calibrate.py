"""From scores to a risk that can be read as a probability: the anomaly scale, the weights, and the
calibration. All are read off the validation part, which neither model was fitted on.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from engine.errors import InvalidDataset
from engine.policy import PiecewiseLinear, Policy, Weights

# The rarest anomaly that the scale tells apart: one row in 10 ** DECADES scores 1.
DECADES = 3.0
KNOTS = 61
CANDIDATES = tuple(
    Weights(rule, round(1 - rule - unsupervised, 2), unsupervised)
    for rule in (0.2, 0.1, 0.05)
    for unsupervised in (0.2, 0.1, 0.05)
)
CLEARLY_BETTER = 1.05
# With n frauds an average precision near 0.5 has a standard error of about sqrt(0.25 / n), a
# seventh of it at 50; the best of nine settings is 5 % better by chance more often than not.
FRAUDS_TO_CHOOSE = 50
# Fewer, and the shape of the calibration is not read off the data but assumed to be logistic.
FRAUDS_FOR_ISOTONIC = 50
FRAUDS_A_KNOT = 10
MOST_KNOTS = 24
# Points between two knots of the calibration, which is straight in log-odds and not in between.
STEPS = 4
# The share of the identity in the calibration: what keeps it strictly increasing.
SLOPE = 1e-4
# The slope of the anomaly scale at most: of raw scores that differ by 1e-9, as they may from one
# machine to another, it makes scores that differ by 1e-6.
STEEPEST = 1_000.0
# Knots nearer to one another would be one number after the calibration.
CLOSEST = 1e-9
# The last knot lies here at the latest. From it the curve rises to (1, 1), which no data asks for.
LAST = 0.999
# The log-odds by which the highest risk of validation is above the mean of its step.
RISE = 1e-3


def anomaly_scale(raw: NDArray[np.float64]) -> PiecewiseLinear:
    """The map from raw anomaly scores to [0, 1]: s means that one row in 10 ** (3 s) is as odd.

    A plain quantile would press all that matters, the last percent, into 0.99 to 1 and give the
    median row 0.5. On this scale the median row gets 0.1, the top 10 % begin at 1/3, the top 1 % at
    2/3 and the top 0.1 % at 1. Where quantiles nearly coincide they are moved apart, upwards, by
    1 / STEEPEST at most.

    Args:
        raw: (rows,) validation scores, higher = more anomalous.

    Raises:
        InvalidDataset: the raw scores do not vary.
    """
    scale = np.linspace(0.0, 1.0, KNOTS)
    # Of tied quantiles the first: as odd as a group of equal scores is everything from its start.
    knots, first = np.unique(np.quantile(raw, 1.0 - 10.0 ** (-DECADES * scale)), return_index=True)
    if len(knots) < 2:
        raise InvalidDataset(
            "The anomaly model gives (nearly) every validation row the same score: the features "
            "do not vary."
        )
    scale = scale[first]
    knots = np.maximum.accumulate(knots - scale / STEEPEST) + scale / STEEPEST
    return PiecewiseLinear(tuple(knots.tolist()), tuple(scale.tolist()))


def choose_weights(
    rule_score: NDArray[np.float64],
    supervised: NDArray[np.float64],
    unsupervised: NDArray[np.float64],
    labels: NDArray[np.bool_],
) -> Weights:
    """The weights whose risk ranks the validation rows best, by average precision.

    The default, 0.2 / 0.6 / 0.2, stays unless another of `CANDIDATES` is clearly better, and with
    fewer than `FRAUDS_TO_CHOOSE` frauds in any case: a difference is then mostly chance.

    Args:
        rule_score, supervised, unsupervised: (rows,) in [0, 1], of the rows that reach the models.
        labels: (rows,) confirmed frauds.
    """
    if labels.sum() < FRAUDS_TO_CHOOSE:
        return Weights()

    def precision(weights: Weights) -> float:
        risk = Policy(review=1.0, block=1.0, weights=weights).risk(
            rule_score, supervised, unsupervised
        )
        return float(average_precision_score(labels, risk))

    best = max(CANDIDATES, key=precision)
    return best if precision(best) > CLEARLY_BETTER * precision(Weights()) else Weights()


def fit_calibration(raw: NDArray[np.float64], labels: NDArray[np.bool_]) -> PiecewiseLinear | None:
    """The strictly increasing curve from a raw risk to the probability that the row is a fraud.

    With enough frauds an isotonic regression, its steps joined until each holds several frauds and
    then by straight lines in log-odds, level from the top step's mean to the highest risk there is;
    with few a logistic one. Beyond, it rises straight to (1, 1). None when a probability can't be
    told: no fraud, or no more frauds among high risks than among low ones.

    Args:
        raw: (rows,) raw risks in [0, 1] of the validation rows that reach the models.
        labels: (rows,) frauds that are known.
    """
    frauds = int(labels.sum())
    if not frauds or frauds == len(labels):
        return None
    if frauds < FRAUDS_FOR_ISOTONIC:
        x, log_odds = _logistic(raw, labels)
    else:
        x, log_odds = _isotonic(raw, labels)
    apart = (np.diff(x, prepend=0.0) > CLOSEST) & (x < 1.0 - CLOSEST)
    x, log_odds = x[apart], log_odds[apart]
    if not len(x) or np.any(np.diff(log_odds) <= 0):
        return None
    fine = np.interp(np.arange(STEPS * (len(x) - 1) + 1) / STEPS, np.arange(len(x)), x)
    y = 1.0 / (1.0 + np.exp(-np.interp(fine, x, log_odds)))
    fine, y = np.concatenate([[0.0], fine, [1.0]]), np.concatenate([[0.0], y, [1.0]])
    y = (1.0 - SLOPE) * y + SLOPE * fine
    y[-1] = 1.0
    return PiecewiseLinear(tuple(fine.tolist()), tuple(y.tolist()))


def _logistic(
    raw: NDArray[np.float64], labels: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Platt's scaling of the raw risk's log-odds, at as many knots as an isotonic one has."""
    x = np.linspace(0.0, 1.0, MOST_KNOTS + 2)[1:-1]
    model = LogisticRegression(C=1.0).fit(_log_odds(np.clip(raw, 1e-3, 1 - 1e-3))[:, None], labels)
    return x, np.asarray(model.decision_function(_log_odds(x)[:, None]), dtype=np.float64)


def _isotonic(
    raw: NDArray[np.float64], labels: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean raw risk and the log-odds of a fraud in each step of an isotonic regression, and
    the highest raw risk with those of the top step.

    Half a fraud and half a legitimate row are added to each step: its share is never 0 or 1.
    """
    values, group = np.unique(raw, return_inverse=True)
    rows = _sums(group, np.ones(len(raw)))
    frauds = _sums(group, labels.astype(np.float64))
    risks = rows * values
    steps = _level_steps(frauds / rows, rows)
    rows, frauds, risks = (_sums(steps, part) for part in (rows, frauds, risks))
    least = max(FRAUDS_A_KNOT, labels.sum() / MOST_KNOTS)
    # Counted from the top: the lowest step takes what is left, with any number of frauds.
    above = np.cumsum(frauds[::-1])[::-1] - frauds
    steps = np.unique(-np.floor(above / least), return_inverse=True)[1]
    while len(rows) > steps[-1] + 1:
        rows, frauds, risks = (_sums(steps, part) for part in (rows, frauds, risks))
        steps = _level_steps((frauds + 0.5) / (rows + 1.0), rows)
    x, log_odds = risks / rows, _log_odds((frauds + 0.5) / (rows + 1.0))
    # To risks above the top step's mean, which are the very ones that are acted on, a line from
    # there to (1, 1) would promise far more than the step holds.
    x = np.minimum(np.append(x, values[-1]), LAST)
    return x, np.append(log_odds, log_odds[-1] + RISE)


def _sums(group: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(groups,) the sum of the values of each group."""
    return np.asarray(np.bincount(group, values), dtype=np.float64)


def _level_steps(share: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each value, which step (0, 1, …) of the isotonic regression of `share` it is on."""
    fitted = isotonic_regression(share, sample_weight=rows)
    return np.concatenate([[0], np.cumsum(np.diff(fitted) > 0)])


def _log_odds(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(share / (1.0 - share))
