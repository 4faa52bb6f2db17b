"""What all figures share: colours, axes, and how they become files. matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from mrl_text.files import write_atomically

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, told apart with every common kind of colour blindness."""

CONTROL = "#6B6B6B"
"""Grey of whatever a model is compared with."""

_CONTROLS = ((CONTROL, "--", "*"), ("#9A9A9A", "-.", "X"), (CONTROL, ":", "P"), ("#9A9A9A", "--", "v"))
_MARKERS = "osD^vPX*"
_SVG: Any = {"svg.hashsalt": "mrl-text", "svg.fonttype": "none"}  # the same drawing is the same file; text stays text
_METADATA: dict[str, dict[str, Any]] = {".svg": {"Date": None}}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, laid out so that nothing overlaps."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Labels, a faint grid, and no lines on top and at the right."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def size_axis(axes: Axes, sizes: Collection[float], most_ticks: int = 8) -> None:
    """A logarithmic x axis (base 2) with ticks at the sizes, or at powers of two where there are too many."""
    axes.set_xscale("log", base=2)
    shown = sorted(set(sizes))
    if len(shown) > most_ticks:
        shown = [2.0**power for power in range(30) if shown[0] <= 2**power <= shown[-1]]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick:,g}" for tick in shown])


def save_figure(figure: Figure, *files: Path, dpi: int = 150) -> list[Path]:
    """Write a figure, each file whole or not at all; the ending of a file tells its type."""
    for file in files:
        stream = io.BytesIO()
        with matplotlib.rc_context(_SVG):
            figure.savefig(stream, format=file.suffix.lstrip("."), dpi=dpi, metadata=_METADATA.get(file.suffix))
        write_atomically(file, stream.getvalue())
    return list(files)


Point = tuple[float, float, float | None, float | None]  # x, y, and the interval of y where there is one


@dataclass(frozen=True)
class Series:
    """One line of a panel: its name in the legend, its points, whether it is a control, whether points have markers."""

    name: str
    points: Sequence[Point]
    control: bool = False
    markers: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes; x is a size, on a logarithmic axis."""

    title: str
    ylabel: str
    series: Sequence[Series]
    xlabel: str = "numbers per vector"


def draw_panels(panels: Sequence[Panel], file: Path) -> Path:
    """Draw panels side by side, two or three in a row, with one legend.

    A name has the same colour in every panel. Controls are dashed and grey.

    Args:
        panels: at least one.
        file: to write; the ending tells the type.

    Returns:
        ``file``.
    """
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = -(-len(panels) // columns)
    styles = _styles(panels)
    width = 3.9 * columns + 0.4 if columns > 1 else 6.5
    figure = new_figure(width, 3.3 * rows + 0.25 * -(-len(styles) // 4) + 0.3)
    shown = {}
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        tidy(axes, title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
        size_axis(axes, [point[0] for one in panel.series for point in one.points])
        for one in panel.series:
            shown[one.name] = _draw_series(axes, one, styles[one.name])
    figure.legend(
        handles=[shown[name] for name in styles],
        frameon=False,
        loc="outside upper center",
        ncols=min(4, len(styles)),
        fontsize=9,
    )
    save_figure(figure, file, dpi=130)
    return file


def _styles(panels: Sequence[Panel]) -> dict[str, dict[str, Any]]:
    """Name -> how its line is drawn; models before controls."""
    control = {one.name: one.control for panel in panels for one in panel.series}
    styles: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(name for name in control if not control[name]):
        look = {"color": PALETTE[number % len(PALETTE)], "marker": _MARKERS[number % len(_MARKERS)]}
        styles[name] = look | {"linestyle": "-", "linewidth": 1.8, "markersize": 4.5}
    for number, name in enumerate(name for name in control if control[name]):
        color, dashes, marker = _CONTROLS[number % len(_CONTROLS)]
        styles[name] = {"color": color, "linestyle": dashes, "linewidth": 1.3}
        styles[name] |= {"marker": marker, "markersize": 4, "markerfacecolor": "white"}
    return styles


def _draw_series(axes: Axes, one: Series, style: dict[str, Any]) -> Line2D:
    xs, ys, lows, highs = zip(*sorted(one.points, key=lambda point: point[0]), strict=True)
    (line,) = axes.plot(xs, ys, label=one.name, **style | ({} if one.markers else {"marker": ""}))
    if not one.control and None not in lows:
        axes.fill_between(xs, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
    return line
