"""One table over models, sizes and precisions, from the folders of any number of sweeps."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrl_text.amounts import count, hundredfold, target
from mrl_text.files import write_atomically
from mrl_text.markdown import table as markdown_table

from .mteb_results import has_results, read_mteb_results
from .reference import read_references
from .report import KEEP, render_html, summarize
from .results import CELL_COLUMNS, KEY_COLUMNS, TABLE, Results, numbers, with_new_columns
from .tables import engine_lines, recommendations, written

if TYPE_CHECKING:
    from .engines import Engine
    from .runner import SweepResult

logger = logging.getLogger(__name__)

_MOST_TASK_COLUMNS = 8
_NAMED_TASKS = 5
_MODEL_COLUMNS = ["model", "revision", "dtype", "layers"]
_USUAL = {"disk": 0, "comparison": "asymmetric", "rescore": 0}
"""Columns that people are shown only where something else is in them."""


def load_results(folders: Sequence[str | Path], *, all_tasks: bool = False) -> Results:
    """The results of sweeps, or of mteb, together; what several folders hold is taken from the first.

    Args:
        folders: what ``mrl-text eval`` wrote, or its ``scores.csv`` alone, or folders in mteb's layout.
        all_tasks: keep tasks that only some models have been evaluated on, and take nothing twice but what is the
            same, as the base that two models were compared with. Otherwise only what every model has is kept: means
            over different tasks do not compare.

    Raises:
        FileNotFoundError: a folder has no results.
        ValueError: no folder, a damaged table or file, no task that all models share; with ``all_tasks`` a result that
            comes twice with another score.
    """
    if not folders:
        raise ValueError("no results given: name the output folder of an evaluation")
    tables = [_read(folder).assign(folder=str(folder)) for folder in folders]
    table = pd.concat(tables, ignore_index=True)
    if all_tasks:
        table = table[~table[[*KEY_COLUMNS, "score", "data"]].astype(str).duplicated()]
    repeated = table[KEY_COLUMNS].astype(str).duplicated()
    if all_tasks:
        _refuse_twice(table, repeated)
    table = table[~repeated].drop(columns="folder")
    return _of(table, list(dict.fromkeys(table["task"])) if all_tasks else _shared(table), folders)


def _refuse_twice(table: pd.DataFrame, repeated: pd.Series[bool]) -> None:
    if not repeated.any():
        return
    keys = table[KEY_COLUMNS].astype(str).fillna("")  # what is missing is equal, too
    row = keys[repeated].iloc[0]
    places = " and ".join(dict.fromkeys(table[(keys == row).all(axis=1)]["folder"]))
    what = f"{row['task']} of {row['model']} at {row['dim']} x {row['precision']}"
    more = f", and {int(repeated.sum()) - 1} more" if repeated.sum() > 1 else ""
    raise ValueError(f"{what} comes twice with other scores, in {places}{more}: give each once")


def with_earlier(result: SweepResult) -> Results:
    """The results of a sweep together with those of earlier ones in its folder.

    They are about every task in the folder that the sweep's models were evaluated on, now or before, and about every
    model that was evaluated on all of these. What the folder holds besides is named in the log.
    """
    table = _read(result.folder)
    mine = _models(result.scores[result.scores["layers"].isna()])
    tasks = [str(task) for task, rows in table.groupby("task", sort=False) if mine <= _models(rows)]
    everywhere = set.intersection(*map(_models, _by_task(table, tasks)))
    known = everywhere | _models(result.scores)
    if earlier := len(tasks) - len(result.tasks):
        logger.info(
            "the report shows %d tasks, %d of them evaluated into %s before", len(tasks), earlier, result.folder
        )
    others = sorted({*dict.fromkeys(table["task"])} - {*tasks}) + sorted({one[0] for one in _models(table) - known})
    if others:
        logger.info("the report leaves out what was not evaluated on the same tasks: %s", ", ".join(others))
    base = (table["role"] == "control") & (table["method"] == "truncation")  # it may be another model's, too
    return _of(table[base | np.array([key in known for key in _keys(table)])], tasks, [result.folder])


def _read(folder: str | Path) -> pd.DataFrame:
    if Path(folder).suffix == ".csv":
        return _read_csv(Path(folder))
    file = Path(folder) / f"{TABLE}.parquet"
    if not file.is_file() and has_results(Path(folder)):
        return with_new_columns(read_mteb_results(Path(folder)))
    if not file.is_file():
        raise FileNotFoundError(f"no results in {folder}: expected {file}, which mrl-text eval writes")
    try:
        table = with_new_columns(pd.read_parquet(file))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}): run the evaluation again, it computes nothing twice") from None
    return _whole(table, file)


def _read_csv(file: Path) -> pd.DataFrame:
    """``scores.csv`` under any name: without the items, but with the intervals of single tasks."""
    types: dict[str, Any] = {**dict.fromkeys(("layers", "seed", "n"), "Int64"), "calibration": str, "unit": str}
    try:
        table = pd.read_csv(file, dtype=types).fillna({"calibration": "", "unit": ""})
    except ValueError as error:
        raise ValueError(f"{file} is no scores.csv of mrl-text eval: {' '.join(str(error).split())}") from None
    return with_new_columns(_whole(table, file))


def _whole(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    if lacking := [name for name in (*KEY_COLUMNS, "data") if name not in table]:
        raise ValueError(f"{file} has no column {lacking[0]}, an older version wrote it: evaluate into a new folder")
    return table


def _models(table: pd.DataFrame) -> set[tuple[str, ...]]:
    """Models, revisions, types and depths that a table has scores of, controls aside."""
    return set(_keys(table[table["role"] == "model"]))


def _keys(table: pd.DataFrame) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in table[_MODEL_COLUMNS].itertuples(index=False)]


def _by_task(table: pd.DataFrame, tasks: Sequence[str]) -> list[pd.DataFrame]:
    return [table[table["task"] == task] for task in tasks]


def _shared(table: pd.DataFrame) -> list[str]:
    """Tasks that every model was evaluated on; the others are named in the log."""
    everyone, tasks = _models(table), list(dict.fromkeys(table["task"]))
    shared = [task for task, rows in zip(tasks, _by_task(table, tasks), strict=True) if _models(rows) == everyone]
    if not shared:
        raise ValueError(f"these models share no task: evaluate them on the same ones ({_what_each_has(table)})")
    if missing := [task for task in tasks if task not in shared]:
        logger.warning("left out, since not every model was evaluated on it: %s", ", ".join(missing))
    return shared


def _what_each_has(table: pd.DataFrame) -> str:
    """Each model and its tasks, of many the first."""
    own = table[table["role"] == "model"]
    told = []
    for model, rows in own.groupby("model", sort=False):
        tasks = list(dict.fromkeys(rows["task"]))
        more = f" and {len(tasks) - _NAMED_TASKS} more" if len(tasks) > _NAMED_TASKS else ""
        told.append(f"{model}: {', '.join(tasks[:_NAMED_TASKS])}{more}")
    return "; ".join(told)


def _of(table: pd.DataFrame, tasks: Sequence[str], folders: Sequence[str | Path]) -> Results:
    """The results of some tasks; those whose data differ between models are named in the log."""
    table = table[table["task"].isin(tasks)]
    for task, versions in table.groupby("task")["data"].nunique().items():
        if versions > 1:
            logger.warning("%s was not measured on the same data everywhere: its scores may not compare", task)
    return Results(table.reset_index(drop=True), [Path(folder) for folder in folders])


def leaderboard(results: Results, engine: Engine | None = None) -> pd.DataFrame:
    """One row per line and cell, best first.

    Returns:
        Columns ``model`` (with what was done to it), ``bytes`` in memory and ``disk`` besides, ``dim``, ``precision``,
        ``comparison``, ``rescore``, ``score``, ``low``, ``high``, ``retention``, ``retention_low``, ``retention_high``,
        then the mean of each task, or of each type if there are more than eight tasks. Scores 0..1. With an engine,
        only what it stores and compares, in the bytes it takes.
    """
    by_type = len(results.tasks) > _MOST_TASK_COLUMNS
    groups = results.types if by_type else {task: [task] for task in results.tasks}
    rows = []
    for line, cell in [(one, cell) for one in results.lines for cell in results.cells(one)]:
        score, retention = results.estimate(line, cell), results.retention(line, cell)
        size = cell.bytes if engine is None else engine.bytes(cell)
        if score is None or size is None:
            continue
        row: dict[str, Any] = {"model": results.labels[line], "bytes": size, "disk": results.disk(line, cell)}
        row |= dict(zip(CELL_COLUMNS, (cell.dim, *cell.sequence), strict=True))
        row |= numbers(score, retention)
        del row["n"]
        parts = {name: results.estimate(line, cell, tasks) for name, tasks in groups.items() if len(groups) > 1}
        rows.append(row | {name: part.value if part else None for name, part in parts.items()})
    table = pd.DataFrame(rows)
    return table.sort_values(["score", "bytes"], ascending=[False, True], kind="stable", ignore_index=True)


def highlights(results: Results, keep: float = KEEP) -> list[str]:
    """In a few lines: how many models and tasks, what scores highest, and what keeps the target in fewest bytes.

    Scores are means over the tasks that every model has; without such a task only the numbers are told.
    """
    lines = [line for line in results.lines if line.role == "model"]
    models = count(len({(line.model, line.revision) for line in lines}), "model")
    shared = [
        task for task in results.tasks if all(results.estimate(one, results.cells(one)[0], [task]) for one in lines)
    ]
    said = [f"{models} on {count(len(results.tasks), 'task')}"]
    cells = [(line, cell) for line in lines for cell in results.cells(line)]
    scores = {one: found for one in cells if shared and (found := results.estimate(*one, shared)) is not None}
    if not scores:
        return said
    if len(shared) < len(results.tasks):
        said[0] += f", of which every model has {len(shared)}: {', '.join(shared)}"
    line, cell = max(scores, key=lambda one: (scores[one].value, -one[1].bytes))
    best = f"{results.labels[line]}, {cell.label}, {count(cell.bytes, 'byte')}"
    said.append(f"highest score: {best}, {written(scores[line, cell])}")
    choices = [results.recommend(line, keep, shared) for line in lines]
    if smaller := [one for one in choices if one is not None and one.cell != one.full]:
        least = min(smaller, key=lambda one: one.cost)
        guess = "" if least.retention.interval() else " (a point estimate)"
        said.append(
            f"fewest bytes that keep {target(keep)} of a model's own full score: {results.labels[least.line]},"
            f" {least.cell.label}, {count(least.bytes, 'byte')}, {written(scores[least.line, least.cell])}{guess}"
        )
    return [*said, *filter(None, [results.caution()])]


def write_leaderboard(
    results: Results,
    kind: str = "terminal",
    file: Path | None = None,
    *,
    keep: float = KEEP,
    references: Sequence[str | Path] = (),
    engine: Engine | None = None,
) -> str:
    """The leaderboard as text to print.

    Args:
        results: of one sweep or several.
        kind: ``terminal``, ``csv``, ``markdown`` or ``html``.
        file: where to write it; the answer is then its name. None returns the leaderboard itself.
        keep, references: of the HTML page: target of the recommended sizes, and tables of published scores.
        engine: leaves out what it cannot store and compare; the page recommends for it.

    Raises:
        ValueError: unknown kind, or references for another kind than ``html``.
    """
    if references and kind != "html":
        raise ValueError(f"published scores are drawn in the HTML page, and this is {kind}: give --output FILE.html")
    table = leaderboard(results, engine)
    if kind == "terminal":
        text = _terminal(table) + (_advice(results, engine, keep) if engine else "") + _caution(results)
    elif kind == "csv":
        text = table.to_csv(index=False)
    elif kind == "markdown":
        text = markdown(table) + _caution(results)
    elif kind == "html":
        text = render_html(
            summarize(results, keep=keep, references=read_references(references, results), engine=engine)
        )
    else:
        raise ValueError(f"a leaderboard can be csv, markdown (.md) or html, not {kind!r}")
    if file is None:
        return text
    write_atomically(file, text.encode())
    return f"{file}\n"


def _caution(results: Results) -> str:
    return f"\n{caution}\n" if (caution := results.caution()) else ""


def _advice(results: Results, engine: Engine, keep: float) -> str:
    """What the engine is recommended to keep of each model, with the lines to paste."""
    models = [line for line in results.lines if line.role == "model" and line.layers is None]
    said = [
        f"{results.labels[line]}, {sentence}" if number == 0 else sentence
        for line in models
        for number, sentence in enumerate(
            [*recommendations(results, line, keep, engine)[:1], *engine_lines(results, line, keep, engine)]
        )
    ]
    return "\n".join(["", *said])


def _terminal(table: pd.DataFrame) -> str:
    shown = formatted(table)
    grid = Table()
    for column in shown.columns:
        grid.add_column(escape(column), justify="left" if column in ("model", "precision") else "right")
    for row in shown.astype(str).itertuples(index=False):
        grid.add_row(*map(escape, row))
    stream = io.StringIO()
    width = None if sys.stdout.isatty() else 200
    Console(file=stream, width=width, force_terminal=sys.stdout.isatty()).print(grid)
    return stream.getvalue()


def markdown(table: pd.DataFrame) -> str:
    """The leaderboard as a Markdown table: scores x100, intervals in brackets."""
    shown = formatted(table)
    rows = [list(map(str, shown.columns)), *shown.astype(str).to_numpy().tolist()]
    return markdown_table([[cell.replace("|", "/") for cell in row] for row in rows], words=1) + "\n"


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard with numbers as text, for people."""
    rare = [name for name, usual in _USUAL.items() if not (table[name] == usual).all()]
    names = list(table.columns)
    cells = [name for name in names[: names.index("score")] if name not in _USUAL or name in rare]
    shown = table[cells].rename(columns={"dim": "size"}).copy()
    for name in {"bytes", "disk"} & {*shown.columns}:
        shown[name] = shown[name].map("{:,}".format)
    shown["score"] = [_with_interval(*row) for row in table[["score", "low", "high"]].itertuples(index=False)]
    kept = table[["retention", "retention_low", "retention_high"]].itertuples(index=False)
    shown["retention %"] = [_with_interval(*row) for row in kept]
    tasks = names[names.index("retention_high") + 1 :]
    return shown.assign(**{name: table[name].map(_hundredfold) for name in tasks})


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    return hundredfold(value, *(None if pd.isna(end) else end for end in (low, high))) if _known(value) else "-"


def _hundredfold(value: float | None) -> str:
    return hundredfold(value) if _known(value) else "-"


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and not pd.isna(value)
