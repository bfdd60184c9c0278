"""Bundles as files of this machine: downloaded from a store, uploaded to one."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from engine.bundle import MANIFEST, Manifest, read_manifest, verify_bundle
from engine.errors import InvalidBundle, ObjectMissing
from engine.store import LocalStore, Progress, Store

FileProgress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are over and the bytes of the file."""


def download_bundle(
    source: Store,
    location: str,
    manifest_sha256: str,
    folder: Path,
    progress: FileProgress | None = None,
) -> None:
    """Put the verified bundle at `location` into the new folder `folder`/`location`.

    Raises InvalidBundle naming what is wrong; files may then be in the folder.
    """
    manifest = read_manifest(source, location, manifest_sha256)
    for name in (MANIFEST, *sorted(manifest.files)):
        try:
            source.download(
                f"{location}/{name}", folder / location / name, progress=_of(name, progress)
            )
        except ObjectMissing:
            raise InvalidBundle(f"The bundle in {location} has no {name}.") from None
    verify_bundle(LocalStore(folder), location, manifest_sha256)


def identify(folder: Path) -> tuple[Manifest, str]:
    """The manifest of the bundle in `folder`, after all of it was verified, and its SHA-256.

    Raises InvalidBundle naming what is wrong.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InvalidBundle(f"There is no bundle in {folder}: it has no {MANIFEST}.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return verify_bundle(LocalStore(folder.parent), folder.name, digest), digest


def upload_bundle(
    folder: Path,
    target: Store,
    location: str,
    manifest: Manifest,
    progress: FileProgress | None = None,
) -> bool:
    """Put the verified bundle in `folder` to `location`, the manifest last; return whether anything
    of it was not there yet. Nothing is ever written over.

    Raises InvalidBundle when a file is there with other content.
    """
    # In the order in which `publish` writes them.
    wrote = False
    for name in (*sorted(manifest.files), MANIFEST):
        path, to = folder / name, f"{location}/{name}"
        if target.holds(to, path):
            continue
        if not target.upload(to, path, progress=_of(name, progress), if_absent=True):
            raise InvalidBundle(
                f"{to} is there already, with other content: nothing is written over a bundle."
            )
        wrote = True
    return wrote


def _of(name: str, progress: FileProgress | None) -> Progress | None:
    if progress is None:
        return None
    tell = progress
    return lambda done, total: tell(name, done, total)
