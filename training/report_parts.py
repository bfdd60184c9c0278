"""What the reports of every kind of model are made of."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.template.defaultfilters import filesizeformat

from training.metrics import NOTHING, Cell, Figure

Report = Mapping[str, Any]
FIRST_INPUTS = 20


class Tile(NamedTuple):
    """One figure shown large."""

    figure: Figure
    cell: Cell


class Plot(NamedTuple):
    """A figure that the browser draws."""

    name: str
    title: str
    caption: str


class Bar(NamedTuple):
    """A row of a bar chart; `begin`, `low` and `high` in percent of its width."""

    name: str
    text: str
    length: float
    low: float = 0.0
    high: float = 0.0


def tiles(figures: tuple[Figure, ...], found: Mapping[str, Any]) -> list[Tile]:
    """Those of the figures that a report has."""
    shown = [Tile(figure, figure.cell(found)) for figure in figures]
    return [tile for tile in shown if tile.cell.value != NOTHING]


def importance_bars(found: list[dict[str, Any]]) -> list[Bar]:
    """By how much a measure falls without each input, the widest whisker as long as the chart."""
    widest = max((each["high"] for each in found), default=0.0)
    if widest <= 0:
        return []

    def share(value: float) -> float:
        return round(100 * max(value, 0.0) / widest, 2)

    return [
        Bar(
            each["name"] + (f" ({each['columns']} columns)" if each["columns"] > 1 else ""),
            f"{each['drop']:.4f} ({each['low']:.4f} to {each['high']:.4f})",
            share(each["drop"]),
            share(each["low"]),
            share(each["high"]),
        )
        for each in found
    ]


def stage_rows(report: Report) -> list[tuple[str, Bar, str]]:
    """Each stage with its share of the time and its peak memory."""
    timings, peaks = report.get("timings", {}), report.get("peaks_mb", {})
    longest = max(timings.values(), default=0.0) or 1.0
    return [
        (
            stage,
            Bar(stage, f"{seconds:,.1f} s", round(100 * seconds / longest, 2)),
            memory_in_words(peaks[stage]) if stage in peaks else NOTHING,
        )
        for stage, seconds in timings.items()
    ]


def memory_in_words(megabytes: int) -> str:
    """An amount of memory with its unit."""
    return str(filesizeformat(megabytes * 2**20))
