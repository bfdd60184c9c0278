"""The image, built by Cloud Build from this source: nobody needs Docker for it.

The image's tag is the digest of what it is made of, so what was built once is not built again.
"""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from deployments.gcp.errors import CloudError, missing_accepted
from deployments.gcp.grants import BUILD, BUILDS, Names
from deployments.gcp.rest import Body, Request, send
from deployments.gcp.setup import Change, Step
from engine.store import open_store

BASE_DIR = Path(__file__).resolve().parent.parent.parent
BUILDER = "gcr.io/cloud-builders/docker"
BUILD_SECONDS = 1800
TAG = 12
"""Letters of the digest that are the tag."""


class Source(NamedTuple):
    """What an image is made of, packed."""

    digest: str
    archive: bytes

    @property
    def name(self) -> str:
        """Of the object in the folder of builds."""
        return f"{self.digest}.tar.gz"


@lru_cache(maxsize=1)
def source(base: Path = BASE_DIR) -> Source:
    """The files that .dockerignore lets into an image, with the Dockerfile.

    Raises CloudError where there is no Dockerfile, as in the image itself.
    """
    if not (base / "Dockerfile").is_file():
        raise CloudError(
            f"There is no Dockerfile in {base}, so no image can be built from here. Name one that "
            "is built already: --image."
        )
    packed = io.BytesIO()
    # No times, owners or modes of this machine: they would change the digest.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for file in source_files(base):
            content = file.read_bytes()
            entry = tarfile.TarInfo(file.relative_to(base).as_posix())
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    content = packed.getvalue()
    return Source(hashlib.sha256(content).hexdigest(), content)


def source_files(base: Path) -> list[Path]:
    """.dockerignore keeps everything out and lets some in again: those lines begin with “!”."""
    lines = (base / ".dockerignore").read_text().splitlines()
    parts = ["Dockerfile", ".dockerignore", *(line[1:] for line in lines if line.startswith("!"))]
    found = []
    for part in parts:
        path = base / part
        found += [path] if path.is_file() else sorted(path.rglob("*"))
    return [
        file
        for file in found
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".env")
    ]


def image_name(names: Names, made_of: Source) -> str:
    """The image with its tag."""
    return f"{names.image}:{made_of.digest[:TAG]}"


def build_body(names: Names, made_of: Source, tags: Sequence[str] = ()) -> dict[str, Any]:
    """Cloud Build's message: the image of a source that is in the bucket already."""
    image = image_name(names, made_of)
    return {
        "source": {"storageSource": {"bucket": names.bucket, "object": f"{BUILDS}/{made_of.name}"}},
        "steps": [{"name": BUILDER, "args": ["build", "--tag", image, "."]}],
        "images": [image],
        "timeout": f"{BUILD_SECONDS}s",
        "serviceAccount": f"projects/{names.project}/serviceAccounts/{names.account(BUILD)}",
        "options": {"logging": "CLOUD_LOGGING_ONLY"},
        **({"tags": list(tags)} if tags else {}),
    }


def build_step(names: Names, made_of: Source) -> Step:
    """Build the image and push it, unless it is there. Its source is in the bucket already."""
    body = build_body(names, made_of)

    def fix(found: Body | None) -> Change | None:
        if found is not None:
            return None
        path = f"v1/{names.parent}/builds"
        request = Request("POST", "cloudbuild", path, body, "v1", takes=BUILD_SECONDS)
        return Change("built", request)

    title = f"image {image_name(names, made_of)}"
    return Step(title, "built by Cloud Build, some minutes", _look(names, made_of), fix)


def source_upload(names: Names, made_of: Source) -> None:
    """Put what the image is made of into the bucket. Raises StoreUnavailable."""
    store = open_store(f"gs://{names.bucket}/{BUILDS}")
    if not store.exists(made_of.name):
        store.create_if_absent(made_of.name, made_of.archive)


# --- A build that is not waited for ---------------------------------------------------------


class BuildInfo(NamedTuple):
    """A build as it is."""

    id: str
    status: str
    """Cloud Build's word: QUEUED, WORKING, SUCCESS, FAILURE, TIMEOUT, CANCELLED…"""
    detail: str
    log_url: str

    @property
    def has_ended(self) -> bool:
        return self.status not in ("STATUS_UNKNOWN", "PENDING", "QUEUED", "WORKING")


def image_is_there(names: Names, made_of: Source) -> bool:
    """Whether the image was built and pushed before. Raises CloudError."""
    with missing_accepted():
        send(_look(names, made_of), f"Looking for the image {image_name(names, made_of)}")
        return True
    return False


def build_start(names: Names, made_of: Source, mark: str) -> str:
    """Begin a build that `build_find` finds by its mark; its id. Raises CloudError."""
    body = build_body(names, made_of, [mark])
    request = Request("POST", "cloudbuild", f"v1/{names.parent}/builds", body)
    answer = send(request, "Starting a build")
    return str(answer["metadata"]["build"]["id"])


def build_find(names: Names, mark: str) -> BuildInfo | None:
    """The newest build with that mark, among the last fifty of the region. Raises CloudError."""
    path = f"v1/{names.parent}/builds?pageSize=50"
    found = send(Request("GET", "cloudbuild", path), "Listing the builds").get("builds", ())
    return next((_build(one) for one in found if mark in one.get("tags", ())), None)


def build_get(names: Names, build: str) -> BuildInfo:
    """A build by its id. Raises CloudError."""
    path = f"v1/{names.parent}/builds/{build}"
    return _build(send(Request("GET", "cloudbuild", path), f"Looking at the build {build}"))


def _build(found: Body) -> BuildInfo:
    failure = found.get("failureInfo", {}).get("detail", "")
    return BuildInfo(
        id=found["id"],
        status=found.get("status", "STATUS_UNKNOWN"),
        detail=failure or found.get("statusDetail", ""),
        log_url=found.get("logUrl", ""),
    )


def _look(names: Names, made_of: Source) -> Request:
    tag = f"packages/sentinelle/tags/{made_of.digest[:TAG]}"
    path = f"v1/{names.parent}/repositories/{names.repository}/{tag}"
    return Request("GET", "artifactregistry", path)
