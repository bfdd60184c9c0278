"""A data set's file on this machine, wherever it is stored."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InvalidDataset, ObjectMissing
from engine.store import PATIENT_SECONDS, is_bucket, open_store

Progress = Callable[[float, str], None]
"""Called with the share of the file that is here, 0 to 1, and how many MB that is."""


@contextmanager
def local_file(location: str, progress: Progress | None = None) -> Iterator[Path]:
    """Give the file at `location`: itself from a folder, and from a bucket a copy, whose checksum
    was compared, until the end of the block.

    Raises:
        InvalidDataset: there is no such file.
        StoreUnavailable: the bucket does not answer.
    """
    if not is_bucket(location):
        if not Path(location).is_file():
            raise _missing(location)
        yield Path(location)
        return
    parent, _, name = location.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="sentinelle-") as folder:
        path = Path(folder) / name
        try:
            open_store(parent, seconds=PATIENT_SECONDS).download(
                name, path, progress=shown(progress)
            )
        except ObjectMissing:
            raise _missing(location) from None
        yield path


def shown(progress: Progress | None) -> Callable[[int, int], None] | None:
    """A store's progress, in words."""
    if progress is None:
        return None
    tell = progress
    return lambda done, total: tell(
        done / total if total else 1.0, f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
    )


def _missing(location: str) -> InvalidDataset:
    return InvalidDataset(f"The data set is not there: {location}.")
