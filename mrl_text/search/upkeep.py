"""What a store is and holds, in words and numbers, and taking rows out of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mrl_text.search.store import Store
from mrl_text.search.urls import without_password
from mrl_text.tables import open_table
from mrl_text.tables.corpus import ID_COLUMNS
from mrl_text.tables.read import TEXT
from mrl_text.tables.values import identifier

_TOGETHER = 1_000


def describe(store: Store) -> dict[str, Any]:
    """What a store is and holds, as JSON values."""
    return {
        "store": without_password(store.url),
        "rows": store.count(),
        "removed": store.removed(),
        "width": store.width,
        "model": store.model,
        "revision": store.revision,
        "dims": list(store.dims),
        "plan": store.plan.to_json() if store.plan else None,
        "columns": dict(store.column_types()),
        "bytes": store.index_bytes(),
    }


def delete_ids(store: Store, ids: Iterable[str]) -> tuple[int, int]:
    """Take out rows by id, some at a time; returns how many different ids were given and how many were there."""
    given = list(dict.fromkeys(ids))
    taken = sum(store.delete(given[first : first + _TOGETHER]) for first in range(0, len(given), _TOGETHER))
    store.flush()
    return len(given), taken


def read_ids(file: Path) -> Iterator[str]:
    """Ids of a file: the lines of a .txt, else the first of :data:`mrl_text.tables.corpus.ID_COLUMNS`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read, has no such column or no id, or a row of it that has none.
    """
    table = open_table(file)
    names = (TEXT,) if table.format == "txt" else ID_COLUMNS
    name = next((name for name in names if name in table.columns), None)
    if name is None:
        raise ValueError(f"{file} has none of the columns {', '.join(ID_COLUMNS)}: name the one with the ids so")
    found = False
    for row in table.rows(columns=[name]):
        if row.blank:
            continue
        try:
            if row.problem:
                raise ValueError(row.problem)
            yield identifier(row.cells.get(name))
        except ValueError as error:
            raise ValueError(f"{file}, {table.unit} {row.line}: the id {error}: mend it, nothing was deleted") from None
        found = True
    if not found:
        raise ValueError(f"{file} has no ids: it needs at least one")
