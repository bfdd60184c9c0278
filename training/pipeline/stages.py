"""The stages of one training run, from a data set to a bundle and a report.

Each takes what it needs and gives what the next one needs; `train` only strings them together.
"""

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features.catalogue import CATALOGUE, LABEL_DELAY
from engine.features.kernel import UNITS
from engine.policy import PiecewiseLinear
from engine.rules import RuleSet
from training.pipeline.calibrate import anomaly_scale
from training.pipeline.decide import Decided, Validation, set_policy
from training.pipeline.evaluate import Scores, TestPart, curves, evaluate
from training.pipeline.export import (
    Training,
    check_export,
    export_models,
    predictions_parquet,
    write_run_bundle,
)
from training.pipeline.fit import (
    FitPart,
    Supervised,
    Unsupervised,
    fit_supervised,
    fit_unsupervised,
    supervised_score,
)
from training.pipeline.memory import peak_memory_mb
from training.pipeline.prepare import BLOCK, Features, Parts, choose_schema, describe, split_data
from training.pipeline.progress import Progress
from training.pipeline.rules_replay import RuleReplay
from training.pipeline.run_folder import PREDICTIONS, RunFolder
from training.pipeline.sampling import Sample, draw
from training.pipeline.spec import Options, RunSpec
from training.pipeline.table import Text, Transactions, read_transactions

# A tree is stopped by the average precision on this many legitimate validation rows at most.
STOP_ROWS = 200_000
# Test rows that the export is compared on.
TEST_SAMPLE_ROWS = 50_000


class Fitting(NamedTuple):
    """What the models are fitted on and stopped by."""

    features: Features
    train: FitPart
    train_rate: float
    stop: FitPart
    stop_rate: float


class Scored(NamedTuple):
    """The rows from the first of validation to the last of test, in order."""

    rows: slice
    history: NDArray[np.float64]
    """(rows, len(CATALOGUE)): what rules read of the past."""
    supervised: NDArray[np.float64]
    unsupervised: NDArray[np.float64]
    anomaly: PiecewiseLinear
    """From the forest's raw scores to `unsupervised`."""

    def within(self, part: slice) -> slice:
        """Where the rows of a part are among these."""
        return slice(part.start - self.rows.start, part.stop - self.rows.start)


def train(spec: RunSpec, folder: RunFolder) -> dict[str, Any]:
    """Train, evaluate and write `bundle/` and `predictions.parquet`; return the report.

    Raises:
        SentinelleError: with a message for the person who started the run.
    """
    progress = Progress(folder)
    with progress.stage("load"):
        rules = RuleSet.from_toml(spec.rules.toml)
        data = _load(spec, folder)
    with progress.stage("split"):
        delay = spec.options.label_delay_us
        parts = split_data(data, spec.options, LABEL_DELAY if delay is None else delay)
        del data
    with progress.stage("features"):
        fitting = _features(parts, spec, progress)
    with progress.stage("supervised"):
        supervised = _fit_supervised(fitting, spec, progress)
    with progress.stage("unsupervised"):
        unsupervised = fit_unsupervised(
            fitting.train,
            seed=spec.seed,
            hyperparameters=spec.options.hyperparameters.unsupervised,
        )
    with progress.stage("scores"):
        scored = _score(parts, fitting.features, supervised, unsupervised, progress)
    with progress.stage("policy"):
        decided = _decide(parts, scored, rules, spec.options, progress)
    with progress.stage("evaluate"):
        metrics, drawn = _evaluate(parts, scored, decided, spec)
        folder.store.write(PREDICTIONS, _predictions(parts, scored, decided))
    with progress.stage("export"):
        files = export_models(supervised, unsupervised)
        test_rows = _test_sample(parts, spec.seed)
        difference = check_export(
            files,
            supervised,
            unsupervised,
            scored.anomaly,
            fitting.features.schema,
            fitting.features.matrix(test_rows.rows),
            spec.seed,
        )
        folder.log(f"export: largest difference from scikit-learn {difference:.1e}")
    with progress.stage("bundle"):
        training = Training(
            spec=spec,
            schema=fitting.features.schema,
            supervised=supervised,
            unsupervised=unsupervised,
            anomaly=scored.anomaly,
            policy=decided.policy,
            label_delay=parts.label_delay,
            rules_sha256=rules.sha256,
            metrics=metrics,
            data=describe(parts, spec),
            export_difference=difference,
        )
        manifest_sha256 = write_run_bundle(
            folder.store, training, files, fitting.train, _live_scores(parts, scored, decided)
        )
    return {
        "status": "succeeded",
        "run_id": spec.run_id,
        "model": spec.model,
        "version": spec.version,
        "metrics": metrics,
        "curves": drawn,
        "timings": progress.timings,
        "peaks_mb": progress.peaks,
        "data": training.data,
        "sampling": _sampling(fitting),
        "policy": _describe_policy(decided),
        "thresholds": decided.thresholds._asdict(),
        "weights": asdict(decided.policy.weights),
        "learning_curve": [round(score, 6) for score in supervised.learning_curve],
        "export_difference": difference,
        "peak_memory_mb": peak_memory_mb(),
        "manifest_sha256": manifest_sha256,
        "deployable": spec.sample is None,
    }


def _load(spec: RunSpec, folder: RunFolder) -> Transactions:
    data = read_transactions(spec.dataset, spec.sample)
    folder.progress(rows=len(data))
    folder.log(f"load: {len(data):,} rows, {int(data.is_fraud.sum()):,} frauds")
    return data


def _features(parts: Parts, spec: RunSpec, progress: Progress) -> Fitting:
    features = Features(parts, choose_schema(parts.data, parts.split.train, spec.options.without))
    rng = np.random.default_rng(spec.seed)
    train = draw(parts.split.train, parts.labels, spec.options.fit_rows, rng)
    stop = draw(parts.split.validation, parts.labels, STOP_ROWS, rng)
    count = len(train.rows) + len(stop.rows)

    def matrix(sample: Sample, before: int) -> FitPart:
        computed = features.matrix(
            sample.rows,
            lambda rows: progress.within((before + rows) / count, f"{before + rows:,} rows"),
        )
        return FitPart(computed, sample.labels, sample.weights)

    return Fitting(features, matrix(train, 0), train.rate, matrix(stop, len(train.rows)), stop.rate)


def _fit_supervised(fitting: Fitting, spec: RunSpec, progress: Progress) -> Supervised:
    hyperparameters = spec.options.hyperparameters.supervised
    trees = int(hyperparameters.get("max_iter", 300))
    fitted = fit_supervised(
        fitting.train,
        fitting.stop,
        seed=spec.seed,
        hyperparameters=hyperparameters,
        progress=lambda done: progress.within(done / trees, f"{done} trees"),
    )
    progress.folder.log(
        f"supervised: {fitted.model.n_iter_} trees kept of {len(fitted.learning_curve) - 1}, "
        f"validation average precision {max(fitted.learning_curve):.4f}"
    )
    return fitted


def _score(
    parts: Parts,
    features: Features,
    supervised: Supervised,
    unsupervised: Unsupervised,
    progress: Progress,
) -> Scored:
    """Both models on validation, the gap and test, in blocks: their matrix would not fit."""
    rows = slice(parts.split.validation.start, parts.split.test.stop)
    count = rows.stop - rows.start
    history = np.empty((count, len(CATALOGUE)))
    scores, raw = np.empty(count), np.empty(count)
    for start in range(0, count, BLOCK):
        block = slice(start, min(start + BLOCK, count))
        at = np.arange(block.start, block.stop) + rows.start
        history[block] = features.history(at)
        matrix = features.assemble(at, history[block])
        scores[block] = supervised_score(supervised.model, matrix)
        raw[block] = unsupervised.raw_score(matrix)
        progress.within(block.stop / count, f"{block.stop:,} rows")
    validation = slice(0, parts.split.validation.stop - rows.start)
    anomaly = anomaly_scale(raw[validation])
    return Scored(rows, history, scores, anomaly(raw), anomaly)


def _decide(
    parts: Parts, scored: Scored, rules: RuleSet, options: Options, progress: Progress
) -> Decided:
    count = scored.rows.stop - scored.rows.start
    rule_replay = RuleReplay(
        rules,
        parts.data,
        scored.history,
        scored.rows,
        lambda done: progress.within(0.8 * done / count, f"rules on {done:,} rows"),
    )
    validation = parts.split.validation
    known = Validation(parts.labels[validation], parts.data.amount[validation] / UNITS)
    return set_policy(rule_replay, scored.supervised, scored.unsupervised, known, options)


def _evaluate(
    parts: Parts, scored: Scored, decided: Decided, spec: RunSpec
) -> tuple[dict[str, Any], dict[str, Any]]:
    test, among = parts.split.test, scored.within(parts.split.test)
    data = parts.data
    types = data.text["transaction_type"]
    part = TestPart(
        labels=data.is_fraud[test],
        amount=data.amount[test] / UNITS,
        source=data.source[test],
        created_at=data.created_at[test],
        transaction_type=Text(types.codes[test], types.names),
        scores=Scores(
            supervised=scored.supervised[among],
            unsupervised=scored.unsupervised[among],
            rule_score=decided.replayed.rule_score[among],
            rule_blocked=decided.replayed.rule_blocked[among],
            risk=decided.replayed.risk[among],
        ),
    )
    thresholds = {"review": decided.policy.review, "block": decided.policy.block}
    costs = spec.options.costs
    metrics = evaluate(part, thresholds, baselines={}, costs=costs, seed=spec.seed)
    return metrics, curves(part, thresholds, baselines={}, seed=spec.seed)


def _predictions(parts: Parts, scored: Scored, decided: Decided) -> bytes:
    test = scored.within(parts.split.test)
    return predictions_parquet(
        parts.data,
        parts.split.test,
        scored.supervised[test],
        scored.unsupervised[test],
        decided.replayed.risk[test],
        decided.replayed.rule_blocked[test],
    )


def _test_sample(parts: Parts, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    return draw(parts.split.test, parts.data.is_fraud, TEST_SAMPLE_ROWS, rng)


def _live_scores(parts: Parts, scored: Scored, decided: Decided) -> dict[str, NDArray[np.float64]]:
    """The validation scores, by name: what live scores are compared with later."""
    validation = scored.within(parts.split.validation)
    return {
        "supervised_score": scored.supervised[validation],
        "unsupervised_score": scored.unsupervised[validation],
        "rule_score": decided.replayed.rule_score[validation],
        "risk_score": decided.replayed.risk[validation],
    }


def _sampling(fitting: Fitting) -> dict[str, Any]:
    """How many rows the boosting was fitted on and stopped by, and the share of the legitimate
    rows that they are; each counts for 1 / that share."""
    return {
        "fit_rows": len(fitting.train.labels),
        "fit_rate": fitting.train_rate,
        "stop_rows": len(fitting.stop.labels),
        "stop_rate": fitting.stop_rate,
    }


def _describe_policy(decided: Decided) -> dict[str, Any]:
    return {
        "validation_frauds": decided.frauds,
        "calibrated": decided.policy.calibration is not None,
        "saving_per_1000": decided.saving,
    }
