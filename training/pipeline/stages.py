"""The stages of one training run, from a data set to a bundle and a report.

Each takes what it needs and gives what the next one needs; `train` only strings them together.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidDataset
from engine.features.replay import replay, visible_at_once
from engine.features.schema import FeatureSchema
from engine.policy import PiecewiseLinear, Policy
from engine.rules import RuleSet
from training.pipeline.calibrate import Thresholds, anomaly_scale, choose_thresholds
from training.pipeline.evaluate import curves, evaluate
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
from training.pipeline.rules_replay import Replayed, RuleReplay
from training.pipeline.run_folder import PREDICTIONS, RunFolder
from training.pipeline.spec import Budgets, RunSpec
from training.pipeline.split import Split, temporal_split
from training.pipeline.table import Transactions, read_transactions

# A category is worth a column when the training part has this many rows of it.
CATEGORY_ROWS = 50
MAX_CATEGORIES = 30
# Fewer than these and the part decides nothing: (rows, frauds).
MINIMUM = {"train": (500, 20), "validation": (100, 5), "test": (100, 5)}
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


class Prepared(NamedTuple):
    """The data set as the models see it."""

    schema: FeatureSchema
    matrix: NDArray[np.float64]
    """(rows, len(schema.names)), NaN where a value is not known."""
    rule_history: NDArray[np.float64]
    """(rows of validation and test, len(CATALOGUE)): what rules read of the past."""


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
        prepared = prepare(data, split, progress)
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
        metrics, drawn = _evaluate(data, split, decided)
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
        "learning_curve": [round(score, 6) for score in supervised.learning_curve],
        "export_difference": difference,
        "peak_memory_mb": peak_memory_mb(),
        "manifest_sha256": manifest_sha256,
        "deployable": spec.sample is None,
    }


def split_data(data: Transactions, fractions: tuple[float, float, float]) -> Split:
    """Split in time and check that each part can carry its weight.

    Raises:
        InvalidDataset: naming each part that lacks rows, frauds or legitimate rows, with counts.
    """
    frauds = int(data.is_fraud.sum())
    if not frauds:
        raise InvalidDataset(
            f"The data set has no fraud: none of its {len(data):,} rows has is_fraud true. "
            "A supervised model needs confirmed frauds."
        )
    if len(data) < sum(rows for rows, _ in MINIMUM.values()):
        raise InvalidDataset(
            f"The data set is too small: {len(data):,} rows ({frauds:,} frauds). Training needs "
            + ", ".join(f"{rows} {part} rows" for part, (rows, _) in MINIMUM.items())
            + " at least."
        )
    split = temporal_split(data.created_at, fractions)
    faults = []
    for name, part in split.parts():
        rows, part_frauds = part.stop - part.start, int(data.is_fraud[part].sum())
        found = {"rows": rows, "frauds": part_frauds, "legitimate rows": rows - part_frauds}
        least_rows, least_frauds = MINIMUM[name]
        least = {"rows": least_rows, "frauds": least_frauds, "legitimate rows": least_frauds}
        faults += [
            f"the {name} part ({_moment(data, part.start)} to {_moment(data, part.stop - 1)}) has "
            f"{found[what]:,} {what} of the {least[what]} needed"
            for what in found
            if found[what] < least[what]
        ]
    if faults:
        raise InvalidDataset(
            f"The data set ({len(data):,} rows, {frauds:,} frauds) can't be split in time: "
            + "; ".join(faults)
            + "."
        )
    return split


def prepare(data: Transactions, split: Split, progress: Progress) -> Prepared:
    """The features of every row, from the rows before it; categories from the training part."""
    schema = FeatureSchema(
        transaction_types=_categories(data, "transaction_type", split, least=1),
        countries=_categories(data, "country", split, least=CATEGORY_ROWS),
    )
    history = replay(
        data.created_at,
        data.amount,
        data.source,
        data.destination,
        data.country_codes,
        failed_visible_from=visible_at_once(data.failed),
        progress=lambda rows: progress.within(0.9 * rows / len(data), f"{rows:,} rows"),
    )
    matrix = schema.assemble(
        amount=data.amount,
        created_at=data.created_at,
        currency=data.text["currency"].values(),
        direction=data.text["direction"].values(),
        transaction_type=data.text["transaction_type"].values(),
        country=data.country_codes,
        source_balance=data.numbers["source_balance"],
        history=history,
    )
    return Prepared(schema, matrix, history[split.train.stop :].copy())


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
    """Score validation and test, and set the thresholds on the validation part.

    The thresholds decide what is blocked, past blocks raise the risk of what follows (R15), and the
    thresholds are shares of those risks: they are set again until they stay the same.
    """
    rows = slice(split.train.stop, len(data))
    validation = slice(0, split.validation.stop - split.validation.start)
    later = prepared.matrix[rows]
    scores = supervised_score(supervised.model, later)
    progress.within(0.1, "supervised scores")
    raw = unsupervised.raw_score(later)
    anomaly = anomaly_scale(raw[validation])
    anomalies = anomaly(raw)
    progress.within(0.2, "unsupervised scores")
    count = len(later)
    replay_of = RuleReplay(
        rules,
        data,
        prepared.rule_history,
        rows,
        lambda done: progress.within(0.2 + 0.7 * done / count, f"rules on {done:,} rows"),
    )
    # No risk reaches 2: at first only rules block.
    policy = Policy(review=2.0, block=2.0)
    replayed = replay_of.replay(policy, scores, anomalies)
    for _ in range(POLICY_ROUNDS):
        reaches_models = ~replayed.rule_blocked[validation]
        thresholds = choose_thresholds(
            replayed.risk[validation][reaches_models], budgets.block, budgets.review
        )
        settled = (thresholds.review, thresholds.block) == (policy.review, policy.block)
        policy = Policy(review=thresholds.review, block=thresholds.block)
        if settled:
            break
        replayed = replay_of.replay(policy, scores, anomalies)
    return Decided(anomaly, policy, thresholds, scores, anomalies, replayed)


def describe(
    data: Transactions, split: Split, spec: RunSpec, schema: FeatureSchema
) -> dict[str, Any]:
    """What was trained on: counts and times of the whole and of each part."""
    return {
        "dataset": Path(spec.dataset).parent.name,
        "fingerprint": spec.dataset_fingerprint,
        "sample": spec.sample,
        **_describe_rows(data, slice(0, len(data))),
        "parts": {name: _describe_rows(data, part) for name, part in split.parts()},
        "features": len(schema.names),
        "transaction_types": list(schema.transaction_types),
        "countries": list(schema.countries),
    }


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
    data: Transactions, split: Split, decided: Decided
) -> tuple[dict[str, Any], dict[str, Any]]:
    labels = data.is_fraud[split.test]
    test = _test_part(split)
    supervised, unsupervised = decided.supervised[test], decided.unsupervised[test]
    risk = decided.replayed.risk[test]
    metrics = evaluate(
        labels,
        supervised,
        unsupervised,
        risk,
        decided.replayed.rule_blocked[test],
        {"review": decided.policy.review, "block": decided.policy.block},
    )
    scores = {"supervised": supervised, "unsupervised": unsupervised, "risk": risk}
    return metrics, curves(labels, scores)


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


def _categories(data: Transactions, name: str, split: Split, least: int) -> tuple[str, ...]:
    """The values of a column worth a feature each: the most frequent of the training part."""
    column = data.text[name]
    codes = column.codes[split.train]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.names))
    kept = [at for at in np.argsort(-counts, kind="stable")[:MAX_CATEGORIES] if counts[at] >= least]
    return tuple(sorted(column.names[at] for at in kept))


def _describe_rows(data: Transactions, part: slice) -> dict[str, Any]:
    labels = data.is_fraud[part]
    return {
        "rows": len(labels),
        "frauds": int(labels.sum()),
        "fraud_rate": float(labels.mean()),
        "first_at": _moment(data, part.start),
        "last_at": _moment(data, part.stop - 1),
    }


def _moment(data: Transactions, row: int) -> str:
    moment = datetime.fromtimestamp(data.created_at[row] / 1e6, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
