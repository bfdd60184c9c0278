"""The same transactions, sent to `/score` in order of time and scored as a file, get the same.

LIVE_ROWS=10000 in the environment makes it more than the few hundred that the suite can wait for.
"""

import os
from collections import Counter

import pyarrow.parquet as pq
import pytest
from django.core.management import call_command

from deployments import services
from engine.policy import OUTCOMES
from scoring.models import ScoreRecord
from tests.scoring.conftest import Api
from tests.training import live_traffic

ROWS = int(os.environ.get("LIVE_ROWS", "400"))
SCORES = ("risk_score", "rule_score", "supervised_score", "unsupervised_score")


@pytest.fixture
def caller(registry: None) -> Api:
    """A caller of a server whose champion reads every part of a transaction."""
    live_traffic.register_champion()
    _, key = services.api_key_create(name="test", scopes=["score"], created_by="test")
    return Api(key)


def send(caller, sent):
    """Each transaction, and then how it ended if it failed."""
    for facts in sent:
        answer = caller.score(live_traffic.body(facts))
        assert answer.status_code == 200, answer.content
        if facts["status"] in ("FAILED", "CANCELED"):
            outcome = {
                "transaction_id": facts["transaction_id"],
                "status": facts["status"],
                "occurred_at": facts["created_at"],
            }
            assert caller.outcomes(outcome).status_code == 200


def test_live_equals_offline(caller, tmp_path):
    sent = live_traffic.traffic(ROWS, seed=9)
    send(caller, sent)
    path = live_traffic.write_csv(tmp_path / "sent.csv", sent, labels=False)
    mapping, out = tmp_path / "traffic.toml", tmp_path / "scores.parquet"
    mapping.write_text(live_traffic.MAPPING)
    call_command("score", str(path), "--mapping", str(mapping), "--out", str(out), "--features")
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
    assert_worth_comparing(records)


def assert_worth_comparing(records):
    """Every decision, and everything that depends on what came before, occurs."""
    decisions = Counter(record.decision for record in records)
    fired = Counter(rule for record in records for rule in record.rules_fired)
    assert all(decisions[outcome] > 10 for outcome in OUTCOMES), decisions
    assert {"R2", "R8", "R11", "R12", "R15"} <= set(fired), fired
    for name in ("src_failed_count_24h", "dst_unique_sources_30d", "blocked_tx_last_24h"):
        assert sum(record.features[name] > 0 for record in records) > 10, name
