"""What the function installs: what it imports and needs for that, in the versions of the rest."""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"django", "numba", "scikit-learn", "pandas", "duckdb", "pyarrow", "joblib", "celery"}


def pinned(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", path.read_text(), re.M))


def needed(name: str, found: dict[str, str]) -> dict[str, str]:
    """`found` with a distribution and all that it needs here."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name not in found:
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(requirement.name, found)
    return found


def test_the_function_installs_what_it_needs_and_nothing_else() -> None:
    installed: dict[str, str] = {}
    for name in (ROOT / "functions/requirements.in").read_text().split():
        if re.fullmatch(r"[a-z][a-z0-9-]+", name) and name in pinned(ROOT / "requirements-dev.txt"):
            needed(name, installed)
    assert pinned(ROOT / "functions/requirements.txt") == installed
    assert not HEAVY & installed.keys()


def test_its_versions_are_those_of_the_rest() -> None:
    rest = pinned(ROOT / "requirements-dev.txt") | pinned(ROOT / "requirements.txt")
    function = pinned(ROOT / "functions/requirements.txt")
    assert function == {name: rest[name] for name in function}
