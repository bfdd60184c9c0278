"""The training program as an archive in the bucket, for a machine that has no container image.

The same files make the same archive, whose name is its SHA-256: it is uploaded once, and a machine
that has it on its disk does not fetch it again.
"""

import gzip
import hashlib
import io
import tarfile
from functools import lru_cache
from pathlib import Path

from engine.store import open_store

BASE_DIR = Path(__file__).resolve().parent.parent.parent
PARTS = ("engine", "training/__init__.py", "training/pipeline")
# What the program imports; the versions are those of requirements.txt, which goes along.
PACKAGES = (
    "common-expression-language",
    "duckdb",
    "google-cloud-storage",
    "joblib",
    "msgspec",
    "numba",
    "numpy",
    "pyarrow",
    "requests",
    "scikit-learn",
    "treelite",
    "urllib3",
)


def source_upload(folder: str) -> str:
    """Put the archive into the bucket of a run folder, unless it is there; its location.

    Raises StoreUnavailable.
    """
    digest, content = source_archive()
    bucket = folder.removeprefix("gs://").partition("/")[0]
    location = f"gs://{bucket}/source"
    name = f"{digest}.tar.gz"
    store = open_store(location)
    if not store.exists(name):
        store.create_if_absent(name, content)
    return f"{location}/{name}"


@lru_cache(maxsize=1)
def source_archive() -> tuple[str, bytes]:
    """The archive and its SHA-256."""
    packed = io.BytesIO()
    # No times, names or modes of this machine: they would change the digest.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in sorted(_files().items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    content = packed.getvalue()
    return hashlib.sha256(content).hexdigest(), content


def _files() -> dict[str, bytes]:
    files = {
        "requirements-training.txt": "".join(f"{name}\n" for name in PACKAGES).encode(),
        "requirements.txt": (BASE_DIR / "requirements.txt").read_bytes(),
    }
    for part in PARTS:
        path = BASE_DIR / part
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                files[file.relative_to(BASE_DIR).as_posix()] = file.read_bytes()
    return files
