"""How much memory this process has used at most."""

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory_mb() -> int:
    """The peak resident set of this process in MB (2 ** 20 bytes).

    Linux's `ru_maxrss` keeps the peak of the process that was forked from, which for a training
    started by a worker is the worker's; `/proc` starts again with the program.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 1024)
