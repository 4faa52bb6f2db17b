"""What a search is limited to: checked against a store's columns, and evaluated on Arrow columns."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from mrl_text.search.checks import is_unicode
from mrl_text.search.columns import ColumnType
from mrl_text.search.store import Range, Value, Where
from mrl_text.suggest import did_you_mean

Conditions = dict[str, Range | tuple[Value, ...]]  # columns with a range, or with values of which one must be there
_NUMBER = (int, float)
_HOLDS: dict[ColumnType, tuple[type, ...]] = {"text": (str,), "int": _NUMBER, "float": _NUMBER, "bool": (bool,)}
_LARGEST = 2**63
_BOUNDS = {"gt": compute.greater, "gte": compute.greater_equal, "lt": compute.less, "lte": compute.less_equal}


def check_where(where: Where | None, columns: Mapping[str, ColumnType]) -> Conditions:
    """The conditions of a filter by column, a :class:`Range` or a tuple of values; empty where everything is searched.

    Args:
        where: columns and what they must be.
        columns: types of the columns that the store has.

    Raises:
        ValueError: a column that the store does not have, a value of another type than the column's, or a range over
            text or booleans.
    """
    checked: Conditions = {}
    for name, wanted in (where or {}).items():
        if name not in columns:
            known = did_you_mean(str(name), columns) if columns else "; it has none"
            raise ValueError(f"the store has no column {name!r}{known}")
        type_ = columns[name]
        if isinstance(wanted, Range):
            if type_ not in ("int", "float"):
                raise ValueError(f"column {name!r} holds {type_}: a range is for numbers")
            bounds = {bound: _plain(getattr(wanted, bound)) for bound in _BOUNDS}
            for value in bounds.values():
                if value is not None:
                    _check(name, value, type_)
            if type_ == "int":
                checked[name] = _whole(bounds)
            else:
                checked[name] = Range(**{bound: float(one) for bound, one in bounds.items() if one is not None})
            continue
        single = isinstance(wanted, str) or not isinstance(wanted, Collection)
        values = tuple(_plain(value) for value in ([wanted] if single else wanted))  # type: ignore[union-attr]
        for value in values:
            _check(name, value, type_)
        if type_ == "int":  # 2.5 or 2**70 is no value of such a column, and no engine could be asked for it
            values = tuple(int(value) for value in values if value == int(value) and abs(value) < _LARGEST)
        elif type_ == "float":  # engines take no list of both kinds of numbers
            values = tuple(map(float, values))
        checked[name] = values
    return checked


def row_mask(conditions: Conditions, column: Callable[[str], pa.ChunkedArray]) -> np.ndarray | None:
    """Rows for which all conditions hold, bool (rows,), None without any; ``column`` gives a column's values."""
    mask: np.ndarray | None = None
    for name, wanted in conditions.items():
        values = column(name)
        if isinstance(wanted, Range):
            held = values.is_valid()
            for bound, compare in _BOUNDS.items():
                if (limit := getattr(wanted, bound)) is not None:
                    held = compute.and_(held, compare(values, pa.scalar(limit)))
        else:
            held = compute.is_in(values, pa.array(list(wanted), values.type))
        here = np.asarray(held.fill_null(False).to_numpy(), dtype=bool)
        mask = here if mask is None else mask & here
    return mask


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
        raise ValueError(f"column {name!r} holds {type_} and cannot be compared with {value!r:.60}")
    if isinstance(value, str) and not is_unicode(value):
        raise ValueError(f"column {name!r}: {value[:40]!r} has half of a surrogate pair, which no row has: take it out")
