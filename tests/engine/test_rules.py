import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRuleSet
from engine.rules import VARIABLES, RuleSet, default_rules_text, rule_context

DEFAULT = RuleSet.default()

QUIET: dict[str, Any] = {
    "amount": 20.0,
    "currency": "PYC",
    "direction": "outgoing",
    "transaction_type": "TRANSFER",
    "country": "FR",
    "hour": 12.0,
    "same_wallet": False,
    "source_balance": 100_000.0,
    "source_status": "active",
    "account_age_minutes": 500_000.0,
    "destination_status": "active",
    "user_status": "active",
    "user_risk_level": "low",
    "avg_amount_30d": 1_000.0,
    "tx_last_10min": 0.0,
    "is_new_beneficiary": False,
    "blocked_tx_last_24h": 0.0,
    "user_country_history": ["FR"],
}
"""A context in which no rule fires."""

UNKNOWN = dict.fromkeys(QUIET)

REASONS = {
    "R1": "RULE_MAX_AMOUNT",
    "R2": "RULE_INSUFFICIENT_FUNDS",
    "R3": "RULE_ACCOUNT_LOCKED",
    "R4": "RULE_SELF_TRANSFER",
    "R5": "RULE_INVALID_AMOUNT",
    "R6": "RULE_COUNTRY_BLOCKED",
    "R7": "RULE_DESTINATION_LOCKED",
    "R8": "RULE_AMOUNT_ANOMALY",
    "R9": "RULE_FREQ_SPIKE",
    "R10": "RULE_NEW_ACCOUNT_ACTIVITY",
    "R11": "RULE_NEW_BENEFICIARY",
    "R12": "RULE_GEO_ANOMALY",
    "R13": "RULE_ODD_HOUR",
    "R14": "RULE_HIGH_RISK_PROFILE",
    "R15": "RULE_RECIDIVISM",
}

BLOCK = "BLOCK"
STEP = 0.0001  # the smallest difference between two amounts
# Rule, what differs from the quiet context, and what is expected: BLOCK, a boost, or None.
CASES: list[tuple[str, dict[str, Any], str | float | None]] = [
    ("R1", {"amount": 300.0}, None),
    ("R1", {"amount": 300.0 - STEP}, None),
    ("R1", {"amount": 300.0 + STEP}, BLOCK),
    ("R2", {"source_balance": 20.0}, None),
    ("R2", {"source_balance": 20.0 + STEP}, None),
    ("R2", {"source_balance": 20.0 - STEP}, BLOCK),
    ("R3", {"source_status": "locked"}, BLOCK),
    ("R3", {"source_status": "ACTIVE"}, BLOCK),
    ("R3", {"user_status": "locked"}, BLOCK),
    ("R3", {"source_status": "locked", "user_status": "locked"}, BLOCK),
    ("R3", {"source_status": "locked", "user_status": None}, BLOCK),
    ("R3", {"source_status": None, "user_status": "locked"}, BLOCK),
    ("R3", {"source_status": None}, None),
    ("R4", {"same_wallet": True}, BLOCK),
    ("R5", {"amount": 0.0}, BLOCK),
    ("R5", {"amount": -STEP}, BLOCK),
    ("R5", {"amount": STEP}, None),
    ("R6", {"country": "KP", "user_country_history": []}, BLOCK),
    ("R6", {"country": "IR", "user_country_history": []}, BLOCK),
    ("R6", {"country": "SY", "user_country_history": []}, BLOCK),
    ("R6", {"country": "KR", "user_country_history": []}, None),
    ("R7", {"destination_status": "closed"}, BLOCK),
    ("R8", {"amount": 20.0, "avg_amount_30d": 2.0}, 0.2),
    ("R8", {"amount": 20.0 + STEP, "avg_amount_30d": 2.0}, 0.3),
    ("R8", {"amount": 20.0 - STEP, "avg_amount_30d": 2.0}, 0.2),
    ("R8", {"amount": 20.0, "avg_amount_30d": 4.0}, None),
    ("R8", {"amount": 20.0 + STEP, "avg_amount_30d": 4.0}, 0.2),
    ("R8", {"amount": 20.0 - STEP, "avg_amount_30d": 4.0}, None),
    ("R9", {"tx_last_10min": 9.0}, None),
    ("R9", {"tx_last_10min": 10.0}, 0.2),
    ("R9", {"tx_last_10min": 11.0}, 0.2),
    ("R9", {"tx_last_10min": 19.0}, 0.2),
    ("R9", {"tx_last_10min": 20.0}, 0.3),
    ("R9", {"tx_last_10min": 21.0}, 0.3),
    ("R10", {"account_age_minutes": 4.999, "amount": 100.0 + STEP}, 0.3),
    ("R10", {"account_age_minutes": 4.999, "amount": 100.0}, 0.2),
    ("R10", {"account_age_minutes": 5.0, "amount": 100.0 + STEP}, 0.2),
    ("R10", {"account_age_minutes": 59.999, "amount": 50.0 + STEP}, 0.2),
    ("R10", {"account_age_minutes": 59.999, "amount": 50.0}, None),
    ("R10", {"account_age_minutes": 60.0, "amount": 50.0 + STEP}, None),
    ("R10", {"account_age_minutes": 0.0, "amount": 50.0}, None),
    ("R11", {"is_new_beneficiary": True, "amount": 80.0}, None),
    ("R11", {"is_new_beneficiary": True, "amount": 80.0 + STEP}, 0.2),
    ("R11", {"is_new_beneficiary": True, "amount": 200.0}, 0.2),
    ("R11", {"is_new_beneficiary": True, "amount": 200.0 + STEP}, BLOCK),
    ("R11", {"is_new_beneficiary": False, "amount": 200.0 + STEP}, None),
    ("R12", {"country": "DE", "amount": 150.0}, None),
    ("R12", {"country": "DE", "amount": 150.0 + STEP}, BLOCK),
    ("R12", {"country": "FR", "amount": 150.0 + STEP}, None),
    ("R12", {"country": "DE", "amount": 150.0 + STEP, "user_country_history": []}, None),
    ("R12", {"country": "DE", "amount": 151.0, "user_country_history": ["DE", "FR"]}, None),
    ("R12", {"country": "DE", "amount": 151.0, "user_country_history": ["BE", "FR"]}, BLOCK),
    ("R13", {"hour": 0.0, "amount": 120.0 + STEP}, None),
    ("R13", {"hour": 1.0, "amount": 120.0 + STEP}, BLOCK),
    ("R13", {"hour": 2.0, "amount": 120.0 + STEP}, BLOCK),
    ("R13", {"hour": 4.0, "amount": 120.0 + STEP}, BLOCK),
    ("R13", {"hour": 5.0, "amount": 120.0 + STEP}, None),
    ("R13", {"hour": 1.0, "amount": 120.0}, 0.2),
    ("R13", {"hour": 4.0, "amount": 60.0 + STEP}, 0.2),
    ("R13", {"hour": 4.0, "amount": 60.0}, None),
    ("R13", {"hour": 5.0, "amount": 60.0 + STEP}, None),
    ("R13", {"hour": 0.0, "amount": 60.0 + STEP}, None),
    ("R14", {"user_risk_level": "high", "amount": 50.0}, None),
    ("R14", {"user_risk_level": "high", "amount": 50.0 + STEP}, 0.2),
    ("R14", {"user_risk_level": "high", "amount": 150.0}, 0.2),
    ("R14", {"user_risk_level": "high", "amount": 150.0 + STEP}, BLOCK),
    ("R14", {"user_risk_level": "medium", "amount": 150.0 + STEP}, None),
    ("R15", {"blocked_tx_last_24h": 0.0}, None),
    ("R15", {"blocked_tx_last_24h": 1.0}, 0.2),
    ("R15", {"blocked_tx_last_24h": 2.0}, 0.2),
    ("R15", {"blocked_tx_last_24h": 3.0}, BLOCK),
    ("R15", {"blocked_tx_last_24h": 4.0}, BLOCK),
]

# For each rule, a context in which it fires, whichever of the inputs listed is then unknown.
FIRING = {
    "R1": ({"amount": 301.0}, ["amount"]),
    "R2": ({"source_balance": 1.0}, ["source_balance", "amount"]),
    "R4": ({"same_wallet": True}, ["same_wallet"]),
    "R5": ({"amount": 0.0}, ["amount"]),
    "R6": ({"country": "KP"}, ["country"]),
    "R7": ({"destination_status": "closed"}, ["destination_status"]),
    "R8": ({"avg_amount_30d": 1.0}, ["amount", "avg_amount_30d"]),
    "R9": ({"tx_last_10min": 30.0}, ["tx_last_10min"]),
    "R10": (
        {"account_age_minutes": 1.0, "amount": 150.0},
        ["account_age_minutes", "amount"],
    ),
    "R11": ({"is_new_beneficiary": True, "amount": 250.0}, ["is_new_beneficiary", "amount"]),
    "R12": (
        {"country": "DE", "amount": 151.0},
        ["country", "amount", "user_country_history"],
    ),
    "R13": ({"hour": 2.0, "amount": 150.0}, ["hour", "amount"]),
    "R14": ({"user_risk_level": "high", "amount": 151.0}, ["user_risk_level", "amount"]),
    "R15": ({"blocked_tx_last_24h": 5.0}, ["blocked_tx_last_24h"]),
}


def rule(when: str = "amount > 1.0", **fields: str) -> str:
    """A rule set of one rule, as TOML; fields are TOML values."""
    inputs = fields.pop("inputs", '["amount"]')
    effect = fields.pop("effect", 'then = "BLOCK"')
    lines = {"id": '"R1"', "reason": '"RULE_X"', "inputs": inputs, **fields}
    head = "\n".join(f"{key} = {value}" for key, value in lines.items() if value)
    return f"[[rule]]\n{head}\n[[rule.branch]]\nwhen = '''{when}'''\n{effect}\n"


def refusal(text: str) -> dict[str, str]:
    with pytest.raises(InvalidRuleSet) as caught:
        RuleSet.from_toml(text)
    found = {fault.field: fault.message for fault in caught.value.errors}
    assert all(field in caught.value.detail for field in found)
    return found


def test_nothing_fires_in_a_quiet_context() -> None:
    result = DEFAULT.evaluate(QUIET)
    assert result == ((), (), 0.0, ())
    assert result.rule_score == 0.0


@pytest.mark.parametrize(("name", "changes", "expected"), CASES)
def test_each_rule_at_its_thresholds(
    name: str, changes: dict[str, Any], expected: str | float | None
) -> None:
    result = DEFAULT.evaluate({**QUIET, **changes})
    reason = REASONS[name]
    if expected is None:
        assert name not in result.fired
        assert reason not in result.reasons
    elif expected == BLOCK:
        assert result.blocks == result.reasons == (reason,)
        assert result.rule_score == 1.0
    else:
        assert (result.fired, result.blocks, result.reasons) == ((name,), (), (reason,))
        assert result.boosts == result.rule_score == expected


@pytest.mark.parametrize("name", FIRING)
def test_a_rule_with_an_unknown_input_does_not_fire(name: str) -> None:
    changes, inputs = FIRING[name]
    assert name in DEFAULT.evaluate({**QUIET, **changes}).fired
    for unknown in inputs:
        assert name not in DEFAULT.evaluate({**QUIET, **changes, unknown: None}).fired


def test_nothing_fires_when_nothing_is_known() -> None:
    assert DEFAULT.evaluate(UNKNOWN).fired == ()


def test_all_blocking_rules_are_reported_in_id_order() -> None:
    everything = {
        "amount": 301.0,
        "source_balance": 1.0,
        "source_status": "locked",
        "same_wallet": True,
        "country": "KP",
        "destination_status": "closed",
        "avg_amount_30d": 1.0,
        "tx_last_10min": 30.0,
        "account_age_minutes": 1.0,
        "is_new_beneficiary": True,
        "hour": 2.0,
        "user_risk_level": "high",
        "blocked_tx_last_24h": 5.0,
    }
    result = DEFAULT.evaluate({**QUIET, **everything})
    assert result.fired == tuple(f"R{n}" for n in range(1, 16) if n != 5)
    boosting = {REASONS[name] for name in ("R8", "R9", "R10")}
    blocking = [REASONS[name] for name in result.fired if REASONS[name] not in boosting]
    assert list(result.blocks) == list(result.reasons) == blocking
    assert result.rule_score == 1.0


def test_boosts_add_up_and_the_rule_score_stops_at_one() -> None:
    loud = {
        "avg_amount_30d": 1.0,
        "tx_last_10min": 30.0,
        "account_age_minutes": 1.0,
        "amount": 110.0,
        "is_new_beneficiary": True,
        "user_risk_level": "high",
        "blocked_tx_last_24h": 1.0,
    }
    result = DEFAULT.evaluate({**QUIET, **loud})
    assert result.fired == ("R8", "R9", "R10", "R11", "R14", "R15")
    assert result.boosts == pytest.approx(1.5)
    assert result.rule_score == 1.0
    assert result.blocks == ()


def test_a_whole_number_may_be_an_int() -> None:
    context = {**QUIET, "blocked_tx_last_24h": 3, "hour": 12, "tx_last_10min": 0}
    assert DEFAULT.evaluate(context).fired == ("R15",)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(-1e15, 1e15) | st.sampled_from([0.0, 50.0, 150.0, 300.0]),
    "string": st.sampled_from(["active", "high", "FR", "KP", ""]),
    "bool": st.booleans(),
    "list(string)": st.lists(st.sampled_from(["FR", "DE"])),
}
CONTEXTS = st.fixed_dictionaries(
    {name: st.none() | VALUES[kind] for name, kind in VARIABLES.items()}
)


@given(CONTEXTS)
def test_any_context_is_evaluated(context: dict[str, Any]) -> None:
    result = DEFAULT.evaluate(context)
    assert set(result.fired) <= set(REASONS)
    assert set(result.blocks) <= {REASONS[name] for name in result.fired}
    assert 0.0 <= result.rule_score <= 1.0


def test_an_empty_set_never_fires() -> None:
    for text in ("", "# none\n", "rule = []"):
        rules = RuleSet.from_toml(text)
        assert rules.evaluate(UNKNOWN).fired == ()
        assert rules.rules == ()


def test_the_digest_is_of_the_text() -> None:
    assert RuleSet.from_toml("").sha256.startswith("e3b0c44298fc1c149afbf4c8996fb924")
    assert RuleSet.from_toml("# x").sha256 != RuleSet.from_toml("").sha256
    assert RuleSet.from_toml(default_rules_text()).sha256 == DEFAULT.sha256


def test_rules_are_ordered_by_number_and_the_first_branch_counts() -> None:
    text = "".join(
        rule(f"amount > {limit}.0", id=f'"{name}"', reason=f'"RULE_{name}"', effect=effect)
        for name, limit, effect in (
            ("R10", 1, 'then = "BLOCK"'),
            ("R9", 1, 'then = "BLOCK"'),
            ("A2", 1, "boost = 0.1\n[[rule.branch]]\nwhen = 'amount > 0.0'\nthen = 'BLOCK'"),
        )
    )
    result = RuleSet.from_toml(text).evaluate(QUIET)
    assert result.fired == ("A2", "R9", "R10")
    assert result.blocks == ("RULE_R9", "RULE_R10")
    assert result.boosts == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("when", "inputs", "fragment"),
    [
        ("amount >", ["amount"], "unexpected end (column 9)"),
        ("amount > 1.0)", ["amount"], "unexpected ')' (column 13)"),
        ("(amount > 1.0", ["amount"], "expected ')' (column 14)"),
        ("amount > 1.0) || (true", ["amount"], "unexpected ')' (column 13)"),
        ("amount > 1.0, true", ["amount"], "unexpected ',' (column 13)"),
        ("amount § 1.0", ["amount"], "unexpected '§' (column 8)"),
        ("amount > 1.0 // always", ["amount"], "unexpected '/' (column 15)"),
        ("amuont > 1.0", ["amount"], "unknown name 'amuont' (column 1)"),
        ("amount > 1.0 && nothing", ["amount"], "unknown name 'nothing' (column 17)"),
        ("false && nothing > 1.0", ["amount"], "unknown name 'nothing' (column 10)"),
        ("amount > 10 * avg_amount_30d", ["amount", "avg_amount_30d"], "int and double"),
        ("false && amount * 2 > 1.0", ["amount"], "double and int"),
        ("amount + 1 > 2.0", ["amount"], "double and int"),
        ("1 + 1 > 2", ["amount"], "needs doubles"),
        ("amount == 'x'", ["amount"], "== can't be applied to double and string"),
        ("amount != null", ["amount"], "unknown name 'null'"),
        ("country > 1.0", ["country"], "string and double"),
        ("country in 'FR'", ["country"], "in can't be applied"),
        ("amount in ['FR']", ["amount"], "in can't be applied to double and list(string)"),
        ("country in ['FR', 1.0]", ["country"], "one type (column 12)"),
        ("country in []", ["country"], "one or more values"),
        ("same_wallet < true", ["same_wallet"], "< can't be applied to bool and bool"),
        ("1.0 < amount < 2.0", ["amount"], "< can't be applied to bool and double"),
        ("!amount", ["amount"], "! needs bool"),
        ("-country == 'x'", ["country"], "- needs a number"),
        ("amount", ["amount"], "must be bool, not double"),
        ("amount + 1.0", ["amount"], "must be bool, not double"),
        ("[amount > 1.0]", ["amount"], "must be bool, not list(bool)"),
        ("amount > 1.0 ? 1.0 : 2.0", ["amount"], "must be bool, not double"),
        ("amount ? true : false", ["amount"], "the condition must be bool"),
        ("same_wallet ? true : 1.0", ["same_wallet"], "the branches are bool and double"),
        ("amount && true", ["amount"], "&& can't be applied"),
        ("size(amount) > 1", ["amount"], "double has no size"),
        ("now() > 1", ["amount"], "unexpected ')'"),
        ("now(amount) > 1", ["amount"], "unknown function 'now'"),
        ("country.matches('(a+)+$')", ["country"], "string has no 'matches'"),
        ("user_country_history.exists(c, c == 'FR')", ["user_country_history"], "no 'exists'"),
        ("amount / 0.0 > 1.0", ["amount"], "the divisor"),
        ("amount / avg_amount_30d > 1.0", ["amount", "avg_amount_30d"], "the divisor"),
        ("amount > 1e400", ["amount"], "above 1e15"),
        ("(" * 60 + "true" + ")" * 60, ["amount"], "nested too deeply"),
        ("!" * 900 + "true", ["amount"], "nested too deeply"),
        ("amount > avg_amount_30d", ["amount"], "reads avg_amount_30d, not declared in inputs"),
    ],
)
def test_a_faulty_expression_is_refused_with_its_place(
    when: str, inputs: list[str], fragment: str
) -> None:
    found = refusal(rule(when, id='"R7"', inputs=str(inputs)))
    assert fragment in found["R7.branch 1.when"]


@pytest.mark.parametrize(
    ("text", "place", "fragment"),
    [
        ("[[rule]", "rules", "not TOML"),
        ("rule = 1", "rule", "expected [[rule]] tables"),
        ("rule = [1]", "rule 1", "Expected `object`"),
        ("[rules]\n" + rule(), "rules", "unknown key"),
        (rule(id=""), "rule 1", "missing required field `id`"),
        (rule(id='"r1"'), "r1", "matching regex"),
        (rule(reason=""), "R1", "missing required field `reason`"),
        (rule(reason='"too low"'), "R1", "`reason`"),
        (rule(inputs="[]"), "R1", "`inputs`"),
        (rule(inputs='["amount", "mood"]'), "R1.inputs", "unknown input 'mood'"),
        (rule(inputs='["amount", "country"]'), "R1.inputs", "declares country, never read"),
        (rule(extra="1"), "R1", "unknown field `extra`"),
        (rule() + rule(), "R1", "the id is used twice"),
        (rule(effect=""), "R1.branch 1", "needs one of"),
        (rule(effect='then = "BLOCK"\nboost = 0.1'), "R1.branch 1", "needs one of"),
        (rule(effect='then = "REVIEW"'), "R1", "branch[0].then"),
        (rule(effect="boost = 0.0"), "R1", "branch[0].boost"),
        (rule(effect="boost = 1.1"), "R1", "branch[0].boost"),
        (rule(effect="boost = inf"), "R1", "branch[0].boost"),
        (rule(effect="boost = '0.1'"), "R1", "branch[0].boost"),
        (rule(effect="weight = 1.0"), "R1", "unknown field `weight`"),
        (rule("amount > 1.0 || " * 100 + "true"), "R1", "branch[0].when"),
        ('[[rule]]\nid="R1"\nreason="X"\ninputs=["amount"]\nbranch=[]', "R1", "`branch`"),
    ],
)
def test_a_faulty_rule_is_refused_with_its_place(text: str, place: str, fragment: str) -> None:
    assert fragment in refusal(text)[place]


def test_nan_is_not_a_boost() -> None:
    assert "R1" in " ".join(refusal(rule(effect="boost = nan")))


def test_all_faults_of_a_set_are_named_at_once() -> None:
    text = rule("amount > ", id='"R1"') + rule("mood > 1.0", id='"R2"') + rule(id='"R3"')
    assert set(refusal(text)) == {"R1.branch 1.when", "R2.branch 1.when"}


@pytest.mark.parametrize(
    ("when", "inputs", "expected"),
    [
        ("amount > 10", ["amount"], True),
        ("amount == 20", ["amount"], True),
        ("-amount < -10.0 && !(amount >= 21.0)", ["amount"], True),
        ("amount / 2.0 - 1.0 + 3.0 * 2.0 == 15.0", ["amount"], True),
        ("10.0 - 5.0 - 5.0 == 0.0 && amount > 0.0", ["amount"], True),
        ("country.startsWith('F') && country.endsWith('R')", ["country"], True),
        ('country in ["DE", "BE"] || country.contains("R")', ["country"], True),
        ("amount > 1.0 || amount > 2.0 && amount > 30.0", ["amount"], True),
        ("double(size(user_country_history)) * 1.5 > 1.0", ["user_country_history"], True),
        ("(amount > 30.0 ? country == 'DE' : country == 'FR')", ["amount", "country"], True),
        ("amount > 30.0 ? true : false", ["amount"], False),
        ("amount\n  > 10.0", ["amount"], True),
        ("country == \"a'b\" || country == 'a\"b'", ["country"], False),
    ],
)
def test_well_typed_expressions_mean_what_cel_says(
    when: str, inputs: list[str], expected: bool
) -> None:
    rules = RuleSet.from_toml(rule(when, inputs=str(inputs)))
    assert bool(rules.evaluate(QUIET).fired) is expected
    assert rules.evaluate(UNKNOWN).fired == ()


def context(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "amount": 400_000,
        "created_at": 1_769_169_600_000_000,
        "same_wallet": False,
        "currency": "PYC",
        "direction": "outgoing",
        "transaction_type": "TRANSFER",
        "country": None,
        "source_balance": None,
        "source_status": None,
        "account_age_minutes": None,
        "destination_status": None,
        "user_status": None,
        "user_risk_level": None,
        "avg_amount_30d": math.nan,
        "tx_last_10min": 0.0,
        "is_new_beneficiary": math.nan,
        "blocked_tx_last_24h": 0.0,
        "user_country_history": (),
    }
    return rule_context(**{**values, **changes})


def test_the_context_has_every_variable() -> None:
    assert context().keys() == VARIABLES.keys()
    assert DEFAULT.evaluate(context()).fired == ()


def test_the_context_turns_units_times_and_nan_into_what_rules_read() -> None:
    read = context(is_new_beneficiary=1.0, user_country_history=("FR",))
    assert read["amount"] == 40.0
    assert read["hour"] == 12.0
    assert read["is_new_beneficiary"] is True
    assert read["user_country_history"] == ["FR"]
    assert context()["avg_amount_30d"] is None
    assert context()["is_new_beneficiary"] is None
    assert context(source_balance=math.nan)["source_balance"] is None


@pytest.mark.parametrize(
    ("microseconds", "hour"),
    [(0, 0.0), (3_600_000_000 - 1, 0.0), (3_600_000_000, 1.0), (5 * 3_600_000_000 - 1, 4.0),
     (24 * 3_600_000_000, 0.0)],
)  # fmt: skip
def test_hours_are_whole_and_utc(microseconds: int, hour: float) -> None:
    assert context(created_at=microseconds)["hour"] == hour


def test_the_documentation_names_every_rule_and_every_input() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    for rule in DEFAULT.rules:
        assert f"| {rule.id} |" in text
        assert f"`{rule.reason}`" in text
    for name in VARIABLES:
        assert f"`{name}`" in text
