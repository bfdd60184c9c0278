"""One machine of the local Compute Engine, from its boot until its power is off."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMANDS = Path(__file__).parent / "commands"
"""What a Debian machine has in its PATH and a test must not really do."""
REPOSITORY = Path(__file__).resolve().parent.parent.parent
ATTRIBUTES = "/computeMetadata/v1/instance/attributes/"


class BootedMachine:
    """A process group that runs the start-up script, with a metadata server of its own.

    Args:
        cloud: the `Compute` it belongs to.
        attributes: gives its metadata at any time.
        shut_down: called when the machine itself wants to be off.
    """

    def __init__(
        self,
        cloud: Any,
        *,
        name: str,
        place: tuple[str, str, str],
        attributes: Callable[[], dict[str, str]],
        shut_down: Callable[[], None],
    ) -> None:
        self.name, self.place = name, place
        self.commands: list[str] = []
        """What it was told to do: “shutdown -h now”, “docker login …”."""
        self.attributes, self.asked_to_shut_down = attributes, shut_down
        self.cloud = cloud
        self.disk: Path = cloud.root / name
        self.disk.mkdir(parents=True, exist_ok=True)
        self.output = self.disk / "serial-port.txt"
        self.is_on = False
        self._lock = threading.Lock()
        self._metadata = ThreadingHTTPServer(("127.0.0.1", 0), _metadata_of(self))
        self._metadata.daemon_threads = True
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Start, and run the start-up script if there is one."""
        self.is_on = True
        serve = partial(self._metadata.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()
        script = self.attributes().get("startup-script")
        if script is None:
            return
        path = self.disk / "startup-script"
        path.write_text(script)
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                ["bash", str(path)],
                cwd=self.disk,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def power_off(self) -> None:
        """As a machine that is stopped: its processes are told, then there are none."""
        with self._lock:
            if not self.is_on:
                return
            process = self._process
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(self.cloud.grace_s)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self._metadata.shutdown()
            self._metadata.server_close()
            self.is_on = False

    def crash(self) -> None:
        """As a kernel that panics: every process is gone, the machine is still on and paid for."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def printed(self) -> str:
        """What it wrote to the serial port."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def _environment(self) -> dict[str, str]:
        """What a start-up script finds, and nothing of the process that serves this."""
        return {
            "PATH": f"{COMMANDS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.disk),
            "LANG": "C.UTF-8",
            "GCE_METADATA_HOST": self.host,
            "GCE_METADATA_IP": self.host,
            "SENTINELLE_DISK": str(self.disk / "sentinelle"),
            "SENTINELLE_MEMORY": str(self._memory_file()),
            "MACHINE_PYTHON": sys.executable,
            "MACHINE_REPOSITORY": str(REPOSITORY),
            "MACHINE_IMAGES": " ".join(sorted(self.cloud.images)),
            "MACHINE_FAILING": " ".join(sorted(self.cloud.failing)),
            "MACHINE_NUMBA_CACHE": os.environ["NUMBA_CACHE_DIR"],
            "MACHINE_WORLD": " ".join(["GCE_METADATA_HOST", "GCE_METADATA_IP", *self.cloud.world]),
            **self.cloud.world,
        }

    def _memory_file(self) -> Path:
        """What /proc/meminfo says on a machine of this type."""
        path = self.disk / "meminfo"
        path.write_text(f"MemTotal:       {self.cloud.memory_mb * 1024} kB\nMemFree: 1 kB\n")
        return path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._metadata.server_port}"


def _metadata_of(machine: BootedMachine) -> type[BaseHTTPRequestHandler]:
    class Handle(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            """A command of the machine tells what it was called with."""
            size = int(self.headers.get("Content-Length") or 0)
            command = self.rfile.read(size).decode()
            machine.commands.append(command)
            self.send(200, "ok")
            if command in ("shutdown -h now", "shutdown now", "poweroff"):
                machine.asked_to_shut_down()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if self.headers.get("Metadata-Flavor") != "Google" and path != "/":
                self.send(403, "Missing required header: Metadata-Flavor")
            elif path.removeprefix(ATTRIBUTES) in machine.cloud.hidden:
                self.send(403, "Forbidden")
            elif path.startswith(ATTRIBUTES):
                value = machine.attributes().get(path.removeprefix(ATTRIBUTES))
                self.send(404 if value is None else 200, value or "")
            elif path == "/computeMetadata/v1/instance/name":
                self.send(200, machine.name)
            else:
                answer = machine.cloud.google.metadata(path)

                self.send(200, answer if isinstance(answer, str) else json.dumps(answer))

        def send(self, code: int, text: str) -> None:
            data = text.encode()
            self.send_response(code)
            self.send_header("Metadata-Flavor", "Google")
            is_json = text.startswith("{")
            self.send_header("Content-Type", "application/json" if is_json else "text/plain")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handle
