"""Scoring a data set gives what live gives, transaction by transaction."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import InvalidDataset
from engine.features.catalogue import DAY, FEATURE_INDEX
from engine.fraud_bundle import Bundle, load_bundle
from engine.policy import BLOCK, OUTCOMES
from engine.rules import RuleSet
from engine.scorer import Decision, Scorer
from engine.store import LocalStore
from engine.transaction import country_code, decode_score_request, wallet_code
from tests.engine.feature_cases import LiveStore
from tests.engine.oracle import Row
from tests.training import live_traffic
from training.pipeline import bulk
from training.pipeline.bulk import score_in_order, score_transactions
from training.pipeline.datasets import import_files
from training.pipeline.judge import _score_champion
from training.pipeline.mapping import parse_mapping
from training.pipeline.prepare import Parts
from training.pipeline.spec import Champion
from training.pipeline.split import Split
from training.pipeline.table import Transactions, read_transactions

ROWS = 1_500
CHAMPION = {"data": {"parts": {"train": {"last_at": "2025-01-10T00:00:00Z"}}}}
RULES = RuleSet.default()


@pytest.fixture(scope="module")
def sent():
    return live_traffic.traffic(ROWS)


@pytest.fixture(scope="module")
def data(sent, tmp_path_factory) -> Transactions:
    folder = tmp_path_factory.mktemp("bulk")
    path = live_traffic.write_csv(folder / "sent.csv", sent)
    import_files([path], folder / "data", parse_mapping("traffic", live_traffic.MAPPING))
    return read_transactions(str(folder / "data" / "data.parquet"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    digest = live_traffic.write_bundle(store, label_delay=3 * DAY)
    return load_bundle(store, "fraud/v1.0.0", digest)


def served(sent, bundle, *, labels: bool) -> list[Decision]:
    """Every transaction by the live scorer, from a store that is empty at first."""
    scorer, store = Scorer(bundle, RULES), LiveStore(bundle.label_delay)
    decisions, waiting = [], []
    for facts in sent:
        request = decode_score_request(live_traffic.body(facts))
        transaction = request.transaction
        row = Row(
            created_at=transaction.created_at_us,
            amount=transaction.amount_units,
            source=wallet_code(transaction.source_wallet_id),
            destination=wallet_code(transaction.destination_wallet_id),
            country=country_code(transaction.country),
        )
        # Times in one zone and one format are in order as text.
        for fraud in [each for each in waiting if each[0] < facts["created_at"]]:
            waiting.remove(fraud)
            store.source_frauds[fraud[1].source].append(fraud[1].created_at)
            store.destination_frauds[fraud[1].destination].append(fraud[1].created_at)
        decision = scorer.score(request, store.history(row))
        decisions.append(decision)
        store.accept(replace(row, blocked=decision.decision == BLOCK))
        if facts["status"] in ("FAILED", "CANCELED"):
            store.fail(row.source, row.created_at)
        if labels and facts["is_fraud"]:
            waiting.append((facts["label_known_at"], row))
    return decisions


@pytest.mark.parametrize("labels", [False, True], ids=["no labels", "labels"])
def test_a_data_set_is_scored_as_live(sent, data, bundle, labels, monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK", 400)
    monkeypatch.setattr(bulk, "BLOCK", 130)
    decisions = served(sent, bundle, labels=labels)
    after = bundle.label_delay if labels else None
    row = 0
    for part in score_in_order(bundle, RULES, data, slice(0, ROWS), labels_after=after):
        for at in range(part.rows.stop - part.rows.start):
            assert_same(decisions[row], part, at, bundle)
            row += 1
    assert row == ROWS
    counts = Counter(decision.decision for decision in decisions)
    fired = Counter(name for decision in decisions for name in decision.rules_fired)
    assert all(counts[outcome] > 50 for outcome in OUTCOMES), counts
    assert {"R1", "R2", "R6", "R8", "R12", "R14", "R15"} <= set(fired), fired
    frauds = sum(decision.features["dst_fraud_count_30d"] for decision in decisions)
    assert (frauds > 100) == labels


def assert_same(decision: Decision, part: bulk.ScoredRows, at: int, bundle: Bundle) -> None:
    scores = part.scores
    result = part.results[part.said[at]]
    assert result.fired == decision.rules_fired
    assert bool(scores.rule_blocked[at]) == (decision.supervised_score is None)
    close = {
        "risk_score": scores.risk[at],
        "rule_score": scores.rule_score[at],
        "supervised_score": scores.supervised[at],
        "unsupervised_score": scores.unsupervised[at],
    }
    for name, value in close.items():
        expected = getattr(decision, name)
        assert expected is None or expected == round(float(value), 6), name
    for name, column in FEATURE_INDEX.items():
        assert_value(decision.features[name], part.history[at, column], name)
    for name, column in bundle.schema.positions.items():
        if name in decision.features and not name.startswith("attribute_"):
            assert_value(decision.features[name], part.inputs[at, column], name)
    assert (
        part.countries.lists[part.countries.codes[at]] == decision.features["user_country_history"]
    )


def assert_value(expected, value, name):
    assert (expected is None and math.isnan(value)) or expected == value, name


def test_the_scores_of_rows_know_what_came_before(data, bundle):
    """Training's question: the test part alone, with the labels as they became known."""
    told = []
    whole = score_transactions(bundle, RULES, data, slice(0, ROWS), labels_after=DAY)
    scores = score_transactions(
        bundle, RULES, data, slice(900, ROWS), told.append, labels_after=DAY
    )
    np.testing.assert_array_equal(scores.supervised, whole.supervised[900:])
    np.testing.assert_array_equal(scores.unsupervised, whole.unsupervised[900:])
    assert told[-1] == 600
    # What was blocked before the first of the rows is not known.
    assert (scores.rule_score <= whole.rule_score[900:]).all()
    assert (scores.rule_score < whole.rule_score[900:]).any()
    later = data.created_at[900:] > data.created_at[900] + DAY
    wallets = set(data.source[900:][~later])
    unaffected = later & ~np.isin(data.source[900:], list(wallets))
    np.testing.assert_array_equal(scores.risk[unaffected], whole.risk[900:][unaffected])


def test_a_label_arrives_as_the_data_says_whatever_delay_the_version_was_trained_with(data, bundle):
    def inputs(labels_after: int, known_at: np.ndarray | None) -> np.ndarray:
        known = replace(data, label_known_at=known_at)
        parts = score_in_order(bundle, RULES, known, slice(0, ROWS), labels_after=labels_after)
        return np.concatenate([part.inputs for part in parts])

    assert bundle.label_delay == 3 * DAY
    late = inputs(6 * DAY, None)
    np.testing.assert_array_equal(late, inputs(0, data.created_at + 6 * DAY))
    frauds = bundle.schema.positions["dst_fraud_count_30d"]
    assert 100 < late[:, frauds].sum() < inputs(3 * DAY, None)[:, frauds].sum()


def test_the_champion_is_judged_with_labels_that_arrive_as_in_the_run(data, tmp_path):
    """It was trained with labels that are there at once; where it is judged, they take 7 days."""
    store = LocalStore(tmp_path)
    digest = live_traffic.write_bundle(store, label_delay=0, training=CHAMPION)
    data = replace(data, label_known_at=None)
    test = slice(900, ROWS)
    split = Split(slice(0, 700), slice(700, 800), test, cut_off=int(data.created_at[900]))
    champion = Champion(
        version="1.0.0", location=f"{tmp_path}/fraud/v1.0.0", manifest_sha256=digest
    )
    parts = Parts(data, split, data.is_fraud, 7 * DAY, data.is_labelled)
    rival = _score_champion(champion, RULES, parts, "of the data", lambda *_: None)

    def risk(labels_after: int) -> np.ndarray:
        bundle = load_bundle(store, "fraud/v1.0.0", digest)
        return score_transactions(bundle, RULES, data, test, labels_after=labels_after).risk

    np.testing.assert_array_equal(rival.risk, risk(7 * DAY))
    assert (rival.risk != risk(0)).any()


def test_an_attribute_of_another_kind_is_refused_and_a_missing_one_is_unknown(data, bundle):
    columns = dict(data.attributes)
    columns["is_vpn"] = columns["is_vpn"]._replace(kind="number")
    other = replace(data, attributes=columns)
    with pytest.raises(InvalidDataset, match=r"is_vpn is a number in the data set; .* a boolean"):
        score_transactions(bundle, RULES, other, slice(0, ROWS), labels_after=DAY)
    del columns["is_vpn"]
    lacking = replace(data, attributes=columns)
    part = next(score_in_order(bundle, RULES, lacking, slice(0, 10), labels_after=None))
    assert np.isnan(part.inputs[:, bundle.schema.positions["attribute_is_vpn"]]).all()


def test_a_failure_in_a_thread_ends_the_scoring(data, bundle, monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK", 100)
    calls = []

    def fail(*_: object, **__: object) -> None:
        calls.append(1)
        raise MemoryError

    monkeypatch.setattr(type(bundle.supervised), "predict", fail)
    with pytest.raises(MemoryError):
        score_transactions(bundle, RULES, data, slice(0, ROWS), labels_after=DAY)
    assert len(calls) < 10
