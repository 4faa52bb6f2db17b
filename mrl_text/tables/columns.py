"""Whole columns of a file, with the line every row starts on, and all that is wrong with them in one error."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mrl_text.amounts import count
from mrl_text.suggest import did_you_mean
from mrl_text.tables.read import Row, Table, open_table
from mrl_text.tables.values import shown

_SHOWN_PROBLEMS = 5

T = TypeVar("T")


class Problems:
    """What is wrong with rows of the files ``about``, reported together so that a user mends them together.

    ``advice`` is how all of them may be mended.
    """

    def __init__(self, about: Path, advice: str = "") -> None:
        self._about, self._advice = about, advice
        self._found: list[tuple[int, int, str]] = []
        self._files: list[Path] = []

    def follow(self, table: Table) -> None:
        """Show the problems of this file after those of the files before."""
        self._files.append(table.path)

    def add(self, table: Table, line: int, text: str) -> None:
        """Note a problem of the row that starts on ``line``."""
        place = f"{table.path.name}, {table.unit} {line}"
        self._found.append((self._files.index(table.path), line, f"{place}: {text}"))

    def raise_if_any(self) -> None:
        """Raise a ``ValueError`` of what was noted; the first five are shown in the order of files and lines."""
        if not self._found:
            return
        shown = [text for _, _, text in sorted(self._found, key=lambda found: found[:2])[:_SHOWN_PROBLEMS]]
        if more := len(self._found) - len(shown):
            shown.append(f"... and {more} more")
        said = "; ".join([*shown, *filter(None, [self._advice])])
        raise ValueError(f"{self._about} has {count(len(self._found), 'problem')} to fix: {said}")


@dataclass(frozen=True)
class Columns:
    """Columns of one file, rows in the order of the file."""

    table: Table
    names: list[str]
    """Every column of the file."""
    lines: list[int]
    """The line each row starts on, counted from 1; in Parquet the number of the row."""
    values: dict[str, list[Any]]
    """The columns that were asked for and are there; None where a row lacks the field."""


def good_rows(table: Table, problems: Problems, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows that can be read; the others are noted, blank lines are left out. Errors as :meth:`Table.rows`."""
    problems.follow(table)
    for row in table.rows(columns=columns):
        if row.problem is None:
            yield row
        elif not row.blank:
            problems.add(table, row.line, row.problem)


def read_columns(
    file: str | Path | Table, wanted: Collection[str], problems: Problems, *, required: Sequence[Sequence[str]] = ()
) -> Columns:
    """Read the wanted columns; rows that cannot be read are noted and left out, blank lines are left out.

    Args:
        file: a path, or an opened table.
        wanted: columns to keep, where the file has them.
        problems: where malformed rows are noted.
        required: layouts, of one of which the file must have all columns; none requires nothing.

    Raises:
        FileNotFoundError, ValueError: as for :func:`~mrl_text.tables.open_table`, no row, or :func:`require`.
    """
    table = file if isinstance(file, Table) else open_table(file)
    names: dict[str, None] = dict.fromkeys(() if table.format == "jsonl" else table.columns)
    lines: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    for row in good_rows(table, problems, list(wanted)):
        names.update(dict.fromkeys(row.cells))
        lines.append(row.line)
        for name, column in values.items():
            column.append(row.cells.get(name))
    found = Columns(table, list(names), lines, {name: column for name, column in values.items() if name in names})
    if not lines:
        problems.raise_if_any()
        raise ValueError(f"{table.path} has no rows under its columns {_listed(found.names)}: it needs at least one")
    if required:
        require(found, *required)
    return found


def require(
    columns: Columns,
    *layouts: Sequence[str],
    kinds: Mapping[tuple[str, ...], str] | None = None,
    option: str | None = None,
) -> None:
    """Raise ``ValueError`` unless a file has all columns of one layout; it names what is there and the nearest fix.

    Args:
        columns: of the file.
        *layouts: what it may have.
        kinds: layout -> what such data are called.
        option: that says which column stands for which, as ``text=body``.
    """
    names = columns.names
    gaps = [[name for name in layout if name not in names] for layout in layouts]
    if not all(gaps):
        return
    missing = {name for gap in gaps for name in gap}
    others = [name for name in names if not any(name in layout for layout in layouts)]
    hints = [(name, did_you_mean(name, missing)) for name in others]
    fixes = [f"for {shown(name)}{hint.removeprefix(';')}" for name, hint in hints if "did you mean" in hint]
    if separator := other_separator(names):
        fixes = [separator]
    if option and not fixes:
        mapped = (",".join(map("=".join, zip(gap, others, strict=False))) for gap in gaps if len(gap) <= len(others))
        fixes = [f"{option} {shlex.quote(one)}" for one in dict.fromkeys(mapped)]
        fixes[:1] = [f"say which is which, as {one}" for one in fixes[:1]]
    if not fixes:  # with no column of a layout there, it is another kind of file and nothing is near
        near = [gap for gap, layout in zip(gaps, layouts, strict=True) if len(gap) < len(layout)]
        fixes = [f"add {' and '.join(gap)}" for gap in near if len(gap) == min(map(len, near))]
    called = [(kinds or {}).get(tuple(layout), "") for layout in layouts]
    accepted = " or ".join(f"{kind} ({', '.join(one)})".lstrip() for kind, one in zip(called, layouts, strict=True))
    advice = f": {', or '.join(fixes)}" if fixes else ""
    raise ValueError(f"{columns.table.path} has the columns {_listed(names)}; it needs {accepted}{advice}")


def other_separator(names: Sequence[str]) -> str | None:
    """What to do with a file whose one column is all of them, as its cells are not set apart as its ending says."""
    if len(names) != 1:
        return None
    if ";" in names[0]:
        return "it is separated by semicolons, so save it with commas"
    if "\t" in names[0]:
        return "it is separated by tabs, so give it the ending .tsv"
    return "it is separated by commas, so give it the ending .csv" if "," in names[0] else None


def checked(
    columns: Columns, name: str, convert: Callable[[Any], T], problems: Problems, default: T | None = None
) -> list[T]:
    """Convert a column; a value for which ``convert`` raises ``ValueError`` is noted and left out.

    Args:
        columns: where the column is.
        name: the column.
        convert: from a value of the file to what is wanted, see :mod:`mrl_text.tables.values`.
        problems: where values that cannot be converted are noted.
        default: what a missing value means; None notes it, too.

    Returns:
        The converted values. Shorter than the file where something was noted, so rows of several columns may be
        put together only after :meth:`Problems.raise_if_any`.
    """
    done = []
    for line, value in zip(columns.lines, columns.values.get(name, [None] * len(columns.lines)), strict=True):
        try:
            if value is not None:
                done.append(convert(value))
            elif default is not None:
                done.append(default)
            else:
                raise ValueError("is missing")
        except ValueError as error:
            problems.add(columns.table, line, f"{name} {error}")
    return done


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names)
