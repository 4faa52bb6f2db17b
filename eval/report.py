"""What a sweep prints and writes: tables, the recommended size, the curve and the page."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrl_text.files import write_atomically

from .figures import draw_curve, draw_depths
from .grid import Cell, Line
from .reference import Reference
from .results import Results
from .summary import KEEP, scopes, summarize

_MOST_TASK_COLUMNS = 5
_WIDTH_FOR_TASKS = 120


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
        console.print(score_table(result, line, with_tasks=console.width >= _WIDTH_FOR_TASKS))
        if (controls := control_table(result, line)) is not None:
            console.print(controls)
        for one in (line, *_controls(result, line)):
            if (depths := depth_table(result, one)) is not None:
                console.print(depths)
        for one in result.depths(line) or [line]:
            for sentence in recommendations(result, one, keep):
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


def score_table(result: Results, line: Line, *, with_tasks: bool = True) -> Table:
    """One row per size and precision: bytes, mean score x100 with interval, retention in percent, a few tasks."""
    tasks = list(result.tasks) if with_tasks and 1 < len(result.tasks) <= _MOST_TASK_COLUMNS else []
    table = Table(title=escape(result.labels[line]), title_justify="left", title_style="bold")
    heading = next(iter(result.tasks)) if len(result.tasks) == 1 else f"mean of {len(result.tasks)} tasks"
    for column in ("size", "precision", "bytes", heading, "retention", *tasks):
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
        per_task = [_hundredfold(result, line, cell, [task]) for task in tasks]
        score = f"{100 * estimate.value:.2f}{around}"
        table.add_row(str(cell.dim), cell.precision, str(cell.bytes), score, kept, *per_task, end_section=last)
    return table


def control_table(result: Results, line: Line) -> Table | None:
    """Mean scores x100 of a model and of what it is compared with, by size, all in float32; None without controls."""
    controls = _controls(result, line)
    if not controls:
        return None
    return _size_table(
        result, "in float32, beside controls", {one: _beside(result, line, one) for one in (line, *controls)}
    )


def depth_table(result: Results, line: Line) -> Table | None:
    """Mean scores x100 of a line in float32, by size and number of layers; None where only one depth is known."""
    depths = result.depths(line)
    if not depths or line.layers is not None:
        return None
    title = f"{escape(result.labels[line])}, in float32"
    return _size_table(result, title, {one: one.depth or "all layers" for one in depths})


def _size_table(result: Results, title: str, names: Mapping[Line, str]) -> Table:
    """One row per size, one column per line."""
    table = Table(title=title, title_justify="left", title_style="italic")
    for column in ("size", *names.values()):
        table.add_column(escape(column), justify="right")
    for dim in sorted({cell.dim for one in names for cell in result.cells(one)}, reverse=True):
        table.add_row(str(dim), *(_hundredfold(result, one, Cell(dim)) for one in names))
    return table


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
    """Write a report that opens in any browser without a network.

    Args:
        data: what :func:`mrl_text.eval.summary.summarize` returns. A number that is not finite becomes null, which
            the page shows as unknown. ``confidence`` may be left out.
        file: where to write; missing parent folders are made.

    Returns:
        ``file``.

    Raises:
        TypeError: ``data`` holds something that JSON has no form for.
        OSError: the file cannot be written; an older version of it is untouched.
    """
    write_atomically(file, render_html(data).encode("utf-8", errors="xmlcharrefreplace"))
    return file


def render_html(data: Mapping[str, Any]) -> str:
    """The page that :func:`write_html` writes, as text; errors as there."""
    template = files("mrl_text.eval").joinpath("report.html").read_text(encoding="utf-8")
    parts = {"title": html.escape(str(data["title"])), "data": _json(data)}
    # in one pass, so that a title or a label that looks like a placeholder stays as it is
    return re.sub(r"\{\{(title|data)\}\}", lambda match: parts[match[1]], template)


def _json(data: Mapping[str, Any]) -> str:
    """JSON that may stand inside a script element: without ``<`` nothing in it can end the element."""
    return json.dumps(_plain(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


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
