"""What a sweep writes: the curve and the page, with the recommended sizes."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text import __version__
from mrl_text.codes import FEW_BITS
from mrl_text.files import peek_json, read_json, write_atomically

from .engines import CHECKED, Engine, engines
from .figures import draw_curve, draw_depths
from .grid import Cell, Line
from .recommendation import Recommendation, gigabytes
from .reference import Reference
from .results import Results, numbers
from .statistics import CONFIDENCE

KEEP = 0.99
"""Share of the full-width score that a recommended size keeps, unless told otherwise."""

TARGET = "target.json"
"""What the evaluation in a folder was asked to keep, for a leaderboard of it."""

_NAMED = 3  # models in the title, at most
_REFERENCE_FACTS = {"role": "reference", "method": "truncation", "revision": "", "dtype": "float32"}
_LINE_FACTS = ("role", "method", "model", "revision", "dtype")


def write_report(
    result: Results, data: Mapping[str, Any], folder: Path | None = None, *, references: Sequence[Reference] = ()
) -> list[Path]:
    """Write ``report.html``, ``curve.png`` and ``curve.svg``, and ``depths.png`` and ``.svg`` with several depths.

    Beside them the target is noted, for :func:`asked`.

    Args:
        result: finished results.
        data: what :func:`summarize` made of them, with the same ``references``.
        folder: where to write; None is the first folder of the results.
        references: published curves to overlay.

    Returns:
        The files.
    """
    folder = folder or result.folders[0]
    if peek_json(folder / TARGET) != (target := {"keep": data["keep"]}):  # a run that computes nothing leaves it alone
        write_atomically(folder / TARGET, json.dumps(target).encode())
    pictures = [*draw_curve(result, folder, references), *draw_depths(result, folder)]
    return [write_html(data, folder / "report.html"), *pictures]


def asked(folders: Sequence[str | Path]) -> float:
    """The share that the evaluations in these folders were asked to keep, of several the largest; or :data:`KEEP`."""
    files = [file for folder in folders if (file := Path(folder) / TARGET).is_file()]
    return max((float(read_json(file)["keep"]) for file in files), default=KEEP)


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
    return fill_page("report.html", title=html.escape(str(data["title"])), data=json_for_page(data))


def fill_page(template: str, **parts: str) -> str:
    """A page of this package with its placeholders filled, and with the head, style and helpers that all pages share.

    Args:
        template: file name of the page, with placeholders such as ``{{title}}``.
        parts: name of a placeholder -> what stands there, as HTML.
    """
    folder = files("mrl_text.eval")
    shared = {"style": "page.css", "helpers": "page.js"}
    parts |= {name: folder.joinpath(file).read_text(encoding="utf-8").rstrip() for name, file in shared.items()}
    # in one pass, so that a title or a label that looks like a placeholder stays as it is
    names = "|".join(map(re.escape, parts))
    head, page = (folder.joinpath(file).read_text(encoding="utf-8") for file in ("head.html", template))
    page = page.replace("{{head}}\n", head, 1)
    return re.sub(rf"\{{\{{({names})\}}\}}", lambda match: parts[match[1]], page)


def json_for_page(data: Mapping[str, Any]) -> str:
    """What :func:`plain_json` gives, as JSON that nothing in a script element can end."""
    return plain_json(data).replace("<", "\\u003c")


def plain_json(data: Mapping[str, Any]) -> str:
    """Data as JSON; a number that is not finite becomes null.

    Raises:
        TypeError: ``data`` holds something that JSON has no form for.
    """
    return json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))


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
    engine: Engine | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """All that the HTML report shows, ready for JSON; scores 0..1, an interval None where there is nothing to resample.

    Args:
        results: of a sweep, or of several.
        keep: target of the recommendations.
        references: published curves to overlay.
        failed: task -> why it was left out.
        engine: restricts the recommended sizes to what it stores and compares.
        title: of the page; None names the models, or says how many where there are more than three.
    """
    models = [line for line in results.lines if line.role == "model"]
    front = results.pareto()
    metrics = results.scores.groupby("task")["metric"].first()
    names = list(dict.fromkeys(results.labels[line] for line in models))
    ids = {line: f"m{number}" for number, line in enumerate(results.lines)}
    return {
        "title": title or (", ".join(names) if len(names) <= _NAMED else f"{len(names)} models"),
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
        "tasks": [
            {"name": task, "type": kind, "metric": metrics[task], "items": str(results.samples.get(task, ""))}
            | {"n": results.samples[task].n if task in results.samples else None}
            for task, kind in results.tasks.items()
        ],
        "cells": [
            _cell(results, ids[line], cell, _found(results, line, cell))
            | {"pareto": (line, cell) in front, "disk": results.disk(line, cell)}
            for line in results.lines
            for cell in results.cells(line)
        ]
        + [
            _cell(results, f"r{number}", Cell(dim), _published(one, dim))
            for number, one in enumerate(references)
            for dim in sorted(one.scores, reverse=True)
        ],
        "recommendations": [
            {**_recommendation(choice, scope), "line": ids[line]}
            for line in models
            for scope, tasks in scopes(results).items()
            if (choice := results.recommend(line, keep, tasks, engine)) is not None
        ],
        "engines": [
            {**_engine(choice, one), "line": ids[line]}
            for line in models
            if line.layers is None
            for one in engines().values()
            if (choice := results.recommend(line, keep, engine=one)) is not None
        ],
        "caution": results.caution(),
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


def _cell(results: Results, identity: str, cell: Cell, found: Found) -> dict[str, Any]:
    return {
        "line": identity,
        **_kind(cell),
        "bytes": cell.bytes,
        "disk": 0,
        "gb_per_100m": gigabytes(cell.bytes),
        "pareto": False,
        "overall": found(results.tasks),
        "types": {kind: one for kind, tasks in results.types.items() if (one := found(tasks))},
        "tasks": {task: one for task in results.tasks if (one := found([task]))},
    }


def _recommendation(choice: Recommendation, scope: str) -> dict[str, Any]:
    interval = choice.retention.interval()
    return {
        "scope": scope,
        **_kind(choice.cell),
        "bytes": choice.bytes,
        "disk": choice.disk,
        "retention": choice.retention.value,
        "low": interval.low if interval else None,
        "sureness": choice.sureness,
        "saved_bytes": choice.saved_bytes,
        "saved_gb_per_100m": gigabytes(choice.saved_bytes),
        "times_smaller": choice.full_bytes / choice.bytes,
        "text": f"{choice.engine.name}: {choice.headline()}" if choice.engine else choice.headline(),
    }


def _kind(cell: Cell) -> dict[str, Any]:
    return {"dim": cell.dim, "precision": cell.precision, "comparison": cell.comparison, "rescore": cell.rescore}


def _engine(choice: Recommendation, engine: Engine) -> dict[str, Any]:
    """What an engine can do for a model: the cell, how it keeps that, and the lines to paste."""
    kept = engine.kept(choice.cell)
    known = {"how": kept.how, "since": kept.since, "source": kept.source} if kept else {}
    return {
        "name": engine.name,
        "checked": CHECKED[engine.checked],
        "note": engine.note,
        "cell": choice.cell.label,
        "bytes": choice.bytes,
        "disk": choice.disk,
        "retention": choice.retention.value,
        "lines": engine.lines(choice.cell, choice.full.dim),
        **known,
    }


def _notes(results: Results, failed: Mapping[str, str]) -> list[str]:
    notes = [f"{task} was left out: {reason}" for task, reason in failed.items()]
    rows = results.scores[results.scores["precision"].isin(FEW_BITS) & (results.scores["calibration"] != "")]
    for task, what in rows.groupby("task", sort=False)["calibration"].first().items():
        notes.append(f"{task}: what codes stand for was measured on {what}")
    first = results.lines[0]
    largest = results.cells(first)[0]
    scores = {task: results.estimate(first, largest, [task]) for task in results.tasks}
    if without := [task for task, score in scores.items() if score is not None and score.replicates is None]:
        notes.append(f"no interval, since there is nothing to resample: {', '.join(without)}")
    return notes
