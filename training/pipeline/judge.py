"""What a version is worth: its metrics on the test part beside the baselines and the champion."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import SentinelleError
from engine.features.kernel import UNITS
from engine.fraud_bundle import load_bundle
from engine.rules import RuleSet
from engine.store import open_store
from training.pipeline.bulk import score_transactions
from training.pipeline.decide import Decided
from training.pipeline.evaluate import ChampionFacts, Scores, TestPart, curves, evaluate
from training.pipeline.prepare import Parts
from training.pipeline.score import Scored
from training.pipeline.spec import Champion, RunSpec


class Judged(NamedTuple):
    """The figures of a version on the test part."""

    metrics: dict[str, Any]
    curves: dict[str, Any]
    scores: Scores
    baselines: dict[str, NDArray[np.float64]]
    """(test rows,) scores by name: what the figures were computed from."""
    champion_error: str | None
    """Why the version that serves could not be compared with; None when it was, or none serves."""


class _Rival(NamedTuple):
    """The champion on the same rows."""

    facts: ChampionFacts
    risk: NDArray[np.float64]


def judge(
    parts: Parts,
    scored: Scored,
    decided: Decided,
    rules: RuleSet,
    spec: RunSpec,
    progress: Callable[[float, str], None],
) -> Judged:
    """Metrics and curves on the test part, beside the rules, the logistic regression and, when one
    serves, the champion under the same rules.

    A champion that can't be loaded is reported: a new version may be what replaces it.
    """
    rival, error = None, None
    if spec.champion is not None:
        try:
            rival = _score_champion(spec.champion, rules, parts, spec.dataset_fingerprint, progress)
        except SentinelleError as refusal:
            error = f"The champion v{spec.champion.version} can't be compared with: {refusal}"
    part = _test_part(parts, scored, decided)
    tested = parts.usable[parts.split.test]
    baselines = {"logistic": scored.logistic[scored.within(parts.split.test)][tested]}
    if rival is not None:
        baselines["champion"] = rival.risk[tested]
    thresholds = {"review": decided.policy.review, "block": decided.policy.block}
    progress(0.5, "metrics and their intervals")
    metrics = evaluate(
        part,
        thresholds,
        baselines=baselines,
        costs=spec.options.costs,
        seed=spec.seed,
        champion=None if rival is None else rival.facts,
    )
    progress(0.9, "curves")
    drawn = curves(part, thresholds, baselines=baselines, seed=spec.seed)
    return Judged(metrics, drawn, part.scores, baselines, error)


def _score_champion(
    champion: Champion,
    rules: RuleSet,
    parts: Parts,
    fingerprint: str,
    progress: Callable[[float, str], None],
) -> _Rival:
    """`fingerprint` is of the data set that the parts are of."""
    parent, _, name = champion.location.rpartition("/")
    bundle = load_bundle(open_store(parent), name, champion.manifest_sha256)
    rows = parts.split.test
    count = rows.stop - rows.start
    scores = score_transactions(
        bundle,
        rules,
        parts.data,
        rows,
        lambda done: progress(0.5 * done / count, f"the champion on {done:,} rows"),
        labels_after=parts.label_delay,
    )
    facts = ChampionFacts.of(champion.version, bundle.manifest.training, fingerprint)
    return _Rival(facts, scores.risk)


def _test_part(parts: Parts, scored: Scored, decided: Decided) -> TestPart:
    test = parts.rows(parts.split.test)
    among = test - scored.rows.start
    data = parts.data
    return TestPart(
        labels=data.is_fraud[test],
        amount=data.amount[test] / UNITS,
        source=data.source[test],
        destination=data.destination[test],
        created_at=data.created_at[test],
        transaction_type=data.text["transaction_type"].take(test),
        scores=Scores(
            supervised=scored.supervised[among],
            unsupervised=scored.unsupervised[among],
            rule_score=decided.replayed.rule_score[among],
            rule_blocked=decided.replayed.rule_blocked[among],
            risk=decided.replayed.risk[among],
        ),
    )
