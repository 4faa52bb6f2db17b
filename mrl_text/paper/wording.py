"""From rows of an answer to panels, tables and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from mrl_text import markdown
from mrl_text.figures import Panel, Series

Row = dict[str, Any]


def pick(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == one for key, one in wanted.items())]


def distinct(rows: Iterable[Row], key: str) -> list[Any]:
    """The different values of a column, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def grouped(rows: Iterable[Row], *keys: str) -> dict[Any, list[Row]]:
    """Rows by the value of a column, or by the tuple of the values of several, in the order of the rows."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(itemgetter(*keys)(row), []).append(row)
    return found


def series(name: str, rows: Sequence[Row], key: str = "", *, control: bool = False, markers: bool = True) -> Series:
    """A line over sizes: the values of rows, or of what they hold under ``key``."""
    points = [(row["dim"], *itemgetter("value", "low", "high")(row[key] if key else row)) for row in rows]
    return Series(name, points, control, markers)


def panels_of_tasks(rows: Sequence[Row], *, markers: bool = True) -> list[Panel]:
    """One panel per task and metric, one line per side, over sizes."""
    panels = []
    for (task, metric), chosen in grouped(rows, "task", "metric").items():
        sides = grouped(chosen, "side", "control").items()
        lines = [series(side, own, control=control, markers=markers) for (side, control), own in sides]
        panels.append(Panel(task, f"{metric} (x100)", lines))
    return panels


def by_size(head: str, lines: Mapping[str, Sequence[Row]], key: str = "", *, dims: Sequence[int] = ()) -> str:
    """A table of one line per name and one column per size; where rows share a size, their mean.

    ``head`` is that of the first column, ``key`` says where in a row the value is (empty is the row itself). ``dims``
    are the sizes to show, by default those of all rows. What a line lacks is left empty.
    """
    sizes = list(dims) or sorted({row["dim"] for rows in lines.values() for row in rows})
    body = []
    for name, rows in lines.items():
        values = [[(row[key] if key else row)["value"] for row in pick(rows, dim=dim)] for dim in sizes]
        body.append([name, *(f"{np.mean(some):.1f}" if some else "" for some in values)])
    return markdown.table([[head, *sizes], *body], words=1)


def interval(one: Mapping[str, Any], digits: int = 1, *, sign: bool = False) -> str:
    """A value with its interval in brackets."""
    form = f"{'+' if sign else ''}z.{digits}f"  # z: what rounds to nothing is 0, never -0
    if one["low"] is None:
        return f"{one['value']:{form}}"
    return f"{one['value']:{form}} [{one['low']:{form}}, {one['high']:{form}}]"


def listed(items: Iterable[object]) -> str:
    """``a, b and c``."""
    *first, last = [str(item) for item in items]
    return f"{', '.join(first)} and {last}" if first else last


def bounds(one: Mapping[str, Any]) -> tuple[float, float]:
    """The interval; where there is none, the value itself."""
    return (one["value"], one["value"]) if one["low"] is None else (one["low"], one["high"])


def direction(one: Mapping[str, Any]) -> int:
    """1 or -1 where the interval of a difference lies above or below zero, else 0."""
    return 0 if one["low"] is None else int(one["low"] > 0) - int(one["high"] < 0)
