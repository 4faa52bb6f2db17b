"""Figures of the page, in the style of the evaluation's curves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mrl_text.files import write_atomically

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
_GREYS = ("#6B6B6B", "#9A9A9A")
_DASHES = ("--", "-.", ":")
_MARKERS = "osD^vPX*"

Point = tuple[float, float, float | None, float | None]
"""x, y, and the interval of y where there is one."""


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, its points, whether it is a control, and whether points have markers."""

    name: str
    points: Sequence[Point]
    control: bool = False
    markers: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes over vector sizes; ``log`` puts sizes on a logarithmic axis."""

    title: str
    ylabel: str
    series: Sequence[Series]
    log: bool = True
    xlabel: str = "numbers per vector"


def draw(panels: Sequence[Panel], file: Path) -> Path:
    """Draw panels side by side, two or three in a row, with one legend, into a PNG.

    Colours go with names: a name has the same colour in every panel. Controls are dashed and grey.

    Args:
        panels: at least one.
        file: to write.

    Returns:
        ``file``.
    """
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = -(-len(panels) // columns)
    styles = _styles(panels)
    legend = -(-len(styles) // 4)
    figure = Figure(figsize=(3.9 * columns + 0.4 if columns > 1 else 6.5, 3.3 * rows + 0.25 * legend + 0.3))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, panel in zip(axes, panels, strict=False):
        _draw_panel(place, panel, styles)
    for place in axes[len(panels) :]:
        place.remove()
    handles = {line.get_label(): line for place in axes[: len(panels)] for line in place.get_lines()}
    figure.legend(
        handles=[handles[name] for name in styles if name in handles],
        frameon=False,
        loc="outside upper center",
        ncols=min(4, len(styles)),
        fontsize=9,
    )
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    write_atomically(file, stream.getvalue())
    return file


def _styles(panels: Sequence[Panel]) -> dict[str, dict[str, object]]:
    names = {line.name: line.control for panel in panels for line in panel.series}
    lines = [name for name, control in names.items() if not control]
    controls = [name for name, control in names.items() if control]
    styles: dict[str, dict[str, object]] = {}
    for number, name in enumerate(lines):
        styles[name] = {"color": _COLORS[number % len(_COLORS)], "linestyle": "-", "linewidth": 1.8}
        styles[name] |= {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 4.5}
    for number, name in enumerate(controls):
        styles[name] = {"color": _GREYS[number % len(_GREYS)], "linestyle": _DASHES[number % len(_DASHES)]}
        styles[name] |= {"linewidth": 1.3, "marker": _MARKERS[-1 - number % 4], "markersize": 4}
        styles[name] |= {"markerfacecolor": "white"}
    return styles


def _draw_panel(axes: Axes, panel: Panel, styles: dict[str, dict[str, object]]) -> None:
    ticks: set[float] = set()
    for line in panel.series:
        points = sorted(line.points)
        xs = [point[0] for point in points]
        style = styles[line.name] | ({} if line.markers else {"marker": ""})
        axes.plot(xs, [point[1] for point in points], label=line.name, **style)  # type: ignore[arg-type]
        if points and not line.control and all(point[2] is not None for point in points):
            low, high = ([point[side] for point in points] for side in (2, 3))
            axes.fill_between(xs, low, high, color=str(style["color"]), alpha=0.15, linewidth=0)  # type: ignore[arg-type]
        ticks.update(xs)
    if panel.log:
        axes.set_xscale("log", base=2)
        shown = sorted(ticks) if len(ticks) <= 8 else [2**n for n in range(20) if min(ticks) <= 2**n <= max(ticks)]
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{tick:g}" for tick in shown])
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel(panel.ylabel)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
