"""The local launcher: the training program as a child process of the worker."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from engine.store import Store, open_store
from training.launchers.base import Launch, Seen, program_log

BASE_DIR = Path(__file__).resolve().parent.parent.parent
PROGRAM = ("-m", "training.pipeline.job")
OUTPUT = "log/output.txt"
# What the program is told of the worker's environment: how to compute, and how to reach the store.
# Nothing else, as what a worker has may be secret.
PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|TEMP|TMP|SYSTEMROOT|VIRTUAL_ENV"
    r"|(DY)?LD_LIBRARY_PATH|.*_THREADS|OMP_.*|KMP_.*|NUMBA_.*|MALLOC_.*"
    r"|GOOGLE_.*|GCE_METADATA_.*|CLOUDSDK_.*|STORAGE_EMULATOR_HOST|DISABLE_GCS_.*"
    r"|BUCKET_NAME|DATA_DIR|RUNS_DIR|ARTIFACTS_DIR|SENTINELLE_HOME"
    r"|SSL_CERT_.*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy"
)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
# A machine that also serves gives the web processes the processor first.
NICENESS = 10
GRACE_SECONDS = 5.0
OUTPUT_LIMIT = 20_000
PROC = Path("/proc")
MB = 2**20


@dataclass
class _Child:
    """A started program and the file that takes what it prints."""

    launch: Launch
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    started_at: datetime
    ended: Seen | None = None


class LocalLauncher:
    """Runs the program in a process group of its own, with a lower priority.

    The child is told the worker's process id and ends when that process does, however it does. So
    only the worker that started it knows its handle; to any other it has ended.

    Its limits are those of the run's resources: `cpu` cores, by affinity and by the number of
    threads it is told to use, and `memory_mb`, above which the whole group is killed at the next
    poll (on Linux; other systems have no such limit).
    """

    is_attached = True
    poll_seconds = 1.0

    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        self._program = tuple(program)
        self._children: dict[str, _Child] = {}
        self._lock = threading.Lock()

    def start(self, launch: Launch) -> str:
        """Start the program, or find it. What it prints is kept apart from its log."""
        with self._lock:
            found = self.find(launch)
            if found:
                return found
            child = self._spawn(launch)
            handle = f"{socket.gethostname()}:{child.process.pid}"
            self._children[handle] = child
        return handle

    def find(self, launch: Launch) -> str:
        """The run's program, if this worker has started it."""
        held = self._children.items()
        return next((name for name, child in held if child.launch.run_id == launch.run_id), "")

    def poll(self, handle: str) -> Seen:
        """See whether it runs, or “exit status 1: the last line that it printed” or “killed by
        SIGKILL”."""
        child = self._children.get(handle)
        if child is None:
            return Seen(ended="the worker that started it is gone")
        if child.ended is None:
            child.ended = self._look(child)
        return child.ended or Seen(started_at=child.started_at)

    def cancel(self, handle: str) -> None:
        """End the whole process group: asked first, killed after five seconds."""
        child = self._children.pop(handle, None)
        if child is None:
            return
        if child.process.poll() is None:
            _signal(child.process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(GRACE_SECONDS)
        # What the program itself has started may still be there.
        _signal(child.process, signal.SIGKILL)
        child.process.wait()
        _keep_output(child)

    def logs(self, handle: str, folder: Store) -> str:  # noqa: ARG002
        """Return the log's chunks in order, then what the program printed."""
        return program_log(folder)

    def _spawn(self, launch: Launch) -> _Child:
        output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        cores = _cores(launch.resources.get("cpu"))
        process = subprocess.Popen(
            [sys.executable, *self._program, launch.folder, "--parent-pid", str(os.getpid())],
            cwd=BASE_DIR,
            env=_environment(len(cores)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        # A worker that is nicer than that already may not raise its child's priority.
        nice = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, cores)
        return _Child(launch, process, output, datetime.now(UTC))

    def _look(self, child: _Child) -> Seen | None:
        """How the program ended; None while it runs within its limits."""
        status = child.process.poll()
        words = _end_above_limit(child) if status is None else _in_words(status)
        if not words:
            return None
        last_line = _keep_output(child)
        if status is not None and status >= 0 and last_line:
            words += f": {last_line}"
        return Seen(ended=words, started_at=child.started_at, ended_at=datetime.now(UTC))


def _in_words(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def _end_above_limit(child: _Child) -> str:
    """Kill the program when it uses more memory than it was given, and say so."""
    limit = child.launch.resources.get("memory_mb")
    if limit is None:
        return ""
    used = _resident_mb(child.process.pid)
    if used <= limit:
        return ""
    _signal(child.process, signal.SIGKILL)
    child.process.wait()
    return f"ended because it used {used:,} MB of memory, and its limit is {limit:,} MB"


def _resident_mb(group: int) -> int:
    """The resident memory of a process group in MB; 0 where the system does not tell."""
    pages = 0
    for process in PROC.glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                pages += int((process / "statm").read_text().split()[1])
        except OSError:
            continue  # it has ended meanwhile
    return pages * os.sysconf("SC_PAGE_SIZE") // MB


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        # Nothing is left of the group; macOS says so by the second.
        return


def _keep_output(child: _Child) -> str:
    """Put the end of what the child printed, if anything, into its run folder, once. Returns its
    last line."""
    if child.output.closed:
        return ""
    size = child.output.seek(0, os.SEEK_END)
    child.output.seek(max(0, size - OUTPUT_LIMIT))
    text = child.output.read().strip()
    child.output.close()
    if not text:
        return ""
    open_store(child.launch.folder).write(OUTPUT, text + b"\n")
    return text.splitlines()[-1].decode(errors="replace")


def _cores(count: int | None) -> list[int]:
    """Which cores a program may use: the last ones, as a machine that serves uses the first."""
    # macOS has no affinity to ask for.
    known = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if known else list(range(os.cpu_count() or 1))
    return cores[-count:] if count else cores


def _environment(cores: int) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if PASSED.fullmatch(key)}
    for name in THREADS:
        given = environment.get(name, "")
        environment[name] = str(min(cores, int(given)) if given.isdigit() else cores)
    environment["PYTHONPATH"] = str(BASE_DIR)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
