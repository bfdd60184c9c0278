"""How much memory this process uses, and a bound on it."""

import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_PROC = Path("/proc/self")
POLL_SECONDS = 0.1

_earlier_peak = 0


def peak_memory_mb() -> int:
    """The peak resident set of this process in MB (2 ** 20 bytes)."""
    return max(_earlier_peak, _peak())


def restart_peak() -> int:
    """The peak in MB since this was called before, or since the start.

    Where the system can't count anew (it is Linux that can) it is the peak since the start.
    """
    global _earlier_peak
    peak = _peak()
    _earlier_peak = max(_earlier_peak, peak)
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return _earlier_peak
    return peak


def _peak() -> int:
    """Linux's `ru_maxrss` keeps the peak of the process that was forked from, which for a training
    started by a worker is the worker's; `/proc` starts again with the program."""
    status = _PROC / "status"
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 1024)


def used_memory_mb() -> int:
    """The resident set now, in MB; where the system does not tell, the peak."""
    try:
        pages = int((_PROC / "statm").read_text().split()[1])
    except FileNotFoundError:
        return peak_memory_mb()
    return pages * resource.getpagesize() // 2**20


def watch_memory(limit_mb: int, exceeded: Callable[[int], None]) -> None:
    """Call `exceeded` with the MB in use, from a thread and once, when they are above the limit.

    A limit that the system enforces would end the process in the middle of a library, which dies
    in its own way, mostly without a word.
    """

    def poll() -> None:
        while (used := used_memory_mb()) <= limit_mb:
            time.sleep(POLL_SECONDS)
        exceeded(used)

    threading.Thread(target=poll, name="memory", daemon=True).start()
