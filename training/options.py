"""A run's options: from what people write to `spec.Options`, and back to words."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from engine.errors import FieldError, RunRefused
from engine.features.schema import WITHOUT
from engine.kinds import CLASSIFIER, FRAUD, Kind
from training.pipeline.durations import format_duration, parse_duration
from training.pipeline.spec import (
    AnyOptions,
    ClassifierOptions,
    InvalidSpec,
    decode_options_of,
)

DATES = ("train_from", "train_until", "validate_until", "test_until", "cut_off")
NUMBERS = (
    "budget", "review_rate", "block_rate", "cost_review", "cost_block_legit", "test_share",
)  # fmt: skip
COUNTS = ("search", "fit_rows", "trees")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(MB|GB)", re.IGNORECASE)


class OptionField(NamedTuple):
    """How one option is given: the argument of the command and the field of the form, by name."""

    name: str
    path: tuple[str, ...]
    """Where it is in `spec.Options`, or in `spec.ClassifierOptions`."""
    label: str
    help: str


_FIT_ROWS = OptionField(
    "fit_rows",
    ("fit_rows",),
    "Fit rows",
    "Fit on at most this many rows, drawn at random: of fraud, legitimate transactions (1000000), "
    "weighed so that the fraud rate stays what it is; of a classifier, any (all).",
)
_MEMORY_LIMIT = OptionField(
    "memory_limit",
    ("memory_limit_mb",),
    "Memory limit",
    "Plan for this much memory, such as 6GB, and stop with a report above it.",
)
FRAUD_FIELDS: tuple[OptionField, ...] = (
    OptionField(
        "train_from",
        ("periods", "train_from"),
        "Train from",
        "Learn from transactions of this day on; earlier ones are history and nothing else.",
    ),
    OptionField(
        "train_until",
        ("periods", "train_until"),
        "Train until",
        "The first day that is not learnt from. With the next one it replaces the split by shares.",
    ),
    OptionField(
        "validate_until",
        ("periods", "validate_until"),
        "Validate until",
        "The first day after validation. The test part begins a label delay later.",
    ),
    OptionField(
        "test_until",
        ("periods", "test_until"),
        "Test until",
        "The first day after the test part; by default it ends with the data set.",
    ),
    OptionField(
        "label_delay",
        ("label_delay_us",),
        "Label delay",
        "How long a label takes to arrive, such as 7d, 12h or 0d. By default what the data set "
        "says, else 7d.",
    ),
    OptionField(
        "cut_off",
        ("cut_off",),
        "Cut-off",
        "Labels known later decide nothing. By default the beginning of the test part, or of the "
        "gap before it when the data set says when each label was known.",
    ),
    OptionField(
        "without",
        ("without",),
        "Without",
        "Groups of features to leave out: labels, balances, or both with a comma between.",
    ),
    OptionField(
        "search",
        ("search", "configurations"),
        "Search",
        "Try this many configurations of the supervised model by successive halving.",
    ),
    OptionField(
        "budget",
        ("search", "minutes"),
        "Search minutes",
        "Minutes that the search may take (30); the best so far is kept.",
    ),
    OptionField(
        "review_rate",
        ("budgets", "review"),
        "Review rate",
        "Share of the transactions to review or block (0.01).",
    ),
    OptionField(
        "block_rate",
        ("budgets", "block"),
        "Block rate",
        "Share of the transactions to block (0.001).",
    ),
    OptionField(
        "cost_review",
        ("costs", "review"),
        "Cost of a review",
        "Set the thresholds by cost: what looking at one transaction costs, in the currency.",
    ),
    OptionField(
        "cost_block_legit",
        ("costs", "block_legitimate"),
        "Cost of a wrong block",
        "Set the thresholds by cost: what blocking a legitimate transaction costs. A fraud that "
        "is let through costs its amount.",
    ),
    _FIT_ROWS,
    _MEMORY_LIMIT,
)
CLASSIFIER_FIELDS: tuple[OptionField, ...] = (
    OptionField(
        "test_share",
        ("test",),
        "Test share",
        "Of a classifier: the share of the rows that it is tested on (0.2).",
    ),
    OptionField(
        "trees",
        ("trees",),
        "Trees",
        "Of a classifier: of its forest; by default as many as its definition says, else 100.",
    ),
    _FIT_ROWS,
    _MEMORY_LIMIT,
)
FIELDS_OF: dict[Kind, tuple[OptionField, ...]] = {
    FRAUD: FRAUD_FIELDS,
    CLASSIFIER: CLASSIFIER_FIELDS,
}
FIELDS: tuple[OptionField, ...] = (
    *FRAUD_FIELDS,
    *(field for field in CLASSIFIER_FIELDS if field not in FRAUD_FIELDS),
)
"""Those of every kind of models."""


def read_options(given: Mapping[str, Any], kind: str = FRAUD) -> AnyOptions:
    """The options of a model of this kind from values by the names of `FIELDS`; None or an empty
    text is not given.

    Raises:
        RunRefused: the kind does not have the option, a value is not one that it can have, or lacks
            another; `errors` names the field.
    """
    values = {name: value for name, value in given.items() if value not in (None, "", ())}
    _refuse_others(values, kind)
    _refuse_halves(values)
    data: dict[str, Any] = {}
    for field in _fields(kind):
        if field.name not in values:
            continue
        place = data
        for step in field.path[:-1]:
            place = place.setdefault(step, {})
        try:
            place[field.path[-1]] = _READERS.get(field.name, _same)(values[field.name])
        except ValueError as error:
            raise _refusal(field.name, str(error)) from None
    try:
        return decode_options_of(kind, data)
    except InvalidSpec as error:
        raise _not_valid(error.detail, values, kind) from None


def describe_options(options: AnyOptions) -> list[tuple[str, str]]:
    """What was chosen, as pairs of words; what is the default is left out."""
    pairs = []
    defaults = type(options)()
    for field in _fields(_kind(options)):
        value, default = _at(options, field.path), _at(defaults, field.path)
        if value != default:
            pairs.append((field.label, _WRITERS.get(field.name, _plain)(value)))
    return pairs


def written_options(options: AnyOptions) -> dict[str, Any]:
    """The values that `read_options` would read as these, without what is the default."""
    values = {}
    defaults = type(options)()
    for field in _fields(_kind(options)):
        value = _at(options, field.path)
        if value != _at(defaults, field.path):
            values[field.name] = _REWRITERS.get(field.name, _same)(value)
    return values


def _kind(options: AnyOptions) -> Kind:
    return CLASSIFIER if isinstance(options, ClassifierOptions) else FRAUD


def _fields(kind: str) -> tuple[OptionField, ...]:
    return FIELDS_OF[CLASSIFIER if kind == CLASSIFIER else FRAUD]


def _refuse_others(values: Mapping[str, Any], kind: str) -> None:
    """Raise RunRefused, which names them all, for options that a model of this kind has not."""
    known = [field.name for field in _fields(kind)]
    others = [name for name in values if name not in known]
    if not others:
        return
    has = "a classifier has" if kind == CLASSIFIER else "a fraud model has"
    message = f"{has} no such option; it has {', '.join(_written(name) for name in known)}."
    raise RunRefused(
        f"{', '.join(map(_written, others))}: {message}",
        [FieldError(name, message) for name in others],
    )


def _refuse_halves(values: Mapping[str, Any]) -> None:
    """Some options mean something only together, or only apart."""
    for needed, by in (
        ("train_until", ("train_from", "validate_until", "test_until")),
        ("validate_until", ("train_until",)),
        ("search", ("budget",)),
        ("cost_review", ("cost_block_legit",)),
        ("cost_block_legit", ("cost_review",)),
    ):
        asking = next((name for name in by if name in values), None)
        if asking is not None and needed not in values:
            raise _refusal(needed, f"{_written(asking)} needs {_written(needed)} as well.")
    rates = [name for name in ("review_rate", "block_rate") if name in values]
    if rates and "cost_review" in values:
        raise _refusal(
            rates[0], "The thresholds are set by rates or by costs: give one of the two."
        )


def _refusal(name: str, message: str) -> RunRefused:
    return RunRefused(f"{_written(name)}: {message}", [FieldError(name, message)])


def _written(name: str) -> str:
    return "--" + name.replace("_", "-")


def _not_valid(detail: str, values: Mapping[str, Any], kind: str) -> RunRefused:
    """The refusal of what `decode_options` did not take: in words, by the option that was given."""
    found = re.search(r"at `\$\.([a-z_.]+)", detail)
    path = tuple(found[1].split(".")) if found else ()
    fields = [
        field for field in _fields(kind) if field.path[: len(path)] == path and field.name in values
    ]
    if not fields:
        return RunRefused(detail)
    name = fields[-1].name
    if fields[-1].path == path:
        return _refusal(name, f"{values[name]} is not {_EXPECTED[name]}.")
    return _refusal(name, _TOGETHER[path[0]])


def _at(options: AnyOptions, path: tuple[str, ...]) -> Any:
    value: Any = options
    for step in path:
        value = None if value is None else getattr(value, step)
    return value


def _same(value: Any) -> Any:
    return value


def _groups(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    groups = tuple(part.strip() for part in parts)
    if unknown := [group for group in groups if group not in WITHOUT]:
        raise ValueError(f"{unknown[0]!r} is no group of features; give {_EXPECTED['without']}.")
    if len(set(groups)) != len(groups):
        raise ValueError("a group is named twice.")
    return groups


def megabytes(value: str) -> int:
    """The MB (2 ** 20 bytes) in a size such as `6GB`; ValueError for what is none."""
    written = _SIZE.fullmatch(value.strip())
    if written is None:
        raise ValueError(f"{value!r} is not a size such as 6GB or 800MB")
    return round(float(written[1]) * (1024 if written[2].upper() == "GB" else 1))


def _moment(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M")


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


_SHARE = "a share above 0 and below 1, such as 0.01"
_PRICE = "an amount above 0, up to 1,000,000,000"
_EXPECTED = {
    **dict.fromkeys(DATES, "a moment with its time zone"),
    "label_delay": "a duration of whole seconds",
    "without": "labels, balances, or both with a comma between",
    "search": "a number of configurations from 2 to 1,000",
    "budget": "a number of minutes above 0, up to 10,000",
    **dict.fromkeys(("review_rate", "block_rate", "test_share"), _SHARE),
    "trees": "a number of trees from 1 to 1,000",
    **dict.fromkeys(("cost_review", "cost_block_legit"), _PRICE),
    "fit_rows": "a number of rows from 1,000 on",
    "memory_limit": "a size from 500MB on (of a classifier, from 300MB)",
}
"""What a value of each option is, in words."""
_TOGETHER = {
    "budgets": "The block rate (without --block-rate 0.001) must be below the review rate (without "
    "--review-rate 0.01).",
    "periods": "Each date must be later than the one before: train from, train until, validate "
    "until, test until.",
}
"""What values that are each fine must be together."""
_READERS: dict[str, Any] = {
    "label_delay": parse_duration,
    "memory_limit": megabytes,
    "without": _groups,
}
_WRITERS: dict[str, Any] = {
    "label_delay": format_duration,
    "memory_limit": lambda value: f"{value:,} MB",
    "without": ", ".join,
    **dict.fromkeys(
        ("train_from", "train_until", "validate_until", "test_until", "cut_off"), _moment
    ),
}
_REWRITERS: dict[str, Any] = {
    "label_delay": format_duration,
    "memory_limit": "{}MB".format,
    "without": ",".join,
}
