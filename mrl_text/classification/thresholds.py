"""Thresholds of a cascade: the smallest expected size that keeps the held-out accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression

from mrl_text.choices import Cost

Floats = npt.NDArray[np.float64]

PRICES = 48
"""Prices of an error; each gives one point of the path."""
_STIFFER = (0.7, 0.5, 0.35, 0.2, 0.1)
"""Shares of the distance to 1 that the thresholds of the highest price shrink to: points between it and no cascade."""
_FOLDS = 5
_SWEEPS = 12


def confidence(probabilities: Floats) -> Floats:
    """How sure a head is: its largest probability's share of its two largest, from a half to 1.

    Best against second best (Joshi et al. 2009, CVPR). Less likely classes do not count: whether a head has ruled them
    out says little about whether a larger head would choose another label.

    Args:
        probabilities: float64 (..., classes), two classes or more.

    Returns:
        float64 (...).
    """
    best = np.partition(probabilities, -2, axis=-1)[..., -2:]
    return np.asarray(best[..., 1] / best.sum(axis=-1))


@dataclass(frozen=True, eq=False)
class Stages:
    """Predictions of every head for inputs that it was not fitted on.

    ``confidence``: float64 (n, sizes), :func:`confidence` of the probabilities. ``correct``: bool (n, sizes).
    ``value``: float64 (n, sizes), how likely the prediction of a head is right, by the calibrated largest head.
    """

    dims: tuple[int, ...]
    confidence: Floats
    correct: npt.NDArray[np.bool_]
    value: Floats

    def __getitem__(self, rows: npt.NDArray) -> Stages:
        return Stages(self.dims, self.confidence[rows], self.correct[rows], self.value[rows])

    def stops(self, thresholds: Floats) -> npt.NDArray[np.int64]:
        """Stage (n,) at which each input stops. A stage with an infinite threshold is skipped."""
        passed = np.ones(self.confidence.shape, dtype=bool)  # the last stage takes every input
        passed[:, :-1] = self.confidence[:, :-1] >= thresholds
        return np.asarray(passed.argmax(axis=1))

    def outcome(self, thresholds: Floats, cost: Cost) -> tuple[float, float]:
        """Accuracy and expected size."""
        at = self.stops(thresholds)
        right = self.correct[np.arange(len(at)), at].mean()
        return float(right), float(paid(self.dims, thresholds, cost)[at].mean())


@dataclass(frozen=True, eq=False)
class Path:
    """Thresholds from cheap to careful.

    Attributes:
        thresholds: float64 (points, sizes - 1); infinite where a size is left out.
        accuracy: float64 (points,), expected on held-out inputs that the thresholds were not chosen on, relative to
            the largest head; never falling.
    """

    thresholds: Floats
    accuracy: Floats

    def choose(self, loss: float) -> int:
        """The cheapest point whose accuracy is at most ``loss`` below the largest head's; the last if none is."""
        good = np.flatnonzero(self.accuracy >= -loss - 1e-12)
        return int(good[0]) if len(good) else len(self.accuracy) - 1


def paid(dims: Sequence[int], thresholds: Floats, cost: Cost) -> Floats:
    """Cost (sizes,) of an input that stops at each stage; a size with an infinite threshold is never computed."""
    sizes = np.array(dims, dtype=np.float64)
    return sizes if cost == "largest" else np.cumsum(np.where(np.r_[np.isfinite(thresholds), True], sizes, 0))


def find_path(stages: Stages, cost: Cost, seed: int) -> Path:
    """Thresholds for a range of prices of an error, and what each keeps of the accuracy, cross-validated.

    At each price the thresholds minimise expected size + price x expected error rate (:func:`optimise`). The accuracy
    of a price is measured on a fifth of the inputs with thresholds from the other four, so that choosing among many
    thresholds does not flatter it, and smoothed to be monotone.
    """
    prices = np.geomspace(1, 400, PRICES) * stages.dims[-1]
    fold = np.random.default_rng(seed).permutation(len(stages.confidence)) % _FOLDS
    gained = np.zeros((2, PRICES + len(_STIFFER), len(fold)))
    for number in range(_FOLDS):
        out = fold == number
        if out.any() and not out.all():
            outside = stages[out]
            rows = np.arange(len(outside.value))
            for place, thresholds in enumerate(_sweep(stages[~out], prices, cost)):
                for kind, right in enumerate((outside.value, outside.correct.astype(np.float64))):
                    gained[kind, place, out] = right[rows, outside.stops(thresholds)] - right[:, -1]
    smooth = [IsotonicRegression().fit_transform(np.arange(len(kind)), kind.mean(axis=1)) for kind in gained]
    accuracy = np.minimum(*smooth)
    never = np.full((1, len(stages.dims) - 1), np.inf)  # last on the path: the largest head alone
    thresholds = np.concatenate([_sweep(stages, prices, cost), never])
    return Path(thresholds, np.append(accuracy, max(accuracy[-1], 0.0)))


def _sweep(stages: Stages, prices: Floats, cost: Cost) -> list[Floats]:
    """Thresholds at every price, each search started from the last result, and then stiffer ones than the last."""
    found: list[Floats] = []
    for price in prices:
        found.append(optimise(stages, float(price), cost, found[-1:]))
    return found + [1 - (1 - found[-1]) * share for share in _STIFFER]


def optimise(stages: Stages, price: float, cost: Cost, starts: Sequence[Floats] = ()) -> Floats:
    """Thresholds with a low ``expected size + price * error rate`` on these inputs.

    One threshold after the other is set to its best value given the others, which sorting finds exactly, until none
    moves. Leaving a size out is one of the values. That ends in a local optimum; the best of several starts is kept.
    ``price`` is that of one error in numbers of a vector, ``starts`` are thresholds to start from besides those at the
    median and none. The answer is float64 (sizes - 1,).
    """
    count = len(stages.dims) - 1
    if not count:
        return np.empty(0)
    median = np.median(stages.confidence[:, :-1], axis=0)
    order = np.argsort(-stages.confidence, axis=0, kind="stable")
    ends = [_descend(stages, order, start, price, cost) for start in (*starts, median, np.full(count, np.inf))]

    def objective(end: Floats) -> float:
        at = stages.stops(end)
        value = stages.value[np.arange(len(at)), at].mean()
        return float(paid(stages.dims, end, cost)[at].mean() - price * value)

    return min(ends, key=objective)


def _descend(stages: Stages, order: npt.NDArray[np.int64], start: Floats, price: float, cost: Cost) -> Floats:
    thresholds = start.copy()
    for _ in range(_SWEEPS):
        before = thresholds.copy()
        for stage in reversed(range(len(thresholds))):
            thresholds[stage] = _best(stages, order[:, stage], thresholds, stage, price, cost)
        if np.array_equal(before, thresholds):
            break
    return thresholds


def _best(
    stages: Stages, order: npt.NDArray[np.int64], thresholds: Floats, stage: int, price: float, cost: Cost
) -> float:
    """The best threshold of one stage given all others; infinity leaves the size out."""
    others = thresholds.copy()
    others[stage] = np.inf
    later = stages.stops(others)
    here = order[later[order] > stage]  # inputs that reach this stage, surest first
    if not len(here):
        return float(np.inf)
    cost_later = paid(stages.dims, others, cost)
    cost_here = stages.dims[stage] if cost == "largest" else cost_later[stage]
    saved = cost_later[later[here]] - cost_here
    lost = stages.value[here, later[here]] - stages.value[here, stage]
    gains = np.cumsum(saved - price * lost)
    if cost == "sum":  # every input that reaches a size pays for it
        gains -= stages.dims[stage] * len(here)
    confidence = stages.confidence[here, stage]
    gains[:-1][confidence[:-1] == confidence[1:]] = -np.inf  # equally sure inputs stop together
    last = int(gains.argmax())
    if gains[last] <= 0:
        return float(np.inf)
    # in the middle of the gap, where another sample of inputs is least likely to fall on the wrong side
    return float((confidence[last] + confidence[last + 1]) / 2) if last + 1 < len(here) else 0.0
