"""From full-width vectors to what an index would hold: fewer numbers, fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mrl_text.truncation import dequantize, quantize, truncate

from .grid import Variant

Blocks = Callable[[], Iterator[np.ndarray]]


class Corpus:
    """What is measured on the side of a task that an index would hold.

    PCA and the ranges of int8 are fitted here: on documents where a task has them, on the training texts of a
    classification task, else on all texts of the task. No label is used.

    Args:
        blocks: returns that side at full width, in blocks of float32 (n, width).
        pca_blocks: the same for what PCA is fitted on instead.
    """

    def __init__(self, blocks: Blocks, pca_blocks: Blocks | None = None) -> None:
        self._blocks = blocks
        self._pca_blocks = pca_blocks or blocks
        self._pca: tuple[np.ndarray, np.ndarray] | None = None
        self._ranges: dict[tuple[str, int | None, int], np.ndarray] = {}

    def pca(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (width,) and components (width, width) in columns, largest variance first."""
        if self._pca is None:
            count, total, products = 0, np.zeros(1), np.zeros((1, 1))
            for block in self._pca_blocks():
                wide = block.astype(np.float64)
                count, total, products = count + len(wide), total + wide.sum(axis=0), products + wide.T @ wide
            mean = total / count
            # the covariance has a full basis even where there are fewer texts than numbers
            _, components = np.linalg.eigh(products / count - np.outer(mean, mean))
            self._pca = mean.astype(np.float32), np.ascontiguousarray(components[:, ::-1], dtype=np.float32)
        return self._pca

    def ranges(self, variant: Variant, cut: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Smallest and largest value (2, dim) of each dimension after ``cut``."""
        key = variant.line.method, variant.seed, variant.cell.dim
        if key not in self._ranges:
            extremes = [(values.min(axis=0), values.max(axis=0)) for block in self._blocks() for values in [cut(block)]]
            low, high = zip(*extremes, strict=True)
            self._ranges[key] = np.stack([np.min(low, axis=0), np.max(high, axis=0)])
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
