from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.policy import OUTCOMES, PiecewiseLinear, Policy, Weights

POLICY = Policy(review=0.5, block=0.8)
CURVE = PiecewiseLinear((0.0, 0.2, 1.0), (0.0, 0.6, 1.0))
SCORES = st.floats(0, 1)


def formula(rule: float, supervised: float, unsupervised: float) -> float:
    """The formula of rules.md, with the default weights and plain Python."""
    raw = (0.2 * rule + 0.6 * supervised + 0.2 * unsupervised) * (1 + rule)
    return min(max(raw, 0.0), 1.0)


@pytest.mark.parametrize(
    ("scores", "risk"),
    [
        ((0.0, 0.0, 0.0), 0.0),
        ((0.0, 0.5, 0.5), 0.4),
        ((0.5, 0.5, 0.5), 0.75),
        ((1.0, 0.0, 0.0), 0.4),
        ((1.0, 1.0, 1.0), 1.0),
        ((0.2, 0.9, 0.1), 0.72),
    ],
)
def test_the_formula(scores: tuple[float, float, float], risk: float) -> None:
    assert POLICY.risk(*scores) == pytest.approx(risk)


@given(SCORES, SCORES, SCORES)
def test_risk_is_the_documented_formula(rule: float, sup: float, unsup: float) -> None:
    assert POLICY.risk(rule, sup, unsup) == pytest.approx(formula(rule, sup, unsup), abs=1e-12)


@given(st.lists(st.tuples(SCORES, SCORES, SCORES), min_size=1, max_size=20))
def test_one_row_and_a_data_set_agree_to_the_last_bit(rows: list[tuple[float, ...]]) -> None:
    for policy in (POLICY, Policy(review=0.5, block=0.8, calibration=CURVE)):
        columns = np.array(rows).T
        assert policy.risk(*columns).tolist() == [float(policy.risk(*row)) for row in rows]


@given(SCORES, SCORES, SCORES, SCORES)
def test_risk_never_falls_when_a_score_rises(a: float, b: float, c: float, d: float) -> None:
    low, high = sorted((a, d))
    for policy in (POLICY, Policy(review=0.5, block=0.8, calibration=CURVE)):
        assert policy.risk(low, b, c) <= policy.risk(high, b, c)
        assert policy.risk(b, low, c) <= policy.risk(b, high, c)
        assert policy.risk(b, c, low) <= policy.risk(b, c, high)


def test_the_calibration_follows_the_clip() -> None:
    policy = Policy(review=0.5, block=0.8, calibration=CURVE)
    assert policy.risk(0.0, 0.25, 0.25) == pytest.approx(0.6)
    assert policy.risk(1.0, 1.0, 1.0) == 1.0


@pytest.mark.parametrize(
    ("risk", "decision"),
    [(0.0, "APPROVE"), (0.4999999999, "APPROVE"), (0.5, "REVIEW"), (0.7999999999, "REVIEW"),
     (0.8, "BLOCK"), (1.0, "BLOCK")],
)  # fmt: skip
def test_a_threshold_belongs_to_the_harder_side(risk: float, decision: str) -> None:
    assert POLICY.decide(risk) == decision


@pytest.mark.parametrize(
    "make",
    [
        lambda: Policy(review=0.9, block=0.8),
        lambda: Policy(review=0.0, block=0.8),
        lambda: Policy(review=float("nan"), block=0.8),
        lambda: Policy(review=0.5, block=float("inf")),
        lambda: Policy(review=0.5, block=0.8, calibration=PiecewiseLinear((0, 1), (0, 0.9))),
        lambda: Policy(review=0.5, block=0.8, calibration=PiecewiseLinear((0.1, 1), (0, 1))),
        lambda: Weights(-0.1, 0.6, 0.5),
        lambda: Weights(0, 0, 0),
        lambda: Weights(float("nan"), 0.6, 0.2),
        lambda: PiecewiseLinear((0.0,), (0.0,)),
        lambda: PiecewiseLinear((0.0, 1.0), (0.0, 0.5, 1.0)),
        lambda: PiecewiseLinear((0.0, 0.0, 1.0), (0.0, 0.5, 1.0)),
        lambda: PiecewiseLinear((0.0, 0.5, 1.0), (0.0, 0.5, 0.5)),
        lambda: PiecewiseLinear((0.0, float("inf")), (0.0, 1.0)),
    ],
)
def test_what_would_not_order_risks_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        make()


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])] * 3), min_size=1),
    st.sampled_from([Weights(), Weights(0.1, 0.45, 0.45), Weights(0.0, 1.0, 0.0)]),
)
def test_decisions_and_their_carriers_are_the_same_in_columns_and_one_by_one(scores, weights):
    policy = Policy(review=0.3, block=0.6, weights=weights)
    columns = np.array(scores).T
    decided = policy.severity(policy.risk(*columns))
    assert [OUTCOMES[at] for at in decided] == [
        policy.decide(float(policy.risk(*each))) for each in scores
    ]
    carried = np.array(policy.carriers(*columns)).T
    for each, of_row, found in zip(scores, decided.tolist(), carried.tolist(), strict=True):
        assert found == [bool(one) for one in policy.carriers(*each)]
        rule, supervised, unsupervised = each
        without = [
            policy.severity(policy.risk(rule, *rest)) < of_row
            for rest in ((0.0, unsupervised), (supervised, 0.0), (0.0, 0.0))
        ]
        assert any(found) == any(without)
        if without[0] or without[1]:
            assert found == without[:2]
        else:
            assert sum(found) <= 1
