"""`manage.py snapshot_dataset`: what it makes, what it refuses, and what it leaves behind."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from engine.features.catalogue import CATALOGUE, DAY, FEATURE_INDEX
from scoring.models import ScoreRecord
from tests.scoring.requests import request
from tests.training import live_traffic
from tests.training.snapshots.recorded import caller, came_when_it_says, send
from training.models import Dataset
from training.pipeline.disagreement import compare
from training.pipeline.features import Features
from training.pipeline.table import read_transactions

NOW = datetime(2026, 1, 31, tzinfo=UTC)
FROM_LABELS = {feature.name for feature in CATALOGUE if feature.group == "confirmed fraud"}


def snapshot(name="recorded", **options) -> Dataset | None:
    begin = {} if "days" in options else {"since": datetime(2026, 1, 1, tzinfo=UTC)}
    call_command("snapshot_dataset", name, **begin | options)
    return Dataset.objects.filter(name=name).first()


def rows_of(dataset: Dataset) -> dict[str, dict]:
    return {row["transaction_id"]: row for row in pq.read_table(dataset.file).to_pylist()}


@pytest.fixture
def api():
    return caller()


def left_behind() -> list[str]:
    folder = Path(settings.DATA_DIR)
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def test_a_transaction_keeps_everything_that_was_sent(api):
    body = request(transaction_id="t1", amount=12.34565, attributes={"score": 1.5, "vip": True})
    body["features"] = {"historical": {"tx_last_10min": 3}, "transactional": {}}
    assert api.score(body).status_code == 200
    outcome = {"transaction_id": "t1", "status": "FAILED", "occurred_at": "2026-01-23T12:01:00Z"}
    assert api.outcomes(outcome).status_code == 200
    row = rows_of(snapshot())["t1"]
    record = ScoreRecord.objects.get()
    assert row["amount"] == 123456
    assert row["created_at"] == datetime(2026, 1, 23, 12)
    assert (row["currency"], row["country"], row["city"]) == ("PYC", "FR", "Paris")
    assert (row["source_wallet_id"], row["destination_wallet_id"]) == ("alice", "bob")
    assert (row["source_balance"], row["account_age_minutes"]) == (1000.0, 525600.0)
    assert (row["user_status"], row["user_risk_level"]) == ("active", "low")
    assert (row["status"], row["direction"], row["initiator_user_id"]) == (
        "FAILED", "outgoing", "user_1",
    )  # fmt: skip
    assert (row["attribute_score"], row["attribute_vip"]) == (1.5, True)
    assert (row["decision"], row["scored_by"]) == (record.decision, "fraud v1.0.0")
    assert json.loads(row["features_sent"]) == {"tx_last_10min": 3.0}
    for name, value in record.features.items():
        if f"feature_{name}" in row:
            assert row[f"feature_{name}"] == value, name


def test_an_attribute_of_two_kinds_is_left_out(api, capsys):
    for number, value in enumerate((1.0, "high")):
        api.score(request(transaction_id=f"t{number}", attributes={"level": value, "ok": True}))
    dataset = snapshot()
    assert dataset.summary["traffic"]["attributes_left_out"] == ["level"]
    assert dataset.summary["attributes"] == {"ok": "boolean"}
    assert "Attributes sent as several kinds: level." in capsys.readouterr().out


def test_a_dry_run_counts_and_keeps_nothing(api, capsys):
    api.score(request())
    assert snapshot(dry_run=True) is None
    told = capsys.readouterr().out
    assert "1  taken as legitimate" in told
    assert "fingerprint" not in told
    assert left_behind() == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"since": datetime(2026, 3, 1, tzinfo=UTC), "until": NOW}, "The period is empty"),
        ({"as_of": timezone.now() + timedelta(days=1)}, "which is yet to come"),
        ({"as_of": datetime(2026, 1, 20, tzinfo=UTC)}, "No transaction from 2026-01-01 00:00"),
        ({"model": "other"}, "was decided on by “other”"),
        ({"days": 0}, "at least 1 day"),
    ],
    ids=("empty", "future", "before the first", "another model", "no days"),
)
def test_refusals_leave_nothing(api, options, says):
    api.score(request())
    with pytest.raises(CommandError, match=says):
        snapshot(**options)
    assert not Dataset.objects.exists()
    assert [name for name in left_behind() if not name.startswith(".")] == []


def test_a_name_is_taken_once(api):
    api.score(request())
    snapshot()
    kept = left_behind()
    with pytest.raises(CommandError, match="already a data set “recorded”"):
        snapshot()
    assert left_behind() == kept


def test_loaded_history_is_history(tmp_path):
    """Transactions that were loaded count in the features of those that were scored, and are
    neither learnt from nor judged by."""
    api = caller()
    sent = live_traffic.traffic(300, seed=4)
    before, after = sent[:200], sent[200:]
    mapping = tmp_path / "traffic.toml"
    mapping.write_text(live_traffic.MAPPING)
    path = live_traffic.write_csv(tmp_path / "before.csv", before)
    call_command("import_dataset", "before", str(path), mapping=mapping)
    call_command("backfill_history", "before")
    send(api, after)
    dataset = snapshot(
        since=datetime(2025, 1, 1, tzinfo=UTC), as_of=datetime(2025, 3, 1, tzinfo=UTC)
    )
    rows = rows_of(dataset)
    assert {rows[each["transaction_id"]]["label_from"] for each in before} == {"history"}
    assert "history" not in {rows[each["transaction_id"]]["label_from"] for each in after}
    assert rows["tx-7"]["amount"] == round(sent[7]["amount"] * 10_000)
    assert rows["tx-7"]["country"] == sent[7]["country"]

    data = read_transactions(dataset.file)
    delay = 7 * DAY
    features = Features(data, live_traffic.SCHEMA, delay, labels_after=delay)
    found = compare(data, features, delay)
    assert (found["decided_rows"], found["history_rows"]) == (100, 200)
    differing = {each["name"]: each["causes"] for each in found["features"] if each["differ"]}
    # Labels of loaded transactions became known when they were loaded, long after all of this.
    assert set(differing) <= FROM_LABELS
    assert all(set(causes) == {"loaded history"} for causes in differing.values())


def test_a_late_transaction_explains_a_difference():
    """One that was accepted after a later one of its wallet stands elsewhere than it was scored."""
    api = caller()
    for name, hour in (("t1", 9), ("t2", 12), ("late", 10)):
        at = f"2026-01-23T{hour:02}:00:00Z"
        assert api.score(request(transaction_id=name, created_at=at)).status_code == 200
    data = read_transactions(snapshot().file)
    delay = 7 * DAY
    features = Features(data, live_traffic.SCHEMA, delay, labels_after=delay)
    found = compare(data, features, delay)
    causes = {cause for each in found["features"] for cause in each["causes"]}
    assert causes == {"out of order"}


def test_values_of_other_definitions_are_computed_again(monkeypatch):
    """A version whose fingerprint is of other definitions, and the other label delay."""
    api = caller(label_delay=DAY)
    for number in range(4):
        api.score(request(transaction_id=f"t{number}"))
    data = read_transactions(snapshot().file)
    recorded = data.recorded
    assert recorded is not None
    covered = recorded.comparable(DAY)[0]
    other_delay = recorded.comparable(7 * DAY)[0]
    assert covered.sum() - other_delay.sum() == len(FROM_LABELS)
    monkeypatch.setattr(recorded, "_definitions", {})
    assert not recorded.comparable(DAY).any()
    history = np.full((4, len(covered)), -5.0)
    recorded.overlay(np.arange(4), history, DAY)
    assert (history == -5.0).all()


def test_in_a_bucket(api, bucket, settings):
    """What was recorded can be read when the copy on this machine is deleted."""
    settings.DATA_DIR = f"gs://{bucket}/data"
    for number in range(3):
        body = request(transaction_id=f"t{number}", created_at=f"2026-01-0{number + 5}T12:00:00Z")
        assert api.score(body).status_code == 200
    dataset = snapshot()
    assert dataset.file.startswith("gs://")
    data = read_transactions(dataset.file)
    values = data.recorded.values(np.arange(3))
    counts = {
        record.attempt.transaction_id: record.features["src_tx_count_out_30d"]
        for record in ScoreRecord.objects.select_related("attempt")
    }
    found = values[:, FEATURE_INDEX["src_tx_count_out_30d"]].tolist()
    assert found == [counts[name] for name in data.transaction_id.to_pylist()] == [0, 1, 2]


def test_the_admin_tells_where_the_labels_come_from(api):
    api.score(request())
    came_when_it_says()
    dataset = snapshot(as_of=NOW)
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    page = client.get(f"/admin/training/dataset/{dataset.pk}/change/").content.decode()
    assert "as known at 2026-01-31 00:00 UTC" in page
    assert "1 taken as legitimate" in page
