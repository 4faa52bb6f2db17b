"""From rows of an answer to panels, tables and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mrl_text.paper.charts import Panel, Series

Row = dict[str, Any]


def panels(rows: Sequence[Row], *, markers: bool = True) -> list[Panel]:
    """One panel per task and metric, one line per side, over sizes."""
    kinds = dict.fromkeys((row["task"], row["metric"]) for row in rows)
    return [
        Panel(task, f"{metric} (x100)", series(pick(rows, task=task, metric=metric), markers=markers))
        for task, metric in kinds
    ]


def series(rows: Sequence[Row], *, markers: bool = True) -> list[Series]:
    """One line per side."""
    names = dict.fromkeys((row["side"], row.get("control", False)) for row in rows)
    return [
        Series(
            name,
            [(row["dim"], row["value"], row["low"], row["high"]) for row in pick(rows, side=name)],
            control,
            markers,
        )
        for name, control in names
    ]


def pick(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == one for key, one in wanted.items())]


def markdown(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """A table; the first column is text, the others numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(one: float | None, digits: int = 1) -> str:
    """A number x100 for a table."""
    return "" if one is None else f"{one:.{digits}f}"


def interval(one: Mapping[str, Any], digits: int = 1, *, sign: bool = False) -> str:
    """A value with its interval in brackets."""
    form = f"{'+' if sign else ''}.{digits}f"
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
    if one["low"] is None:
        return 0
    return int(one["low"] > 0) - int(one["high"] < 0)
