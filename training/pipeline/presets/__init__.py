"""How the columns of a file become canonical columns: one TOML file a preset."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import InvalidDataset
from training.pipeline.schema import COLUMNS, EARLIEST, LATEST

_FOLDER = Path(__file__).parent
_UNITS = {"hours": 3_600_000_000, "seconds": 1_000_000}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the values of one canonical column come from; exactly one of the first three is set.

    `column`: a column of the file. `constant`: always this. `row_number`: this prefix and the
    number of the row, 1 for the first of all files.
    With a column, `values` translates each value (any other is a fault), or `unit` says that it
    counts hours or seconds, of which number `first` begins at `start`.
    """

    column: str | None = None
    constant: str | None = None
    row_number: str | None = None
    values: dict[str, str] | None = None
    unit: str | None = None
    first: int = 0
    start: datetime | None = None

    @property
    def unit_us(self) -> int:
        """Microseconds in one `unit`."""
        return _UNITS[self.unit or ""]


@dataclass(frozen=True)
class Preset:
    """A mapping from a file's columns to the canonical ones."""

    name: str
    description: str
    columns: Mapping[str, Source]
    ignored: tuple[str, ...] = field(default=())

    @property
    def wanted(self) -> tuple[str, ...]:
        """The file's columns that the mapping reads."""
        named = (source.column for source in self.columns.values())
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def required(self) -> tuple[str, ...]:
        """Those without which a required canonical column would be missing."""
        named = (self.columns[column.name].column for column in COLUMNS if column.required)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def starting(self, start: datetime) -> "Preset":
        """The same preset, with its counted hours or seconds beginning at `start` (aware).

        Raises InvalidDataset when its times are not counted, or outside the years 1970 to 9998.
        """
        columns = dict(self.columns)
        counted = [name for name, source in columns.items() if source.unit is not None]
        if not counted:
            raise InvalidDataset(f"Preset {self.name} reads times from the file: it has no start.")
        if not EARLIEST <= start < LATEST:
            raise InvalidDataset(f"start is {start}; it must be in the years 1970 to 9998.")
        for name in counted:
            columns[name] = msgspec.structs.replace(columns[name], start=start.astimezone(UTC))
        return replace(self, columns=columns)


def preset_names() -> tuple[str, ...]:
    """The presets there are."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_preset(name: str) -> Preset:
    """Read the preset `name`; InvalidDataset when there is none."""
    if name not in preset_names():
        raise InvalidDataset(f"Unknown preset {name!r}; there are: {', '.join(preset_names())}.")
    text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    return parse_preset(name, tomllib.loads(text))


def parse_preset(name: str, data: Mapping[str, Any]) -> Preset:
    """A preset from its decoded TOML; InvalidDataset names what is wrong with it."""
    try:
        sources = msgspec.convert(data.get("columns", {}), dict[str, Source])
        ignored = msgspec.convert(data.get("ignored", []), tuple[str, ...])
    except msgspec.ValidationError as error:
        raise InvalidDataset(f"Preset {name}: {error}") from error
    canonical = {column.name for column in COLUMNS}
    unknown = sorted(set(sources) - canonical)
    missing = [c.name for c in COLUMNS if c.required and c.name not in sources]
    if unknown or missing:
        raise InvalidDataset(
            f"Preset {name}: unknown columns {unknown}, required columns missing {missing}."
        )
    for target, source in sources.items():
        given = (source.column, source.constant, source.row_number)
        if sum(value is not None for value in given) != 1:
            raise InvalidDataset(
                f"Preset {name}, {target}: give exactly one of column, constant, row_number."
            )
        if source.unit is not None and (source.unit not in _UNITS or source.start is None):
            raise InvalidDataset(
                f"Preset {name}, {target}: unit is one of {', '.join(_UNITS)} and needs a start."
            )
    return Preset(name, str(data.get("description", "")), sources, ignored)
