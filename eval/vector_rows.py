"""Vectors that exist already, handed out as those of a model are."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np

from mrl_text.embedding_cache import EmbeddingCache

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder


class VectorRows(EmbeddingCache):
    """A cache in which a text is the number of a row.

    Args:
        documents: float (n, width).
        queries: float (q, width).
    """

    def __init__(self, documents: np.ndarray, queries: np.ndarray) -> None:
        plain = SimpleNamespace(prompts={}, similarity_fn_name="cosine")  # all that is asked of a model
        super().__init__(lambda: cast("MatryoshkaEncoder", plain), None)
        self._documents, self._queries = documents, queries

    def embed(self, texts: Sequence[str], *, prompt: str | None = None, role: str | None = None) -> np.ndarray:
        """The rows of these numbers, float32; of queries where the role is ``"query"``."""
        vectors = self._queries if role == "query" else self._documents
        rows = np.fromiter(map(int, texts), np.int64, len(texts))
        return np.ascontiguousarray(vectors[rows], dtype=np.float32)
