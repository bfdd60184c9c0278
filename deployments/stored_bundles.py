"""The bundles in the artefact store beside the versions in the registry."""

import shutil
import tempfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from deployments.models import ModelVersion
from engine.bundle import MANIFEST, verify_bundle
from engine.bundle_files import FileProgress, download_bundle, identify, upload_bundle
from engine.champions import POINTER
from engine.errors import InvalidBundle, RegistryError
from engine.store import PATIENT_SECONDS, Facts, Store, open_store


class StoredBundle(NamedTuple):
    """A place of the store, or a version whose place has nothing."""

    location: str
    version: ModelVersion | None
    """None: nobody registered what is there."""
    files: int
    size: int
    """Bytes."""
    updated: datetime | None
    has_manifest: bool

    @property
    def state(self) -> str:
        """`ok`, `missing` (registered, and not there), `incomplete` or `not registered`."""
        if self.version is None:
            return "not registered" if self.has_manifest else "incomplete, not registered"
        if not self.files:
            return "missing"
        return "ok" if self.has_manifest else "incomplete"


class Pushed(NamedTuple):
    """A bundle that is in the store now."""

    location: str
    was_there: bool
    is_registered: bool


def bundles_listed() -> list[StoredBundle]:
    """Every version and every folder of the store, by place. No file is read."""
    folders: dict[str, dict[str, Facts]] = defaultdict(dict)
    for name, facts in _store().describe_all().items():
        folder, _, file = name.rpartition("/")
        if file == POINTER:
            continue
        folders[folder][file] = facts
    versions = {row.location: row for row in ModelVersion.objects.select_related("model")}
    return [
        _described(location, versions.get(location), folders.get(location, {}))
        for location in sorted({*folders, *versions})
    ]


def bundle_pull(
    version: ModelVersion, folder: Path, progress: FileProgress | None = None
) -> list[Path]:
    """Copy a version's bundle into `folder`, which it makes, whole or not at all; its files.

    Raises RegistryError when there is something in the way, InvalidBundle, StoreUnavailable.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RegistryError(f"{folder} is there already and is not an empty folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pulling-", dir=folder.parent) as work:
        download_bundle(_store(), version.location, version.manifest_sha256, Path(work), progress)
        if folder.exists():
            folder.rmdir()
        shutil.move(Path(work) / version.location, folder)
    return sorted(folder.iterdir())


def bundles_found(folders: list[Path]) -> list[Path]:
    """The folders with a bundle at or below `folders`; raises RegistryError when one has none."""
    found: list[Path] = []
    for folder in folders:
        below = sorted(path.parent for path in folder.rglob(MANIFEST))
        if not below:
            raise RegistryError(f"There is no bundle in {folder}: no {MANIFEST} at any depth.")
        found += below
    return found


def bundle_push(folder: Path, progress: FileProgress | None = None) -> Pushed:
    """Verify the bundle in `folder` and put it into the store at its place, which is that of the
    version with its manifest, or MODEL/vVERSION. Nothing is written over.

    Raises InvalidBundle, StoreUnavailable; RegistryError when its version is registered with
    another bundle.
    """
    manifest, digest = identify(folder)
    registered = ModelVersion.objects.filter(
        model__name=manifest.model, version=manifest.version
    ).first()
    name = f"{manifest.model} v{manifest.version}"
    if registered is not None and registered.manifest_sha256 != digest:
        raise RegistryError(f"{folder} is not the bundle that is registered as {name}.")
    location = registered.location if registered else f"{manifest.model}/v{manifest.version}"
    wrote = upload_bundle(folder, _store(), location, manifest, progress)
    return Pushed(location, not wrote, registered is not None)


def bundle_fault(version: ModelVersion) -> str:
    """What is wrong with the stored bundle of a version, after reading every file of it; “” when
    each digest is right. Raises StoreUnavailable."""
    try:
        verify_bundle(_store(), version.location, version.manifest_sha256)
    except InvalidBundle as error:
        return error.detail
    return ""


def _described(
    location: str, version: ModelVersion | None, files: dict[str, Facts]
) -> StoredBundle:
    return StoredBundle(
        location,
        version,
        len(files),
        sum(facts.size for facts in files.values()),
        max((facts.updated for facts in files.values()), default=None),
        MANIFEST in files,
    )


def _store() -> Store:
    return open_store(settings.ARTIFACTS_DIR, seconds=PATIENT_SECONDS)
