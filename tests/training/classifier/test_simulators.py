"""Rows that are made up, and what is known of them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.classifier.definition import read_definition
from engine.errors import InvalidDataset, InvalidDefinition
from tests.training.classifier.support import churn
from training.pipeline.classifier.datasets import import_rows
from training.pipeline.classifier.definitions import definition_names, shipped_definition
from training.pipeline.classifier.simulators import CHUNK, SIMULATORS, simulate_rows
from training.pipeline.classifier.sponsor import EVENTS, SPONSORS, ZONES, preferences

SPONSOR = read_definition(shipped_definition("sponsor"))


@pytest.mark.parametrize("name", definition_names())
def test_a_shipped_definition_is_valid_and_what_it_simulates_fits_it(name, tmp_path):
    definition = read_definition(shipped_definition(name))
    assert definition.name == name
    file = simulate_rows(definition, tmp_path / "rows.csv", 20_000, 3).path
    result = import_rows(definition, [file], tmp_path / "data")
    assert (result.rows, result.rejected) == (20_000, 0)
    assert min(result.class_counts.values()) > 0
    assert result.columns[-1] == definition.training.best_possible


def test_the_sponsors_definition_and_simulator_have_the_same_values():
    assert tuple(SPONSOR.labels) == SPONSORS
    assert tuple(SPONSOR.inputs["zone"].values) == ZONES
    assert tuple(SPONSOR.inputs["event"].values) == EVENTS


def test_equal_arguments_give_equal_files_and_more_rows_begin_with_the_fewer(tmp_path):
    def written(name: str, rows: int, seed: int = 7) -> pa.Table:
        return pq.read_table(simulate_rows(SPONSOR, tmp_path / name, rows, seed).path)

    some = written("a.parquet", 500)
    written("b.parquet", 500)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert written("c.parquet", CHUNK + 10).slice(0, 500) == some
    assert written("d.parquet", 500, seed=8) != some


def test_the_best_possible_accuracy_is_that_of_who_knows_the_simulator():
    rows = SIMULATORS["sponsor"](200_000, np.random.default_rng(5))
    zone = np.array([ZONES.index(zone) for zone in rows["zone"]])
    event = np.array([EVENTS.index(event) for event in rows["event"]])
    best, _, chance = preferences(
        rows["match_minute"],
        rows["score_diff"],
        rows["temperature"],
        rows["crowd_density"],
        zone,
        event,
    )
    assert chance.tolist() == rows["best_probability"].tolist()
    right = np.array(SPONSORS)[best] == rows["recommended_sponsor"]
    for level in np.unique(chance):
        among = chance == level
        spread = 4 * np.sqrt(level * (1 - level) / among.sum())
        assert abs(right[among].mean() - level) < spread
    assert 0.873 < chance.mean() < 0.9


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path": "rows.txt"}, "must end in one of .csv"),
        ({"path": "nowhere/rows.csv"}, "there is no folder"),
        ({"rows": 0}, "rows is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"definition": churn()}, "names no simulator"),
    ],
    ids=["suffix", "folder", "rows", "seed", "simulator"],
)
def test_what_can_not_be_simulated_is_refused(tmp_path, change, told):
    given = {"definition": SPONSOR, "path": "rows.csv", "rows": 10, "seed": 0} | change
    with pytest.raises(InvalidDataset, match=told):
        simulate_rows(given["definition"], tmp_path / given["path"], given["rows"], given["seed"])
    assert not [*tmp_path.iterdir()]


def test_an_unknown_shipped_definition_is_refused_with_those_there_are():
    with pytest.raises(InvalidDefinition, match="'churn' ships with Sentinelle; there are: spons"):
        shipped_definition("churn")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("[inputs.zone]", "[inputs.stand]"), "has stand, which its simulator 'sponsor' does not"),
        (('type = "number"', 'type = "integer"'), "temperature as int64, and its simulator"),
    ],
    ids=["name", "type"],
)
def test_a_definition_that_is_not_its_simulators_is_told_so(change, told, tmp_path):
    other = read_definition(shipped_definition("sponsor").replace(*change))
    with pytest.raises(InvalidDataset, match=told):
        simulate_rows(other, tmp_path / "rows.csv", 10, 1)
    assert not list(tmp_path.iterdir())
