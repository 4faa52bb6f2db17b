"""The quality-against-size curve, and the map of sizes and depths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from mrl_text.figures import CONTROL, PALETTE, new_figure, save_figure, size_axis, tidy

from .grid import Cell, Line
from .reference import Reference
from .results import Results
from .statistics import Estimate

_CONTROL_LOOK: dict[str, tuple[Any, str]] = {
    "truncation": ("--", "o"),
    "pca": ("-.", "o"),
    "random": ((0, (1, 1)), "o"),
    "pq": ((0, (5, 1)), "P"),
    "rabitq": ((0, (3, 1, 1, 1)), "X"),
}
_MARKERS = {"float32": "o", "float16": "s", "int8": "^", "int4": "v", "int2": "P", "binary": "D"}
_KINDS: dict[str, Any] = {"float queries": "-", "coded queries": (0, (1, 1.5)), "two stages": (0, (6, 1.5, 1, 1.5))}
_CROWDED = 4
"""Lines of one model above which they are thin, and intervals are drawn around the Pareto front alone."""


def draw_curve(result: Results, folder: Path | None = None, references: Sequence[Reference] = ()) -> list[Path]:
    """Draw score against bytes per vector and write ``curve.png`` and ``curve.svg``.

    One colour a model, one marker a precision; a single model has a colour for each precision. Coded queries are
    dotted, two stages dash-dotted, controls dashed in grey, published curves thin. The byte axis is logarithmic
    (base 2). A black step marks the Pareto front of the models over all sizes, precisions and comparisons. The 95 %
    interval is shaded around it where there is one, or around float32 where there are few lines. With several tasks
    the mean over tasks is drawn.

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
    models = [line for line in result.lines if line.role == "model"]
    for line in result.lines:
        if line.role == "control":
            _draw_control(axes, result, line)
        elif len(models) == 1:
            _draw_line(axes, result, line, dict(zip(_precisions(result, line), PALETTE, strict=False)))
        else:
            _draw_line(axes, result, line, dict.fromkeys(_precisions(result, line), next(colors)))
    for reference in references:
        points = [(reference.bytes(dim), reference.mean(dim, list(result.tasks))) for dim in sorted(reference.scores)]
        drawn = [(size, 100 * score) for size, score in points if score is not None]
        if drawn:
            axes.plot(*zip(*drawn, strict=True), "-", marker="x", lw=1, color=next(colors), label=reference.label)
    if len({cell.sequence for line in models for cell in result.cells(line)}) > 1:
        _draw_front(axes, result, crowded=any(len(_sequences(result, line)) > _CROWDED for line in models))
    _label_axes(figure, axes, result, models)
    return _save(figure, folder or result.folders[0], "curve")


def _precisions(result: Results, line: Line) -> list[str]:
    return [name for name in _MARKERS if any(cell.precision == name for cell in result.cells(line))]


def _sequences(result: Results, line: Line) -> dict[tuple[str, str, int], list[tuple[Cell, Estimate]]]:
    """Cells of a line that differ in size alone, with their scores, smallest first; PQ of all sizes is one.

    The usual ways to store and compare come first.
    """
    found: dict[tuple[str, str, int], list[tuple[Cell, Estimate]]] = {}
    for cell in sorted(result.cells(line), key=lambda one: one.bytes):
        if (estimate := result.estimate(line, cell)) is not None:
            kind = ("PQ", *cell.sequence[1:]) if line.method == "pq" else cell.sequence
            found.setdefault(kind, []).append((cell, estimate))
    names = list(_MARKERS)
    places = {kind: names.index(kind[0]) if kind[0] in names else len(names) for kind in found}
    return {kind: found[kind] for kind in sorted(found, key=lambda one: (one[2], one[1], places[one]))}


def _draw_line(axes: Axes, result: Results, line: Line, colors: Mapping[str, str]) -> None:
    sequences = _sequences(result, line)
    crowded = len(sequences) > _CROWDED
    for number, (kind, points) in enumerate(sequences.items()):
        color = colors[kind[0]]
        sizes = [cell.bytes for cell, _ in points]
        axes.plot(
            sizes,
            [100 * estimate.value for _, estimate in points],
            linestyle=_KINDS[_kind(points[0][0])],
            linewidth=1.1 if crowded else 1.8,
            color=color,
            marker=_MARKERS[kind[0]],
            markersize=4 if crowded else 5.5,
            markerfacecolor="white" if kind[1] == "symmetric" else color,
            label=result.labels[line] if number == 0 else None,
            alpha=1 if number == 0 or len(colors) > 1 else 0.75,
        )
        intervals = [estimate.interval() for _, estimate in points]
        if kind == ("float32", "asymmetric", 0) and not crowded and None not in intervals:
            low, high = ([100 * getattr(one, side) for one in intervals] for side in ("low", "high"))
            axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)


def _kind(cell: Cell) -> str:
    return "two stages" if cell.rescore else "coded queries" if cell.comparison == "symmetric" else "float queries"


def _draw_control(axes: Axes, result: Results, line: Line) -> None:
    dashes, marker = _CONTROL_LOOK[line.method]
    for number, points in enumerate(_sequences(result, line).values()):
        axes.plot(
            [cell.bytes for cell, _ in points],
            [100 * estimate.value for _, estimate in points],
            linestyle=dashes,
            linewidth=1.2,
            color=CONTROL,
            marker=marker,
            markersize=4,
            markerfacecolor="white",
            label=result.labels[line] if number == 0 else None,
        )


def _draw_front(axes: Axes, result: Results, *, crowded: bool) -> None:
    fronts = {"Pareto front": result.pareto(), "Pareto front, one stage": result.pareto(one_stage=True)}
    for label, cells in fronts.items():
        if label == "Pareto front" or cells != fronts["Pareto front"]:
            _draw_steps(axes, result, cells, label, crowded=crowded)


def _draw_steps(axes: Axes, result: Results, cells: set[tuple[Line, Cell]], label: str, *, crowded: bool) -> None:
    front = [(cell.bytes, result.estimate(line, cell)) for line, cell in cells]
    points = sorted(((size, one) for size, one in front if one is not None), key=lambda point: point[0])
    if len(points) < 2:
        return
    sizes, scores = [size for size, _ in points], [100 * one.value for _, one in points]
    dashes, width = ("--" if "," in label else "-"), (1.6 if crowded else 0.8)
    axes.step(sizes, scores, where="post", color="black", linestyle=dashes, lw=width, alpha=0.7, label=label)
    intervals = [one.interval() for _, one in points]
    if crowded and None not in intervals:
        low, high = ([100 * getattr(one, side) for one in intervals] for side in ("low", "high"))
        axes.fill_between(sizes, low, high, step="post", color="black", alpha=0.1, linewidth=0)


def _label_axes(figure: Figure, axes: Axes, result: Results, models: Sequence[Line]) -> None:
    cells = [cell for line in result.lines for cell in result.cells(line)]
    size_axis(axes, {cell.bytes for cell in cells})
    tidy(axes, xlabel="bytes per vector in memory", ylabel=_score_label(result))
    handles, _ = axes.get_legend_handles_labels()
    own = [cell for line in models for cell in result.cells(line)]
    precisions = [name for name in _MARKERS if any(cell.precision == name for cell in own)]
    colors = dict(zip(precisions, PALETTE, strict=False)) if len(models) == 1 else {}
    if len(precisions) > 1:
        for name in precisions:
            look: dict[str, Any] = {"linestyle": "", "color": colors.get(name, "black"), "marker": _MARKERS[name]}
            handles.append(Line2D([], [], label=name, **look))
    kinds = [kind for kind in _KINDS if any(_kind(cell) == kind for cell in own)]
    if len(kinds) > 1:
        disk = max((result.disk(line, cell) for line in models for cell in result.cells(line)), default=0)
        for kind in kinds:
            label = f"{kind}, {disk:,} bytes on disk" if kind == "two stages" else kind
            handles.append(Line2D([], [], color="black", lw=1.1, linestyle=_KINDS[kind], label=label))
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
