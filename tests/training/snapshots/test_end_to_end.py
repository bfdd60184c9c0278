"""Traffic through `/score`, labelled, as a data set that a run trains on."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from django.conf import settings
from django.core.management import call_command

from engine.features.catalogue import CATALOGUE, DAY
from engine.policy import PiecewiseLinear, Policy
from scoring.models import ScoreRecord
from tests.training import live_traffic
from tests.training.pipeline_support import write_spec
from tests.training.snapshots.recorded import caller, rewrite, send
from tests.training.support import make_run
from training.models import Dataset, RunState, TrainingRun
from training.pipeline.features import Features
from training.pipeline.table import read_transactions
from training.report_file import report_html

ROWS = 1_800
DELAY = 2 * DAY
# Blocks some of the traffic, and not most of it.
POLICY = Policy(
    review=0.75, block=0.92, calibration=PiecewiseLinear((0.0, 0.4, 1.0), (0.0, 0.5, 1.0))
)
LAST = datetime(2025, 2, 10, tzinfo=UTC)
SENT = {
    "features": {
        "historical": {"src_tx_count_out_7d": 4_321, "avg_amount_30d": 12.5},
        "transactional": {"hour_of_day": 13, "amount_to_src_max_30d": 0.25},
    }
}
PLANTED = "dst_unique_sources_30d"


def labelled_traffic() -> list[dict[str, Any]]:
    """Traffic of which the frauds, and nothing else, are labelled, late or not; of some
    transactions, features are sent."""
    sent = live_traffic.traffic(ROWS, seed=9)
    for row, facts in enumerate(sent):
        if facts["is_fraud"]:
            facts["label"] = "fraud"
        if row % 60 == 7:
            facts["sent"] = SENT
    return sent


def data_of(dataset: Dataset) -> Path:
    return Path(settings.DATA_DIR) / dataset.location / "data.parquet"


def train(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """The report of the training program, a process of its own."""
    run = write_spec(
        folder,
        data_of(dataset),
        options={"label_delay_us": DELAY},
        dataset_fingerprint=dataset.fingerprint,
    )
    command = [sys.executable, "-m", "training.pipeline.job", str(run)]
    subprocess.run(command, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}, check=False)
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return report


def plant(transaction_id: str, feature: str, value: float) -> None:
    """Let a record say that a feature had another value when its decision was made."""
    record = ScoreRecord.objects.get(attempt__transaction_id=transaction_id)
    features = json.dumps(record.features | {feature: value})
    rewrite(
        "UPDATE scoring_scorerecord SET features = %s WHERE attempt_id = %s", [features, record.pk]
    )


def test_a_run_trains_on_what_was_recorded(tmp_path):
    """What was recorded can be computed again, but for what the caller sent and what was changed;
    both are reported, and used as they are. What was blocked and not labelled is in no figure."""
    sent = labelled_traffic()
    send(caller(policy=POLICY, label_delay=DELAY), sent)
    plant("tx-900", PLANTED, 777.0)
    call_command(
        "snapshot_dataset", "recorded", "--from", "2025-01-01", "--as-of", LAST.isoformat(),
        "--label-delay", "2d",
    )  # fmt: skip
    dataset = Dataset.objects.get(name="recorded")
    report = train(tmp_path / "run", dataset)
    assert report["status"] == "succeeded", report

    check_nobody_was_taken_for_legitimate(report, dataset, tmp_path / "run", sent)
    check_the_disagreements(report["recorded"])
    check_what_models_are_given(dataset)
    check_the_page(report)


def check_nobody_was_taken_for_legitimate(report, dataset, run, sent):
    rows = pq.read_table(data_of(dataset)).to_pylist()
    blocked = {
        record.attempt.transaction_id
        for record in ScoreRecord.objects.filter(decision="BLOCK").select_related("attempt")
    }
    failed = {row["transaction_id"] for row in rows if row["status"] in ("FAILED", "CANCELED")}
    unknown = {row["transaction_id"] for row in rows if row["is_fraud"] is None}
    told = {facts["transaction_id"] for facts in sent if "label" in facts}
    assert len(blocked - told) > 50
    assert (blocked | failed) - told <= unknown
    judged = pq.read_table(run / "predictions.parquet").to_pylist()
    assert judged
    assert not {row["transaction_id"] for row in judged} & unknown
    counts = report["data"]["labels"]
    assert counts["not_made"] >= len(failed - blocked - told) > 10
    kinds = ("blocked_unlabelled", "not_made", "too_recent")
    assert sum(counts[kind] for kind in kinds) == len(unknown)
    assert counts["too_recent"] > 10
    known = counts["labelled_fraud"] + counts["taken_as_legitimate"]
    assert known == report["data"]["rows"] == len(rows) - len(unknown)
    assert report["metrics"]["rows"] == len(judged) == report["data"]["parts"]["test"]["rows"]


def check_the_disagreements(recorded):
    assert recorded["compared_rows"] == recorded["decided_rows"] > 1_700
    found = {each["name"]: each for each in recorded["features"]}
    # What only rules read is compared where it was sent: no version vouches for its definition.
    of_models = {feature.name for feature in CATALOGUE if feature.model_input}
    assert set(found) == of_models | {"avg_amount_30d"}
    differing = {name: each["causes"] for name, each in found.items() if each["differ"]}
    sent = sum(row % 60 == 7 for row in range(recorded["compared_rows"]))
    assert differing == {
        "src_tx_count_out_7d": {"sent": sent},
        "avg_amount_30d": {"sent": sent},
        PLANTED: {"none": 1},
    }
    assert found[PLANTED]["largest"] > 700
    assert found["dst_fraud_count_30d"]["compared"] == recorded["compared_rows"]


def check_what_models_are_given(dataset):
    """Exactly what the model was given then, sent or computed."""
    data = read_transactions(str(data_of(dataset)))
    features = Features(data, live_traffic.SCHEMA, DELAY, labels_after=DELAY)
    matrix = features.matrix(np.arange(len(data)))
    records = {
        record.attempt.transaction_id: record.features
        for record in ScoreRecord.objects.select_related("attempt")
    }
    names = [name for name in features.schema.names if not name.startswith("attribute_")]
    for row, transaction_id in enumerate(data.transaction_id.to_pylist()):
        kept = records[transaction_id]
        for name in names:
            if name in kept:  # categories only when they were sent
                value = np.nan if kept[name] is None else kept[name]
                at = features.schema.positions[name]
                assert matrix[row, at] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    assert matrix[:, features.schema.positions[PLANTED]].max() == 777.0


def check_the_page(report):
    """What the report says, for people: on the page and on the terminal."""
    run = make_run("1.1.0")
    TrainingRun.objects.filter(pk=run.pk).update(
        state=RunState.SUCCEEDED, report=report, started_at=run.created_at, finished_at=LAST
    )
    run.refresh_from_db()
    page = " ".join(report_html(run).split())
    recent = report["data"]["labels"]["too_recent"]
    assert f"too recent to be labelled: not used</th><td>{recent}<" in page
    not_made = report["data"]["labels"]["not_made"]
    assert f"failed or cancelled and not labelled: not used</th><td>{not_made}<" in page
    assert "Differences that nothing known explains: 1." in page
    out = StringIO()
    call_command("report", "1.1.0", stdout=out)
    (line,) = (line for line in out.getvalue().splitlines() if line.startswith(PLANTED))
    assert line.endswith("not explained 1")
