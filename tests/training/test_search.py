"""Successive halving: what is tried, what is kept, and how long it may take."""

import time

import numpy as np
import pytest

from training.pipeline import search as searching
from training.pipeline.fit import SUPERVISED_DEFAULTS, FitPart
from training.pipeline.search import search
from training.pipeline.spec import Search


def make_part(rows: int, seed: int) -> FitPart:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, 8))
    labels = matrix[:, 0] + matrix[:, 1] * matrix[:, 2] + rng.normal(size=rows) > 3.5
    return FitPart(matrix, labels, np.ones(rows))


TRAIN, VALIDATION = make_part(6_000, 0), make_part(3_000, 1)
QUICK = {"max_iter": 10}


def run(asked: Search | None, **changes):
    arguments = {"seed": 0, "hyperparameters": QUICK, "progress": lambda *_: None} | changes
    return search(TRAIN, VALIDATION, asked, **arguments)


@pytest.fixture(autouse=True)
def _small_rounds(monkeypatch):
    monkeypatch.setattr(searching, "LEAST_ROWS", 500)


def test_without_a_search_the_default_is_fitted_once():
    found = run(None)
    assert found.describe() is None
    assert found.best.model.learning_rate == SUPERVISED_DEFAULTS["learning_rate"]


def test_each_round_has_a_third_of_the_trials_and_three_times_the_rows():
    found = run(Search(configurations=9, minutes=10))
    described = found.describe()
    assert described["complete"]
    rounds = [len(trial["rounds"]) for trial in described["trials"]]
    assert (len(rounds), rounds[0]) == (9, 3)
    # The best third, and the default if it was not among them.
    assert rounds.count(3) in (1, 2)
    assert rounds.count(3) + rounds.count(2) in (3, 4)
    sizes = {
        (at, row["rows"]) for trial in described["trials"] for at, row in enumerate(trial["rounds"])
    }
    assert [rows for _, rows in sorted(sizes)] == [666, 2_000, 6_000]

    last = [trial for trial in found.trials if len(trial.rounds) == 3]
    best = max(last, key=lambda trial: trial.score)
    assert found.chosen == best.number
    assert best.score >= found.trials[0].score
    assert max(found.best.learning_curve) == pytest.approx(best.score, abs=1e-6)
    for name, value in best.hyperparameters.items():
        assert getattr(found.best.model, name) == value


def test_no_round_has_the_rows_of_another(monkeypatch):
    monkeypatch.setattr(searching, "LEAST_ROWS", 4_000)
    found = run(Search(configurations=9, minutes=10))
    for trial in found.trials:
        rows = [each["rows"] for each in trial.rounds]
        assert rows in ([4_000], [4_000, 6_000])
    # A third of them went on, and the default.
    assert sum(len(trial.rounds) == 2 for trial in found.trials) in (3, 4)


def test_the_seed_decides_everything_but_the_seconds():
    def tried(seed):
        trials = run(Search(configurations=3, minutes=10), seed=seed).describe()["trials"]
        return [
            (trial["hyperparameters"], [row["average_precision"] for row in trial["rounds"]])
            for trial in trials
        ]

    assert tried(3) == tried(3)
    assert tried(3) != tried(4)


def test_the_budget_ends_the_search_in_the_middle_of_a_fit_and_a_model_is_there_all_the_same():
    began = time.monotonic()
    found = run(Search(configurations=1_000, minutes=2 / 60), hyperparameters={"max_iter": 300})
    assert not found.complete
    assert 1.9 < found.seconds < 8
    assert time.monotonic() - began < 30
    assert found.trials[0].rounds or found.chosen == 0
    assert found.best.model.n_iter_ >= 1


def test_legitimate_rows_that_are_left_out_are_weighed_in():
    part = searching._thinned(TRAIN, 1_000, 0)
    assert part.labels.sum() == TRAIN.labels.sum()
    assert 1_000 <= len(part.labels) <= 1_001 + TRAIN.labels.sum()
    assert part.weights[~part.labels].sum() == pytest.approx((~TRAIN.labels).sum())
    assert (part.weights[part.labels] == 1).all()
