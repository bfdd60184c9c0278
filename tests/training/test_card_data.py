"""Somebody else's card data: a mapping of a dozen lines is enough to import, train and score."""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from django.core.management import call_command

from deployments.services import promote
from tests.bundles import seed_registry
from training.execution import run_execute
from training.models import Dataset, RunState, TrainingRun

MAPPING = Path(__file__).parent / "data" / "card.toml"
HEADER = ("trans_num", "trans_date_trans_time", "cc_num", "merchant", "category", "amt", "is_fraud")
START = datetime(2026, 1, 1, tzinfo=UTC)
CATEGORIES = ("grocery_pos", "gas_transport", "shopping_net")

pytestmark = pytest.mark.django_db(transaction=True)


def write_cards(path: Path, rows: int = 6_000, days: int = 60, seed: int = 3) -> None:
    """Payments by card; a fraud is mostly large, at night and on the net."""
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.integers(0, days * 86_400, rows))
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(HEADER)
        for row, second in enumerate(seconds.tolist()):
            fraud = rng.random() < 0.02
            if fraud:
                second += (27 - second // 3_600 % 24) % 24 * 3_600
            moment = START + timedelta(seconds=second)
            card, merchant = rng.integers(0, 60), rng.integers(0, 40)
            amount = rng.lognormal(3, 0.6) * (4 if fraud else 1)
            category = CATEGORIES[2] if fraud and rng.random() < 0.8 else rng.choice(CATEGORIES)
            values = (
                f"t{row}",
                f"{moment:%Y-%m-%d %H:%M:%S}",
                4_000_000 + card,
                f"shop {merchant}",
            )
            out.writerow((*values, category, f"{amount:.2f}", int(fraud)))


@pytest.fixture
def cards(tmp_path: Path, settings: Any) -> Path:
    for name in ("ARTIFACTS_DIR", "DATA_DIR", "RUNS_DIR"):
        setattr(settings, name, str(tmp_path / name.lower()))
    seed_registry()
    path = tmp_path / "cards.csv"
    write_cards(path)
    return path


def test_a_short_mapping_is_enough_to_import_train_and_score(cards: Path, tmp_path: Path) -> None:
    assert len(MAPPING.read_text().splitlines()) <= 30
    call_command("import_dataset", "cards", str(cards), "--mapping", str(MAPPING))
    call_command("train", "--dataset", "cards", "--version", "1.0.0", "--rules", "none")
    run = TrainingRun.objects.get()
    run_execute(str(run.pk), worker="test")
    run.refresh_from_db()
    assert run.state == RunState.SUCCEEDED, run.error
    assert run.report["data"]["label_delay"] == "7d", "the mapping's"
    assert run.report["metrics"]["supervised"]["pr_auc"] > 10 * run.report["metrics"]["fraud_rate"]

    promote(model=run.model, version="1.0.0", actor="test", reason="the first")
    out = tmp_path / "scores.parquet"
    call_command("score", str(cards), "--mapping", str(MAPPING), "--out", str(out))
    scored = pq.read_table(out, columns=["transaction_id", "risk_score"]).to_pydict()
    with cards.open() as file:
        fraud = {row["trans_num"]: row["is_fraud"] == "1" for row in csv.DictReader(file)}
    assert sorted(scored["transaction_id"]) == sorted(fraud)
    riskiest = sorted(zip(scored["risk_score"], scored["transaction_id"], strict=True))[-60:]
    assert sum(fraud[name] for _, name in riskiest) > 45


def test_inspection_proposes_the_same_data_set_but_for_the_currency(
    cards: Path, tmp_path: Path, settings: Any
) -> None:
    proposal = tmp_path / "proposed.toml"
    call_command("inspect_dataset", str(cards), "--out", str(proposal))
    call_command("import_dataset", "proposed", str(cards), "--mapping", str(proposal))
    call_command("import_dataset", "written", str(cards), "--mapping", str(MAPPING))
    proposed, written = (
        pq.read_table(
            Path(settings.DATA_DIR) / Dataset.objects.get(name=name).location / "data.parquet"
        )
        for name in ("proposed", "written")
    )
    assert set(proposed["currency"].to_pylist()) == {"XXX"}
    assert proposed.drop(["currency"]).equals(written.drop(["currency"]))
    assert Dataset.objects.get(name="proposed").summary["label_delay"] == "7d"
