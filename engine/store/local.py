"""A store in a local folder."""

import fcntl
import filecmp
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from engine.errors import ObjectMissing
from engine.store.names import TEMPORARY, Facts, Progress, checked, silent, staged

COPY_BYTES = 1 << 20


class LocalStore:
    """A folder. Content is on the disk (fsync of file and folder) when a write returns."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """The folder's path."""
        return str(self.root)

    def path(self, name: str) -> Path:
        """Return where `name` is on this machine."""
        return self.root / checked(name)

    def read(self, name: str) -> bytes:
        """Return the content of `name`; raises ObjectMissing."""
        with _missing(name):
            return self.path(name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write `name` by renaming a synced temporary file over it."""
        self._put(name, lambda file: file.write(data), if_absent=False)

    def create_if_absent(self, name: str, data: bytes) -> bool:
        """Write `name` by linking a synced temporary file to it, which fails if it exists."""
        return self._put(name, lambda file: file.write(data), if_absent=True)

    def change(self, name: str, make: Callable[[bytes | None], bytes | None]) -> bool:
        """Replace `name` by what `make` makes of it, one caller after the other."""
        with _locked(self.path(name).parent):
            new = make(self.read(name) if self.exists(name) else None)
            if new is not None:
                self.write(name, new)
        return new is not None

    def upload(
        self, name: str, path: Path, *, progress: Progress | None = None, if_absent: bool = False
    ) -> bool:
        """Write `name` from a file; return whether this call wrote it."""

        def copy(target: BinaryIO) -> None:
            with path.open("rb") as source:
                _copy(source, target, progress or silent)

        return self._put(name, copy, if_absent=if_absent)

    def download(self, name: str, path: Path, *, progress: Progress | None = None) -> None:
        """Copy `name` to `path`; raises ObjectMissing."""
        with _missing(name):
            source = self.path(name).open("rb")
        with source, staged(path) as (target, temporary):
            _copy(source, target, progress or silent)
            target.close()
            temporary.chmod(0o644)
            temporary.replace(path)

    def exists(self, name: str) -> bool:
        """Say whether `name` exists."""
        return self.path(name).is_file()

    def describe(self, name: str) -> Facts:
        """Return the size and time of `name`; raises ObjectMissing."""
        if not self.exists(name):
            raise ObjectMissing(f"There is no {name}.")
        return _facts(self.path(name))

    def holds(self, name: str, path: Path) -> bool:
        """Say whether `name` is there with the content of the file `path`."""
        return self.exists(name) and filecmp.cmp(self.path(name), path, shallow=False)

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted names below the folder `prefix`, at any depth."""
        return sorted(self._files(prefix))

    def describe_all(self, prefix: str = "") -> dict[str, Facts]:
        """Return what `list` lists, with the size and time of each."""
        return {name: _facts(path) for name, path in sorted(self._files(prefix).items())}

    def delete(self, name: str) -> None:
        """Delete `name`; nothing happens when it is not there."""
        self.path(name).unlink(missing_ok=True)

    def _files(self, prefix: str) -> dict[str, Path]:
        folder = self.path(prefix) if prefix else self.root
        return {
            path.relative_to(self.root).as_posix(): path
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(TEMPORARY)
        }

    def _put(self, name: str, fill: Callable[[BinaryIO], object], *, if_absent: bool) -> bool:
        """Fill a temporary file beside `name`, sync it and put it in its place."""
        path = self.path(name)
        with staged(path) as (file, temporary):
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            if if_absent:
                try:
                    path.hardlink_to(temporary)
                except FileExistsError:
                    return False
            else:
                temporary.replace(path)
            _sync(path.parent)
        return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Have the folder alone among those who change what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _facts(path: Path) -> Facts:
    status = path.stat()
    return Facts(status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _copy(source: BinaryIO, target: BinaryIO, progress: Progress) -> None:
    total, done = os.fstat(source.fileno()).st_size, 0
    while block := source.read(COPY_BYTES):
        target.write(block)
        done += len(block)
        progress(done, total)


@contextmanager
def _missing(name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ObjectMissing(f"There is no {name}.") from None
