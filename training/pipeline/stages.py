"""The stages of one training run, from a data set to a bundle and a report.

Each takes what it needs and gives what the next one needs; `train` only strings them together.
"""

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features.catalogue import LABEL_DELAY
from engine.features.kernel import UNITS
from engine.rules import RuleSet
from training.pipeline.baselines import logistic_baseline
from training.pipeline.decide import Decided, Validation, set_policy
from training.pipeline.disagreement import compare
from training.pipeline.export import (
    Training,
    check_export,
    export_models,
    predictions_parquet,
    write_run_bundle,
)
from training.pipeline.features import Features
from training.pipeline.fit import (
    FitPart,
    Supervised,
    fit_unsupervised,
    supervised_score,
)
from training.pipeline.importance import grouped, permutation_importances
from training.pipeline.judge import Judged, judge
from training.pipeline.memory import peak_memory_mb
from training.pipeline.prepare import (
    Parts,
    choose_schema,
    count_labels,
    describe,
    outline,
    split_data,
)
from training.pipeline.progress import Progress
from training.pipeline.rules_replay import RuleReplay
from training.pipeline.run_folder import PREDICTIONS, RunFolder
from training.pipeline.sampling import Sample, draw, plan_legitimate_rows
from training.pipeline.score import RULE_COLUMNS, Models, Scored, score_later_rows
from training.pipeline.search import Found, search
from training.pipeline.spec import Options, RunSpec
from training.pipeline.table import Transactions, read_transactions

# A tree is stopped by the average precision on this many legitimate validation rows at most.
STOP_ROWS = 200_000
# Legitimate test rows that the export is compared on and the importances are measured on.
TEST_SAMPLE_ROWS = 100_000


class Fitting(NamedTuple):
    """What the models are fitted on and stopped by."""

    features: Features
    train: FitPart
    train_rate: float
    stop: FitPart
    stop_rate: float
    recorded: dict[str, Any] | None
    """Of recorded traffic: where computed features differ from recorded ones."""


class Trained(NamedTuple):
    """Everything that a run found, stage by stage."""

    parts: Parts
    fitting: Fitting
    found: Found
    models: Models
    scored: Scored
    decided: Decided
    judged: Judged
    importances: list[dict[str, Any]]
    export_difference: float


def train(spec: RunSpec, folder: RunFolder) -> dict[str, Any]:
    """Train, evaluate and write `bundle/` and `predictions.parquet`; return the report.

    Raises:
        SentinelleError: with a message for the person who started the run.
    """
    progress = Progress(folder)
    with progress.stage("load"):
        rules = RuleSet.from_toml(spec.rules.toml)
        data = _load(spec, folder, progress)
    with progress.stage("split"):
        delay = spec.options.label_delay_us
        parts = split_data(data, spec.options, LABEL_DELAY if delay is None else delay)
        folder.log(f"split: {outline(parts)}")
        del data
    with progress.stage("features"):
        fitting = _features(parts, spec, progress)
    with progress.stage("supervised"):
        found = _fit_supervised(fitting, spec, progress)
    with progress.stage("unsupervised"):
        models = _fit_others(fitting, found.best, spec)
    with progress.stage("scores"):
        scored = score_later_rows(parts, fitting.features, models, progress.within)
    with progress.stage("policy"):
        decided = _decide(parts, scored, rules, spec.options, progress)
    with progress.stage("evaluate"):
        judged = judge(parts, scored, decided, rules, spec, progress.within)
        test_rows = _test_rows(parts, fitting.features, spec.seed)
        importances = _importances(fitting, found.best, test_rows, spec.seed)
        predictions = predictions_parquet(
            parts.data, parts.rows(parts.split.test), judged.scores, judged.baselines
        )
        folder.store.write(PREDICTIONS, predictions)
    with progress.stage("export"):
        files = export_models(models.supervised, models.unsupervised)
        difference = _check_export(files, fitting, models, scored, test_rows, spec.seed)
        folder.log(f"export: largest difference from scikit-learn {difference:.1e}")
    trained = Trained(
        parts, fitting, found, models, scored, decided, judged, importances, difference
    )
    with progress.stage("bundle"):
        manifest_sha256 = _write_bundle(folder, files, trained, rules, spec)
    return _report(trained, spec, progress) | {"manifest_sha256": manifest_sha256}


def _load(spec: RunSpec, folder: RunFolder, progress: Progress) -> Transactions:
    data = read_transactions(
        spec.dataset,
        spec.sample,
        lambda share, amount: progress.within(0.8 * share, f"fetching the data set: {amount}"),
    )
    folder.progress(rows=len(data))
    folder.log(f"load: {len(data):,} rows, {int(data.is_fraud.sum()):,} frauds")
    if counts := count_labels(data):
        told = ", ".join(f"{name.replace('_', ' ')} {rows:,}" for name, rows in counts.items())
        folder.log(f"load: recorded traffic: {told}")
    return data


def _features(parts: Parts, spec: RunSpec, progress: Progress) -> Fitting:
    options, labels = spec.options, parts.labels
    training = parts.rows(parts.split.train)
    schema = choose_schema(parts.data, training, options.without)
    rng = np.random.default_rng(spec.seed)
    control = parts.data.control_share
    stop = draw(parts.rows(parts.split.validation), labels, STOP_ROWS, rng, control)
    legitimate = plan_legitimate_rows(
        options.fit_rows,
        rows=len(parts.data),
        others=len(stop.rows) + int(labels[training].sum()),
        columns=len(schema.names),
        limit_mb=options.memory_limit_mb,
    )
    train = draw(training, labels, legitimate, rng, control)
    delay = parts.label_delay
    features = Features(parts.data, schema, delay, labels_after=delay)
    recorded = compare(
        parts.data, features, delay, lambda share: progress.within(0.5 * share, "recorded values")
    )
    count = len(train.rows) + len(stop.rows)

    def matrix(sample: Sample, before: int) -> FitPart:
        computed = features.matrix(
            sample.rows,
            lambda rows: progress.within((before + rows) / count, f"{before + rows:,} rows"),
        )
        return FitPart(computed, sample.labels, sample.weights)

    return Fitting(
        features,
        matrix(train, 0),
        train.rate,
        matrix(stop, len(train.rows)),
        stop.rate,
        recorded,
    )


def _fit_supervised(fitting: Fitting, spec: RunSpec, progress: Progress) -> Found:
    found = search(
        fitting.train,
        fitting.stop,
        spec.options.search,
        seed=spec.seed,
        hyperparameters=spec.options.hyperparameters.supervised,
        progress=progress.within,
    )
    best = found.best
    progress.folder.log(
        f"supervised: {best.model.n_iter_} trees kept of {len(best.learning_curve) - 1}, "
        f"validation average precision {max(best.learning_curve):.4f}"
    )
    return found


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
        columns=RULE_COLUMNS,
    )
    validation = parts.split.validation
    known = Validation(
        parts.labels[validation],
        parts.data.amount[validation] / UNITS,
        parts.usable[validation],
    )
    return set_policy(rule_replay, scored.supervised, scored.unsupervised, known, options)


def _fit_others(fitting: Fitting, supervised: Supervised, spec: RunSpec) -> Models:
    """The forest, and the logistic regression that the boosting must beat."""
    train = fitting.train
    unsupervised = fit_unsupervised(
        train, seed=spec.seed, hyperparameters=spec.options.hyperparameters.unsupervised
    )
    logistic = logistic_baseline(train.matrix, train.labels, train.weights, spec.seed)
    return Models(supervised, unsupervised, logistic)


def _test_rows(parts: Parts, features: Features, seed: int) -> FitPart:
    """Every fraud of the test part, which may be few, and legitimate rows drawn at random."""
    rng = np.random.default_rng(seed)
    sample = draw(parts.rows(parts.split.test), parts.data.is_fraud, TEST_SAMPLE_ROWS, rng)
    return FitPart(features.matrix(sample.rows), sample.labels, sample.weights)


def _importances(
    fitting: Fitting, supervised: Supervised, test_rows: FitPart, seed: int
) -> list[dict[str, Any]]:
    return permutation_importances(
        lambda values: supervised_score(supervised.model, values),
        test_rows.matrix,
        test_rows.labels,
        test_rows.weights,
        grouped(fitting.features.schema),
        seed,
    )


def _check_export(
    files: dict[str, bytes],
    fitting: Fitting,
    models: Models,
    scored: Scored,
    test_rows: FitPart,
    seed: int,
) -> float:
    schema = fitting.features.schema
    return check_export(
        files,
        models.supervised,
        models.unsupervised,
        scored.anomaly,
        schema,
        test_rows.matrix,
        seed,
    )


def _write_bundle(
    folder: RunFolder, files: dict[str, bytes], trained: Trained, rules: RuleSet, spec: RunSpec
) -> str:
    """`bundle/`; the SHA-256 of its manifest."""
    parts, scored, decided = trained.parts, trained.scored, trained.decided
    training = Training(
        spec=spec,
        schema=trained.fitting.features.schema,
        supervised=trained.models.supervised,
        unsupervised=trained.models.unsupervised,
        anomaly=scored.anomaly,
        policy=decided.policy,
        label_delay=parts.label_delay,
        rules_sha256=rules.sha256,
        metrics=trained.judged.metrics,
        data=describe(parts, spec),
        export_difference=trained.export_difference,
    )
    live = _live_scores(parts, scored, decided)
    return write_run_bundle(folder.store, training, files, trained.fitting.train, live)


def _report(trained: Trained, spec: RunSpec, progress: Progress) -> dict[str, Any]:
    decided, best = trained.decided, trained.found.best
    return {
        "status": "succeeded",
        "run_id": spec.run_id,
        "model": spec.model,
        "version": spec.version,
        "metrics": trained.judged.metrics,
        "curves": trained.judged.curves,
        "importances": trained.importances,
        "champion_error": trained.judged.champion_error,
        "timings": progress.timings,
        "peaks_mb": progress.peaks,
        "data": describe(trained.parts, spec),
        "sampling": _sampling(trained.fitting),
        "recorded": trained.fitting.recorded,
        "policy": _describe_policy(decided),
        "thresholds": decided.thresholds._asdict(),
        "weights": asdict(decided.policy.weights),
        "search": trained.found.describe(),
        "learning_curve": [round(score, 6) for score in best.learning_curve],
        "export_difference": trained.export_difference,
        "peak_memory_mb": peak_memory_mb(),
        "deployable": spec.sample is None,
    }


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
