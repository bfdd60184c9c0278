"""Bundles of a bucket, kept on this machine.

    ROOT/<manifest's SHA-256>/<location>/manifest.json …

A bundle never changes, so what is kept is right as long as its digests are, and they are checked at
each load. Several processes share the folder: an entry appears whole, by a rename, and goes by one.
"""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.bundle import verify_bundle
from engine.bundle_files import download_bundle
from engine.errors import InvalidBundle, ObjectMissing
from engine.loading import AnyBundle, load_any
from engine.store import LocalStore, Store

NEW, OLD, LOCK = "new-", "old-", "lock"
"""How the folders begin that are no entries: not yet, and no more."""


class BundleCache:
    """At most `limit_bytes` of bundles in the folder `root`; the one that was used last always
    stays, and those that were not used for longest go first."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self._limit = limit_bytes

    def load(self, source: Store, location: str, manifest_sha256: str) -> AnyBundle:
        """Load a bundle, from here if it is here whole, else from `source`.

        Raises:
            InvalidBundle: it is not what was registered, there or here, or does not load.
            StoreUnavailable: it is not here and the bucket does not answer.
        """
        entry = self.fetch(source, location, manifest_sha256)
        try:
            return load_any(LocalStore(entry), location, manifest_sha256)
        except (InvalidBundle, ObjectMissing, OSError):
            if self._is_whole(entry, location, manifest_sha256):
                raise
        # Another process needed the room meanwhile.
        entry = self.fetch(source, location, manifest_sha256)
        return load_any(LocalStore(entry), location, manifest_sha256)

    def fetch(self, source: Store, location: str, manifest_sha256: str) -> Path:
        """Return the folder that has the verified bundle at `location` in it."""
        entry = self.root / manifest_sha256
        # One process downloads; the others find what it made.
        with self._locked():
            if not self._is_whole(entry, location, manifest_sha256):
                self._discard(entry)
                self._download(source, location, manifest_sha256)
            now = time.time_ns()  # finer than the clock of the file system
            os.utime(entry, ns=(now, now))
            self._evict(keep=manifest_sha256)
        return entry

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _is_whole(self, entry: Path, location: str, manifest_sha256: str) -> bool:
        try:
            verify_bundle(LocalStore(entry), location, manifest_sha256)
        except InvalidBundle:
            return False
        return True

    def _download(self, source: Store, location: str, manifest_sha256: str) -> None:
        made = self.root / f"{NEW}{uuid.uuid4().hex}"
        try:
            download_bundle(source, location, manifest_sha256, made)
            made.rename(self.root / manifest_sha256)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _evict(self, keep: str) -> None:
        entries = sorted(
            (entry for entry in self._entries() if entry.name != keep), key=_used, reverse=True
        )
        left = self._limit - _size(self.root / keep)
        for entry in entries:
            left -= _size(entry)
            if left < 0:
                self._discard(entry)

    def _entries(self) -> list[Path]:
        """The entries, after what killed processes left was deleted: with the lock, nobody else is
        making any."""
        entries = []
        for folder in self.root.iterdir():
            if folder.name.startswith((NEW, OLD)):
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.name != LOCK:
                entries.append(folder)
        return entries

    def _discard(self, entry: Path) -> None:
        """Take an entry away at once, so that nobody who loads it finds half of it."""
        gone = self.root / f"{OLD}{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            entry.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _used(folder: Path) -> float:
    return folder.stat().st_mtime


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
