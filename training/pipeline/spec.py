"""What to train: `spec.json`, written by the control plane and read by the pipeline."""

from typing import Any

import msgspec

from engine.errors import SentinelleError


class InvalidSpec(SentinelleError):
    """`spec.json` asks for something that can't be; the detail names the field."""

    code = "INVALID_SPEC"


class RuleSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The rule set that the thresholds are tuned with."""

    name: str
    toml: str


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the rows that reach the models: blocked, and reviewed or blocked."""

    block: float = 0.001
    review: float = 0.01


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision costs, in units of the currency. A fraud that is let through costs its
    amount; one that is reviewed or blocked costs nothing more than the review."""

    review: float
    """Looking at one transaction."""
    block_legitimate: float
    """Blocking one that was legitimate."""


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True):
    """Overrides for the two estimators, by scikit-learn's names."""

    supervised: dict[str, Any] = {}
    unsupervised: dict[str, Any] = {}


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One training run."""

    run_id: str
    model: str
    version: str
    dataset: str
    """Location of the data set's `data.parquet`."""
    dataset_fingerprint: str
    rules: RuleSpec
    sample: int | None = None
    """Only the most recent rows; the version is then not deployable."""
    seed: int = 0
    split: tuple[float, float, float] = (0.7, 0.15, 0.15)
    budgets: Budgets = msgspec.field(default_factory=Budgets)
    hyperparameters: Hyperparameters = msgspec.field(default_factory=Hyperparameters)

    def __post_init__(self) -> None:
        if min(self.split) <= 0 or abs(sum(self.split) - 1) > 1e-9:
            raise ValueError("split: three positive shares that sum to 1")
        if self.sample is not None and self.sample < 1:
            raise ValueError("sample: at least 1 row")
        if not 0 < self.budgets.block < self.budgets.review < 1:
            raise ValueError("budgets: 0 < block < review < 1")


def decode_spec(data: bytes) -> RunSpec:
    """Raises: InvalidSpec: naming the field and what was expected."""
    try:
        return msgspec.json.decode(data, type=RunSpec)
    except msgspec.MsgspecError as error:
        raise InvalidSpec(f"spec.json is not valid: {error}") from error
