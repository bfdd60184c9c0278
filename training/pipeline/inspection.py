"""What a person wants to know of a file before importing it, and a mapping to import it by.

The file is read once, as text, into a temporary database; every fact is of all its rows, the
proposed mapping is by its header and its first rows.
"""

# ruff: noqa: S608 — table and column names are ours.

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from engine.errors import InvalidDataset
from training.pipeline.leaks import Judge, Separation
from training.pipeline.mapping import OF_LABEL, FileMapping, parse_column, parse_mapping
from training.pipeline.profile import Profile, profile
from training.pipeline.proposal import Proposal, is_row_number, leak_by_name, propose, to_toml
from training.pipeline.reading import connected, failures_refused, file_size, open_raw, shown
from training.pipeline.schema import COLUMNS
from training.pipeline.values import checked_rows

IS_FRAUD = next(column for column in COLUMNS if column.name == "is_fraud")

Progress = Callable[[str, float], None]


class Wallets(msgspec.Struct, frozen=True):
    """`on_both_sides`: ids that are a source and a destination. `busiest_source`: its rows."""

    sources: int
    destinations: int
    on_both_sides: int
    busiest_source: int
    busiest_destination: int


class Amounts(msgspec.Struct, frozen=True):
    """In currency units; `median` and `percentile_99` are of all rows."""

    lowest: float
    median: float
    mean: float
    percentile_99: float
    highest: float
    zero: int
    negative: int


class Reading(msgspec.Struct, frozen=True):
    """What an import by the mapping would find; everything but `faults` is of its good rows.

    `faults`: bad rows by fault; a row can have several. `repeated_ids`: rows whose transaction id
    an earlier one has.
    """

    good_rows: int
    bad_rows: int
    faults: dict[str, int]
    first_at: datetime
    last_at: datetime
    frauds: int
    repeated_ids: int
    wallets: Wallets
    amounts: Amounts


class Inspection(msgspec.Struct, frozen=True):
    """`columns` are as in the file, judged by its first rows; `missing`: blanks of all rows, by
    column; `repeated_rows`: rows equal to an earlier one but for their id and number.
    `separations`: best first, empty when `not_judged` says why no column was judged by its values.
    `leaks`: columns that are suspected to tell the label, and why.

    `mapping` is what the file was read by; it was proposed unless `proposal` is null. `uses`: what
    it makes of each column. `reading` is
    null when the proposal lacks what an import needs.
    """

    file: str
    rows: int
    unreadable_lines: dict[str, int]
    columns: tuple[Profile, ...]
    missing: dict[str, int]
    repeated_rows: int
    mapping: str
    proposal: Proposal | None
    reading: Reading | None
    separations: tuple[Separation, ...]
    not_judged: str | None
    leaks: dict[str, str]
    uses: dict[str, str]


def inspect_file(
    path: Path, mapping: FileMapping | None = None, progress: Progress | None = None
) -> Inspection:
    """Read a CSV (gzipped or not) or Parquet file and say what is in it.

    Args:
        mapping: how it is read; proposed if there is none.
        progress: called with what is being done and the share of the whole that is, 0 to 1.

    Raises:
        InvalidDataset: the file can't be read, has no rows, or lacks a column of the mapping.
    """
    tell = progress or (lambda _step, _share: None)
    failure = f"Inspecting {path.name} failed"
    with failures_refused(failure), tempfile.TemporaryDirectory(prefix="inspecting-") as folder:
        work = Path(folder)
        with connected(work) as connection:
            return _Inspecting(connection, path, tell).run(work, mapping)


class _Inspecting:
    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, tell: Progress) -> None:
        self._connection = connection
        self._path = path
        self._tell = tell
        self._unreadable: dict[str, int] = {}
        self._header: tuple[str, ...] = ()

    def run(self, work: Path, given: FileMapping | None) -> Inspection:
        self._load(work)
        self._tell("looking at the columns", 0.45)
        columns = profile(self._connection, "raw", self._header)
        proposal = propose(columns)
        mapping = given or self._parsed(proposal)
        reading: Reading | None = None
        if mapping is not None:
            self._check_columns(mapping)
            self._tell("checking the rows", 0.6)
            reading = self._read_by(mapping)
        of_label = _of_label(mapping, proposal)
        good = "good" if mapping is not None else self._labelled(proposal)
        separations, not_judged = self._judged(good, of_label)
        leaks = self._leaks(separations, of_label)
        proposal = proposal.without(leaks)
        inspection = Inspection(
            file=self._path.name,
            rows=self._count("SELECT count(*) FROM raw"),
            unreadable_lines=self._unreadable,
            columns=columns,
            missing=self._missing(),
            repeated_rows=self._repeated_rows(mapping),
            mapping=given.text if given else to_toml(proposal, self._path.name),
            proposal=None if given else proposal,
            reading=reading,
            separations=separations,
            not_judged=not_judged,
            leaks=leaks,
            uses=self._uses_of(given) if given else self._uses_proposed(proposal),
        )
        self._tell("done", 1.0)
        return inspection

    def _parsed(self, proposal: Proposal) -> FileMapping | None:
        if not proposal.complete:
            return None
        return parse_mapping("proposal", to_toml(proposal, self._path.name))

    def _load(self, work: Path) -> None:
        file_size(self._path)
        name = self._path.name

        def on_fault(_line: int, fault: str, _details: str, _text: str) -> None:
            self._unreadable[fault] = self._unreadable.get(fault, 0) + 1

        def read(share: float) -> None:
            self._tell(f"reading {name}", 0.4 * share)

        raw = open_raw(self._connection, self._path, read)
        if len(raw.header) == 1 and set(raw.header[0]) & set(";|\t"):
            raise InvalidDataset(f"{name}: columns must be separated by commas: {raw.header[0]!r}.")
        clean = work / "clean.csv"
        rows = raw.rows(clean, on_fault)
        self._header = raw.header
        filled = [f"CASE WHEN trim(c{at}) <> '' THEN c{at} END AS c{at}" for at in self._places]
        self._connection.execute(
            f"CREATE TABLE raw AS SELECT n, {', '.join(filled)} FROM ({rows.query})"
        )
        clean.unlink(missing_ok=True)
        read_rows = self._count("SELECT count(*) FROM raw")
        if read_rows != rows.total:
            raise InvalidDataset(f"{name}: {rows.total:,} rows were found and {read_rows:,} read.")
        if not read_rows:
            raise InvalidDataset(f"{name}: a header and no rows.")

    @property
    def _places(self) -> range:
        return range(len(self._header))

    def _check_columns(self, mapping: FileMapping) -> None:
        missing = [name for name in mapping.required if name not in self._header]
        if missing:
            raise InvalidDataset(
                f"{self._path.name}: columns missing: {', '.join(map(shown, missing))}. "
                f"Found: {', '.join(map(shown, self._header))}."
            )

    def _read_by(self, mapping: FileMapping) -> Reading:
        rows = checked_rows(mapping, "SELECT * FROM raw", self._header, 0)
        self._connection.execute(
            "CREATE TABLE staged AS SELECT row, faults, transaction_id, created_at, amount, "
            f"source_wallet_id, destination_wallet_id, is_fraud FROM ({rows})"
        )
        self._connection.execute("CREATE VIEW good AS SELECT * FROM staged WHERE faults = ''")
        faults = self._connection.execute(
            "SELECT fault, count(*) FROM (SELECT unnest(string_split(faults, '; ')) AS fault "
            "FROM staged WHERE faults <> '') GROUP BY fault ORDER BY count(*) DESC, fault"
        ).fetchall()
        good, distinct, frauds, first_at, last_at = self._row(
            "SELECT count(*), count(DISTINCT transaction_id), count(*) FILTER (is_fraud), "
            "min(created_at), max(created_at) FROM good"
        )
        if not good:
            told = ", ".join(f"{fault}: {count:,}" for fault, count in faults)
            raise InvalidDataset(f"{self._path.name}: by this mapping every row is bad ({told}).")
        return Reading(
            good_rows=good,
            bad_rows=self._count("SELECT count(*) FROM staged WHERE faults <> ''"),
            faults=dict(faults),
            first_at=first_at.replace(tzinfo=UTC),
            last_at=last_at.replace(tzinfo=UTC),
            frauds=frauds,
            repeated_ids=good - distinct,
            wallets=self._wallets(),
            amounts=self._amounts(),
        )

    def _wallets(self) -> Wallets:
        sides = {}
        for side in ("source", "destination"):
            sides[side] = self._row(
                f"SELECT count(*), max(times) FROM (SELECT count(*) AS times FROM good "
                f"GROUP BY {side}_wallet_id)"
            )
        both = self._count(
            "SELECT count(*) FROM (SELECT DISTINCT source_wallet_id FROM good) "
            "WHERE source_wallet_id IN (SELECT destination_wallet_id FROM good)"
        )
        (sources, of_source), (destinations, of_destination) = sides.values()
        return Wallets(sources, destinations, both, of_source, of_destination)

    def _amounts(self) -> Amounts:
        row = self._row(
            "SELECT min(a), approx_quantile(a, 0.5), avg(a), approx_quantile(a, 0.99), max(a), "
            "count(*) FILTER (a = 0), count(*) FILTER (a < 0) "
            "FROM (SELECT amount / 10000 AS a FROM good)"
        )
        return Amounts(*row)

    def _labelled(self, proposal: Proposal) -> str | None:
        """A view like `good` of the rows whose label is known, if its column is."""
        source = next((c.source for c in proposal.columns if c.target == IS_FRAUD.name), None)
        if source is None:
            return None
        rows = checked_rows(parse_column(IS_FRAUD, source), "SELECT * FROM raw", self._header, 0)
        self._connection.execute(
            f"CREATE VIEW labelled AS SELECT row, is_fraud FROM ({rows}) WHERE faults = ''"
        )
        return "labelled"

    def _judged(
        self, good: str | None, of_label: set[str]
    ) -> tuple[tuple[Separation, ...], str | None]:
        """How well each column alone separates the frauds, or why that can't be said."""
        if good is None:
            return (), "no column is known to be the label"
        texts = ", ".join(f"c{at}" for at in self._places)
        self._connection.execute(
            f"CREATE TABLE judged AS SELECT n, is_fraud AS y, {texts} "
            f"FROM raw JOIN {good} AS good ON good.row = raw.n"
        )
        judge = Judge(self._connection)
        if judge.hindrance is not None:
            return (), judge.hindrance
        found = []
        for at, name in enumerate(self._header):
            self._tell("looking for leaks", 0.7 + 0.3 * at / len(self._header))
            if name not in of_label:
                found.append(judge.separation(name, f"c{at}"))
        return tuple(sorted(found, key=lambda one: -one.roc_auc)), None

    def _leaks(self, separations: tuple[Separation, ...], of_label: set[str]) -> dict[str, str]:
        told = {one.column: one.reason for one in separations if one.reason is not None}
        for name in self._header:
            if name not in of_label and (reason := leak_by_name(name)) is not None:
                told.setdefault(name, reason)
        return told

    def _uses_of(self, mapping: FileMapping) -> dict[str, str]:
        read = [(target, source.columns) for target, source in mapping.sources.items()]
        return self._uses(read, dict.fromkeys(mapping.ignored, "ignored"))

    def _uses_proposed(self, proposal: Proposal) -> dict[str, str]:
        read = [(c.target, c.columns) for c in (*proposal.columns, *proposal.attributes)]
        return self._uses(read, {n: f"ignored: {why}" for n, why in proposal.ignored.items()})

    def _uses(
        self, read: Sequence[tuple[str, tuple[str, ...]]], ignored: dict[str, str]
    ) -> dict[str, str]:
        used = {}
        for name in self._header:
            targets = [target for target, names in read if name in names]
            used[name] = ", ".join(targets) or ignored.get(name, "not named")
        return used

    def _missing(self) -> dict[str, int]:
        counts = self._row(
            "SELECT " + ", ".join(f"count(*) - count(c{at})" for at in self._places) + " FROM raw"
        )
        return {name: count for name, count in zip(self._header, counts, strict=True) if count}

    def _repeated_rows(self, mapping: FileMapping | None) -> int:
        """Compared by a 64-bit hash: a pair that only looks equal is in one of 3,700 files of a
        hundred million rows."""
        own = set(mapping.sources["transaction_id"].columns) if mapping is not None else set()
        own |= {name for name in self._header if is_row_number(name)}
        compared = [f"c{at}" for at, name in enumerate(self._header) if name not in own]
        if not compared:
            return 0
        return self._count(
            f"SELECT count(*) - count(DISTINCT hash({', '.join(compared)})) FROM raw"
        )

    def _count(self, query: str) -> int:
        return int(self._row(query)[0])

    def _row(self, query: str) -> tuple[Any, ...]:
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return row


def _of_label(mapping: FileMapping | None, proposal: Proposal) -> set[str]:
    """The columns that tell the label because they are to."""
    if mapping is not None:
        read = [mapping.sources[key].columns for key in OF_LABEL if key in mapping.sources]
    else:
        read = [choice.columns for choice in proposal.columns if choice.target in OF_LABEL]
    return {name for names in read for name in names}
