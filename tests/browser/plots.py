"""What the plots of a page show, read off the pictures by their own axes."""

import re

import numpy as np
from playwright.sync_api import Locator


def drawn(plot: Locator, series: str) -> np.ndarray:
    """(points, 2) what a line shows, read off the picture by its own axes."""
    line = plot.locator(f'g[data-series="{series}"] .plot-line').first.get_attribute("d")
    points = np.array([[float(n) for n in pair.split(",")] for pair in re.split("[ML]", line)[1:]])
    axes = read_axes(plot.locator(".plot-tick"))
    return np.column_stack(
        [np.polyval(axis, values) for axis, values in zip(axes, points.T, strict=True)]
    )


def read_axes(ticks: Locator) -> tuple[np.ndarray, np.ndarray]:
    """The lines that turn places into values, of x and y."""
    found = ticks.evaluate_all(
        "ticks => ticks.map(t => [t.getAttribute('text-anchor'), t.getAttribute('x'),"
        " t.getAttribute('y'), t.textContent])"
    )
    x_ticks = [(float(x), number(text)) for anchor, x, _, text in found if anchor == "middle"]
    y_ticks = [(float(y) - 4, number(text)) for anchor, _, y, text in found if anchor == "end"]
    return tuple(np.polyfit(*np.array(axis).T, 1) for axis in (x_ticks, y_ticks))


def read_y(ticks: Locator, place: float) -> float:
    return float(np.polyval(read_axes(ticks)[1], place))


def number(text: str) -> float:
    return float(text.removesuffix("\N{NO-BREAK SPACE}%")) / 100 if "%" in text else float(text)
