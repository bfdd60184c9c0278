"""The local launcher: the training program as a child process of the worker."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from engine.store import Store, open_store

BASE_DIR = Path(__file__).resolve().parent.parent.parent
PROGRAM = ("-m", "training.pipeline.job")
OUTPUT = "log/output.txt"
# The training program needs the store and nothing else.
WITHHELD = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL")
# A machine that also serves gives the web processes the processor first.
NICENESS = 10
GRACE_SECONDS = 5.0
OUTPUT_LIMIT = 20_000


class LocalHandle(NamedTuple):
    """A running child and the file that takes what it prints."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    run_folder: str


class LocalLauncher:
    """Runs the program in a process group of its own, with a lower priority.

    The child is told the worker's process id and ends when that process does, however it does.
    """

    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        self._program = tuple(program)

    def start(self, run_folder: str) -> LocalHandle:
        """Start the program on `run_folder`. What it prints is kept apart from its log."""
        output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the handle
        command = [sys.executable, *self._program, run_folder, "--parent-pid", str(os.getpid())]
        process = subprocess.Popen(
            command,
            cwd=BASE_DIR,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        # A worker that is nicer than that already may not raise its child's priority.
        nice = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        return LocalHandle(process, output, run_folder)

    def poll(self, handle: LocalHandle) -> str | None:
        """Return None while it runs, then “exit status 1: the last line that it printed” or
        “killed by SIGKILL”."""
        status = handle.process.poll()
        if status is None:
            return None
        last_line = self._keep_output(handle)
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"exit status {status}: {last_line}" if last_line else f"exit status {status}"

    def cancel(self, handle: LocalHandle) -> None:
        """End the whole process group: asked first, killed after five seconds."""
        if handle.process.poll() is None:
            os.killpg(handle.process.pid, signal.SIGTERM)
            try:
                handle.process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(handle.process.pid, signal.SIGKILL)
                handle.process.wait()
        self._keep_output(handle)

    def logs(self, folder: Store) -> str:
        """Return the log's chunks in order, then what the program printed."""
        names = sorted(folder.list("log"))
        return "".join(folder.read(name).decode(errors="replace") for name in names)

    def _keep_output(self, handle: LocalHandle) -> str:
        """Put the end of what the child printed, if anything, into its run folder, once. Returns
        its last line."""
        if handle.output.closed:
            return ""
        size = handle.output.seek(0, os.SEEK_END)
        handle.output.seek(max(0, size - OUTPUT_LIMIT))
        text = handle.output.read().strip()
        handle.output.close()
        if not text:
            return ""
        open_store(handle.run_folder).write(OUTPUT, text + b"\n")
        return text.splitlines()[-1].decode(errors="replace")


def _environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in WITHHELD}
    # macOS has no affinity to ask for.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment.setdefault(name, str(cores))
    environment["PYTHONPATH"] = str(BASE_DIR)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
