"""Published curves, to be drawn beside one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from mrl_text.tables import Problems, checked, read_columns, require
from mrl_text.tables.values import number, shown, text
from mrl_text.truncation import bytes_per_vector

if TYPE_CHECKING:
    from .results import Results

_SCALES = {"main_score_x100": 100, "score": 1}
"""Column of scores -> the highest one."""


@dataclass(frozen=True)
class Reference:
    """Published scores of one model: size -> task -> score, 0..1."""

    model: str
    scores: dict[int, dict[str, float]]

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        return f"{self.model.rpartition('/')[2]} (published)"

    def mean(self, dim: int, tasks: Collection[str]) -> float | None:
        """Mean score over tasks at a size; None if a task is missing."""
        known = self.scores[dim]
        return fmean(known[task] for task in tasks) if tasks and all(task in known for task in tasks) else None

    def bytes(self, dim: int) -> int:
        """Bytes per float32 vector."""
        return bytes_per_vector(dim)


def read_references(files: Sequence[str | Path], results: Results) -> list[Reference]:
    """Read published scores from tables, most often CSV.

    Columns ``model``, ``task``, and ``main_score_x100`` or ``score`` (0..1); ``dim`` where a file has several sizes.
    Without it the scores are taken for full width of the model of that name in ``results``. Several rows of a task
    (splits, subsets) are averaged. Other columns are ignored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, a score is not a number, or the size is not known.
    """
    return [reference for file in files for reference in _read(Path(file), results)]


def check_references(files: Sequence[str | Path], models: Collection[str] | None = None) -> None:
    """Check all of the files before anything is computed; errors are those of :func:`read_references`.

    Args:
        files: tables of published scores.
        models: that will be evaluated, whose width a file without the column ``dim`` may count on; None is unknown yet.
    """
    for table in map(_parse, map(Path, files)):
        if models is not None:
            _check_known(table, models)


class _Published(NamedTuple):
    """The rows of a table of published scores."""

    file: Path
    models: list[str]
    dims: list[int] | None
    tasks: list[str]
    scores: list[float]


def _parse(file: Path) -> _Published:
    problems = Problems(file)
    columns = read_columns(file, ("model", "task", "dim", *_SCALES), problems)
    require(columns, *(("model", "task", name) for name in _SCALES))
    name = next(name for name in _SCALES if name in columns.names)
    models, tasks = checked(columns, "model", text, problems), checked(columns, "task", text, problems)
    as_number = functools.partial(number, typed=columns.table.typed)
    scores = checked(columns, name, functools.partial(_score, as_number, _SCALES[name]), problems)
    told = "dim" in columns.names
    dims = checked(columns, "dim", functools.partial(size_of, as_number), problems) if told else None
    problems.raise_if_any()
    return _Published(file, models, dims, tasks, scores)


def _check_known(table: _Published, models: Collection[str]) -> None:
    if table.dims is None and (unknown := [model for model in table.models if model not in models]):
        raise ValueError(
            f"{table.file} has no column dim, and {unknown[0]} is not among the evaluated models: add the column"
        )


def _read(file: Path, results: Results) -> list[Reference]:
    table = _parse(file)
    widths = results.scores.groupby("model")["dim"].max()
    _check_known(table, widths.index)
    dims = table.dims or [int(widths[model]) for model in table.models]
    found: dict[str, dict[int, dict[str, list[float]]]] = {}
    for model, dim, task, score in zip(table.models, dims, table.tasks, table.scores, strict=True):
        found.setdefault(model, {}).setdefault(dim, {}).setdefault(task, []).append(score)
    return [
        Reference(model, {dim: {task: fmean(several) for task, several in one.items()} for dim, one in sizes.items()})
        for model, sizes in found.items()
    ]


def _score(as_number: Callable[[object], float], scale: int, value: object) -> float:
    if abs(score := as_number(value)) > scale:
        raise ValueError(f"is {shown(value)}: it goes from 0 to {scale}")
    return score / scale


def size_of(as_number: Callable[[object], float], value: object) -> int:
    """A whole number of at least 1; ``as_number`` reads a cell. Another value raises ``ValueError``."""
    if (dim := as_number(value)) < 1 or dim != int(dim):
        raise ValueError(f"is {shown(value)}, not a whole number of at least 1")
    return int(dim)
