import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.errors import InvalidRequest
from engine.features.catalogue import CATALOGUE, DAY, OWN, OWN_BALANCE, RATIOS
from engine.features.live import (
    EMPTY_HISTORY,
    NO_EDGES,
    NO_FAILURES,
    NO_INCOMING,
    History,
    decode_events,
    decode_incoming,
    next_event,
    next_incoming,
)
from engine.features.schema import Attribute, FeatureSchema
from engine.fraud_bundle import Bundle, load_bundle
from engine.policy import Policy
from engine.rules import RuleSet
from engine.scorer import Decision, Scorer
from engine.store import LocalStore
from engine.transaction import country_code, wallet_code
from tests.engine.bundles import POLICY, SCHEMA, write_small_bundle
from tests.engine.requests import request

MINUTE = 60_000_000
NOW = 1_769_169_600_000_000
"""`created_at` of the example request."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    store = LocalStore(tmp_path_factory.mktemp("artifacts"))
    return load_bundle(store, "fraud/v1.0.0", write_small_bundle(store))


@dataclass
class FixedModel:
    """Scores every row the same, and remembers the rows."""

    score: float

    def __post_init__(self) -> None:
        self.rows: list[NDArray[np.float64]] = []

    def predict_one(self, row: NDArray[np.float64]) -> float:
        self.rows.append(row.copy())
        return self.score


def fixed(
    bundle: Bundle,
    supervised: float = 0.1,
    unsupervised: float = 0.1,
    rules: RuleSet | None = None,
    policy: Policy = POLICY,
) -> Scorer:
    """A scorer whose models say what the test wants."""
    stand_in = replace(
        bundle,
        policy=policy,
        supervised=FixedModel(supervised),  # type: ignore[arg-type]
        unsupervised=FixedModel(unsupervised),  # type: ignore[arg-type]
    )
    return Scorer(stand_in, rules or RuleSet.default())


def past(*attempts: tuple[int, float], to: str = "wallet_002", blocked: bool = False) -> Any:
    """A history of attempts (microseconds before NOW, amount), oldest first, in France."""
    events = decode_events(b"")
    for before, amount in attempts:
        event = next_event(
            events,
            created_at_us=NOW - before,
            amount=round(amount * 10_000),
            destination=wallet_code(to),
            country=country_code("FR"),
            blocked=blocked,
        )
        events = decode_events(events.tobytes() + event)
    return History(events, NO_EDGES, NO_FAILURES)


HABIT = past(*((n * 1000 * MINUTE, 40.0) for n in range(20, 0, -1)))


def test_an_ordinary_transaction_is_scored_by_both_models(bundle: Bundle) -> None:
    decision = Scorer(bundle, RuleSet.default()).score(request(), HABIT)
    assert decision.supervised_score is not None
    assert decision.unsupervised_score is not None
    expected = POLICY.risk(0.0, decision.supervised_score, decision.unsupervised_score)
    assert decision.risk_score == pytest.approx(float(expected), abs=2e-6)
    assert decision.rule_score == 0.0
    assert decision.rules_fired == ()
    assert decision.model_version == "v1.0.0"
    assert decision.rule_set_sha256 == RuleSet.default().sha256
    assert decision.sent == frozenset()


def test_the_same_question_has_the_same_answer(bundle: Bundle) -> None:
    scorer = Scorer(bundle, RuleSet.default())
    assert scorer.score(request(), HABIT) == scorer.score(request(), HABIT)


def test_a_rule_that_blocks_ends_it_and_the_models_are_not_asked(bundle: Bundle) -> None:
    scorer = fixed(bundle)
    asked = request({"transaction.amount": 301, "transaction.country": "KP"})
    decision = scorer.score(asked, HABIT)
    assert (decision.decision, decision.risk_score, decision.rule_score) == ("BLOCK", 1.0, 1.0)
    assert decision.reasons == ("RULE_MAX_AMOUNT", "RULE_COUNTRY_BLOCKED", "RULE_GEO_ANOMALY")
    assert decision.rules_fired == ("R1", "R6", "R8", "R12")
    assert decision.supervised_score is None
    assert decision.unsupervised_score is None
    assert scorer.bundle.supervised.rows == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("amount", [40.0, 301.0])
def test_features_are_recorded_for_every_decision(bundle: Bundle, amount: float) -> None:
    decision = fixed(bundle).score(request({"transaction.amount": amount}), HABIT)
    expected = {f.name for f in CATALOGUE} | {*OWN, *OWN_BALANCE, *RATIOS, "user_country_history"}
    assert set(decision.features) == expected
    assert decision.features["amount"] == amount
    assert decision.features["src_tx_count_out_30d"] == 20.0
    assert decision.features["avg_amount_30d"] == 40.0
    assert decision.features["user_country_history"] == ["FR"]
    assert decision.features["source_balance"] == 1000.0


def test_what_is_unknown_is_recorded_as_null(bundle: Bundle) -> None:
    decision = fixed(bundle).score(request({"context": None}), EMPTY_HISTORY)
    for name in ("avg_amount_30d", "is_new_beneficiary", "source_balance", "amount_to_balance"):
        assert decision.features[name] is None
    assert decision.features["user_country_history"] == []
    assert decision.rules_fired == ()
    assert not any(isinstance(v, float) and math.isnan(v) for v in decision.features.values())


# Supervised, unsupervised and boosts (0.2 a branch) against review 0.5 and block 0.8.
CARRIED = [
    (0.1, 0.1, 0, "APPROVE", ()),
    (0.8, 0.0, 0, "APPROVE", ()),
    (0.9, 0.0, 0, "REVIEW", ("MODEL_SUPERVISED_HIGH",)),
    (0.9, 0.9, 0, "REVIEW", ("MODEL_SUPERVISED_HIGH",)),
    (0.6, 0.9, 0, "REVIEW", ("MODEL_SUPERVISED_HIGH", "MODEL_ANOMALY_HIGH")),
    (1.0, 1.0, 0, "BLOCK", ("MODEL_SUPERVISED_HIGH", "MODEL_ANOMALY_HIGH")),
    (1.0, 0.5, 2, "BLOCK", ("MODEL_SUPERVISED_HIGH",)),
    (0.3, 1.0, 2, "REVIEW", ("MODEL_SUPERVISED_HIGH", "MODEL_ANOMALY_HIGH")),
    (0.0, 0.9, 4, "REVIEW", ("MODEL_ANOMALY_HIGH",)),
]


@pytest.mark.parametrize(("supervised", "unsupervised", "boosts", "decision", "models"), CARRIED)
def test_models_are_named_when_they_carried_the_decision(
    bundle: Bundle,
    supervised: float,
    unsupervised: float,
    boosts: int,
    decision: str,
    models: tuple[str, ...],
) -> None:
    text = "".join(
        f'[[rule]]\nid="R{n}"\nreason="RULE_{n}"\ninputs=["amount"]\n'
        'branch=[{when="amount > 0.0", boost=0.2}]\n'
        for n in range(boosts)
    )
    scorer = fixed(bundle, supervised, unsupervised, RuleSet.from_toml(text))
    result = scorer.score(request(), HABIT)
    assert result.decision == decision
    rules = tuple(f"RULE_{n}" for n in range(boosts))
    assert result.reasons == (*rules, *models)
    assert result.rule_score == pytest.approx(0.2 * boosts)


def test_either_model_alone_is_enough_so_the_larger_is_named(bundle: Bundle) -> None:
    easy = Policy(review=0.1, block=0.99)
    both = fixed(bundle, 0.9, 0.9, policy=easy).score(request(), HABIT)
    assert both.reasons == ("MODEL_SUPERVISED_HIGH",)
    other = fixed(bundle, 0.2, 0.9, policy=easy).score(request(), HABIT)
    assert other.reasons == ("MODEL_ANOMALY_HIGH",)


def test_rules_alone_can_carry_a_decision(bundle: Bundle) -> None:
    text = (
        '[[rule]]\nid="R1"\nreason="RULE_LOUD"\ninputs=["amount"]\n'
        'branch=[{when="amount > 0.0", boost=1.0}]\n'
    )
    easy = Policy(review=0.3, block=0.99)
    scorer = fixed(bundle, 0.1, 0.1, RuleSet.from_toml(text), easy)
    decision = scorer.score(request(), HABIT)
    assert (decision.decision, decision.reasons) == ("REVIEW", ("RULE_LOUD",))


def test_the_decision_is_taken_on_the_unrounded_risk(bundle: Bundle) -> None:
    # 0.6 × 0.8333333 = 0.49999998, which rounds to 0.5.
    decision = fixed(bundle, 0.8333333, 0.0).score(request(), HABIT)
    assert (decision.risk_score, decision.decision) == (0.5, "APPROVE")
    assert decision.supervised_score == 0.833333


def test_the_history_reaches_the_rules(bundle: Bundle) -> None:
    burst = past(*((MINUTE, 40.0) for _ in range(10)))
    decision = fixed(bundle).score(request(), burst)
    assert (decision.rules_fired, decision.rule_score) == (("R9",), 0.2)
    stranger = past((MINUTE, 100.0), to="wallet_009")
    decision = fixed(bundle).score(request({"transaction.amount": 81}), stranger)
    assert decision.rules_fired == ("R11",)
    abroad = request({"transaction.country": "DE", "transaction.amount": 151})
    assert fixed(bundle).score(abroad, HABIT).reasons == ("RULE_GEO_ANOMALY",)
    blocked = past(*((n * MINUTE, 40.0) for n in (30, 20, 15)), blocked=True)
    assert fixed(bundle).score(request(), blocked).reasons == ("RULE_RECIDIVISM",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transaction.destination_wallet_id": "wallet_001"}, "RULE_SELF_TRANSFER"),
        ({"context.source_wallet.balance": 39.99}, "RULE_INSUFFICIENT_FUNDS"),
        ({"context.source_wallet.status": "locked"}, "RULE_ACCOUNT_LOCKED"),
        ({"context.user.status": "locked"}, "RULE_ACCOUNT_LOCKED"),
        ({"context.destination_wallet.status": "locked"}, "RULE_DESTINATION_LOCKED"),
        (
            {"context.source_wallet.account_age_minutes": 59, "transaction.amount": 51},
            "RULE_NEW_ACCOUNT_ACTIVITY",
        ),
        (
            {"context.user.risk_level": "high", "transaction.amount": 51},
            "RULE_HIGH_RISK_PROFILE",
        ),
        (
            {"transaction.created_at": "2026-01-23T01:00:00Z", "transaction.amount": 61},
            "RULE_ODD_HOUR",
        ),
    ],
)
def test_each_part_of_the_request_reaches_its_rule(
    bundle: Bundle, changes: dict[str, Any], reason: str
) -> None:
    decision = fixed(bundle).score(request(changes), EMPTY_HISTORY)
    assert decision.reasons == (reason,)


def test_countries_are_those_before_the_effective_time(bundle: Bundle) -> None:
    month = 31 * 24 * 60 * MINUTE
    events = decode_events(b"")
    for at, country in ((NOW - month, "DE"), (NOW, "FR")):
        event = next_event(
            events, created_at_us=at, amount=1, destination=1,
            country=country_code(country), blocked=False,
        )  # fmt: skip
        events = decode_events(events.tobytes() + event)
    late = request({"transaction.created_at": "2025-12-24T00:00:00Z"})
    decision = fixed(bundle).score(late, History(events, NO_EDGES, NO_FAILURES))
    assert decision.features["user_country_history"] == ["FR"]


def test_a_late_transaction_takes_its_place_at_the_end(bundle: Bundle) -> None:
    late = request({"transaction.created_at": "2025-01-01T00:00:00Z"})
    decision = fixed(bundle).score(late, HABIT)
    assert decision.features["src_tx_count_out_30d"] == 20.0
    assert decision.features["user_country_history"] == ["FR"]


def test_what_is_sent_wins_and_is_named(bundle: Bundle) -> None:
    sent = {
        "avg_amount_30d": 7.0,
        "tx_last_10min": 25,
        "is_new_beneficiary": True,
        "src_tx_count_out_30d": 77,
        "user_country_history": ["DE"],
        "hour_of_day": None,
        "unheard_of": 1,
    }
    own = {"log_amount": 9.0, "country_FR": False, "country_XX": 1}
    asked = request(
        {
            "features": {"historical": sent, "transactional": own},
            "transaction.amount": 90.0,
        }
    )
    scorer = fixed(bundle)
    decision = scorer.score(asked, HABIT)
    assert decision.rules_fired == ("R8", "R9", "R11")
    assert decision.sent == {
        "avg_amount_30d", "tx_last_10min", "is_new_beneficiary", "src_tx_count_out_30d",
        "user_country_history", "log_amount", "country_FR",
    }  # fmt: skip
    assert decision.features["avg_amount_30d"] == 7.0
    assert decision.features["src_tx_count_out_30d"] == 77.0
    assert decision.features["user_country_history"] == ["DE"]
    assert decision.features["log_amount"] == 9.0
    assert decision.features["country_FR"] == 0.0
    assert decision.features["hour_of_day"] == 12.0
    (row,) = scorer.bundle.supervised.rows  # type: ignore[attr-defined]
    at = SCHEMA.positions
    assert row[at["src_tx_count_out_30d"]] == 77.0
    assert row[at["log_amount"]] == 9.0
    assert row[at["country_FR"]] == 0.0
    assert row[at["hour_of_day"]] == 12.0


def test_a_ratio_is_to_the_mean_that_was_sent_unless_it_was_sent_itself(bundle: Bundle) -> None:
    scorer = fixed(bundle)
    at = SCHEMA.positions["amount_to_src_mean_30d"]
    mean = {"src_tx_amount_mean_out_30d": 16.0}
    for sent, ratio in (({}, 1.0), (mean, 2.5), (mean | {"amount_to_src_mean_30d": 7}, 7.0)):
        decision = scorer.score(request({"features.historical": sent}), HABIT)
        assert decision.features["amount_to_src_mean_30d"] == ratio
        assert decision.sent == set(sent)
        assert scorer.bundle.supervised.rows[-1][at] == ratio  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def reading(bundle: Bundle) -> Bundle:
    """A version that reads attributes and no balances."""
    attributes = (
        Attribute("age", "number"),
        Attribute("contactless", "boolean"),
        Attribute("mcc", "category", ("5411", "6011")),
    )
    schema = FeatureSchema(("TRANSFER",), ("FR",), attributes, frozenset({"balances"}))
    return replace(bundle, schema=schema)


def test_attributes_reach_the_models_and_are_recorded(reading: Bundle) -> None:
    scorer = fixed(reading)
    sent = {"age": 34, "contactless": True, "mcc": "6011", "unread": "x"}
    decision = scorer.score(request({"transaction.attributes": sent}), HABIT)
    (row,) = scorer.bundle.supervised.rows  # type: ignore[attr-defined]
    assert row[-4:].tolist() == [34.0, 1.0, 0.0, 1.0]
    recorded = {name: v for name, v in decision.features.items() if name.startswith("attribute_")}
    assert recorded == {
        "attribute_age": 34.0, "attribute_contactless": 1.0, "attribute_mcc": "6011",
    }  # fmt: skip
    assert type(recorded["attribute_contactless"]) is float
    assert "source_balance" not in decision.features
    assert decision.sent == frozenset()


def test_attributes_that_were_not_sent_are_recorded_as_unknown(reading: Bundle) -> None:
    scorer = fixed(reading)
    decision = scorer.score(request(), HABIT)
    for name in ("age", "contactless", "mcc"):
        assert decision.features[f"attribute_{name}"] is None
    (row,) = scorer.bundle.supervised.rows  # type: ignore[attr-defined]
    np.testing.assert_array_equal(row[-4:], [math.nan, math.nan, 0.0, 0.0])


@pytest.mark.parametrize("amount", [40.0, 301.0], ids=["for the models", "blocked by a rule"])
def test_attributes_of_another_kind_are_refused(reading: Bundle, amount: float) -> None:
    sent = {"age": "34", "contactless": 1, "mcc": "6011"}
    asked = request({"transaction.attributes": sent, "transaction.amount": amount})
    with pytest.raises(InvalidRequest) as caught:
        fixed(reading).score(asked, HABIT)
    assert caught.value.errors == (
        ("transaction.attributes.age", "this version expects a number"),
        ("transaction.attributes.contactless", "this version expects true or false"),
    )


def test_a_version_without_attributes_takes_any(bundle: Bundle) -> None:
    scorer = fixed(bundle)
    asked = request({"transaction.attributes": {"age": "34"}})
    decision = scorer.score(asked, HABIT)
    assert decision == scorer.score(request(), HABIT)


@pytest.mark.parametrize(("delay_days", "ratio"), [(7, 1.0), (1, 0.0)])
def test_labels_count_after_the_versions_own_delay(
    bundle: Bundle, delay_days: int, ratio: float
) -> None:
    paid = next_incoming(NO_INCOMING, created_at_us=NOW - 15 * DAY // 2, amount=1, source=1)
    confirmed = np.array([1, 0, 0, 0])
    history = History(incoming=decode_incoming(paid), destination_frauds=confirmed)
    scorer = fixed(replace(bundle, label_delay=delay_days * DAY))
    assert scorer.score(request(), history).features["dst_fraud_ratio_1d"] == ratio


def test_sending_changes_neither_the_history_nor_the_next_decision(bundle: Bundle) -> None:
    scorer = fixed(bundle)
    before = scorer.score(request(), HABIT)
    scorer.score(request({"features.historical": {"src_tx_count_out_30d": 77}}), HABIT)
    assert scorer.score(request(), HABIT) == before


def test_both_models_read_the_same_row_in_the_schemas_order(bundle: Bundle) -> None:
    scorer = fixed(bundle)
    scorer.score(request({"transaction.transaction_type": "payment"}), HABIT)
    (row,) = scorer.bundle.supervised.rows  # type: ignore[attr-defined]
    assert np.array_equal(row, scorer.bundle.unsupervised.rows[0], equal_nan=True)  # type: ignore[attr-defined]
    values = dict(zip(SCHEMA.names, row.tolist(), strict=True))
    assert values["amount"] == 40.0
    assert values["transaction_type_PAYMENT"] == 1.0
    assert values["transaction_type_TRANSFER"] == 0.0
    assert values["country_FR"] == 1.0
    assert values["amount_to_balance"] == 0.04
    assert values["src_tx_amount_sum_out_30d"] == 800.0


def test_amounts_keep_four_decimals(bundle: Bundle) -> None:
    tiny = fixed(bundle).score(request({"transaction.amount": 0.00004}), HABIT)
    assert tiny.reasons == ("RULE_INVALID_AMOUNT",)
    capped = fixed(bundle).score(request({"transaction.amount": 300.00004}), past((MINUTE, 299.0)))
    assert "RULE_MAX_AMOUNT" not in capped.reasons


SENT = st.dictionaries(
    st.sampled_from([*SCHEMA.names, *(f.name for f in CATALOGUE)]),
    st.floats(-1e15, 1e15) | st.booleans() | st.none(),
)


@given(
    st.floats(-1e9, 1e9),
    SENT,
    st.none() | st.floats(-1e15, 1e15),
    st.integers(0, 2**40),
)
def test_any_request_gets_a_decision_in_bounds(
    bundle: Bundle, amount: float, sent: dict[str, Any], balance: float | None, before: int
) -> None:
    asked = request(
        {
            "transaction.amount": amount,
            "features.historical": sent,
            "context.source_wallet.balance": balance,
        }
    )
    decision = Scorer(bundle, RuleSet.default()).score(asked, past((before, 5.0)))
    assert isinstance(decision, Decision)
    assert 0.0 <= decision.risk_score <= 1.0
    assert decision.decision in ("APPROVE", "REVIEW", "BLOCK")
    if decision.supervised_score is not None:
        assert 0.0 <= decision.supervised_score <= 1.0
