"""What the tests of training runs have in common."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.db import connection
from django.utils import timezone

from training import claims, launchers, services
from training.launchers.local import LocalLauncher
from training.models import Dataset, TrainingRun

FAKE_JOB = Path(__file__).parent / "fake_job.py"


def make_dataset(name: str = "sales", **changes: Any) -> Dataset:
    """A row without a file, where no program reads it."""
    facts = {
        "location": f"{name}-0",
        "preset": "canonical",
        "fingerprint": "f" * 64,
        "rows": 2000,
        "frauds": 20,
        "first_at": datetime(2026, 1, 1, tzinfo=UTC),
        "last_at": datetime(2026, 3, 1, tzinfo=UTC),
    }
    return Dataset.objects.create(name=name, **(facts | changes))


def make_run(version: str = "1.0.0", **changes: Any) -> TrainingRun:
    """A queued run, on the data set “sales” unless told otherwise."""
    dataset = changes.pop("dataset", "sales")
    if not Dataset.objects.filter(name=dataset).exists():
        make_dataset(dataset)
    return services.run_create(dataset=dataset, version=version, **changes)


def claim_run(run: TrainingRun, *, worker: str = "one", now: datetime | None = None) -> TrainingRun:
    """The run as a worker has it whose program is at work."""
    now = now or timezone.now()
    claimed = claims.run_claim(str(run.pk), worker=worker, now=now)
    assert claimed is not None
    claims.run_started(run.pk, worker=worker, handle="here:1", now=now)
    claimed.refresh_from_db()
    return claimed


def use_fake_job(monkeypatch: Any, behaviour: str) -> None:
    """Make the local launcher start the stand-in."""
    fake = LocalLauncher(program=(str(FAKE_JOB), behaviour))
    monkeypatch.setitem(launchers._LAUNCHERS, "local", fake)


def wait_until(condition: Callable[[], Any], seconds: float = 30, what: str = "") -> Any:
    """Return the first true value of `condition`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what or condition}")


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return status != "Z"


def in_thread(work: Callable[[], Any]) -> Any:
    """What a thread calls: the work, and then the end of its database connection."""
    try:
        return work()
    finally:
        connection.close()


def database_url() -> str:
    """Where the tests' tables are, for another process."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))
