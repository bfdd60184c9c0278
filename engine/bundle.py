"""The bundle: the folder a version is served from, with a manifest that vouches for every file.

    manifest.json     protocol, kind, facts of that kind, and each other file's size and SHA-256
    …                 the files that the manifest names

Whoever knows the manifest's SHA-256 (the registry) can check the rest. The manifest is written
last and only if absent, so a folder that has one is complete. What is in a bundle beside that is
its kind's business: fraud_bundle.py, classifier/bundle.py.
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from engine.errors import InvalidBundle, ObjectMissing
from engine.kinds import FRAUD, Kind
from engine.store import Store

MANIFEST: Final = "manifest.json"

FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")]


class FileEntry(msgspec.Struct, frozen=True):
    """What the manifest knows of a file: its size in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that every bundle has: `training` is a summary for people, `libraries` name to
    version. A manifest of before there were kinds is of the kind fraud."""

    protocol: int
    """Of its kind: what shape the manifest and the files have."""
    kind: Kind = FRAUD
    model: str
    version: str
    training: dict[str, Any]
    libraries: dict[str, str]
    files: dict[FileName, FileEntry]


class Contents(NamedTuple):
    """A bundle whose bytes are the ones that were registered."""

    data: bytes
    """The manifest as it is stored."""
    manifest: Manifest
    files: dict[str, bytes]


def read_bundle(
    store: Store, prefix: str, manifest_sha256: str, only: Collection[str] | None = None
) -> Contents:
    """Read a bundle; check its manifest against the digest, and every file against the manifest.

    `only`: read and check no other files than these, of those that the manifest names.

    Raises InvalidBundle naming what is wrong.
    """
    data, manifest = _read_manifest(store, prefix, manifest_sha256)
    files = {
        name: _read_file(store, prefix, name, entry)
        for name, entry in manifest.files.items()
        if only is None or name in only
    }
    return Contents(data, manifest, files)


def verify_bundle(store: Store, prefix: str, manifest_sha256: str) -> Manifest:
    """Check a bundle as `read_bundle` does.

    Raises InvalidBundle naming what is wrong.
    """
    return read_bundle(store, prefix, manifest_sha256).manifest


def read_manifest(store: Store, prefix: str, manifest_sha256: str) -> Manifest:
    """Check a manifest against its digest, and no other file.

    Raises InvalidBundle naming what is wrong.
    """
    return _read_manifest(store, prefix, manifest_sha256)[1]


def read_manifest_data(store: Store, prefix: str, manifest_sha256: str) -> bytes:
    """Like `read_manifest`; the bytes, whose shape is its kind's and its protocol's business."""
    try:
        data = store.read(f"{prefix}/{MANIFEST}")
    except ObjectMissing:
        raise InvalidBundle(f"The bundle in {prefix} has no manifest.") from None
    if hashlib.sha256(data).hexdigest() != manifest_sha256:
        raise InvalidBundle(f"The manifest in {prefix} is not the one that was registered.")
    return data


def kind_of(manifest: bytes) -> str:
    """The kind that a manifest says, whatever else it says. Raises InvalidBundle."""
    try:
        return msgspec.json.decode(manifest, type=_KindOnly).kind
    except msgspec.MsgspecError as error:
        raise InvalidBundle(f"The manifest can't be read: {error}") from None


class _KindOnly(msgspec.Struct):
    kind: str = FRAUD


def write_files(store: Store, prefix: str, contents: Mapping[str, bytes], manifest: bytes) -> None:
    """Write a bundle's files and then its manifest into the folder `prefix`.

    Raises InvalidBundle when the folder already has a manifest or another bundle's files.
    """
    if store.exists(f"{prefix}/{MANIFEST}"):
        raise InvalidBundle(f"There is already a bundle in {prefix}.")
    # In the same order by all who write there: whoever is first with the first file that differs
    # goes on, and the others stop.
    for name, data in [*sorted(contents.items()), (MANIFEST, manifest)]:
        if not store.create_if_absent(f"{prefix}/{name}", data):
            _expect(store, f"{prefix}/{name}", data)


def publish(
    source: Store, source_prefix: str, target: Store, target_prefix: str, manifest_sha256: str
) -> Manifest:
    """Copy a verified bundle, the manifest last. Publishing the same again changes nothing.

    Of several that publish different bundles at once, one succeeds.

    Raises InvalidBundle when the source does not verify or the target holds another bundle.
    """
    verified = read_bundle(source, source_prefix, manifest_sha256)
    if target.exists(f"{target_prefix}/{MANIFEST}"):
        return verify_bundle(target, target_prefix, manifest_sha256)
    write_files(target, target_prefix, verified.files, verified.data)
    return verified.manifest


def entries(contents: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """What a manifest says of these files."""
    return {name: _entry(data) for name, data in sorted(contents.items())}


def encode(value: Any) -> bytes:
    """JSON for a bundle's files, which people read too."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def _expect(store: Store, name: str, data: bytes) -> None:
    """Refuse a file that is there already and has other content: it is another bundle's."""
    if store.read(name) != data:
        raise InvalidBundle(
            f"{name} is there already, with other content. If nobody is writing a bundle there, "
            "delete the files of that folder, which has none, and try again."
        )


def _read_manifest(store: Store, prefix: str, sha256: str) -> tuple[bytes, Manifest]:
    data = read_manifest_data(store, prefix, sha256)
    try:
        return data, msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise InvalidBundle(f"The manifest in {prefix} can't be read: {error}") from None


def _read_file(store: Store, prefix: str, name: str, entry: FileEntry) -> bytes:
    try:
        data = store.read(f"{prefix}/{name}")
    except ObjectMissing:
        raise InvalidBundle(f"The bundle in {prefix} has no {name}.") from None
    if _entry(data) != entry:
        raise InvalidBundle(f"The file {name} in {prefix} is not the one in the manifest.")
    return data


def _entry(data: bytes) -> FileEntry:
    return FileEntry(len(data), hashlib.sha256(data).hexdigest())
