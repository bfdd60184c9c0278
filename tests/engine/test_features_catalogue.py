"""The catalogue says what it should, and every word of it matters."""

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engine.features.catalogue import (
    ADDITIVE_WINDOWS,
    CATALOGUE,
    FAILURE_WINDOWS,
    FRAUD_WINDOWS,
    INCOMING_WINDOWS,
    OWN,
    OWN_BALANCE,
    RATIOS,
    Feature,
    compile_catalogue,
    fingerprint,
)
from tests.engine.feature_cases import eventful_rows, expected_row, replayed
from tests.engine.oracle import DAY, HOUR, MINUTE, features

WINDOWS = (5 * MINUTE, 10 * MINUTE, HOUR, DAY, 7 * DAY, 30 * DAY)
PAGE = Path(__file__).parents[2] / "docs" / "features.md"
ROWS = eventful_rows(900, seed=3)


def test_names_are_unique_and_only_four_are_for_rules() -> None:
    names = [feature.name for feature in CATALOGUE]
    assert len(set(names)) == len(names) == 65
    assert [feature.name for feature in CATALOGUE if not feature.model_input] == [
        "avg_amount_30d",
        "tx_last_10min",
        "is_new_beneficiary",
        "blocked_tx_last_24h",
    ]
    assert [f.name for f in CATALOGUE if f.group == "for rules"] == [
        f.name for f in CATALOGUE if not f.model_input
    ]


def test_windows() -> None:
    assert ADDITIVE_WINDOWS == WINDOWS
    assert FAILURE_WINDOWS == (DAY, 7 * DAY)
    assert INCOMING_WINDOWS == (HOUR, DAY, 7 * DAY, 30 * DAY)
    assert FRAUD_WINDOWS == (DAY, 7 * DAY, 30 * DAY)


@cache
def _truth() -> np.ndarray:
    return np.array([expected_row(values) for values in features(ROWS)])


def _is_wrong(mutant: Feature, at: int) -> bool:
    """Whether the mutant is refused, or computes something that the definition does not."""
    try:
        plan = compile_catalogue([*CATALOGUE[:at], mutant, *CATALOGUE[at + 1 :]])
    except ValueError:
        return True
    computed = replayed(ROWS, plan=plan)[:, at]
    return not np.allclose(computed, _truth()[:, at], rtol=0, atol=1e-8, equal_nan=True)


def _mutants(feature: Feature) -> Iterator[Feature]:
    fields = {
        "key": {f.key for f in CATALOGUE},
        "aggregate": {f.aggregate for f in CATALOGUE},
        "window": {*WINDOWS, feature.window - 1, feature.window + 1},
        "default": {0.0, 1.0, -1.0, 0.5},
    }
    for field, values in fields.items():
        for value in values - {getattr(feature, field)}:
            yield dataclasses.replace(feature, **{field: value})
    if not math.isnan(feature.default):
        yield dataclasses.replace(feature, default=math.nan)


def test_the_catalogue_is_right() -> None:
    assert not any(_is_wrong(feature, at) for at, feature in enumerate(CATALOGUE))


@pytest.mark.parametrize("at", range(len(CATALOGUE)), ids=[f.name for f in CATALOGUE])
def test_any_change_of_an_entry_is_noticed(at: int) -> None:
    survivors = [mutant for mutant in _mutants(CATALOGUE[at]) if not _is_wrong(mutant, at)]
    assert survivors == []


def test_an_aggregate_that_a_key_does_not_have_is_refused() -> None:
    wrong = dataclasses.replace(CATALOGUE[0], key="source, country", aggregate="amount mean")
    with pytest.raises(ValueError, match="src_tx_count_out_5m: there is no 'amount mean'"):
        compile_catalogue([wrong])


def test_a_feature_of_a_known_kind_is_one_more_line() -> None:
    added = Feature("src_failed_count_1h", "status", "source", HOUR, "failed count", 0.0)
    plan = compile_catalogue([*CATALOGUE, added])
    matrix = replayed(ROWS, plan=plan)
    np.testing.assert_array_equal(matrix[:, :-1], replayed(ROWS))
    assert set(np.unique(matrix[:, -1])) >= {0.0, 1.0}


def test_the_fingerprint_follows_every_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    first = CATALOGUE[0].name
    before = fingerprint([first])
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    assert fingerprint([first]) == before
    seen = {before, fingerprint([]), fingerprint([CATALOGUE[1].name])}
    for mutant in _mutants(CATALOGUE[0]):
        monkeypatch.setattr("engine.features.catalogue.CATALOGUE", (mutant, *CATALOGUE[1:]))
        assert fingerprint([first]) not in seen
        seen.add(fingerprint([first]))


def _documented() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}


def _window(length: int) -> str:
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if length % unit == 0:
            return f"{length // unit} {name}"
    raise AssertionError(length)


def _default(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:g}"


def test_the_page_lists_the_catalogue() -> None:
    documented = {name: cells[:6] for name, cells in _documented().items() if len(cells) == 6}
    assert documented == {
        f.name: [
            f.group,
            f.key,
            _window(f.window),
            f.aggregate,
            _default(f.default),
            "models" if f.model_input else "rules",
        ]
        for f in CATALOGUE
    }


def test_the_page_lists_the_transactions_own_features() -> None:
    documented = {name for name, cells in _documented().items() if len(cells) == 1}
    assert documented == {
        *OWN, *OWN_BALANCE, *RATIOS, "transaction_type_X", "country_X", "attribute_X",
        "attribute_X_is_Y",
    }  # fmt: skip


def test_the_live_path_imports_nothing_of_training() -> None:
    code = (
        "import sys, engine.features.live, engine.features.schema;"
        "print([m for m in ('pandas', 'duckdb', 'sklearn', 'pyarrow', 'django')"
        " if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True, cwd=PAGE.parents[1]) == "[]\n"
