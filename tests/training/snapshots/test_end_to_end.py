"""Traffic through `/score`, labelled, as a data set that a run trains on."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from django.conf import settings
from django.core.management import call_command

from engine.policy import PiecewiseLinear, Policy
from scoring.models import ScoreRecord
from tests.training import live_traffic
from tests.training.pipeline_support import write_spec
from tests.training.snapshots.recorded import caller, send
from training.models import Dataset
from training.pipeline.durations import parse_duration

ROWS = 1_800
# Blocks some of the traffic, and not most of it.
POLICY = Policy(
    review=0.75, block=0.92, calibration=PiecewiseLinear((0.0, 0.4, 1.0), (0.0, 0.5, 1.0))
)
LAST = datetime(2025, 2, 10, tzinfo=UTC)


def labelled_traffic() -> list[dict[str, Any]]:
    """Traffic of which the frauds, and nothing else, are labelled, late or not."""
    sent = live_traffic.traffic(ROWS, seed=9)
    for facts in sent:
        facts["country"] = facts["country"] if facts["country"] != "KP" else "FR"
        if facts["is_fraud"]:
            facts["label"] = "fraud"
    return sent


def data_of(dataset: Dataset) -> Path:
    return Path(settings.DATA_DIR) / dataset.location / "data.parquet"


def train(folder: Path, dataset: Dataset, **options: Any) -> dict[str, Any]:
    """The report of the training program, a process of its own."""
    options = {"label_delay_us": parse_duration(dataset.summary["label_delay"])} | options
    changes = {"dataset_fingerprint": dataset.fingerprint}
    run = write_spec(folder, data_of(dataset), options=options, **changes)
    command = [sys.executable, "-m", "training.pipeline.job", str(run)]
    subprocess.run(command, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}, check=False)
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return report


def test_a_run_trains_on_what_was_recorded(tmp_path):
    """What was blocked and not labelled is in no label and no figure, and the models learn."""
    sent = labelled_traffic()
    send(caller(policy=POLICY), sent)
    call_command(
        "snapshot_dataset", "recorded", "--from", "2025-01-01", "--as-of", LAST.isoformat(),
        "--label-delay", "2d",
    )  # fmt: skip
    dataset = Dataset.objects.get(name="recorded")
    report = train(tmp_path / "run", dataset)
    assert report["status"] == "succeeded", report

    rows = pq.read_table(data_of(dataset)).to_pylist()
    blocked = set(
        ScoreRecord.objects.filter(decision="BLOCK").values_list(
            "attempt__transaction_id", flat=True
        )
    )
    unknown = {row["transaction_id"] for row in rows if row["is_fraud"] is None}
    told = {facts["transaction_id"] for facts in sent if "label" in facts}
    assert len(blocked - told) > 50
    assert blocked - told <= unknown
    judged = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    assert judged
    assert not {row["transaction_id"] for row in judged} & unknown
    counts = report["data"]["labels"]
    assert counts["blocked_unlabelled"] + counts["too_recent"] == len(unknown)
    assert counts["too_recent"] > 10
    known = counts["labelled_fraud"] + counts["taken_as_legitimate"]
    assert known == report["data"]["rows"] == len(rows) - len(unknown)
    assert report["metrics"]["rows"] == len(judged) == report["data"]["parts"]["test"]["rows"]
