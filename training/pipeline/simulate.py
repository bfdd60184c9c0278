"""A simulator of wallets with habits, and of fraud that looks like fraud.

`simulate` writes a data set in the canonical schema, decided entirely by its arguments. What is
modelled, and what is not, is in docs/datasets.md.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from engine.errors import InvalidDataset
from training.pipeline.schema import EARLIEST, LATEST
from training.pipeline.simulate_episodes import concatenate
from training.pipeline.simulate_fraud import FRAUD_KINDS, fraud_episodes
from training.pipeline.simulate_honest import honest_episodes
from training.pipeline.simulate_people import (
    CASH_IN,
    CITIES,
    COUNTRIES,
    DAY,
    FAILED,
    MINUTE,
    STATUSES,
    SUCCESS,
    TYPES,
    Ints,
    Payments,
    Random,
    Times,
    World,
    create_world,
    ordinary_payments,
)

FRAUD_SHARE = 0.005
LOOKALIKE_SHARE = 0.13
CHUNK = 262_144
SUFFIXES = (".csv", ".csv.gz", ".parquet")
DEFAULT_START = datetime(2026, 1, 1, tzinfo=UTC)
DEFAULT_DAYS = 90

Progress = Callable[[float], None]


class Simulation(NamedTuple):
    """What was written."""

    path: Path
    rows: int
    frauds: int
    wallets: int


class Ledger(NamedTuple):
    """Payments in order of time, with final amounts, outcomes and balances before (cents)."""

    payments: Payments
    balance: Times


def simulate(
    path: Path,
    rows: int,
    seed: int,
    *,
    start: datetime = DEFAULT_START,
    days: int = DEFAULT_DAYS,
    progress: Progress | None = None,
) -> Simulation:
    """Write `rows` simulated transactions to `path` (.csv, .csv.gz or .parquet).

    Equal arguments give a file equal byte for byte. `progress` is called with the share done.
    The file appears under its name only when it is complete. Raises InvalidDataset for
    arguments out of range, an unknown suffix, or a file that can't be written.
    """
    _check(path, rows, seed, start, days)
    random = np.random.Generator(np.random.PCG64(seed))
    world, ledger = _history(random, rows, days)
    tables = _tables(random, world, ledger, seed, start)
    partial = path.with_name(f".{path.name}.partial")
    try:
        _write(tables, partial, path.name, rows, progress)
        partial.replace(path)
    except OSError as error:
        raise InvalidDataset(f"{path} can't be written: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    frauds = int(np.count_nonzero(ledger.payments.kind))
    return Simulation(path=path, rows=rows, frauds=frauds, wallets=world.wallets)


def _check(path: Path, rows: int, seed: int, start: datetime, days: int) -> None:
    if not path.name.endswith(SUFFIXES):
        raise InvalidDataset(f"{path.name}: the name must end in one of {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise InvalidDataset(f"{path} can't be written: there is no folder {path.parent}.")
    if not 100 <= rows <= 100_000_000:
        raise InvalidDataset(f"rows is {rows:,}; from 100 to 100,000,000 are possible.")
    if not 0 <= seed < 2**63:
        raise InvalidDataset(f"seed is {seed}; it must be from 0 to 2**63 - 1.")
    if not 7 <= days <= 3_650:
        raise InvalidDataset(f"days is {days}; from 7 to 3,650 are possible.")
    if start.tzinfo is None:
        raise InvalidDataset(f"start is {start}, without a time zone.")
    if not (EARLIEST <= start < LATEST and LATEST - start >= timedelta(days=days)):
        raise InvalidDataset(f"start is {start}; all days must be in the years 1970 to 9998.")


def _history(random: Random, rows: int, days: int) -> tuple[World, Ledger]:
    """Everything that happens, in order of time."""
    world = create_world(random, rows, days)
    frauds = round(rows * FRAUD_SHARE)
    lookalikes = round(rows * LOOKALIKE_SHARE)
    payments = concatenate(
        [
            ordinary_payments(random, world, rows - frauds - lookalikes),
            honest_episodes(random, world, lookalikes),
            fraud_episodes(random, world, frauds),
        ]
    )
    return world, _settle(random, world, _in_order(world, payments))


def _in_order(world: World, payments: Payments) -> Payments:
    """Sorted, every millisecond used once at most, all within the period."""
    time = np.abs(payments.time)
    time = np.where(time >= world.length, 2 * world.length - 1 - time, time)
    order = np.argsort(time, kind="stable")
    position = np.arange(len(order))
    strictly = np.maximum.accumulate(time[order] - position) + position
    return payments.pick(order)._replace(time=strictly)


def _settle(random: Random, world: World, payments: Payments) -> Ledger:
    """Walk the payments once, moving the money."""
    start = np.exp(random.normal(np.log(35), 0.6, world.wallets))
    start[: world.people] *= np.exp(world.typical)
    start = start.astype(np.int64)
    start[world.people :] = _working_capital(world, payments)
    luck = random.random(payments.rows, dtype=np.float32)
    amount, status, balance = _walk(
        payments.source,
        payments.destination,
        payments.amount,
        payments.share,
        payments.status,
        luck,
        start,
    )
    return Ledger(payments._replace(amount=amount, status=status), balance)


def _working_capital(world: World, payments: Payments) -> Times:
    """What shops, agents and employers begin with, so that they never run out."""
    paid = np.bincount(payments.source, weights=payments.amount, minlength=world.wallets)
    return paid[world.people :].astype(np.int64) + 500_000


@numba.njit(cache=True)
def _walk(
    source: Ints,
    destination: Ints,
    wanted: Ints,
    share: NDArray[np.float32],
    outcome: NDArray[np.int8],
    luck: NDArray[np.float32],
    balances: Times,
) -> tuple[Ints, NDArray[np.int8], Times]:
    """Amounts, outcomes and balances before each payment; `balances` is used up.

    Who lacks the money mostly knows it and pays less; some try and fail.
    """
    amount = wanted.copy()
    status = outcome.copy()
    before = np.empty(len(source), dtype=np.int64)
    for row in range(len(source)):
        have = balances[source[row]]
        before[row] = have
        pay = np.int64(wanted[row])
        if share[row] >= 0:
            pay = min(pay, max(np.int64(share[row] * have), np.int64(100)))
        if pay > have:
            if luck[row] < 0.01 or have < 3:
                status[row] = FAILED
            else:
                pay = max(np.int64(have * (0.05 + 0.35 * luck[row])), np.int64(1))
        amount[row] = pay
        if status[row] == SUCCESS:
            balances[source[row]] -= pay
            balances[destination[row]] += pay
    return amount, status, before


def _tables(
    random: Random, world: World, ledger: Ledger, seed: int, start: datetime
) -> Iterator[pa.Table]:
    """The canonical columns, a chunk of rows at a time."""
    names = pa.array([f"w{number:08x}" for number in _scrambled(random, world.wallets)])
    users = pa.array([f"u{number:08x}" for number in _scrambled(random, world.wallets)])
    risk = random.choice(3, world.wallets, p=[0.86, 0.125, 0.015]).astype(np.int8)
    risk[world.people :] = 0
    risk[world.mules[random.random(len(world.mules)) < 0.1]] = 2
    epoch_ms = round(start.timestamp() * 1_000)
    count = ledger.payments.rows
    foreign = random.random(count, dtype=np.float32) < 0.02
    locked = random.random(count, dtype=np.float32) < 0.0004
    locked &= ledger.payments.source < world.people
    for first in range(0, count, CHUNK):
        rows = slice(first, min(first + CHUNK, count))
        payments = ledger.payments.pick(rows)
        age = (payments.time - world.opened[payments.source]) // MINUTE
        yield pa.table(
            {
                "transaction_id": _transaction_ids(seed, rows),
                "created_at": _rfc3339(payments.time + epoch_ms),
                "amount": payments.amount / 100.0,
                "currency": _words(("PYC", "EUR"), foreign[rows]),
                "source_wallet_id": names.take(payments.source),
                "destination_wallet_id": names.take(payments.destination),
                "transaction_type": _words(TYPES, payments.type),
                "direction": _words(("outgoing", "incoming"), payments.type >= CASH_IN),
                "country": _words(COUNTRIES, payments.country),
                "city": _words(CITIES, payments.country),
                "initiator_user_id": users.take(payments.source),
                "status": _words(STATUSES, payments.status),
                "source_balance": ledger.balance[rows] / 100.0,
                "source_wallet_status": _words(("active", "locked"), locked[rows]),
                "destination_wallet_status": _words(("active",), np.zeros(len(age), np.int8)),
                "user_status": _words(("active",), np.zeros(len(age), np.int8)),
                "user_risk_level": _words(("low", "medium", "high"), risk[payments.source]),
                "account_age_minutes": np.maximum(age, 0),
                "is_fraud": payments.kind > 0,
                "fraud_kind": _words((None, *FRAUD_KINDS), payments.kind),
            }
        )


def _scrambled(random: Random, count: int) -> NDArray[np.int64]:
    """Numbers for ids that say nothing about what a wallet is."""
    return random.permutation(count) * 2_654_435_761 % 2**32


def _words(words: tuple[str | None, ...], codes: NDArray[np.generic]) -> pa.Array:
    return pa.array(words, type=pa.string()).take(pa.array(codes.astype(np.int8)))


def _strings(characters: NDArray[np.uint8]) -> pa.Array:
    """A string array from a matrix of characters, one row a string."""
    rows, width = characters.shape
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(characters)]
    return pa.StringArray.from_buffers(rows, *buffers[1:])


def _digits(out: NDArray[np.uint8], first: int, width: int, numbers: Times | Ints) -> None:
    for place in range(width):
        out[:, first + width - 1 - place] = 48 + numbers // 10**place % 10


def _transaction_ids(seed: int, rows: slice) -> pa.Array:
    prefix = np.frombuffer(f"t{seed}-".encode(), dtype=np.uint8)
    out = np.empty((rows.stop - rows.start, len(prefix) + 9), dtype=np.uint8)
    out[:, : len(prefix)] = prefix
    _digits(out, len(prefix), 9, np.arange(rows.start, rows.stop))
    return _strings(out)


def _rfc3339(time: Times) -> pa.Array:
    """`2026-01-01T00:00:00.000Z` from milliseconds since 1970; `time` is in order."""
    first, last = time[0] // DAY, time[-1] // DAY
    names = np.arange(first, last + 1).astype("datetime64[D]").astype("S10")
    out = np.empty((len(time), 24), dtype=np.uint8)
    out[:] = np.frombuffer(b"0000-00-00T00:00:00.000Z", dtype=np.uint8)
    out[:, :10] = names.view(np.uint8).reshape(-1, 10)[time // DAY - first]
    clock = (time % DAY).astype(np.int32)
    _digits(out, 11, 2, clock // 3_600_000)
    _digits(out, 14, 2, clock // 60_000 % 60)
    _digits(out, 17, 2, clock // 1_000 % 60)
    _digits(out, 20, 3, clock % 1_000)
    return _strings(out)


def _write(
    tables: Iterator[pa.Table], partial: Path, name: str, rows: int, progress: Progress | None
) -> None:
    first = next(tables)
    done = 0
    with _writer(partial, name, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
            done += table.num_rows
            if progress:
                progress(done / rows)


@contextmanager
def _writer(
    partial: Path, name: str, schema: pa.Schema
) -> Iterator[arrow_csv.CSVWriter | parquet.ParquetWriter]:
    if name.endswith(".parquet"):
        with parquet.ParquetWriter(partial, schema) as writer:
            yield writer
        return
    compression = "gzip" if name.endswith(".gz") else None
    options = arrow_csv.WriteOptions(quoting_style="none", quoting_header="none")
    with (
        pa.output_stream(str(partial), compression=compression) as stream,
        arrow_csv.CSVWriter(stream, schema, write_options=options) as writer,
    ):
        yield writer
