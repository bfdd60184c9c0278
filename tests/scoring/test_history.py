"""What live computes from its tables is what training computes from the same sequence."""

import json
import os
import random
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from django.db import OperationalError, connection, transaction
from psycopg.pq import TransactionStatus

from engine.features.catalogue import CATALOGUE
from engine.features.replay import NEVER, replay
from engine.scorer import Scorer
from engine.transaction import (
    amount_to_units,
    country_code,
    decode_score_request,
    wallet_code,
)
from scoring import history, services, wire
from scoring.backfill import PastTransactions, append
from scoring.history import locks
from scoring.history.postgresql import PostgreSQLTurn
from scoring.labels import LabelReport, labels_record
from scoring.live_model import live_model
from scoring.models import Outcome, ScoreRecord
from tests.scoring.conftest import Api
from tests.scoring.requests import request
from tests.training.support import in_thread

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
BUSY = 1_160


class Traffic:
    """A sequence of transactions, outcomes and labels, sent and remembered in the columns of a
    replay."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rows: list[dict[str, Any]] = []
        self.visible_from: dict[int, int] = {}
        self.fraud_visible_from: dict[int, int] = {}

    def send(self, source: str, created_at: datetime, destination: str = "") -> None:
        pick = self.random
        body = request(
            transaction_id=f"t{len(self.rows)}",
            source_wallet_id=source,
            destination_wallet_id=destination or f"payee_{pick.randrange(40)}",
            amount=pick.choice([0.1, 5.55, 20.0, 99.9999, 310.0]),
            country=pick.choice(["FR", "DE", None]),
            created_at=created_at.isoformat(),
        )
        services.score(json.dumps(body).encode(), NOW)
        self.rows.append(body["transaction"])

    def fail(self, *rows: int) -> None:
        """Tell that these failed: every later transaction sees it."""
        reports = [
            {"transaction_id": f"t{row}", "status": "FAILED", "occurred_at": START.isoformat()}
            for row in rows
        ]
        services.outcomes_record(json.dumps(reports).encode(), NOW)
        self.visible_from |= dict.fromkeys(rows, len(self.rows))

    def label(self, *rows: int) -> None:
        """Tell that these are frauds: every later transaction sees it, and so may the next one of
        a row that is still to come."""
        reports = [
            LabelReport(transaction_id=f"t{row}", label="fraud", known_at=NOW) for row in rows
        ]
        labels_record(reports, stated_by="test", now=NOW)
        for row in rows:
            self.fraud_visible_from[row] = max(row + 1, len(self.rows))

    def replayed(self, blocked: list[bool]) -> np.ndarray:
        times = [datetime.fromisoformat(row["created_at"]) for row in self.rows]
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return replay(
            np.array([(time - epoch) // timedelta(microseconds=1) for time in times]),
            np.array([amount_to_units(row["amount"]) for row in self.rows]),
            np.array([wallet_code(row["source_wallet_id"]) for row in self.rows]),
            np.array([wallet_code(row["destination_wallet_id"]) for row in self.rows]),
            np.array([country_code(row["country"]) for row in self.rows]),
            failed_visible_from=np.array(
                [self.visible_from.get(row, NEVER) for row in range(len(self.rows))]
            ),
            fraud_visible_from=np.array(
                [self.fraud_visible_from.get(row, NEVER) for row in range(len(self.rows))]
            ),
            blocked=np.array(blocked),
        )


def assert_live_equals_replay(traffic: Traffic) -> None:
    records = list(ScoreRecord.objects.order_by("attempt").values("decision", "features"))
    assert len(records) == len(traffic.rows)
    expected = traffic.replayed([record["decision"] == "BLOCK" for record in records])
    for row, record in enumerate(records):
        for feature, value in zip(CATALOGUE, expected[row].tolist(), strict=True):
            live = record["features"][feature.name]
            assert live == (None if np.isnan(value) else value), (row, feature.name)


@pytest.fixture
def scoring(champion: Any) -> None:
    live_model.serving()


def test_many_wallets_with_late_arrivals_and_failures(scoring: None) -> None:
    traffic = Traffic(seed=1)
    time = START
    for row in range(300):
        time += timedelta(seconds=traffic.random.choice([0, 1, 60, 7_200, 90_000]))
        late = timedelta(seconds=traffic.random.choice([0, 0, 0, 30, 100_000]))
        traffic.send(f"w{traffic.random.randrange(4)}", time - late)
        if row % 9 == 8:
            told = traffic.random.sample(range(row + 1), 3)
            traffic.fail(*(each for each in told if each not in traffic.visible_from))
    assert len(traffic.visible_from) > 50
    assert_live_equals_replay(traffic)


def test_labels_told_at_any_time(scoring: None) -> None:
    """In time, late, of several rows at once, and before their transactions."""
    traffic = Traffic(seed=6)
    time = START
    for row in range(300):
        time += timedelta(seconds=traffic.random.choice([0, 60, 7_200, 86_400]))
        late = timedelta(seconds=traffic.random.choice([0, 0, 0, 100_000]))
        pick = traffic.random
        traffic.send(f"w{pick.randrange(4)}", time - late, destination=f"w{pick.randrange(5)}")
        if row % 9 == 8:
            told = traffic.random.sample(range(row + 5), 4)
            traffic.label(*(each for each in told if each not in traffic.fraud_visible_from))
    assert_live_equals_replay(traffic)
    seen = {
        feature.name: max(
            record.features[feature.name] for record in ScoreRecord.objects.only("features")
        )
        for feature in CATALOGUE
        if feature.group == "confirmed fraud"
    }
    assert all(seen.values()), seen


def test_wallet_with_more_events_than_the_tail(scoring: None) -> None:
    """The totals before each window's edge come from an index seek then."""
    traffic = Traffic(seed=2)
    for row in range(BUSY):
        # 50 s apart, after a slow start of 40 days: the last 1,000 reach back 14 hours, and 30 days
        # before row 1,152 is the very microsecond of row 16.
        late = START + timedelta(days=40, seconds=50 * row)
        at = START + timedelta(hours=16 * row) if row < 60 else late
        traffic.send("shop", at)
        if row % 100 == 50:
            traffic.fail(row, row - 20)
    assert_live_equals_replay(traffic)
    last = ScoreRecord.objects.order_by("attempt").last()
    assert last is not None
    assert last.features["src_tx_count_out_30d"] > 1_000


def test_destination_with_more_events_than_the_tail(scoring: None) -> None:
    """Likewise, also for the windows that end a label delay before a transaction."""
    traffic = Traffic(seed=5)
    for row in range(BUSY):
        late = START + timedelta(days=40, seconds=50 * row)
        at = START + timedelta(hours=16 * row) if row < 60 else late
        traffic.send(f"payer_{traffic.random.randrange(90)}", at, "shop")
    assert_live_equals_replay(traffic)
    last = ScoreRecord.objects.order_by("attempt").last()
    assert last is not None
    assert last.features["dst_tx_count_in_30d"] > 1_000
    assert last.features["dst_unique_sources_30d"] == 90


def test_wallets_that_pay_each_other_and_themselves(scoring: None) -> None:
    traffic = Traffic(seed=6)
    time = START
    for _ in range(60):
        time += timedelta(seconds=traffic.random.choice([0, 60, 7_200]))
        late = timedelta(seconds=traffic.random.choice([0, 0, 100_000]))
        wallets = traffic.random.choices(["a", "b", "c"], k=2)
        traffic.send(wallets[0], time - late, wallets[1])
    assert_live_equals_replay(traffic)


def test_failures_of_one_request_are_in_the_order_of_their_transactions(scoring: None) -> None:
    traffic = Traffic(seed=3)
    for hour in range(4):
        traffic.send("w", START + timedelta(hours=hour))
    traffic.fail(3, 0, 2)
    told = Outcome.objects.order_by("id").values_list("attempt__transaction_id", flat=True)
    assert list(told) == ["t0", "t2", "t3"]
    for hour in (23, 24, 25, 26, 27, 28):
        traffic.send("w", START + timedelta(hours=hour))
    assert_live_equals_replay(traffic)


def test_version_with_another_label_delay_promoted_while_wallets_were_waited_for(
    scoring: None, monkeypatch: Any
) -> None:
    """It decides by what its own delay reads."""
    traffic = Traffic(seed=8)
    traffic.send("w", NOW - timedelta(days=2), "shop")
    report = LabelReport(transaction_id="t0", label="fraud", known_at=NOW)
    labels_record([report], stated_by="test", now=NOW)
    before = live_model.serving()
    bundle = replace(before.bundle, label_delay=0)
    after = before._replace(bundle=bundle, scorer=Scorer(bundle, before.scorer.rules))
    moments = iter([before, before])
    monkeypatch.setattr(live_model, "serving", lambda: next(moments, after))
    traffic.send("w", NOW, "shop")
    record = ScoreRecord.objects.latest("attempt")
    for name in ("src_fraud_count_7d", "dst_fraud_count_7d", "dst_fraud_ratio_7d"):
        assert record.features[name] == 1
    assert list(moments) == []


def shop_with(payments: int) -> None:
    """Load payments to one wallet."""
    rows = PastTransactions(
        transaction_id=[f"p{row}" for row in range(payments)],
        created_at=np.arange(payments),
        amount=np.ones(payments, np.int64),
        source=[f"payer_{row}" for row in range(payments)],
        destination=["shop"] * payments,
        country=np.zeros(payments, np.int64),
        failures={},
        known_at={},
    )
    with transaction.atomic():
        append(rows, stated_by="test", now=NOW)


def other_session() -> psycopg.Connection[Any]:
    name = connection.settings_dict["NAME"]
    return psycopg.connect(os.environ["DATABASE_URL"], dbname=name, autocommit=True)


@pytest.mark.skipif("sqlite" in os.environ["DATABASE_URL"], reason="SQLite has no such locks")
class TestLocks:
    def test_whoever_waits_for_all_wallets_lets_requests_pass(self, api: Api) -> None:
        def load() -> None:
            with transaction.atomic(durable=True):
                history.lock_all()

        loading = threading.Thread(target=in_thread, args=(load,))
        with other_session() as session:
            session.execute("SELECT pg_advisory_lock_shared(%s, %s)", locks.EVERYTHING)
            loading.start()
            began = time.monotonic()
            while time.monotonic() < began + 1.5:
                sent = time.monotonic()
                assert api.score(request()).status_code == 200
                assert time.monotonic() < sent + 3
            assert loading.is_alive()
        loading.join(10)
        assert not loading.is_alive()

    def test_whoever_waits_for_all_wallets_gives_up(
        self, transactional_db: None, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(locks, "_PATIENCE", 0.1)
        with other_session() as session:
            session.execute("SELECT pg_advisory_lock_shared(%s, %s)", locks.EVERYTHING)
            with pytest.raises(OperationalError, match="lock timeout"), transaction.atomic():
                history.lock_all()

    @pytest.mark.parametrize("path", ["/score", "/labels"])
    def test_wallets_are_waited_for_together_not_each_so_long(
        self, api: Api, monkeypatch: Any, path: str
    ) -> None:
        begin = PostgreSQLTurn._BEGIN.replace(b"'5s'", b"'1s'")
        monkeypatch.setattr(PostgreSQLTurn, "_BEGIN", begin)
        for name in ("LIMITS", "LIMIT_WAIT"):
            monkeypatch.setattr(locks, name, getattr(locks, name).replace("'5s'", "'1s'"))
        between = {"source_wallet_id": "alice", "destination_wallet_id": "bob"}
        assert api.score(request(transaction_id="t0", **between)).status_code == 200
        body = request(**between)
        if path == "/labels":
            made = body["transaction"]["created_at"]
            body = {"transaction_id": "t0", "label": "fraud", "known_at": made}
        keys = locks.lock_keys(["alice", "bob"], [])
        with other_session() as session:
            session.execute("SELECT pg_advisory_lock(%s), pg_advisory_lock(%s)", keys)
            unlock = "SELECT pg_advisory_unlock(%s)"
            timers = [
                threading.Timer(after, session.execute, [unlock, [key]])
                for after, key in zip((0.7, 1.4), keys, strict=True)
            ]
            for timer in timers:
                timer.start()
            assert api.post(path, body).status_code == 503
            for timer in timers:
                timer.join()
        assert api.post(path, body).status_code == 200

    def test_only_the_wait_is_bounded_and_silence_ends_what_is_held(self, scoring: None) -> None:
        def limits() -> list[str]:
            names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
            found = [wire.execute(f"SHOW {name}".encode()).get_value(0, 0) for name in names]
            return [(value or b"").decode() for value in found]

        expected = ["0", "5s", "10s"]
        for hold in (history.lock_all, lambda: history.lock(["a"], ["t"])):
            with transaction.atomic():
                hold()
                assert limits() == expected
        subject = decode_score_request(json.dumps(request()).encode()).transaction
        with history.open_turn([subject]) as turn:
            assert turn.read(subject, 0) is not None
            assert limits() == expected


@pytest.mark.skipif("sqlite" in os.environ["DATABASE_URL"], reason="SQLite has no connections")
class TestConnections:
    def test_one_that_the_server_closed_is_replaced_without_a_failed_request(
        self, scoring: None
    ) -> None:
        traffic = Traffic(seed=4)
        traffic.send("w", START)
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as admin:
            pid = connection.connection.info.backend_pid
            admin.execute("SELECT pg_terminate_backend(%s)", [pid])
        time.sleep(0.2)
        traffic.send("w", START)
        assert ScoreRecord.objects.count() == 2

    def test_plans_that_were_made_for_empty_tables_walk_along_the_indexes_of_full_ones(
        self, scoring: None
    ) -> None:
        """A plan that sorts a wallet's history, or looks through the table, reads all of it."""
        traffic = Traffic(seed=7)
        traffic.send("w", NOW)
        wire.execute(b"ANALYZE")
        traffic.send("w", NOW)
        shop_with(20_000)
        wire.execute(PostgreSQLTurn._BEGIN)
        for execute, arguments in (
            (PostgreSQLTurn._EXECUTE_READ, b"'t', 'a', 'shop', 0, 0)"),
            (PostgreSQLTurn._EXECUTE_SEEK, b"'a', '{1,2}', 'shop', '{1,2,3}')"),
        ):
            result = wire.execute(b"EXPLAIN " + execute + arguments)
            plan = "\n".join(str(result.get_value(n, 0)) for n in range(result.ntuples))
            assert "Index Scan Backward using attempt_destination" in plan
            assert not [word for word in ("Sort", "Bitmap", "Seq Scan") if word in plan], plan
        wire.execute(b"ROLLBACK")

    def test_one_that_could_prepare_only_half_is_not_used_again(self, api: Api) -> None:
        connection.close()
        name = connection.settings_dict["NAME"]
        with psycopg.connect(os.environ["DATABASE_URL"], dbname=name) as admin:
            # What a migration does: a table that only the read names is taken.
            admin.execute("LOCK TABLE scoring_outcome IN ACCESS EXCLUSIVE MODE")
            assert api.score(request()).status_code == 503
            admin.rollback()
        assert api.score(request()).status_code == 200

    def test_wallet_that_is_held_too_long_is_503_and_leaves_no_open_transaction(
        self, api: Api, monkeypatch: Any
    ) -> None:
        begin = PostgreSQLTurn._BEGIN.replace(b"'5s'", b"'200ms'")
        monkeypatch.setattr(PostgreSQLTurn, "_BEGIN", begin)
        other = connection.copy()
        try:
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s)", [wallet_code("alice")])
            started = time.monotonic()
            response = api.score(request(source_wallet_id="alice"))
            assert time.monotonic() - started < 1
            assert response.status_code == 503
            assert response.json()["code"] == "DATABASE_UNAVAILABLE"
            assert connection.connection.info.transaction_status == TransactionStatus.IDLE
            assert api.score(request(source_wallet_id="x")).status_code == 200
        finally:
            other.close()
        assert api.score(request(source_wallet_id="alice")).status_code == 200
