"""A store in memory by brute force, to test what works on every store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mrl_text.search import Document, Store, Where
from mrl_text.search.columns import ColumnType
from mrl_text.search.hits import Found
from mrl_text.search.plan import SearchPlan
from mrl_text.search.settings import StoreSettings


class MemoryStore(Store):
    """Rows in dictionaries. A graph is imitated: of the candidates it finds, it loses those of the lowest ranks where
    the effort is low. Plans in int8 are refused, and so is a funnel."""

    def __init__(self, width: int, *, dims: Sequence[int] = (), model: str | None = None) -> None:
        super().__init__("memory", StoreSettings(width, model=model, dims=tuple(dims)))
        self.built: list[SearchPlan | None] = []
        self.vectors: dict[str, np.ndarray] = {}
        self.held: dict[str, Document] = {}

    @classmethod
    def open(cls, url: str) -> MemoryStore:
        raise FileNotFoundError(url)

    @classmethod
    def check_place(cls, url: str) -> None:
        pass

    @classmethod
    def _make(cls, url: str, settings: StoreSettings) -> MemoryStore:
        return cls(settings.width, dims=settings.dims, model=settings.model)

    def _add(
        self, ids: Sequence[str], vectors: np.ndarray, texts: Sequence[str | None] | None, own: dict[str, list[Any]]
    ) -> None:
        for row, name in enumerate(ids):
            self.vectors[name] = vectors[row].astype(np.float64)
            columns = {column: values[row] for column, values in own.items()}
            self.held[name] = Document(name, texts[row] if texts is not None else None, columns)

    def flush(self) -> None:
        pass

    def search(
        self, queries: np.ndarray, k: int = 10, *, where: Where | None = None, plan: SearchPlan | None = None
    ) -> Found:
        chosen = plan or self.plan
        if chosen is None:
            return self.exact(queries, k)
        if chosen.rerank:
            raise ValueError("no sizes between here")
        assert self.plan is not None
        assert chosen.shares_shortlist(self.plan), "the index of another plan"
        first = self._order(queries, chosen.dim)
        wide = chosen.shortlist if not chosen.single else k
        if chosen.kind == "hnsw":
            wide = min(wide, chosen.effort // 3)
        last = self._scores(queries, chosen.final or self.width)
        ids = np.full((len(queries), k), None, dtype=object)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        names = np.array(list(self.vectors), dtype=object)
        for row, candidates in enumerate(first[:, :wide]):
            best = candidates[np.argsort(-last[row, candidates], kind="stable")][:k]
            ids[row, : len(best)], scores[row, : len(best)] = names[best], last[row, best]
        return Found(ids, scores)

    def exact(self, queries: np.ndarray, k: int = 10, *, where: Where | None = None) -> Found:
        order = self._order(queries, self.width)[:, :k]
        scores = np.take_along_axis(self._scores(queries, self.width), order, axis=1)
        return Found(np.array(list(self.vectors), dtype=object)[order], scores.astype(np.float32))

    def delete(self, ids: Collection[str]) -> int:
        return sum(self.vectors.pop(name, None) is not None for name in ids)

    def delete_where(self, where: Where) -> int:
        raise NotImplementedError

    def rows(self, where: Where | None = None) -> Iterator[tuple[list[Document], np.ndarray]]:
        yield list(self.held.values()), np.array(list(self.vectors.values()))

    def column_types(self) -> dict[str, ColumnType]:
        return {}

    def count(self) -> int:
        return len(self.vectors)

    def drop(self) -> None:
        self.vectors.clear()

    def documents(self, ids: Sequence[str]) -> list[Document | None]:
        return [self.held.get(name) for name in ids]

    def set_plan(self, plan: SearchPlan | None) -> None:
        if plan is not None and plan.precision == "int8":
            raise ValueError("int8 is not for this engine: take float16")
        self.settings = replace(self.settings, plan=plan)
        self.built.append(plan)

    def close(self) -> None:
        pass

    def _scores(self, queries: np.ndarray, dim: int) -> np.ndarray:
        vectors, cut = np.stack(list(self.vectors.values()))[:, :dim], queries.astype(np.float64)[:, :dim]
        lengths = np.linalg.norm(cut, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
        return np.asarray(cut @ vectors.T / lengths)

    def _order(self, queries: np.ndarray, dim: int) -> np.ndarray:
        return np.argsort(-self._scores(queries, dim), axis=1, kind="stable")
