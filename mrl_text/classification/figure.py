"""Accuracy against expected size: single heads, cascade, oracle."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mrl_text.classification.adaptive import Point
from mrl_text.files import write_atomically

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_LOOKS = {"single": ("-", "o"), "cascade": ("--", "."), "oracle": ("", "*")}


@dataclass(frozen=True)
class Curve:
    """A line of the figure."""

    label: str
    points: list[Point]
    role: Literal["single", "cascade", "oracle"]


def draw_curves(curves: Sequence[Curve], file: Path, *, title: str = "") -> Path:
    """Draw accuracy against the mean largest size used, logarithmic (base 2), and write a PNG.

    Args:
        curves: one colour for each group of single heads, cascade and oracle, in this order.
        file: to write.
        title: above the axes.

    Returns:
        ``file``.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    group = -1
    for curve in curves:
        group += curve.role == "single"
        style, marker = _LOOKS[curve.role]
        sizes, scores = [point.largest for point in curve.points], [100 * point.accuracy for point in curve.points]
        color = _COLORS[group % len(_COLORS)]
        axes.plot(sizes, scores, linestyle=style, marker=marker, color=color, label=curve.label, linewidth=1.6)
    ticks = sorted({point.largest for curve in curves if curve.role == "single" for point in curve.points})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick:g}" for tick in ticks])
    axes.set_xlabel("numbers of a vector looked at, mean")
    axes.set_ylabel("accuracy (x100)")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    write_atomically(file, stream.getvalue())
    return file
