"""Starting the processes of one machine: what is refused, and what a home keeps."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from sentinelle import serve
from sentinelle.home import Home

ROOT = Path(__file__).resolve().parent.parent


def start(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": os.environ["PATH"], "SENTINELLE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "sentinelle.serve", *arguments],
        env=kept | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_taken_port_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = start(tmp_path / "home", PORT=str(port))
    assert result.returncode == 1
    assert f"port {port} on 127.0.0.1 can't be used" in result.stderr
    assert f"PORT={port + 1}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = start(tmp_path / "file" / "home", PORT=str(free_port()))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "Set SENTINELLE_HOME" in result.stderr


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    result = start(tmp_path / ("x" * 120), PORT=str(free_port()))
    assert "too long a path" in result.stderr


def test_a_full_disk_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(SystemExit, match="1 MB free"):
        serve.check_machine(Home(tmp_path / "home"), "127.0.0.1", free_port())
    assert not (tmp_path / "home").exists()


def test_two_servers_cannot_share_a_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create(demo=False)
    with serve.lock_home(home), pytest.raises(SystemExit, match="another Sentinelle"):
        serve.lock_home(home)


def test_a_demo_home_listens_on_loopback_only(tmp_path: Path) -> None:
    result = start(tmp_path / "new", "--demo", HOST="0.0.0.0", PORT=str(free_port()))
    assert "can't listen on 0.0.0.0" in result.stderr
    Home(tmp_path).create(demo=True)
    result = start(tmp_path, HOST="0.0.0.0", PORT=str(free_port()))
    assert "can't listen on 0.0.0.0" in result.stderr


def test_a_demo_that_got_nowhere_does_not_open_a_later_home(tmp_path: Path) -> None:
    (tmp_path / "demo").touch()
    Home(tmp_path).create(demo=False)
    assert not Home(tmp_path).is_demo


def test_an_existing_home_is_never_opened(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create(demo=False)
    secret = home.secret_key
    home.create(demo=True)
    assert not home.is_demo
    assert home.secret_key == secret
    assert len(secret) >= 50
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600


def test_a_percent_sign_in_the_path_is_refused(tmp_path: Path) -> None:
    assert "percent sign" in start(tmp_path / "100%", PORT=str(free_port())).stderr


def test_the_supervisor_understands_a_path_with_spaces(tmp_path: Path) -> None:
    from supervisor.options import ServerOptions

    home = Home(tmp_path / "a home")
    home.create(demo=False)
    config = home.root / "supervisord.conf"
    config.write_text(serve.supervisor_config(home))
    options = ServerOptions()
    options.realize(["-c", str(config)])
    programs = {group.name: group.process_configs[0] for group in options.process_group_configs}
    assert list(programs) == ["valkey", "web", "worker", "trainer", "beat"]
    assert str(home.valkey_socket) in programs["valkey"].command


def test_only_what_runs_in_a_container_is_taken(tmp_path: Path) -> None:
    result = start(tmp_path / "home", "--only", "worker,web")
    assert "--only takes worker, trainer, beat, separated by commas; not ['web']" in result.stderr
    elsewhere = {"SECRET_KEY": "k" * 50, "DATABASE_URL": "postgresql://me@host/name"}
    result = start(tmp_path / "home", "--only", "worker", **elsewhere)
    assert "REDIS_URL is not set" in result.stderr
    assert not (tmp_path / "home").exists()


def test_the_background_of_a_container_works_and_ends(tmp_path: Path) -> None:
    """No home is made, what it logs is the container's output, and it ends before it is killed."""
    environment = {name: os.environ[name] for name in ("PATH", "NUMBA_CACHE_DIR", "REDIS_URL")}
    environment |= {
        "SECRET_KEY": "k" * 50,
        "SENTINELLE_HOME": str(tmp_path / "home"),
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "TRAINING_CONCURRENCY": "1",
    }
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, env=environment, cwd=ROOT, check=True, timeout=60)
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinelle.serve", "--only", "worker,trainer,beat"],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            seen += line
            if seen.count(" ready.") == 2 and "Task training.tasks.step_due_runs" in seen:
                break
        process.terminate()
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    # Told to end their tasks at once: a warm shutdown would wait for a training.
    assert "Cold shutdown" in rest
    assert "Warm shutdown" not in rest
    assert process.returncode == 0
    assert not (tmp_path / "home" / "secret_key").exists()
