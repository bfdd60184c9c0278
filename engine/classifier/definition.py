"""What a classifier is: a TOML file that names its inputs, its classes and its answer.

    name = "churn"
    target = "left"                     # the column of a data set that has the class

    [inputs.age]
    type = "integer"                    # number, integer, boolean or category
    minimum = 18
    maximum = 120

    [inputs.plan]
    type = "category"
    values = ["free", "paid"]
    default = "free"                    # without one, a request must have it

    [classes.yes]                       # what is told of a class, the same keys for each
    message = "Call them"

    [classes.no]
    message = "Leave them alone"

The same definition reads a data set and a request, so a value means the same in both.
"""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from numpy import array, float64
from numpy.typing import NDArray

from engine.errors import FieldError, InvalidDefinition, InvalidRequest

NAME: Final = r"[A-Za-z][A-Za-z0-9_]{0,62}"
Name = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
MODEL_NAME: Final = r"[a-z][a-z0-9_-]{0,62}"
ModelName = Annotated[str, Meta(pattern=rf"^{MODEL_NAME}\Z")]
IN_WORDS: Final = {
    rf"^{NAME}\Z": "Expected a letter, then letters, digits and _, at most 63",
    rf"^{MODEL_NAME}\Z": "Expected a small letter, then small letters, digits, _ and -, at most 63",
}
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # of which PostgreSQL can't store NUL
MODEL_VERSION: Final = "model_version"
"""Stands in every answer, beside what the definition names."""


class NumberInput(
    msgspec.Struct, frozen=True, kw_only=True, tag="number", forbid_unknown_fields=True
):
    """A number in [minimum, maximum]."""

    minimum: Number
    maximum: Number
    default: Number | None = None
    unit: str = ""
    description: str = ""

    @property
    def columns(self) -> int:
        return 1

    def check(self, value: Any) -> str:
        """What is wrong with a value of JSON's types, or nothing."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and self.minimum <= value <= self.maximum:
            return ""
        return f"expected {self.expected}, got {_shown(value)}"

    def taken(self, value: Any) -> Any:
        """The value as it is used, one for all ways to write it."""
        return value

    def encode(self, value: Any) -> tuple[float, ...]:
        return (float(value),)

    def names(self, name: str) -> list[str]:
        return [name]

    @property
    def expected(self) -> str:
        return f"a number from {_plain(self.minimum)} to {_plain(self.maximum)}"


class IntegerInput(
    NumberInput, frozen=True, kw_only=True, tag="integer", forbid_unknown_fields=True
):
    """A whole number in [minimum, maximum]."""

    def check(self, value: Any) -> str:
        return super().check(value) or (
            "" if float(value).is_integer() else f"expected {self.expected}, got {_shown(value)}"
        )

    def taken(self, value: Any) -> Any:
        return int(value)

    @property
    def expected(self) -> str:
        return f"a whole number from {_plain(self.minimum)} to {_plain(self.maximum)}"


class BooleanInput(
    msgspec.Struct, frozen=True, kw_only=True, tag="boolean", forbid_unknown_fields=True
):
    """True or false."""

    default: bool | None = None
    description: str = ""

    @property
    def columns(self) -> int:
        return 1

    def check(self, value: Any) -> str:
        return "" if isinstance(value, bool) else f"expected {self.expected}, got {_shown(value)}"

    def taken(self, value: Any) -> Any:
        return value

    def encode(self, value: Any) -> tuple[float, ...]:
        return (float(value),)

    def names(self, name: str) -> list[str]:
        return [name]

    @property
    def expected(self) -> str:
        return "true or false"


class CategoryInput(
    msgspec.Struct, frozen=True, kw_only=True, tag="category", forbid_unknown_fields=True
):
    """One of a list of texts; a column each, which is 1 for the one that it is."""

    values: Annotated[list[Text], Meta(min_length=2, max_length=200)]
    default: str | None = None
    description: str = ""

    @property
    def columns(self) -> int:
        return len(self.values)

    def check(self, value: Any) -> str:
        known = isinstance(value, str) and value in self.values
        return "" if known else f"expected {self.expected}, got {_shown(value)}"

    def taken(self, value: Any) -> Any:
        return value

    def encode(self, value: Any) -> tuple[float, ...]:
        return tuple(float(value == each) for each in self.values)

    def names(self, name: str) -> list[str]:
        return [f"{name}_{value}" for value in self.values]

    @property
    def expected(self) -> str:
        return f"one of {', '.join(self.values)}"


Input = NumberInput | IntegerInput | BooleanInput | CategoryInput


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The names that an answer has for its parts."""

    prediction: Name = "prediction"
    confidence: Name = "confidence"
    context: Name = "context_used"


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How versions are made, where the run does not say otherwise."""

    trees: Annotated[int, Meta(ge=1, le=1000)] = 100
    simulator: str = ""
    """Of those in training/pipeline/classifier/simulators, the one that makes rows; empty: none."""
    best_possible: Name | None = None
    """A column of a data set that is no input: the probability of the likeliest class given the
    inputs, where a simulator knows it."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A classifier. `classes` are in the order of the file; so are `inputs`."""

    name: ModelName
    target: Name
    inputs: Annotated[dict[Name, Input], Meta(min_length=1, max_length=200)]
    classes: Annotated[dict[Text, dict[Name, Text]], Meta(min_length=2, max_length=1000)]
    description: str = ""
    answer: Answer = msgspec.field(default_factory=Answer)
    training: Training = msgspec.field(default_factory=Training)

    @property
    def labels(self) -> list[str]:
        """The names of the classes."""
        return list(self.classes)

    @property
    def columns(self) -> list[str]:
        """The names of the encoded columns, in order."""
        return [column for name, each in self.inputs.items() for column in each.names(name)]

    @property
    def fingerprint(self) -> str:
        """Of what the columns and classes mean; equal for versions that read the same inputs."""
        inputs = {
            name: msgspec.structs.replace(each, description="")
            for name, each in self.inputs.items()
        }
        meaning = msgspec.json.encode([self.target, [*inputs.items()], self.labels])
        return hashlib.sha256(meaning).hexdigest()

    def complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs in order, with defaults for what is missing or null; other keys are ignored.

        Raises InvalidRequest naming every input that is missing or is not what is expected.
        """
        taken: dict[str, Any] = {}
        errors = []
        for name, each in self.inputs.items():
            value = values.get(name)
            value = each.default if value is None else value
            fault = f"missing; expected {each.expected}" if value is None else each.check(value)
            if fault:
                errors.append(FieldError(name, fault))
            taken[name] = value if fault else each.taken(value)
        if errors:
            raise InvalidRequest(
                "The inputs are not valid: " + "; ".join(f"{e.field}: {e.message}" for e in errors),
                errors,
            )
        return taken

    def encode(self, inputs: Mapping[str, Any]) -> NDArray[float64]:
        """The row (columns,) of inputs that are `complete`."""
        row = [part for name, each in self.inputs.items() for part in each.encode(inputs[name])]
        return array(row, dtype=float64)


def read_definition(source: str) -> Definition:
    """Read a definition from its TOML text.

    Raises InvalidDefinition naming every place and what was expected there.
    """
    try:
        data = tomllib.loads(source)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
        raise InvalidDefinition(f"The definition is not TOML: {error}") from None
    try:
        definition = msgspec.convert(data, Definition)
    except msgspec.ValidationError as error:
        raise _invalid([*_shape_faults(data)] or [_fault("", error)]) from None
    if faults := [*_meaning_faults(definition)]:
        raise _invalid(faults)
    return definition


def _invalid(faults: list[FieldError]) -> InvalidDefinition:
    told = "; ".join(f"{fault.field}: {fault.message}" for fault in faults)
    return InvalidDefinition(f"The definition is not valid: {told}", faults)


def _shape_faults(data: Mapping[str, Any]) -> Iterator[FieldError]:
    """What is wrong with the inputs and classes that are there, each on its own: msgspec stops at
    the first and does not tell its name."""
    yield from _entry_faults("inputs", data.get("inputs"), Name, Input)
    classes = data.get("classes")
    yield from _entry_faults("classes", classes, Text, dict[str, Any])
    for label, told in classes.items() if isinstance(classes, dict) else ():
        yield from _entry_faults(f"classes.{label}", told, Name, Text)


def _entry_faults(table: str, entries: Any, key: Any, kind: Any) -> Iterator[FieldError]:
    """Those of the names and the values of a table, if it is one."""
    for name, value in entries.items() if isinstance(entries, dict) else ():
        for found, expected in ((name, key), (value, kind)):
            try:
                msgspec.convert(found, expected)
            except msgspec.ValidationError as error:
                yield _fault(f"{table}.{name}", error)


def _fault(place: str, error: msgspec.ValidationError) -> FieldError:
    """An error of msgspec, whose words end with “ - at `$.path`” below what was converted."""
    match = re.fullmatch(r"(.*?)(?: - at (?:`key` in )?`\$(.*)`)?", str(error), re.S)
    message, path = (match[1], match[2] or "") if match else (str(error), "")
    for pattern, meaning in IN_WORDS.items():
        message = message.replace(f"Expected `str` matching regex {pattern!r}", meaning)
    return FieldError(f"{place}{path}".lstrip(".") or "definition", message)


def _meaning_faults(definition: Definition) -> Iterator[FieldError]:
    """Everything that the types do not say."""
    yield from _input_faults(definition)
    first, *others = definition.classes.items()
    for label in definition.labels:
        if _CONTROL.search(label):
            yield FieldError("classes", f"{_shown(label)} has a control character")
    if "\0" in definition.description:
        yield FieldError("description", "has a NUL character")
    for label, facts in others:
        if facts.keys() != first[1].keys():
            yield FieldError(f"classes.{label}", f"must have the same keys as classes.{first[0]}")
    answer = definition.answer
    names = [answer.prediction, answer.confidence, answer.context, MODEL_VERSION, *first[1]]
    for name in _repeated(names):
        yield FieldError("answer", f"“{name}” would stand twice in an answer")
    for name in _repeated(definition.columns):
        yield FieldError("inputs", f"two columns would be named “{name}”")
    best = definition.training.best_possible
    for name in _repeated(
        each.lower() for each in (*definition.inputs, definition.target, *([best] if best else []))
    ):
        yield FieldError(
            "inputs", f"“{name}” would name two columns of a data set, where case does not count"
        )


def _input_faults(definition: Definition) -> Iterator[FieldError]:
    for name, each in definition.inputs.items():
        place = f"inputs.{name}"
        if isinstance(each, NumberInput) and not each.minimum < each.maximum:
            yield FieldError(place, "minimum must be below maximum")
        if isinstance(each, IntegerInput) and not (
            each.minimum.is_integer() and each.maximum.is_integer()
        ):
            yield FieldError(place, "minimum and maximum must be whole numbers")
        if isinstance(each, CategoryInput):
            if _repeated(each.values):
                yield FieldError(place, "a value is named twice")
            for value in filter(_CONTROL.search, each.values):
                yield FieldError(f"{place}.values", f"{_shown(value)} has a control character")
        if each.default is not None and (fault := each.check(each.default)):
            yield FieldError(f"{place}.default", fault)


def _repeated(names: Iterable[str]) -> list[str]:
    """Those that stand there more than once."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


def _shown(value: Any) -> str:
    """A value as JSON, cut to what a message has room for."""
    # A lone surrogate can't be sent.
    text = json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace").decode()
    return text if len(text) <= 60 else f"{text[:57]}…"
