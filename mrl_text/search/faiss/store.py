"""FAISS in a folder, as a store."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.choices import Code
from mrl_text.files import check_writable
from mrl_text.search.checks import check_strings
from mrl_text.search.columns import ColumnType
from mrl_text.search.faiss.folder import IndexFolder, faults
from mrl_text.search.faiss.index import AdaptiveIndex
from mrl_text.search.faiss.shortlist import check_plan
from mrl_text.search.filters import check_where, row_mask, selective
from mrl_text.search.hits import Hits, StageCost
from mrl_text.search.plan import KINDS, SearchPlan, cells
from mrl_text.search.settings import StoreSettings
from mrl_text.search.store import Abilities, Document, Store, Where

_WORTH_TRYING: tuple[Code, ...] = ("float32", "float16", "int8", "int4", "int2", "int1", "RaBitQfs")
_MANY_ROWS = 50_000  # above, comparing with every row takes milliseconds
_SMALL_SHARE = 0.1  # of new rows: fewer are put into the shortlist that is there, for more it is built anew
_REMOVED_SHARE, _FEW_REMOVED = 0.2, 1_000  # with more removed rows than both, a folder is written anew

logger = logging.getLogger(__name__)


class FaissStore(Store):
    """An :class:`~mrl_text.search.AdaptiveIndex` as a :class:`~mrl_text.search.Store`, which closes it.

    One process writes at a time (others get ValueError), any number may read. What was added can be found at once.
    """

    abilities = Abilities(in_process=True, precisions=_WORTH_TRYING, kinds=KINDS, longest=5000, effort=1024)

    def __init__(self, index: AdaptiveIndex) -> None:
        dims = tuple(index.facts.get("dims", ()))
        super().__init__(str(index.path), StoreSettings(index.width, index.plan, index.model, dims))
        self.index, self.path = index, index.path
        self.revision = index.facts.get("revision")

    @classmethod
    def open(cls, url: str) -> FaissStore:
        """The index of a folder; FileNotFoundError if there is none, ValueError if it is damaged."""
        return cls(AdaptiveIndex.load(Path(url)))

    @classmethod
    def check_place(cls, url: str) -> None:
        """A folder must be new or empty."""
        IndexFolder.check_place(Path(url))

    @classmethod
    def check_plan(cls, plan: SearchPlan, width: int) -> None:
        """Graphs hold nothing of fewer than eight bits."""
        check_plan(plan, width)

    @classmethod
    def _make(cls, url: str, settings: StoreSettings) -> FaissStore:
        facts = {"dims": list(settings.dims)}
        return cls(
            AdaptiveIndex.create(Path(url), width=settings.width, plan=settings.plan, model=settings.model, facts=facts)
        )

    @staticmethod
    def starting_plan(rows: int, width: int, dims: Sequence[int]) -> SearchPlan:
        """A plan that is safe to start with.

        Up to 50,000 rows every row is compared in float32, by the smallest of ``dims`` that is at least a sixth of the
        width. Above, int4 in cells, three eighths of which are looked into, by the smallest of at least a third.
        """
        large = rows > _MANY_ROWS
        dim = min((dim for dim in dims if (3 if large else 6) * dim >= width), default=width)
        final = dim if dim == width else None
        if not large:
            return SearchPlan(dim, "flat", "float32", shortlist=200, final=final)
        precision: Code = "int8" if final else "int4"  # int4 finds candidates, and nothing would put them in order
        effort = max(1, 3 * cells(rows, precision) // 8)
        return SearchPlan(dim, "ivf", precision, shortlist=200, effort=effort, final=final)

    def check_writable(self, columns: Collection[str]) -> None:
        """The folder can be written."""
        super().check_writable(columns)
        check_writable(self.index.path, "give yourself the right, or choose another folder")

    def _add(
        self, ids: Sequence[str], vectors: np.ndarray, texts: Sequence[str | None] | None, own: dict[str, list[Any]]
    ) -> None:
        self.index.put(ids, vectors, texts, own)

    def expect(self, rows: int) -> None:
        """Put off the shortlist where more than a tenth of the rows are new: it is learned from all of them then."""
        if rows > _SMALL_SHARE * len(self.index):
            self.index.expect_many()

    def confirm(self) -> None:
        """Save without building the shortlist."""
        self.index.save(build=False)

    def flush(self) -> None:
        """Build the shortlist if it is not there, and save; with many removed rows, write the folder anew without."""
        if (removed := self.index.removed) > max(_REMOVED_SHARE * (self.count() + removed), _FEW_REMOVED):
            try:
                self.index.compact()
                return
            except OSError as error:
                logger.warning("%s keeps %d removed rows: no room to write it anew (%s)", self.path, removed, error)
        self.index.save()

    def search(
        self, queries: np.ndarray, k: int = 10, *, where: Where | None = None, plan: SearchPlan | None = None
    ) -> Hits:
        """The ``k`` best rows for each query."""
        return self.index.search(queries, k, among=self._rows(where), plan=plan)

    def exact(self, queries: np.ndarray, k: int = 10, *, where: Where | None = None) -> Hits:
        """The ``k`` best rows by comparing with every full vector."""
        return self.index.exact(queries, k, among=self._rows(where))

    def explain(self, query: np.ndarray, k: int = 10) -> tuple[Hits, list[StageCost]]:
        """Search for one query, step by step."""
        return self.index.explain(query, k)

    def ram(self) -> int:
        """Bytes of memory of the shortlist."""
        return self.index.ram()

    def delete(self, ids: Collection[str]) -> int:
        """Take rows out."""
        return self.index.remove(ids)

    def delete_where(self, where: Where) -> int:
        """Take out the rows that a filter lets through."""
        conditions = selective(check_where(where, self.index.column_types))
        return self.index.remove(np.asarray(row_mask(conditions, self.index.column)))

    def count(self) -> int:
        """Rows that can be found."""
        return len(self.index)

    def drop(self) -> None:
        """Delete the files of the index, and the folder where it has no others."""
        self.index.delete()

    def documents(self, ids: Sequence[str]) -> list[Document | None]:
        """Rows by id."""
        check_strings(ids, len(ids), "ids")
        positions = self.index.find(ids)
        there = np.flatnonzero(positions >= 0)
        found: list[Document | None] = [None] * len(ids)
        texts, columns = self.index.texts(positions[there]), self.index.columns(positions[there])
        for at, text, own in zip(there.tolist(), texts, columns, strict=True):
            found[at] = Document(ids[at], text, own)
        return found

    def rows(self, where: Where | None = None) -> Iterator[tuple[list[Document], np.ndarray]]:
        """Rows in the order they were added, vectors in float16; those that are there when it begins."""
        return self.index.batches(self._rows(where))

    def column_types(self) -> dict[str, ColumnType]:
        """Types of the user's own columns by name."""
        return self.index.column_types

    def removed(self) -> int:
        """Rows that were taken out or replaced and still take up room."""
        return self.index.removed

    def index_bytes(self) -> dict[str, int]:
        """Bytes in memory by part, and ``disk``: all files."""
        return self.index.memory()

    @classmethod
    def verify(cls, url: str) -> Iterator[str]:
        """Compare every file with its checksum, then look at the rows."""
        if found := faults(Path(url)):
            yield from found
            return
        yield from super().verify(url)

    def set_plan(self, plan: SearchPlan | None) -> None:
        """Search in another way from now on."""
        self.index.set_plan(plan)
        self.settings = replace(self.settings, plan=plan)

    def close(self) -> None:
        """Let other processes write."""
        self.index.close()

    def _rows(self, where: Where | None) -> np.ndarray | None:
        """Rows that a filter lets through, bool (rows,); None for all."""
        return row_mask(check_where(where, self.index.column_types), self.index.column)
