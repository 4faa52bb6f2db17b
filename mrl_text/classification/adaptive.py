"""The cascade: each input is classified at the smallest size that is sure enough (arXiv 2205.13147, section 4.2.1)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import check_random_state

from mrl_text.choices import Cost
from mrl_text.classification.nested import Floats, Heads, NestedClassifier, PrefixEstimator, fit_heads
from mrl_text.classification.thresholds import Path, Stages, confidence, find_path, paid
from mrl_text.suggest import check_choice


@dataclass(frozen=True)
class Point:
    """Accuracy (0 to 1) and expected size, counted in both ways."""

    accuracy: float
    largest: float
    """Mean of the largest size an input was classified at: the paper's count, and what is read from storage."""
    paid: float
    """Mean of the sum of all sizes an input was classified at: what separate heads multiply. Tied heads carry their
    products on and multiply ``largest`` only."""


class AdaptiveClassifier(PrefixEstimator):
    """Nested heads that stop as soon as one is sure.

    An input goes to the head of the smallest size; if its :func:`~.thresholds.confidence` reaches the threshold of
    that size, its label is taken, otherwise the next size is tried. Thresholds come from predictions on inputs that the
    heads were not fitted on (cross-validation inside ``fit``); then the heads are fitted on everything.

    Args:
        dims, tied, C, max_iter: as for :class:`NestedClassifier`.
        keep: share of the largest head's accuracy that held-out inputs keep.
        cost: what is kept low: ``"largest"``, the mean of the largest size used, or ``"sum"``, of the sum of the sizes.
        cv: folds of the cross-validation.
        random_state: of the folds.

    Attributes:
        classes_, n_features_in_, dims_, C_, heads_, n_iter_: as for :class:`NestedClassifier`.
        temperatures_: float64 (sizes,), what logits are divided by so that a probability is a chance of being right.
        thresholds_: float64 (sizes - 1,); infinite for a size that is never used.
        expected_dims_: mean of the largest size used on held-out inputs.
        expected_paid_: mean of the sum of the sizes used on held-out inputs.
        path_: thresholds from cheap to careful. ``keep`` chose one of them; :meth:`choose` takes another.
        place_: number of the thresholds in use.
    """

    def __init__(
        self,
        dims: Sequence[int] | None = None,
        *,
        tied: bool = False,
        keep: float = 0.999,
        cost: Cost = "largest",
        cv: int = 5,
        C: float | None = None,
        max_iter: int = 1000,
        random_state: int | None = None,
    ) -> None:
        self.dims = dims
        self.tied = tied
        self.keep = keep
        self.cost = cost
        self.cv = cv
        self.C = C
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> AdaptiveClassifier:
        """Learn thresholds on held-out predictions, then fit all heads on everything.

        Args:
            X: float (n, width), full-width embeddings.
            y: (n,) labels.

        Raises:
            ValueError: one class only, no class with two inputs, impossible sizes or parameters, NaN.
        """
        self.check_parameters()
        vectors, labels = self._checked(X, y)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        logits = self._held_out_logits(vectors, labels, seed)
        self.temperatures_ = np.array([temperature(logits[:, stage], labels) for stage in range(len(self.dims_))])
        stages = self._stages(softmax(logits / self.temperatures_[:, None], axis=2), labels)
        self.path_: Path = find_path(stages, self.cost, seed)
        self.held_out_ = np.array([astuple(_point(stages, one)) for one in self.path_.thresholds])
        self.heads_ = self._fit_heads(vectors, labels)
        self.n_iter_ = self.heads_.steps
        return self.choose(self.keep)

    def check_parameters(self) -> None:
        """Raise a ValueError where ``keep``, ``cost`` or ``cv`` is impossible, as :meth:`fit` does with data."""
        _check_keep(self.keep)
        check_choice("cost", self.cost, Cost)
        if self.cv < 2:
            raise ValueError(f"cv must be at least 2 folds, got {self.cv}")

    def choose(self, keep: float | None = None, *, expected_dims: float | None = None) -> AdaptiveClassifier:
        """Take other thresholds from the path, without fitting anything again.

        Args:
            keep: share of the largest head's accuracy to keep on held-out inputs, at the smallest size that does.
            expected_dims: instead of it, the size to stay within on held-out inputs, at the best accuracy; counted as
                ``cost`` counts.

        Raises:
            ValueError: neither or both, ``keep`` outside (0, 1], or a size below what the path offers.
        """
        if (keep is None) == (expected_dims is None):
            raise ValueError("choose takes keep or expected_dims, one of them")
        if keep is not None:
            _check_keep(keep)
            place = self.path_.choose((1 - keep) * self.held_out_[-1, 0])  # the path ends with the largest head alone
        else:
            sizes = self.held_out_[:, 1 if self.cost == "largest" else 2]
            within = np.flatnonzero(sizes <= expected_dims)
            if not len(within):
                raise ValueError(f"expected_dims must be at least {sizes.min():.1f}, the cheapest there is")
            place = int(within[np.argmax(self.path_.accuracy[within] - 1e-9 * np.arange(len(within)))])
        return self.take(place)

    def take(self, place: int) -> AdaptiveClassifier:
        """Take the thresholds of number ``place`` on the path."""
        self.place_ = place
        self.thresholds_ = self.path_.thresholds[place]
        _, self.expected_dims_, self.expected_paid_ = map(float, self.held_out_[place])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Any) -> Floats:
        """Probabilities float64 (n, classes), each row from the head at which the input stopped."""
        return self._run(X)[0]

    def predict_dims(self, X: Any) -> npt.NDArray[np.int64]:
        """Largest size used per input, int64 (n,): how many numbers of its vector were read."""
        return np.array(self.dims_)[self._run(X)[1]]

    def curve(self, X: Any, y: Any) -> list[Point]:
        """Accuracy against expected size on labelled inputs, one point for each place on the path, cheapest first."""
        stages = self.stages(X, y)
        return [_point(stages, thresholds) for thresholds in self.path_.thresholds]

    def evaluate(self, X: Any, y: Any) -> Point:
        """Accuracy and expected size with the chosen thresholds."""
        return _point(self.stages(X, y), self.thresholds_)

    def stages(self, X: Any, y: Any) -> Stages:
        """Ask every head about labelled inputs. A label that was not in the fit counts as wrong at every head."""
        vectors = self._vectors(X)
        known = {label: number for number, label in enumerate(self.classes_.tolist())}
        labels = np.array([known.get(label, -1) for label in np.asarray(y).tolist()])
        if len(labels) != len(vectors):
            raise ValueError(f"X has {len(vectors)} rows and y has {len(labels)}")
        logits = np.stack([self.heads_.logits(vectors, stage) for stage in range(len(self.dims_))], axis=1)
        return self._stages(softmax(logits / self.temperatures_[:, None], axis=2), labels)

    def _run(self, X: Any) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Compute probabilities and the last stage of each input. Inputs that stop leave the batch.

        Tied heads share rows of one matrix, so a size multiplies only the numbers that the sizes before did not.
        """
        vectors = self._vectors(X)
        probabilities = np.zeros((len(vectors), len(self.classes_)))
        stopped = np.zeros(len(vectors), dtype=np.int64)
        waiting, products, done = np.arange(len(vectors)), np.zeros_like(probabilities), 0
        for stage, threshold in enumerate([*self.thresholds_, 0.0]):
            if np.isinf(threshold) or not len(waiting):
                continue
            if self.tied:
                products += self.heads_.block(vectors[waiting], done, stage)
                done = self.dims_[stage]
                logits = self.heads_.scaled(products, vectors[waiting], stage)
            else:
                logits = self.heads_.logits(vectors[waiting], stage)
            here = softmax(logits / self.temperatures_[stage], axis=1)
            sure = confidence(here) >= threshold
            probabilities[waiting[sure]] = here[sure]
            stopped[waiting[sure]] = stage
            waiting, products = waiting[~sure], products[~sure]
        return probabilities, stopped

    def _fit_heads(self, vectors: np.ndarray, labels: npt.NDArray[np.int64]) -> Heads:
        return fit_heads(vectors, labels, self.dims_, tied=self.tied, C=self.C_, max_iter=self.max_iter)

    def _held_out_logits(self, vectors: np.ndarray, labels: npt.NDArray[np.int64], seed: int) -> Floats:
        """(n, sizes, classes) from heads that were fitted on the other folds."""
        most = int(np.bincount(labels).max())
        if most < 2:
            raise ValueError("thresholds are learned on held-out inputs, and no class has two: give more inputs")
        logits = np.zeros((len(labels), len(self.dims_), len(self.classes_)))
        with warnings.catch_warnings():
            # the few members of such a class are held out in turn
            warnings.filterwarnings("ignore", "The least populated class")
            folds = StratifiedKFold(min(self.cv, most), shuffle=True, random_state=seed)
            parts = list(folds.split(vectors, labels))
        for inside, outside in parts:
            present, numbers = np.unique(labels[inside], return_inverse=True)
            if len(present) < 2:
                continue
            heads = self._fit_heads(vectors[inside], numbers)
            for stage in range(len(self.dims_)):
                found = heads.logits(vectors[outside], stage)
                # a class whose only members are held out is as unlikely as the least likely one
                logits[outside, stage] = found.min(axis=1, keepdims=True)
                logits[outside[:, None], stage, present] = found
        return logits

    def _stages(self, probabilities: Floats, labels: npt.NDArray[np.int64]) -> Stages:
        predicted = probabilities.argmax(axis=2)
        value = np.take_along_axis(probabilities[:, -1], predicted, axis=1)
        return Stages(self.dims_, confidence(probabilities), predicted == labels[:, None], value)


def oracle(classifier: AdaptiveClassifier | NestedClassifier, X: Any, y: Any) -> Point:
    """Accuracy and size of a perfect rule for stopping: each input stops at the smallest head that is right.

    The paper's upper bound (arXiv 2205.13147, section 4.2.1). It looks at the labels, so nothing can use it. An input
    that every head gets wrong stops at the smallest size, since no other would help.

    Args:
        classifier: fitted.
        X: float (n, width).
        y: (n,) labels.
    """
    labels = np.asarray(y)
    if isinstance(classifier, NestedClassifier):
        correct = np.stack([classifier.predict(X, dim) == labels for dim in classifier.dims_], axis=1)
    else:
        correct = classifier.stages(X, y).correct
    stopped = correct.argmax(axis=1)
    sizes = np.array(classifier.dims_)
    return Point(float(correct.any(axis=1).mean()), float(sizes[stopped].mean()), float(sizes.cumsum()[stopped].mean()))


def temperature(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """What to divide logits (n, classes) by for the lowest cross-entropy (arXiv 1706.04599), within 1/20 and 20."""
    rows = np.arange(len(labels))

    def loss(exponent: float) -> float:
        return float(-log_softmax(logits * np.exp(-exponent), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def _point(stages: Stages, thresholds: Floats) -> Point:
    stopped = stages.stops(thresholds)
    right = stages.correct[np.arange(len(stopped)), stopped]
    costs = [float(paid(stages.dims, thresholds, cost)[stopped].mean()) for cost in ("largest", "sum")]
    return Point(float(right.mean()), *costs)


def _check_keep(keep: float) -> None:
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be a share of the largest head's accuracy, such as 0.999; got {keep}")
