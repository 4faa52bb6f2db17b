"""FAISS in a folder, as a store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.search.checks import check_strings
from mrl_text.search.faiss.index import AdaptiveIndex
from mrl_text.search.filters import check_where, row_mask
from mrl_text.search.hits import Hits
from mrl_text.search.plan import SearchPlan
from mrl_text.search.store import Document, Where
from mrl_text.truncation import check_dims


class FaissStore:
    """An :class:`~mrl_text.search.AdaptiveIndex` as a :class:`~mrl_text.search.Store`.

    Made by :meth:`create`, or by ``mrl-text index build``. One process writes at a time, any number may read. What was
    added can be found at once, and is on disk for good after :meth:`flush`.

    Args:
        index: opened index; the store closes it.
    """

    def __init__(self, index: AdaptiveIndex) -> None:
        self.index = index
        self.url = str(index.path)
        self.width = index.width
        self.model = index.model
        self.dims = check_dims([*index.facts.get("dims", ()), index.width], index.width)

    @classmethod
    def open(cls, url: str) -> FaissStore:
        """The index of a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        return cls(AdaptiveIndex.load(Path(url)))

    @classmethod
    def create(
        cls,
        url: str,
        *,
        width: int,
        plan: SearchPlan | None = None,
        model: str | None = None,
        dims: Sequence[int] | None = None,
    ) -> FaissStore:
        """A new index in a new or empty folder; arguments and errors as :func:`mrl_text.search.create_store`."""
        facts = {"dims": list(check_dims([*(dims or ()), width], width))}
        return cls(AdaptiveIndex.create(Path(url), width=width, plan=plan, model=model, facts=facts))

    @property
    def plan(self) -> SearchPlan | None:
        """How :meth:`search` searches; None compares with every full vector."""
        return self.index.plan

    def add(
        self,
        ids: Sequence[str],
        embeddings: np.ndarray,
        texts: Sequence[str] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Add rows; as :meth:`mrl_text.search.Store.add`, and ValueError while another process writes."""
        self.index.add(ids, embeddings, texts, columns)

    def flush(self) -> None:
        """Build the shortlist if it is not there, and save."""
        self.index.save()

    def search(
        self, queries: np.ndarray, k: int = 10, *, where: Where | None = None, plan: SearchPlan | None = None
    ) -> Hits:
        """The ``k`` best rows for each query; as :meth:`mrl_text.search.Store.search`."""
        return self.index.search(queries, k, among=self._rows(where), plan=plan)

    def exact(self, queries: np.ndarray, k: int = 10, *, where: Where | None = None) -> Hits:
        """The ``k`` best rows by comparing with every full vector."""
        return self.index.exact(queries, k, among=self._rows(where))

    def delete(self, ids: Collection[str]) -> int:
        """Take rows out; returns how many were there. Raises TypeError for a single string."""
        return self.index.remove(ids)

    def count(self) -> int:
        """Rows that can be found."""
        return len(self.index)

    def documents(self, ids: Sequence[str]) -> list[Document | None]:
        """Rows by id, None for one that is not there."""
        check_strings(ids, len(ids), "ids")
        positions = self.index.find(ids)
        there = np.flatnonzero(positions >= 0)
        found: list[Document | None] = [None] * len(ids)
        texts, columns = self.index.texts(positions[there]), self.index.columns(positions[there])
        for at, text, own in zip(there.tolist(), texts, columns, strict=True):
            found[at] = Document(ids[at], text, own)
        return found

    def set_plan(self, plan: SearchPlan | None) -> None:
        """Search in another way from now on, and save; ValueError for a plan that does not fit the width."""
        self.index.set_plan(plan)
        self.index.save()

    def close(self) -> None:
        """Let other processes write."""
        self.index.close()

    def _rows(self, where: Where | None) -> np.ndarray | None:
        """Rows that a filter lets through, bool (rows,); None for all."""
        return row_mask(check_where(where, self.index.column_types), self.index.column)
