"""Business rules: read from TOML, type-checked, compiled into one CEL program.

Each rule is an id, a reason, the inputs it reads and branches in order; the first branch that
holds counts. The compiler guards each branch with `input != null` for what it reads, so that an
unknown input means "does not hold". docs/rules.md describes the format for people.
"""

import hashlib
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple

import cel
import msgspec
from msgspec import Meta

from engine.errors import FieldError, InvalidRuleSet
from engine.expressions import BOOL, DOUBLE, STRING, STRINGS, ExpressionFault, check_expression

VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "amount": DOUBLE,
        "currency": STRING,
        "direction": STRING,
        "transaction_type": STRING,
        "country": STRING,
        "hour": DOUBLE,
        "same_wallet": BOOL,
        "source_balance": DOUBLE,
        "source_status": STRING,
        "account_age_minutes": DOUBLE,
        "destination_status": STRING,
        "user_status": STRING,
        "user_risk_level": STRING,
        "avg_amount_30d": DOUBLE,
        "tx_last_10min": DOUBLE,
        "is_new_beneficiary": BOOL,
        "blocked_tx_last_24h": DOUBLE,
        "user_country_history": STRINGS,
    }
)
"""What expressions can read, with its CEL type. Any of them may be null; numbers are floats."""

_SAMPLES: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        BOOL: (False, True, None),
        DOUBLE: (0.0, 1e15, -1e15, None),
        STRING: ("", "active", None),
        STRINGS: ([], ["FR"], None),
    }
)
_MAX_EXPRESSION = 1_000
_MICROSECONDS_PER_HOUR = 3_600_000_000
_UNITS = 10_000


class RuleResult(NamedTuple):
    """What a rule set says of one transaction."""

    fired: tuple[str, ...]
    """The ids of all rules that fired, in id order."""
    blocks: tuple[str, ...]
    """The reasons of those that block, in id order."""
    boosts: float
    """The sum of the boosts of those that raise the risk."""
    reasons: tuple[str, ...]
    """The reasons to give: of the blocking rules if there are any, else of the boosting ones."""

    @property
    def rule_score(self) -> float:
        """1.0 when a rule blocks, else min(1, boosts)."""
        return 1.0 if self.blocks else min(1.0, self.boosts)


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition, and either `then = "BLOCK"` or a boost in (0, 1]."""

    when: Annotated[str, Meta(min_length=1, max_length=_MAX_EXPRESSION)]
    then: Literal["BLOCK"] | None = None
    boost: Annotated[float, Meta(gt=0, le=1)] | None = None


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule as written."""

    id: Annotated[str, Meta(pattern=r"^[A-Z][A-Z_]{0,15}[0-9]{0,6}\Z")]
    reason: Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9_]{0,63}\Z")]
    inputs: Annotated[list[str], Meta(min_length=1)]
    branch: Annotated[list[Branch], Meta(min_length=1)]
    description: str = ""


class RuleSet:
    """A compiled, immutable set of rules. `sha256` (hex) is the digest of its text in UTF-8."""

    def __init__(self, text: str, rules: Sequence[Rule]) -> None:
        """Compile checked rules; use `from_toml` to read a set."""
        self.text = text
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        self.rules = tuple(sorted(rules, key=_id_order))
        self._program = _compile(self.rules) if self.rules else None

    @classmethod
    def from_toml(cls, text: str) -> "RuleSet":
        """Read a rule set; one without rules is valid.

        Raises InvalidRuleSet naming the rule and the place of every fault.
        """
        return cls(text, _read(text))

    @classmethod
    def default(cls) -> "RuleSet":
        """Return the default rule set."""
        return cls.from_toml(default_rules_text())

    def evaluate(self, context: Mapping[str, Any]) -> RuleResult:
        """Evaluate every rule in a context that has their inputs (see `rule_context`)."""
        return self.result(self.branches(context))

    def branches(self, context: Mapping[str, Any]) -> Sequence[int]:
        """Return for each rule the number of its branch that holds, from 1, or 0."""
        if self._program is None:
            return ()
        numbers: list[int] = self._program.execute(context)
        return numbers

    def part(self, rules: Sequence[int]) -> "RuleSet":
        """Return some of the rules, given by their positions, as a set of their own.

        No rule sees another, so `branches` says the same of each as in the whole set.
        """
        return RuleSet(self.text, [self.rules[at] for at in rules])

    def result(self, branches: Sequence[int]) -> RuleResult:
        """Return what the rules say together, given the branch of each that holds."""
        fired: list[str] = []
        blocks: list[str] = []
        raised: list[str] = []
        boosts = 0.0
        for rule, number in zip(self.rules, branches, strict=True):
            if not number:
                continue
            fired.append(rule.id)
            branch = rule.branch[number - 1]
            if branch.boost is None:
                blocks.append(rule.reason)
            else:
                raised.append(rule.reason)
                boosts += branch.boost
        return RuleResult(tuple(fired), tuple(blocks), boosts, tuple(blocks or raised))


def default_rules_text() -> str:
    """Return the text of the default rule set."""
    return files("engine").joinpath("default_rules.toml").read_text(encoding="utf-8")


def rule_context(
    *,
    amount: int,
    created_at: int,
    same_wallet: bool,
    currency: str,
    direction: str | None,
    transaction_type: str,
    country: str | None,
    source_balance: float | None,
    source_status: str | None,
    account_age_minutes: float | None,
    destination_status: str | None,
    user_status: str | None,
    user_risk_level: str | None,
    avg_amount_30d: float,
    tx_last_10min: float,
    is_new_beneficiary: float,
    blocked_tx_last_24h: float,
    user_country_history: Sequence[str],
) -> dict[str, Any]:
    """Return the context of one transaction, live or from a data set.

    `amount` is in ten-thousandths, `created_at` in microseconds UTC, balance and average in
    currency units. NaN reads as unknown, like None.
    """
    return {
        "amount": _in_currency(amount),
        "currency": currency,
        "direction": direction,
        "transaction_type": transaction_type,
        "country": country,
        "hour": _hour(created_at),
        "same_wallet": same_wallet,
        "source_balance": _known(source_balance),
        "source_status": source_status,
        "account_age_minutes": _known(account_age_minutes),
        "destination_status": destination_status,
        "user_status": user_status,
        "user_risk_level": user_risk_level,
        "avg_amount_30d": _known(avg_amount_30d),
        "tx_last_10min": _known(tx_last_10min),
        "is_new_beneficiary": _flag(is_new_beneficiary),
        "blocked_tx_last_24h": _known(blocked_tx_last_24h),
        "user_country_history": list(user_country_history),
    }


def _in_currency(amount: int) -> float:
    return amount / _UNITS


def _hour(created_at: int) -> float:
    return float(created_at // _MICROSECONDS_PER_HOUR % 24)


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _flag(value: float) -> bool | None:
    return None if math.isnan(value) else value > 0


CONVERSIONS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "amount": _in_currency,
        "hour": _hour,
        "source_balance": _known,
        "account_age_minutes": _known,
        "avg_amount_30d": _known,
        "tx_last_10min": _known,
        "blocked_tx_last_24h": _known,
        "is_new_beneficiary": _flag,
    }
)
"""How `rule_context` makes a variable of what it is given; it takes the others as they are."""


def _id_order(rule: Rule) -> tuple[str, int]:
    """Sort R2 before R10."""
    letters = rule.id.rstrip("0123456789")
    return letters, int(rule.id[len(letters) :] or 0)


def _read(text: str) -> list[Rule]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refused([FieldError("rules", f"not TOML: {error}")]) from None
    faults = [FieldError(key, "unknown key") for key in document if key != "rule"]
    raw_rules = document.get("rule", [])
    if not isinstance(raw_rules, list):
        raise _refused([*faults, FieldError("rule", "expected [[rule]] tables")])
    rules: list[Rule] = []
    for position, raw in enumerate(raw_rules, start=1):
        place = raw.get("id") if isinstance(raw, dict) else None
        where = place if isinstance(place, str) and place else f"rule {position}"
        try:
            rule = msgspec.convert(raw, Rule)
        except msgspec.ValidationError as error:
            faults.append(FieldError(where, str(error).replace("`$.", "`")))
            continue
        if any(rule.id == other.id for other in rules):
            faults.append(FieldError(where, "the id is used twice"))
        rules.append(rule)
        faults.extend(_rule_faults(rule))
    if faults:
        raise _refused(faults)
    return rules


def _refused(faults: Sequence[FieldError]) -> InvalidRuleSet:
    listed = "; ".join(f"{fault.field}: {fault.message}" for fault in faults)
    return InvalidRuleSet(f"The rule set is refused. {listed}", faults)


def _rule_faults(rule: Rule) -> list[FieldError]:
    faults = [
        FieldError(f"{rule.id}.inputs", f"unknown input {name!r}")
        for name in rule.inputs
        if name not in VARIABLES
    ]
    read: set[str] = set()
    for number, branch in enumerate(rule.branch, start=1):
        place = f"{rule.id}.branch {number}"
        if (branch.then is None) == (branch.boost is None):
            faults.append(FieldError(place, 'needs one of then = "BLOCK" and boost = number'))
        try:
            kind, used = check_expression(branch.when, VARIABLES)
            cel.compile(branch.when)
        except ExpressionFault as fault:
            message = f"{fault.message} (column {fault.column})"
            faults.append(FieldError(f"{place}.when", message))
            continue
        except ValueError as error:
            faults.append(FieldError(f"{place}.when", str(error)))
            continue
        if kind != BOOL:
            faults.append(FieldError(f"{place}.when", f"must be bool, not {kind}"))
        read |= used
        missing = sorted(used - set(rule.inputs))
        if missing:
            names = ", ".join(missing)
            faults.append(FieldError(f"{place}.when", f"reads {names}, not declared in inputs"))
    if not faults and (unread := sorted(set(rule.inputs) - read)):
        faults.append(FieldError(f"{rule.id}.inputs", f"declares {', '.join(unread)}, never read"))
    return faults


def _compile(rules: Sequence[Rule]) -> Any:
    """Compile rules to one list expression: for each, the number of its branch that holds, or 0.

    One program costs a third of one a rule, most of it the conversion of the context.
    """
    program = cel.compile(f"[{', '.join(map(_rule_expression, rules))}]")
    for index in range(4):
        sample = {n: _SAMPLES[kind][index % len(_SAMPLES[kind])] for n, kind in VARIABLES.items()}
        try:
            numbers = program.execute(sample)
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise _refused([FieldError("rules", f"can't be evaluated: {error}")]) from error
        if len(numbers) != len(rules):
            raise _refused([FieldError("rules", "an expression is not one expression")])
    return program


def _rule_expression(rule: Rule) -> str:
    expression = "0"
    for number in range(len(rule.branch), 0, -1):
        when = rule.branch[number - 1].when
        _, used = check_expression(when, VARIABLES)
        guards = "".join(f"{name} != null && " for name in sorted(used))
        expression = f"({guards}({when})) ? {number} : {expression}"
    return expression
