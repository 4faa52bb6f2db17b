"""Accuracy against expected size: single heads, cascade, oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mrl_text.classification.adaptive import Point
from mrl_text.figures import PALETTE, new_figure, save_figure, size_axis, tidy

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
    figure = new_figure(8, 4.8)
    axes = figure.subplots()
    group = -1
    for curve in curves:
        group += curve.role == "single"
        style, marker = _LOOKS[curve.role]
        sizes, scores = [point.largest for point in curve.points], [100 * point.accuracy for point in curve.points]
        color = PALETTE[group % len(PALETTE)]
        axes.plot(sizes, scores, linestyle=style, marker=marker, color=color, label=curve.label, linewidth=1.6)
    singles = {point.largest for curve in curves if curve.role == "single" for point in curve.points}
    size_axis(axes, singles, most_ticks=len(singles))
    tidy(axes, title=title, xlabel="numbers of a vector looked at, mean", ylabel="accuracy (x100)")
    axes.legend(frameon=False, fontsize=9)
    return save_figure(figure, file)[0]
