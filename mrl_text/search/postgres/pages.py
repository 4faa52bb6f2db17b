"""Rows of a table, read page by page."""

from __future__ import annotations

import numpy as np

from mrl_text.search.filters import check_where
from mrl_text.search.postgres import sql as statements
from mrl_text.search.postgres import tables
from mrl_text.search.postgres.connection import Link
from mrl_text.search.postgres.sql import Table
from mrl_text.search.store import Document, Where

_ROWS = 1_000


def read_page(table: Table, where: Where | None, after: str | None, link: Link) -> tuple[list[Document], np.ndarray]:
    """A thousand rows that a filter lets through, fewer at the end, behind an id, in the order of ids.

    Returns:
        Rows and their full vectors, as the table holds them: float16 or float32 (n, width).
    """
    types = tables.own_types(tables.columns(link, table))
    statement = statements.page(table, types, _ROWS, check_where(where, types), after)
    rows = link.execute(*statement, prepare=False).fetchall()
    documents = [Document(id_, text, dict(zip(types, own, strict=True))) for id_, text, _, *own in rows]
    return documents, np.array([row[2].to_numpy() for row in rows]).reshape(-1, table.width)
