"""Containers of the local Google: the program that an image would hold, as a separate process.

The image is “the same code”: a container's `python` is this one, and it runs where the repository
is, as it would in `/app`. Its environment is what the platform and the job give it, nothing of the
test's own.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent.parent
GRACE_SECONDS = 5.0
# What the Dockerfile sets.
IMAGE = {
    "PYTHONUNBUFFERED": "1",
    "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(BASE_DIR / "var/cache/numba")),
}


class Container:
    """One process and all that it starts.

    Args:
        command: `python` becomes this Python.
        environment: everything that the process is told, but for what the image sets.
        on_line: called, from a thread, with each line that it prints.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="container-")
        self._on_line = on_line
        self.process = subprocess.Popen(
            [sys.executable if word == "python" else word for word in command],
            cwd=BASE_DIR,
            env=self._image() | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status, once it has ended; None when it has not after `seconds`."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        # What it started goes with it, as in a container whose first process ends.
        self._signal(signal.SIGKILL)
        self._reader.join(GRACE_SECONDS)
        self._home.cleanup()
        return status

    def stop(self, grace: float = GRACE_SECONDS) -> int:
        """Ask it to end, kill it after `grace` seconds; its exit status."""
        self._signal(signal.SIGTERM)
        status = self.wait(grace)
        return self.kill() if status is None else status

    def kill(self) -> int:
        """End it at once; its exit status."""
        self._signal(signal.SIGKILL)
        status = self.wait()
        assert status is not None
        return status

    def _image(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        return IMAGE | {"PATH": path, "HOME": self._home.name, "TMPDIR": self._home.name}

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._on_line(line.rstrip("\n"))
