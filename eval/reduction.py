"""From full-width vectors to what an index would hold: fewer numbers, fewer bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mrl_text.truncation import dequantize, quantize, truncate

from .lines import Variant


class Corpus:
    """What is measured on the side of a task that an index would hold.

    PCA and the ranges of int8 are fitted here: on documents where a task has them, on the training texts of a
    classification task, else on all texts of the task. No label is used.

    Args:
        vectors: returns that side at full width, float32 (n, width).
        pca_vectors: returns float32 (m, width) to fit PCA on instead.
    """

    def __init__(self, vectors: Callable[[], np.ndarray], pca_vectors: Callable[[], np.ndarray] | None = None) -> None:
        self._vectors = vectors
        self._pca_vectors = pca_vectors or vectors
        self._pca: tuple[np.ndarray, np.ndarray] | None = None
        self._ranges: dict[tuple[str, int | None, int], np.ndarray] = {}

    def pca(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (width,) and components (width, width) in columns, largest variance first."""
        if self._pca is None:
            vectors = self._pca_vectors().astype(np.float64)
            mean = vectors.mean(axis=0)
            vectors -= mean
            # the covariance has a full basis even where there are fewer texts than numbers
            _, components = np.linalg.eigh(vectors.T @ vectors / len(vectors))
            self._pca = mean.astype(np.float32), np.ascontiguousarray(components[:, ::-1], dtype=np.float32)
        return self._pca

    def ranges(self, variant: Variant, cut: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Smallest and largest value (2, dim) of each dimension after ``cut``."""
        key = variant.line.method, variant.seed, variant.cell.dim
        if key not in self._ranges:
            values = cut(self._vectors())
            self._ranges[key] = np.stack([values.min(axis=0), values.max(axis=0)])
        return self._ranges[key]

    def known_ranges(self, variant: Variant) -> np.ndarray | None:
        """The ranges of a variant, if they were needed."""
        return self._ranges.get((variant.line.method, variant.seed, variant.cell.dim))


@dataclass(frozen=True)
class Reduction:
    """Cuts vectors to a variant's size and passes them through its precision.

    Args:
        variant: what to make.
        normalize: whether vectors are unit length after cutting: yes for models that compare by cosine.
        corpus: where PCA and ranges come from; called when they are needed.
    """

    variant: Variant
    normalize: bool
    corpus: Callable[[], Corpus]

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """float32 (n, width) to float32 (n, dim), as an index of this variant would compare them."""
        cut, precision = self._cut(vectors), self.variant.cell.precision
        if precision == "float32" or not len(cut):
            return cut
        ranges = self.corpus().ranges(self.variant, self._cut) if precision in ("int8", "uint8") else None
        return dequantize(quantize(cut, precision, ranges=ranges), precision, self.variant.cell.dim, ranges=ranges)

    def _cut(self, vectors: np.ndarray) -> np.ndarray:
        dim, line = self.variant.cell.dim, self.variant.line
        if line.method == "pca":
            mean, components = self.corpus().pca()
            vectors = (vectors - mean) @ components[:, :dim]
        elif line.method == "random":
            chosen = np.random.default_rng(self.variant.seed).permutation(vectors.shape[1])[:dim]
            vectors = vectors[:, chosen]
        return truncate(vectors, dim, normalize=self.normalize)
