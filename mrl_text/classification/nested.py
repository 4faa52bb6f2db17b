"""Linear classifiers for every prefix of an embedding, as one scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from mrl_text.classification.heads import Floats, Heads, choose_strength, fit_heads
from mrl_text.truncation import check_dims


class PrefixEstimator(ClassifierMixin, BaseEstimator):
    """The base of both classifiers: it checks parameters and data and turns labels into numbers."""

    dims: Sequence[int] | None
    C: float | None
    C_: float
    max_iter: int
    classes_: np.ndarray
    n_features_in_: int
    dims_: tuple[int, ...]
    heads_: Heads

    def _checked(self, X: Any, y: Any) -> tuple[np.ndarray, npt.NDArray[np.int64]]:
        """Return vectors and labels as numbers; set ``classes_``, ``dims_`` and ``C_``."""
        if self.C is not None and self.C <= 0:
            raise ValueError(f"C must be above 0, got {self.C}")
        if self.max_iter < 1:
            raise ValueError(f"max_iter must be at least 1, got {self.max_iter}")
        vectors, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least two classes, y has 1 class: {self.classes_[0]!r}")
        self.dims_ = default_dims(self.n_features_in_) if self.dims is None else check_dims(self.dims, vectors.shape[1])
        known = numbers.astype(np.int64)
        self.C_ = choose_strength(vectors, known, self.dims_[-1], self.max_iter) if self.C is None else self.C
        return vectors, known

    def _vectors(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        vectors: np.ndarray = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return vectors


class NestedClassifier(PrefixEstimator):
    """One linear softmax head per prefix size (MRL), or one weight matrix for all sizes (MRL-E).

    arXiv 2205.13147, section 3. Every head reads the prefix scaled to unit length (:class:`.heads.Heads`).

    Args:
        dims: sizes; None is the powers of two from 16 up, the sizes halfway between them, and the width. Sizes
            that the model was not trained for fall between their neighbours.
        tied: one weight matrix, of which a head of size d uses the first d rows, fitted jointly: the sum of the
            cross-entropies of all sizes is minimised. Each size keeps intercepts of its own.
        C: weight of the data against the L2 penalty, one for all sizes. None tries 1, 3, 10 and 30 by cross-validation
            of the separate head at the largest size; with fewer than 200 inputs it takes 10.
        max_iter: steps of the solver, at most.

    Attributes:
        classes_, n_features_in_, dims_: labels, sorted; width; sizes, ascending.
        C_: the ``C`` that was used.
        heads_: weights and intercepts.
        n_iter_: the most steps of the solver that a head took.
    """

    def __init__(
        self, dims: Sequence[int] | None = None, *, tied: bool = False, C: float | None = None, max_iter: int = 1000
    ) -> None:
        self.dims = dims
        self.tied = tied
        self.C = C
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> NestedClassifier:
        """Fit all heads on full-width embeddings ``X``, float (n, width), and their labels ``y``, (n,).

        Raises:
            ValueError: one class only, impossible sizes or parameters, NaN.
        """
        vectors, labels = self._checked(X, y)
        self.heads_ = fit_heads(vectors, labels, self.dims_, tied=self.tied, C=self.C_, max_iter=self.max_iter)
        self.n_iter_ = self.heads_.steps
        return self

    def predict_proba(self, X: Any, dim: int | None = None) -> Floats:
        """Probabilities float64 (n, classes) of the head of size ``dim``; None is the largest.

        Raises:
            ValueError: there is no head of that size, or the vectors have another width.
        """
        vectors = self._vectors(X)
        if dim is not None and dim not in self.dims_:
            raise ValueError(f"no head reads {dim} numbers; there are heads for {', '.join(map(str, self.dims_))}")
        stage = len(self.dims_) - 1 if dim is None else self.dims_.index(dim)
        return np.asarray(softmax(self.heads_.logits(vectors, stage), axis=1))

    def predict(self, X: Any, dim: int | None = None) -> np.ndarray:
        """Labels (n,) from the head of size ``dim``; None is the largest. Errors as for :meth:`predict_proba`."""
        best = self.predict_proba(X, dim).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def scores(self, X: Any, y: Any) -> dict[int, float]:
        """Accuracy of every head: size -> share of right labels, 0 to 1."""
        labels = np.asarray(y)
        return {dim: float(np.mean(self.predict(X, dim) == labels)) for dim in self.dims_}


def default_dims(width: int) -> tuple[int, ...]:
    """Powers of two from 16, the sizes halfway between them, and ``width``: 16, 24, 32, 48, 64, 96, ..."""
    sizes = sorted(size for power in range(4, 30) for size in (2**power, 3 * 2 ** (power - 1)))
    return (*(size for size in sizes if size < width), width)
