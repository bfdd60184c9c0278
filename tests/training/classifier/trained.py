"""The sponsor model, trained twice on simulated rows: the second time beside the first."""

from pathlib import Path
from typing import Any, NamedTuple

from engine.classifier.definition import read_definition
from tests.training.classifier.support import run_program, write_spec
from training.pipeline.classifier.datasets import ImportResult, import_rows
from training.pipeline.classifier.definitions import shipped_definition
from training.pipeline.classifier.simulators import simulate_rows

ROWS = 4_000
FIRST, SECOND = "1.0.0", "1.1.0"


class Trained(NamedTuple):
    """What the runs left behind, by version."""

    data: ImportResult
    folders: dict[str, Path]
    reports: dict[str, dict[str, Any]]


def train_twice(folder: Path) -> Trained:
    """Train v1.0.0 with three trees, then v1.1.0 with 40 while v1.0.0 serves."""
    source = shipped_definition("sponsor")
    definition = read_definition(source)
    rows = simulate_rows(definition, folder / "rows.csv", ROWS, seed=1)
    data = import_rows(definition, [rows.path], folder / "data")
    folders, reports = {}, {}
    champion = None
    for version, trees in ((FIRST, 3), (SECOND, 40)):
        folders[version] = write_spec(
            folder / version,
            data.path,
            source,
            version=version,
            dataset_fingerprint=data.fingerprint,
            options={"trees": trees},
            champion=champion,
        )
        reports[version] = run_program(folders[version])
        assert reports[version]["status"] == "succeeded", reports[version]
        champion = {
            "version": version,
            "location": str(folders[version] / "bundle"),
            "manifest_sha256": reports[version]["manifest_sha256"],
        }
    return Trained(data, folders, reports)
