"""Reading CSV so that nothing is lost: each line becomes a clean row, or a fault with its number.

DuckDB reads millions of rows a second, but after a quote that is never closed it skips to
somewhere later in the file without counting what it passed. So a file is first rewritten as CSV
that every reader understands: valid UTF-8, line feeds, the same number of fields in each row.
"""

import csv
import gzip
import io
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from engine.errors import InvalidDataset

BLOCK_BYTES = 4 * 2**20
LONGEST_LINE = 2**20
LONGEST_RECORD_LINES = 50
UNPACKED_TIMES = 20
UNPACKED_BYTES = 2_000_000_000
"""What a packed file may become: so many times its size, and this much in any case."""
FREE_BYTES = 500_000_000
"""What an import leaves free on the disk that it unpacks to."""
CONTENT_LIMIT = 1_000
"""How much of a rejected row is kept."""

NOT_UTF8 = "not UTF-8 text"
NUL = "a NUL character"
CARRIAGE_RETURN = "a carriage return within the line"
RAGGED = "wrong number of fields"
OPEN_QUOTE = "a quote that is never closed"
BAD_QUOTE = "text or a blank after a closing quote"
TOO_LONG = "a line of more than 1 MiB"

OnFault = Callable[[int, str, str, str], None]
"""Called with line number (1 for the header's), fault, details and the line's text."""


class LineMap(NamedTuple):
    """Row `row` of the clean file (from 1) and those after it are on line `row + shift`."""

    row: int
    shift: int


class Scan(NamedTuple):
    """What was found; `rows` were written."""

    rows: int
    lines: list[LineMap]


def read_blocks(path: Path, progress: Callable[[float], None]) -> Iterator[bytes]:
    """The file's bytes, unpacked if it is gzip, in blocks that end with a line feed.

    Raises InvalidDataset when it is empty, truncated or damaged gzip, or becomes too large.
    """
    size = path.stat().st_size
    largest = max(UNPACKED_TIMES * size, UNPACKED_BYTES)
    unpacked = 0
    carry = b""
    empty = True
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
        while block := _read(stream, path):
            empty = False
            unpacked += len(block)
            if packed and unpacked > largest:
                raise InvalidDataset(
                    f"{path.name} has {size / 1e6:,.1f} MB and unpacks to more than "
                    f"{largest / 1e6:,.0f} MB, which no real data does. If it is right, unpack it "
                    "first: manage.py import_dataset takes plain CSV of any size."
                )
            cut = block.rfind(b"\n") + 1
            if cut:
                yield carry + block[:cut]
                carry = block[cut:]
            else:
                carry += block
            if len(carry) > 8 * BLOCK_BYTES:
                raise InvalidDataset(f"{path.name}: no line breaks; this is not a CSV file.")
            progress(raw.tell() / size)
    if empty:
        raise InvalidDataset(f"{path.name} is empty.")
    if carry:
        yield carry + b"\n"


def _read(stream: BinaryIO, path: Path) -> bytes:
    try:
        return stream.read(BLOCK_BYTES)
    except EOFError as error:
        raise InvalidDataset(
            f"{path.name}: the gzip data ends in the middle; the file is truncated."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InvalidDataset(f"{path.name}: damaged gzip data ({error}).") from error


class CsvFile:
    """One CSV file: its `header` (read at once), then its rows by `clean`."""

    def __init__(self, path: Path, progress: Callable[[float], None]) -> None:
        """Read the header; InvalidDataset when there is none that can be read."""
        self.path = path
        self._blocks = read_blocks(path, progress)
        self._line = 1
        self._first = self._skip_to_header(next(self._blocks))
        line, _, self._first = self._first.partition(b"\n")
        self.header = self._parse_header(line)
        self._line += 1

    def _skip_to_header(self, block: bytes) -> bytes:
        if block[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InvalidDataset(f"{self.path.name} is UTF-16 text; expected UTF-8.")
        block = block.removeprefix(b"\xef\xbb\xbf")
        while block.startswith((b"\n", b"\r\n", b"\r\r\n")):
            self._line += 1
            block = block.partition(b"\n")[2]
        if not block:
            raise InvalidDataset(f"{self.path.name} is empty.")
        return block

    def _parse_header(self, line: bytes) -> tuple[str, ...]:
        try:
            names = next(csv.reader([line.decode().rstrip("\r")], strict=True))
        except UnicodeDecodeError as error:
            raise InvalidDataset(
                f"{self.path.name}: the header is {NOT_UTF8} ({error})."
            ) from error
        except csv.Error as error:
            faults = {"unexpected end": OPEN_QUOTE, "expected after": BAD_QUOTE}
            fault = next((named for said, named in faults.items() if said in str(error)), error)
            start = line[:80].decode(errors="replace").rstrip("\r")
            raise InvalidDataset(f"{self.path.name}: the header has {fault}: {start}") from error
        return tuple(name.strip() for name in names)

    def clean(self, target: Path, on_fault: OnFault) -> Scan:
        """Write every good row to `target`, without header; each bad line goes to `on_fault`."""
        with target.open("wb") as out:
            cleaner = _Cleaner(len(self.header), self._line, out, on_fault)
            _refuse_full(target, self.path.name)
            cleaner.add(self._first)
            for block in self._blocks:
                _refuse_full(target, self.path.name)
                cleaner.add(block)
            cleaner.finish()
        return Scan(cleaner.rows, cleaner.lines)


class _Cleaner:
    def __init__(self, fields: int, line: int, out: BinaryIO, on_fault: OnFault) -> None:
        self.fields = fields
        self.rows = 0
        self.lines: list[LineMap] = []
        self._line = line
        self._out = out
        self._on_fault = on_fault
        self._waiting: deque[bytes] = deque()  # lines of a record whose quote is still open
        self._map()

    def add(self, block: bytes) -> None:
        """Take complete lines."""
        block = block.replace(b"\r\n", b"\n")
        if not self._waiting and self._is_clean(block):
            count = block.count(b"\n")
            self._out.write(block)
            self.rows += count
            self._line += count
            return
        lines = block.split(b"\n")
        lines.pop()
        # `\r\r\n` ends the lines of a file that was made "text" twice on Windows.
        self._waiting.extend(line.rstrip(b"\r") for line in lines)
        self._take_waiting(at_end=False)

    def finish(self) -> None:
        """Take what was waiting for a closing quote."""
        self._take_waiting(at_end=True)

    def _is_clean(self, block: bytes) -> bool:
        """Every line is fine, with no quote in it: looked at all together, for speed."""
        if any(byte in block for byte in (b'"', b"\r", b"\0")) or not _is_utf8(block):
            return False
        characters = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(characters == 10)
        commas = np.flatnonzero(characters == 44)
        counts = np.diff(np.searchsorted(commas, ends), prepend=0)
        longest = int(np.diff(ends, prepend=-1).max(initial=0))
        return bool((counts == self.fields - 1).all()) and longest <= LONGEST_LINE

    def _take_waiting(self, *, at_end: bool) -> None:
        while self._waiting:
            taken = self._take_record(at_end=at_end)
            if not taken:
                return
            for _ in range(taken):
                self._waiting.popleft()
            self._line += taken
            if taken > 1:
                self._map()

    def _take_record(self, *, at_end: bool) -> int:
        """Deal with the record at the front; how many lines it had, 0 to wait for more."""
        line = self._waiting[0]
        if not line.strip():
            self._map(after=1)
            return 1
        fault = self._unreadable(line)
        if fault is None and b'"' in line:
            return self._take_quoted(at_end=at_end)
        found = line.count(b",") + 1
        if fault is None and found != self.fields:
            return self._reject(line, RAGGED, f"{found} instead of {self.fields}")
        if fault is not None:
            return self._reject(line, fault)
        self._out.write(line + b"\n")
        self.rows += 1
        return 1

    @staticmethod
    def _unreadable(line: bytes) -> str | None:
        if len(line) > LONGEST_LINE:
            return TOO_LONG
        if b"\0" in line:
            return NUL
        if b"\r" in line:
            return CARRIAGE_RETURN
        return None if _is_utf8(line) else NOT_UTF8

    def _take_quoted(self, *, at_end: bool) -> int:
        """A record may go on over line breaks within quotes, but not for ever."""
        record = ""
        for count, line in enumerate(islice(self._waiting, LONGEST_RECORD_LINES), start=1):
            if self._unreadable(line):
                break
            record += ("\n" if count > 1 else "") + line.decode()
            try:
                values = next(csv.reader(io.StringIO(record, newline=""), strict=True))
            except csv.Error as error:
                if "unexpected end" in str(error):
                    continue
                if count == 1:
                    return self._reject(line, BAD_QUOTE)
                break
            if len(values) == self.fields:
                self._write(values)
                return count
            if count == 1:
                found = f"{len(values)} instead of {self.fields}"
                return self._reject(line, RAGGED, found)
            break
        else:
            if not at_end and len(self._waiting) < LONGEST_RECORD_LINES:
                return 0
        return self._reject(self._waiting[0], OPEN_QUOTE)

    def _write(self, values: list[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        self._out.write(text.getvalue().encode())
        self.rows += 1

    def _reject(self, line: bytes, fault: str, details: str = "") -> int:
        text = line[:CONTENT_LIMIT].decode(errors="backslashreplace").replace("\0", "\\x00")
        self._on_fault(self._line, fault, details, text)
        self._map(after=1)
        return 1

    def _map(self, after: int = 0) -> None:
        """The next row is on the line after the `after` lines being taken now."""
        entry = LineMap(self.rows + 1, self._line + after - self.rows - 1)
        if self.lines and self.lines[-1].row == entry.row:
            self.lines.pop()
        self.lines.append(entry)


def _refuse_full(target: Path, name: str) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < FREE_BYTES:
        raise InvalidDataset(
            f"{name}: only {free / 1e6:,.0f} MB are left on the disk of {target.parent}; an import "
            f"leaves {FREE_BYTES / 1e6:,.0f} MB free. Make room, or set TMPDIR to a larger disk."
        )


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
