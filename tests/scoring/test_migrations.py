"""Migrations that move data, on a database as the previous version left it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from engine.features.live import decode_events, decode_incoming, next_event, next_incoming
from engine.transaction import wallet_code

BEFORE = [("scoring", "0002_labels")]
AFTER = [("scoring", "0003_destination_timeline")]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def migrate(target: list[tuple[str, str]]) -> Any:
    """Migrate to `target`; returns the models as they were then."""
    executor = MigrationExecutor(connection)
    executor.migrate(target)
    return MigrationExecutor(connection).loader.project_state(target).apps


@pytest.fixture
def old(transactional_db: None) -> Iterator[Any]:
    """The models before destinations had a timeline; the database is the newest again after."""
    latest = MigrationExecutor(connection).loader.graph.leaf_nodes()
    yield migrate(BEFORE)
    migrate(latest)


def attempt(models: Any, source: str, destination: str, created_at: datetime, amount: int) -> None:
    """An attempt as the previous version recorded it."""
    Attempt = models.get_model("scoring", "Attempt")
    past = Attempt.objects.filter(source_wallet_id=source).order_by("-id").first()
    events = decode_events(bytes(past.source_event) if past else b"")
    at = (created_at - EPOCH) // timedelta(microseconds=1)
    event = next_event(
        events, created_at_us=at, amount=amount, destination=wallet_code(destination), country=-1,
        blocked=False,
    )  # fmt: skip
    row = Attempt.objects.create(
        transaction_id=f"t{Attempt.objects.count()}",
        source_wallet_id=source,
        destination_wallet_id=destination,
        source_time=int(decode_events(event)[0, 0]),
        source_event=event,
    )
    models.get_model("scoring", "ScoreRecord").objects.create(
        attempt=row, digest=b"", transaction={}, context={}, created_at=created_at,
        scored_at=created_at, decision="APPROVE", risk_score=0, rule_score=0, features={},
        model_version_id=1, rule_set_id=1,
    )  # fmt: skip


def test_attempts_get_their_place_in_their_destinations_timeline(
    old: Any, monkeypatch: Any
) -> None:
    pick = np.random.default_rng(1)
    sent = []
    for _ in range(60):
        source, destination = (f"w{n}" for n in pick.integers(0, 5, 2).tolist())
        # Some arrive late, and one total passes 2**63 on its way.
        created_at = EPOCH + timedelta(days=20_000, seconds=int(pick.integers(0, 90_000)))
        amount = int(pick.integers(-(10**13), 2**61))
        attempt(old, source, destination, created_at, amount)
        sent.append((source, destination, created_at, amount))
    migration = __import__("importlib").import_module(
        "scoring.migrations.0003_destination_timeline"
    )
    monkeypatch.setattr(migration, "CHUNK", 7)
    new = migrate(AFTER)
    latest: dict[str, bytes] = {}
    rows = new.get_model("scoring", "Attempt").objects.order_by("id")
    for row, (source, destination, created_at, amount) in zip(rows, sent, strict=True):
        latest[destination] = next_incoming(
            decode_incoming(latest.get(destination, b"")),
            created_at_us=(created_at - EPOCH) // timedelta(microseconds=1),
            amount=amount,
            source=wallet_code(source),
        )
        assert bytes(row.destination_event) == latest[destination]
        assert row.destination_time == decode_incoming(latest[destination])[0, 0]
