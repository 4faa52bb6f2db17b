"""From a cell of a file to the value that is wanted; a cell that is something else raises ``ValueError``."""

from __future__ import annotations

import math
from decimal import Decimal

HIGHEST_GRADE = 10**6
"""Of a judgement: evaluators make room for every grade up to the highest."""


def text(value: object) -> str:
    """A string that is not blank."""
    if not any_text(value).strip():
        raise ValueError("is empty")
    return str(value)


def any_text(value: object) -> str:
    """A string, blank or not, that can be written as UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"is {shown(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"is {shown(value)}, which holds half a character (a lone surrogate)") from None
    return value


def cell_text(column: str, value: object) -> str:
    """The text of a cell, empty where there is none; the error names the column."""
    try:
        return "" if value is None else any_text(value)
    except ValueError as error:
        raise ValueError(f"{column} {error}") from None


def identifier(value: object) -> str:
    """The id of a row: a string, or a whole number as its digits."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value)


def class_name(value: object) -> str:
    """A label: a string without the blanks around it, a whole number as its digits, or ``true`` and ``false``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return text(value).strip()


def number(value: object, *, typed: bool) -> float:
    """A finite number, written out where values have no types.

    Args:
        value: the cell.
        typed: whether the file has types (:attr:`mrl_text.tables.Table.typed`).
    """
    allowed = (int, float, Decimal) if typed else (str,)
    if not isinstance(value, allowed) or isinstance(value, bool) or "_" in str(value):  # float() reads "1_0"
        raise ValueError(f"is {shown(value)}, not a number")
    if not str(value).strip():
        raise ValueError("is empty")
    try:
        converted = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"is {shown(value)}, not a number") from None
    if not math.isfinite(converted):
        raise ValueError(f"is {shown(value)}, not a finite number")
    return converted


def grade(value: object) -> int:
    """A judgement: a whole number from 0 to :data:`HIGHEST_GRADE`, also written as ``1.0``, in text or as a number."""
    found = number(value, typed=not isinstance(value, str))
    if not 0 <= found <= HIGHEST_GRADE or found != int(found):
        raise ValueError(f"is {shown(value)}, not a whole number from 0 to {HIGHEST_GRADE}")
    return int(found)


def shown(value: object) -> str:
    """A value for an error, cut where it is long."""
    complete = repr(value)
    return complete if len(complete) <= 60 else f"{complete[:60]}..."
