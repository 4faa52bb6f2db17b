"""What all figures share: colours, axes, and how they become files. matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mrl_text.files import write_atomically

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, told apart with every common kind of colour blindness."""

CONTROL = "#6B6B6B"
"""Grey of whatever a model is compared with."""

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
    """Write a figure, each file whole or not at all; the ending of a file tells its type.

    Returns:
        The files.
    """
    for file in files:
        stream = io.BytesIO()
        with matplotlib.rc_context(_SVG):
            figure.savefig(stream, format=file.suffix.lstrip("."), dpi=dpi, metadata=_METADATA.get(file.suffix))
        write_atomically(file, stream.getvalue())
    return list(files)
