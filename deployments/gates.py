"""Whether a version is better than the champion, in words, for whoever promotes it.

A training run scores its test part with the champion of that moment too, and says how far apart the
two are (in average precision; classifiers in accuracy), with the interval of that difference. Only
such a comparison, on the same rows and fair to both, is a reason to say better or worse.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from engine.kinds import CLASSIFIER


class Verdict(StrEnum):
    """What a gate finds."""

    FIRST = "first"
    BETTER = "better"
    WORSE = "worse"
    TOO_CLOSE = "too close to call"
    SAME = "the same model"
    NOT_COMPARABLE = "not comparable"


class Measured(Protocol):
    """A version as a gate sees it (deployments.models.ModelVersion)."""

    version: str
    deployable: bool
    metrics: Mapping[str, Any]
    thresholds: Mapping[str, float]


class Gate(NamedTuple):
    """A verdict and the words for it."""

    verdict: Verdict
    title: str
    reason: str

    @property
    def open(self) -> bool:
        """Whether the figures speak for the promotion. Against them it takes a confirmation."""
        return self.verdict in (Verdict.BETTER, Verdict.FIRST)


class _Words(NamedTuple):
    """How a kind of models is spoken of."""

    measure: str
    """What its versions are compared by."""
    more: str
    """What its test part needs to tell more."""
    same: str
    """What it says of two versions that are the same."""
    figure: Callable[[float], str]
    change: Callable[[float], str]
    """How the measure, and how a difference of it, is written."""


_FRAUD = _Words(
    "average precision",
    "a longer test part, with more frauds,",
    "It gives each of the same {} transactions the same risk, and has the same thresholds",
    "{:.3f}".format,
    "{:+.3f}".format,
)
_CLASSIFIER = _Words(
    "accuracy",
    "a larger test part",
    "It gives each of the same {} rows the same probabilities",
    lambda share: f"{100 * share:.2f} %",
    lambda share: f"{100 * share:+.2f} pts",
)


class _Difference(NamedTuple):
    """By how much the candidate's measure is above the champion's on one test part."""

    value: float
    low: float
    high: float
    candidate: float
    champion: float
    rows: int
    part: str
    """The test part in words."""
    same_scores: bool
    """Whether the two give each row the same."""
    words: _Words


class _NotComparableError(Exception):
    """The argument is the reason, as the end of a sentence."""


def gate(candidate: Measured, champion: Measured | None) -> Gate:
    """Compare a version with the champion; None when nothing serves yet."""
    if not candidate.deployable:
        return _not_comparable("it was trained on a sample, to be looked at and not to be served")
    if champion is None:
        reason = "Nothing serves yet, so there is nothing to compare it with."
        return Gate(Verdict.FIRST, "The first champion", reason)
    try:
        found = _difference(candidate, champion)
    except _NotComparableError as error:
        return _not_comparable(str(error))
    if found.same_scores and candidate.thresholds == champion.thresholds:
        return _same(found, champion.version)
    return _judge(found, champion.version)


def _difference(candidate: Measured, champion: Measured) -> _Difference:
    """As the training run of either of the two measured it."""
    opponent = _opponent(candidate)
    if opponent == champion.version:
        return _measured_by(candidate, champion)
    if _opponent(champion) == candidate.version:
        # An older version is to serve again; the run of the newer one compared the two.
        return _turned_round(_measured_by(champion, candidate))
    if opponent is None and (error := candidate.metrics.get("champion_error")):
        raise _NotComparableError(error.rstrip("."))
    if opponent is None:
        raise _NotComparableError(
            "its training run did not score its test part with a champion, so the two were "
            "measured on other data"
        )
    raise _NotComparableError(
        f"the champion was v{opponent} when it was trained, and v{champion.version} serves now, "
        "which was measured on other data. Train it again to have them compared"
    )


def _measured_by(judge: Measured, other: Measured) -> _Difference:
    """What the run of `judge` found on its test part, if that was fair to `other`'s opponent."""
    if judge.metrics.get("kind") == CLASSIFIER:
        return _accuracy_by(judge, other)
    metrics = judge.metrics
    fitted_until = metrics["champion"]["fitted_until"]
    if fitted_until is None:
        raise _NotComparableError(
            f"the bundle of v{other.version} does not say which transactions it was fitted on, and "
            f"they may be among those that v{judge.version} was tested on"
        )
    if datetime.fromisoformat(fitted_until) >= datetime.fromisoformat(metrics["test_from"]):
        # Another data set may hold the same transactions: an export of a day later does.
        another = metrics["champion"].get("same_dataset") is False
        raise _NotComparableError(
            f"v{other.version} was fitted on {'another data set, with ' if another else ''}"
            f"transactions until {_moment(fitted_until)}, and the test part of v{judge.version} "
            f"begins at {_moment(metrics['test_from'])}: it "
            f"{'may have' if another else 'had'} seen part of the answers"
        )
    found = metrics["differences"]["champion"]["pr_auc"]
    if found["interval"] is None:
        raise _NotComparableError("the test part has too few frauds for an interval")
    low, high = found["interval"]
    return _Difference(
        value=found["difference"],
        low=low,
        high=high,
        candidate=metrics["pr_auc"],
        champion=metrics["baselines"]["champion"]["pr_auc"],
        rows=metrics["rows"],
        part=f"{metrics['rows']:,} transactions ({metrics['frauds']:,} frauds)",
        same_scores=metrics["champion"].get("same_scores", False),
        words=_FRAUD,
    )


def _accuracy_by(judge: Measured, other: Measured) -> _Difference:
    """Likewise, of classifiers. Which part a row is in depends on the row and on the share of the
    test part alone: what was split by the same share was fitted on no row of the other's."""
    metrics = judge.metrics
    opponent = metrics["champion"]
    if opponent.get("split") != metrics["split"]:
        raise _NotComparableError(
            f"v{other.version} was split otherwise than v{judge.version} "
            f"({_split(opponent.get('split'))} beside {_split(metrics['split'])}), and may have "
            "seen part of the answers. Train it again with the same share of test rows"
        )
    found = metrics["differences"]["champion"]["accuracy"]
    if found["interval"] is None:
        raise _NotComparableError("the test part has too few rows for an interval")
    low, high = found["interval"]
    return _Difference(
        value=found["difference"],
        low=low,
        high=high,
        candidate=metrics["accuracy"],
        champion=metrics["baselines"]["champion"]["accuracy"],
        rows=metrics["rows"],
        part=f"{metrics['rows']:,} rows",
        same_scores=opponent.get("same_scores", False),
        words=_CLASSIFIER,
    )


def _split(split: Mapping[str, Any] | None) -> str:
    return f"{split['test']:.0%} for the test" if split else "a share that is not known"


def _turned_round(found: _Difference) -> _Difference:
    return found._replace(
        value=-found.value,
        low=-found.high,
        high=-found.low,
        candidate=found.champion,
        champion=found.candidate,
    )


def _same(found: _Difference, champion: str) -> Gate:
    reason = (
        f"{found.words.same.format(f'{found.rows:,}')}: the same data, options and seed make the "
        "same model. Train it on later data, or with other options or another seed."
    )
    return Gate(Verdict.SAME, f"It is the same model as v{champion}", reason)


def _judge(found: _Difference, champion: str) -> Gate:
    words = found.words
    figures = (
        f"On the same {found.part} its {words.measure} "
        f"is {words.figure(found.candidate)} and that of v{champion} "
        f"{words.figure(found.champion)}: {words.change(found.value)}, and with 95 % confidence "
        f"between {words.change(found.low)} and {words.change(found.high)}."
    )
    if found.low > 0:
        return Gate(Verdict.BETTER, f"Better than the champion v{champion}", figures)
    if found.high < 0:
        return Gate(Verdict.WORSE, f"Worse than the champion v{champion}", figures)
    close = f"{figures} That may be chance: {words.more} would tell."
    return Gate(Verdict.TOO_CLOSE, f"Too close to the champion v{champion} to call", close)


def _not_comparable(reason: str) -> Gate:
    title = "Not comparable with the champion"
    return Gate(Verdict.NOT_COMPARABLE, title, f"{reason[0].upper()}{reason[1:]}.")


def _opponent(version: Measured) -> str | None:
    """The champion that a version's run compared it with."""
    champion = version.metrics.get("champion")
    return champion["version"] if champion else None


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M} UTC"
