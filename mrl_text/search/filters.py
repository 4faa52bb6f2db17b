"""What a search is limited to: checked against a store's columns, and evaluated on Arrow columns."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from mrl_text.search.checks import is_unicode
from mrl_text.search.columns import ColumnType
from mrl_text.search.store import AllOf, AnyOf, Not, Prefix, Range, Value, Where
from mrl_text.suggest import did_you_mean


@dataclass(frozen=True)
class Condition:
    """What a column must be, with values of its type."""

    column: str
    wanted: Range | Prefix | tuple[Value, ...] | None  # of a tuple one; None is no value
    negated: bool = False  # any value but that; no value is not enough


@dataclass(frozen=True)
class Either:
    """Alternatives of which one must hold."""

    alternatives: tuple[Conditions, ...]


Conditions = tuple[Condition | Either, ...]
"""What must all hold; empty where everything is searched."""

_NUMBER = (int, float)
_HOLDS: dict[ColumnType, tuple[type, ...]] = {"text": (str,), "int": _NUMBER, "float": _NUMBER, "bool": (bool,)}
_LARGEST = 2**63
_BOUNDS = {"gt": compute.greater, "gte": compute.greater_equal, "lt": compute.less, "lte": compute.less_equal}


def check_where(where: Where | None, columns: Mapping[str, ColumnType]) -> Conditions:
    """The conditions of a filter, in the order in which they were given.

    Args:
        where: what rows must be.
        columns: types of the columns that the store has.

    Raises:
        ValueError: a column that the store does not have, a value of another type than the column's, a range over text
            or booleans, a prefix of something else than text, or alternatives without any.
        TypeError: no filter at all.
    """
    if isinstance(where, AllOf):
        return tuple(one for part in where.filters for one in check_where(part, columns))
    if isinstance(where, AnyOf):
        alternatives = tuple(check_where(part, columns) for part in where.filters)
        if not alternatives:
            raise ValueError("AnyOf has no filters, so no row could match: give it one or more")
        return () if () in alternatives else (Either(alternatives),)
    if not isinstance(where, Mapping | None):
        raise TypeError(f"a filter maps columns to what they must be, or is AnyOf or AllOf; got {where!r:.60}")
    found: list[Condition | Either] = []
    for name, wanted in (where or {}).items():
        if name not in columns:
            known = did_you_mean(str(name), columns) if columns else "; it has none"
            raise ValueError(f"the store has no column {name!r}{known}")
        found.append(_condition(name, wanted, columns[name]))
    return tuple(found)


def selective(conditions: Conditions) -> Conditions:
    """These conditions; ValueError without any, where rows are to be taken out."""
    if not conditions:
        raise ValueError("a filter without conditions lets every row through: give one, or drop the store")
    return conditions


def columns_of(where: Where | None) -> set[str]:
    """The columns that a filter looks at."""
    if isinstance(where, AnyOf | AllOf):
        return set().union(*map(columns_of, where.filters))
    return set(where or ())


def row_mask(conditions: Conditions, column: Callable[[str], pa.ChunkedArray]) -> np.ndarray | None:
    """Rows for which all conditions hold, bool (rows,), None without any; ``column`` gives a column's values."""
    masks = [
        np.logical_or.reduce([np.asarray(row_mask(part, column)) for part in one.alternatives])
        if isinstance(one, Either)
        else _held(one, column(one.column))
        for one in conditions
    ]
    return np.logical_and.reduce(masks) if masks else None


def _held(condition: Condition, values: pa.ChunkedArray) -> np.ndarray:
    """Rows for which one condition holds."""
    wanted, held = condition.wanted, values.is_valid()
    there = np.asarray(held.to_numpy(), dtype=bool)
    if wanted is None:
        return there if condition.negated else ~there
    if isinstance(wanted, Range):
        for bound, compare in _BOUNDS.items():
            if (limit := getattr(wanted, bound)) is not None:
                held = compute.and_(held, compare(values, pa.scalar(limit)))
    elif isinstance(wanted, Prefix):
        held = compute.starts_with(values, wanted.text)
    else:
        held = compute.is_in(values, pa.array(list(wanted), values.type))
    mask = np.asarray(held.fill_null(False).to_numpy(), dtype=bool)
    return there & ~mask if condition.negated else mask


def _condition(name: str, wanted: Any, type_: ColumnType) -> Condition | Either:
    """What a column of a type must be, checked."""
    if isinstance(wanted, Not):
        if isinstance(wanted.wanted, Not):
            raise ValueError(f"column {name!r}: Not of Not excludes nothing: leave both out")
        inner = _condition(name, wanted.wanted, type_)
        if isinstance(inner, Either):  # of values and None, which no row with another value is
            inner = next(one for one in inner.alternatives[0] if isinstance(one, Condition))
        return replace(inner, negated=True)
    if isinstance(wanted, Range):
        return Condition(name, _range(name, wanted, type_))
    if isinstance(wanted, Prefix):
        if type_ != "text":
            raise ValueError(f"column {name!r} holds {type_}: a prefix is for text")
        _check(name, wanted.text, type_)
        return Condition(name, wanted)
    single = isinstance(wanted, str) or not isinstance(wanted, Collection)
    given = [_plain(value) for value in ([wanted] if single else wanted)]
    values = tuple(value for value in given if value is not None)
    for value in values:
        _check(name, value, type_)
    if type_ == "int":  # 2.5 or 2**70 is no value of such a column, and no engine could be asked for it
        values = tuple(int(value) for value in values if value == int(value) and abs(value) < _LARGEST)
    elif type_ == "float":  # engines take no list of both kinds of numbers
        values = tuple(map(float, values))
    if None not in given:
        return Condition(name, values)
    nothing = Condition(name, None)
    return Either(((Condition(name, values),), (nothing,))) if values else nothing


def _range(name: str, wanted: Range, type_: ColumnType) -> Range:
    """A range in numbers of the column's type."""
    if type_ not in ("int", "float"):
        raise ValueError(f"column {name!r} holds {type_}: a range is for numbers")
    bounds = {bound: _plain(getattr(wanted, bound)) for bound in _BOUNDS}
    for value in bounds.values():
        if value is not None:
            _check(name, value, type_)
    if type_ == "int":
        return _whole(bounds)
    return Range(**{bound: float(one) for bound, one in bounds.items() if one is not None})


def _whole(bounds: Mapping[str, Any]) -> Range:
    """The same range in whole numbers of 64 bits, which engines compare without rounding."""
    kept: dict[str, int] = {}
    for name, value in bounds.items():
        if value is None:
            continue
        number = math.floor(value) if name in ("gt", "lte") else math.ceil(value)
        if -_LARGEST <= number < _LARGEST:
            kept[name] = number
        elif (number > 0) == name.startswith("g"):
            return Range(gt=_LARGEST - 1)  # nothing is that large, or that small
    return Range(**kept)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _check(name: str, value: Any, type_: ColumnType) -> None:
    wrong = not isinstance(value, _HOLDS[type_]) or (isinstance(value, bool) and type_ != "bool")
    endless = isinstance(value, float) and not math.isfinite(value)
    if wrong or endless or (type_ == "float" and abs(value) > sys.float_info.max):
        quotes = ": text stands in quotes" if type_ == "text" else ""
        raise ValueError(f"column {name!r} holds {type_} and cannot be compared with {value!r:.60}{quotes}")
    if isinstance(value, str) and not is_unicode(value):
        raise ValueError(f"column {name!r}: {value[:40]!r} has half of a surrogate pair, which no row has: take it out")
