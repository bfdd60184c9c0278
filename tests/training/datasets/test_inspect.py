"""What an inspection finds in a file, and the mapping that it proposes."""

import gzip
import json
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pytest
from django.core.management import CommandError, call_command
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from engine.errors import InvalidDataset
from tests.training.datasets.support import GOOD, PAYSIM_HEADER, PAYSIM_ROWS
from training.inspection_text import report
from training.pipeline.inspection import inspect_file
from training.pipeline.leaks import Judge
from training.pipeline.mapping import parse_mapping, read_mapping
from training.pipeline.presets import load_preset
from training.pipeline.profile import profile
from training.pipeline.proposal import propose, to_toml

START = datetime(2026, 1, 1)
FIRST = "start = 2026-01-01T00:00:00Z"


def cards(rows=2_000, seed=1, **changes):
    """Card payments, one in 20 a fraud, as a frame; `changes` add or replace columns."""
    chance = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "trans_num": [f"{n:032x}" for n in range(rows)],
        "trans_date_trans_time": [str(START + timedelta(minutes=7 * n)) for n in range(rows)],
        "cc_num": 4_000_000_000_000_000 + chance.integers(0, 60, rows),
        "merchant": [f"shop {n}, Inc" for n in chance.integers(0, 90, rows)],
        "category": chance.choice(["misc_net", "grocery_pos", "travel"], rows),
        "amt": chance.lognormal(3, 1, rows).round(2),
        "is_fraud": (chance.random(rows) < 0.05).astype(int),
    })  # fmt: skip
    return frame.assign(**changes)


@pytest.fixture
def inspecting(tmp_path):
    """Inspect a frame as a CSV file."""

    def inspect(frame, mapping=None, **options):
        path = tmp_path / "f.csv"
        frame.to_csv(path, index=False, **options)
        return inspect_file(path, mapping)

    return inspect


def profiles_of(header, *rows):
    """The profiles of columns with these texts."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        names = ", ".join(f"c{at} VARCHAR" for at in range(len(header)))
        connection.execute(f"CREATE TABLE raw (n BIGINT, {names})")
        marks = ", ".join("?" * (len(header) + 1))
        for number, row in enumerate(rows, start=1):
            connection.execute(f"INSERT INTO raw VALUES ({marks})", [number, *row])
        return profile(connection, "raw", tuple(header))


def proposed(header, *rows):
    """The sources, attributes and ignored columns proposed for rows of text."""
    lines = [row.split(",") for row in rows]
    proposal = propose(profiles_of(header.split(","), *lines))
    return proposal, {choice.target: choice.source for choice in proposal.columns}


class TestProfile:
    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            ([None, None], "empty"),
            (["0", "1"], "boolean"),
            (["yes", "no"], "boolean"),
            (["1", "2", "3"], "number"),
            (["1.5", "NaN"], "number"),
            (["1767225600", "1767225601"], "epoch"),
            (["1767225600000"], "epoch"),
            (["2026-01-31 10:00:00"], "time"),
            (["31/01/2026 10:00"], "time"),
            (["a", "b"], "category"),
            ([f"v{n}" for n in range(51)], "text"),
            (["1", "x"], "category"),
            (["1"] * 40 + ["x"], "category"),
            (["2026-01-31 10:00:00"] * 40 + ["-"], "time"),
            (["31/01/2026 10:00"] * 40 + ["-"], "time"),
            (["1767225600"] * 40 + ["0"], "epoch"),
            (["2026-01-31 10:00:00"] * 18 + ["-"], "category"),
        ],
    )
    def test_the_kind_of_values(self, values, kind):
        (found,) = profiles_of(["x"], *([value] for value in values))
        assert found.kind == kind

    @pytest.mark.parametrize(
        ("values", "formats"),
        [
            (["31/01/2026"], ("%d/%m/%Y",)),
            (["01/31/2026"], ("%m/%d/%Y",)),
            (["01/02/2026"], ("%d/%m/%Y", "%m/%d/%Y")),
            (["01/02/2026", "13/02/2026"], ("%d/%m/%Y",)),
            (["01/02/2026", "x"], ()),
            (["13/02/2026", *["01/02/2026"] * 40, "x"], ("%d/%m/%Y",)),
            (["31.01.2026 10:00"], ("%d.%m.%Y %H:%M",)),
        ],
    )
    def test_the_formats_that_read_every_time(self, values, formats):
        (found,) = profiles_of(["x"], *([value] for value in values))
        assert found.formats == formats

    @pytest.mark.parametrize(
        ("values", "running"),
        [
            (range(40), True),
            (range(40, 0, -1), True),
            ([n // 3 for n in range(40)], True),
            ([*range(40), 7], False),
            ([1, 2, 3], False),
        ],
    )
    def test_numbers_that_run_with_the_rows(self, values, running):
        (found,) = profiles_of(["x"], *([str(value)] for value in values))
        assert found.running is running

    def test_facts(self):
        (found,) = profiles_of(["x"], ["3"], ["-1.5"], ["3"], ["NaN"], ["inf"], [None])
        assert (found.rows, found.filled, found.distinct) == (6, 5, 4)
        assert (found.low, found.high, found.whole) == (-1.5, 3.0, False)
        assert found.values[0] == "3"
        assert not found.unique


class TestProposal:
    def test_of_card_payments_is_all_of_it_but_the_currency(self):
        proposal, sources = proposed(
            "trans_num,trans_date_trans_time,cc_num,merchant,category,amt,is_fraud",
            "a1,2026-01-01 10:00:00,4000,shop,misc_net,12.5,0",
            "a2,2026-01-01 10:00:01,4001,shop,travel,2.5,1",
        )
        assert sources == {
            "transaction_id": '{ column = "trans_num" }',
            "created_at": '{ column = "trans_date_trans_time" }',
            "amount": '{ column = "amt" }',
            "currency": '{ constant = "XXX" }',
            "source_wallet_id": '{ column = "cc_num", prefix = "card-" }',
            "destination_wallet_id": '{ column = "merchant", prefix = "merchant-" }',
            "transaction_type": '{ column = "category" }',
            "is_fraud": '{ column = "is_fraud" }',
        }
        assert [choice.target for choice in proposal.decisions] == ["currency"]
        assert {c.sure for c in proposal.columns if c.target != "currency"} == {"sure"}
        assert (proposal.attributes, proposal.ignored) == ((), {})

    def test_of_paysim_names_its_leaks(self):
        proposal, sources = proposed(PAYSIM_HEADER, *PAYSIM_ROWS)
        preset = load_preset("paysim")
        step = f'"step", unit = "hours", first = 1, {FIRST}'
        assert sources["created_at"] == f"{{ column = {step} }}"
        for target in ("amount", "source_wallet_id", "destination_wallet_id", "is_fraud"):
            (column,) = preset.sources[target].columns
            assert sources[target] == f'{{ column = "{column}" }}'
        assert sources["source_balance"] == '{ column = "oldbalanceOrg" }'
        assert sources["transaction_id"] == '{ row_number = "row-" }'
        leaks = [name for name, why in proposal.ignored.items() if "suspected leak" in why]
        assert leaks == ["newbalanceOrig", "newbalanceDest", "isFlaggedFraud"]
        assert set(proposal.ignored) == set(preset.ignored)

    def test_of_the_columns_of_the_handbook(self):
        proposal, sources = proposed(
            "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_TIME_SECONDS,"
            "TX_TIME_DAYS,TX_FRAUD,TX_FRAUD_SCENARIO",
            "0,2018-04-01 00:00:31,596,3156,57.16,31,0,0,0",
            "1,2018-04-01 00:02:10,4961,3412,81.51,130,0,1,2",
        )
        assert sources["created_at"] == '{ column = "TX_DATETIME" }'
        assert sources["source_wallet_id"] == '{ column = "CUSTOMER_ID", prefix = "customer-" }'
        assert (
            sources["destination_wallet_id"] == '{ column = "TERMINAL_ID", prefix = "terminal-" }'
        )
        assert sources["is_fraud"] == '{ column = "TX_FRAUD" }'
        assert sources["fraud_kind"] == '{ column = "TX_FRAUD_SCENARIO" }'
        assert set(proposal.ignored) == {"TX_TIME_SECONDS", "TX_TIME_DAYS"}

    def test_of_sparkov_leaves_out_persons_and_the_number_of_the_row(self):
        header = ",trans_date_trans_time,cc_num,merchant,category,amt,first,last,gender,street,city"
        header += ",state,zip,lat,long,city_pop,job,dob,trans_num,unix_time,merch_lat,merch_long"
        rows = [
            f"{n},2019-01-01 00:00:1{n},270{n},shop{n},misc,4.9{n},Jo,Banks,F,Cove {n},Falls{n},"
            f"NC,2865{n},36.{n},-81.{n},349{n},Psych{n},1988-03-0{n + 1},0b2{n},13253{n}6018,"
            f"36.{n},-82.{n},{n % 2}"
            for n in range(4)
        ]
        proposal, sources = proposed(f"{header},is_fraud", *rows)
        preset = load_preset("credit-card")
        for target in ("transaction_id", "created_at", "amount", "is_fraud", "city"):
            assert sources[target] == f'{{ column = "{preset.sources[target].columns[0]}" }}'
        assert sources["source_wallet_id"] == '{ column = "cc_num", prefix = "card-" }'
        assert set(proposal.ignored) >= {"", "first", "last", "gender", "street", "dob", "zip"}
        assert proposal.ignored[""] == "the number of the row"
        kinds = {choice.target: choice.source for choice in proposal.attributes}
        assert kinds["city_pop"] == '{ column = "city_pop", kind = "number" }'
        assert kinds["lat"] == '{ column = "lat", kind = "number" }'

    def test_the_canonical_names_are_known(self):
        row = {**GOOD, "country": "FR", "label_known_at": "2026-01-09", "status": "FAILED"}
        _, sources = proposed(",".join(row), ",".join(row.values()))
        assert sources == {name: f'{{ column = "{name}" }}' for name in sources}
        assert set(sources) == set(row)

    def test_what_was_not_found_is_left_to_a_person(self, tmp_path):
        proposal, sources = proposed("foo,bar", "x,1", "y,2")
        assert not proposal.complete
        assert [name for name, source in sources.items() if source is None] == [
            "created_at", "amount", "source_wallet_id", "is_fraud"
        ]  # fmt: skip
        path = tmp_path / "mine.toml"
        path.write_text(to_toml(proposal, "f.csv"))
        with pytest.raises(InvalidDataset) as caught:
            read_mapping(path)
        assert {error.field for error in caught.value.errors} == {
            "columns.created_at", "columns.amount", "columns.source_wallet_id", "columns.is_fraud"
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("values", "source", "sure"),
        [
            (["fraud", "legit"], 'positive = ["fraud"], negative = ["legit"]', "likely"),
            (["Y", "N"], 'positive = ["Y"], negative = ["N"]', "likely"),
            (["A", "B"], 'positive = [], negative = ["A", "B"]', "decide"),
            (["chargeback", ""], 'positive = ["chargeback"], missing = false', "decide"),
        ],
    )
    def test_labels_in_words(self, values, source, sure):
        rows = [[value or None] for value in values]
        proposal = propose(profiles_of(["label"], *rows))
        (label,) = (choice for choice in proposal.columns if choice.target == "is_fraud")
        assert (label.source, label.sure) == (f'{{ column = "label", {source} }}', sure)

    @pytest.mark.parametrize(
        ("name", "values", "source", "sure"),
        [
            ("timestamp", ["1767225600"], 'epoch = "seconds"', "sure"),
            ("timestamp", ["1767225600000"], 'epoch = "milliseconds"', "sure"),
            ("date", ["31/01/2026"], 'format = "%d/%m/%Y"', "sure"),
            ("date", ["01/02/2026"], 'format = "%d/%m/%Y"', "decide"),
            ("Time", ["0", "5"], f'unit = "seconds", first = 0, {FIRST}', "decide"),
        ],
    )  # fmt: skip
    def test_times(self, name, values, source, sure):
        proposal = propose(profiles_of([name], *([value] for value in values)))
        (when,) = (choice for choice in proposal.columns if choice.target == "created_at")
        assert (when.source, when.sure) == (f'{{ column = "{name}", {source} }}', sure)

    HEADERS = st.lists(
        st.text(max_size=12) | st.sampled_from(["amount", "class", "Time", "card", "V1", "é\x7f"]),
        min_size=1, max_size=8, unique=True,
    )  # fmt: skip
    CELLS = st.sampled_from([None, "0", "1", "2.5", "x", '"q"', "2026-01-31", "01/02/2026", "1e9"])

    @settings(max_examples=30, deadline=None)
    @given(header=HEADERS, cells=st.lists(CELLS, min_size=24, max_size=24))
    def test_whatever_the_columns_it_is_a_mapping_of_each_once(self, header, cells):
        width = len(header)
        rows = [cells[at : at + width] for at in range(0, len(cells) - width + 1, width)]
        proposal = propose(profiles_of(header, *rows))
        named = [name for c in (*proposal.columns, *proposal.attributes) for name in c.columns]
        assert sorted([*named, *proposal.ignored]) == sorted(header)
        text = to_toml(proposal, "f\n.csv")
        if proposal.complete:
            mapping = parse_mapping("proposal", text)
            assert sorted([*mapping.wanted, *mapping.ignored]) == sorted(header)
            return
        with pytest.raises(InvalidDataset) as caught:
            parse_mapping("proposal", text)
        assert all("missing; expected" in fault.message for fault in caught.value.errors)


class TestFacts:
    def test_what_a_person_wants_to_know_first(self, inspecting):
        frame = cards(amt=[*[0.0, -5.0, 7.5], *[10.0] * 1_997])
        frame.loc[5, "trans_num"] = frame.loc[4, "trans_num"]
        frame.loc[6] = frame.loc[7]
        frame["shop_kind"] = frame["category"].where(frame.index >= 100)
        found = inspecting(frame)
        reading = found.reading
        assert (found.rows, reading.good_rows, reading.bad_rows) == (2_000, 2_000, 0)
        assert reading.frauds == frame["is_fraud"].sum()
        assert reading.first_at == START.replace(tzinfo=UTC)
        assert reading.last_at == (START + timedelta(minutes=7 * 1_999)).replace(tzinfo=UTC)
        assert (reading.repeated_ids, found.repeated_rows) == (2, 1)
        assert found.missing == {"shop_kind": 100}
        assert (reading.wallets.sources, reading.wallets.destinations) == (60, 90)
        assert reading.wallets.busiest_source == frame["cc_num"].value_counts().max()
        assert (reading.amounts.lowest, reading.amounts.highest) == (-5.0, 10.0)
        assert (reading.amounts.zero, reading.amounts.negative) == (1, 1)
        assert reading.amounts.mean == pytest.approx(frame["amt"].mean())

    def test_bad_rows_are_counted_by_fault(self, inspecting):
        frame = cards().astype({"amt": object})
        frame.loc[3:5, "amt"] = "ten"
        frame.loc[9, "cc_num"] = None
        mapping = parse_mapping("mine", inspecting(cards()).mapping)
        found = inspecting(frame, mapping)
        assert found.reading.bad_rows == 4
        assert found.reading.faults == {
            "amount: not a finite number from -1e9 to 1e9": 3,
            "source_wallet_id: missing": 1,
        }
        assert found.proposal is None

    def test_a_bad_time_or_amount_hides_nothing(self, inspecting):
        frame = cards().astype({"amt": object})
        frame.loc[7, "trans_date_trans_time"] = "not noted"
        frame.loc[8, "trans_date_trans_time"] = None
        frame.loc[9, "amt"] = "ten"
        found = inspecting(frame)
        assert (found.reading.good_rows, found.reading.bad_rows) == (1_997, 3)
        assert found.separations

    def test_no_time_and_no_counter_is_proposed_as_an_input(self, inspecting):
        moments = 1_767_225_600 + 420 * np.arange(2_000)
        found = inspecting(cards(ut=moments, line=range(2_000), points=np.arange(2_000) % 7))
        assert [choice.target for choice in found.proposal.attributes] == ["points"]
        assert found.uses["ut"] == "ignored: another time: seconds since 1970"
        assert found.uses["line"] == "ignored: it runs with the rows, as a counter or a time does"

    def test_wallets_on_both_sides(self, inspecting):
        frame = cards().rename(columns={"cc_num": "sender", "merchant": "receiver"})
        frame["receiver"] = frame["sender"].iloc[::-1].to_numpy()
        assert inspecting(frame).reading.wallets.on_both_sides == 60

    def test_what_a_given_mapping_makes_of_each_column(self, inspecting):
        mapping = parse_mapping("mine", inspecting(cards()).mapping)
        found = inspecting(cards(extra=1), mapping)
        assert (found.uses["amt"], found.uses["extra"]) == ("amount", "not named")
        assert found.mapping == mapping.text

    def test_a_mapping_of_columns_that_lack_is_refused(self, inspecting):
        with pytest.raises(InvalidDataset, match="columns missing: trans_date_trans_time"):
            inspecting(
                cards().drop(columns=["trans_date_trans_time"]),
                parse_mapping("mine", inspecting(cards()).mapping),
            )

    def test_when_every_row_is_bad_it_is_said_why(self, inspecting):
        mapping = parse_mapping("mine", inspecting(cards()).mapping)
        with pytest.raises(InvalidDataset, match=r"every row is bad \(amount: not a finite number"):
            inspecting(cards(amt="x"), mapping)

    def test_a_file_that_nothing_is_known_of_is_told_without_a_mapping(self, inspecting):
        frame = pd.DataFrame({"foo": ["x", "y", "x"], "bar": [1, 2, 1], "refund": [None, 7, None]})
        found = inspecting(frame)
        assert (found.rows, found.repeated_rows, found.missing) == (3, 1, {"refund": 2})
        assert found.reading is None
        assert found.leaks == {"refund": "by its name, known only after the transaction"}
        said = "\n".join(report(found))
        assert "f.csv: 3 rows, 3 columns" in said
        assert "is_fraud: no column looks like it" in said

    def test_every_kind_of_file_is_told_alike(self, tmp_path):
        frame = cards().astype(str)
        frame.to_csv(tmp_path / "f.csv", index=False)
        content = (tmp_path / "f.csv").read_bytes()
        (tmp_path / "f.gz").write_bytes(gzip.compress(content))
        frame.to_parquet(tmp_path / "f.parquet")
        found = [inspect_file(tmp_path / name) for name in ("f.csv", "f.gz", "f.parquet")]
        assert found[0].reading == found[1].reading == found[2].reading
        assert found[0].columns == found[1].columns == found[2].columns

    def test_lines_that_are_no_rows_are_counted(self, tmp_path):
        path = tmp_path / "f.csv"
        cards().to_csv(path, index=False)
        path.write_bytes(path.read_bytes() + b"a,b\n\xff,b,c,d,e,1,0\n")
        found = inspect_file(path)
        assert found.unreadable_lines == {"wrong number of fields": 1, "not UTF-8 text": 1}
        assert found.rows == 2_000

    @pytest.mark.parametrize("content", [b"", b"a,b\n", b"PAR1", b"a,a\n1,2\n"])
    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path, content):
        path = tmp_path / "f.csv"
        path.write_bytes(content)
        with pytest.raises(InvalidDataset):
            inspect_file(path)

    @pytest.mark.parametrize("separator", [";", "\t", "|"])
    def test_another_separator_is_told(self, inspecting, separator):
        with pytest.raises(InvalidDataset, match="must be separated by commas: 'trans_num"):
            inspecting(cards(rows=10), sep=separator)

    def test_progress_goes_up_to_the_end(self, tmp_path):
        cards().to_csv(tmp_path / "f.csv", index=False)
        told = []
        inspect_file(tmp_path / "f.csv", progress=lambda step, share: told.append((share, step)))
        assert told == sorted(told, key=lambda item: item[0])
        assert told[-1] == (1.0, "done")

    def test_nothing_is_left_behind(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        (tmp_path / "tmp").mkdir()
        cards().to_csv(tmp_path / "f.csv", index=False)
        inspect_file(tmp_path / "f.csv")
        assert list((tmp_path / "tmp").iterdir()) == []


class TestLeaks:
    def leaks(self, inspecting, **columns):
        return inspecting(cards(rows=4_000, **columns)).leaks

    def test_an_honest_file_has_none(self, inspecting):
        assert self.leaks(inspecting) == {}

    def test_a_number_that_separates(self, inspecting):
        label = cards(rows=4_000)["is_fraud"]
        noise = np.random.default_rng(5).normal(0, 1, 4_000)
        found = inspecting(cards(rows=4_000, points=noise - 5 * label))
        assert "its number alone separates the frauds" in found.leaks["points"]
        assert found.proposal.ignored["points"].startswith("suspected leak: its number")
        assert "points" not in [choice.target for choice in found.proposal.attributes]
        assert found.uses["points"].startswith("ignored: suspected leak")

    def test_a_value_that_only_frauds_have(self, inspecting):
        label = cards(rows=4_000)["is_fraud"]
        some = label.where(np.arange(4_000) % 3 == 0, 0)
        leaks = self.leaks(inspecting, outcome=np.where(some == 1, "returned", "kept"))
        assert leaks == {"outcome": f"{some.sum()} of {some.sum()} rows with “returned” are frauds"}

    def test_a_column_that_lacks_for_the_others(self, inspecting):
        frame = cards(rows=4_000)
        frame["case"] = [f"c{n}" if bad else "" for n, bad in enumerate(frame["is_fraud"])]
        assert "its absence alone separates" in inspecting(frame).leaks["case"]

    def test_many_rare_values_are_no_knowledge(self, inspecting):
        """Ranked by their own fraud rate, values of three rows would separate perfectly."""
        values = np.random.default_rng(3).integers(0, 1_300, 4_000)
        found = inspecting(cards(rows=4_000, device=[f"d{n}" for n in values]))
        areas = {one.column: one.roc_auc for one in found.separations}
        assert areas["device"] < 0.6
        assert found.leaks == {}

    def test_chance_is_no_knowledge(self, inspecting):
        """Judged on the rows that they were learnt from, these values would reach 0.63."""
        values = np.random.default_rng(3).integers(0, 100, 8_000)
        found = inspecting(cards(rows=8_000, device=[f"d{n}" for n in values]))
        areas = {one.column: one.roc_auc for one in found.separations}
        assert areas["device"] < 0.56

    def test_a_name_is_enough_to_be_suspected(self, inspecting):
        values = np.random.default_rng(3).integers(0, 2, 4_000)
        leaks = self.leaks(inspecting, chargeback_count=values)
        assert leaks == {"chargeback_count": "by its name, known only after the transaction"}

    def test_with_too_few_frauds_nothing_is_judged(self, inspecting):
        label = np.zeros(2_000, int)
        label[:29] = 1
        found = inspecting(cards(is_fraud=label, copy=label * 3))
        assert found.separations == ()
        said = "\n".join(report(found))
        assert "not looked for: too few frauds, 29 of 2,000 rows; 30 are needed" in said
        assert "Suspected leaks" not in said

    def test_is_judged_as_soon_as_the_label_is_known(self, inspecting):
        frame = cards(rows=4_000)
        frame["outcome"] = np.where(frame["is_fraud"] == 1, "returned", "kept")
        found = inspecting(frame.drop(columns=["amt", "cc_num"]))
        assert found.reading is None
        assert "outcome" in found.leaks

    def test_without_a_label_it_says_that_nothing_was_looked_for(self, inspecting):
        said = "\n".join(report(inspecting(cards().drop(columns=["is_fraud"]))))
        assert "not looked for: no column is known to be the label." in said
        assert "Suspected leaks: none" not in said

    def test_a_label_in_unknown_words_is_said_to_have_no_frauds(self, inspecting):
        frame = cards(is_fraud=np.where(cards()["is_fraud"] == 1, "red", "green"))
        assert "too few frauds, 0 of" in "\n".join(report(inspecting(frame)))

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 1_000]), st.floats(-3, 3))
    def test_the_area_is_that_of_scikit_learn(self, seed, levels, shift):
        chance = np.random.default_rng(seed)
        label = chance.random(400) < 0.3
        values = np.round((chance.normal(0, 1, 400) + shift * label) * levels)
        with duckdb.connect() as connection:
            frame = pd.DataFrame({"n": range(400), "y": label, "c0": values.astype(str)})
            connection.register("judged", frame)
            area = Judge(connection)._by_number("TRY_CAST(c0 AS DOUBLE)")
        expected = roc_auc_score(label, values)
        assert area == pytest.approx(max(expected, 1 - expected))


class TestCommand:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "cards.csv"
        cards(rows=4_000, chargeback=0, age=np.arange(4_000) % 90).to_csv(path, index=False)
        return path

    def test_is_read_on_a_terminal(self, path, capsys):
        call_command("inspect_dataset", str(path))
        said = capsys.readouterr().out
        assert "cards.csv: 4,000 rows, 9 columns" in said
        assert "period        2026-01-01 00:00 to 2026-01-20 10:33 UTC, 19.4 days" in said
        assert "chargeback: by its name, known only after the transaction" in said
        assert "currency: no such column; XXX is ISO 4217 for none" in said
        assert max(map(len, said.splitlines())) <= 110

    def test_writes_a_mapping_that_imports(self, path, tmp_path, importing, capsys):
        out = tmp_path / "card.toml"
        call_command("inspect_dataset", str(path), "--out", str(out))
        summary = importing(path, mapping=read_mapping(out))
        assert (summary.rows, summary.attributes) == (4_000, {"age": "number"})
        assert summary.label_delay == "7d"
        assert f"The proposed mapping is in {out}" in capsys.readouterr().out

    def test_as_json_it_is_json_and_nothing_else(self, path, capsys):
        call_command("inspect_dataset", str(path), "--json")
        found = json.loads(capsys.readouterr().out)
        assert found["reading"]["good_rows"] == 4_000
        assert found["leaks"].keys() == {"chargeback"}
        assert parse_mapping("told", found["mapping"]).sources["amount"].columns == ("amt",)

    def test_of_a_preset(self, tmp_path, capsys):
        path = tmp_path / "p.csv"
        path.write_text("\n".join([PAYSIM_HEADER, *PAYSIM_ROWS, ""]))
        call_command("inspect_dataset", str(path), "--preset", "paysim")
        said = capsys.readouterr().out
        assert "oldbalanceOrg" in said
        assert "source_balance" in said
        assert "Proposed mapping" not in said

    def test_a_file_is_never_overwritten(self, path, tmp_path):
        with pytest.raises(CommandError, match="exists already"):
            call_command("inspect_dataset", str(path), "--out", str(path))
        with pytest.raises(CommandError, match="not for one that was given"):
            call_command(
                "inspect_dataset", str(path), "--out", str(tmp_path / "x"), "--preset", "paysim"
            )

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(CommandError, match="No such file"):
            call_command("inspect_dataset", str(tmp_path / "none.csv"))
