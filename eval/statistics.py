"""Intervals for scores and for differences, and the size they recommend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 5000


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    """Items (queries, say) that were resampled."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(values: npt.ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean of per-item scores (:func:`scipy.stats.bootstrap`).

    Args:
        values: (n,) numbers, one score per item.
        confidence: coverage of the interval, 0..1.
        seed: of the resampling; the same values and seed give the same interval.

    Raises:
        ValueError: no values.
    """
    scores = np.asarray(values, dtype=np.float64)
    if not len(scores):
        raise ValueError("no per-item scores to resample")
    mean = float(scores.mean())
    if len(scores) == 1 or np.ptp(scores) == 0:
        return Interval(mean, mean, mean, len(scores))
    result = stats.bootstrap(
        (scores,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 10_000_000 // len(scores)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(mean, float(low), float(high), len(scores))


def paired_bootstrap(
    scores: Mapping[str, float],
    control: Mapping[str, float],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Interval of the mean difference ``scores - control``, resampling items together (paired).

    Args:
        scores: item id -> score of one model at one size.
        control: the same for the other; ids must agree.
        confidence: coverage of the interval, 0..1.
        seed: of the resampling.

    Raises:
        ValueError: the two were not measured on the same items.
    """
    if scores.keys() != control.keys():
        raise ValueError("the two results were not measured on the same items")
    difference = np.array([scores[item] - control[item] for item in sorted(scores)])
    return bootstrap_mean(difference, confidence=confidence, seed=seed)


def smallest_dim(scores: Mapping[int, float], keep: float) -> int | None:
    """The smallest size from which on every measured size keeps ``keep`` of the full-width score.

    Args:
        scores: size -> score; the largest size is full width.
        keep: 0..1.

    Returns:
        A size; None where the full-width score is not positive. A small size that happens to clear the bar while
        a larger one fails it is not recommended.
    """
    full = max(scores)
    if scores[full] <= 0:
        return None
    chosen = full
    for dim in sorted(scores, reverse=True):
        if scores[dim] < keep * scores[full]:
            break
        chosen = dim
    return chosen
