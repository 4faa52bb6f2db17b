"""Everything a report shows, as plain data: lines, cells, recommendations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mrl_text import __version__

from .grid import Cell, Line
from .reference import Reference
from .results import Recommendation, Results, gigabytes, numbers
from .statistics import CONFIDENCE

KEEP = 0.99
"""Share of the full-width score that a recommended size keeps, unless told otherwise."""

_LINE_FACTS = ("role", "method", "model", "revision", "dtype")


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
        + [_reference_line(f"r{number}", one) for number, one in enumerate(references)],
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


def _reference_line(identity: str, reference: Reference) -> dict[str, Any]:
    facts = {"role": "reference", "method": "truncation", "model": reference.model, "revision": "", "dtype": "float32"}
    return {"id": identity, "label": reference.label, **facts}


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
