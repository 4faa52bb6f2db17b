"""The quality-against-size curve, and the map of sizes and depths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from mrl_text.figures import CONTROL, PALETTE, new_figure, save_figure, size_axis, tidy

from .grid import Line
from .reference import Reference
from .results import Results

_CONTROL_DASHES = {"truncation": "--", "pca": "-.", "random": (0, (1, 1))}
_MARKERS = {"float32": "o", "float16": "s", "int8": "^", "binary": "D"}


def draw_curve(result: Results, folder: Path | None = None, references: Sequence[Reference] = ()) -> list[Path]:
    """Draw score against bytes per vector and write ``curve.png`` and ``curve.svg``.

    One colour a model, one marker a precision, controls dashed in grey, published curves thin. The byte axis is
    logarithmic (base 2). The 95 % interval is shaded around float32 where there is one; a thin step marks the Pareto
    front of the models. With several tasks the mean over tasks is drawn.

    Args:
        result: finished results.
        folder: where to write; None is the first folder of the results.
        references: published curves; one that lacks a task is not drawn.

    Returns:
        The two files.
    """
    figure = new_figure(10, 5.2)
    axes = figure.subplots()
    colors = itertools.cycle(PALETTE)
    for line in result.lines:
        _draw_line(axes, result, line, CONTROL if line.role == "control" else next(colors))
    for reference in references:
        points = [(reference.bytes(dim), reference.mean(dim, list(result.tasks))) for dim in sorted(reference.scores)]
        drawn = [(size, 100 * score) for size, score in points if score is not None]
        if drawn:
            axes.plot(*zip(*drawn, strict=True), "-", marker="x", lw=1, color=next(colors), label=reference.label)
    if len({cell.precision for line in result.lines for cell in result.cells(line)}) > 1:
        _draw_front(axes, result)
    _label_axes(figure, axes, result)
    return _save(figure, folder or result.folders[0], "curve")


def _draw_line(axes: Axes, result: Results, line: Line, color: str) -> None:
    control = line.role == "control"
    precisions = list(dict.fromkeys(cell.precision for cell in result.cells(line)))
    for precision in precisions:
        cells = sorted(cell for cell in result.cells(line) if cell.precision == precision)
        estimates = [(cell, estimate) for cell in cells if (estimate := result.estimate(line, cell)) is not None]
        if not estimates:
            continue
        sizes = [cell.bytes for cell, _ in estimates]
        axes.plot(
            sizes,
            [100 * estimate.value for _, estimate in estimates],
            linestyle=_CONTROL_DASHES[line.method] if control else "-",
            linewidth=1.2 if control else 1.8,
            color=color,
            marker=_MARKERS.get(precision, "o"),
            markersize=4 if control else 5.5,
            markerfacecolor="white" if control else color,
            label=result.labels[line] if precision == precisions[0] else None,
            alpha=1 if precision == precisions[0] else 0.75,
        )
        intervals = [estimate.interval() for _, estimate in estimates]
        if precision == "float32" and not control and None not in intervals:
            low, high = ([100 * getattr(one, side) for one in intervals] for side in ("low", "high"))
            axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)


def _draw_front(axes: Axes, result: Results) -> None:
    front = [(cell.bytes, result.estimate(line, cell)) for line, cell in result.pareto()]
    points = sorted((size, 100 * estimate.value) for size, estimate in front if estimate is not None)
    if len(points) > 1:
        axes.step(*zip(*points, strict=True), where="post", color="black", lw=0.8, alpha=0.5, label="Pareto front")


def _label_axes(figure: Figure, axes: Axes, result: Results) -> None:
    size_axis(axes, {cell.bytes for line in result.lines for cell in result.cells(line)})
    tidy(axes, xlabel="bytes per vector", ylabel=_score_label(result))
    handles, _ = axes.get_legend_handles_labels()
    precisions = dict.fromkeys(cell.precision for line in result.lines for cell in result.cells(line))
    if len(precisions) > 1:
        look: dict[str, Any] = {"linestyle": "", "color": "black"}
        handles += [Line2D([], [], marker=_MARKERS.get(name, "o"), label=name, **look) for name in precisions]
    figure.legend(handles=handles, frameon=False, loc="outside right upper", fontsize=9)


def draw_depths(result: Results, folder: Path | None = None) -> list[Path]:
    """Draw float32 scores over size and number of layers as heat maps, ``depths.png`` and ``depths.svg``.

    One map for each model that was evaluated with fewer layers, and for its base, all on one colour scale; the most
    layers on top. The two files are returned, none where every model has one depth only; ``folder`` as for
    :func:`draw_curve`.
    """
    maps = {line: depths for line in result.lines if line.layers is None and (depths := result.depths(line))}
    if not maps:
        return []
    curves = {one: result.curve(one) for depths in maps.values() for one in depths}
    scores = [100 * score for curve in curves.values() for score in curve.values()]
    if not scores:  # no model has been evaluated on all tasks
        return []
    rows = max(map(len, maps.values()))
    figure = new_figure(5.2 * len(maps) + 1, 0.55 * rows + 2)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (line, depths) in zip(panels, maps.items(), strict=True):
        drawn = _draw_map(axes, [curves[one] for one in depths], (min(scores), max(scores)))
        axes.set_yticks(range(len(depths)), [one.depth or "all layers" for one in depths])
        axes.set_title(result.labels[line], fontsize=10)
    figure.colorbar(drawn, ax=panels, label=_score_label(result))
    return _save(figure, folder or result.folders[0], "depths")


def _draw_map(axes: Axes, curves: Sequence[dict[int, float]], limits: tuple[float, float]) -> AxesImage:
    sizes = sorted({size for curve in curves for size in curve})
    values = [[100 * curve.get(size, math.nan) for size in sizes] for curve in curves]
    image = axes.imshow(values, cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto")
    middle = sum(limits) / 2
    for row, scores in enumerate(values):
        for column, score in enumerate(scores):
            shown = "" if math.isnan(score) else f"{score:.1f}"
            axes.text(column, row, shown, ha="center", va="center", color="black" if score > middle else "white")
    axes.set_xticks(range(len(sizes)), list(map(str, sizes)))
    axes.set_xlabel("numbers per vector")
    return image


def _save(figure: Figure, folder: Path, name: str) -> list[Path]:
    return save_figure(figure, folder / f"{name}.png", folder / f"{name}.svg")


def _score_label(result: Results) -> str:
    tasks = list(result.tasks)
    metrics = list(dict.fromkeys(result.scores["metric"]))
    metric = metrics[0].replace("ndcg_at_", "nDCG@").replace("_", " ") if len(metrics) == 1 else "main score"
    return f"{tasks[0]}, {metric} (x100)" if len(tasks) == 1 else f"mean {metric} of {len(tasks)} tasks (x100)"
