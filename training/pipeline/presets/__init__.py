"""Mappings that ship with Sentinelle: one TOML file a preset."""

from pathlib import Path

from engine.errors import InvalidDataset
from training.pipeline.mapping import FileMapping, parse_mapping

_FOLDER = Path(__file__).parent


def preset_names() -> tuple[str, ...]:
    """The presets there are."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_preset(name: str) -> FileMapping:
    """Read the preset `name`; InvalidDataset when there is none."""
    if name not in preset_names():
        raise InvalidDataset(f"Unknown preset {name!r}; there are: {', '.join(preset_names())}.")
    text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    return parse_mapping(name, text)
