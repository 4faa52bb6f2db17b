"""Reading users' files: rows with their place, values with their type, and all that is wrong in one error."""

from __future__ import annotations

from mrl_text.tables.columns import Columns, Problems, checked, good_rows, read_columns, require
from mrl_text.tables.file_types import SUFFIXES
from mrl_text.tables.read import Row, Table, open_table

__all__ = [
    "SUFFIXES",
    "Columns",
    "Problems",
    "Row",
    "Table",
    "checked",
    "good_rows",
    "open_table",
    "read_columns",
    "require",
]
