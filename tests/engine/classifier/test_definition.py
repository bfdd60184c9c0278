"""What a classifier's TOML file may say, and what a request to it may."""

import json
import math
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.classifier.definition import (
    BooleanInput,
    CategoryInput,
    Definition,
    Input,
    IntegerInput,
    NumberInput,
    read_definition,
)
from engine.classifier.request import decode_inputs
from engine.errors import InvalidDefinition, InvalidRequest
from tests.engine.classifiers import CHURN, INPUTS, SPONSOR

DEFINITION = read_definition(SPONSOR)

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,12}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
bounds = st.floats(-1e15, 1e15).map(lambda value: value + 0.0)  # no -0.0, which JSON tells apart


@st.composite
def ranges(draw: st.DrawFn, kind: type[NumberInput], bound: st.SearchStrategy[float]) -> Input:
    low, high = sorted(draw(st.lists(bound, min_size=2, max_size=2, unique=True)))
    return kind(minimum=low, maximum=high, default=draw(st.sampled_from([None, low, high])))


@st.composite
def categories(draw: st.DrawFn) -> Input:
    values = draw(st.lists(texts, min_size=2, max_size=5, unique=True))
    return CategoryInput(values=values, default=draw(st.sampled_from([None, *values])))


inputs = st.one_of(
    ranges(NumberInput, bounds),
    ranges(IntegerInput, st.integers(-(10**15), 10**15).map(float)),
    st.sampled_from([None, True, False]).map(lambda default: BooleanInput(default=default)),
    categories(),
)


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    """A valid definition: its inputs are numbered, so that no two columns have one name."""
    drawn = draw(st.lists(inputs, min_size=1, max_size=5))
    keys = draw(st.lists(names.map("told_{}".format), max_size=3, unique=True))
    labels = draw(st.lists(texts, min_size=2, max_size=5, unique=True))
    return Definition(
        name="drawn",
        target="target",
        inputs={f"in{at}": each for at, each in enumerate(drawn)},
        classes={label: {key: draw(texts) for key in keys} for label in labels},
        description=draw(texts),
    )


def good_value(each: Input) -> st.SearchStrategy[Any]:
    """What a request may have for an input."""
    if isinstance(each, CategoryInput):
        return st.sampled_from(each.values)
    if isinstance(each, BooleanInput):
        return st.booleans()
    if isinstance(each, IntegerInput):
        whole = st.integers(math.ceil(each.minimum), math.floor(each.maximum))
        return whole | whole.map(float)
    return st.floats(each.minimum, each.maximum)


@st.composite
def definitions_with_inputs(draw: st.DrawFn) -> tuple[Definition, dict[str, Any]]:
    definition = draw(definitions())
    return definition, {k: draw(good_value(each)) for k, each in definition.inputs.items()}


def as_toml(definition: Definition) -> str:
    """TOML's strings are written as JSON's, and so are its lists, numbers and true and false."""
    dumped = partial(json.dumps, ensure_ascii=False)

    def lines(table: dict[str, Any], *path: str) -> list[str]:
        plain = {k: v for k, v in table.items() if not isinstance(v, dict) and v is not None}
        written = [f"[{'.'.join(dumped(part) for part in path)}]"] if path else []
        written += [f"{dumped(k)} = {dumped(v)}" for k, v in plain.items()]
        for key, value in table.items():
            written += lines(value, *path, key) if isinstance(value, dict) else []
        return written

    return "\n".join(lines(msgspec.to_builtins(definition)))


@settings(max_examples=60, deadline=None)
@given(definitions())
def test_a_definition_is_read_as_it_was_written(definition: Definition) -> None:
    read = read_definition(as_toml(definition))
    assert read == definition
    assert read.fingerprint == definition.fingerprint
    assert read.labels == [*definition.classes]
    assert [*read.inputs] == [*definition.inputs]


@settings(max_examples=60, deadline=None)
@given(definitions_with_inputs())
def test_good_inputs_are_taken_and_encoded(drawn: tuple[Definition, dict[str, Any]]) -> None:
    definition, values = drawn
    taken = definition.complete(dict(reversed(values.items())))
    assert taken == values
    assert [*taken] == [*definition.inputs]  # in the definition's order, not the request's
    row = definition.encode(taken)
    assert row.shape == (len(definition.columns),)
    assert definition.complete(taken) == taken
    at = 0
    for name, each in definition.inputs.items():
        part = row[at : at + each.columns]
        if isinstance(each, CategoryInput):
            assert each.values[int(part.argmax())] == values[name]
            assert part.sum() == 1
        else:
            assert part == [float(values[name])]
        at += each.columns
    assert at == len(row)


@settings(max_examples=60, deadline=None)
@given(definitions())
def test_without_inputs_the_defaults_are_taken_and_all_others_are_named(
    definition: Definition,
) -> None:
    missing = [name for name, each in definition.inputs.items() if each.default is None]
    for nothing in ({}, dict.fromkeys(definition.inputs)):
        if missing:
            with pytest.raises(InvalidRequest) as refused:
                definition.complete(nothing)
            assert [error.field for error in refused.value.errors] == missing
            assert all(error.message.startswith("missing; ") for error in refused.value.errors)
        else:
            defaults = {name: each.default for name, each in definition.inputs.items()}
            assert definition.complete(nothing) == defaults


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(definitions(), st.data())
def test_whatever_is_sent_is_taken_or_its_inputs_are_named(
    definition: Definition, data: st.DataObject
) -> None:
    values = data.draw(
        st.fixed_dictionaries({name: json_values for name in definition.inputs})  # noqa: C420
    )
    try:
        row = definition.encode(definition.complete(values))
    except InvalidRequest as error:
        refused = error
    else:
        assert all(math.isfinite(each) for each in row)
        return
    assert refused.errors
    assert {error.field for error in refused.errors} <= definition.inputs.keys()
    refused.detail.encode()  # can be sent


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("match_minute", 121, "expected a whole number from 0 to 120, got 121"),
        ("match_minute", -1, "expected a whole number from 0 to 120, got -1"),
        ("match_minute", 4.5, "expected a whole number from 0 to 120, got 4.5"),
        ("match_minute", "42", 'expected a whole number from 0 to 120, got "42"'),
        ("match_minute", True, "expected a whole number from 0 to 120, got true"),
        ("match_minute", 10**400, f"expected a whole number from 0 to 120, got 1{'0' * 56}…"),
        ("temperature", math.nan, "expected a number from -30 to 50, got NaN"),
        ("temperature", -math.inf, "expected a number from -30 to 50, got -Infinity"),
        ("temperature", None, "missing; expected a number from -30 to 50"),
        ("zone", "vip", 'expected one of VIP, North, South, East, West, got "vip"'),
        ("zone", ["VIP"], 'expected one of VIP, North, South, East, West, got ["VIP"]'),
        ("event", "", 'expected one of None, Goal, Card, got ""'),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_fault_says_what_was_expected_and_what_was_found(
    name: str, value: Any, fault: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        DEFINITION.complete({**INPUTS, name: value})
    assert refused.value.errors == ((name, fault),)
    assert refused.value.detail == f"The inputs are not valid: {name}: {fault}"


def test_a_boolean_is_true_or_false() -> None:
    churn = read_definition(CHURN)
    with pytest.raises(InvalidRequest, match="opened_mail: expected true or false, got 1"):
        churn.complete({"age": 30, "paid": 5, "opened_mail": 1})
    taken = churn.complete({"age": 30.0, "paid": 5, "opened_mail": True})
    assert taken == {"age": 30, "paid": 5, "plan": "free", "opened_mail": True}
    assert type(taken["age"]) is int
    assert [*churn.encode(taken)] == [30, 5, 1, 0, 1]


def test_other_keys_of_a_request_are_ignored() -> None:
    assert DEFINITION.complete({**INPUTS, "weather": "rain"}) == INPUTS


def test_the_bounds_belong_to_the_range() -> None:
    for minute in (0, 120, 0.0, 120.0):
        assert DEFINITION.complete({**INPUTS, "match_minute": minute})["match_minute"] == minute


def test_columns_are_named_by_input_and_value() -> None:
    assert DEFINITION.columns == [
        "match_minute", "score_diff", "temperature", "crowd_density",
        "zone_VIP", "zone_North", "zone_South", "zone_East", "zone_West",
        "event_None", "event_Goal", "event_Card",
    ]  # fmt: skip


FAULTS: list[tuple[str, str, str, list[str]]] = [
    ("type = \"number\"\nminimum = -30", "type = \"numb\"\nminimum = -30",
     "Invalid value 'numb'", ["inputs.temperature.type"]),
    ("minimum = -30", "minimum = '-30'", "Expected `float`, got `str`",
     ["inputs.temperature.minimum"]),
    ("minimum = -30", "", "missing required field `minimum`", ["inputs.temperature"]),
    ("minimum = -30", "minimum = -30\nmean = 3", "unknown field `mean`", ["inputs.temperature"]),
    ("minimum = -30", "minimum = 50", "minimum must be below maximum", ["inputs.temperature"]),
    ("minimum = -30", "minimum = nan", "Expected `float` >= -1", ["inputs.temperature.minimum"]),
    ("minimum = -30", "minimum = -inf", "Expected `float` >= -1", ["inputs.temperature.minimum"]),
    ("minimum = -30", "minimum = -30\ndefault = 51", "a number from -30 to 50, got 51",
     ["inputs.temperature.default"]),
    ("minimum = -20", "minimum = -20.5", "must be whole numbers", ["inputs.score_diff"]),
    ("minimum = -20", "minimum = -20\ndefault = 0.5", "a whole number from -20 to 20, got 0.5",
     ["inputs.score_diff.default"]),
    ("[inputs.zone]", "[inputs.'the zone']", "a letter, then letters", ["inputs.the zone"]),
    ("[inputs.zone]", "[inputs.sponsor]", "“sponsor” would name two columns", ["inputs"]),
    ("[inputs.zone]", "[inputs.Temperature]", "“temperature” would name two columns",
     ["inputs"]),
    ("[inputs.zone]", "[inputs.zone_VIP]\ntype = 'boolean'\n[inputs.zone]",
     "two columns would be named “zone_VIP”", ["inputs"]),
    ("[inputs.zone]", "[inputs.zone]\ndefault = 'Lawn'", 'got "Lawn"', ["inputs.zone.default"]),
    ('"VIP", "North", "South", "East", "West"', '"VIP"', "length >= 2", ["inputs.zone.values"]),
    ('"North"', "3", "Expected `str`, got `int`", ["inputs.zone.values[1]"]),
    ("[classes.Volt]", "[classes.Volt]\nurl = 'https://volt'", "the same keys as classes.Glace",
     ["classes.Volt"]),
    ("[classes.Volt]", "[classes.Volt]\n'a b' = 'c'", "a letter, then", ["classes.Volt.a b"]),
    ("[classes.Volt]", "[classes.Volt]\nprice = 3", "Expected `str`", ["classes.Volt.price"]),
    ("[answer]", "[answer]\nconfidence = 'category'", "“category” would stand twice in an answer",
     ["answer"]),
    ('"recommended_sponsor"', '"model_version"', "“model_version” would stand twice", ["answer"]),
    ("[answer]", "[training]\nbest_possible = 'sponsor'\n[answer]",
     "“sponsor” would name two columns", ["inputs"]),
    ("[answer]", "[training]\ntrees = 0\n[answer]", "Expected `int` >= 1", ["training.trees"]),
    ('name = "sponsor"', 'name = "../x"', "a small letter, then small", ["name"]),
    ('name = "sponsor"', "", "missing required field `name`", ["definition"]),
    ('name = "sponsor"', 'name = "sponsor"\nowner = "me"', "unknown field `owner`",
     ["definition"]),
    ('name = "sponsor"', "name = sponsor", "The definition is not TOML", []),
    ('name = "sponsor"', "name = 1" + "0" * 5000, "The definition is not TOML", []),
    ("[classes.Volt]", r'[classes."Vo\u0000lt"]', r'"Vo\u0000lt" has a control', ["classes"]),
    ('"North"', r'"Nor\nth"', r'"Nor\nth" has a control character', ["inputs.zone.values"]),
    ("Which sponsor", r"Which\u0000sponsor", "has a NUL character", ["description"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "told", "places"), FAULTS, ids=[f"{n}" for n in range(len(FAULTS))]
)
def test_a_definition_with_a_fault_is_refused_by_the_place(
    before: str, after: str, told: str, places: list[str]
) -> None:
    source = SPONSOR.replace(before, after)
    assert source != SPONSOR
    with pytest.raises(InvalidDefinition) as refused:
        read_definition(source)
    assert told in refused.value.detail
    assert [error.field for error in refused.value.errors] == places


def test_all_faults_of_a_definition_are_told_at_once() -> None:
    with pytest.raises(InvalidDefinition) as refused:
        read_definition(
            SPONSOR.replace("minimum = 0", "minimum = 200").replace("[answer]", "[answer]\n"
            "context = 'category'")
        )  # fmt: skip
    fields = [error.field for error in refused.value.errors]
    assert fields == ["inputs.match_minute", "inputs.crowd_density", "answer"]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("Warm up", "Warm up now", True),
        ('description = "Which', 'description = "Tells which', True),
        ("minimum = 0\nmaximum = 120", "minimum = 0\nmaximum = 130", False),
        ('"East", "West"', '"West", "East"', False),
        ('default = "None"', 'default = "Goal"', False),
        ("[classes.Volt]", "[classes.Watt]", False),
        ("[inputs.zone]", "[inputs.place]", False),
        ('unit = "°C"', 'unit = "K"', False),
    ],
    ids=["words", "description", "range", "order", "default", "class", "name", "unit"],
)
def test_a_fingerprint_is_of_what_columns_and_classes_mean(
    before: str, after: str, same: bool
) -> None:
    changed = read_definition(SPONSOR.replace(before, after))
    assert (changed.fingerprint == DEFINITION.fingerprint) is same


def test_the_order_of_inputs_counts() -> None:
    first, *others = DEFINITION.inputs.items()
    moved = msgspec.structs.replace(DEFINITION, inputs=dict([*others, first]))
    assert moved.fingerprint != DEFINITION.fingerprint


def test_a_body_is_a_json_object() -> None:
    assert decode_inputs(b'{"zone": "VIP", "n": 1e3}') == {"zone": "VIP", "n": 1000}


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b"", "body", "not valid JSON"), (b"{", "body", "not valid JSON"),
        (b"[]", "body", "a JSON object"), (b"null", "body", "a JSON object"),
        (b'"text"', "body", "a JSON object"),
        (b"\xff", "body", "not valid UTF-8"), (b'{"a": "\xff"}', "body", "not valid UTF-8"),
        (b'{"a": 1, "b": NaN}', "b", "a finite number"),
        (b'{"a": 1e999}', "a", "a finite number"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "a", "a finite number"),
        (b'{"a": [-Infinity]}', "body", "not finite"),
        (b'{"\\ud800": NaN}', "body", "not finite"),
        (b'{"a": "\\ud800"}', "body", "a lone surrogate"),
        (b'{"a":' + b"[" * 5000, "body", "nested too deeply"),
    ],
    ids=range(14),
)  # fmt: skip
def test_another_body_is_refused(body: bytes, field: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_inputs(body)
    (fault,) = refused.value.errors
    assert fault.field == field
    assert message in fault.message
