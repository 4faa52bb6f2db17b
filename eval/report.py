"""What a sweep prints and writes: tables, the recommended size, the curve and the page."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrl_text import __version__
from mrl_text.files import write_atomically

from .figures import draw_curve, draw_depths
from .grid import Cell, Line
from .reference import Reference
from .results import Recommendation, Results, gigabytes, numbers
from .statistics import CONFIDENCE, Estimate

KEEP = 0.99
"""Share of the full-width score that a recommended size keeps, unless told otherwise."""

_REFERENCE_FACTS = {"role": "reference", "method": "truncation", "revision": "", "dtype": "float32"}
_LINE_FACTS = ("role", "method", "model", "revision", "dtype")


def write_report(
    result: Results,
    folder: Path | None = None,
    *,
    keep: float = KEEP,
    references: Sequence[Reference] = (),
    failed: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write ``report.html``, ``curve.png`` and ``curve.svg``, and ``depths.png`` and ``.svg`` with several depths.

    Args:
        result: finished results.
        folder: where to write; None is the first folder of the results.
        keep: target of the recommended sizes.
        references: published curves to overlay.
        failed: task -> why it was left out.

    Returns:
        The files.
    """
    folder = folder or result.folders[0]
    data = summarize(result, keep=keep, references=references, failed=failed)
    pictures = [*draw_curve(result, folder, references), *draw_depths(result, folder)]
    return [write_html(data, folder / "report.html"), *pictures]


def print_report(result: Results, console: Console, *, keep: float = KEEP) -> None:
    """Print the table of every model with its controls, and the recommended size, overall and per task type.

    A model that was evaluated with fewer layers has a table of sizes and depths, its base another, and recommended
    sizes for every depth. ``keep`` is the target of the recommendations.
    """
    for line in result.lines:
        if line.role != "model" or line.layers is not None:
            continue
        console.print(score_table(result, line))
        for table in (task_table(result, line), control_table(result, line)):
            if table is not None:
                console.print(table)
        for one in (line, *_controls(result, line)):
            if (depths := depth_table(result, one)) is not None:
                console.print(depths)
        for one in result.depths(line) or [line]:
            for sentence in [*beaten_by_pca(result, one), *recommendations(result, one, keep)]:
                console.print(sentence, highlight=False, markup=False, soft_wrap=True)
        console.print()


def recommendations(result: Results, line: Line, keep: float) -> list[str]:
    """A sentence each: the smallest vectors that keep the target overall, and per task type."""
    chosen = {scope: tasks for scope, tasks in scopes(result).items() if scope == "overall" or scope in result.types}
    sentences = []
    for scope, tasks in chosen.items():
        choice = result.recommend(line, keep, tasks)
        where = f"{line.depth}, {scope}" if line.depth else scope
        nothing = "no size can be recommended from these scores"
        if line.depth and result.retention(line, result.cells(line)[0], tasks) is not None:
            nothing = f"no size keeps {100 * keep:.4g}% of the score of all layers with confidence"
        sentences.append(choice.sentence(where) if choice else f"{where}: {nothing}")
    return sentences


def beaten_by_pca(result: Results, line: Line) -> list[str]:
    """A sentence where principal components of the same vectors score higher, with confidence, than their prefix."""
    pca = replace(line, role="control", method="pca")
    gains = {cell.dim: _difference(result, pca, line, cell.dim) for cell in result.cells(pca)}
    known = {dim: gain for dim, gain in sorted(gains.items()) if gain is not None}
    sure = {dim: gain for dim, gain in known.items() if (interval := gain.interval()) and interval.low > 0}
    found = [f"{dim} ({_signed(gain)})" for dim, gain in sure.items()]
    if not found:
        return []
    return [
        (
            f"PCA beats the model at {', '.join(found)}: the same vectors hold more than their first numbers say;"
            " mrl-text adapt --method pca puts such components into a model"
        )
    ]


def task_table(result: Results, line: Line) -> Table | None:
    """Scores x100 in float32, one row per task: how many items, and every size; None for a single task."""
    if len(result.tasks) < 2:
        return None
    sizes = [cell.dim for cell in result.cells(line) if cell.precision == "float32"]
    metrics = result.scores.groupby("task")["metric"].first()
    table = Table(title="each task, in float32", title_justify="left", title_style="italic")
    for column in ("task", "metric", "items", *map(str, sizes)):
        table.add_column(escape(column), justify="left" if column in ("task", "metric") else "right")
    for task in result.tasks:
        scores = [_hundredfold(result, line, Cell(dim), [task]) for dim in sizes]
        table.add_row(escape(task), metrics[task], _items(result, line, [task]), *scores)
    return table


def _items(result: Results, line: Line, tasks: Sequence[str]) -> str:
    """How many items scores of full width were measured on; a dash where nothing is resampled."""
    estimate = result.estimate(line, result.cells(line)[0], tasks)
    return f"{estimate.n:,}" if estimate is not None and estimate.n else "-"


def score_table(result: Results, line: Line) -> Table:
    """One row per size and precision: bytes, mean score x100 with interval, retention in percent."""
    table = Table(title=escape(result.labels[line]), title_justify="left", title_style="bold")
    heading = next(iter(result.tasks)) if len(result.tasks) == 1 else f"mean of {len(result.tasks)} tasks"
    if (count := _items(result, line, list(result.tasks))) != "-":
        table.caption, table.caption_justify = f"measured on {count} items", "left"
    for column in ("size", "precision", "bytes", heading, "retention"):
        table.add_column(escape(column), justify="left" if column == "precision" else "right")
    cells = result.cells(line)
    for number, cell in enumerate(cells):
        estimate, retention = result.estimate(line, cell), result.retention(line, cell)
        if estimate is None:
            continue
        interval = estimate.interval()
        around = f" [{100 * interval.low:.2f}, {100 * interval.high:.2f}]" if interval else ""
        kept = f"{100 * retention.value:.1f} %" if retention else "-"
        last = number + 1 == len(cells) or cells[number + 1].dim != cell.dim
        score = f"{100 * estimate.value:.2f}{around}"
        table.add_row(str(cell.dim), cell.precision, str(cell.bytes), score, kept, end_section=last)
    return table


def control_table(result: Results, line: Line) -> Table | None:
    """Mean scores x100 of a model and of what it is compared with, by size, all in float32; None without controls.

    The difference from the untrained base comes with its paired interval.
    """
    controls = _controls(result, line)
    if not controls:
        return None
    names = {one: _beside(result, line, one) for one in (line, *controls)}
    bases = [one for one in controls if one.method == "truncation" and one.layers == line.layers]
    gains = {"model minus base": lambda dim: _signed(_difference(result, line, bases[0], dim))} if bases else {}
    return _size_table(result, "in float32, beside controls", names, gains)


def depth_table(result: Results, line: Line) -> Table | None:
    """Mean scores x100 of a line in float32, by size and number of layers; None where only one depth is known."""
    depths = result.depths(line)
    if not depths or line.layers is not None:
        return None
    title = f"{escape(result.labels[line])}, in float32"
    return _size_table(result, title, {one: one.depth or "all layers" for one in depths})


def _size_table(
    result: Results, title: str, names: Mapping[Line, str], more: Mapping[str, Callable[[int], str]] | None = None
) -> Table:
    """One row per size; one column per line, and ``more`` columns that know their cell of a size."""
    table = Table(title=title, title_justify="left", title_style="italic")
    last = more or {}
    for column in ("size", *names.values(), *last):
        table.add_column(escape(column), justify="right")
    for dim in sorted({cell.dim for one in names for cell in result.cells(one)}, reverse=True):
        scores = [_hundredfold(result, one, Cell(dim)) for one in names]
        table.add_row(str(dim), *scores, *(cell(dim) for cell in last.values()))
    return table


def _difference(result: Results, line: Line, other: Line, dim: int) -> Estimate | None:
    """Score of one line minus that of another in float32, paired."""
    score, control = result.estimate(line, Cell(dim)), result.estimate(other, Cell(dim))
    return score - control if score is not None and control is not None else None


def _signed(difference: Estimate | None) -> str:
    """A difference x100, with its interval where there is one."""
    if difference is None:
        return "-"
    interval = difference.interval()
    around = f" [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]" if interval else ""
    return f"{100 * difference.value:+.2f}{around}"


def _controls(result: Results, line: Line) -> list[Line]:
    """The lines that follow a model up to the next."""
    followers = result.lines[result.lines.index(line) + 1 :]
    return list(itertools.takewhile(lambda one: one.role != "model", followers))


def _beside(result: Results, line: Line, one: Line) -> str:
    if one.model != line.model:
        return result.labels[one]
    return one.label.removeprefix(line.label).strip(" ()") or "model"


def _hundredfold(result: Results, line: Line, cell: Cell, tasks: Sequence[str] | None = None) -> str:
    estimate = result.estimate(line, cell, tasks)
    return "-" if estimate is None else f"{100 * estimate.value:.2f}"


def write_html(data: Mapping[str, Any], file: Path) -> Path:
    """Write a report that opens in any browser without a network; returns ``file``.

    ``data`` is what :func:`summarize` returns. A number that is not finite becomes null, which
    the page shows as unknown. ``confidence`` may be left out.

    Raises:
        TypeError: ``data`` holds something that JSON has no form for.
        OSError: the file cannot be written; an older version of it is untouched.
    """
    write_atomically(file, render_html(data).encode("utf-8", errors="xmlcharrefreplace"))
    return file


def render_html(data: Mapping[str, Any]) -> str:
    """The page that :func:`write_html` writes, as text; errors as there."""
    template = files("mrl_text.eval").joinpath("report.html").read_text(encoding="utf-8")
    text = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    # without < nothing in a script element can end it
    parts = {"title": html.escape(str(data["title"])), "data": text.replace("<", "\\u003c")}
    # in one pass, so that a title or a label that looks like a placeholder stays as it is
    return re.sub(r"\{\{(title|data)\}\}", lambda match: parts[match[1]], template)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def summarize(
    results: Results,
    *,
    keep: float = KEEP,
    references: Sequence[Reference] = (),
    failed: Mapping[str, str] | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """All that the HTML report shows, ready for JSON; scores 0..1, an interval None where there is nothing to resample.

    Args:
        results: of a sweep, or of several.
        keep: target of the recommendations.
        references: published curves to overlay.
        failed: task -> why it was left out.
        title: of the page; None names the models.
    """
    models = [line for line in results.lines if line.role == "model"]
    front = results.pareto()
    metrics = results.scores.groupby("task")["metric"].first()
    ids = {line: f"m{number}" for number, line in enumerate(results.lines)}
    return {
        "title": title or ", ".join(dict.fromkeys(results.labels[line] for line in models)),
        "version": __version__,
        "keep": keep,
        "confidence": CONFIDENCE,
        "lines": [
            {"id": ids[line], "label": label, **{name: getattr(line, name) for name in _LINE_FACTS}}
            for line, label in results.labels.items()
        ]
        + [
            {"id": f"r{number}", "label": one.label, "model": one.model, **_REFERENCE_FACTS}
            for number, one in enumerate(references)
        ],
        "tasks": [{"name": task, "type": kind, "metric": metrics[task]} for task, kind in results.tasks.items()],
        "cells": [
            _cell(results, ids[line], cell, (line, cell) in front, _found(results, line, cell))
            for line in results.lines
            for cell in results.cells(line)
        ]
        + [
            _cell(results, f"r{number}", Cell(dim), False, _published(one, dim))
            for number, one in enumerate(references)
            for dim in sorted(one.scores, reverse=True)
        ],
        "recommendations": [
            {**_recommendation(choice, scope), "line": ids[line]}
            for line in models
            for scope, tasks in scopes(results).items()
            if (choice := results.recommend(line, keep, tasks)) is not None
        ],
        "notes": _notes(results, failed or {}),
    }


def scopes(results: Results) -> dict[str, list[str]]:
    """What a recommendation can be about: overall, each type, each task; a name stands for one set of tasks."""
    named = {"overall": list(results.tasks)}
    if len(results.types) > 1:
        named |= results.types
    if len(results.tasks) > 1:
        named |= {task: [task] for task in results.tasks}
    return named


Found = Callable[[Collection[str]], dict[str, Any] | None]
"""From tasks to a cell's numbers for them, None where one is missing."""


def _found(results: Results, line: Line, cell: Cell) -> Found:
    def found(tasks: Collection[str]) -> dict[str, Any] | None:
        score = results.estimate(line, cell, tasks)
        return None if score is None else numbers(score, results.retention(line, cell, tasks))

    return found


def _published(reference: Reference, dim: int) -> Found:
    def found(tasks: Collection[str]) -> dict[str, Any] | None:
        score, whole = reference.mean(dim, tasks), reference.mean(max(reference.scores), tasks)
        retention = score / whole if score is not None and whole else None
        return None if score is None else {**numbers(None, None), "score": score, "retention": retention}

    return found


def _cell(results: Results, identity: str, cell: Cell, pareto: bool, found: Found) -> dict[str, Any]:
    return {
        "line": identity,
        "dim": cell.dim,
        "precision": cell.precision,
        "bytes": cell.bytes,
        "gb_per_100m": gigabytes(cell.bytes),
        "pareto": pareto,
        "overall": found(results.tasks),
        "types": {kind: one for kind, tasks in results.types.items() if (one := found(tasks))},
        "tasks": {task: one for task in results.tasks if (one := found([task]))},
    }


def _recommendation(choice: Recommendation, scope: str) -> dict[str, Any]:
    interval = choice.retention.interval()
    return {
        "scope": scope,
        "dim": choice.cell.dim,
        "precision": choice.cell.precision,
        "bytes": choice.cell.bytes,
        "retention": choice.retention.value,
        "low": interval.low if interval else None,
        "sureness": choice.sureness,
        "saved_bytes": choice.saved_bytes,
        "saved_gb_per_100m": gigabytes(choice.saved_bytes),
        "times_smaller": choice.full.bytes / choice.cell.bytes,
        "text": choice.headline(),
    }


def _notes(results: Results, failed: Mapping[str, str]) -> list[str]:
    notes = [f"{task} was left out: {reason}" for task, reason in failed.items()]
    rows = results.scores[(results.scores["precision"] == "int8") & (results.scores["calibration"] != "")]
    for task, what in rows.groupby("task", sort=False)["calibration"].first().items():
        notes.append(f"{task}: the int8 ranges of each dimension were measured on {what}")
    first = results.lines[0]
    largest = results.cells(first)[0]
    scores = {task: results.estimate(first, largest, [task]) for task in results.tasks}
    if without := [task for task, score in scores.items() if score is not None and score.replicates is None]:
        notes.append(f"no interval, since there is nothing to resample: {', '.join(without)}")
    return notes
