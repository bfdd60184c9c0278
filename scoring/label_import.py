"""Importing files of labels, in chunks."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path

from engine.errors import FieldError, InvalidLabels, InvalidRequest
from scoring.label_files import COLUMNS, LabelFile, LabelRow
from scoring.labels import LabelReport, Receipt, labels_record, time_faults
from scoring.reports import MAX_REPORTS

SHOWN = 10
"""How many bad rows and unknown transactions are named one by one."""

_FAULTS = 1_000
_OTHER_FAULTS = "something else"

Clock = Callable[[], datetime]
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is, 0 to 1."""


@dataclass
class BadRows:
    """How many rows were bad, the first of them, and how many had which fault. It stays small,
    however many they are: a file may be all bad, with a time in each fault."""

    count: int = 0
    first: list[LabelRow] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, rows: Iterable[LabelRow]) -> None:
        """Count those of the rows that are bad."""
        for row in rows:
            if not row.fault:
                continue
            self.count += 1
            if len(self.first) < SHOWN:
                self.first.append(row)
            is_counted = row.fault in self.faults or len(self.faults) < _FAULTS
            self.faults[row.fault if is_counted else _OTHER_FAULTS] += 1

    def __str__(self) -> str:
        """The first bad rows, a line for each; when there are more, also the commonest faults."""
        lines = [f"  {row.file}, line {row.line}: {row.fault}" for row in self.first]
        if self.count > SHOWN:
            lines.append(f"  … and {self.count - SHOWN:,} more. All of them by fault:")
            counts = self.faults.most_common(SHOWN)
            lines += [f"  {count:>9,}  {fault}" for fault, count in counts]
        return "\n".join(lines)


@dataclass
class Imported:
    """What came of files: how many labels were new, how many had been received before, how many
    are of transactions that were never seen here, rows and columns that were left out."""

    recorded: int = 0
    repeated: int = 0
    unknown: int = 0
    first_unknown: dict[str, None] = field(default_factory=dict)
    """The first of these transactions, one more than are shown if there are more."""
    bad_rows: BadRows = field(default_factory=BadRows)
    ignored_columns: list[str] = field(default_factory=list)

    def add(self, reports: Sequence[LabelReport], receipt: Receipt) -> None:
        """Count what came of some labels."""
        self.recorded += receipt.recorded
        self.repeated += receipt.repeated
        unknown = set(receipt.unknown)
        self.unknown += sum(report.transaction_id in unknown for report in reports)
        first = dict.fromkeys([*self.first_unknown, *receipt.unknown])
        self.first_unknown = dict.fromkeys(islice(first, SHOWN + 1))


def labels_import(
    paths: Sequence[Path],
    *,
    stated_by: str,
    clock: Clock,
    progress: Progress,
    source: str | None = None,
    on_bad_rows: str = "stop",
) -> Imported:
    """Record the labels of files, in their order, 1,000 at a time.

    What interrupts it leaves what was recorded until then; the same files again count that as
    repeated, so nothing is lost or doubled.

    Args:
        stated_by: the user's name.
        clock: tells when each chunk is received.
        progress: see `Progress`.
        source: of rows that name none.
        on_bad_rows: `stop` looks through all files first, and records nothing if a row is bad or
            a column unknown; `skip` leaves them out.

    Raises:
        InvalidLabels: a file can't be read, lacks a column, or has something bad in it.
    """
    files = [LabelFile(path, source=source) for path in paths]
    result = Imported(ignored_columns=[name for file in files for name in file.ignored])
    strict = on_bad_rows == "stop"
    if strict:
        _refuse_columns(result)
        for rows in _chunks(files, "checking", (0.0, 0.2), progress):
            result.bad_rows.add(_with_times_checked(rows, clock()))
        _refuse_rows(result)
    for rows in _chunks(files, "recording", (0.2 if strict else 0.0, 1.0), progress):
        _record(rows, result, strict, stated_by, clock)
    return result


def _record(
    rows: list[LabelRow], result: Imported, strict: bool, stated_by: str, clock: Clock
) -> None:
    """Record a chunk. A transaction that was made later than its label became known may be scored
    at any moment, so rows that were good may turn out bad."""
    while True:
        rows = _with_times_checked(rows, clock())
        reports = [row.report for row in rows if row.report is not None]
        if strict and len(reports) < len(rows):
            result.bad_rows.add(rows)
            _refuse_rows(result)
        try:
            receipt = labels_record(reports, stated_by=stated_by, now=clock())
        except InvalidRequest:
            continue
        break
    result.bad_rows.add(rows)
    result.add(reports, receipt)


def _chunks(
    files: Sequence[LabelFile],
    step: str,
    share: tuple[float, float],
    progress: Progress,
) -> Iterator[list[LabelRow]]:
    """The rows of all files, at most 1,000 at a time; tells how far they are read."""
    total = sum(file.size for file in files)
    before, (begin, end) = 0, share
    for file in files:
        rows = file.rows()
        while chunk := list(islice(rows, MAX_REPORTS)):
            yield chunk
            part = (before + file.position()) / total
            progress(f"{step} {file.name}", begin + (end - begin) * part)
        before += file.size


def _with_times_checked(rows: list[LabelRow], now: datetime) -> list[LabelRow]:
    good = [row for row in rows if row.report is not None]
    faults = time_faults([row.report for row in good if row.report is not None], now)
    bad = {good[at].line: f"known_at: {fault}" for at, fault in faults.items()}
    return [
        row._replace(report=None, fault=bad[row.line]) if row.line in bad else row for row in rows
    ]


def _refuse_columns(result: Imported) -> None:
    if result.ignored_columns:
        raise InvalidLabels(
            f"Unknown columns: {', '.join(result.ignored_columns)}. Those that are read: "
            f"{', '.join(COLUMNS)}. To leave the others out: --on-bad-rows skip"
        )


def _refuse_rows(result: Imported) -> None:
    bad = result.bad_rows
    if not bad.count:
        return
    rows = "1 bad row" if bad.count == 1 else f"{bad.count:,} bad rows"
    done = f"only {result.recorded:,} labels were" if result.recorded else "nothing was"
    raise InvalidLabels(
        f"{rows}, so {done} imported.\n{bad}\nTo import the others: --on-bad-rows skip",
        [FieldError(f"{row.file}:{row.line}", row.fault) for row in bad.first],
    )
