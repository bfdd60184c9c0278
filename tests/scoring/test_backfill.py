"""A data set as history: what live then computes is what replaying it all would have."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.core.management.color import no_style
from django.db import OperationalError, connection, transaction
from django.db.models import F

import scoring.backfill
from engine.errors import HistoryConflict, InvalidDataset, TransactionConflict
from engine.features.catalogue import CATALOGUE, DAY
from engine.features.kernel import COUNT
from engine.features.live import decode_events
from engine.features.replay import replay, visible_at_once
from scoring import history
from scoring.backfill import PastTransactions
from scoring.labels import LabelReport, labels_record
from scoring.live_model import live_model
from scoring.models import Attempt, Backfill, ConfirmedFraud, Label, Outcome, ScoreRecord
from scoring.services import outcomes_record, score
from tests.scoring.requests import request
from tests.scoring.server import ROOT, database_url
from tests.training.support import in_thread, wait_until
from training import backfill
from training.backfill import history_backfill
from training.datasets import dataset_import
from training.pipeline.labels import fraud_visible_from
from training.pipeline.table import Transactions, read_transactions

START = datetime(2025, 9, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def data_dir(settings: Any, tmp_path: Path) -> Path:
    settings.DATA_DIR = str(tmp_path / "data")
    return tmp_path / "data"


def rows(count: int, seed: int = 1, wallets: int = 12, days: float = 90) -> list[dict[str, Any]]:
    """Payments among a few wallets; some fail, some are frauds, known at once or much later."""
    pick = np.random.default_rng(seed)
    times = np.sort(pick.integers(0, int(days * 86_400), count))
    made = []
    for number, second in enumerate(times.tolist()):
        created_at = START + timedelta(seconds=second // 60 * 60)
        is_fraud = bool(pick.random() < 0.1)
        known_at = created_at + timedelta(days=float(pick.choice([0, 3, 7, 30])))
        made.append(
            {
                "transaction_id": f"t{number}",
                "created_at": created_at.isoformat(),
                "amount": round(float(pick.lognormal(3, 1)), 4),
                "currency": "PYC",
                "source_wallet_id": f"w\\{pick.integers(wallets)}",
                "destination_wallet_id": f"w\\{pick.integers(wallets)}",
                "transaction_type": "TRANSFER",
                "country": str(pick.choice(["FR", "DE", ""])),
                "status": str(pick.choice(["SUCCESS", "FAILED", "CANCELED"], p=[0.8, 0.1, 0.1])),
                "is_fraud": is_fraud,
                "label_known_at": known_at.isoformat() if is_fraud and pick.random() < 0.7 else "",
            }
        )
    return made


def make(data_dir: Path, name: str, made: list[dict[str, Any]]) -> Transactions:
    """Import rows as a data set; returns it as training reads it."""
    file = data_dir.parent / f"{name}.csv"
    names = list(made[0])
    lines = [",".join(names), *(",".join(str(row[each]) for each in names) for row in made)]
    file.write_text("\n".join(lines) + "\n")
    dataset = dataset_import(name=name, files=[file])
    return read_transactions(str(data_dir / dataset.location / "data.parquet"))


def tables() -> dict[str, list[Any]]:
    """All that a load writes, without what differs from one load to the next."""
    attempts = Attempt.objects.order_by("id").values_list(
        "transaction_id", "source_wallet_id", "destination_wallet_id", "source_time",
        "source_event", "destination_time", "destination_event",
    )  # fmt: skip
    outcomes = Outcome.objects.order_by("id").values_list(
        "attempt__transaction_id", "status", "occurred_at", "failure_wallet_id", "failure_time",
        "failure_count",
    )  # fmt: skip
    frauds = ConfirmedFraud.objects.order_by("side", "wallet_id", "time", "attempt").values_list(
        "side", "wallet_id", "time", "attempt__transaction_id", "total"
    )
    labels = Label.objects.order_by("id").values_list("transaction_id", "verdict", "known_at")
    return {
        "attempts": [tuple(map(_plain, row)) for row in attempts],
        "outcomes": list(outcomes),
        "frauds": list(frauds),
        "labels": list(labels),
    }


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


class Continued:
    """A data set whose first rows are loaded, and whose others are sent live, with the outcomes and
    the labels of all when they become known."""

    def __init__(self, data_dir: Path, made: list[dict[str, Any]], loaded: int) -> None:
        self.rows = made
        self.loaded = loaded
        self.data = make(data_dir, "all", made)
        self.begins = datetime.fromisoformat(made[loaded]["created_at"])
        history_backfill(dataset="all", now=self.begins, until=self.begins)
        self.visible = fraud_visible_from(self.data, 7 * DAY)
        stated = (self.data.label_known_at, self.data.created_at + 7 * DAY)
        self.known_at = np.where(stated[0] < 0, stated[1], stated[0])

    def send(self) -> None:
        told = {label.transaction_id for label in Label.objects.all()}
        for at in range(self.loaded, len(self.rows)):
            for fraud in np.flatnonzero(self.visible <= at).tolist():
                if self.rows[fraud]["transaction_id"] not in told:
                    told.add(self.rows[fraud]["transaction_id"])
                    self._label(fraud)
            self._score(at)

    def _label(self, at: int) -> None:
        report = LabelReport(
            transaction_id=self.rows[at]["transaction_id"],
            label="fraud",
            known_at=EPOCH + timedelta(microseconds=int(self.known_at[at])),
        )
        labels_record([report], stated_by="test", now=NOW)

    def _score(self, at: int) -> None:
        row = self.rows[at]
        kept = {name: row[name] for name in (
            "transaction_id", "created_at", "amount", "source_wallet_id", "destination_wallet_id",
        )}  # fmt: skip
        body = request(**kept, country=row["country"] or None)
        score(json.dumps(body).encode(), NOW)
        if row["status"] != "SUCCESS":
            ended = {"status": row["status"], "occurred_at": row["created_at"]}
            report = {"transaction_id": row["transaction_id"]} | ended
            outcomes_record(json.dumps(report).encode(), NOW)

    def assert_as_replayed(self) -> None:
        records = list(ScoreRecord.objects.order_by("attempt"))
        assert len(records) == len(self.rows) - self.loaded
        blocked = np.zeros(len(self.rows), np.bool_)
        blocked[self.loaded :] = [record.decision == "BLOCK" for record in records]
        data = self.data
        expected = replay(
            data.created_at, data.amount, data.source, data.destination, data.country_codes,
            failed_visible_from=visible_at_once(data.failed), fraud_visible_from=self.visible,
            blocked=blocked,
        )  # fmt: skip
        for at, record in enumerate(records, self.loaded):
            for feature, value in zip(CATALOGUE, expected[at].tolist(), strict=True):
                live = record.features[feature.name]
                assert live == (None if np.isnan(value) else value), (at, feature.name)


@pytest.mark.parametrize(("count", "wallets", "loaded"), [(500, 12, 350), (2_600, 2, 2_520)])
def test_what_follows_live_is_what_replay_computes(
    data_dir: Path, champion: Any, count: int, wallets: int, loaded: int
) -> None:
    """With 2 wallets, each has more than the last 1,000 on either side."""
    continued = Continued(data_dir, rows(count, wallets=wallets), loaded)
    continued.send()
    continued.assert_as_replayed()
    last = ScoreRecord.objects.order_by("attempt").last()
    assert last is not None
    assert last.features["dst_fraud_count_30d"] > 0
    assert last.features["src_fraud_count_30d"] > 0
    assert ConfirmedFraud.objects.count() > 50


def forget_history() -> None:
    """Empty what a load writes."""
    models = (Backfill, ConfirmedFraud, Label, Outcome, ScoreRecord, Attempt)
    names = [model._meta.db_table for model in models]
    statements = connection.ops.sql_flush(no_style(), names, reset_sequences=True)
    connection.ops.execute_sql_flush(statements)


def test_chunks_of_any_size_make_the_same_history(
    data_dir: Path, transactional_db: None, monkeypatch: Any
) -> None:
    make(data_dir, "march", rows(900))
    history_backfill(dataset="march", now=NOW)
    whole = tables()
    assert all(whole.values())
    for chunk in (70, 1):
        forget_history()
        monkeypatch.setattr(backfill, "CHUNK", chunk)
        history_backfill(dataset="march", now=NOW)
        assert tables() == whole


LOAD = """
import sys, django
django.setup()
from django.core.management import call_command
from training import backfill
backfill.CHUNK = 100
call_command("backfill_history", "march")
"""


def test_load_that_was_killed_goes_on_where_it_was(
    data_dir: Path, transactional_db: None, monkeypatch: Any
) -> None:
    make(data_dir, "march", rows(6_000))
    history_backfill(dataset="march", now=NOW)
    whole = tables()
    forget_history()
    changes = {"DATABASE_URL": database_url(), "DATA_DIR": str(data_dir)}
    for share in (0.1, 0.4):
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD], cwd=ROOT, env=os.environ | changes, stdout=subprocess.PIPE
        )
        wait_until(lambda least=6_000 * share: loaded_rows() > least)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert 0 < loaded_rows() < 6_000
        assert Attempt.objects.count() == loaded_rows()
    before = loaded_rows()
    assert history_backfill(dataset="march", now=NOW)[:2] == (6_000 - before, before)
    assert tables() == whole


def loaded_rows() -> int:
    load = Backfill.objects.first()
    return load.next_row if load else 0


def test_loading_again_changes_nothing(data_dir: Path, transactional_db: None) -> None:
    make(data_dir, "march", rows(200))
    assert history_backfill(dataset="march", now=NOW)[:2] == (200, 0)
    whole = tables()
    assert history_backfill(dataset="march", now=NOW)[:2] == (0, 200)
    assert tables() == whole


def test_parts_of_a_data_set_one_after_the_other(data_dir: Path, transactional_db: None) -> None:
    made = rows(300)
    make(data_dir, "march", made)
    history_backfill(dataset="march", now=NOW)
    whole = tables()
    forget_history()
    middle = datetime.fromisoformat(made[150]["created_at"])
    history_backfill(dataset="march", now=NOW, until=middle)
    assert 100 < Attempt.objects.count() < 200
    history_backfill(dataset="march", now=NOW, since=middle)
    assert tables() == whole


def score_live(**changes: Any) -> None:
    score(json.dumps(request(**changes)).encode(), NOW)


def test_decision_made_while_a_chunk_is_written_waits_for_it(champion: Any) -> None:
    live_model.serving()
    times = np.arange(5) + (START - EPOCH) // timedelta(microseconds=1)
    names = [f"p{row}" for row in range(5)]
    nothing = np.zeros(5, np.int64)
    past = PastTransactions(names, times, nothing, ["w"] * 5, names, nothing, {}, {})
    live = {"source_wallet_id": "w", "created_at": START.isoformat()}
    decision = threading.Thread(target=in_thread, args=(lambda: score_live(**live),))
    with transaction.atomic():
        history.lock_all()
        decision.start()
        time.sleep(0.5)
        scoring.backfill.append(past, stated_by="test", now=NOW)
    decision.join()
    assert ScoreRecord.objects.get().features["src_tx_count_out_5m"] == 5


def test_load_that_the_database_keeps_waiting_says_how_it_goes_on(
    data_dir: Path, transactional_db: None, monkeypatch: Any
) -> None:
    def wait_in_vain() -> None:
        raise OperationalError("canceling statement due to lock timeout")

    make(data_dir, "march", rows(20))
    monkeypatch.setattr(history, "lock_all", wait_in_vain)
    with pytest.raises(CommandError, match=r"lock timeout\).*stays: run the same command again"):
        call_command("backfill_history", "march")


class TestRefusals:
    """What would contradict history, which stays as it was."""

    @pytest.fixture(autouse=True)
    def march(self, data_dir: Path, champion: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(backfill, "CHUNK", 40)
        self.made = rows(100)
        make(data_dir, "march", self.made)

    def refusal(self, **options: Any) -> str:
        before = tables()
        with pytest.raises((HistoryConflict, InvalidDataset)) as error:
            history_backfill(**{"dataset": "march", "now": NOW} | options)
        assert tables()["attempts"][: len(before["attempts"])] == before["attempts"]
        return error.value.detail

    def test_id_that_was_scored_live(self) -> None:
        score_live(transaction_id="t50", source_wallet_id="x", destination_wallet_id="y")
        assert "“t50” is in history already" in self.refusal()
        assert Attempt.objects.count() == 1 + 40  # the first chunk

    @pytest.mark.parametrize("side", ["source_wallet_id", "destination_wallet_id"])
    def test_wallet_with_a_later_transaction(self, side: str) -> None:
        late = self.made[90]
        wallets = {"source_wallet_id": "x", "destination_wallet_id": "y"} | {side: late[side]}
        score_live(transaction_id="live", created_at="2026-05-01T00:00:00Z", **wallets)
        detail = self.refusal()
        assert f"a later transaction of wallet “{late[side]}”" in detail
        assert "2026-05-01T00:00:00+00:00" in detail
        assert Attempt.objects.count() < 100

    def test_wallet_with_an_earlier_transaction_goes_on(self) -> None:
        wallet = self.made[0]["source_wallet_id"]
        score_live(source_wallet_id=wallet, created_at="2025-01-01T00:00:00Z")
        history_backfill(dataset="march", now=NOW)
        last = Attempt.objects.filter(source_wallet_id=wallet).order_by("source_time", "id").last()
        assert last is not None
        sent = sum(row["source_wallet_id"] == wallet for row in self.made)
        assert decode_events(bytes(last.source_event))[0, COUNT] == 1 + sent

    def test_transactions_that_are_yet_to_come(self) -> None:
        assert "--until" in self.refusal(now=START + timedelta(days=30))

    def test_period_without_transactions(self) -> None:
        assert "no transaction in that period" in self.refusal(until=START)

    def test_unknown_data_set(self) -> None:
        assert "no data set “april”" in self.refusal(dataset="april")

    def test_another_process_that_loads_it_too(self, monkeypatch: Any) -> None:
        def overtaken(rows: Any, **options: Any) -> None:
            Backfill.objects.update(next_row=F("next_row") + 1)
            append(rows, **options)

        append = scoring.backfill.append
        monkeypatch.setattr(scoring.backfill, "append", overtaken)
        assert "Another process" in self.refusal()
        assert not Attempt.objects.exists()


def test_what_was_loaded_can_fail_and_be_labelled_later(data_dir: Path, champion: Any) -> None:
    made = [row | {"status": "SUCCESS", "is_fraud": False} for row in rows(20)]
    make(data_dir, "march", made)
    early = LabelReport(transaction_id="t3", label="fraud", known_at=NOW)
    labels_record([early], stated_by="test", now=NOW)
    assert not ConfirmedFraud.objects.exists()
    history_backfill(dataset="march", now=NOW)
    told = ConfirmedFraud.objects.values_list("attempt__transaction_id", flat=True)
    assert list(told) == ["t3", "t3"]
    late = LabelReport(transaction_id="t5", label="fraud", known_at=NOW)
    assert labels_record([late], stated_by="test", now=NOW).unknown == []
    ended = {"transaction_id": "t5", "status": "FAILED", "occurred_at": "2026-01-01T00:00:00Z"}
    assert outcomes_record(json.dumps(ended).encode(), NOW).recorded == 1
    with pytest.raises(TransactionConflict, match="not decided here"):
        score_live(transaction_id="t5")


def test_label_that_was_received_before_the_load_counts(
    data_dir: Path, transactional_db: None
) -> None:
    make(data_dir, "march", [row | {"is_fraud": True, "label_known_at": ""} for row in rows(20)])
    stated = LabelReport(transaction_id="t3", label="fraud", known_at=NOW - timedelta(days=1))
    corrected = LabelReport(transaction_id="t3", label="legitimate", known_at=NOW)
    for report in (stated, corrected):
        labels_record([report], stated_by="analyst", now=NOW)
    history_backfill(dataset="march", now=NOW)
    labels_record([stated], stated_by="analyst", now=NOW)  # sent again
    told = Label.objects.filter(transaction_id="t3").order_by("id")
    assert list(told.values_list("verdict", flat=True)) == ["fraud", "legitimate"]
    assert Label.objects.filter(source="backfill").count() == 19
    frauds = ConfirmedFraud.objects.values_list("attempt__transaction_id", flat=True)
    assert sorted(frauds) == sorted(2 * [f"t{at}" for at in range(20) if at != 3])


def test_labels_that_are_not_known_yet_are_left_out(data_dir: Path, transactional_db: None) -> None:
    made = [row | {"is_fraud": True, "label_known_at": ""} for row in rows(30)]
    late = (NOW + timedelta(days=1)).isoformat()
    made[3]["label_known_at"] = late
    make(data_dir, "march", made)
    last = datetime.fromisoformat(made[-1]["created_at"])
    assert history_backfill(dataset="march", now=last) == (30, 0, 29, 1)
    # Where it does not say when, at the latest it is known by now.
    assert max(label.known_at for label in Label.objects.all()) == last
    assert not Label.objects.filter(transaction_id="t3").exists()


def test_command_says_what_it_did(
    data_dir: Path, transactional_db: None, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(backfill, "CHUNK", 40)
    make(data_dir, "march", rows(100))
    call_command("backfill_history", "march")
    frauds = Label.objects.count()
    assert capsys.readouterr().out.splitlines() == [
        "loading",
        f"“march” is history: 100 transactions, {frauds} confirmed frauds among them.",
    ]
    call_command("backfill_history", "march")
    assert "0 transactions (100 were loaded before)" in capsys.readouterr().out
    with pytest.raises(CommandError, match="no data set"):
        call_command("backfill_history", "april")
