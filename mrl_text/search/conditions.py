"""Filters as people type them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace

from mrl_text.search.store import Range, Value, Where

_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_PART = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^,]+)')
_WHOLE = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def parse_where(conditions: Sequence[str]) -> Where | None:
    """What rows must be, values and ranges by column, from conditions that must all hold; None without any.

    Args:
        conditions: ``column=value``, ``column=one,other`` (any of them), and ``>``, ``>=``, ``<``, ``<=`` with a
            number. Numbers and true, false are taken for what they are; in double quotes everything is text.

    Raises:
        ValueError: another form, a bound that is no number, or two conditions on a column that cannot be joined.

    Example:
        >>> parse_where(["year>=2020", "year<2024", "lang=en,de"])
        {'year': Range(gt=None, gte=2020, lt=2024, lte=None), 'lang': ['en', 'de']}
    """
    found: dict[str, Value | list[Value] | Range] = {}
    for condition in conditions:
        match = _CONDITION.fullmatch(condition)
        values = [_value(part.strip()) for part in _PART.findall(match[3])] if match else []
        if match is None or not values:
            forms = "column=value, column=one,other, or a column and a bound such as 'year>=2020'"
            raise ValueError(f"--where {condition!r}: expected {forms}")
        name, sign, bound = match[1], match[2], values[0]
        known = found.get(name)
        if sign == "=" and known is None:
            found[name] = values if len(values) > 1 else bound
            continue
        known = Range() if known is None else known
        if sign == "=" or not isinstance(known, Range) or getattr(known, _BOUNDS[sign]) is not None:
            raise ValueError(f"--where {condition!r}: there is a condition on {name} already, and all must hold")
        if len(values) > 1 or isinstance(bound, bool | str):
            raise ValueError(f"--where {condition!r}: expected a number after {sign}")
        found[name] = replace(known, **{_BOUNDS[sign]: bound})
    return found or None


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if _WHOLE.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text.startswith('"'):
        with contextlib.suppress(ValueError):
            return str(json.loads(text))
    return text
