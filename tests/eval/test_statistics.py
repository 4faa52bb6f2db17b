from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from mrl_text.eval import statistics
from mrl_text.eval.statistics import (
    RESAMPLES,
    Estimate,
    Interval,
    Units,
    bootstrap,
    bootstrap_mean,
    mean_estimate,
    weighted_statistic,
)

Floats = npt.NDArray[np.float64]


def units(statistic: str = "mean", **columns: npt.ArrayLike) -> Units:
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    return Units(np.arange(len(next(iter(arrays.values())))).astype(np.str_), arrays, statistic)


def interval_of(estimate: Estimate, confidence: float = 0.95) -> Interval:
    interval = estimate.interval(confidence)
    assert interval is not None
    return interval


def width(estimate: Estimate) -> float:
    interval = interval_of(estimate)
    return interval.high - interval.low


def scipys_interval(values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """scipy's percentile interval of a mean, from draws of its own."""
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=10_000,
        batch=1_000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(99),
    ).confidence_interval
    return float(found.low), float(found.high)


def correlated_pairs(n: int, noise: float, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 6, n).astype(np.float64)
    return gold + rng.normal(0, noise, n), gold


def test_the_interval_of_a_mean_is_scipys_once_there_are_many_items() -> None:
    values = np.random.default_rng(1).exponential(size=2_000)
    low, high = scipys_interval(values)
    found = interval_of(bootstrap([units(value=values)], "task")[0])
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.06 * (high - low))
    assert (found.mean, found.n) == (pytest.approx(values.mean()), 2_000)


def test_the_interval_of_a_few_items_is_scipys_at_the_wider_percentiles_and_the_unbiased_variance() -> None:
    values = np.random.default_rng(2).uniform(size=10)
    # t with 9 degrees of freedom leaves 2.5 % beyond -2.262157, where the normal distribution leaves 1.18443 %
    low, high = scipys_interval(values, confidence=1 - 2 * 0.0118443)
    centre, factor = values.mean(), math.sqrt(10 / 9)
    expected = [centre + factor * (low - centre), centre + factor * (high - centre)]
    found = interval_of(bootstrap([units(value=values)], "task", resamples=10_000)[0])
    assert [found.low, found.high] == pytest.approx(expected, abs=0.04 * (high - low))
    plain_low, plain_high = scipys_interval(values)
    assert found.high - found.low > 1.15 * (plain_high - plain_low)


def test_ten_normal_values_get_nearly_the_interval_of_students_t() -> None:
    values = 0.6 + 0.05 * stats.norm.ppf((np.arange(10) + 0.5) / 10)
    low, high = stats.t.interval(0.95, 9, loc=values.mean(), scale=stats.sem(values))
    found = interval_of(bootstrap([units(value=values)], "task", resamples=10_000)[0])
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.04 * (high - low))


@pytest.mark.parametrize(
    ("dof", "confidence", "tail"),  # tail: normal probability below the t quantile, from printed tables
    [(9, 0.95, 0.0118443), (4, 0.95, 0.0027478), (9, 0.90, 0.0333924), (math.inf, 0.95, 0.025), (0.5, 0.90, None)],
)
def test_the_percentiles_are_those_of_students_t(dof: float, confidence: float, tail: float | None) -> None:
    grid = np.linspace(0, 1, 100_001)
    found = interval_of(Estimate(0.5, grid, dof, 7), confidence)
    if tail is None:  # never fewer than one degree of freedom: t leaves 5 % beyond -6.3138
        tail = 0.5 * math.erfc(6.313752 / math.sqrt(2))
    assert (found.low, found.high) == (pytest.approx(tail, abs=2e-6), pytest.approx(1 - tail, abs=2e-6))
    assert (found.mean, found.n) == (0.5, 7)


def test_replicates_are_spread_as_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(3).normal(size=40)
    estimate = bootstrap([units(value=values)], "task", resamples=20_000)[0]
    assert estimate.replicates is not None
    assert estimate.replicates.shape == (20_000,)
    assert estimate.replicates.mean() == pytest.approx(values.mean(), abs=0.01)
    assert estimate.replicates.std() == pytest.approx(stats.sem(values), rel=0.02)
    assert (estimate.dof, estimate.n) == (39, 40)


def test_the_difference_of_equal_scores_is_nothing_at_all() -> None:
    values = np.random.default_rng(4).uniform(size=30)
    left, right = bootstrap([units(value=values), units(value=values.copy())], "task")
    found = interval_of(left - right)
    assert (found.mean, found.low, found.high, found.n) == (0, 0, 0, 30)
    assert not found.excludes_zero
    ratio = interval_of(left / right)
    assert (ratio.mean, ratio.low, ratio.high) == (1, 1, 1)


def test_the_difference_of_a_pair_is_the_bootstrap_of_the_differences() -> None:
    rng = np.random.default_rng(5)
    left = rng.uniform(size=200)
    right = left - 0.02 + rng.normal(0, 0.05, size=200)
    one, other = bootstrap([units(value=left), units(value=right)], "task")
    low, high = scipys_interval(left - right)
    found = interval_of(one - other)
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.06 * (high - low))
    assert found.excludes_zero


def test_what_items_have_in_common_narrows_a_difference() -> None:
    rng = np.random.default_rng(6)
    difficulty, stranger = rng.uniform(size=500), rng.uniform(size=500)
    alike = difficulty + rng.normal(0, 0.02, size=500)
    base, near, far = bootstrap([units(value=one) for one in (difficulty, alike, stranger)], "task")
    assert width(base - near) < 0.15 * width(base - far)
    assert width(base - far) == pytest.approx(math.hypot(width(base), width(far)), rel=0.1)


def test_scores_bootstrapped_at_different_times_pair_by_their_key() -> None:
    values = np.random.default_rng(7).uniform(size=50)
    first = bootstrap([units(value=values)], "task/test")[0]
    again, lower = bootstrap([units(value=values), units(value=values - 0.1)], "task/test")
    elsewhere = bootstrap([units(value=values)], "task/validation")[0]
    assert first.replicates is not None
    np.testing.assert_array_equal(first.replicates, again.replicates)
    assert width(first - lower) == pytest.approx(0, abs=1e-12)
    assert width(first - elsewhere) > width(first)


def test_other_items_are_refused() -> None:
    values = np.array([0.2, 0.7, 0.4])
    one = units(value=values)
    renamed = Units(np.array(["0", "1", "x"]), {"value": values}, "mean")
    shorter = units(value=values[:2])
    for other in (renamed, shorter):
        with pytest.raises(ValueError, match="not measured on the same items"):
            bootstrap([one, other], "task")


def test_one_item_gives_a_score_without_an_interval() -> None:
    estimate = bootstrap([units(value=[0.7])], "task")[0]
    assert (estimate.value, estimate.replicates, estimate.n) == (pytest.approx(0.7), None, 1)
    assert estimate.interval() is None
    assert estimate.sureness(0.5) is None
    assert bootstrap([], "task") == []


def repeated(counts: npt.NDArray[np.int64], *arrays: Floats) -> list[Floats]:
    return [np.repeat(array, counts) for array in arrays]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("statistic", ["mean", "pearson", "spearman", "ap"])
def test_a_weighted_score_is_the_score_of_the_repeated_data(statistic: str, ties: bool) -> None:
    rng = np.random.default_rng(8)
    value = rng.normal(size=60)
    gold = rng.integers(0, 2, 60).astype(np.float64) if statistic == "ap" else value + rng.normal(size=60)
    if ties:
        value, gold = value.round(), gold.round()
    columns = {"value": value} if statistic == "mean" else {"value": value, "gold": gold}
    counts = rng.integers(0, 5, size=(60, 20))
    references = {
        "mean": lambda left, right: np.mean(left),
        "pearson": lambda left, right: stats.pearsonr(left, right).statistic,
        "spearman": lambda left, right: stats.spearmanr(left, right).statistic,
        "ap": lambda left, right: average_precision_score(right, left),
    }
    expected = [references[statistic](*repeated(column, value, gold)) for column in counts.T]
    one = units(statistic, **columns)
    assert weighted_statistic(one)(counts.astype(np.float64)) == pytest.approx(expected, abs=1e-12)
    assert one.score() == pytest.approx(references[statistic](value, gold), abs=1e-12)


def test_of_several_similarities_the_best_average_precision_counts_in_every_resample() -> None:
    rng = np.random.default_rng(9)
    gold = rng.integers(0, 2, 50).astype(np.float64)
    first, second = gold + rng.normal(0, 1, 50), gold + rng.normal(0, 1, 50)
    counts = rng.integers(0, 4, size=(50, 30))
    each = [
        [average_precision_score(*repeated(column, gold, values)) for values in (first, second)] for column in counts.T
    ]
    found = weighted_statistic(units("ap", value_cosine=first, value_dot=second, gold=gold))(counts.astype(np.float64))
    assert found == pytest.approx(np.max(each, axis=1), abs=1e-12)
    assert len({int(np.argmax(pair)) for pair in each}) == 2


def test_an_unknown_statistic_is_named() -> None:
    with pytest.raises(ValueError, match="no statistic named 'median'"):
        units("median", value=[1, 2]).score()


@pytest.mark.slow
def test_the_interval_of_a_spearman_correlation_is_that_of_a_bootstrap_by_hand() -> None:
    value, gold = correlated_pairs(300, noise=2)
    rng = np.random.default_rng(10)
    drawn = [rng.integers(0, 300, 300) for _ in range(3_000)]
    low, high = np.quantile([stats.spearmanr(value[rows], gold[rows]).statistic for rows in drawn], (0.025, 0.975))
    found = interval_of(bootstrap([units("spearman", value=value, gold=gold)], "task")[0])
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.07 * (high - low))


@pytest.mark.slow
@pytest.mark.parametrize("statistic", ["spearman", "pearson", "ap"])
def test_many_items_take_a_shortcut_that_agrees_with_the_long_way(
    statistic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 2_400
    value, gold = correlated_pairs(n, noise=2)
    worse = value + np.random.default_rng(11).normal(0, 1, n)
    if statistic == "ap":
        gold = (gold > 3).astype(np.float64)
    scores = [units(statistic, value=value, gold=gold), units(statistic, value=worse, gold=gold)]
    short = bootstrap(scores, "task")
    monkeypatch.setattr(statistics, "EXACT_UP_TO", n)
    long = bootstrap(scores, "task")
    for quick, exact in (
        (short[0], long[0]),
        (short[0] - short[1], long[0] - long[1]),
        (short[1] / short[0], long[1] / long[0]),
    ):
        quick_interval, exact_interval = interval_of(quick), interval_of(exact)
        assert quick.value == exact.value
        assert [quick_interval.low, quick_interval.high] == pytest.approx(
            [exact_interval.low, exact_interval.high], abs=0.1 * width(exact)
        )
        assert quick.n == exact.n == n
    assert (short[0].dof, long[0].dof) == (statistics.BLOCKS - 1, n - 1)


def test_a_mean_of_many_items_takes_no_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(12).uniform(size=50)
    exact = bootstrap([units(value=values)], "task")[0].replicates
    monkeypatch.setattr(statistics, "EXACT_UP_TO", 10)
    assert exact is not None
    np.testing.assert_array_equal(exact, bootstrap([units(value=values)], "task")[0].replicates)


def test_the_mean_of_two_scores_adds_their_variances_and_takes_welchs_degrees_of_freedom() -> None:
    first = Estimate(0.4, np.array([0.38, 0.42]), 9, 10)  # variance 0.0004
    second = Estimate(0.8, np.array([0.79, 0.81]), 99, 100)  # variance 0.0001
    mean = mean_estimate([first, second])
    assert mean.value == pytest.approx(0.6)
    assert mean.replicates == pytest.approx(np.array([0.585, 0.615]))
    # (4 + 1)^2 / (4^2 / 9 + 1^2 / 99) in units of 1e-4
    assert mean.dof == pytest.approx(25 / (16 / 9 + 1 / 99))
    assert mean.n == 110


def test_the_mean_of_independent_scores_has_the_width_of_the_sum_rule() -> None:
    rng = np.random.default_rng(13)
    parts = [bootstrap([units(value=rng.uniform(size=400))], f"task {number}")[0] for number in range(3)]
    expected = math.sqrt(sum(width(part) ** 2 for part in parts)) / 3
    assert width(mean_estimate(parts)) == pytest.approx(expected, rel=0.06)


def test_a_mean_with_a_score_that_cannot_be_resampled_is_a_point() -> None:
    known = Estimate(0.4, np.array([0.3, 0.5]), 9, 10)
    point = Estimate(0.8, None, math.inf, 0)
    mean = mean_estimate([known, point])
    assert (mean.value, mean.replicates, mean.n) == (pytest.approx(0.6), None, 0)
    assert mean.interval() is None
    for combined in (known - point, point - known, point / known):
        assert combined.interval() is None
    assert (known - point).value == pytest.approx(-0.4)
    assert (point / known).value == pytest.approx(2)


def test_scores_that_do_not_vary_have_an_interval_of_no_width() -> None:
    mean = mean_estimate([Estimate(0.5, np.full(RESAMPLES, 0.5), 9, 10)] * 2)
    found = interval_of(mean)
    assert (mean.dof, found.low, found.high) == (math.inf, 0.5, 0.5)


def test_a_ratio_is_taken_replicate_by_replicate() -> None:
    score = Estimate(0.45, np.array([0.4, 0.5, 0.6]), 9, 10)
    whole = Estimate(0.5, np.array([0.5, 0.5, 0.8]), 20, 21)
    ratio = score / whole
    assert ratio.value == pytest.approx(0.9)
    assert ratio.replicates == pytest.approx(np.array([0.8, 1.0, 0.75]))
    assert (ratio.dof, ratio.n) == (9, 10)
    difference = score - whole
    assert difference.replicates == pytest.approx(np.array([-0.1, 0, -0.2]))


def test_a_share_of_nothing_is_no_number() -> None:
    score = Estimate(0.45, np.array([0.4, 0.5]), 9, 10)
    for nothing in (0.0, -0.1):
        ratio = score / Estimate(nothing, np.array([0.1, 0.2]), 9, 10)
        assert math.isnan(ratio.value)
        assert ratio.interval() is None


def test_a_score_that_some_resamples_lack_has_no_interval() -> None:
    value = np.random.default_rng(15).uniform(size=12)
    rare = units("ap", value=value, gold=[1] + [0] * 11)
    sound = units("ap", value=value, gold=[1] * 11 + [0])
    few, many = bootstrap([rare, sound], "task")
    assert (few.value, few.interval(), few.sureness(0.1)) == (pytest.approx(rare.score()), None, None)
    assert interval_of(many).low < many.value
    score, sometimes_nothing = (Estimate(0.5, np.array(values), 9, 10) for values in ([0.4, 0.6], [0.0, 1.0]))
    assert (score / sometimes_nothing).interval() is None
    assert (sometimes_nothing / score).interval() is not None


def test_sureness_is_the_level_at_which_the_interval_reaches_the_threshold() -> None:
    estimate = Estimate(0.99, np.array([0.97, 0.98, 0.99, 1.0]), math.inf, 10)
    found = [estimate.sureness(keep) for keep in (0.9, 0.97, 0.98, 0.985, 0.99, 1.01)]
    assert found == pytest.approx([1, 1, 2 / 3, 1 / 2, 1 / 3, 0])  # of many units: the quantiles of the replicates
    few = Estimate(0.99, np.array([0.97, 0.98, 0.99, 1.0]), 9, 10)
    t = stats.t.cdf(stats.norm.ppf(2 / 3), 9)
    assert few.sureness(0.98) == pytest.approx(t)
    same = Estimate(1.0, np.ones(RESAMPLES), 9, 10)
    assert (same.sureness(1.0), same.sureness(1.001)) == (1, 0)


@pytest.mark.parametrize("dof", [3, 9, 60, 2000, math.inf])
def test_the_interval_clears_the_threshold_where_one_is_sure_of_it(dof: float) -> None:
    rng = np.random.default_rng(16)
    estimate = Estimate(0.99, np.round(rng.normal(0.99, 0.01, RESAMPLES), 3), dof, 100)  # rounded, so that many tie
    for threshold in rng.uniform(0.94, 1.0, 400):
        sureness = estimate.sureness(threshold)
        assert sureness is not None
        assert (sureness >= 0.975) == (interval_of(estimate).low >= threshold)


def test_scores_of_the_same_draws_count_as_one() -> None:
    rng = np.random.default_rng(17)
    hard = rng.uniform(size=200)  # what the languages of a parallel corpus share
    languages = [units(value=hard + rng.normal(0, 0.01, 200)) for _ in range(8)]
    together = bootstrap(languages, "task")
    mean = mean_estimate(together)
    assert width(mean) == pytest.approx(width(together[0]), rel=0.03)  # not narrower by the root of eight
    assert (mean.dof, mean.n) == (pytest.approx(199), 200)
    assert mean_estimate([mean, *bootstrap([units(value=hard)], "another task")]).n == 400


@pytest.mark.parametrize(("low", "high", "expected"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False)])
def test_an_interval_tells_whether_it_excludes_zero(low: float, high: float, expected: bool) -> None:
    assert Interval(0.0, low, high, 10).excludes_zero is expected


def test_the_interval_of_plain_numbers_is_that_of_their_units() -> None:
    values = np.random.default_rng(14).uniform(size=80)
    assert bootstrap_mean(values, key="a") == interval_of(bootstrap([units(value=values)], "a")[0])
    assert bootstrap_mean(values, key="a") == bootstrap_mean(list(values), key="a")
    assert bootstrap_mean(values, key="a") != bootstrap_mean(values, key="b")
    narrow, wide = (bootstrap_mean(values, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert bootstrap_mean([0.3]) == Interval(0.3, 0.3, 0.3, 1)
    with pytest.raises(ValueError, match="no per-item scores"):
        bootstrap_mean([])


@pytest.mark.parametrize("n", [4, 50])
def test_an_interval_ends_where_the_scores_do(n: int) -> None:
    near_the_top = np.r_[np.ones(n - 1), 0.85]
    top, bottom = (interval_of(bootstrap([units(value=one)], "task")[0]) for one in (near_the_top, 1 - near_the_top))
    assert (top.high, bottom.low) == (1, 0)
    assert top.low == pytest.approx(1 - bottom.high)
    assert top.low < 1 - 0.15 / n
    close = np.arange(12.0)
    pairs = units("spearman", value=np.r_[close[:10], 11, 10], gold=close)
    assert interval_of(bootstrap([pairs], "task")[0]).high == 1
    assert interval_of(bootstrap([units("spearman", value=-pairs.columns["value"], gold=close)], "task")[0]).low == -1


def test_a_mean_over_tasks_ends_where_the_mean_of_their_scores_does() -> None:
    hits, correlations = (
        bootstrap([units(value=[1, 1, 1, 0.8])], "a")[0],
        bootstrap([units(value=[-1, -1, -0.7])], "b")[0],
    )
    assert (hits.bounds, correlations.bounds, mean_estimate([hits, correlations]).bounds) == (
        (0, 1),
        (-1, 1),
        (-0.5, 1),
    )
    assert interval_of(mean_estimate([hits, correlations])).low >= -0.5


def test_differences_ratios_and_other_numbers_have_no_end() -> None:
    seconds = bootstrap([units(value=[0.0, 3.0, 9.0])], "task")[0]
    assert seconds.bounds == (-math.inf, math.inf)
    better, worse = bootstrap([units(value=[1, 1, 1, 1.0]), units(value=[0.2, 0.9, 1, 0.4])], "task")
    assert interval_of(better / worse).high > 1
    assert (better - worse).bounds == (-math.inf, math.inf)
