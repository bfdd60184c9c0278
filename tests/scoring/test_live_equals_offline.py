"""The same transactions, sent to `/score` in order of time and scored as a file, get the same.

LIVE_ROWS=10000 in the environment makes it more than the few hundred that the suite can wait for.
"""

import os
from collections import Counter
from datetime import datetime

import pyarrow.parquet as pq
import pytest
from django.core.management import call_command

from deployments import services
from engine.features.catalogue import DAY
from engine.policy import OUTCOMES
from scoring.models import ScoreRecord
from tests.scoring.conftest import Api
from tests.training import live_traffic

ROWS = int(os.environ.get("LIVE_ROWS", "400"))
SCORES = ("risk_score", "rule_score", "supervised_score", "unsupervised_score")


def caller(**changes) -> Api:
    """A caller of a server whose champion reads every part of a transaction."""
    live_traffic.register_champion(**changes)
    scopes = ["score", "labels"]
    _, key = services.api_key_create(name="test", scopes=scopes, created_by="test")
    return Api(key)


def send(caller, sent, *, labels):
    """Each transaction, and then how it ended if it failed; before it, the labels that became known
    since the one before."""
    to_tell = sorted(sent, key=known_at) if labels else []
    for facts in sent:
        created_at = datetime.fromisoformat(facts["created_at"])
        while to_tell and known_at(to_tell[0]) < created_at:
            tell(caller, to_tell.pop(0))
        answer = caller.score(live_traffic.body(facts))
        assert answer.status_code == 200, answer.content
        if facts["status"] in ("FAILED", "CANCELED"):
            outcome = {
                "transaction_id": facts["transaction_id"],
                "status": facts["status"],
                "occurred_at": facts["created_at"],
            }
            assert caller.outcomes(outcome).status_code == 200


def known_at(facts):
    return datetime.fromisoformat(facts["label_known_at"])


def tell(caller, facts):
    label = {
        "transaction_id": facts["transaction_id"],
        "label": "fraud" if facts["is_fraud"] else "legitimate",
        "known_at": facts["label_known_at"],
    }
    assert caller.labels(label).status_code == 200


def test_live_equals_offline(registry, tmp_path):
    sent = live_traffic.traffic(ROWS, seed=9)
    send(caller(), sent, labels=False)
    records = assert_scored_the_same(tmp_path, sent)
    assert_worth_comparing(records)


def test_live_equals_offline_with_labels_and_another_label_delay(registry, tmp_path):
    """Labels that become known before the delay has passed, and after."""
    sent = live_traffic.traffic(ROWS, seed=9)
    send(caller(label_delay=2 * DAY), sent, labels=True)
    records = assert_scored_the_same(tmp_path, sent, "--labels")
    for name in ("src_fraud_count_30d", "dst_fraud_count_7d", "dst_fraud_count_30d"):
        assert sum(record.features[name] > 0 for record in records) > 10, name


def assert_scored_the_same(tmp_path, sent, *options):
    """What was sent, scored as a file, got the same; returns the records of what was sent."""
    path = live_traffic.write_csv(tmp_path / "sent.csv", sent, labels=bool(options))
    mapping, out = tmp_path / "traffic.toml", tmp_path / "scores.parquet"
    mapping.write_text(live_traffic.MAPPING)
    call_command(
        "score", str(path), "--mapping", str(mapping), "--out", str(out), "--features", *options
    )
    offline = {row["transaction_id"]: row for row in pq.read_table(out).to_pylist()}
    records = list(ScoreRecord.objects.select_related("attempt"))
    assert len(records) == len(offline) == ROWS
    for record in records:
        row = offline[record.attempt.transaction_id]
        assert row["decision"] == record.decision
        assert row["reasons"] == record.reasons
        assert row["rules_fired"] == record.rules_fired
        for name in SCORES:
            assert row[name] == pytest.approx(getattr(record, name), abs=1e-6), name
        for name, value in record.features.items():
            exact = isinstance(value, (str, list, type(None)))
            assert row[name] == (value if exact else pytest.approx(value, abs=1e-6)), name
    return records


def assert_worth_comparing(records):
    """Every decision, and everything that depends on what came before, occurs."""
    decisions = Counter(record.decision for record in records)
    fired = Counter(rule for record in records for rule in record.rules_fired)
    assert all(decisions[outcome] > 10 for outcome in OUTCOMES), decisions
    assert {"R2", "R8", "R11", "R12", "R15"} <= set(fired), fired
    for name in ("src_failed_count_24h", "dst_unique_sources_30d", "blocked_tx_last_24h"):
        assert sum(record.features[name] > 0 for record in records) > 10, name
