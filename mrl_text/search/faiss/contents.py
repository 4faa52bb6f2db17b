"""What an index holds, by position and by id."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mrl_text.search.columns import ColumnType
from mrl_text.search.faiss.folder import IndexFolder
from mrl_text.search.faiss.stored_rows import Rows
from mrl_text.search.store import Document


class Contents:
    """The rows of an index, to be read: :class:`mrl_text.search.AdaptiveIndex` searches and changes them."""

    def __init__(self, folder: IndexFolder) -> None:
        self._folder = folder
        self._rows = Rows(folder)

    @property
    def path(self) -> Path:
        """Folder of the index."""
        return self._folder.path

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and bool(self._rows.find([id_])[0] >= 0)

    @property
    def removed(self) -> int:
        """Rows that were taken out or replaced and still take up room."""
        return self._rows.count - len(self._rows)

    @property
    def ids(self) -> Iterator[str]:
        """Ids of the rows that can be found, in the order they were added."""
        rows = self._rows
        for start in range(0, rows.count, 65_536):
            yield from rows.ids(rows.live_positions(start, min(start + 65_536, rows.count)))

    def batches(
        self, among: Collection[str] | np.ndarray | None = None, *, rows: int = 1_000
    ) -> Iterator[tuple[list[Document], np.ndarray]]:
        """Rows in order with their full vectors, float16 (n, width), so many at a time.

        Those that are there when it begins, also where they are taken out or written anew meanwhile.

        Args:
            among: ids, or a mask, bool (rows,); None is all.
            rows: at most so many together.
        """
        found, positions = self._rows, self._rows.positions(among)
        for first in range(0, len(positions), rows):
            some = positions[first : first + rows]
            parts = found.ids(some), found.texts(some), found.columns(some)
            yield [Document(*row) for row in zip(*parts, strict=True)], np.asarray(found.mapped(found.width)[some])

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Positions int64 (n,) of rows by id, -1 for one that is not there."""
        return self._rows.find(ids)

    def texts(self, positions: Sequence[int] | np.ndarray) -> list[str | None]:
        """Texts of rows by position; None for a row that was added without."""
        return self._rows.texts(np.asarray(positions, dtype=np.int64))

    def vectors(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """Full unit vectors of rows by position, as stored: float16 (n, width)."""
        return np.asarray(self._rows.mapped(self._rows.width)[np.asarray(positions, dtype=np.int64)])

    @property
    def column_types(self) -> dict[str, ColumnType]:
        """Types of the user's own columns by name: ``text``, ``int``, ``float`` or ``bool``."""
        return dict(self._rows.column_types)

    def column(self, name: str) -> pa.ChunkedArray:
        """One of the user's columns, all rows in the order they were added, removed ones included; or KeyError."""
        return self._rows.column(name)

    def columns(self, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """The user's own columns of rows by position: a value by name, None for a row without."""
        return self._rows.columns(np.asarray(positions, dtype=np.int64))
