"""The rules over a data set equal the rules row by row, whatever they read."""

import re
from collections import deque
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.features.catalogue import CATALOGUE, DAY, FEATURE_INDEX, HOUR
from engine.policy import Policy
from engine.rules import VARIABLES, RuleSet, rule_context
from tests.training.pipeline_support import START_US
from training.pipeline import rules_replay
from training.pipeline.rules_replay import COUNTRY_WINDOW, PastBlocks, RuleReplay
from training.pipeline.table import Text, Transactions

TEXTS = {
    "currency": ["PYC", "EUR"],
    "direction": ["outgoing", "incoming", None],
    "transaction_type": ["TRANSFER", "PAYMENT"],
    "country": ["FR", "BE", None],
    "source_wallet_status": ["active", "locked", None],
    "destination_wallet_status": ["active", None],
    "user_status": ["active", "locked", None],
    "user_risk_level": ["low", "high", None],
}
HISTORY = ("avg_amount_30d", "tx_last_10min", "is_new_beneficiary")
RULES = [
    ("amount > 120.0", 'then = "BLOCK"'),
    ("source_balance < amount", 'then = "BLOCK"'),
    ("amount > 5.0 * avg_amount_30d", "boost = 0.2"),
    ("account_age_minutes < 60.0 && amount > 50.0", "boost = 0.1"),
    ("hour >= 1.0 && hour < 5.0", "boost = 0.15"),
    ("same_wallet", 'then = "BLOCK"'),
    ("is_new_beneficiary && amount > 80.0", "boost = 0.3"),
    ("tx_last_10min >= 3.0", "boost = 0.2"),
    ('currency == "EUR" && direction == "outgoing"', "boost = 0.05"),
    ('transaction_type == "PAYMENT" && destination_status != "active"', "boost = 0.05"),
    ('source_status == "locked" || user_status == "locked"', 'then = "BLOCK"'),
    ('user_risk_level == "high" && amount > 50.0', "boost = 0.25"),
    ("size(user_country_history) > 0 && !(country in user_country_history)", "boost = 0.4"),
    ("blocked_tx_last_24h >= 2.0", 'then = "BLOCK"'),
    ("blocked_tx_last_24h >= 1.0 && amount > 60.0", "boost = 0.35"),
    ("blocked_tx_last_24h * 40.0 < avg_amount_30d", "boost = 0.1"),
]


def rule_set(chosen: list[int]) -> RuleSet:
    text = ""
    for at in chosen:
        when, effect = RULES[at]
        inputs = [name for name in VARIABLES if re.search(rf"\b{name}\b", when)]
        text += f"[[rule]]\nid = 'R{at}'\nreason = 'REASON_{at}'\ninputs = {inputs}\n"
        text += f"[[rule.branch]]\nwhen = '{when}'\n{effect}\n"
    return RuleSet.from_toml(text)


def made_up(rows: int, seed: int) -> tuple[Transactions, np.ndarray]:
    """Transactions of three wallets within some days, with repeated and unknown values."""
    rng = np.random.default_rng(seed)

    def numbers(*values: float) -> np.ndarray:
        few = rng.choice(np.array([*values, np.nan]), rows)
        return np.where(rng.random(rows) < 0.5, few, np.round(rng.uniform(0, 200, rows), 2))

    def text(values: list[str | None]) -> Text:
        names = tuple(value for value in values if value is not None)
        return Text(
            rng.integers(len(names) - len(values), len(names), rows).astype(np.int32), names
        )

    history = np.zeros((rows, len(CATALOGUE)))
    for name in HISTORY:
        history[:, FEATURE_INDEX[name]] = numbers(0.0, 1.0, 5.0)
    data = Transactions(
        transaction_id=pa.chunked_array([[f"t{row}" for row in range(rows)]]),
        created_at=START_US + np.sort(rng.integers(0, 5 * 24, rows)) * HOUR,
        amount=np.round(rng.choice([10.0, 55.5, 90.0, 130.0], rows) * 10_000).astype(np.int64),
        source=rng.integers(0, 3, rows),
        destination=rng.integers(0, 6, rows),
        wallets=pa.array([f"w{wallet}" for wallet in range(6)]),
        is_fraud=np.zeros(rows, bool),
        text={name: text(values) for name, values in TEXTS.items()},
        numbers={name: numbers(0.0, 100.0) for name in ("source_balance", "account_age_minutes")},
    )
    return data, history


def countries(data: Transactions, row: int) -> list[str]:
    """Where the wallet was in the 30 days before."""
    time = data.created_at[row] - COUNTRY_WINDOW
    names = data.text["country"].values()
    return sorted(
        {
            names[at]
            for at in range(row)
            if data.source[at] == data.source[row] and data.created_at[at] >= time and names[at]
        }
    )


def context_of(data: Transactions, history: np.ndarray, row: int, blocks: int) -> dict[str, Any]:
    text = {name: column.values()[row] for name, column in data.text.items()}
    return rule_context(
        amount=int(data.amount[row]),
        created_at=int(data.created_at[row]),
        same_wallet=bool(data.source[row] == data.destination[row]),
        currency=text["currency"],
        direction=text["direction"] or "outgoing",
        transaction_type=text["transaction_type"],
        country=text["country"],
        source_balance=float(data.numbers["source_balance"][row]),
        source_status=text["source_wallet_status"],
        account_age_minutes=float(data.numbers["account_age_minutes"][row]),
        destination_status=text["destination_wallet_status"],
        user_status=text["user_status"],
        user_risk_level=text["user_risk_level"],
        blocked_tx_last_24h=float(blocks),
        user_country_history=countries(data, row),
        **{name: float(history[row, FEATURE_INDEX[name]]) for name in HISTORY},
    )


@given(
    rows=st.integers(0, 40),
    seed=st.integers(0, 2**32 - 1),
    chosen=st.lists(st.sampled_from(range(len(RULES))), unique=True).map(sorted),
    cut=st.floats(0, 1),
)
def test_a_data_set_is_evaluated_as_row_by_row(rows, seed, chosen, cut):
    data, history = made_up(rows, seed)
    rules = rule_set(chosen)
    policy = Policy(0.2, 0.45)
    rng = np.random.default_rng(seed)
    supervised, unsupervised = rng.random(rows) ** 2, rng.random(rows)
    parts = [slice(0, round(cut * rows)), slice(round(cut * rows), rows)]
    past: PastBlocks = {}
    replayed = []
    for part in parts:
        replay = RuleReplay(rules, data, history[part], part)
        found = replay.replay(policy, supervised[part], unsupervised[part], past)
        said = [replay.results[at] for at in found.results]
        columns = (said, found.rule_blocked, found.rule_score, found.risk, found.blocks_before)
        replayed += list(zip(*columns, strict=True))
    blocked: dict[int, list[int]] = {}
    for row in range(rows):
        wallet, time = int(data.source[row]), int(data.created_at[row])
        blocks = sum(at >= time - DAY for at in blocked.get(wallet, []))
        result = rules.evaluate(context_of(data, history, row, blocks))
        score = result.rule_score
        risk = (
            1.0 if result.blocks else float(policy.risk(score, supervised[row], unsupervised[row]))
        )
        assert replayed[row] == (result, bool(result.blocks), score, risk, blocks), row
        if risk >= policy.block:
            blocked.setdefault(wallet, []).append(time)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(rules_replay, "CHUNK", 13)
    monkeypatch.setattr(rules_replay, "WALKED", 7)


def test_what_was_blocked_is_forgotten_when_it_is_a_day_old():
    data, history = made_up(40, seed=1)
    past: PastBlocks = {9: deque([0])}
    RuleReplay(rule_set([0]), data, history, slice(0, 40)).replay(
        Policy(2.0, 2.0), np.zeros(40), np.zeros(40), past
    )
    assert past[9] == deque([0])  # no row of it was met
    last = {
        int(wallet): int(time) for wallet, time in zip(data.source, data.created_at, strict=True)
    }
    for wallet, times in past.items():
        assert wallet == 9 or all(time >= last[wallet] - DAY for time in times)


def test_every_rule_that_is_rarely_met_twice_is_evaluated_together(monkeypatch):
    """However the rules are grouped, the answer is the same, and repeats are not evaluated."""
    data, history = made_up(13, seed=2)
    seen = []
    original = RuleSet.branches
    monkeypatch.setattr(
        RuleSet, "branches", lambda self, c: seen.append(len(self.rules)) or original(self, c)
    )
    everything = rule_set(list(range(len(RULES))))
    answers = {}
    for limit in (-1.0, 0.5, 2.0):
        monkeypatch.setattr(rules_replay, "RARELY_TWICE", limit)
        seen.clear()
        replay = RuleReplay(everything, data, history, slice(0, 13))
        answers[limit] = (len(seen), [replay.results[at].fired for at in replay._results])
    assert answers[-1.0][1] == answers[0.5][1] == answers[2.0][1]
    assert answers[-1.0][0] == 13
    assert 13 < answers[0.5][0] < answers[2.0][0] < 13 * len(RULES)
