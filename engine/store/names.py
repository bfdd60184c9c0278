"""What both stores share: names, facts and files that appear whole."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

TEMPORARY = ".partial-"

Progress = Callable[[int, int], None]
"""Called with the bytes that are over and the bytes of the whole file."""


class Facts(NamedTuple):
    """What is known of an object without reading it."""

    size: int
    """Bytes."""
    updated: datetime
    """When it was written, UTC."""
    crc32c: str | None = None
    """As Google writes it: base64 of the big-endian number. A folder keeps none."""
    generation: int | None = None
    """The bucket's number of this content. A folder keeps none."""


def checked(name: str) -> str:
    """Return a name that stays within its store; raises ValueError."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise ValueError(f"not a store name: {name!r}")
    if any(part.startswith(TEMPORARY) for part in parts):
        raise ValueError(f"names starting with {TEMPORARY} are reserved: {name!r}")
    return name


@contextmanager
def staged(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give an open temporary file beside `path` and its path. Whatever the body leaves of it is
    deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, Path(name)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


def silent(_done: int, _total: int) -> None:
    """Show no progress."""
