"""Named sets of tasks, and what each model has on them: a mean is over all tasks of a set, or there is none."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import pandas as pd

from .grid import Cell, Line
from .published import Figure, kept
from .results import LINE_COLUMNS, Results, cell_of, line_of, numbers
from .statistics import Estimate


@dataclass(frozen=True)
class TaskSet:
    """What a score is about.

    Attributes:
        id: the same for the same set of another build.
        name: in words.
        kind: ``mean`` of tasks known one by one, one ``task``, or a mean that is ``published`` only as such.
        type: mteb's type of its tasks, or ``mixed``.
        metric: of the score.
        tasks: their names; empty where a source gives the mean alone.
    """

    id: str
    name: str
    kind: Literal["mean", "task", "published"]
    type: str
    metric: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """What a line and cell has on a set.

    Attributes:
        owner: a measured line, or the name of a published model.
        cell: size and precision.
        stated: of a published figure, how queries are compared, where the source says.
        task_set: the set.
        values: as :func:`mrl_text.eval.results.numbers` gives them.
        missing: tasks of the set that it lacks; then there are no values.
        sources: of a published figure: where it is from.
        note: of a published figure.
        estimate: of a measured score, for differences.
    """

    owner: Line | str
    cell: Cell
    stated: str
    task_set: TaskSet
    values: dict[str, Any]
    missing: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    note: str = ""
    estimate: Estimate | None = None


def task_sets(results: Results | None, figures: Sequence[Figure]) -> list[TaskSet]:
    """Means first, then means that are published as such, then single tasks.

    Means are over the measured tasks: all of them, those that every measured model has, and those of each type; where
    nothing was measured, over the tasks that are published one by one.

    Raises:
        ValueError: a task is published with another type or metric than was measured.
    """
    known = _single_tasks(results, figures)
    chosen = list(results.tasks) if results else list(known)
    types: dict[str, list[str]] = {}
    for task in chosen:
        types.setdefault(known[task][0], []).append(task)
    shared = _shared(results, chosen) if results else chosen
    means = []
    if len(types) > 1:
        means.append(_mean("all", f"All {len(chosen)} tasks", chosen, known))
    if 1 < len(shared) < len(chosen):
        means.append(_mean("shared", f"The {len(shared)} tasks that every measured model has", shared, known))
    means += [
        _mean(f"type:{kind}", f"{kind}, {len(tasks)} tasks", tasks, known)
        for kind, tasks in types.items()
        if len(tasks) > 1
    ]
    published = {
        one.task: TaskSet(f"published:{one.task}", one.task, "published", one.type, one.metric, ())
        for one in figures
        if one.tasks != 1
    }
    single = [TaskSet(f"task:{task}", task, "task", *known[task], (task,)) for task in known]
    return [*means, *published.values(), *single]


def _single_tasks(results: Results | None, figures: Sequence[Figure]) -> dict[str, tuple[str, str]]:
    """Task -> type and metric."""
    known: dict[str, tuple[str, str]] = {}
    if results is not None:
        metrics = results.scores.groupby("task")["metric"].first()
        known = {task: (kind, str(metrics[task])) for task, kind in results.tasks.items()}
    for one in figures:
        if one.tasks == 1 and known.setdefault(one.task, (one.type, one.metric)) != (one.type, one.metric):
            measured = " and ".join(known[one.task])
            raise ValueError(f"{one.place}: {one.task} is {one.type} and {one.metric}, but was measured as {measured}")
    return known


def _shared(results: Results, tasks: Sequence[str]) -> list[str]:
    lines = [line for line in results.lines if line.role == "model"]
    return [task for task in tasks if all(_has(results, line, task) for line in lines)]


def _has(results: Results, line: Line, task: str) -> bool:
    return any(results.estimate(line, cell, [task]) is not None for cell in results.cells(line))


def _mean(identity: str, name: str, tasks: Sequence[str], known: dict[str, tuple[str, str]]) -> TaskSet:
    kinds, metrics = ({known[task][place] for task in tasks} for place in (0, 1))
    kind = kinds.pop() if len(kinds) == 1 else "mixed"
    metric = metrics.pop() if len(metrics) == 1 else "main score of each task"
    return TaskSet(identity, name, "mean", kind, metric, tuple(tasks))


def entries(results: Results | None, figures: Sequence[Figure], sets: Sequence[TaskSet]) -> Iterator[Entry]:
    """What every line and cell has on every set; nothing where it has none of its tasks."""
    told = {} if results is None else _told(results)
    for task_set in sets:
        if results is not None:
            yield from _measured(results, task_set, told)
        yield from _published(figures, task_set)


Told = dict[tuple[Line, Cell, str], list[dict[str, Any]]]


def _told(results: Results) -> Told:
    """Intervals of single tasks as they stand in the table: where items are not at hand, none can be worked out."""
    columns = {"low": "ci_low", "high": "ci_high"} | {name: name for name in ("n", "retention_low", "retention_high")}
    found: Told = {}
    for row in results.scores.to_dict("records") if set(columns.values()) <= set(results.scores.columns) else ():
        known = {name: row[column] for name, column in columns.items() if not pd.isna(row[column])}
        line = line_of(row[column] for column in LINE_COLUMNS)
        found.setdefault((line, cell_of(row), row["task"]), []).append(known)
    return found


def _measured(results: Results, task_set: TaskSet, told: Told) -> Iterator[Entry]:
    for line in results.lines:
        for cell in results.cells(line):
            missing = _missing(task_set, [t for t in task_set.tasks if results.estimate(line, cell, [t]) is not None])
            if missing is None:
                continue
            score = None if missing else results.estimate(line, cell, task_set.tasks)
            share = None if missing else results.retention(line, cell, task_set.tasks)
            values = numbers(score, share)
            rows = told.get((line, cell, task_set.tasks[0]), [])
            if len(task_set.tasks) == len(rows) == 1 and values["low"] is None:
                values |= rows[0]
            yield Entry(line, cell, cell.comparison, task_set, values, missing, estimate=score)


def _published(figures: Sequence[Figure], task_set: TaskSet) -> Iterator[Entry]:
    grouped: dict[tuple[str, str, Cell], dict[str, tuple[Figure, float | None]]] = {}
    for one, share in zip(figures, kept(figures), strict=True):
        single = one.tasks == 1 and one.task in task_set.tasks
        if single or (task_set.kind == "published" and one.task == task_set.name):
            grouped.setdefault((one.model, one.stated, one.cell), {})[one.task] = one, share
    for (model, stated, cell), found in grouped.items():
        own = [one for one, _ in found.values()]
        has = [one.task for one in own if one.score is not None or len(task_set.tasks) < 2]
        missing = _missing(task_set, has)
        if missing is None:
            continue
        values = numbers(None, None)
        if not missing and len(own) == 1:
            values |= {"score": own[0].score, "retention": found[own[0].task][1]}
        elif not missing:
            score = _mean_of(found.values())
            whole = _mean_of(grouped.get((model, "", Cell(own[0].width)), {}).values())
            complete = len(grouped.get((model, "", Cell(own[0].width)), {})) == len(task_set.tasks)
            values |= {"score": score, "retention": score / whole if score and whole and complete else None}
        sources = tuple(dict.fromkeys(one.source for one in own))
        note = own[0].note if len(own) == 1 else "mean of published figures, worked out here"
        yield Entry(model, cell, stated, task_set, values, missing, sources, note)


def _mean_of(found: Collection[tuple[Figure, float | None]]) -> float | None:
    scores = [one.score for one, _ in found if one.score is not None]
    return fmean(scores) if scores and len(scores) == len(found) else None


def _missing(task_set: TaskSet, has: Sequence[str]) -> tuple[str, ...] | None:
    """The tasks of a set that are not there; None where none is."""
    if not has:
        return None
    return tuple(task for task in task_set.tasks if task not in has)
