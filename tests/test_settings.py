"""A malformed setting stops the start with its name and what was expected."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.servers import start_postgresql, temporary_folder

ROOT = Path(__file__).resolve().parent.parent


CACHE = {"NUMBA_CACHE_DIR": os.environ["NUMBA_CACHE_DIR"]}
"""Whoever loads every application would else compile the kernels anew."""


def start(**environment: str) -> subprocess.CompletedProcess[str]:
    """Load the settings in a fresh process with exactly these variables."""
    kept = {name: os.environ[name] for name in ("PATH", "SENTINELLE_HOME")}
    return subprocess.run(
        [sys.executable, "-c", "import django; django.setup()"],
        env=kept | CACHE | {"DJANGO_SETTINGS_MODULE": "sentinelle.settings", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "http", "a whole number from 1 to 65535"),
        ("PORT", "70000", "a whole number from 1 to 65535"),
        ("HTTPS", "perhaps", "true or false"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR"),
        ("MODEL_VERSION", "newest", "“latest” or a version such as 1.0.0"),
        ("LIVE_CLASSIFIERS", "0", "a whole number from 1"),
        ("CORS_ALLOWED_ORIGINS", "*", "https?://"),
        ("CORS_ALLOWED_ORIGINS", "https://a.example,https://b.example/", "https?://"),
        ("RATE_LIMIT", "fast", "100/s"),
        ("RATE_LIMIT", "0/s", "100/s"),
        ("ARTIFACTS_DIR", "s3://bucket", "a path or gs://bucket/prefix"),
        ("DATABASE_URL", "mysql://root@localhost/x", "postgresql"),
        ("REDIS_URL", "localhost:6379", "redis"),
    ],
)
def test_a_malformed_value_is_named(name: str, value: str, expected: str) -> None:
    result = start(SECRET_KEY="k" * 50, **{name: value})
    assert result.returncode != 0
    message = result.stderr.strip().splitlines()[-1]
    assert name in message
    assert expected in message


def test_a_password_in_a_url_is_never_repeated() -> None:
    result = start(SECRET_KEY="k" * 50, DATABASE_URL="oracle://me:hunter2@localhost/x")
    assert result.returncode != 0
    assert "hunter2" not in result.stderr


def test_without_a_secret_key_nothing_starts() -> None:
    result = start()
    assert "SECRET_KEY is not set" in result.stderr


@pytest.mark.parametrize("command", ["setup_cloud --project my-project --dry-run", "simulate"])
def test_a_command_without_a_home_says_in_one_line_how_to_make_one(
    tmp_path: Path, command: str
) -> None:
    result = subprocess.run(
        [sys.executable, "manage.py", *command.split()],
        env={"PATH": os.environ["PATH"], "SENTINELLE_HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("Sentinelle can't start: SECRET_KEY is not set.")
    assert f"`make run`, which makes the home {tmp_path}" in line


def test_production_is_behind_https_by_default() -> None:
    code = (
        "from django.conf import settings as s;"
        "print(s.SECURE_SSL_REDIRECT, s.SESSION_COOKIE_SECURE, s.DEBUG, s.DEMO)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PATH": os.environ["PATH"],
            "SENTINELLE_HOME": os.environ["SENTINELLE_HOME"],
            "DJANGO_SETTINGS_MODULE": "sentinelle.settings",
            "SECRET_KEY": "k" * 50,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["True", "True", "False", "False"]


ON_SOCKET = "postgresql://sentinelle@/postgres?host="


@pytest.mark.parametrize("container", ["K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL"])
def test_nothing_starts_on_cloud_run_with_sqlite(container: str) -> None:
    result = start(SECRET_KEY="k" * 50, **{container: "sentinelle"})
    assert result.returncode != 0
    message = result.stderr.strip().splitlines()[-1]
    assert "DATABASE_URL is SQLite" in message
    assert "postgresql://sentinelle@/sentinelle?host=/cloudsql/PROJECT:REGION:INSTANCE" in message
    with_postgresql = start(
        SECRET_KEY="k" * 50, DATABASE_URL=f"{ON_SOCKET}/x", **{container: "sentinelle"}
    )
    assert with_postgresql.returncode == 0, with_postgresql.stderr


@pytest.mark.parametrize(
    ("database", "faults"),
    [("", ["sentinelle.E001"]), (f"{ON_SOCKET}/cloudsql/p:r:i", [])],
    ids=["sqlite", "postgresql"],
)
def test_the_check_before_a_deployment_refuses_sqlite_beside_a_bucket(
    database: str, faults: list[str]
) -> None:
    result = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy"],
        env={
            "PATH": os.environ["PATH"],
            **CACHE,
            "SENTINELLE_HOME": "/nowhere",
            "SECRET_KEY": "k7-" + "".join(chr(97 + n % 26) for n in range(60)),
            "BUCKET_NAME": "my-bucket",
            "DATABASE_URL": database,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert re.findall(r"\(([\w.]+)\)", result.stderr) == faults, result.stderr
    assert result.returncode == (1 if faults else 0)


def test_a_password_beside_the_url_opens_postgresql_on_a_socket(tmp_path: Path) -> None:
    """As on Cloud Run: the folder of the socket has colons, the password is a secret's."""
    folder = temporary_folder()
    socket = start_postgresql(folder).partition("host=")[2]
    sockets = folder / "cloudsql"
    sockets.mkdir()
    place = sockets / "project:europe-west1:sentinelle"
    place.symlink_to(socket)
    ask_for_a_password(folder / "postgresql", socket, "s3cret/+%#")
    program = (
        "import django; django.setup(); from django.db import connection as c;"
        "cursor = c.cursor(); cursor.execute('select current_user'); print(cursor.fetchone())"
    )
    right, wrong = (
        subprocess.run(
            [sys.executable, "-c", program],
            env={
                "PATH": os.environ["PATH"],
                **CACHE,
                "SENTINELLE_HOME": str(tmp_path),
                "DJANGO_SETTINGS_MODULE": "sentinelle.settings",
                "SECRET_KEY": "k" * 50,
                "DATABASE_URL": f"{ON_SOCKET}{place}",
                "DB_PASSWORD": password,
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        for password in ("s3cret/+%#", "another")
    )
    assert right.stdout.strip() == "('sentinelle',)", right.stderr
    assert "password authentication failed" in wrong.stderr


def ask_for_a_password(data: Path, socket: str, password: str) -> None:
    """Make the user `sentinelle`, whom the server asks for their password."""
    with psycopg.connect(f"postgresql://postgres@/postgres?host={socket}", autocommit=True) as db:
        db.execute(f"CREATE USER sentinelle PASSWORD '{password}'")  # type: ignore[arg-type]
        hba = data / "pg_hba.conf"
        hba.write_text(f"local all sentinelle scram-sha-256\n{hba.read_text()}")
        db.execute("SELECT pg_reload_conf()")
