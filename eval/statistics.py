"""Intervals that pair: every line and size of a task is resampled with the same draws."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
EXACT_UP_TO = 2_000
"""Above this many items, statistics other than a mean are resampled through block jackknife pseudo-values."""
BLOCKS = 400

Floats = npt.NDArray[np.float64]

_ANYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval."""

    mean: float
    low: float
    high: float
    n: int
    """Units (queries, pairs, experiments) that were resampled."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Units:
    """The units behind one score, which are resampled, and the statistic that makes the score of them.

    Attributes:
        ids: (n,) strings; two scores are paired if their ids agree.
        columns: arrays of length n. ``mean``: ``value``. ``spearman`` and ``pearson``: ``value`` (similarities) and
            ``gold``. ``ap``: one or more similarities ``value…`` and ``gold`` (0 or 1); the largest average
            precision among them is the score, as in mteb's ``max_ap``.
        statistic: one of these names.
    """

    ids: npt.NDArray[np.str_]
    columns: Mapping[str, npt.NDArray[np.float64]]
    statistic: str

    def __len__(self) -> int:
        return len(self.ids)

    def score(self) -> float:
        """The statistic of the units as they are."""
        return float(weighted_statistic(self)(np.ones((len(self), 1)))[0])

    @property
    def bounds(self) -> tuple[float, float]:
        """What the score of any such units lies between.

        A correlation goes from -1 to 1 and an average precision from 0 to 1. A mean is of accuracies, nDCG and the like
        where all values are from 0 to 1, of correlations where they are from -1 to 1, and otherwise of anything.
        """
        if self.statistic != "mean":
            return (0.0, 1.0) if self.statistic == "ap" else (-1.0, 1.0)
        values = self.columns["value"]
        ranges = ((0.0, 1.0), (-1.0, 1.0))
        near = 1e-9  # a perfect nDCG may be off by a rounding
        held = (one for one in ranges if one[0] - near <= values.min() and values.max() <= one[1] + near)
        return next(held, _ANYTHING)


def mean_units(values: npt.ArrayLike, ids: Sequence[str] | None = None) -> Units:
    """Units of a score that is the mean of (n,) numbers; without ``ids``, (n,) names, they are numbered."""
    numbers = np.asarray(values, dtype=np.float64)
    names = np.arange(len(numbers)).astype(np.str_) if ids is None else np.array(ids, dtype=np.str_)
    return Units(names, {"value": numbers}, "mean")


@dataclass(frozen=True)
class Estimate:
    """A score, or something made of scores, with its bootstrap replicates.

    Two estimates from the same units share their resampling, so that their difference and ratio are paired.

    Attributes:
        replicates: (RESAMPLES,) numbers; None where the task gives nothing to resample, or so little that some
            resamples have no score (a precision without a single positive).
        dof: degrees of freedom behind the spread of the replicates.
        n: units that were resampled, summed over tasks.
        draws: names of the draws; scores of the same draws, such as those of the languages of a parallel corpus, were
            measured on the same units. Empty for draws that nothing else shares.
        bounds: what the value lies between by its definition; differences and ratios have none.
    """

    value: float
    replicates: Floats | None
    dof: float
    n: int
    draws: frozenset[str] = frozenset()
    bounds: tuple[float, float] = _ANYTHING

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Percentile interval; with few units the percentiles are those of Student's t.

        This is the expanded percentile interval (Hesterberg, "What Teachers Should Know About the Bootstrap", The
        American Statistician 69(4), 2015): plain percentiles are too narrow for ten experiments. It ends where the
        scores do: what widens it would lead beyond.
        """
        if self.replicates is None:
            return None
        share = tail(self._dof, confidence)
        low, high = np.quantile(self.replicates, (share, 1 - share)).clip(*self.bounds)
        return Interval(self.value, float(low), float(high), self.n)

    def sureness(self, threshold: float) -> float | None:
        """Confidence that the score is at least ``threshold``.

        It is the coverage of the one-sided interval of :meth:`interval`'s kind that begins there: above 97.5 % where
        the lower bound of the 95 % interval clears the threshold, and below where it does not.
        """
        if self.replicates is None:
            return None
        ordered = np.sort(self.replicates)
        below = int(np.searchsorted(ordered, threshold))
        if below in (0, len(ordered)):
            return float(below == 0)
        under, over = ordered[below - 1 : below + 1]
        share = (below - 1 + (threshold - under) / (over - under)) / (len(ordered) - 1)  # what np.quantile inverts
        return float(stats.t.sf(stats.norm.ppf(share), self._dof))

    @property
    def _dof(self) -> float:
        return max(self.dof, 1)

    def __sub__(self, other: Estimate) -> Estimate:
        return self._combine(other, self.value - other.value, np.subtract)

    def __truediv__(self, other: Estimate) -> Estimate:
        return self._combine(other, self.value / other.value if other.value > 0 else math.nan, np.divide)

    def _combine(self, other: Estimate, value: float, operation: Callable[..., Any]) -> Estimate:
        if self.replicates is None or other.replicates is None or math.isnan(value):
            return Estimate(value, None, math.inf, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates = operation(self.replicates, other.replicates)
        if not np.isfinite(replicates).all():  # the other is zero in some of them
            return Estimate(value, None, math.inf, 0)
        return Estimate(value, replicates, min(self.dof, other.dof), min(self.n, other.n), self.draws | other.draws)


def tail(dof: float, confidence: float = CONFIDENCE) -> float:
    """Share of replicates below an interval of this confidence, with ``dof`` degrees of freedom behind their spread."""
    return float(stats.norm.cdf(stats.t.ppf((1 - confidence) / 2, dof)))


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of scores of several tasks, subsets or seeds; without an interval if one of them has none.

    Scores of the same draws count as one, since more languages or seeds on the same items are no more items. Degrees of
    freedom by Welch and Satterthwaite.
    """
    value = float(np.mean([estimate.value for estimate in estimates]))
    groups: dict[object, list[Estimate]] = defaultdict(list)
    for number, estimate in enumerate(estimates):
        groups[estimate.draws or number].append(estimate)
    known = [[one.replicates for one in group if one.replicates is not None] for group in groups.values()]
    if sum(map(len, known)) < len(estimates):
        return Estimate(value, None, math.inf, 0)
    shares = [np.sum(replicates, axis=0) / len(estimates) for replicates in known]
    variances = np.array([share.var() for share in shares])
    freedom = [min(one.dof for one in group) for group in groups.values()]
    parts = sum(variance**2 / dof for variance, dof in zip(variances, freedom, strict=True))
    dof = variances.sum() ** 2 / parts if parts > 0 else math.inf
    n = sum(min(one.n for one in group) for group in groups.values())
    draws = frozenset[str]().union(*(one.draws for one in estimates))
    low, high = (float(np.mean(ends)) for ends in zip(*(one.bounds for one in estimates), strict=True))
    return Estimate(value, np.sum(shares, axis=0), float(dof), n, draws, (low, high))


def bootstrap(units: Sequence[Units], key: str, *, resamples: int = RESAMPLES) -> list[Estimate]:
    """Bootstrap (:func:`scipy.stats.bootstrap`) several scores of the same units with the same draws.

    The spread of the replicates is corrected for the number of units, n / (n - 1) in the variance. For more than
    :data:`EXACT_UP_TO` units, statistics other than a mean are resampled as means of the pseudo-values of a block
    jackknife with :data:`BLOCKS` blocks (Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 11), which
    costs a fraction and agrees to the accuracy of the resampling itself.

    Args:
        units: scores with equal ids.
        key: seed of the draws, the same for all scores that will be compared.
        resamples: number of replicates.

    Raises:
        ValueError: the ids differ.
    """
    if not units:
        return []
    if any(len(one) != len(units[0]) or (one.ids != units[0].ids).any() for one in units[1:]):
        raise ValueError("the two results were not measured on the same items")
    values, items, bounds = [one.score() for one in units], len(units[0]), [one.bounds for one in units]
    if items < 2:
        return [Estimate(value, None, math.inf, items) for value in values]
    if items > EXACT_UP_TO and any(one.statistic != "mean" for one in units):
        units = [_pseudo_values(one, value) for one, value in zip(units, values, strict=True)]
    n = len(units[0])
    statistics = [weighted_statistic(one) for one in units]

    def resampled(indices: npt.NDArray[np.int64], axis: int = -1) -> Floats:
        drawn = indices.reshape(-1, n)
        cells = drawn * len(drawn) + np.arange(len(drawn))[:, None]
        weights = np.bincount(cells.ravel(), minlength=drawn.size).reshape(n, -1).astype(np.float64)
        return np.stack([statistic(weights) for statistic in statistics]).reshape(len(units), *indices.shape[:-1])

    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    result = stats.bootstrap(
        (np.arange(n),),
        resampled,
        n_resamples=resamples,
        batch=max(1, min(resamples, 1_000_000 // n)),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    distribution = np.asarray(result.bootstrap_distribution, dtype=np.float64).reshape(len(units), -1)
    centre = np.array(values)[:, None]
    widened = centre + (distribution - centre) * math.sqrt(n / (n - 1))
    return [
        Estimate(value, replicates, n - 1.0, items, frozenset({key}), ends)
        if np.isfinite(replicates).all()
        else Estimate(value, None, math.inf, items)
        for value, replicates, ends in zip(values, widened, bounds, strict=True)
    ]


def bootstrap_mean(values: npt.ArrayLike, *, confidence: float = CONFIDENCE, key: str = "") -> Interval:
    """Bootstrap interval of the mean of per-item scores; a point for a single value.

    ``values`` are (n,) scores, ``confidence`` is the coverage, 0..1. Equal values and ``key`` give an equal interval.

    Raises:
        ValueError: no values.
    """
    units = mean_units(values)
    if not len(units):
        raise ValueError("no per-item scores to resample")
    estimate = bootstrap([units], key)[0]
    return estimate.interval(confidence) or Interval(estimate.value, estimate.value, estimate.value, len(units))


def weighted_statistic(units: Units) -> Callable[[Floats], Floats]:
    """The units' statistic as a function of weights: (n, resamples) counts to (resamples,) scores.

    Raises:
        ValueError: unknown statistic.
    """
    columns = units.columns
    if units.statistic == "mean":
        return lambda weights: columns["value"] @ weights / weights.sum(axis=0)
    if units.statistic == "pearson":
        return lambda weights: _correlation(weights, columns["value"][:, None], columns["gold"][:, None])
    if units.statistic == "spearman":
        ranks = _weighted_ranks(columns["value"]), _weighted_ranks(columns["gold"])
        return lambda weights: _correlation(weights, ranks[0](weights), ranks[1](weights))
    if units.statistic == "ap":
        kinds = [_average_precision(columns[name], columns["gold"]) for name in columns if name != "gold"]
        return lambda weights: np.max([kind(weights) for kind in kinds], axis=0)
    raise ValueError(f"no statistic named {units.statistic!r}")


def _correlation(weights: Floats, left: Floats, right: Floats) -> Floats:
    """Pearson correlation under each column of weights; ``left`` and ``right`` (n, 1) or (n, resamples)."""
    total = weights.sum(axis=0)
    left = left - (weights * left).sum(axis=0) / total
    right = right - (weights * right).sum(axis=0) / total
    weighted = weights * left
    covariance = np.einsum("ij,ij->j", weighted, np.broadcast_to(right, weights.shape))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(covariance / np.sqrt((weighted * left).sum(axis=0) * (weights * right * right).sum(axis=0)))


def _groups(values: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ascending order of the values, the last position of each run of ties in it, and the run of each value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    run = np.empty(len(values), dtype=np.int64)
    run[order] = np.repeat(np.arange(len(last)), np.diff(last, prepend=-1))
    return order, last, run


def _weighted_ranks(values: Floats) -> Callable[[Floats], Floats]:
    """Mid-ranks of the values in samples that hold each of them ``weights`` times."""
    order, last, run = _groups(values)

    def ranks(weights: Floats) -> Floats:
        upper = np.cumsum(weights[order], axis=0)[last]
        middle = upper.copy()
        middle[1:] += upper[:-1]
        return middle[run]  # twice the mid-rank minus one, which leaves a correlation as it is

    return ranks


def _average_precision(values: Floats, gold: Floats) -> Callable[[Floats], Floats]:
    """Average precision with ties counted together, as scikit-learn defines it."""
    order, last, _ = _groups(-values)
    positive = (gold[order] > 0)[:, None]

    def precision(weights: Floats) -> Floats:
        ordered = weights[order]
        found = np.cumsum(ordered * positive, axis=0)[last]
        seen = np.cumsum(ordered, axis=0)[last]
        gained = np.diff(found, axis=0, prepend=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = np.where(gained > 0, gained * found / seen, 0)
            return np.asarray(parts.sum(axis=0) / found[-1])

    return precision


def _pseudo_values(units: Units, value: float) -> Units:
    """Block jackknife: (BLOCKS,) values whose mean is the score and whose spread is its sampling error."""
    n = len(units)
    block = np.random.default_rng(0).permutation(np.arange(n) % BLOCKS)
    statistic = weighted_statistic(units)
    step = max(1, 1_000_000 // n)
    starts = [np.arange(start, min(start + step, BLOCKS)) for start in range(0, BLOCKS, step)]
    left_out = np.concatenate([statistic((block[:, None] != some).astype(np.float64)) for some in starts])
    pseudo = BLOCKS * value - (BLOCKS - 1) * left_out
    pseudo += value - pseudo.mean()  # the jackknife's estimate of the bias is not applied
    return mean_units(pseudo)
