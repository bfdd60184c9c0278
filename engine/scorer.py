"""The scorer: one decoded request and its wallets' history in, one decision out.

Rules first; a rule that blocks ends it. Otherwise both models score the row of features, and the
policy makes of rules and models one risk and a decision. No clock, no database, no network.
"""

import math
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from engine.features.catalogue import FEATURE_INDEX, OWN, OWN_BALANCE, RATIOS
from engine.features.live import History, compute_live, countries_30d, effective_time
from engine.fraud_bundle import Bundle
from engine.policy import APPROVE, BLOCK, Outcome
from engine.rules import RuleResult, RuleSet, rule_context
from engine.transaction import (
    COUNTRY_HISTORY,
    ScoreRequest,
    country_code,
    wallet_code,
)

SUPERVISED_HIGH: Final = "MODEL_SUPERVISED_HIGH"
ANOMALY_HIGH: Final = "MODEL_ANOMALY_HIGH"

FeatureValue = float | str | list[str] | None
DECIMALS: Final = 6
"""Scores are given with so many; decisions are taken on unrounded ones."""
_RULE_FEATURES: Final = tuple(
    (name, FEATURE_INDEX[name])
    for name in ("avg_amount_30d", "tx_last_10min", "is_new_beneficiary", "blocked_tx_last_24h")
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided of one transaction, and everything it was decided from.

    Scores are in [0, 1], rounded to 6 decimals after the decision was taken on the unrounded
    ones; the models' are None when a rule blocked. `features` has every feature of the catalogue,
    the version's inputs that are made of the transaction itself, its attributes (a category as
    its text) and `user_country_history`; None is "unknown". `sent` names the features that the
    caller sent.
    """

    decision: Outcome
    risk_score: float
    reasons: tuple[str, ...]
    rules_fired: tuple[str, ...]
    rule_score: float
    supervised_score: float | None
    unsupervised_score: float | None
    features: dict[str, FeatureValue]
    sent: frozenset[str]
    model_version: str
    rule_set_sha256: str


class Scorer:
    """A bundle and a rule set, ready to score. Safe to share between threads."""

    def __init__(self, bundle: Bundle, rules: RuleSet) -> None:
        self.bundle = bundle
        self.rules = rules
        self.model_version = f"v{bundle.manifest.version}"

    def score(self, request: ScoreRequest, history: History) -> Decision:
        """Decide on a transaction, given what its wallets did before it: the history as of this
        version's label delay (`bundle.label_delay`).

        Raises InvalidRequest naming each attribute of another kind than the version was trained
        with, ValueError for a history longer than the kernel's tail.
        """
        inputs = _Inputs(request, history, self.bundle)
        result = self.rules.evaluate(inputs.rule_context())
        if result.blocks:
            return self._decision(BLOCK, 1.0, result, None, inputs)
        supervised = self.bundle.supervised.predict_one(inputs.row)
        unsupervised = self.bundle.unsupervised.predict_one(inputs.row)
        scores = (result.rule_score, supervised, unsupervised)
        risk = float(self.bundle.policy.risk(*scores))
        decision = self.bundle.policy.decide(risk)
        carried = () if decision == APPROVE else self.bundle.policy.carriers(*scores)
        reasons = tuple(compress((SUPERVISED_HIGH, ANOMALY_HIGH), carried))
        return self._decision(decision, risk, result, (supervised, unsupervised), inputs, reasons)

    def _decision(
        self,
        decision: Outcome,
        risk: float,
        rules: RuleResult,
        scores: tuple[float, float] | None,
        inputs: "_Inputs",
        model_reasons: tuple[str, ...] = (),
    ) -> Decision:
        return Decision(
            decision=decision,
            risk_score=round(risk, DECIMALS),
            reasons=tuple(dict.fromkeys((*rules.reasons, *model_reasons))),
            rules_fired=rules.fired,
            rule_score=round(rules.rule_score, DECIMALS),
            supervised_score=None if scores is None else round(scores[0], DECIMALS),
            unsupervised_score=None if scores is None else round(scores[1], DECIMALS),
            features=inputs.recorded(),
            sent=inputs.used,
            model_version=self.model_version,
            rule_set_sha256=self.rules.sha256,
        )


class _Inputs:
    """The values one decision is made from: computed, then replaced by what the caller sent.

    `row` is the models' input; `used` the names of the sent values that replaced one.
    """

    def __init__(self, request: ScoreRequest, history: History, bundle: Bundle) -> None:
        transaction = request.transaction
        self._request = request
        self._schema = bundle.schema
        self._created_at = transaction.created_at_us
        self._country = country_code(transaction.country)
        self._historical = compute_live(
            created_at_us=self._created_at,
            destination=wallet_code(transaction.destination_wallet_id),
            country=self._country,
            history=history,
            label_delay=bundle.label_delay,
        )
        sent = request.sent_features()
        countries = sent.pop(COUNTRY_HISTORY, None)
        if countries is None:
            now = effective_time(self._created_at, history.events)
            self._countries = countries_30d(history.events, now)
            used = set()
        else:
            self._countries = list(cast(tuple[str, ...], countries))
            used = {COUNTRY_HISTORY}
        for name in sent.keys() & FEATURE_INDEX.keys():
            self._historical[FEATURE_INDEX[name]] = sent[name]
            used.add(name)
        self.row = self._assemble()
        for name in sent.keys() & self._schema.positions.keys() - FEATURE_INDEX.keys():
            self.row[self._schema.positions[name]] = sent[name]
            used.add(name)
        self.used = frozenset(used)

    def _assemble(self) -> NDArray[np.float64]:
        transaction = self._request.transaction
        balance = self._request.source_wallet.balance
        return self._schema.assemble_one(
            amount=transaction.amount_units,
            created_at=self._created_at,
            currency=transaction.currency,
            direction=transaction.direction or "outgoing",
            transaction_type=transaction.transaction_type,
            country=self._country,
            source_balance=math.nan if balance is None else balance,
            history=self._historical,
            attributes=transaction.attributes,
        )

    def rule_context(self) -> dict[str, Any]:
        """Return what the rules read."""
        transaction = self._request.transaction
        source = self._request.source_wallet
        user = self._request.user
        read = {name: float(self._historical[at]) for name, at in _RULE_FEATURES}
        return rule_context(
            amount=transaction.amount_units,
            created_at=self._created_at,
            same_wallet=transaction.source_wallet_id == transaction.destination_wallet_id,
            currency=transaction.currency,
            direction=transaction.direction,
            transaction_type=transaction.transaction_type,
            country=transaction.country,
            source_balance=source.balance,
            source_status=source.status,
            account_age_minutes=source.account_age_minutes,
            destination_status=self._request.destination_wallet.status,
            user_status=user.status,
            user_risk_level=user.risk_level,
            user_country_history=self._countries,
            **read,
        )

    def recorded(self) -> dict[str, FeatureValue]:
        """Return the values to keep; one-hot columns only when the caller sent them."""
        row = self.row.tolist()
        positions = self._schema.positions
        kept = (*OWN, *OWN_BALANCE, *RATIOS, *self.used)
        own = (name for name in kept if name in positions)
        values: dict[str, FeatureValue] = {name: _or_none(row[positions[name]]) for name in own}
        sent = self._request.transaction.attributes or {}
        for attribute in self._schema.attributes:
            value = sent.get(attribute.name)
            held = float(value) if isinstance(value, bool | float) else value
            values[f"attribute_{attribute.name}"] = held
        values.update(zip(FEATURE_INDEX, map(_or_none, self._historical.tolist()), strict=True))
        values[COUNTRY_HISTORY] = self._countries
        return values


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
