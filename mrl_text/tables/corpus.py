"""A corpus of any size: which columns of its files are ids and texts, and the texts row by row."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrl_text.suggest import check_columns
from mrl_text.tables.read import BLANK, TEXT, Row, Table, open_table
from mrl_text.tables.values import cell_text, identifier, shown

ID_COLUMNS = ("_id", "id", "doc_id", "docid")
"""Columns that are taken for the ids of rows; the first there is."""

TITLE = "title"  # BEIR's, encoded before the text

_LOGGED = 10  # rows that are left out

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Text:
    """One row of a corpus; number and line are those of :class:`mrl_text.tables.Row`."""

    number: int
    line: int
    id: str | None
    """As the file has it; None where it has none."""
    text: str
    """What is encoded; empty where there is a problem."""
    problem: str | None = None
    """Why the row has no text, None for a good one."""
    cells: dict[str, Any] = field(default_factory=dict)
    """The columns that were asked for besides, by name; a cell that is not there is None."""

    @property
    def blank(self) -> bool:
        """Whether it is an empty line, which is left out without a word."""
        return self.problem == BLANK


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus and where in it ids and texts are; :func:`open_corpus` makes it."""

    table: Table
    text_columns: tuple[str, ...]
    """Joined by a blank where there are several."""
    id_column: str | None
    """None numbers the rows."""
    keep: tuple[str, ...] = ()
    """Columns that texts bring along in ``cells``."""

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return self.table.path

    def texts(self, skip: int = 0) -> Iterator[Text]:
        """The rows after the first ``skip``, each with its text or its problem; damaged Parquet is a ``ValueError``."""
        columns = list(dict.fromkeys([*self.text_columns, *filter(None, [self.id_column]), *self.keep]))
        return map(self._text, self.table.rows(skip, columns=columns))

    def good_texts(self) -> Iterator[Text]:
        """The rows with a text. Of the others, blank lines aside, the first ten are logged, and how many more."""
        lost = 0
        for row in self.texts():
            if row.problem is None:
                yield row
            elif not row.blank:
                lost += 1
                if lost <= _LOGGED:
                    logger.warning("left out: %s, %s %d %s", self.path.name, self.table.unit, row.line, row.problem)
        if lost > _LOGGED:
            logger.warning("... and %d more rows of %s", lost - _LOGGED, self.path.name)

    def _text(self, row: Row) -> Text:
        if row.problem is not None:
            return Text(row.number, row.line, None, "", row.problem)
        try:
            parts = (cell_text(name, row.cells.get(name)) for name in self.text_columns)
            text = " ".join(filter(None, parts)).strip()
            if not text:
                raise ValueError("has no text")
            name = _id(row.cells.get(self.id_column)) if self.id_column else None
        except ValueError as error:
            return Text(row.number, row.line, None, "", str(error))
        return Text(row.number, row.line, name, text, None, {column: row.cells.get(column) for column in self.keep})


def open_corpus(
    path: str | Path, text_columns: Sequence[str] = (), id_column: str | None = None, keep: Sequence[str] = ()
) -> CorpusFile:
    """Find out where in a file ids and texts are; of JSON the file is read once for its columns.

    Args:
        path: see :func:`mrl_text.tables.open_table`.
        text_columns: what to encode; none takes ``text`` and, before it, ``title`` where there is one (BEIR).
        id_column: None takes the first of :data:`ID_COLUMNS` there is, else numbers the rows.
        keep: columns that texts bring along.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a type of file that cannot be read, an empty or broken one, or no such column.
    """
    table = open_table(path)
    known = table.columns
    if table.format == "txt" and (id_column or keep or set(text_columns) - {TEXT}):
        raise ValueError(f"{path} holds a text a line: it has no columns to choose")
    check_columns(path, (*text_columns, *([id_column] if id_column else []), *keep), known)
    if not text_columns:
        if TEXT not in known:
            raise ValueError(
                f"{path} has no column 'text' but {', '.join(map(repr, known))}: say which to encode with --text-column"
            )
        text_columns = [name for name in (TITLE, TEXT) if name in known]
    id_column = id_column or next((name for name in ID_COLUMNS if name in known), None)
    return CorpusFile(table, tuple(text_columns), id_column, tuple(keep))


def id_prefixes(paths: Sequence[Path]) -> list[str]:
    """What the ids of rows without one begin with, before their number, so that no two files give the same.

    Nothing in the first file, the file's name in further ones. Where an earlier one has that name, as many folders
    stand before it as it takes. Files that are added at the end change no prefix. Paths are absolute, all different.
    """
    prefixes = [""]
    for path in paths[1:]:
        longer = ("/".join(path.parts[-count:]) + ":" for count in range(1, len(path.parts) + 1))
        prefixes.append(next(prefix for prefix in longer if prefix not in prefixes))
    return prefixes


def _id(value: object) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return identifier(value)
    except ValueError:
        raise ValueError(f"has the id {shown(value)}, neither text nor a whole number") from None
