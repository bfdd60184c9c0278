"""`manage.py score`."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.core.management import CommandError, call_command

from deployments.models import Alias
from engine.features.catalogue import FEATURE_INDEX
from engine.policy import Policy
from scoring.models import ScoreRecord
from tests import bundles
from tests.training import live_traffic
from training.pipeline import bulk, score_file

pytestmark = pytest.mark.django_db

COLUMNS = [
    "transaction_id",
    "created_at",
    "decision",
    "risk_score",
    "rule_score",
    "supervised_score",
    "unsupervised_score",
    "reasons",
    "rules_fired",
]
ROWS = 300


@pytest.fixture(scope="module")
def sent() -> list[dict[str, Any]]:
    return live_traffic.traffic(ROWS, seed=4)


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "traffic.toml"
    path.write_text(live_traffic.MAPPING)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "scores.parquet"


@pytest.fixture(autouse=True)
def champion(settings: Any, tmp_path: Path) -> None:
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    settings.DATA_DIR = str(tmp_path / "data")
    (tmp_path / "out").mkdir()
    live_traffic.register_champion()


def score(*arguments: Any) -> None:
    call_command("score", *map(str, arguments))


def shuffled(path: Path, sent: list[dict[str, Any]]) -> Path:
    """The transactions, not in order of time and without labels."""
    return live_traffic.write_csv(path, sent[::2] + sent[1::2], labels=False)


def test_scores_a_file_without_labels_in_order_of_time(sent, mapping, out, tmp_path, capsys):
    score(shuffled(tmp_path / "in.csv", sent), "--mapping", mapping, "--out", out)
    table = pq.read_table(out)
    assert table.column_names == COLUMNS
    assert len(table) == ROWS
    times = table["created_at"].to_pylist()
    assert times == sorted(times)
    assert str(times[0].tzinfo) == "UTC"
    rows = table.to_pylist()
    blocked = [row for row in rows if row["supervised_score"] is None]
    assert 5 < len(blocked) < 200
    for row in blocked:
        assert (row["decision"], row["risk_score"], row["rule_score"]) == ("BLOCK", 1.0, 1.0)
        assert row["unsupervised_score"] is None
        assert row["reasons"]
    for row in rows:
        for name in ("risk_score", "rule_score", "supervised_score", "unsupervised_score"):
            assert row[name] is None or (0 <= row[name] <= 1 and row[name] == round(row[name], 6))
    facts = json.loads(table.schema.metadata[score_file.FACTS_KEY])
    assert facts["model_version"] == "v1.0.0"
    said = capsys.readouterr().out
    assert "300 transactions scored by fraud v1.0.0 with rules “default”" in said
    for decision, count in Counter(row["decision"] for row in rows).items():
        assert f"  {decision:<8}{count:>12,}" in said
    ((reason, count),) = Counter(each for row in rows for each in row["reasons"]).most_common(1)
    assert f"{count:>12,}  {reason}" in said
    assert not ScoreRecord.objects.exists()
    assert [path.name for path in out.parent.iterdir()] == ["scores.parquet"]


def test_features_are_those_of_a_record(sent, mapping, out, tmp_path):
    path = shuffled(tmp_path / "in.csv", sent)
    score(path, "--mapping", mapping, "--out", out, "--features")
    table = pq.read_table(out)
    added = set(table.column_names) - set(COLUMNS)
    assert set(FEATURE_INDEX) < added
    assert {"log_amount", "amount_to_src_mean_30d", "user_country_history"} < added
    assert {"attribute_channel", "attribute_is_vpn", "attribute_device_age_days"} < added
    last = next(
        row for row in table.to_pylist() if row["transaction_id"] == sent[-1]["transaction_id"]
    )
    assert last["amount"] == sent[-1]["amount"]
    assert last["attribute_channel"] == sent[-1]["channel"]
    assert sum(table["blocked_tx_last_24h"].to_pylist()) > 0
    assert sum(table["dst_fraud_count_30d"].to_pylist()) == 0
    assert table["source_balance"].null_count > 0


def test_labels_count_only_when_asked(sent, mapping, out, tmp_path):
    path = live_traffic.write_csv(tmp_path / "in.csv", sent)
    score(path, "--mapping", mapping, "--out", out, "--features")
    without = pq.read_table(out)
    assert sum(without["dst_fraud_count_30d"].to_pylist()) == 0
    score(path, "--mapping", mapping, "--out", out, "--features", "--labels", "--force")
    assert sum(pq.read_table(out)["dst_fraud_count_30d"].to_pylist()) > 0
    bare = shuffled(tmp_path / "bare.csv", sent)
    with pytest.raises(CommandError, match="columns missing: is_fraud"):
        score(bare, "--mapping", mapping, "--out", out, "--labels", "--force")


def test_labels_take_as_long_as_the_mapping_says(sent, out, tmp_path):
    def counted(*arguments: Any) -> int:
        score(*arguments, "--out", out, "--features", "--labels", "--force")
        return sum(pq.read_table(out)["dst_fraud_count_30d"].to_pylist())

    path = live_traffic.write_csv(tmp_path / "in.csv", sent)
    silent = live_traffic.MAPPING.replace('label_known_at = { column = "label_known_at" }\n', "")
    found = []
    for number, text in enumerate(
        (silent, f'label_delay = "0d"\n{silent}', f'label_delay = "20d"\n{silent}')
    ):
        mapping = tmp_path / f"{number}.toml"
        mapping.write_text(f'ignored = ["label_known_at"]\n{text}')
        found.append(counted(path, "--mapping", mapping))
        call_command("import_dataset", f"set-{number}", str(path), "--mapping", str(mapping))
        assert counted("--dataset", f"set-{number}") == found[-1]
    as_trained, at_once, late = found
    # The version's windows end 7 days before the row: what is known earlier changes nothing.
    assert at_once == as_trained > late > 0


def test_a_data_set_is_scored_by_its_name(sent, mapping, out, tmp_path):
    path = live_traffic.write_csv(tmp_path / "in.csv", sent)
    call_command("import_dataset", "past", str(path), "--mapping", str(mapping))
    score("--dataset", "past", "--out", out)
    by_name = pq.read_table(out)
    score(path, "--mapping", mapping, "--out", out, "--force")
    assert pq.read_table(out).equals(by_name)
    with pytest.raises(CommandError, match="There is no data set “future”"):
        score("--dataset", "future", "--out", out, "--force")


def test_another_version_and_other_rules_are_named(sent, mapping, out, tmp_path):
    path = shuffled(tmp_path / "in.csv", sent)
    bundles.register("0.9.0", deployable=False)
    score(path, "--mapping", mapping, "--out", out, "--version", "v0.9.0", "--rules", "none")
    table = pq.read_table(out)
    assert table["supervised_score"].null_count == 0
    assert set(map(tuple, table["rules_fired"].to_pylist())) == {()}
    for option, message in (
        ("--version", "v7.0.0 is not registered"),
        ("--rules", "no rule set “7.0.0”"),
    ):
        with pytest.raises(CommandError, match=message):
            score(path, "--mapping", mapping, "--out", out, "--force", option, "7.0.0")
    assert pq.read_table(out).equals(table)


def test_bad_rows_stop_it_or_are_left_out(sent, mapping, out, tmp_path, capsys):
    path = live_traffic.write_csv(tmp_path / "in.csv", [{**sent[0], "amount": "x"}, *sent[1:]])
    with pytest.raises(CommandError, match="amount: not a finite number"):
        score(path, "--mapping", mapping, "--out", out)
    assert not list(out.parent.iterdir())
    score(path, "--mapping", mapping, "--out", out, "--on-bad-rows", "skip")
    assert len(pq.read_table(out)) == ROWS - 1
    rejects = out.with_name("scores.parquet.rejects.csv")
    assert f"1 rows were left out: {rejects}" in capsys.readouterr().out
    with rejects.open(encoding="utf-8") as file:
        assert [row["line"] for row in csv.DictReader(file)] == ["2"]


def test_nothing_is_written_over_and_nothing_half(sent, mapping, out, tmp_path, monkeypatch):
    path = shuffled(tmp_path / "in.csv", sent)
    out.write_text("mine")
    with pytest.raises(CommandError, match="exists already"):
        score(path, "--mapping", mapping, "--out", out)
    with pytest.raises(CommandError, match="is one of the files to score"):
        score(path, "--mapping", mapping, "--out", path, "--force")
    with pytest.raises(CommandError, match="There is no folder"):
        score(path, "--mapping", mapping, "--out", tmp_path / "none" / "scores.parquet")
    monkeypatch.setattr(bulk, "CHUNK", 100)
    original = score_file._Writer.write
    written = []

    def full(self: Any, columns: Any) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(1)
        original(self, columns)

    monkeypatch.setattr(score_file._Writer, "write", full)
    with pytest.raises(CommandError, match="nothing was written: No space left on device"):
        score(path, "--mapping", mapping, "--out", out, "--force")
    assert out.read_text() == "mine"
    assert [each.name for each in out.parent.iterdir()] == ["scores.parquet"]


def test_what_is_missing_is_said(sent, mapping, out, tmp_path, capsys):
    names = [name for name in live_traffic.COLUMNS if name != "status"]
    path = tmp_path / "bare.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(sent)
    score(path, "--out", out)
    said = capsys.readouterr().out
    assert "what no row has, and takes it as unknown: channel, device_age_days, is_vpn." in said
    share = sum(row["transaction_type"] == "CASH_OUT" for row in sent) / ROWS
    assert f"In {share:.1%} of the rows, transaction_type is a value that the version" in said
    facts = json.loads(pq.read_table(out).schema.metadata[score_file.FACTS_KEY])
    assert facts["absent"] == ["channel", "device_age_days", "is_vpn"]
    assert facts["unseen"]["transaction_type"] == share
    with pytest.raises(CommandError, match="Give FILE, or --dataset"):
        score("--out", out)


def test_absent_balances_and_unseen_categories_are_told(sent, mapping, out, tmp_path, capsys):
    rows = [{**row, "source_balance": None, "channel": "fax"} for row in sent]
    score(shuffled(tmp_path / "in.csv", rows), "--mapping", mapping, "--out", out)
    said = capsys.readouterr().out
    assert "takes it as unknown: source_balance." in said
    assert "In 100.0% of the rows, channel is a value" in said


@pytest.mark.parametrize(
    "option",
    [("--mapping", "m.toml"), ("--preset", "canonical"), ("--start", "2026-01-01"),
     ("--on-bad-rows", "stop")],
)  # fmt: skip
def test_how_a_file_is_read_is_refused_for_a_data_set(out, option):
    with pytest.raises(CommandError, match=f"{option[0]}: an imported data set is read as it was"):
        score("--dataset", "past", "--out", out, *option)


def test_the_list_of_an_earlier_file_goes_with_it(sent, mapping, out, tmp_path):
    path = live_traffic.write_csv(tmp_path / "in.csv", [{**sent[0], "amount": "x"}, *sent[1:]])
    score(path, "--mapping", mapping, "--out", out, "--on-bad-rows", "skip")
    live_traffic.write_csv(path, sent)
    score(path, "--mapping", mapping, "--out", out, "--force")
    assert [each.name for each in out.parent.iterdir()] == ["scores.parquet"]


def test_without_a_champion_a_version_must_be_named(sent, mapping, out, tmp_path):
    path = shuffled(tmp_path / "in.csv", sent)
    Alias.objects.all().delete()
    with pytest.raises(CommandError, match="name one with --version"):
        score(path, "--mapping", mapping, "--out", out)
    score(path, "--mapping", mapping, "--out", out, "--version", "1.0.0")


def test_what_someone_else_wrote_meanwhile_stays(sent, mapping, out, tmp_path, monkeypatch):
    original = score_file._Writer.write

    def write(self: Any, columns: Any) -> None:
        out.write_text("theirs")
        original(self, columns)

    monkeypatch.setattr(score_file._Writer, "write", write)
    with pytest.raises(CommandError, match="exists already"):
        score(shuffled(tmp_path / "in.csv", sent), "--mapping", mapping, "--out", out)
    assert out.read_text() == "theirs"


def test_a_rule_blocks_where_no_risk_does(sent, mapping, out, tmp_path):
    live_traffic.register_champion("1.1.0", policy=Policy(2.0, 2.0))
    score(shuffled(tmp_path / "in.csv", sent), "--mapping", mapping, "--out", out)
    rows = pq.read_table(out).to_pylist()
    assert {row["decision"] for row in rows} == {"APPROVE", "BLOCK"}
    for row in rows:
        assert (row["decision"] == "BLOCK") == (row["supervised_score"] is None)
