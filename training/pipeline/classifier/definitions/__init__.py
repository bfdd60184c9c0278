"""Classifiers that ship with Sentinelle: one TOML file each."""

from pathlib import Path

from engine.errors import InvalidDefinition

_FOLDER = Path(__file__).parent


def definition_names() -> tuple[str, ...]:
    """The definitions there are."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def shipped_definition(name: str) -> str:
    """The TOML text of the definition `name`; InvalidDefinition when there is none."""
    if name not in definition_names():
        raise InvalidDefinition(
            f"No definition called {name!r} ships with Sentinelle; there are: "
            f"{', '.join(definition_names())}."
        )
    return (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
