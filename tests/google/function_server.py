"""A function as Google runs it: the functions framework, a process of its own, on a free port."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import requests

START_SECONDS = 60.0


class FunctionServer:
    """`functions-framework --source SOURCE/main.py`, until `close`.

    Args:
        source: the folder that has main.py.
        environment: everything that the function is told.
        path: where Python finds more than `source`.
    """

    def __init__(
        self, source: Path, environment: Mapping[str, str], path: str = "", target: str = "predict"
    ) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="function-")
        self._lines: list[str] = []
        for _ in range(3):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            self.process = subprocess.Popen(
                [sys.executable, "-m", "functions_framework", "--source", str(source / "main.py"),
                 "--target", target, "--host", "127.0.0.1", "--port", str(port)],
                cwd=self._home.name,
                env={
                    "PATH": "/usr/bin:/bin", "HOME": self._home.name, "PYTHONPATH": path,
                    "PYTHONUNBUFFERED": "1", "THREADS": "8", "K_SERVICE": "function",
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )  # fmt: skip
            threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
            if self._answers(port):
                return
            self.close()
            if "in use" not in self.log():  # somebody took the port meanwhile
                break
        raise RuntimeError(f"The function did not start:\n{self.log()}")

    def log(self) -> str:
        """What it has printed."""
        return "\n".join(self._lines)

    def post(self, body: Any, path: str = "/", **more: Any) -> requests.Response:
        """Send `body` as JSON."""
        return requests.post(f"{self.url}{path}", json=body, timeout=60, **more)

    def get(self, path: str = "/health", **more: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=60, **more)

    def libraries(self) -> set[str]:
        """The files that its processes have mapped into memory."""
        return {file.path for process in self._processes() for file in process.memory_maps()}

    def memory_mb(self, *, most: bool = False) -> float:
        """What its processes have in memory, now or at most, in MB; what they share is counted for
        each."""
        word = "VmHWM" if most else "VmRSS"
        total = 0
        for process in self._processes():
            status = Path(f"/proc/{process.pid}/status").read_text()
            total += int(status.split(f"{word}:")[1].split()[0])
        return total * 1024 / 1e6

    def _processes(self) -> list[psutil.Process]:
        mine = psutil.Process(self.process.pid)
        return [mine, *mine.children(recursive=True)]

    def close(self) -> None:
        """End it and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self, port: int) -> bool:
        """Wait until it listens; False when it has ended."""
        until = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                return True
            time.sleep(0.02)
        return False

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._lines.append(line.rstrip("\n"))
