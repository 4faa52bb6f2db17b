"""Tables of published figures: what others measured at a size and precision, each figure with its source."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar, cast

from mrl_text.suggest import check_choice
from mrl_text.tables import SUFFIXES, Columns, Problems, checked, read_columns, require
from mrl_text.tables.values import number, shown, text

from .grid import EVALUATED_PRECISIONS, Cell, Comparison
from .reference import size_of

T = TypeVar("T")

SCORE, KEPT = "main_score_x100", "retention_x100"
_REQUIRED = ("model", "width", "dim", "task", "type", "metric", "source")
_OPTIONAL = ("precision", "comparison", "rescore", "tasks", "note")
_MOST_KEPT = 150.0
"""Percent: what is cut may gain a little, but no figure above this is one of retention."""
_ROUNDING = 0.0015
"""How far a stated retention may lie from that of the stated scores: sources round either to one decimal."""
_SOURCE = re.compile(r"https?://[^\s/]+\.[^\s]+")


@dataclass(frozen=True)
class Figure:
    """A published figure.

    Attributes:
        model: its id on the hub, or the name its provider gives it.
        width: numbers of its uncut vectors.
        cell: size, precision and stages. Its comparison counts only where the source states it.
        stated: the comparison as the source states it; empty where it does not.
        task: a task, or the name of a set of tasks that the source gives one mean of.
        tasks: how many tasks that is; None where the source does not say.
        type: mteb's type of the tasks, or ``mixed``.
        metric: of the score, in mteb's words.
        score: 0..1; None where only the retention is published.
        kept: retention as the source states it, 0..1; None where it does not.
        source: address of the page or paper that has the figure.
        note: where in the source, or how it was measured.
        place: file and line, for errors.
    """

    model: str
    width: int
    cell: Cell
    stated: str
    task: str
    tasks: int | None
    type: str
    metric: str
    score: float | None
    kept: float | None
    source: str
    note: str
    place: str

    @property
    def key(self) -> tuple[object, ...]:
        """What no two figures share."""
        return self.model, self.task, self.cell.dim, self.cell.precision, self.stated, self.cell.rescore


def packaged() -> Path:
    """The folder of published tables that comes with the package."""
    with as_file(files("mrl_text.eval").joinpath("published")) as folder:
        return folder


def packaged_results() -> list[Path]:
    """The measured results that come with the package, one a model: ``scores.csv``, or a folder in mteb's layout."""
    with as_file(files("mrl_text.eval").joinpath("measured")) as folder:
        return sorted(place for place in folder.iterdir() if place.is_dir() or place.suffix == ".csv")


def read_published(places: Sequence[str | Path]) -> list[Figure]:
    """Read and check tables of published figures.

    Columns ``model``, ``width``, ``dim``, ``task``, ``type``, ``metric``, ``source`` and ``main_score_x100``,
    ``retention_x100`` or both; ``precision`` (else float32), ``comparison``, ``rescore``, ``tasks`` and ``note`` where
    known. ``docs/leaderboard.md`` says what stands in each.

    Args:
        places: tables, or folders of them.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no table in a folder; a column is missing; a value is out of range; a figure comes twice, or
            disagrees with another one. All that is wrong with a file is named, with its lines.
    """
    figures = [figure for place in places for file in _tables(Path(place)) for figure in _read(file)]
    if wrong := [*_twice(figures), *_at_odds(figures)]:
        more = f"; ... and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"the published figures do not fit together: {'; '.join(wrong[:5])}{more}")
    return figures


def _tables(place: Path) -> list[Path]:
    if not place.exists():
        raise FileNotFoundError(f"nothing at {place}: expected a table of published figures, or a folder of them")
    if not place.is_dir():
        return [place]
    found = sorted(file for file in place.iterdir() if file.suffix in SUFFIXES)
    if not found:
        raise ValueError(f"{place} has no table of published figures: expected CSV files in it")
    return found


def _read(file: Path) -> Iterator[Figure]:
    problems = Problems(file)
    columns = read_columns(file, (*_REQUIRED, *_OPTIONAL, SCORE, KEPT), problems)
    require(columns, (*_REQUIRED, SCORE), (*_REQUIRED, KEPT))
    if unknown := [name for name in columns.names if name not in columns.values]:
        raise ValueError(f"{file} has the column {unknown[0]!r}, which means nothing here: leave it out")
    as_number = functools.partial(number, typed=columns.table.typed)

    def column(name: str, convert: Callable[[Any], T], *, blank: bool = False) -> list[T | None]:
        """A column; where it may be blank, None stands for what is."""

        def converted(value: object) -> tuple[T | None]:
            return (None,) if blank and str(value).strip() == "" else (convert(value),)

        nothing: tuple[T | None] = (None,)
        return [one for (one,) in checked(columns, name, converted, problems, nothing if blank else None)]

    whole = functools.partial(size_of, as_number)
    found = {
        **{name: column(name, text) for name in ("model", "task", "type", "metric")},
        **{name: column(name, whole) for name in ("width", "dim")},
        "source": column("source", _source),
        "precision": column("precision", lambda value: check_choice("is", value, EVALUATED_PRECISIONS), blank=True),
        "comparison": column("comparison", lambda value: check_choice("is", value, Comparison), blank=True),
        "rescore": column("rescore", whole, blank=True),
        "tasks": column("tasks", whole, blank=True),
        "note": column("note", str, blank=True),
        SCORE: column(SCORE, functools.partial(_share, as_number, 100), blank=True),
        KEPT: column(KEPT, functools.partial(_share, as_number, _MOST_KEPT), blank=True),
    }
    problems.raise_if_any()
    rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    _check_rows(columns, rows, problems)
    for line, row in zip(columns.lines, rows, strict=True):
        cell = Cell(row["dim"], row["precision"] or "float32", row["comparison"] or "asymmetric", row["rescore"] or 0)
        yield Figure(
            **{name: row[name] for name in ("model", "width", "task", "tasks", "type", "metric", "source")},
            cell=cell,
            stated=cast(str, row["comparison"] or ""),
            score=row[SCORE],
            kept=row[KEPT],
            note=cast(str, row["note"] or ""),
            place=f"{file.name}, line {line}",
        )


def _check_rows(columns: Columns, rows: Sequence[dict[str, Any]], problems: Problems) -> None:
    """What cannot be seen in one cell of a row."""
    for line, row in zip(columns.lines, rows, strict=True):
        if row["dim"] > row["width"]:
            problems.add(columns.table, line, f"dim is {row['dim']}, more than the width of the model, {row['width']}")
        if row[SCORE] is None and row[KEPT] is None:
            problems.add(columns.table, line, f"neither {SCORE} nor {KEPT} is there: a figure needs one of them")
    scores = [row[SCORE] for row in rows if row[SCORE] is not None]
    if scores and max(scores) <= 0.01:
        problems.add(columns.table, columns.lines[0], f"{SCORE} is at most 1 in every row: it goes from 0 to 100")
    problems.raise_if_any()


def _share(as_number: Callable[[object], float], highest: float, value: object) -> float:
    if not 0 <= (found := as_number(value)) <= highest:
        raise ValueError(f"is {shown(value)}: it goes from 0 to {highest:g}")
    return found / 100


def _source(value: object) -> str:
    if not _SOURCE.fullmatch(found := text(value).strip()):
        raise ValueError(
            f"is {shown(value)}: it is the address of the page or paper, such as https://arxiv.org/abs/..."
        )
    return found


def _twice(figures: Sequence[Figure]) -> Iterator[str]:
    first: dict[tuple[object, ...], Figure] = {}
    for figure in figures:
        if (other := first.setdefault(figure.key, figure)) is not figure:
            cell = f"{figure.model} at {figure.cell.label} on {figure.task}"
            yield f"{other.place} and {figure.place} both have {cell}: keep one"


def _at_odds(figures: Sequence[Figure]) -> Iterator[str]:
    """A task or set that means two things, a model of two widths, a retention that its scores do not give."""
    sets: dict[str, Figure] = {}
    widths: dict[str, Figure] = {}
    for figure in figures:
        other = sets.setdefault(figure.task, figure)
        for name in ("tasks", "type", "metric"):
            if (mine := getattr(figure, name)) != (theirs := getattr(other, name)):
                places = f"{theirs} in {other.place} and {mine} in {figure.place}"
                yield f"{figure.task} has {name} {places}: they are two sets"
        if (other := widths.setdefault(figure.model, figure)).width != figure.width:
            yield f"{figure.model} has width {other.width} in {other.place} and {figure.width} in {figure.place}"
    for figure, share in zip(figures, kept(figures, stated=False), strict=True):
        if share is not None and figure.kept is not None and abs(share - figure.kept) > _ROUNDING:
            yield (
                f"{figure.place}: {KEPT} is {100 * figure.kept:.2f}, and the scores of {figure.model} on {figure.task}"
                f" give {100 * share:.2f}"
            )


def kept(figures: Sequence[Figure], *, stated: bool = True) -> list[float | None]:
    """The retention of each figure, 0..1: as its source states it, or score by score.

    Args:
        figures: of which those at full width in float32 are the wholes, model by model and task by task.
        stated: False takes the quotient of the scores alone.

    Returns:
        One for each figure; None where neither is known.
    """
    wholes = {
        (one.model, one.task): one.score for one in figures if one.cell == Cell(one.width) and one.score is not None
    }
    shares = []
    for one in figures:
        whole = wholes.get((one.model, one.task))
        share = one.score / whole if one.score is not None and whole else None
        shares.append(one.kept if stated and one.kept is not None else share)
    return shares
