"""Importing files as a classifier's data set: one Parquet file of its columns, or nothing at all.

DuckDB reads, checks and writes with bounded memory. A data set's folder holds `data.parquet` (in
the files' order), `summary.json`, and `rejects.csv` with every row that was left out.
"""

# ruff: noqa: S608 — columns are numbered; paths pass through `quoted`.

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.classifier.definition import Definition
from engine.errors import InvalidDataset
from training.pipeline.classifier.columns import data_columns
from training.pipeline.classifier.staging import REJECTS_IN_ORDER, Stager, fingerprint
from training.pipeline.datasets import (
    DATA,
    REJECTS,
    SAMPLES,
    SUMMARY,
    Reject,
    listed_faults,
    refusal,
    work_folder,
)
from training.pipeline.reading import (
    MEMORY_LIMIT_MB,
    connected,
    failures_refused,
    file_size,
    quoted,
)

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is, 0 to 1."""


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was imported. `fingerprint` is of the content and its order, however it was in files.

    `class_counts`: rows by class, also of those with none. `reject_counts` by fault; a row can
    have several. `ignored_columns`: those of the files that the definition does not know.
    `unknown_classes`: rows by what the target had instead of a class, the ten commonest.
    """

    model: str
    definition_fingerprint: str
    files: tuple[str, ...]
    rows: int
    class_counts: dict[str, int]
    fingerprint: str
    columns: tuple[str, ...]
    rejected: int
    reject_counts: dict[str, int]
    reject_samples: tuple[Reject, ...]
    unknown_classes: dict[str, int]
    ignored_columns: tuple[str, ...]
    path: str


def import_rows(
    definition: Definition,
    files: Sequence[Path],
    target_dir: Path,
    on_bad_rows: str = "stop",
    progress: Progress | None = None,
    *,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    location: str | None = None,
) -> ImportResult:
    """Import `files`, in their order, as the new folder `target_dir`.

    Args:
        files: CSV (UTF-8, with a header), gzipped or not, or Parquet; the suffix does not matter.
            A column each for every input and the target, in any order; others are ignored. A value
            that is empty is the input's default.
        on_bad_rows: with `stop` a bad row refuses the whole; with `skip` they are left out and
            reported.
        progress: see `Progress`.
        memory_limit_mb: of the database that reads.
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
    tell = progress or (lambda _message, _fraction: None)
    failure = f"Importing into {target_dir} failed, and nothing was imported"
    with failures_refused(failure), work_folder(target_dir.parent) as work:
        result = work / "result"
        result.mkdir()
        with connected(work, memory_limit_mb) as connection:
            stager = Stager(connection, definition, work)
            _stage(stager, files, tell)
            tell("writing", 0.7)
            importing = _Importing(stager, definition)
            importing.refuse(skip=on_bad_rows == "skip")
            imported = importing.write(files, result, location or str(target_dir / DATA))
        (result / SUMMARY).write_bytes(
            msgspec.json.format(msgspec.json.encode(imported), indent=2) + b"\n"
        )
        result.rename(target_dir)
    tell("done", 1.0)
    return imported


def _stage(stager: Stager, files: Sequence[Path], tell: Progress) -> None:
    sizes = [file_size(path) for path in files]
    done = 0
    for path, size in zip(files, sizes, strict=True):
        before, share = done / sum(sizes), size / sum(sizes)

        def read(part: float, name: str = path.name, at: float = before, of: float = share) -> None:
            tell(f"reading {name}", 0.7 * (at + of * part))

        stager.add(path, read)
        done += size


class _Importing:
    """What the staged rows are, told or refused."""

    def __init__(self, stager: Stager, definition: Definition) -> None:
        self.stager = stager
        self.definition = definition
        self.unknown = self._unknown_classes()
        stager.collect_rejects()
        self.reject_counts: dict[str, int] = dict(
            self._all(
                "SELECT fault, count(*) FROM (SELECT unnest(string_split(faults, '; ')) AS fault "
                "FROM rejects) GROUP BY fault ORDER BY count(*) DESC, fault"
            )
        )
        self.samples = tuple(
            Reject(*row) for row in self._all(f"{REJECTS_IN_ORDER} LIMIT {SAMPLES}")
        )
        self.rejected = int(self._all("SELECT count(*) FROM rejects")[0][0])

    def refuse(self, *, skip: bool) -> None:
        """Raises InvalidDataset for bad rows, unless they are skipped, and for no good one."""
        classes = ""
        if self.unknown:
            listed = ", ".join(f"{name} ({rows:,})" for name, rows in self.unknown.items())
            classes = f"\nClasses that the definition does not have: {listed}"
        if self.rejected and not skip:
            raise refusal(self.rejected, self.reject_counts, self.samples, classes)
        if not self.stager.count():
            told = f"all {self.rejected:,} rows are bad" if self.rejected else "no rows"
            faults = listed_faults(self.reject_counts)
            raise InvalidDataset(
                f"There is nothing to import: {told}{f' ({faults})' if faults else ''}.{classes}"
            )

    def write(self, files: Sequence[Path], result: Path, location: str) -> ImportResult:
        definition, stager = self.definition, self.stager
        best = definition.training.best_possible
        known = best is not None and not stager.count(f"{stager.column(best)} IS NULL")
        columns = data_columns(definition, best_possible=known)
        data = result / DATA
        stager.write(data, columns)
        stager.connection.execute(
            f"COPY ({REJECTS_IN_ORDER}) TO {quoted(str(result / REJECTS))} (FORMAT csv, HEADER)"
        )
        return ImportResult(
            model=definition.name,
            definition_fingerprint=definition.fingerprint,
            files=tuple(path.name for path in files),
            rows=stager.count(),
            class_counts=self._class_counts(),
            fingerprint=fingerprint(stager.connection, data, columns),
            columns=tuple(column.name for column in columns),
            rejected=self.rejected,
            reject_counts=self.reject_counts,
            reject_samples=self.samples,
            unknown_classes=self.unknown,
            ignored_columns=tuple(stager.ignored),
            path=location,
        )

    def _class_counts(self) -> dict[str, int]:
        target = self.stager.column(self.definition.target)
        found = dict(self._all(f"SELECT {target}, count(*) FROM staged GROUP BY {target}"))
        return {label: found.get(label, 0) for label in self.definition.labels}

    def _unknown_classes(self) -> dict[str, int]:
        return dict(
            self._all(
                "SELECT unknown, count(*) FROM staged WHERE unknown IS NOT NULL GROUP BY unknown "
                f"ORDER BY count(*) DESC, unknown LIMIT {SAMPLES}"
            )
        )

    def _all(self, query: str) -> list[Any]:
        return self.stager.connection.execute(query).fetchall()
