"""Weights, thresholds, the anomaly scale, and the rules replayed over a data set."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidDataset
from engine.features.catalogue import FEATURE_INDEX
from engine.features.live import countries_30d
from engine.features.replay import replay
from engine.policy import Policy, Weights
from engine.rules import RuleSet, rule_context
from engine.transaction import country_code
from tests.training.pipeline_support import make_columns, write_dataset
from training.pipeline.calibrate import anomaly_scale, choose_weights, fit_calibration
from training.pipeline.decide import Validation, _read_off
from training.pipeline.rules_replay import RuleReplay, countries_before
from training.pipeline.spec import Costs, Options
from training.pipeline.table import Text, Transactions, read_transactions
from training.pipeline.thresholds import saving, thresholds_by_budget, thresholds_by_cost

scores = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0]), min_size=3, max_size=300)


@given(values=scores)
def test_thresholds_are_strict_and_count_what_they_select(values):
    risk = np.array(values)
    if len(np.unique(risk)) < 3:
        with pytest.raises(InvalidDataset, match="3 distinct risk scores"):
            thresholds_by_budget(risk, 0.05, 0.2)
        return
    chosen = thresholds_by_budget(risk, 0.05, 0.2)
    assert 0 < chosen.review < chosen.block <= 1
    assert chosen.blocked == (risk >= chosen.block).sum() >= 1
    assert chosen.reviewed == ((risk >= chosen.review) & (risk < chosen.block)).sum() >= 1
    top = (risk == risk.max()).sum()
    assert chosen.blocked <= max(0.05 * len(risk), top)


def test_budgets_are_met_exactly_without_ties():
    risk = np.random.default_rng(0).permutation(np.linspace(0, 1, 100_000))
    chosen = thresholds_by_budget(risk, 0.001, 0.01)
    assert (chosen.blocked, chosen.blocked + chosen.reviewed) == (100, 1_000)


def test_a_group_of_equal_scores_that_exceeds_the_budget_stays_below_the_cut():
    risk = np.concatenate([np.linspace(0, 0.5, 980), np.full(15, 0.8), np.full(5, 0.9)])
    chosen = thresholds_by_budget(risk, 0.01, 0.05)
    assert (chosen.blocked, chosen.reviewed) == (5, 45)
    assert 0.8 < chosen.block <= 0.9


def test_review_begins_at_the_next_group_when_the_budgets_leave_no_row_between():
    risk = np.concatenate([np.linspace(0, 0.5, 980), np.full(15, 0.8), np.full(5, 0.9)])
    chosen = thresholds_by_budget(risk, 0.005, 0.006)
    assert (chosen.blocked, chosen.reviewed) == (5, 15)


def test_a_top_group_larger_than_the_budget_is_blocked_whole():
    risk = np.concatenate([np.linspace(0, 0.5, 900), np.full(100, 1.0)])
    chosen = thresholds_by_budget(risk, 0.001, 0.01)
    assert chosen.blocked == 100
    assert chosen.reviewed == 1


def test_the_anomaly_scale_says_how_rare_a_score_is():
    raw = np.random.default_rng(0).permutation(np.linspace(0.3, 0.9, 200_001))
    scale = anomaly_scale(raw)
    for share, score in ((0.1, 1 / 3), (0.01, 2 / 3), (0.001, 1.0)):
        line = 0.9 - 0.6 * share
        assert scale(np.array([line]))[0] == pytest.approx(score, abs=0.003)
    assert scale(np.array([0.0, 0.3, 0.95])).tolist() == [0.0, 0.0, 1.0]


def test_the_anomaly_scale_keeps_the_order_when_most_scores_are_tied():
    raw = np.concatenate([np.full(9_000, 0.4), np.linspace(0.41, 0.7, 1_000)])
    scale = anomaly_scale(raw)
    assert scale(np.array([0.4]))[0] == 0.0
    assert (np.diff(scale(np.linspace(0.41, 0.69, 50))) > 0).all()


def test_the_anomaly_scale_is_nowhere_steep():
    """Half of the rows, and again a few rare ones, have nearly the same score."""
    rng = np.random.default_rng(0)
    raw = np.concatenate(
        (
            0.4 + 1e-9 * rng.random(50_000),
            rng.uniform(0.41, 0.6, 49_000),
            0.7 + 1e-7 * rng.random(1_000),
        )
    )
    scale = anomaly_scale(raw)
    assert np.max(np.diff(scale.y) / np.diff(scale.x)) <= 1_000 * (1 + 1e-6)
    assert scale(raw + 1e-9) - scale(raw) == pytest.approx(0, abs=1.01e-6)
    assert scale(np.array([0.39, 0.702])).tolist() == [0.0, 1.0]
    # Away from there it is the scale of quantiles: the top 10 % begin at 1/3.
    assert scale(np.quantile(raw, [0.9]))[0] == pytest.approx(1 / 3, abs=0.01)


def test_one_raw_score_for_all_is_refused():
    with pytest.raises(InvalidDataset, match="the same score"):
        anomaly_scale(np.full(1_000, 0.5))


def test_weights_leave_the_default_only_for_something_clearly_better():
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.01
    supervised = np.clip(0.2 * rng.random(20_000) + 0.15 * labels, 0, 1)
    nothing, noise = np.zeros(20_000), rng.random(20_000)
    assert choose_weights(nothing, supervised, nothing, labels) == Weights()
    assert choose_weights(nothing, supervised, noise, labels).unsupervised == 0.05
    few = labels & (np.cumsum(labels) < 50)
    assert choose_weights(nothing, supervised, noise, few) == Weights()
    assert choose_weights(nothing, supervised, noise, np.zeros(20_000, bool)) == Weights()


def risks(rows: int, seed: int, base: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw risks, the probability of a fraud behind each (odds are a power of e), and frauds."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows) * 1.5
    raw = np.clip(0.15 + 0.1 * z + 0.02 * z**2, 0.0, 1.0)
    probability = 1.0 / (1.0 + np.exp(-(base + 14.0 * raw)))
    return raw, probability, rng.random(rows) < probability


@pytest.mark.parametrize(
    ("rows", "base", "off"),
    [(200_000, -9.0, 0.08), (20_000, -6.0, 0.12), (3_000, -9.0, 0.35)],
    ids=["many frauds", "some", "so few that the shape is assumed"],
)
def test_a_calibrated_risk_of_three_in_ten_is_three_in_ten(rows, base, off):
    """On rows that the curve was not read off: what it says of ten thousands is what they hold."""
    raw, _, labels = risks(rows, 0, base)
    curve = fit_calibration(raw, labels)
    fresh, probability, _ = risks(200_000, 1, base)
    risk = curve(fresh)
    assert risk.mean() == pytest.approx(probability.mean(), rel=off)
    for low, high in ((0.03, 0.1), (0.1, 0.3), (0.3, 0.6)):
        chosen = (risk >= low) & (risk < high)
        assert chosen.sum() > 1_000
        assert risk[chosen].mean() == pytest.approx(probability[chosen].mean(), rel=2 * off)


def test_the_highest_risks_promise_no_more_frauds_than_there_are():
    """No row is anywhere near certain, and the curve says so of the top rows too."""

    def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        raw = rng.beta(0.6, 20, 100_000)
        probability = 0.3 * raw
        return raw, probability, rng.random(len(raw)) < probability

    for seed in range(3):
        raw, _, labels = draw(seed)
        fresh, probability, _ = draw(seed + 10)
        risk = fit_calibration(raw, labels)(fresh)
        for rows in (100, 1_000):
            top = np.argsort(-fresh)[:rows]
            assert risk[top].mean() == pytest.approx(probability[top].mean(), rel=0.5)


@settings(deadline=None)
@given(
    values=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=400),
    times=st.sampled_from([1, 20]),
)
def test_a_calibration_is_strictly_increasing_from_0_to_1_whatever_it_is_given(values, times):
    raw, labels = (np.array(column) for column in zip(*values * times, strict=True))
    curve = fit_calibration(raw, labels)
    if curve is None:
        return
    Policy(0.5, 0.9, calibration=curve)  # refuses another range
    x = np.linspace(0, 1, 5_001)
    assert (np.diff(curve(x)) > 0).all()


def test_thresholds_by_cost_are_refused_where_no_probability_can_be_told():
    raw = np.random.default_rng(0).random(1_000)
    options = Options(costs=Costs(review=2.0, block_legitimate=30.0))
    reached = Validation(np.zeros(1_000, bool), np.ones(1_000), np.ones(1_000, bool))
    with pytest.raises(InvalidDataset, match=r"1,000 .* 0 are known frauds.*--block-rate.*--rules"):
        _read_off(raw, reached, Weights(), options)
    policy, *_ = _read_off(raw, reached, Weights(), Options())
    assert policy.calibration is None


def test_a_probability_that_can_not_be_told_is_not_made_up():
    raw = np.linspace(0, 1, 1_000)
    assert fit_calibration(raw, np.zeros(1_000, bool)) is None
    assert fit_calibration(raw, raw < 0.02) is None


def test_costs_put_the_cuts_where_the_next_row_costs_as_much_either_way():
    """Of rows that all have the amount 100: a review (2) pays from a risk of 2 %, and blocking
    beats it where (1 - risk) x 40 is below 2, from 95 %."""
    risk = np.linspace(0, 1, 100_001)
    chosen = thresholds_by_cost(risk, np.full(100_001, 100.0), Costs(review=2, block_legitimate=40))
    assert chosen.review == pytest.approx(0.02, abs=1e-4)
    assert chosen.block == pytest.approx(0.95, abs=1e-4)
    assert chosen.blocked == (risk >= chosen.block).sum()
    assert chosen.reviewed == (risk >= chosen.review).sum() - chosen.blocked


@pytest.mark.parametrize(
    ("costs", "blocked", "reviewed"),
    [
        (Costs(review=1e6, block_legitimate=1e6), 0, 0),
        (Costs(review=1e6, block_legitimate=1e-6), 900, 0),
        (Costs(review=1e-6, block_legitimate=1e6), 0, 900),
    ],
    ids=["nothing pays", "blocking is free", "reviewing is free"],
)
def test_what_costs_too_much_is_never_done(costs, blocked, reviewed):
    risk = np.concatenate([np.zeros(100), np.linspace(0.01, 0.9, 900)])
    chosen = thresholds_by_cost(risk, np.full(1_000, 50.0), costs)
    assert (chosen.blocked, chosen.reviewed) == (blocked, reviewed)
    assert 0 < chosen.review <= chosen.block <= 1


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]), st.integers(0, 500)),
        min_size=1,
        max_size=40,
    ),
    review=st.floats(0.5, 50),
    block=st.floats(0.5, 500),
)
def test_no_other_pair_of_cuts_is_expected_to_cost_less(rows, review, block):
    risk, amount = (np.array(column, dtype=float) for column in zip(*rows, strict=True))

    def cost(low: float, high: float) -> float:
        approved, blocked = risk < low, risk >= high
        reviewed = ~approved & ~blocked
        return float(
            (risk * amount)[approved].sum()
            + review * reviewed.sum()
            + block * (1 - risk)[blocked].sum()
        )

    chosen = thresholds_by_cost(risk, amount, Costs(review=review, block_legitimate=block))
    cuts = [1e-300, 0.05, 0.2, 0.5, 0.9, 1.0, 2.0]
    best = min(cost(low, high) for low in cuts for high in cuts if low <= high)
    at_most_one_group_dearer = (1.0 - risk)[risk == risk.max()].sum() * block + review * len(risk)
    found = cost(chosen.review, chosen.block)
    if risk.max() < 1.0 and risk.min() > 0.0:
        assert found == pytest.approx(best, abs=1e-6)
    else:
        assert found <= best + at_most_one_group_dearer + 1e-6


def test_the_saving_counts_frauds_kept_reviews_and_good_payments_blocked():
    risk = np.array([0.9, 0.9, 0.5, 0.5, 0.1, 0.1])
    labels = np.array([True, False, True, False, True, False])
    amount = np.array([100.0, 10.0, 30.0, 10.0, 70.0, 10.0])
    thresholds = thresholds_by_budget(risk, 0.34, 0.67)
    assert (thresholds.blocked, thresholds.reviewed) == (2, 2)
    gain = saving(risk, labels, amount, thresholds, Costs(review=3, block_legitimate=20))
    assert gain == pytest.approx(1_000 * (100 + 30 - 2 * 3 - 20) / 6)


@pytest.fixture(scope="module")
def busy(tmp_path_factory) -> Transactions:
    """600 rows of few wallets, so that many follow a block of their wallet within a day."""
    columns = make_columns(600, seed=3, fraud_rate=0.1)
    rng = np.random.default_rng(3)
    columns["source_wallet_id"] = [f"w{wallet}" for wallet in rng.integers(0, 4, 600)]
    columns["amount"] = np.round(rng.lognormal(4.0, 0.9, 600) * 100).astype(np.int64) * 100
    columns["country"] = rng.choice(np.array(["FR", "BE", "SN", None], dtype=object), 600)
    return read_transactions(str(write_dataset(tmp_path_factory.mktemp("busy"), columns)))


def history_of(data: Transactions, blocked: np.ndarray | None = None) -> np.ndarray:
    return replay(
        data.created_at,
        data.amount,
        data.source,
        data.destination,
        data.country_codes,
        blocked=blocked,
    )


def events_before(data: Transactions, row: int) -> np.ndarray:
    """The events of the row's wallet before it, as the live path keeps them."""
    rows = [at for at in range(row) if data.source[at] == data.source[row]][-1_000:]
    events = np.zeros((len(rows), 7), dtype=np.int64)
    events[:, 0] = data.created_at[rows]
    events[:, 3] = data.country_codes[rows]
    return events


def one_by_one(data, rules, policy, supervised, unsupervised, first):
    """The oracle: every row scored as live would, with the history of all decisions before it."""
    blocked = np.zeros(len(data), dtype=bool)
    risks, rule_blocks = [], []
    column = {name: text.values() for name, text in data.text.items()}
    for row in range(first, len(data)):
        features = history_of(data, blocked)[row]
        context = rule_context(
            amount=int(data.amount[row]),
            created_at=int(data.created_at[row]),
            same_wallet=bool(data.source[row] == data.destination[row]),
            currency=column["currency"][row],
            direction=column["direction"][row],
            transaction_type=column["transaction_type"][row],
            country=column["country"][row],
            source_balance=data.numbers["source_balance"][row],
            source_status=column["source_wallet_status"][row],
            account_age_minutes=data.numbers["account_age_minutes"][row],
            destination_status=None,
            user_status=None,
            user_risk_level=None,
            avg_amount_30d=features[FEATURE_INDEX["avg_amount_30d"]],
            tx_last_10min=features[FEATURE_INDEX["tx_last_10min"]],
            is_new_beneficiary=features[FEATURE_INDEX["is_new_beneficiary"]],
            blocked_tx_last_24h=features[FEATURE_INDEX["blocked_tx_last_24h"]],
            user_country_history=countries_30d(events_before(data, row), int(data.created_at[row])),
        )
        result = rules.evaluate(context)
        at = row - first
        risk = (
            1.0
            if result.blocks
            else float(policy.risk(result.rule_score, supervised[at], unsupervised[at]))
        )
        blocked[row] = bool(result.blocks) or risk >= policy.block
        rule_blocks.append(bool(result.blocks))
        risks.append(risk)
    return np.array(rule_blocks), np.array(risks)


@pytest.mark.parametrize("block", [2.0, 0.75, 0.5], ids=["rules only", "some", "many"])
def test_rules_are_replayed_as_if_every_row_had_been_scored_live(busy, block):
    first = 200
    rng = np.random.default_rng(5)
    supervised, unsupervised = rng.random(400) ** 3, rng.random(400)
    policy = Policy(block / 2, block)
    rules = RuleSet.default()
    replayed = RuleReplay(rules, busy, history_of(busy)[first:], slice(first, 600)).replay(
        policy, supervised, unsupervised
    )
    rule_blocks, risks = one_by_one(busy, rules, policy, supervised, unsupervised, first)
    np.testing.assert_array_equal(replayed.rule_blocked, rule_blocks)
    np.testing.assert_array_equal(replayed.risk, risks)
    # R15 must have decided something here, or the test would show nothing.
    others = RuleSet(rules.text, [rule for rule in rules.rules if rule.id != "R15"])
    without = RuleReplay(others, busy, history_of(busy)[first:], slice(first, 600)).replay(
        policy, supervised, unsupervised
    )
    assert (without.risk != risks).sum() > 20
    assert without.rule_blocked.sum() < rule_blocks.sum() < 390


def test_past_blocks_leave_after_24_hours(busy):
    rules = RuleSet.from_toml(
        '[[rule]]\nid = "R1"\nreason = "BIG"\ninputs = ["amount"]\n'
        'branch = [{ when = "amount > 250.0", then = "BLOCK" }]\n'
        '[[rule]]\nid = "R15"\nreason = "AGAIN"\ninputs = ["blocked_tx_last_24h"]\n'
        'branch = [{ when = "blocked_tx_last_24h >= 1.0", boost = 0.5 }]\n'
    )
    nothing = np.zeros(600)
    replayed = RuleReplay(rules, busy, history_of(busy), slice(0, 600)).replay(
        Policy(2.0, 2.0), nothing, nothing
    )
    for row in range(600):
        before = (busy.source[:row] == busy.source[row]) & (
            busy.created_at[:row] >= busy.created_at[row] - 86_400_000_000
        )
        expected = bool((before & (busy.amount[:row] > 2_500_000)).any())
        if busy.amount[row] <= 2_500_000:
            assert (replayed.rule_score[row] == 0.5) == expected, row


def test_countries_are_those_of_the_live_path(busy):
    lists, chosen = countries_before(busy, slice(100, 600))
    for row in range(100, 600):
        events = events_before(busy, row)
        assert lists[chosen[row - 100]] == countries_30d(events, int(busy.created_at[row])), row


def test_only_the_last_1000_attempts_and_30_days_count_for_countries(tmp_path):
    columns = make_columns(1_200, seed=4)
    columns["source_wallet_id"] = ["w0"] * 1_200
    columns["country"] = np.array(["SN"] * 5 + ["BE"] + ["FR"] * 1_194, dtype=object)
    data = read_transactions(str(write_dataset(tmp_path, columns)))
    lists, chosen = countries_before(data, slice(900, 1_200))
    for row in range(900, 1_200):
        expected = countries_30d(events_before(data, row), int(data.created_at[row]))
        assert lists[chosen[row - 900]] == expected
    assert lists[chosen[-1]] == ["FR"]


def test_countries_of_many_rows_take_little_memory(busy):
    rows = 200_000
    long = replace(
        busy,
        source=np.resize(busy.source, rows),
        created_at=busy.created_at[0] + np.arange(rows) * 1_000_000,
        text={"country": Text(np.zeros(rows, dtype=np.int32), ("FR",))},
    )
    tracemalloc.start()
    try:
        countries_before(long, slice(rows - 10, rows))
        assert tracemalloc.get_traced_memory()[1] < 6 * 2**20
    finally:
        tracemalloc.stop()


def test_country_codes_of_a_column_are_those_of_the_engine(busy):
    names = busy.text["country"].values()
    assert busy.country_codes.tolist() == [country_code(name) for name in names]
