"""The simulator, seen through the files that it writes."""

import csv
import gzip
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from django.core.management import CommandError, call_command

from engine.errors import InvalidDataset
from training.pipeline.simulate import simulate
from training.pipeline.simulate_people import COUNTRIES

ROWS = 30_000


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A connection with the simulated rows as `t`."""
    path = tmp_path_factory.mktemp("simulated") / "data.parquet"
    simulate(path, ROWS, seed=5)
    connection = duckdb.connect()
    connection.execute(
        f"CREATE TABLE t AS SELECT *, epoch_ms(created_at::TIMESTAMP) AS ms FROM '{path}'"
    )
    return connection


def one(table, query):
    return table.execute(query).fetchone()[0]


class TestFile:
    def test_equal_arguments_give_equal_bytes(self, tmp_path):
        first, second = tmp_path / "a.csv", tmp_path / "b.csv"
        simulate(first, 5_000, seed=1)
        simulate(second, 5_000, seed=1)
        assert first.read_bytes() == second.read_bytes()

    def test_another_seed_gives_another_file(self, tmp_path):
        first, second = tmp_path / "a.csv", tmp_path / "b.csv"
        simulate(first, 1_000, seed=1)
        simulate(second, 1_000, seed=2)
        assert first.read_bytes()[1_000:] != second.read_bytes()[1_000:]

    def test_every_format_holds_the_same(self, tmp_path):
        paths = [tmp_path / name for name in ("a.csv", "a.csv.gz", "a.parquet")]
        for path in paths:
            simulate(path, 1_000, seed=1)
        assert gzip.decompress(paths[1].read_bytes()) == paths[0].read_bytes()
        from_parquet = pq.read_table(paths[2]).to_pylist()
        with paths[0].open(newline="") as file:
            from_csv = list(csv.DictReader(file))
        assert [row["transaction_id"] for row in from_csv] == [
            row["transaction_id"] for row in from_parquet
        ]
        assert [float(row["amount"]) for row in from_csv] == [r["amount"] for r in from_parquet]

    @pytest.mark.parametrize("rows", [100, 101, 7_777])
    def test_exactly_the_rows_asked_for(self, tmp_path, rows):
        path = tmp_path / "a.parquet"
        assert simulate(path, rows, seed=3).rows == rows
        assert pq.read_metadata(path).num_rows == rows

    def test_covers_the_days_asked_for(self, tmp_path):
        path = tmp_path / "a.parquet"
        simulate(path, 20_000, seed=1, start=datetime(2025, 3, 1, tzinfo=UTC), days=20)
        times = pq.read_table(path, columns=["created_at"])["created_at"].to_pylist()
        first, last = times[0], times[-1]
        assert first.startswith("2025-03-01T")
        assert last.startswith("2025-03-20T")

    def test_a_failure_leaves_no_file(self, tmp_path):
        path = tmp_path / "a.csv"

        def interrupt(_share):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            simulate(path, 1_000, seed=1, progress=interrupt)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "rows", "options", "said"),
        [
            ("a.txt", 1_000, {}, ".csv.gz"),
            ("a.csv", 10, {}, "rows is 10"),
            ("none/a.csv", 1_000, {}, "can't be written: there is no folder"),
            ("file/a.csv", 1_000, {}, "can't be written: there is no folder"),
            ("folder.csv", 1_000, {}, "can't be written: Is a directory"),
            ("a.csv", 1_000, {"seed": -1}, "seed is -1"),
            ("a.csv", 1_000, {"days": 1}, "days is 1"),
            ("a.csv", 1_000, {"start": datetime(2026, 1, 1)}, "time zone"),
            ("a.csv", 1_000, {"start": datetime(1969, 12, 31, tzinfo=UTC)}, "1970 to 9998"),
            ("a.csv", 1_000, {"start": datetime(9998, 12, 1, tzinfo=UTC)}, "1970 to 9998"),
            ("a.csv", 1_000, {"start": datetime(9999, 12, 1, tzinfo=UTC)}, "1970 to 9998"),
        ],
    )
    def test_refuses_what_it_cannot_do(self, tmp_path, name, rows, options, said):
        (tmp_path / "file").touch()
        (tmp_path / "folder.csv").mkdir()
        with pytest.raises(InvalidDataset, match=said):
            simulate(tmp_path / name, rows, **{"seed": 1, **options})


class TestRows:
    def test_times_rise_strictly(self, table):
        assert one(table, "SELECT bool_and(ms > earlier) FROM "
                   "(SELECT ms, lag(ms) OVER (ORDER BY transaction_id) AS earlier FROM t) "
                   "WHERE earlier IS NOT NULL")  # fmt: skip

    def test_money_is_conserved(self, table):
        """A wallet's balance before a payment is what its earlier payments left."""
        assert one(table, """
            WITH moves AS (
                SELECT ms, source_wallet_id AS wallet, source_balance AS balance,
                       CASE status WHEN 'SUCCESS' THEN -amount ELSE 0 END AS moved FROM t
                UNION ALL
                SELECT ms, destination_wallet_id, NULL, amount FROM t WHERE status = 'SUCCESS'
            ), walked AS (
                SELECT wallet, balance - coalesce(sum(moved) OVER (
                    PARTITION BY wallet ORDER BY ms
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS opening
                FROM moves
            )
            SELECT max(widest) FROM (SELECT max(opening) - min(opening) AS widest FROM walked
                                     WHERE opening IS NOT NULL GROUP BY wallet)
        """) < 0.005  # fmt: skip

    def test_nobody_pays_what_they_do_not_have(self, table):
        assert one(table, "SELECT count(*) FROM t WHERE status = 'SUCCESS' "
                   "AND amount > source_balance + 0.001") == 0  # fmt: skip

    def test_nobody_pays_themselves_or_before_the_account_opened(self, table):
        assert one(table, "SELECT count(*) FROM t WHERE source_wallet_id = destination_wallet_id "
                   "OR amount <= 0 OR account_age_minutes < 0") == 0  # fmt: skip

    def test_frauds_are_rare_and_of_every_kind(self, table):
        assert 0.002 <= one(table, "SELECT avg(is_fraud::INT) FROM t") <= 0.01
        assert one(table, "SELECT count(DISTINCT fraud_kind) FROM t WHERE is_fraud") == 4
        assert one(table, "SELECT count(*) FROM t WHERE is_fraud <> (fraud_kind IS NOT NULL)") == 0

    def test_people_have_a_history(self, table):
        low, high = table.execute(
            "SELECT quantile_cont(n, 0.25), quantile_cont(n, 0.75) FROM "
            "(SELECT count(*) AS n FROM t WHERE direction = 'outgoing' GROUP BY source_wallet_id)"
        ).fetchone()
        assert 25 <= low < high <= 120

    def test_few_honest_payments_would_be_blocked(self, table):
        blocked = one(table, """
            SELECT avg((amount > 300 OR amount > source_balance OR source_wallet_status <> 'active'
                        OR (hour(created_at::TIMESTAMP) BETWEEN 1 AND 4 AND amount > 120)
                        OR (user_risk_level = 'high' AND amount > 150))::INT)
            FROM t WHERE NOT is_fraud""")  # fmt: skip
        assert blocked < 0.005

    def test_countries_suit_the_sanctions_rule(self):
        assert not {"KP", "IR", "SY"} & set(COUNTRIES)


class TestCommand:
    def test_says_what_it_wrote(self, tmp_path, capsys):
        path = tmp_path / "a.csv"
        call_command(
            "simulate", str(path), "--rows", "2000", "--seed", "4", "--start", "2025-01-01"
        )
        assert "2,000 transactions" in capsys.readouterr().out
        assert b",2025-01-01T" in path.read_bytes().splitlines()[1]

    def test_answers_a_fault_with_one_line(self, tmp_path):
        with pytest.raises(CommandError, match="must end in one of"):
            call_command("simulate", str(tmp_path / "a.txt"), "--rows", "2000")
        with pytest.raises(CommandError, match="not a date"):
            call_command("simulate", str(tmp_path / "a.csv"), "--rows", "2000", "--start", "soon")
        assert not Path(tmp_path / "a.csv").exists()
