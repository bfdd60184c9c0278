"""Scoring a file by hand: with any registered version, into a file, without touching history."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from django.conf import settings

from deployments import artifacts
from deployments.models import ModelVersion
from deployments.models import RuleSet as RuleSetRow
from deployments.selectors import (
    live_pointer,
    model_by_name,
    rule_set_by_name,
    version_by_semver,
)
from engine.errors import InvalidDataset, NoModel
from engine.fraud_bundle import Bundle
from engine.rules import RuleSet
from training.datasets import dataset_of_transactions
from training.pipeline.durations import parse_duration

if TYPE_CHECKING:
    from training.pipeline.score_file import Summary

IMPORTED = "data"
SCORES = "scores.parquet"

Progress = Callable[[str, float, str], None]
"""Called with what is being done, the share of it that is (0 to 1), and how it goes on."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is scored: files and how they are read, or an imported data set."""

    files: Sequence[Path] = ()
    preset: str = "canonical"
    mapping: Path | None = None
    start: datetime | None = None
    on_bad_rows: str = "stop"
    dataset: str | None = None


class _Rows(NamedTuple):
    """A subject as a data set."""

    location: str
    label_delay: str | None
    """How long its labels take to arrive, `7d`, where that is stated."""
    rejected: int
    """Rows that were left out of it."""

    def labels_after(self, bundle: Bundle) -> int:
        """Microseconds until a label arrives: as is stated, else as the version was trained."""
        if self.label_delay is None:
            return bundle.label_delay
        return parse_duration(self.label_delay)


class FileScored(NamedTuple):
    """What was done. `rejected` rows were left out; they are in the file `rejects`."""

    version: ModelVersion
    rule_set: RuleSetRow
    summary: "Summary"
    rejected: int
    rejects: Path


def file_score(
    subject: Subject,
    out: Path,
    *,
    model: str = settings.MODEL_NAME,
    version: str | None = None,
    rules: str | None = None,
    labels: bool = False,
    features: bool = False,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> FileScored:
    """Score transactions in order of time as the live path would have, from an empty history.

    `out` is written as Parquet, whole or not at all.

    Args:
        version: a registered version; without one, the champion.
        rules: the name of a rule set; without one, the rules that serve.
        labels: let history know the data's labels, each from when it was known: where no row says
            so, after the label delay of the data, and where that is not stated, of the version.
        features: write every feature too.
        force: write over what `out` is.

    Raises:
        InvalidDataset: the data can't be read or does not fit the version, or `out` is there.
        NotRegistered: there is no such model, version, rule set.
        NoModel: no version is given and none serves.
        InvalidBundle: the version can't be loaded.
    """
    # DuckDB and pyarrow: too heavy for the web process
    from training.pipeline.datasets import work_folder
    from training.pipeline.reading import failures_refused

    if model_by_name(model).is_classifier:
        raise InvalidDataset(
            f"“{model}” is a classifier, and does not score transactions: POST /models/{model}/"
            "predict answers for one row."
        )
    target = _Target(out, subject.files, force)
    target.check()
    chosen, rule_set = _version(model, version), _rule_set(model, rules)
    bundle = artifacts.load_fraud(chosen.location, chosen.manifest_sha256)
    failure = f"Writing {out} failed, and nothing was written"
    with failures_refused(failure), work_folder(out.absolute().parent) as work:
        found = _found(subject, work, labels=labels, progress=progress)
        labels_after = found.labels_after(bundle) if labels else None
        summary = _scored(found, work, bundle, rule_set, labels_after, features, progress)
        target.publish(work, found.rejected)
    return FileScored(chosen, rule_set, summary, found.rejected, target.rejects)


def _scored(
    found: _Rows,
    work: Path,
    bundle: Bundle,
    rule_set: RuleSetRow,
    labels_after: int | None,
    features: bool,
    progress: Progress,
) -> "Summary":
    from training.pipeline.score_file import write_scores
    from training.pipeline.table import read_transactions

    progress("loading", 0.0, "")
    data = read_transactions(
        found.location, progress=lambda share, amount: progress("loading", share, amount)
    )
    return write_scores(
        work / SCORES,
        bundle,
        RuleSet.from_toml(rule_set.source),
        data,
        labels_after=labels_after,
        features=features,
        progress=_Rate(len(data), progress),
    )


@dataclass(frozen=True)
class _Target:
    """The file to write, and beside it the list of the rows that were left out."""

    out: Path
    files: Sequence[Path]
    force: bool

    @property
    def rejects(self) -> Path:
        return self.out.with_name(f"{self.out.name}.rejects.csv")

    def check(self) -> None:
        """Raise InvalidDataset when something is in the way."""
        folder = self.out.absolute().parent
        if not folder.is_dir():
            raise InvalidDataset(f"There is no folder {folder} to write {self.out.name} in.")
        if self.out.is_dir():
            raise InvalidDataset(f"{self.out} is a folder; name a file.")
        for path in (self.out, self.rejects):
            if path.exists() and any(path.samefile(each) for each in self.files if each.exists()):
                raise InvalidDataset(f"{path} is one of the files to score.")
            if path.exists() and not self.force:
                raise InvalidDataset(f"{path} exists already. To write over it: --force")

    def publish(self, work: Path, rejected: int) -> None:
        """Put what was made in `work` in its place, unless something came in the way meanwhile."""
        self.check()
        if rejected:
            (work / IMPORTED / "rejects.csv").replace(self.rejects)
        else:
            self.rejects.unlink(missing_ok=True)  # of what is written over
        (work / SCORES).replace(self.out)


def _version(model: str, version: str | None) -> ModelVersion:
    if version is not None:
        return version_by_semver(model_by_name(model), version)
    champion = live_pointer(model).version
    if champion is None:
        raise NoModel(f"No version of “{model}” serves yet; name one with --version.")
    return champion


def _rule_set(model: str, name: str | None) -> RuleSetRow:
    return live_pointer(model).rules if name is None else rule_set_by_name(name)


def _found(subject: Subject, work: Path, *, labels: bool, progress: Progress) -> _Rows:
    """The transactions as a data set, which is made in `work` if they are files."""
    from training.pipeline.datasets import import_files
    from training.pipeline.mapping import read_mapping
    from training.pipeline.presets import load_preset

    if subject.dataset is not None:
        dataset = dataset_of_transactions(subject.dataset)
        return _Rows(dataset.file, dataset.summary.get("label_delay"), 0)
    mapping = load_preset(subject.preset)
    if subject.mapping is not None:
        mapping = read_mapping(subject.mapping)
    summary = import_files(
        subject.files,
        work / IMPORTED,
        mapping if labels else mapping.unlabelled(),
        subject.on_bad_rows,
        lambda step, fraction: progress(step, fraction, ""),
        start=subject.start,
    )
    return _Rows(str(work / IMPORTED / "data.parquet"), summary.label_delay, summary.rejected)


class _Rate:
    """Tells how many rows are scored, how fast, and how long the rest will take."""

    def __init__(self, rows: int, progress: Progress) -> None:
        self._rows = rows
        self._progress = progress
        self._began = time.monotonic()
        progress("scoring", 0.0, f"0 of {rows:,} rows")

    def __call__(self, done: int) -> None:
        rate = done / (time.monotonic() - self._began)
        left = (self._rows - done) / rate
        detail = f"{done:,} of {self._rows:,} rows, {rate:,.0f} rows/s, {left:,.0f} s left"
        self._progress("scoring", done / self._rows, detail)
