"""Mapping files: what each key does to the values, and what every mistake is told."""

import json
import math
import re
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidDataset
from training.pipeline.datasets import import_files
from training.pipeline.mapping import parse_mapping, read_mapping

CARD = Path(__file__).parents[1] / "data" / "card.toml"
BASE = {
    "transaction_id": '{ row_number = "row-" }',
    "created_at": '{ column = "when" }',
    "amount": '{ constant = "1" }',
    "currency": '{ constant = "EUR" }',
    "source_wallet_id": '{ constant = "a" }',
    "destination_wallet_id": '{ constant = "b" }',
    "transaction_type": '{ constant = "PAYMENT" }',
    "is_fraud": '{ constant = "false" }',
}
MORNING = "2026-01-01T10:00:00Z"


def mapping(attributes="", top="", **columns):
    """A mapping like BASE with some columns changed (None leaves one out)."""
    listed = {**BASE, **columns}
    lines = [f"{name} = {source}" for name, source in listed.items() if source is not None]
    text = "\n".join([top, "[columns]", *lines, "[attributes]", attributes])
    return parse_mapping("mine.toml", text)


def mistakes(*args, **columns):
    """What a faulty mapping is told, by key."""
    with pytest.raises(InvalidDataset) as caught:
        mapping(*args, **columns)
    for error in caught.value.errors:
        assert f"  {error.field}: {error.message}" in caught.value.detail
    return {error.field: error.message for error in caught.value.errors}


def as_toml(value):
    """A value as TOML writes it within a line."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(key)} = {as_toml(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    return json.dumps(value)


def file_of(header, *rows):
    return "\n".join([header, *rows, ""]).encode()


@pytest.fixture
def column(importing):
    """The values of one column of a file whose other columns do not matter."""

    def values(name, source, *texts, **options):
        content = file_of("when,x", *(f"{MORNING},{text}" for text in texts))
        chosen = mapping(**{name: source}, top='ignored = ["x"]' if "x" not in source else "")
        importing(content, mapping=chosen, **options)
        return [row[name] for row in importing.rows()]

    return values


class TestText:
    def test_a_constant_and_a_row_number(self, importing):
        importing(file_of("when", MORNING, MORNING), mapping=mapping())
        assert [row["transaction_id"] for row in importing.rows()] == ["row-1", "row-2"]
        assert {row["currency"] for row in importing.rows()} == {"EUR"}

    def test_a_prefix_keeps_cards_and_merchants_apart(self, column):
        assert column("source_wallet_id", '{ column = "x", prefix = "card-" }', "1", "2") == [
            "card-1", "card-2"
        ]  # fmt: skip

    def test_columns_are_joined(self, importing):
        content = file_of("when,user,card", f"{MORNING},7,0", f"{MORNING},7,1")
        source = '{ column = ["user", "card"], separator = "/", prefix = "card-" }'
        importing(content, mapping=mapping(source_wallet_id=source))
        assert [row["source_wallet_id"] for row in importing.rows()] == ["card-7/0", "card-7/1"]

    def test_of_joined_columns_none_may_be_blank(self, importing):
        content = file_of("when,user,card", f"{MORNING},7,")
        source = '{ column = ["user", "card"] }'
        assert "source_wallet_id: missing" in importing.refused(
            content, mapping=mapping(source_wallet_id=source)
        )

    def test_values_are_renamed_and_others_are_faults(self, column, importing):
        source = '{ column = "x", values = { p = "PAYMENT" } }'
        assert column("transaction_type", source, "p") == ["PAYMENT"]
        importing.again()
        with pytest.raises(InvalidDataset, match="a value that the mapping does not know") as told:
            column("transaction_type", source, "p", "q")
        assert 'found "q"' in told.value.detail

    def test_other_values_are_kept(self, column):
        source = '{ column = "x", values = { p = "PAYMENT" }, others = "keep" }'
        assert column("transaction_type", source, "p", "gift") == ["PAYMENT", "GIFT"]

    def test_other_values_become_a_default_but_blanks_do_not(self, column, importing):
        source = '{ column = "x", values = { p = "PAYMENT" }, default = "OTHER" }'
        assert column("transaction_type", source, "p", "gift") == ["PAYMENT", "OTHER"]
        importing.again()
        with pytest.raises(InvalidDataset, match="transaction_type: missing"):
            column("transaction_type", source, "")

    def test_a_blank_becomes_what_is_said(self, column):
        source = '{ column = "x", values = { p = "PAYMENT" }, missing = "NONE" }'
        assert column("transaction_type", source, "p", " ", "") == ["PAYMENT", "NONE", "NONE"]

    def test_texts_are_checked_as_they_are_stored(self, column):
        with pytest.raises(InvalidDataset, match="source_wallet_id: not at most 64 characters"):
            column("source_wallet_id", '{ column = "x", prefix = "card-" }', "7" * 60)

    def test_a_quote_in_a_mapping_is_only_text(self, column):
        source = """{ column = "x", prefix = "it's-", values = { "o'" = "{n}" } }"""
        assert column("source_wallet_id", source, "o'") == ["it's-{n}"]


class TestLabels:
    @pytest.mark.parametrize("written", ["1", "1.0", "01", '"1.00"'])
    def test_positive_numbers_are_compared_as_numbers(self, column, written):
        source = '{ column = "x", positive = [1], negative = [0] }'
        assert column("is_fraud", source, written, "0.0", "-0") == [True, False, False]

    def test_long_numbers_are_compared_as_texts(self, column):
        source = '{ column = "x", positive = [9007199254740993] }'
        assert column("is_fraud", source, "9007199254740992") == [False]

    def test_what_became_false_is_counted(self, importing):
        source = '{ column = "x", positive = ["Y", 1] }'
        first = file_of("when,x", *(f"{MORNING},{x}" for x in ("1.0", "0.0", "0.0", "fraud")))
        second = file_of("when,x", *(f"{MORNING},{x}" for x in ("0.0", "Y")))
        summary = importing(first, second, mapping=mapping(is_fraud=source))
        assert summary.frauds == 2
        assert summary.taken_for_false == {"is_fraud": {"0.0": 3, "fraud": 1}}

    def test_positive_values(self, column):
        source = '{ column = "x", positive = ["stolen", 1] }'
        assert column("is_fraud", source, "stolen", "1", "0", "ok", " stolen ") == [
            True, True, False, False, True
        ]  # fmt: skip

    def test_with_negative_values_any_other_is_a_fault(self, column, importing):
        source = '{ column = "x", positive = ["Y"], negative = ["N"] }'
        assert column("is_fraud", source, "Y", "N") == [True, False]
        importing.again()
        with pytest.raises(InvalidDataset, match="is_fraud: a value that the mapping does not"):
            column("is_fraud", source, "Y", "y")

    def test_a_blank_label_is_missing_unless_it_says_something(self, column, importing):
        with pytest.raises(InvalidDataset, match="is_fraud: missing"):
            column("is_fraud", '{ column = "x", positive = ["Y"] }', "Y", "")
        source = '{ column = "x", positive = ["Y"], missing = false }'
        assert column("is_fraud", source, "Y", "") == [True, False]

    def test_when_a_label_became_known(self, importing):
        content = file_of(
            "when,known,bad",
            f"{MORNING},2026-01-08,1", f"{MORNING},,0", f"{MORNING},{MORNING},0",
        )  # fmt: skip
        chosen = mapping(
            label_known_at='{ column = "known" }',
            is_fraud='{ column = "bad" }',
            top='label_delay = "168h"',
        )
        summary = importing(content, mapping=chosen)
        assert [row["label_known_at"] for row in importing.rows()] == [
            datetime(2026, 1, 8), None, datetime(2026, 1, 1, 10)
        ]  # fmt: skip
        assert summary.label_delay == "7d"
        assert "label_known_at" in summary.columns

    def test_no_label_is_known_before_its_transaction(self, importing):
        content = file_of("when,known", f"{MORNING},2026-01-01T09:59:59Z", f"{MORNING},")
        chosen = mapping(label_known_at='{ column = "known" }')
        detail = importing.refused(content, mapping=chosen)
        assert 'label_known_at: before created_at, found "2026-01-01T09:59:59Z"' in detail
        summary = importing(content, mapping=chosen, skip=True)
        assert summary.reject_counts == {"label_known_at: before created_at": 1}

    def test_without_any_such_time_there_is_no_such_column(self, importing):
        chosen = mapping(label_known_at='{ column = "known" }')
        plain = importing(file_of("when", MORNING), mapping=mapping())
        importing.again()
        summary = importing(file_of("when,known", f"{MORNING},"), mapping=chosen)
        assert "label_known_at" not in pq.read_schema(importing.target / "data.parquet").names
        assert summary.fingerprint == plain.fingerprint


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Import times, each written in one way; returns them as they were stored."""
    folder = tmp_path_factory.mktemp("times")
    made = iter(range(10_000))

    def read(source, texts):
        number = next(made)
        path = folder / f"{number}.csv"
        path.write_bytes(file_of("when,x", *(f"{text},{n}" for n, text in enumerate(texts))))
        chosen = mapping(created_at=source, transaction_id='{ column = "x" }')
        import_files([path], folder / f"set-{number}", chosen)
        rows = pq.read_table(folder / f"set-{number}" / "data.parquet").to_pylist()
        ordered = sorted(rows, key=lambda row: int(row["transaction_id"]))
        return [row["created_at"].replace(tzinfo=UTC) for row in ordered]

    return read


class TestTimes:
    WRITTEN = """
    format = "%d/%m/%Y %H:%M" | 31/01/2026 12:30 | 2026-01-31T12:30
    format = "%b %d %Y %I:%M %p" | Jan 05 2026 01:02 PM | 2026-01-05T13:02
    format = "%Y%m%d" | 20260131 | 2026-01-31
    format = "%Y-%m-%dT%H:%M:%S%z" | 2026-01-31T12:00:00+02:00 | 2026-01-31T10:00
    format = "{%Y}-%m-%d" | {2026}-01-31 | 2026-01-31
    format = "%d/%m/%Y", time_zone = "Asia/Tokyo" | 31/01/2026 | 2026-01-30T15:00
    time_zone = "Europe/Paris" | 2026-07-01 12:00:00 | 2026-07-01T10:00
    time_zone = "Europe/Paris" | 2026-01-31 | 2026-01-30T23:00
    time_zone = "Europe/Paris" | 2026-07-01T12:00:00Z | 2026-07-01T12:00
    time_zone = "Europe/Paris" | 2026-07-01T12:00:00-05 | 2026-07-01T17:00
    epoch = "seconds" | 1767225600 | 2026-01-01
    epoch = "seconds" | 1767225600.25 | 2026-01-01T00:00:00.250
    epoch = "seconds" | 0 | 1970-01-01
    epoch = "milliseconds" | 1767225600001 | 2026-01-01T00:00:00.001
    unit = "days", start = "2026-01-01" | 3 | 2026-01-04
    unit = "hours", first = 1, start = 2026-01-01T00:00:00Z | 1 | 2026-01-01
    unit = "minutes", start = 2026-01-01T02:00:00+02:00 | 90 | 2026-01-01T01:30
    unit = "seconds", start = 2026-01-01T00:00:00 | 0.5 | 2026-01-01T00:00:00.500
    """

    @pytest.mark.parametrize("line", re.split(r"\n +", WRITTEN.strip()))
    def test_is_read_as_it_is_written(self, importing, line):
        source, text, moment = (part.strip() for part in line.split("|"))
        chosen = mapping(created_at=f'{{ column = "when", {source} }}')
        importing(file_of("when", text), mapping=chosen)
        assert importing.rows()[0]["created_at"] == datetime.fromisoformat(moment)

    @pytest.mark.parametrize(
        ("source", "text", "said"),
        [
            ('format = "%d/%m/%Y"', "2026-01-31", "not a time written %d/%m/%Y"),
            ('format = "%d/%m/%Y"', "31/02/2026", "not a time written"),
            ('format = "%d/%m/%Y"', "epoch", "not a time written"),
            ('format = "%d/%m/%Y"', "infinity", "not a time written"),
            ('format = "%d/%m/%Y"', "01/01/1969", "not a time written"),
            ('format = "%H:%M"', "12:30", "not a time written"),
            ('time_zone = "Europe/Paris"', "1970-01-01 00:30", "not a date and time"),
            ('time_zone = "Europe/Paris"', "0001-01-01", "not a date and time"),
            ('time_zone = "Pacific/Auckland"', "infinity", "not a date and time"),
            ('epoch = "seconds"', "-1", "not a number of seconds since 1970"),
            ('epoch = "seconds"', "253370764800", "not a number of seconds since 1970"),
            ('epoch = "milliseconds"', "nan", "not a number of milliseconds since 1970"),
            ('unit = "days", start = "2026-01-01"', "-1", "not a number of days from 0 to 36600"),
        ],
    )
    def test_what_is_written_otherwise_is_a_fault(self, importing, source, text, said):
        chosen = mapping(created_at=f'{{ column = "when", {source} }}')
        assert f"created_at: {said}" in importing.refused(file_of("when", text), mapping=chosen)

    def test_a_date_and_a_time_in_two_columns(self, importing):
        source = '{ column = ["date", "time"], format = "%d.%m.%Y %H:%M" }'
        importing(file_of("date,time", "31.01.2026,12:30"), mapping=mapping(created_at=source))
        assert importing.rows()[0]["created_at"] == datetime(2026, 1, 31, 12, 30)

    MOMENTS = st.lists(
        st.datetimes(datetime(1970, 1, 3), datetime(2037, 12, 30)).map(
            lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
        ),
        min_size=1,
        max_size=20,
    )

    @settings(max_examples=15, deadline=None)
    @given(moments=MOMENTS, zone=st.sampled_from(["UTC", "Europe/Paris", "Asia/Kolkata"]))
    def test_every_way_to_write_a_time_reads_back(self, written, moments, zone):
        local = [moment.astimezone(ZoneInfo(zone)) for moment in moments]
        # An hour that comes twice when the clocks go back can't be told from its text alone.
        clear = [
            (moment, here)
            for moment, here in zip(moments, local, strict=True)
            if here.utcoffset() == here.replace(fold=1 - here.fold).utcoffset()
        ]
        assert written('{ column = "when", epoch = "seconds" }', [
            int(moment.timestamp()) for moment in moments
        ]) == moments  # fmt: skip
        counted = '{ column = "when", unit = "seconds", first = 5, start = 1970-01-01T00:00:00Z }'
        assert written(counted, [int(m.timestamp()) + 5 for m in moments]) == moments
        if clear:
            source = f'{{ column = "when", format = "%d/%m/%Y %H:%M:%S", time_zone = "{zone}" }}'
            texts = [here.strftime("%d/%m/%Y %H:%M:%S") for _, here in clear]
            assert written(source, texts) == [moment for moment, _ in clear]


class TestAttributes:
    def test_are_parsed_checked_and_stored(self, importing):
        content = file_of(
            "when,n,b,c", f"{MORNING},1e3,yes,Grocery", f"{MORNING},,,", f"{MORNING},NaN,0,'é'"
        )
        attributes = """
            age = { column = "n", kind = "number" }
            online = { column = "b", kind = "boolean" }
            shop = { column = "c", kind = "category", prefix = "s-" }
        """
        summary = importing(content, mapping=mapping(attributes))
        assert [
            (row["attribute_age"], row["attribute_online"], row["attribute_shop"])
            for row in importing.rows()
        ] == [(1000.0, True, "s-Grocery"), (None, None, None), (None, False, "s-'é'")]
        assert summary.attributes == {"age": "number", "online": "boolean", "shop": "category"}
        schema = pq.read_schema(importing.target / "data.parquet")
        names = [name for name in schema.names if name.startswith("attribute_")]
        assert [str(schema.field(name).type) for name in names] == ["double", "bool", "string"]

    @pytest.mark.parametrize(
        ("kind", "text", "said"),
        [
            ("number", "ten", "not a finite number from -1e15 to 1e15"),
            ("number", "inf", "not a finite number"),
            ("number", "1e16", "not a finite number"),
            ("boolean", "2", "not true or false"),
            ("category", "x" * 65, "not at most 64 characters"),
            ("category", "a\x07b", "no control characters"),
        ],
    )
    def test_a_bad_value_is_a_bad_row(self, importing, kind, text, said):
        chosen = mapping(f'a = {{ column = "x", kind = "{kind}" }}')
        detail = importing.refused(file_of("when,x", f"{MORNING},{text}"), mapping=chosen)
        assert "attribute_a: not " in detail
        assert said in detail

    def test_count_for_the_fingerprint(self, importing):
        content = file_of("when,x", f"{MORNING},1")
        prints = set()
        for attributes in (
            'a = { column = "x", kind = "number" }',
            'b = { column = "x", kind = "number" }',
            'a = { column = "x", kind = "category", prefix = "0" }',
        ):
            prints.add(importing(content, mapping=mapping(attributes)).fingerprint)
            importing.again()
        assert len(prints) == 3

    def test_a_column_that_lacks_in_the_file_is_refused_unless_it_may(self, importing):
        needed = mapping('a = { column = "x", kind = "number" }')
        assert "columns missing: x" in importing.refused(file_of("when", MORNING), mapping=needed)
        allowed = mapping('a = { column = "x", kind = "number", optional = true }')
        importing(file_of("when", MORNING), mapping=allowed)
        assert importing.rows()[0]["attribute_a"] is None


class TestMistakes:
    OF_COLUMNS = """
    amount | {} | | exactly one of column, constant, row_number
    amount | { column = "a", constant = 1 } | | exactly one of
    amount | "amt" | | a table such as
    amount | { column = 5 } | .column | the name of a column
    amount | { column = [] } | .column | the name of a column
    amount | { colum = "a" } | .colum | not a key here; expected one of column, constant
    amount | { column = "a", missing = "x" } | .missing | 'x' is not a finite number
    amount | { column = "a", prefix = "x" } | .prefix | not a key here
    amount | { constant = 1, missing = 2 } | .missing | not with constant
    amount | { column = "a", optional = true } | .optional | every row needs amount
    iban | { column = "a" } | | unknown; expected one of transaction_id, created_at
    currency | { constant = "EURO" } | .constant | 'EURO' is not 3 letters
    direction | { column = "d", values = { a = "up" } } | .values.a | 'up' is not outgoing
    direction | { column = "d", default = "incoming" } | .default | only with values
    direction | { column = "d", values = { a = "outgoing" }, default = "up" } | .default | 'up' is
    direction | { column = "d", values = { a = "outgoing" }, others = "x" } | .others | or keep
    city | { column = "d", values = {}, others = "keep", default = "x" } | .default | not with
    city | { column = "d", separator = "-" } | .separator | only with a list of columns
    city | { column = "d", format = "%Y" } | .format | not a key here
    is_fraud | { column = "f", negative = ["0"] } | .negative | only with positive
    is_fraud | { column = "f", positive = "1" } | .positive | a list of values
    is_fraud | { column = "f", positive = [1], values = {} } | .positive | not with values
    created_at | { column = "t", unit = "weeks", start = 2026-01-01 } | .unit | days or hours
    created_at | { column = "t", unit = "hours" } | .unit | only with start
    created_at | { column = "t", start = 2026-01-01 } | .start | only with unit
    created_at | { column = "t", unit = "hours", start = "today" } | .start | a date and time
    created_at | { column = "t", unit = "hours", start = 1969-12-31 } | .start | 1970 to 9998
    created_at | { column = "t", unit = "hours", start = 5 } | .start | a date and time such as
    created_at | { column = "t", epoch = "hours" } | .epoch | seconds or milliseconds
    created_at | { column = "t", epoch = "seconds", format = "%Y" } | .epoch | not with format
    created_at | { column = "t", format = "%Q" } | .format | a strptime format such as %d/%m/%Y
    created_at | { column = "t", time_zone = "Mars/Olympus" } | .time_zone | such as Europe/Paris
    created_at | { column = "t", format = "%Y %z", time_zone = "UTC" } | .time_zone | has %z or %Z
    created_at | { column = "t", values = {} } | .values | not a key here
    """

    @pytest.mark.parametrize("line", re.split(r"\n +", OF_COLUMNS.strip()))
    def test_of_a_column_are_named_by_its_key(self, line):
        name, source, key, said = (part.strip() for part in line.split("|"))
        assert said in mistakes(**{name: source})[f"columns.{name}{key}"]

    @pytest.mark.parametrize(
        ("top", "key", "said"),
        [
            ('label_delay = "a week"', "label_delay", "'a week' is not a duration such as 7d"),
            ("label_delay = 7", "label_delay", "a duration such as 7d"),
            ('ignore = ["a"]', "ignore", "expected one of description, label_delay, ignored"),
            ('ignored = "a"', "ignored", "a list of columns"),
            ('ignored = ["when"]', "ignored", "'when' is read by the mapping"),
        ],
    )
    def test_of_the_file_are_named_too(self, top, key, said):
        assert said in mistakes(top=top)[key]

    @pytest.mark.parametrize(
        ("attribute", "key", "said"),
        [
            ('Age = { column = "a", kind = "number" }', ".Age", "first a letter"),
            (f'{"a" * 41} = {{ column = "a", kind = "number" }}', f".{'a' * 41}", "at most 40"),
            ('a = { column = "a" }', ".a.kind", "number or boolean or category"),
            ('a = { column = "a", kind = "text" }', ".a.kind", "number or boolean or category"),
            ('a = { constant = 1, kind = "number" }', ".a", "exactly one of column"),
            ('a = { column = "bad", kind = "number" }', ".a", "reads bad, which tells the label"),
        ],
    )
    def test_and_so_are_those_of_attributes(self, attribute, key, said):
        told = mistakes(attribute, is_fraud='{ column = "bad" }')
        assert said in told[f"attributes{key}"]

    def test_no_column_may_be_what_tells_the_label(self):
        told = mistakes(is_fraud='{ column = "bad" }', transaction_type='{ column = "bad" }')
        assert "reads bad, which tells the label" in told["columns.transaction_type"]

    def test_there_are_at_most_64_attributes(self):
        attributes = [f'a{n} = {{ column = "a", kind = "number" }}' for n in range(65)]
        assert len(mapping("\n".join(attributes[:64])).attributes) == 64
        assert mistakes("\n".join(attributes)) == {"attributes": "65 of them; expected 64 at most"}

    def test_a_required_column_must_be_mapped(self):
        assert "missing; expected { column" in mistakes(is_fraud=None)["columns.is_fraud"]

    def test_all_are_named_at_once(self):
        told = mistakes(
            'a = { column = "x", kind = "text" }',
            'label_delay = "x"\nignore = []',
            amount='{ colum = "a", missing = "x" }',
            currency='{ constant = "EURO" }',
            is_fraud=None,
        )
        assert set(told) == {
            "ignore", "label_delay", "columns.amount",
            "columns.amount.colum", "columns.amount.missing",
            "columns.currency.constant", "columns.is_fraud", "attributes.a.kind",
        }  # fmt: skip

    def test_what_is_not_toml_is_told_with_its_line(self, tmp_path):
        path = tmp_path / "mine.toml"
        path.write_text("[columns]\namount = column")
        with pytest.raises(InvalidDataset, match=r"mine\.toml is not TOML: .*line 2"):
            read_mapping(path)

    def test_a_file_that_is_not_there_or_not_text(self, tmp_path):
        path = tmp_path / "mine.toml"
        with pytest.raises(InvalidDataset, match="No such file"):
            read_mapping(path)
        path.write_bytes(b"\xff")
        with pytest.raises(InvalidDataset, match="not UTF-8"):
            read_mapping(path)

    VALUES = st.recursive(
        st.booleans() | st.integers(-5, 5) | st.text("ab-%", max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab"), inner),
        max_leaves=4,
    )
    KEYS = st.sampled_from(
        ["column", "constant", "values", "kind", "format", "epoch", "unit", "start", "positive"]
    )
    NAMES = st.sampled_from(["amount", "created_at", "is_fraud", "status", "label_known_at", "x"])
    TABLES = st.dictionaries(NAMES, VALUES | st.dictionaries(KEYS, VALUES), max_size=4)

    @settings(max_examples=100, deadline=None)
    @given(columns=TABLES, attributes=TABLES, rest=st.dictionaries(st.text("ab"), VALUES))
    def test_nothing_but_a_refusal_comes_of_nonsense(self, columns, attributes, rest):
        written = {"columns": columns, "attributes": attributes, **rest}
        text = "\n".join(f"{json.dumps(key)} = {as_toml(value)}" for key, value in written.items())
        assert tomllib.loads(text) == written
        with pytest.raises(InvalidDataset) as caught:
            parse_mapping("mine.toml", text)
        assert len(caught.value.errors) >= 1


class TestCard:
    HEADER = "trans_num,trans_date_trans_time,cc_num,merchant,category,amt,is_fraud"

    def test_at_most_thirty_lines_are_enough(self, importing):
        assert len(CARD.read_text().splitlines()) <= 30
        start = datetime(2026, 1, 1)
        rows = [
            f"{n:032x},{start + timedelta(hours=n)},{4000 + n % 7},shop {n % 5},misc_net,"
            f"{n / 4:.2f},{int(n % 50 == 0)}"
            for n in range(400)
        ]
        summary = importing(file_of(self.HEADER, *rows), mapping=read_mapping(CARD))
        assert (summary.rows, summary.frauds, summary.label_delay) == (400, 8, "7d")
        stored = importing.rows()
        assert stored[6] == {
            **dict.fromkeys(stored[6]),
            "transaction_id": f"{6:032x}",
            "created_at": datetime(2026, 1, 1, 6),
            "amount": 15_000,
            "currency": "USD",
            "source_wallet_id": "card-4006",
            "destination_wallet_id": "merchant-shop 1",
            "transaction_type": "MISC_NET",
            "is_fraud": False,
        }
        assert summary.mapping == CARD.read_text()
        assert math.isclose(sum(row["amount"] for row in stored) / 1e4, sum(range(400)) / 4)


class TestDocs:
    PAGE = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text()
    BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, re.S)

    def test_the_card_mapping_of_the_docs_is_the_tested_one(self):
        assert tomllib.loads(self.BLOCKS[0]) == tomllib.loads(CARD.read_text())

    def test_the_attributes_of_the_docs_are_a_mapping(self):
        mapping = parse_mapping("docs", "".join(self.BLOCKS))
        assert set(mapping.attributes.values()) == {"number", "boolean", "category"}

    @pytest.mark.parametrize("source", sorted(set(re.findall(r"`(\{ column = .*?\})`", PAGE))))
    def test_every_source_of_the_docs_is_one(self, source):
        target = "source_wallet_id" if "separator" in source else "created_at"
        assert mapping(**{target: source}).sources[target].columns
