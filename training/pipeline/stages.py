"""The stages of one training run, from a data set to a bundle and a report.

Each takes what it needs and gives what the next one needs; `train` only strings them together.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features.kernel import UNITS
from engine.policy import PiecewiseLinear, Policy
from engine.rules import RuleSet
from training.pipeline.calibrate import Thresholds, anomaly_scale, choose_thresholds, choose_weights
from training.pipeline.evaluate import Scores, TestPart, curves, evaluate
from training.pipeline.export import (
    Training,
    check_export,
    export_models,
    predictions_parquet,
    write_run_bundle,
)
from training.pipeline.fit import (
    Supervised,
    Unsupervised,
    fit_supervised,
    fit_unsupervised,
    supervised_score,
)
from training.pipeline.memory import peak_memory_mb
from training.pipeline.prepare import Prepared, describe, prepare, split_data
from training.pipeline.rules_replay import Replayed, RuleReplay
from training.pipeline.run_folder import PREDICTIONS, RunFolder
from training.pipeline.spec import Budgets, RunSpec
from training.pipeline.split import Split
from training.pipeline.table import Text, Transactions, read_transactions

# Thresholds and past blocks depend on one another; they settle in two rounds or three.
POLICY_ROUNDS = 4

# Where each stage ends, as a share of the whole run.
ENDS = {
    "load": 0.04,
    "split": 0.05,
    "features": 0.15,
    "supervised": 0.60,
    "unsupervised": 0.68,
    "policy": 0.85,
    "evaluate": 0.92,
    "export": 0.96,
    "bundle": 1.0,
}


class Progress:
    """Tells the run folder which stage is running and how far it is; keeps the timings."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.timings: dict[str, float] = {}
        self._begin = 0.0
        self._end = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run a stage: its name is the run's stage until the next one begins."""
        self._begin, self._end = self._end, ENDS[name]
        self.folder.progress(stage=name, fraction=self._begin, message="")
        self.folder.log(f"{name}: started")
        self.folder.flush()
        started = time.monotonic()
        yield
        self.timings[name] = round(time.monotonic() - started, 3)
        self.folder.log(
            f"{name}: done in {self.timings[name]:.1f} s, peak memory {peak_memory_mb():,} MB"
        )

    def within(self, share: float, message: str) -> None:
        """Note that this share of the stage is done."""
        fraction = self._begin + min(share, 1.0) * (self._end - self._begin)
        self.folder.progress(fraction=round(fraction, 4), message=message)


class Decided(NamedTuple):
    """Scores and decisions on validation and test together, in order."""

    anomaly: PiecewiseLinear
    policy: Policy
    thresholds: Thresholds
    supervised: NDArray[np.float64]
    unsupervised: NDArray[np.float64]
    replayed: Replayed


def train(spec: RunSpec, folder: RunFolder) -> dict[str, Any]:
    """Train, evaluate and write `bundle/` and `predictions.parquet`; return the report.

    Raises:
        SentinelleError: with a message for the person who started the run.
    """
    progress = Progress(folder)
    with progress.stage("load"):
        rules = RuleSet.from_toml(spec.rules.toml)
        data = read_transactions(spec.dataset, spec.sample)
        folder.progress(rows=len(data))
        folder.log(f"load: {len(data):,} rows, {int(data.is_fraud.sum()):,} frauds")
    with progress.stage("split"):
        split = split_data(data, spec.split)
    with progress.stage("features"):
        prepared = prepare(data, split, progress.within)
    labels = data.is_fraud
    with progress.stage("supervised"):
        supervised = _fit_supervised(prepared.matrix, labels, split, spec, progress)
    with progress.stage("unsupervised"):
        unsupervised = fit_unsupervised(
            prepared.matrix[split.train],
            labels[split.train],
            seed=spec.seed,
            hyperparameters=spec.hyperparameters.unsupervised,
        )
    with progress.stage("policy"):
        decided = decide(
            data, split, prepared, supervised, unsupervised, rules, spec.budgets, progress
        )
    with progress.stage("evaluate"):
        metrics, drawn = _evaluate(data, split, decided, spec.seed)
        folder.store.write(PREDICTIONS, _predictions(data, split, decided))
    with progress.stage("export"):
        files = export_models(supervised, unsupervised)
        later = prepared.matrix[split.train.stop :]
        difference = check_export(
            files, supervised, unsupervised, decided.anomaly, prepared.schema, later, spec.seed
        )
        folder.log(f"export: largest difference from scikit-learn {difference:.1e}")
    with progress.stage("bundle"):
        training = Training(
            spec=spec,
            schema=prepared.schema,
            supervised=supervised,
            unsupervised=unsupervised,
            anomaly=decided.anomaly,
            policy=decided.policy,
            rules_sha256=rules.sha256,
            metrics=metrics,
            data=describe(data, split, spec, prepared.schema),
            export_difference=difference,
        )
        manifest_sha256 = write_run_bundle(
            folder.store, training, files, prepared.matrix[split.train], _scores(split, decided)
        )
    return {
        "status": "succeeded",
        "run_id": spec.run_id,
        "model": spec.model,
        "version": spec.version,
        "metrics": metrics,
        "curves": drawn,
        "timings": progress.timings,
        "data": training.data,
        "thresholds": decided.thresholds._asdict(),
        "weights": asdict(decided.policy.weights),
        "learning_curve": [round(score, 6) for score in supervised.learning_curve],
        "export_difference": difference,
        "peak_memory_mb": peak_memory_mb(),
        "manifest_sha256": manifest_sha256,
        "deployable": spec.sample is None,
    }


def decide(
    data: Transactions,
    split: Split,
    prepared: Prepared,
    supervised: Supervised,
    unsupervised: Unsupervised,
    rules: RuleSet,
    budgets: Budgets,
    progress: Progress,
) -> Decided:
    """Score validation and test, replay the rules on them and set the policy on validation."""
    rows = slice(split.train.stop, len(data))
    count = rows.stop - rows.start
    validation = slice(0, split.validation.stop - split.validation.start)
    later = prepared.matrix[rows]
    scores = supervised_score(supervised.model, later)
    progress.within(0.1, "supervised scores")
    raw = unsupervised.raw_score(later)
    anomaly = anomaly_scale(raw[validation])
    progress.within(0.2, "unsupervised scores")
    rule_replay = RuleReplay(
        rules,
        data,
        prepared.rule_history,
        rows,
        lambda done: progress.within(0.2 + 0.7 * done / count, f"rules on {done:,} rows"),
    )
    anomalies = anomaly(raw)
    policy, thresholds, replayed = set_policy(
        rule_replay, scores, anomalies, data.is_fraud[split.validation], budgets
    )
    return Decided(anomaly, policy, thresholds, scores, anomalies, replayed)


def set_policy(
    rule_replay: RuleReplay,
    supervised: NDArray[np.float64],
    unsupervised: NDArray[np.float64],
    labels: NDArray[np.bool_],
    budgets: Budgets,
) -> tuple[Policy, Thresholds, Replayed]:
    """Weights and thresholds from the validation part, and the replay under them.

    The thresholds decide what is blocked, past blocks raise the risk of what follows (R15), and the
    thresholds are shares of those risks: they are set again until they stay the same.

    Args:
        supervised, unsupervised: (rows,) scores in [0, 1] of validation and test, in order.
        labels: of the validation rows, which come first.
    """
    validation = slice(0, len(labels))
    # No risk reaches 2: at first only rules block.
    replayed = rule_replay.replay(Policy(2.0, 2.0), supervised, unsupervised)
    asked = ~replayed.rule_blocked[validation]
    weights = choose_weights(
        replayed.rule_score[validation][asked],
        supervised[validation][asked],
        unsupervised[validation][asked],
        labels[asked],
    )
    policy = Policy(2.0, 2.0, weights)
    replayed = rule_replay.replay(policy, supervised, unsupervised)
    for _ in range(POLICY_ROUNDS):
        asked = ~replayed.rule_blocked[validation]
        thresholds = choose_thresholds(
            replayed.risk[validation][asked], budgets.block, budgets.review
        )
        settled = (thresholds.review, thresholds.block) == (policy.review, policy.block)
        policy = Policy(thresholds.review, thresholds.block, weights)
        if settled:
            break
        replayed = rule_replay.replay(policy, supervised, unsupervised)
    return policy, thresholds, replayed


def _fit_supervised(
    matrix: NDArray[np.float64],
    labels: NDArray[np.bool_],
    split: Split,
    spec: RunSpec,
    progress: Progress,
) -> Supervised:
    trees = int(spec.hyperparameters.supervised.get("max_iter", 300))
    fitted = fit_supervised(
        matrix[split.train],
        labels[split.train],
        matrix[split.validation],
        labels[split.validation],
        seed=spec.seed,
        hyperparameters=spec.hyperparameters.supervised,
        progress=lambda done: progress.within(done / trees, f"{done} trees"),
    )
    progress.folder.log(
        f"supervised: {fitted.model.n_iter_} trees kept of {len(fitted.learning_curve) - 1}, "
        f"validation average precision {max(fitted.learning_curve):.4f}"
    )
    return fitted


def _evaluate(
    data: Transactions, split: Split, decided: Decided, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    test = _test_part(split)
    types = data.text["transaction_type"]
    part = TestPart(
        labels=data.is_fraud[split.test],
        amount=data.amount[split.test] / UNITS,
        source=data.source[split.test],
        created_at=data.created_at[split.test],
        transaction_type=Text(types.codes[split.test], types.names),
        scores=Scores(
            supervised=decided.supervised[test],
            unsupervised=decided.unsupervised[test],
            rule_score=decided.replayed.rule_score[test],
            rule_blocked=decided.replayed.rule_blocked[test],
            risk=decided.replayed.risk[test],
        ),
    )
    thresholds = {"review": decided.policy.review, "block": decided.policy.block}
    metrics = evaluate(part, thresholds, baselines={}, costs=None, seed=seed)
    return metrics, curves(part, thresholds, baselines={}, seed=seed)


def _predictions(data: Transactions, split: Split, decided: Decided) -> bytes:
    test = _test_part(split)
    return predictions_parquet(
        data.transaction_id.slice(split.test.start),
        data.created_at[split.test],
        data.is_fraud[split.test],
        decided.supervised[test],
        decided.unsupervised[test],
        decided.replayed.risk[test],
    )


def _scores(split: Split, decided: Decided) -> dict[str, NDArray[np.float64]]:
    """The validation scores, by name: what live scores are compared with later."""
    validation = slice(0, split.validation.stop - split.validation.start)
    return {
        "supervised_score": decided.supervised[validation],
        "unsupervised_score": decided.unsupervised[validation],
        "rule_score": decided.replayed.rule_score[validation],
        "risk_score": decided.replayed.risk[validation],
    }


def _test_part(split: Split) -> slice:
    """The test part among the rows of validation and test."""
    return slice(split.test.start - split.train.stop, split.test.stop - split.train.stop)
