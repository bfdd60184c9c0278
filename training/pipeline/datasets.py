"""Importing files as a data set: one Parquet file in the canonical schema, or nothing at all.

DuckDB reads, checks, sorts and writes with bounded memory, spilling to disk. A data set's folder
holds `data.parquet` (sorted by time, then in the files' order), `summary.json`, and
`rejects.csv` with every row that was left out.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from engine.errors import FieldError, InvalidDataset
from training.pipeline import staging
from training.pipeline.mapping import FileMapping
from training.pipeline.presets import load_preset
from training.pipeline.reading import (
    MEMORY_LIMIT_MB,
    connected,
    failures_refused,
    file_size,
    quoted,
)

DATA, SUMMARY, REJECTS = "data.parquet", "summary.json", "rejects.csv"
WORK_PREFIX, LOCK = ".importing-", "lock"
SAMPLES = 10
HOW_TO_SKIP = "\nTo import the others: --on-bad-rows skip"

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is, 0 to 1."""


class Reject(msgspec.Struct, frozen=True):
    """A row that was left out: `line` counts from 1, and for Parquet the row."""

    file: str
    line: int
    reason: str
    content: str


class DatasetSummary(msgspec.Struct, frozen=True):
    """What was imported. `fingerprint` is of the content: the same however it was in files.

    `reject_counts` by fault; a row can have several. `columns`: those with any value.
    `mapping`: the TOML that it was imported by, with `start` if the import was given another.
    `label_delay`: as the mapping says, `7d`. `attributes`: the kind of each, by its name.
    `taken_for_false`: by column, the texts that became false because `positive` does not have them,
    and how many rows of the files have each; the ten commonest.
    `traffic`: of recorded traffic, see `traffic.py`: period, counts, and who decided.
    """

    preset: str
    mapping: str
    start: datetime | None
    label_delay: str | None
    attributes: dict[str, str]
    taken_for_false: dict[str, dict[str, int]]
    files: tuple[str, ...]
    rows: int
    frauds: int
    first_at: datetime
    last_at: datetime
    fingerprint: str
    columns: tuple[str, ...]
    rejected: int
    reject_counts: dict[str, int]
    reject_samples: tuple[Reject, ...]
    ignored_columns: tuple[str, ...]
    path: str
    traffic: dict[str, Any] | None = None


def import_files(
    files: Sequence[Path],
    target_dir: Path,
    mapping: str | FileMapping,
    on_bad_rows: str = "stop",
    progress: Progress | None = None,
    *,
    start: datetime | None = None,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    location: str | None = None,
) -> DatasetSummary:
    """Import `files`, in their order, as the new folder `target_dir`.

    Args:
        files: CSV (UTF-8, with a header), gzipped or not, or Parquet; the suffix does not matter.
        mapping: how the columns are read; a text names a preset.
        on_bad_rows: with `stop` a bad row or an unknown column refuses the whole; with `skip`
            they are left out and reported.
        progress: see `Progress`.
        start: when the first hour begins (aware), for a mapping that counts hours.
        memory_limit_mb: of the database that sorts; what it can't hold goes to the disk.
        location: where the data will be kept, for the summary, if not in `target_dir`.

    Raises:
        InvalidDataset: nothing was imported; the detail and `errors` name the first bad rows, or
            what is wrong with a file.
    """
    if on_bad_rows not in ("stop", "skip"):
        raise InvalidDataset(f"on_bad_rows is {on_bad_rows!r}; it must be stop or skip.")
    if target_dir.exists():
        raise InvalidDataset(f"{target_dir} exists already; a data set never changes.")
    if not files:
        raise InvalidDataset("No files were given.")
    skip = on_bad_rows == "skip"
    chosen = load_preset(mapping) if isinstance(mapping, str) else mapping
    if start is not None:
        chosen = chosen.starting(start)
    failure = f"Importing into {target_dir} failed, and nothing was imported"
    with failures_refused(failure), work_folder(target_dir.parent) as work:
        result = work / "result"
        result.mkdir()
        with connected(work, memory_limit_mb) as connection:
            staging.create_tables(connection, chosen.columns)
            stager = staging.Stager(connection, chosen, work, skip=skip)
            importing = _Importing(connection, chosen, start, stager, progress)
            summary = importing.run(files, skip, result, location or str(target_dir / DATA))
        (result / SUMMARY).write_bytes(
            msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
        )
        result.rename(target_dir)
    return summary


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`, locked while it is in use, so that whoever is next can tell
    whether the one that made it was killed; those are removed here."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{WORK_PREFIX}*/{LOCK}"):
        with suppress(OSError), left.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent)
    made = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    work = made
    try:
        with (made / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Only now may another find it.
            work = made.rename(made.with_name(WORK_PREFIX + made.name.removeprefix(".new-")))
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Importing:
    """One import: stage every file, find what repeats, then write or refuse."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        mapping: FileMapping,
        start: datetime | None,
        stager: staging.Stager,
        progress: Progress | None,
    ) -> None:
        self.connection = connection
        self.mapping = mapping
        self.start = start
        self.stager = stager
        self._progress = progress

    def run(
        self, files: Sequence[Path], skip: bool, result: Path, final_path: str
    ) -> DatasetSummary:
        self._stage(files)
        self._tell("looking for repeated transaction ids", 0.6)
        staging.collect_rejects(self.connection)
        rejected = self._one("SELECT count(*) FROM rejects")
        counts, samples = self._reject_counts(), self._reject_samples()
        if rejected and not skip:
            raise refusal(rejected, counts, samples)
        if not self._one("SELECT count(*) FROM staged"):
            raise _emptiness(files, rejected, counts)
        self._tell("sorting", 0.7)
        data = result / DATA
        columns = staging.held_columns(self.connection, self.mapping.columns)
        staging.write_sorted(self.connection, data, columns)
        self._write_rejects(result / REJECTS)
        self._tell("taking the fingerprint", 0.9)
        facts = staging.describe(self.connection, data, columns)
        summary = DatasetSummary(
            preset=self.mapping.name,
            mapping=self.mapping.text,
            start=self.start,
            label_delay=self.mapping.label_delay,
            attributes=self.mapping.attributes,
            taken_for_false=self._taken_for_false(),
            files=tuple(path.name for path in files),
            rows=facts.rows,
            frauds=facts.frauds,
            first_at=facts.first_at.replace(tzinfo=UTC),
            last_at=facts.last_at.replace(tzinfo=UTC),
            fingerprint=staging.fingerprint(self.connection, data, columns),
            columns=facts.columns,
            rejected=rejected,
            reject_counts=counts,
            reject_samples=samples,
            ignored_columns=tuple(self.stager.ignored),
            path=final_path,
        )
        self._tell("done", 1.0)
        return summary

    def _stage(self, files: Sequence[Path]) -> None:
        sizes = [file_size(path) for path in files]
        done = 0
        for path, size in zip(files, sizes, strict=True):
            before, share = done / sum(sizes), size / sum(sizes)

            def tell(
                part: float, name: str = path.name, at: float = before, of: float = share
            ) -> None:
                self._tell(f"reading {name}", 0.6 * (at + of * part))

            self.stager.add(path, tell)
            done += size

    def _reject_counts(self) -> dict[str, int]:
        found = self.connection.execute(
            "SELECT fault, count(*) FROM (SELECT unnest(string_split(faults, '; ')) AS fault "
            "FROM rejects) GROUP BY fault ORDER BY count(*) DESC, fault"
        ).fetchall()
        return dict(found)

    def _taken_for_false(self) -> dict[str, dict[str, int]]:
        found = self.connection.execute(staging.COMMONEST_FALSE, [SAMPLES]).fetchall()
        counts: dict[str, dict[str, int]] = {}
        for target, value, rows in found:
            counts.setdefault(target, {})[value] = rows
        return counts

    def _reject_samples(self) -> tuple[Reject, ...]:
        found = self.connection.execute(f"{staging.REJECTS_IN_ORDER} LIMIT {SAMPLES}").fetchall()
        return tuple(Reject(*row) for row in found)

    def _write_rejects(self, path: Path) -> None:
        self.connection.execute(
            f"COPY ({staging.REJECTS_IN_ORDER}) TO {quoted(str(path))} (FORMAT csv, HEADER)"
        )

    def _one(self, query: str) -> int:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def _tell(self, message: str, fraction: float) -> None:
        if self._progress is not None:
            self._progress(message, fraction)


def refusal(
    rejected: int, counts: dict[str, int], samples: tuple[Reject, ...], more: str = ""
) -> InvalidDataset:
    """Why nothing was imported: how many rows are bad by fault, the first ones, and `more`."""
    shown = [f"  {bad.file}, line {bad.line}: {bad.reason}" for bad in samples]
    if rejected > len(samples):
        shown.append(f"  … and {rejected - len(samples):,} more")
    rows = "1 bad row" if rejected == 1 else f"{rejected:,} bad rows"
    return InvalidDataset(
        f"{rows}, so nothing was imported ({listed_faults(counts)}).\n"
        + "\n".join(shown)
        + more
        + HOW_TO_SKIP,
        [FieldError(f"{bad.file}:{bad.line}", bad.reason) for bad in samples],
    )


def _emptiness(files: Sequence[Path], rejected: int, counts: dict[str, int]) -> InvalidDataset:
    names = ", ".join(path.name for path in files)
    if rejected:
        return InvalidDataset(f"{names}: all {rejected:,} rows are bad ({listed_faults(counts)}).")
    return InvalidDataset(f"{names}: a header and no rows.")


def listed_faults(counts: dict[str, int]) -> str:
    """Faults and how many rows have each."""
    return ", ".join(f"{fault}: {count:,}" for fault, count in counts.items())
