"""What to train: `spec.json`, written by the control plane and read by the pipeline."""

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from engine.errors import SentinelleError
from engine.kinds import CLASSIFIER, FRAUD, Kind
from training.pipeline.durations import LONGEST

Moment = Annotated[datetime, Meta(tz=True)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Price = Annotated[float, Meta(gt=0, le=1e9)]


class InvalidSpec(SentinelleError):
    """`spec.json` asks for something that can't be; the detail names the field."""

    code = "INVALID_SPEC"


class RuleSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The rule set that the thresholds are tuned with."""

    name: str
    toml: str


class Budgets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares of the rows that reach the models: blocked, and reviewed or blocked."""

    block: Share = 0.001
    review: Share = 0.01

    def __post_init__(self) -> None:
        if not self.block < self.review:
            raise ValueError("budgets: 0 < block < review < 1")


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a decision costs, in units of the currency. A fraud that is let through costs its
    amount; one that is reviewed or blocked costs nothing more than the review."""

    review: Price
    """Looking at one transaction."""
    block_legitimate: Price
    """Blocking one that was legitimate."""


class Periods(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[train_from, train_until) trains, [train_until, validate_until) validates, and the test part
    is [validate_until + label delay, test_until). Without an end: to the data set's."""

    train_until: Moment
    validate_until: Moment
    train_from: Moment | None = None
    test_until: Moment | None = None

    def __post_init__(self) -> None:
        given = [self.train_from, self.train_until, self.validate_until, self.test_until]
        moments = [moment for moment in given if moment is not None]
        if any(later <= earlier for earlier, later in pairwise(moments)):
            raise ValueError(
                "periods: train_from < train_until < validate_until < test_until is needed"
            )


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many configurations of the supervised model to try, and for how long at most."""

    configurations: Annotated[int, Meta(ge=2, le=1_000)]
    minutes: Annotated[float, Meta(gt=0, le=10_000)] = 30.0


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Overrides for the two estimators, by scikit-learn's names."""

    supervised: dict[str, Any] = {}
    unsupervised: dict[str, Any] = {}


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person may choose about a run, beside its data set, rules, sample and seed."""

    split: tuple[Share, Share, Share] = (0.7, 0.15, 0.15)
    """Shares of the rows, where there are no `periods`."""
    periods: Periods | None = None
    label_delay_us: Annotated[int, Meta(ge=0, le=LONGEST, multiple_of=1_000_000)] | None = None
    """How long a label takes to arrive; None: what the data set says, else 7 days."""
    cut_off: Moment | None = None
    """Labels known later decide nothing that is fitted or tuned; see `split.Split`."""
    without: tuple[Literal["labels", "balances"], ...] = ()
    """Groups of features to leave out."""
    search: Search | None = None
    budgets: Budgets = msgspec.field(default_factory=Budgets)
    costs: Costs | None = None
    """Set the thresholds by cost and not by `budgets`."""
    fit_rows: Annotated[int, Meta(ge=1_000)] = 1_000_000
    """Fit on this many legitimate rows at most, drawn at random, and on every fraud."""
    memory_limit_mb: Annotated[int, Meta(ge=500)] | None = None
    hyperparameters: Hyperparameters = msgspec.field(default_factory=Hyperparameters)

    def __post_init__(self) -> None:
        if abs(sum(self.split) - 1) > 1e-9:
            raise ValueError("split: three positive shares that sum to 1")
        if len(set(self.without)) != len(self.without):
            raise ValueError("without: a group is named twice")


class Champion(msgspec.Struct, frozen=True, kw_only=True):
    """The version that serves when the run starts, to be scored on the same test part."""

    version: str
    location: str
    """Folder of its bundle."""
    manifest_sha256: str


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One training run."""

    run_id: str
    model: str
    version: str
    dataset: str
    """Location of the data set's `data.parquet`."""
    dataset_fingerprint: str
    rules: RuleSpec
    sample: Annotated[int, Meta(ge=1)] | None = None
    """Only the most recent rows; the version is then not deployable."""
    seed: int = 0
    options: Options = msgspec.field(default_factory=Options)
    champion: Champion | None = None


class ClassifierOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person may choose about a classifier's run, beside its data set, sample and seed."""

    test: Share = 0.2
    """Share of the rows that the version is tested on."""
    trees: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """None: as many as the definition says."""
    fit_rows: Annotated[int, Meta(ge=1_000)] | None = None
    """Fit on this many rows at most, drawn at random."""
    memory_limit_mb: Annotated[int, Meta(ge=300)] | None = None


class ClassifierSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One training run of a classifier."""

    kind: Literal["classifier"] = CLASSIFIER
    run_id: str
    model: str
    version: str
    definition: str
    """The TOML text of the model's definition."""
    dataset: str
    """Location of the data set's `data.parquet`."""
    dataset_fingerprint: str
    sample: Annotated[int, Meta(ge=1)] | None = None
    """Only the first rows; the version is then not deployable."""
    seed: int = 0
    options: ClassifierOptions = msgspec.field(default_factory=ClassifierOptions)
    champion: Champion | None = None


AnySpec = RunSpec | ClassifierSpec
AnyOptions = Options | ClassifierOptions
OptionsT = TypeVar("OptionsT", Options, ClassifierOptions)


class _KindOnly(msgspec.Struct):
    kind: Kind = FRAUD


def decode_spec(data: bytes) -> AnySpec:
    """Raises: InvalidSpec: naming the field and what was expected."""
    try:
        kind = msgspec.json.decode(data, type=_KindOnly).kind
        if kind == CLASSIFIER:
            return msgspec.json.decode(data, type=ClassifierSpec)
        return msgspec.json.decode(data, type=RunSpec)
    except msgspec.MsgspecError as error:
        raise InvalidSpec(f"spec.json is not valid: {error}") from error


def decode_options(data: Mapping[str, Any]) -> Options:
    """The options from JSON types, as `encode_options` gives them.

    Raises:
        InvalidSpec: naming the field and what was expected.
    """
    return _converted(data, Options)


def decode_classifier_options(data: Mapping[str, Any]) -> ClassifierOptions:
    """`decode_options`, of a classifier."""
    return _converted(data, ClassifierOptions)


def decode_options_of(kind: str, data: Mapping[str, Any]) -> AnyOptions:
    """`decode_options`, of a model of this kind."""
    return decode_classifier_options(data) if kind == CLASSIFIER else decode_options(data)


def _converted(data: Mapping[str, Any], kind: type[OptionsT]) -> OptionsT:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidSpec(str(error)) from error


def encode_options(options: AnyOptions) -> dict[str, Any]:
    """The options that are not the default, as JSON types."""
    defaults = msgspec.to_builtins(type(options)())
    given = msgspec.to_builtins(options)
    return {name: value for name, value in given.items() if value != defaults[name]}
