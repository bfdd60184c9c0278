"""Why a run failed, in words for the person who started it."""

import errno

from engine.errors import SentinelleError
from training.pipeline.memory import peak_memory_mb

LESS_MEMORY = (
    "Give --memory-limit, so that the run plans for less and fits on fewer rows, fewer rows with "
    "--sample, or a machine with more memory."
)
TOLD_TO_STOP = "The run was told to stop"
FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: BaseException) -> str:
    """One or two sentences: what happened and, where that is known, what to do."""
    if isinstance(error, SentinelleError):
        return error.detail
    if isinstance(error, MemoryError):
        return f"Out of memory ({peak_memory_mb():,} MB used at most). {LESS_MEMORY}"
    if isinstance(error, OSError) and error.errno in FULL:
        place = f" ({error.filename})" if error.filename else ""
        return (
            f"The disk is full{place}. Free some space there, or put RUNS_DIR on a larger disk, "
            "and start the run again."
        )
    return f"Unexpected {type(error).__name__}: {error}. The traceback is in the report."


def too_much_memory(used_mb: int, limit_mb: int) -> str:
    """What a run says that is stopped at its own limit."""
    return (
        f"It used {used_mb:,} MB of memory, more than its --memory-limit of {limit_mb:,} MB. Raise "
        "the limit if the machine has more, or lower --fit-rows or --sample."
    )
