"""Every text of a file, whichever columns it is in."""

from __future__ import annotations

import logging
from pathlib import Path

from mrl_text.suggest import check_columns
from mrl_text.tables.columns import Problems, good_rows
from mrl_text.tables.corpus import ID_COLUMNS, TITLE
from mrl_text.tables.read import TEXT, Table, open_table
from mrl_text.tables.values import cell_text

logger = logging.getLogger(__name__)


def read_texts(file: str | Path, column: str | None = None) -> list[str]:
    """The texts of a file without blank ones and without the blanks around them, column after column.

    Args:
        file: see :func:`mrl_text.tables.open_table`.
        column: the column to take; None takes every cell that holds text. Ids (:data:`ID_COLUMNS`) and a column of
            numbers alone, unless it is called ``text`` or ``title``, are no text then.

    Raises:
        FileNotFoundError, ValueError: as for :func:`mrl_text.tables.open_table`; rows that cannot be read, a cell of
            the named column that is no text, no such column, or no text at all.
    """
    table = open_table(file)
    problems = Problems(table.path)
    found: dict[str, list[str]] = {}
    for row in good_rows(table, problems, _columns(table) if column is None else [column]):
        for name, value in row.cells.items():
            texts = found.setdefault(name, [])
            if name != column if column is not None else not isinstance(value, str):
                continue
            try:
                texts.append(cell_text(name, value).strip())
            except ValueError as error:
                problems.add(table, row.line, str(error))
    problems.raise_if_any()
    if column is not None:
        check_columns(file, [column], list(found) or table.columns)
    if column is None:
        others = {
            name for name in found if name in ID_COLUMNS or (name not in (TEXT, TITLE) and _are_numbers(found[name]))
        }
        found = {name: texts for name, texts in found.items() if name not in others}
        if len(found) > 1 or others:
            logger.info("%s: texts are in %s", file, ", ".join(found) or "no column")
    cells = [text for texts in found.values() for text in texts]
    every = list(filter(None, cells))
    if not every:
        raise ValueError(f"{file} holds no text")
    if blank := len(cells) - len(every):
        logger.info("%s: %d of %d cells of text are blank and are left out", file, blank, len(cells))
    return every


def _columns(table: Table) -> list[str] | None:
    """Of Parquet, the columns of text; to read a column of vectors would take long."""
    return [field.name for field in table.schema if is_text(field.type)] if table.format == "parquet" else None


def is_text(kind: object) -> bool:
    """Whether a column of this Arrow type holds text."""
    import pyarrow as pa

    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _are_numbers(texts: list[str]) -> bool:
    try:
        list(map(float, filter(None, texts)))
    except ValueError:
        return False
    return True
