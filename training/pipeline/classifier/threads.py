"""How many threads a training works with."""

from typing import Final

import joblib

MOST_THREADS: Final = 4


def most_threads() -> int:
    """One a core, but not many: each that grows a tree takes memory by the row."""
    cores: int = joblib.cpu_count()
    return min(cores, MOST_THREADS)
