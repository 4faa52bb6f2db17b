"""The user's own columns: one type each, and how Arrow holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import pyarrow as pa

from mrl_text.search.checks import column_type

ColumnType = Literal["text", "int", "float", "bool"]
COLUMN_TYPES: tuple[ColumnType, ...] = get_args(ColumnType)
_NAMES: dict[type, ColumnType] = {str: "text", int: "int", float: "float", bool: "bool"}
_ARROW = {"text": pa.large_string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_LARGEST = 2**63


def field_name(column: str) -> str:
    """Name of a user's column inside an Arrow file, apart from ours."""
    return f"column:{column}"


def merge_types(known: Mapping[str, ColumnType], columns: Mapping[str, Sequence[Any]]) -> dict[str, ColumnType]:
    """Types of all columns (``text``, ``int``, ``float`` or ``bool``) by name once these values are added.

    Args:
        known: types by name so far.
        columns: values by name, as :func:`mrl_text.search.checks.check_columns` gives them; without any, no type.

    Raises:
        ValueError: values of another type than the column has (whole numbers may join floats), or a whole number
            beyond 64 bits.
    """
    merged = dict(known)
    for name, values in columns.items():
        if (found := column_type(name, values)) is None:
            continue
        if found is int and any(value is not None and not -_LARGEST <= value < _LARGEST for value in values):
            raise ValueError(f"column {name!r} has a whole number beyond 64 bits: make it text")
        type_ = _NAMES[found]
        if (had := merged.setdefault(name, type_)) != type_ and (had, type_) != ("float", "int"):
            raise ValueError(f"column {name!r} holds {had} and cannot take {type_}: convert it, or rename the column")
    return merged


def as_type(values: Sequence[Any], type_: ColumnType) -> list[Any]:
    """Values of a column of a type: whole numbers among floats become floats."""
    return [float(value) if type_ == "float" and value is not None else value for value in values]


def as_array(values: Sequence[Any], type_: ColumnType) -> pa.Array:
    """Values of a column as an Arrow array of its type."""
    return pa.array(as_type(values, type_), _ARROW[type_])


def empty_array(count: int, type_: ColumnType) -> pa.Array:
    """``count`` rows without a value."""
    return pa.nulls(count, _ARROW[type_])
