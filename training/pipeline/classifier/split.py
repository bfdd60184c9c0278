"""Which part a row is in: its content decides, and neither its place nor the other rows.

So a row is in the same part in every data set, and a version was fitted on no row that a later one
is tested on, as long as both were split by the same share.

Rows that are alike count one by one, so the second of them is another row than the first. Were
they kept together, then of a few possible inputs the commonest class would be in one part, and the
rarer ones, which are other rows, in the other: fitted on those, a version learns what is wrong.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def number_keys(name: str, values: NDArray[np.float64]) -> Keys:
    """(rows,) what a column of numbers adds to the keys of its rows."""
    # 0.0 and -0.0 are the same number.
    bits = (values + 0.0).view(np.uint64)
    return _mixed(bits ^ _hashed(name))


def text_keys(name: str, texts: Iterable[str]) -> Keys:
    """What each of these texts adds to the key of a row that has it in this column."""
    hashes = np.array([_hashed(text) for text in texts], dtype=np.uint64)
    return _mixed(hashes ^ _hashed(name))


def copy_numbers(keys: Keys) -> NDArray[np.int64]:
    """(rows,) how many of the rows before have the same key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    numbers = np.empty(len(keys), np.int64)
    numbers[order] = np.arange(len(keys)) - begins.repeat(np.diff(begins, append=len(keys)))
    return numbers


def copy_keys(numbers: NDArray[np.int64]) -> Keys:
    """What the number of a copy adds to the key of its row, which no column can add."""
    return number_keys("", numbers.astype(np.float64))


def is_tested(keys: Keys, share: float) -> NDArray[np.bool_]:
    """(rows,) whether a row is in the test part.

    Args:
        keys: (rows,) what the columns and the number of the copy add, summed up.
        share: of all possible rows; what is in the test part of a smaller share is in this one.
    """
    return _mixed(keys) < np.uint64(min(int(share * 2.0**64), 2**64 - 1))


def _hashed(text: str) -> np.uint64:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mixed(keys: Keys) -> Keys:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on all."""
    mixed = keys + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> _SHIFTS[2])
