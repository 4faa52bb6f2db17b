"""Linear softmax heads on the prefixes of a vector: separate ones, or one weight matrix for all sizes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from mrl_text.truncation import truncate

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

    Attributes:
        dims: sizes, ascending.
        weights: one float64 array (dim, classes) per size. Tied heads share one array: each is its first rows.
        intercepts: float64 (sizes, classes).
        steps: the most steps of the solver that a head took.
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

    Args:
        vectors: float array (n, width).
        labels: (n,) numbers 0 to classes - 1, each present, at least two.
        dims: sizes, ascending.
        tied, C, max_iter: as for :class:`~mrl_text.classification.NestedClassifier`.
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

    Args:
        parameters: flat; ``(dims[-1] + sizes, classes)``, the weights and then an intercept per size.
        prefix: float64 (n, dims[-1]), not scaled.
        labels, dims, C: as for :func:`fit_heads`.

    Returns:
        Loss and flat gradient.
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
