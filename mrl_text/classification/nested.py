"""Linear classifiers for every prefix of an embedding, as one scikit-learn estimator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from mrl_text.truncation import check_dims, truncate

Floats = npt.NDArray[np.float64]

STRENGTHS = (1.0, 3.0, 10.0, 30.0)
"""Values of ``C`` to try."""
USUAL_STRENGTH = 10.0
_FEWEST = 200


@dataclass(frozen=True, eq=False)
class Heads:
    """One linear head per prefix size.

    Each head reads the prefix scaled to unit length. The length of a prefix says how much of the vector lies
    in its first numbers, and little about the class. Without it, one strength of regularisation fits every size, tied
    heads see inputs of one scale, and cut vectors of an index can be used as they are.

    ``weights`` are one float64 array (dim, classes) per size; tied heads share one array: each is its first rows.
    ``intercepts`` are float64 (sizes, classes). ``steps`` is the most steps of the solver that a head took.
    """

    dims: tuple[int, ...]
    weights: tuple[Floats, ...]
    intercepts: Floats
    steps: int = 0

    def logits(self, vectors: np.ndarray, stage: int) -> Floats:
        """Of head number ``stage``: vectors (n, width) to float64 (n, classes)."""
        cut = truncate(vectors, self.dims[stage])
        return np.asarray(cut @ self.weights[stage] + self.intercepts[stage], dtype=np.float64)

    def block(self, vectors: np.ndarray, start: int, stage: int) -> Floats:
        """Product of the numbers from ``start`` to the size of ``stage`` with their weights: (n, classes)."""
        part = slice(start, self.dims[stage])
        return np.asarray(vectors[:, part] @ self.weights[stage][part], dtype=np.float64)

    def scaled(self, products: Floats, vectors: np.ndarray, stage: int) -> Floats:
        """Logits of a stage from the summed products of its blocks: divided by the length of the prefix."""
        lengths = np.linalg.norm(vectors[:, : self.dims[stage]].astype(np.float64), axis=1, keepdims=True)
        return np.asarray(products / np.where(lengths > 0, lengths, 1) + self.intercepts[stage])


def fit_heads(
    vectors: np.ndarray, labels: npt.NDArray[np.int64], dims: Sequence[int], *, tied: bool, C: float, max_iter: int
) -> Heads:
    """Multinomial logistic regression with an L2 penalty at every size (arXiv 2205.13147, section 3).

    Separate heads (MRL) are one scikit-learn ``LogisticRegression`` each. Tied heads (MRL-E) minimise
    :func:`tied_loss`. Both are convex: the result depends on the data alone.

    ``vectors`` are float (n, width), ``labels`` (n,) numbers 0 to classes - 1, each present, at least two; ``dims``
    ascend. The rest is as for :class:`~mrl_text.classification.NestedClassifier`.
    """
    if tied:
        return _fit_tied(vectors, labels, tuple(dims), C, max_iter)
    models = [LogisticRegression(C=C, max_iter=max_iter).fit(truncate(vectors, dim), labels) for dim in dims]
    # two classes: scikit-learn keeps one row of weights w; the softmax of (-w/2, w/2) is the same
    both = np.array([[-0.5], [0.5]]) if len(models[0].coef_) == 1 else np.eye(len(models[0].coef_))
    weights = tuple(np.array((both @ model.coef_).T, dtype=np.float64) for model in models)
    intercepts = np.array([both @ model.intercept_ for model in models], dtype=np.float64)
    return Heads(tuple(dims), weights, intercepts, max(int(model.n_iter_.max()) for model in models))


def choose_strength(vectors: np.ndarray, labels: npt.NDArray[np.int64], dim: int, max_iter: int) -> float:
    """The ``C`` of :data:`STRENGTHS` with the highest cross-validated accuracy at size ``dim``; the smallest of equals.

    Other arguments as for :func:`fit_heads`.
    """
    if len(labels) < _FEWEST or np.bincount(labels).max() < 3:
        return USUAL_STRENGTH  # too few inputs to compare values
    cut = truncate(vectors, dim)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        scores = [
            cross_val_score(LogisticRegression(C=C, max_iter=max_iter), cut, labels, cv=folds).mean() for C in STRENGTHS
        ]
    return STRENGTHS[int(np.argmax(scores))]


def _fit_tied(
    vectors: np.ndarray, labels: npt.NDArray[np.int64], dims: tuple[int, ...], C: float, max_iter: int
) -> Heads:
    classes = int(labels.max()) + 1
    start = np.zeros((dims[-1] + len(dims)) * classes)
    prefix = np.asarray(vectors[:, : dims[-1]], dtype=np.float64)
    options = {"maxiter": max_iter, "maxcor": 10, "gtol": 1e-4, "ftol": 1e-8}
    found = minimize(tied_loss, start, (prefix, labels, dims, C), "L-BFGS-B", jac=True, options=options)
    weights, intercepts = np.split(found.x.reshape(-1, classes), [dims[-1]])
    return Heads(dims, tuple(weights[:dim] for dim in dims), intercepts, int(found.nit))


def tied_loss(
    parameters: Floats, prefix: Floats, labels: npt.NDArray[np.int64], dims: Sequence[int], C: float
) -> tuple[float, Floats]:
    """Sum over sizes of the mean cross-entropy plus ``|weights|^2 / (2 C n)``, and its gradient.

    The penalty counts once per size, as the cross-entropy does: with one size this is the loss of a separate head.

    Logits of a size are those of the size before plus one block of the product, divided by the length of the prefix:
    all sizes together cost one product at full width.

    ``parameters`` are flat: (dims[-1] + sizes, classes), the weights and then an intercept per size, as the gradient.
    ``prefix`` is float64 (n, dims[-1]), not scaled; the rest is as for :func:`fit_heads`.
    """
    n, rows = len(prefix), np.arange(len(prefix))
    weights, intercepts = np.split(parameters.reshape(dims[-1] + len(dims), -1), [dims[-1]])
    starts = [0, *dims[:-1]]
    strength = len(dims) / (C * n)
    loss = strength / 2 * float((weights**2).sum())
    products = np.zeros((n, weights.shape[1]))
    squares = np.zeros((n, 1))
    errors = []  # per size: derivative of the loss by the unscaled products
    slopes = np.empty_like(intercepts)
    for stage, (start, stop) in enumerate(zip(starts, dims, strict=True)):
        block = prefix[:, start:stop]
        products += block @ weights[start:stop]
        squares += (block**2).sum(axis=1, keepdims=True)
        scale = 1 / np.sqrt(np.where(squares > 0, squares, 1))
        logits = products * scale + intercepts[stage]
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[rows, labels]
        error = np.exp(logits, out=logits)
        total = error.sum(axis=1, keepdims=True)
        loss += float((np.log(total[:, 0]) - right).mean())
        error /= total
        error[rows, labels] -= 1
        error /= n
        slopes[stage] = error.sum(axis=0)
        errors.append(error * scale)
    gradient = strength * weights
    later = np.zeros_like(products)
    for error, start, stop in zip(reversed(errors), reversed(starts), reversed(dims), strict=True):
        later += error
        gradient[start:stop] += prefix[:, start:stop].T @ later
    return loss, np.concatenate([gradient, slopes]).ravel()


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

    arXiv 2205.13147, section 3. Every head reads the prefix scaled to unit length (:class:`Heads`).

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
