"""A small real classifier: a forest fitted on made-up rows, exported as training does."""

import io
from functools import cache
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from engine.champions import Champion, write_champion
from engine.classifier.bundle import COLUMNS, ESTIMATOR, MODEL, write_classifier_bundle
from engine.classifier.definition import (
    BooleanInput,
    CategoryInput,
    Definition,
    IntegerInput,
    read_definition,
)
from engine.store import Store
from engine.trees import serialize

SPONSOR = """
name = "sponsor"
target = "sponsor"
description = "Which sponsor to show at this moment of a match"

[inputs.match_minute]
type = "integer"
minimum = 0
maximum = 120
unit = "min"

[inputs.score_diff]
type = "integer"
minimum = -20
maximum = 20

[inputs.temperature]
type = "number"
minimum = -30
maximum = 50
unit = "°C"

[inputs.crowd_density]
type = "number"
minimum = 0
maximum = 1

[inputs.zone]
type = "category"
values = ["VIP", "North", "South", "East", "West"]

[inputs.event]
type = "category"
values = ["None", "Goal", "Card"]
default = "None"

[classes.Glace]
campaign_message = "Cool down"
category = "food"

[classes."Café 9"]
campaign_message = "Warm up"
category = "drinks"

[classes.Volt]
campaign_message = "Drive on"
category = "cars"

[answer]
prediction = "recommended_sponsor"
"""
"""Of the shipped sponsor model: its inputs, three classes and fewer events."""

CHURN = """
name = "churn"
target = "left"

[inputs.age]
type = "integer"
minimum = 18
maximum = 120

[inputs.paid]
type = "number"
minimum = 0
maximum = 10000

[inputs.plan]
type = "category"
values = ["free", "paid"]
default = "free"

[inputs.opened_mail]
type = "boolean"
default = false

[classes.yes]
[classes.no]
"""
"""Two classes of which nothing is told, and every type of input."""

INPUTS: dict[str, Any] = {
    "match_minute": 42,
    "score_diff": -1,
    "temperature": 21.5,
    "crowd_density": 0.8,
    "zone": "VIP",
    "event": "Goal",
}
"""A good request to the sponsor model."""


def made_up_values(definition: Definition, rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Inputs as they may come in a request, drawn uniformly."""
    rng = np.random.default_rng(seed)

    def value(each: Any) -> Any:
        if isinstance(each, CategoryInput):
            return str(rng.choice(each.values))
        if isinstance(each, BooleanInput):
            return bool(rng.random() < 0.5)
        if isinstance(each, IntegerInput):
            return int(rng.integers(int(each.minimum), int(each.maximum) + 1))
        return float(rng.uniform(each.minimum, each.maximum))

    return [{name: value(each) for name, each in definition.inputs.items()} for _ in range(rows)]


def encoded(definition: Definition, values: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Rows (n, columns) of values that are complete."""
    return np.vstack([definition.encode(each) for each in values])


@cache
def fitted(
    source: str, *, rows: int = 200, trees: int = 5, seed: int = 0, without: str | None = None
) -> RandomForestClassifier:
    """The scikit-learn estimator of a bundle. A class that no row has (`without`) is known to it by
    a row of weight 0, so that it has a probability of its own: 0."""
    definition = read_definition(source)
    matrix = encoded(definition, made_up_values(definition, rows, seed))
    labels = np.arange(len(definition.labels))
    # The first input decides.
    limits = np.quantile(matrix[:, 0], np.linspace(0, 1, len(labels) + 1)[1:-1])
    actual = np.digitize(matrix[:, 0], limits)
    if without is not None:
        gone = definition.labels.index(without)
        actual[actual == gone] = (gone + 1) % len(labels)
    known = np.zeros((len(labels), matrix.shape[1]))
    matrix = np.vstack([matrix, known]).astype(np.float32)
    weights = np.append(np.ones(rows), np.zeros(len(labels)))
    forest = RandomForestClassifier(trees, min_samples_leaf=3, random_state=seed)
    return forest.fit(matrix, np.append(actual, labels), sample_weight=weights)


def classifier_files(source: str = SPONSOR, **how: Any) -> dict[str, bytes]:
    """The files that training hands to `write_classifier_bundle`; `how` are options of `fitted`."""
    estimator = fitted(source, **how)
    return {
        MODEL: serialize(estimator),
        ESTIMATOR: _dumped(estimator),
        COLUMNS: _dumped(read_definition(source).columns),
    }


def write_small_classifier(
    store: Store,
    prefix: str = "sponsor/v1.0.0",
    version: str = "1.0.0",
    definition: str = SPONSOR,
    *,
    seed: int = 0,
    **changes: Any,
) -> str:
    """Write the bundle and return its manifest's digest. `definition` is its TOML text; versions of
    other seeds answer otherwise; `changes` replace arguments of `write_classifier_bundle`."""
    facts: dict[str, Any] = {
        "files": classifier_files(definition, seed=seed),
        "source": definition,
        "version": version,
        "training": {"rows": 200},
        "libraries": {"treelite": "4.8.1"},
    }
    return write_classifier_bundle(store, prefix, **facts | changes)


def promote(store: Store, version: str = "1.0.0", promotion: int = 1, **changes: Any) -> str:
    """Write a small bundle of the sponsor model where the registry keeps it, and the pointer that
    makes it the champion. Its manifest's digest."""
    location = f"sponsor/v{version}"
    digest = write_small_classifier(store, location, version, **changes)
    champion = Champion(
        model="sponsor",
        version=version,
        location=location,
        manifest_sha256=digest,
        promotion=promotion,
    )
    write_champion(store, champion)
    return digest


def _dumped(value: Any) -> bytes:
    target = io.BytesIO()
    joblib.dump(value, target)
    return target.getvalue()
