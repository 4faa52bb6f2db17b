from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from mrl_text.amounts import FEW
from mrl_text.eval.grid import RANDOM_SEEDS, Cell, Line, Variant
from mrl_text.eval.items import Items, read_items, write_items
from mrl_text.eval.recommendation import Recommendation, gigabytes
from mrl_text.eval.results import Results, items_file
from mrl_text.eval.statistics import Estimate, Interval, Units, bootstrap_mean

MODEL = Line("someone/tuned", "r1")
OTHER = Line("someone/other", "r2")
BASE = Line("someone/base", "r0", "control")
PCA = Line("someone/tuned", "r1", "control", "pca")
RANDOM = Line("someone/tuned", "r1", "control", "random")

Values = float | npt.NDArray[np.float64]
"""A score that nothing can be resampled of, or scores of items, whose mean is the score."""


class MadeUpSweep:
    """Rows and per-item scores as a sweep leaves them in a folder, put in by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self._items: dict[tuple[Variant, str], list[Items]] = defaultdict(list)

    def add(
        self,
        values: Values,
        line: Line = MODEL,
        cell: Cell = Cell(64),  # noqa: B008  # frozen
        task: str = "Search",
        *,
        kind: str = "Retrieval",
        metric: str = "ndcg_at_10",
        split: str = "test",
        subset: str = "default",
        seed: int | None = None,
        ids: Sequence[str] | None = None,
        calibration: str = "",
        data: str = "1",
        unit: str = "query",
    ) -> MadeUpSweep:
        """Add one evaluation's row, with items if ``values`` has them."""
        variant = Variant(line, cell, seed)
        self.rows.append(
            {
                **{name: getattr(line, name) for name in ("model", "revision", "role", "method", "dtype")},
                "layers": pd.NA if line.layers is None else line.layers,
                **{"task": task, "type": kind, "split": split, "subset": subset},
                **{"dim": cell.dim, "precision": cell.precision, "comparison": cell.comparison},
                **{"rescore": cell.rescore, "seed": pd.NA if seed is None else seed},
                **{"bytes": cell.bytes, "calibration": calibration, "metric": metric},
                **{"score": float(np.mean(values)), "data": data},
            }
        )
        if isinstance(values, np.ndarray):
            names = np.array(range(len(values)) if ids is None else ids, dtype=np.str_)
            self._items[variant, task].append(Items(split, subset, unit, Units(names, {"value": values}, "mean")))
        return self

    def curve(
        self,
        scores: Mapping[int | tuple[int, str], Values] | Mapping[Cell, Values],
        line: Line = MODEL,
        task: str = "Search",
        **more: Any,
    ) -> MadeUpSweep:
        """Add one row per size, size and precision, or cell."""
        for key, values in scores.items():
            cell = Cell(key) if isinstance(key, int) else Cell(*key) if isinstance(key, tuple) else key
            self.add(values, line, cell, task, **more)
        return self

    def results(self) -> Results:
        """Write the items and hand out the results."""
        for (variant, task), items in self._items.items():
            write_items(items_file(self.folder, variant, task), items, {"data": "1"})
        return Results(pd.DataFrame(self.rows), [self.folder])

    def save(self) -> Path:
        """Write everything a leaderboard reads, and return the folder."""
        results = self.results()
        self.folder.mkdir(parents=True, exist_ok=True)
        results.table().to_parquet(self.folder / "scores.parquet", index=False)
        return self.folder


def queries(mean: float, n: int = 100, *, noise: float = 0.05, seed: int = 0) -> npt.NDArray[np.float64]:
    """Scores of ``n`` queries with exactly this mean."""
    values = np.random.default_rng(seed).normal(0, noise, n)
    return values - values.mean() + mean


def share_kept(whole: npt.NDArray[np.float64], share: float, *, noise: float = 0.0) -> npt.NDArray[np.float64]:
    """Scores whose mean is ``share`` of the mean of ``whole``; without noise every query keeps that share."""
    return share * whole + queries(0.0, len(whole), noise=noise, seed=1)


def value_of(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def interval_of(estimate: Estimate | None) -> Interval:
    interval = estimate.interval() if estimate is not None else None
    assert interval is not None
    return interval


def chosen(results: Results, keep: float, line: Line = MODEL, tasks: Sequence[str] | None = None) -> Recommendation:
    recommendation = results.recommend(line, keep, tasks)
    assert recommendation is not None
    return recommendation


def test_the_languages_of_a_parallel_corpus_are_resampled_together(tmp_path: Path) -> None:
    hard = np.random.default_rng(3).uniform(size=150)
    noise = [np.random.default_rng(seed).normal(0, 0.02, 150) for seed in range(6)]
    parallel, apart = MadeUpSweep(tmp_path / "parallel"), MadeUpSweep(tmp_path / "apart")
    for number, one in enumerate(noise):
        names = [f"{number}-{row}" for row in range(150)]
        parallel.add(hard + one, subset=f"language {number}")
        apart.add(hard + one, subset=f"language {number}", ids=names)
    found, alone = (sweep.results().estimate(MODEL, Cell(64)) for sweep in (parallel, apart))
    expected = bootstrap_mean(hard + np.mean(noise, axis=0))  # the mean over languages, question by question
    assert interval_of(found).n == 150
    assert [interval_of(found).low, interval_of(found).high] == pytest.approx([expected.low, expected.high], abs=0.004)
    assert interval_of(alone).n == 900
    narrow, wide = (interval_of(one).high - interval_of(one).low for one in (alone, found))
    assert narrow == pytest.approx(wide / math.sqrt(6), rel=0.1)


def test_lines_tasks_and_cells_come_in_a_fixed_order(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path)
    sweep.curve({8: 0.1, (64, "binary"): 0.2, (64, "float16"): 0.3, 64: 0.3, 16: 0.2}).curve({64: 0.2}, BASE)
    sweep.curve({64: 0.3}, task="Pairs", kind="STS").curve({64: 0.3}, task="Questions")
    results = sweep.results()
    assert results.lines == [MODEL, BASE]
    assert results.tasks == {"Search": "Retrieval", "Pairs": "STS", "Questions": "Retrieval"}
    assert results.types == {"Retrieval": ["Search", "Questions"], "STS": ["Pairs"]}
    assert results.cells(MODEL) == [Cell(64), Cell(64, "float16"), Cell(64, "binary"), Cell(16), Cell(8)]
    coded = [Cell(64, "int8"), Cell(64, "int2"), Cell(64, "int2", "symmetric"), Cell(64, "int2", rescore=10)]
    kinds = MadeUpSweep(tmp_path / "kinds").curve(dict.fromkeys([*coded[::-1], Cell(64), Cell(8)], 0.5)).results()
    assert sorted(kinds.cells(MODEL)) == sorted([Cell(64), *coded, Cell(8)])
    assert [one.label for one in kinds.cells(MODEL)] == [
        *("64 x float32", "64 x int8", "64 x int2", "64 x int2, rescored 10x", "64 x int2, symmetric", "8 x float32"),
    ]
    assert results.cells(BASE) == [Cell(64)]


def test_every_task_counts_once_however_many_splits_and_subsets_it_has(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path)
    for split, subset, score in (("test", "en", 0.1), ("test", "de", 0.2), ("validation", "en", 0.6)):
        sweep.add(score, split=split, subset=subset)
    results = sweep.add(0.9, task="Pairs").results()
    assert value_of(results.estimate(MODEL, Cell(64), ["Search"])) == pytest.approx(0.3)
    assert value_of(results.estimate(MODEL, Cell(64))) == pytest.approx((0.3 + 0.9) / 2)


def test_random_dimensions_score_the_mean_of_their_seeds(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: queries(0.8)})
    for seed, score in zip(RANDOM_SEEDS, (0.3, 0.4, 0.8), strict=True):
        sweep.add(queries(score, seed=seed), RANDOM, Cell(16), seed=seed)
    results = sweep.results()
    assert value_of(results.estimate(RANDOM, Cell(16))) == pytest.approx(0.5)
    assert value_of(results.retention(RANDOM, Cell(16))) == pytest.approx(0.5 / 0.8)
    assert results.scores["seed"].tolist() == [pd.NA, *RANDOM_SEEDS]


def test_more_seeds_are_no_more_items(tmp_path: Path) -> None:
    sweep, values = MadeUpSweep(tmp_path).add(queries(0.6, 10)), queries(0.6, 10)
    for seed in RANDOM_SEEDS:
        sweep.add(values, RANDOM, Cell(16), seed=seed)
    results = sweep.results()
    assert interval_of(results.estimate(RANDOM, Cell(16))) == interval_of(results.estimate(MODEL, Cell(64)))


def test_a_mean_over_tasks_needs_all_of_them(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.5, 16: 0.4}).curve({64: 0.7}, task="Pairs")
    results = sweep.results()
    assert value_of(results.estimate(MODEL, Cell(64))) == pytest.approx(0.6)
    assert results.estimate(MODEL, Cell(16)) is None
    assert results.retention(MODEL, Cell(16)) is None
    assert value_of(results.estimate(MODEL, Cell(16), ["Search"])) == pytest.approx(0.4)
    assert results.estimate(MODEL, Cell(32)) is None
    assert results.estimate(MODEL, Cell(64), []) is None
    assert results.curve(MODEL) == {64: pytest.approx(0.6)}
    assert results.curve(MODEL, tasks=["Search"]) == {64: pytest.approx(0.5), 16: pytest.approx(0.4)}


def test_a_curve_has_one_precision(tmp_path: Path) -> None:
    results = MadeUpSweep(tmp_path).curve({64: 0.5, 16: 0.4, (64, "int8"): 0.49, (16, "binary"): 0.2}).results()
    assert results.curve(MODEL) == {64: 0.5, 16: 0.4}
    assert results.curve(MODEL, "int8") == {64: 0.49}
    assert results.curve(MODEL, "binary") == {16: 0.2}
    assert results.curve(MODEL, "binary", comparison="symmetric") == {}


def test_the_interval_of_a_score_is_the_bootstrap_of_its_items(tmp_path: Path) -> None:
    values = queries(0.6, 200)
    found = interval_of(MadeUpSweep(tmp_path).add(values).results().estimate(MODEL, Cell(64)))
    half = 1.96 * values.std() / math.sqrt(200)
    assert [found.low, found.high] == pytest.approx([0.6 - half, 0.6 + half], abs=0.1 * half)
    assert found.n == 200


def test_the_interval_of_a_mean_over_tasks_follows_the_sum_rule(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).add(queries(0.6, 150), split="a").add(queries(0.4, 250, seed=1), split="b")
    found = interval_of(sweep.add(queries(0.8, 100, seed=2), task="Pairs").results().estimate(MODEL, Cell(64)))
    assert found.mean == pytest.approx((0.5 + 0.8) / 2)
    variance = (0.05**2 / 150 + 0.05**2 / 250) / 4
    half = 1.96 * math.sqrt((variance + 0.05**2 / 100) / 4)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.12)
    assert found.n == 500


def test_one_task_without_items_leaves_the_mean_without_an_interval(tmp_path: Path) -> None:
    results = MadeUpSweep(tmp_path).add(queries(0.6)).add(0.8, task="Clusters").results()
    mean = results.estimate(MODEL, Cell(64))
    assert mean is not None
    assert (mean.value, mean.interval()) == (pytest.approx(0.7), None)
    assert interval_of(results.estimate(MODEL, Cell(64), ["Search"])).n == 100


@pytest.mark.parametrize("line", [MODEL, PCA, RANDOM])
def test_what_is_kept_is_measured_against_the_same_models_full_width_in_float32(line: Line, tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.8, (64, "int8"): 0.9, 16: 0.4}).curve({128: 0.5, 16: 0.1}, BASE)
    if line is not MODEL:
        sweep.curve({64: 0.7, 16: 0.6}, line, seed=0 if line is RANDOM else None)
    results = sweep.results()
    assert results.full(line) == (MODEL, Cell(64))
    expected = 0.4 if line is MODEL else 0.6
    assert value_of(results.retention(line, Cell(16))) == pytest.approx(expected / 0.8)
    assert results.full(BASE) == (BASE, Cell(128))
    assert value_of(results.retention(BASE, Cell(16))) == pytest.approx(0.1 / 0.5)


def test_versions_and_computing_types_of_a_model_are_not_measured_against_each_other(tmp_path: Path) -> None:
    newer, coarse = Line("someone/tuned", "r9"), Line("someone/tuned", "r1", dtype="bfloat16")
    orphan = Line("someone/gone", "r1", "control", "pca")
    sweep = MadeUpSweep(tmp_path).curve({64: 0.8}).curve({32: 0.6, 16: 0.3}, newer).curve({32: 0.5, 16: 0.2}, coarse)
    results = sweep.curve({16: 0.1}, orphan).results()
    assert [results.full(line) for line in (MODEL, newer, coarse)] == [
        (MODEL, Cell(64)),
        (newer, Cell(32)),
        (coarse, Cell(32)),
    ]
    assert value_of(results.retention(coarse, Cell(16))) == pytest.approx(0.4)
    assert results.full(orphan) is None
    assert results.retention(orphan, Cell(16)) is None


def test_there_is_no_share_of_a_full_score_of_nothing(tmp_path: Path) -> None:
    for score in (0.0, -0.2):
        results = MadeUpSweep(tmp_path).curve({64: score, 16: 0.1}).results()
        assert results.retention(MODEL, Cell(16)) is None
        assert results.recommend(MODEL, 0.99) is None


def test_retention_pairs_the_queries(tmp_path: Path) -> None:
    whole = queries(0.6, noise=0.2)
    results = MadeUpSweep(tmp_path).curve({64: whole, 32: share_kept(whole, 0.9)}).results()
    found = interval_of(results.retention(MODEL, Cell(32)))
    assert [found.mean, found.low, found.high] == pytest.approx([0.9] * 3)
    full = interval_of(results.retention(MODEL, Cell(64)))
    assert (full.mean, full.low, full.high) == (1, 1, 1)


def test_two_lines_are_compared_query_by_query(tmp_path: Path) -> None:
    whole = queries(0.6, noise=0.2)
    other = whole - 0.03 + queries(0, noise=0.02, seed=3)
    sweep = MadeUpSweep(tmp_path).curve({64: whole, (64, "int8"): whole - 0.01}).curve({64: other}, OTHER)
    results = sweep.results()
    found, direct = results.compare("Search", MODEL, 64, OTHER, 64), bootstrap_mean(whole - other)
    assert [found.mean, found.low, found.high] == pytest.approx([direct.mean, direct.low, direct.high], abs=0.0005)
    assert found.excludes_zero
    assert found.n == 100
    lost = results.compare("Search", MODEL, Cell(64, "int8"), MODEL, 64)
    assert [lost.mean, lost.low, lost.high] == pytest.approx([-0.01] * 3)


def test_a_comparison_needs_items_and_sizes_that_were_evaluated(tmp_path: Path) -> None:
    results = MadeUpSweep(tmp_path).curve({64: queries(0.6), 32: 0.5}).curve({64: 0.6, 32: 0.5}, task="Pairs").results()
    for task, left in (("Pairs", 64), ("Search", 32)):
        with pytest.raises(ValueError, match=f"{task} has no per-item scores that both share"):
            results.compare(task, MODEL, left, MODEL, 64)
    with pytest.raises(KeyError):
        results.compare("Search", MODEL, 48, MODEL, 64)


def test_what_was_measured_on_other_items_is_not_paired(tmp_path: Path) -> None:
    values, names = queries(0.6, noise=0.2), [f"x{number}" for number in range(100)]
    sweep = MadeUpSweep(tmp_path).add(values).add(values, OTHER, ids=names).add(values, PCA)
    results = sweep.results()
    assert results.compare("Search", MODEL, 64, PCA, 64).high == 0
    apart, alone = results.compare("Search", MODEL, 64, OTHER, 64), interval_of(results.estimate(MODEL, Cell(64)))
    assert apart.high - apart.low == pytest.approx(math.sqrt(2) * (alone.high - alone.low), rel=0.1)


def test_the_smallest_vectors_that_surely_keep_the_target_are_chosen(tmp_path: Path) -> None:
    whole = queries(0.6)
    scores: dict[int | tuple[int, str], Values] = {
        64: whole,
        32: share_kept(whole, 0.995),
        16: share_kept(whole, 0.95),
        (64, "int8"): share_kept(whole, 0.998),
        (32, "int8"): share_kept(whole, 0.98),
    }
    results = MadeUpSweep(tmp_path).curve(scores).results()
    clear = {0.999: Cell(64), 0.997: Cell(64, "int8"), 0.97: Cell(32, "int8"), 0.95 - 1e-9: Cell(32, "int8")}
    for keep, cell in clear.items():
        assert chosen(results, keep).cell == cell
    choice = chosen(results, 0.97)
    assert (choice.line, choice.keep, choice.full) == (MODEL, 0.97, Cell(64))
    assert (choice.saved_bytes, choice.sureness) == (256 - 32, 1)
    assert choice.retention.value == pytest.approx(0.98)


def test_the_lower_bound_decides_and_not_the_estimate(tmp_path: Path) -> None:
    whole = queries(0.6)
    unsure = MadeUpSweep(tmp_path).curve({64: whole, 32: share_kept(whole, 0.995, noise=0.05)}).results()
    assert value_of(unsure.retention(MODEL, Cell(32))) == pytest.approx(0.995)
    assert interval_of(unsure.retention(MODEL, Cell(32))).low < 0.99
    assert chosen(unsure, 0.99).cell == Cell(64)
    low = interval_of(unsure.retention(MODEL, Cell(32))).low
    assert chosen(unsure, low).cell == Cell(32)
    assert chosen(unsure, low + 1e-9).cell == Cell(64)
    sureness = chosen(unsure, low).sureness
    assert sureness is not None
    assert 0.97 < sureness < 0.99  # a one-sided 2.5 % test


def test_a_small_size_that_passes_below_one_that_fails_is_not_chosen(tmp_path: Path) -> None:
    whole = queries(0.6)
    scores: dict[int | tuple[int, str], Values] = {64: whole, 32: share_kept(whole, 0.98), 16: share_kept(whole, 1.01)}
    results = MadeUpSweep(tmp_path).curve(scores).results()
    assert chosen(results, 0.99).cell == Cell(64)
    scores |= {(dim, "int8"): share_kept(whole, 0.995) for dim in (64, 32)}  # another precision has a row of its own
    results = MadeUpSweep(tmp_path / "int8").curve(scores).results()
    assert chosen(results, 0.99).cell == Cell(32, "int8")
    kinds = {Cell(64): whole, Cell(64, "int8"): share_kept(whole, 0.98), Cell(32, "int8"): share_kept(whole, 0.995)}
    kinds |= {Cell(dim, "int8", "symmetric"): share_kept(whole, 0.992) for dim in (64, 32)}  # and another comparison
    kinds |= {Cell(64, "int2", rescore=10): share_kept(whole, 0.98), Cell(32, "int2", rescore=10): whole}
    results = MadeUpSweep(tmp_path / "kinds").curve(kinds).results()
    assert chosen(results, 0.99).cell == Cell(32, "int8", "symmetric")


def test_of_equal_bytes_one_stage_is_chosen_before_two_and_then_what_keeps_more(tmp_path: Path) -> None:
    whole = queries(0.6)
    kinds = {Cell(64): whole, Cell(64, "binary", "symmetric"): share_kept(whole, 0.993)}
    kinds |= {Cell(64, "binary"): share_kept(whole, 0.994), Cell(64, "binary", rescore=4): whole}
    kinds |= {Cell(dim, "int2"): share_kept(whole, 0.992) for dim in (64, 32)}
    assert chosen(MadeUpSweep(tmp_path).curve(kinds).results(), 0.99).cell == Cell(64, "binary")
    two = chosen(
        MadeUpSweep(tmp_path / "two").curve({Cell(64): whole, Cell(64, "binary", rescore=4): whole}).results(), 1
    )
    assert "64 x binary, rescored 4x: 8 bytes in memory (and 256 on disk) per vector instead of 256" in two.headline()
    assert "; 8 bytes in memory (and 256 on disk) per vector instead of 256" in two.sentence()


def test_wide_binary_vectors_beat_narrow_float_ones_in_bytes(tmp_path: Path) -> None:
    whole = queries(0.6)
    scores: dict[int | tuple[int, str], Values] = {
        384: whole,
        16: share_kept(whole, 0.97),
        (384, "binary"): share_kept(whole, 0.96),
        (16, "binary"): share_kept(whole, 0.5),
    }
    results = MadeUpSweep(tmp_path).curve(scores).results()
    choice = chosen(results, 0.95)
    assert (choice.cell, choice.cell.bytes, Cell(16).bytes) == (Cell(384, "binary"), 48, 64)
    assert chosen(results, 0.965).cell == Cell(16)


def test_full_width_stays_where_nothing_smaller_will_do(tmp_path: Path) -> None:
    whole = queries(0.6)
    results = MadeUpSweep(tmp_path).curve({64: whole, 32: share_kept(whole, 0.5)}).results()
    choice = chosen(results, 0.99)
    assert (choice.cell, choice.saved_bytes, choice.retention.value) == (Cell(64), 0, 1)
    assert choice.sentence() == "nothing smaller than 64 x float32 keeps 99 % with confidence"
    assert "keeps 99.5 % with" in chosen(results, 0.995).sentence()
    assert "keeps 99.5 % of" in chosen(results, 0.995).headline()
    assert choice.headline() == "Stay at 64 x float32: nothing smaller keeps 99 % of the score with confidence"


def test_without_items_the_point_estimate_decides_and_nothing_is_sure(tmp_path: Path) -> None:
    scores: dict[int | tuple[int, str], Values] = {64: 0.6, 32: 0.594, 16: 0.5}
    results = MadeUpSweep(tmp_path).curve(scores).results()
    choice = chosen(results, 0.98)
    assert (choice.cell, choice.sureness, choice.retention.interval()) == (Cell(32), None, None)
    assert choice.sentence() == (
        "32 x float32 keeps 99.00 % of the full score (a point estimate: nothing to resample);"
        " 128 bytes per vector instead of 256 (2x smaller), 12.8 GB less per 100 million"
    )


def test_a_score_that_some_resamples_lack_is_a_point_estimate(tmp_path: Path) -> None:
    results = MadeUpSweep(tmp_path).curve({64: 1.0, 32: 0.5}).results()
    gold, ids = np.array([1.0] + [0.0] * 9), np.arange(10).astype(np.str_)  # no positive in every third resample
    for dim, first in ((64, 10.0), (32, 0.5)):
        columns = {"value": np.r_[first, 1.0, np.zeros(8)], "gold": gold}
        items = [Items("test", "default", "pair", Units(ids, columns, "ap"))]
        write_items(items_file(tmp_path, Variant(MODEL, Cell(dim)), "Search"), items, {})
    retention = results.retention(MODEL, Cell(32))
    assert retention is not None
    assert (retention.value, retention.interval()) == (pytest.approx(0.5), None)
    assert chosen(results, 0.99).cell == Cell(64)
    assert chosen(results, 0.49).cell == Cell(32)


def test_the_choice_is_made_for_the_tasks_asked_about(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.6, 32: 0.6}).curve({64: 0.6, 32: 0.3}, task="Pairs")
    results = sweep.results()
    assert chosen(results, 0.99).cell == Cell(64)
    assert chosen(results, 0.99, tasks=["Search"]).cell == Cell(32)
    assert chosen(results, 0.99, tasks=["Pairs"]).cell == Cell(64)


def test_a_size_that_lacks_a_task_and_those_below_it_are_not_chosen(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.6, 32: 0.6, 16: 0.6}).curve({64: 0.6, 16: 0.6}, task="Pairs")
    assert chosen(sweep.results(), 0.99).cell == Cell(64)


@pytest.mark.parametrize("keep", [0, -0.5, 1.01, 99])
def test_a_target_out_of_range_is_refused(keep: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"above 0 and at most 1; got {keep}"):
        MadeUpSweep(tmp_path).curve({64: 0.6}).results().recommend(MODEL, keep)


def test_a_sentence_has_the_numbers(tmp_path: Path) -> None:
    whole = queries(0.6)
    scores: dict[int | tuple[int, str], Values] = {384: whole, (128, "int8"): share_kept(whole, 0.993, noise=0.002)}
    results = MadeUpSweep(tmp_path).curve(scores).results()
    choice = chosen(results, 0.99)
    assert choice.headline() == "128 x int8: 128 bytes per vector instead of 1,536 keep 99.30 % of the score"
    interval = interval_of(choice.retention)
    assert choice.sentence("Retrieval") == (
        f"Retrieval: 128 x int8 keeps 99.30 % [{100 * interval.low:.2f}, {100 * interval.high:.2f}] of the full score"
        " (at least 99 %: more than 99.9 % sure); 128 bytes per vector instead of 1,536 (12x smaller),"
        " 140.8 GB less per 100 million"
    )
    estimate = Estimate(0.995, np.r_[np.full(970, 1.0), np.full(30, 0.9)], 99, 100)
    sentence = Recommendation(MODEL, Cell(96), 0.95, estimate, Cell(384)).sentence()
    assert "(at least 95 %: 96.9 % sure)" in sentence
    assert sentence.startswith("96 x float32 keeps 99.50 %")


@pytest.mark.parametrize(("n", "few"), [(20, True), (FEW - 1, True), (FEW, False)])
def test_nobody_is_sure_of_few_items(n: int, few: bool, tmp_path: Path) -> None:
    whole = queries(0.6, n)
    sweep = MadeUpSweep(tmp_path).curve({64: whole, 8: whole}).curve({64: queries(0.5, 400)}, task="Large")
    results = sweep.curve({64: queries(0.5, 10), 8: queries(0.5, 10)}, task="Classes", unit="experiment").results()
    assert {task: str(sample) for task, sample in results.samples.items()} == {
        "Search": f"{n} queries",
        "Large": "400 queries",
        "Classes": "10 experiments",  # each of many items: so few of them are enough
    }
    warning = f"Few items (Search: {n} queries): what they say, intervals too, is luck as much as quality."
    assert results.caution() == (f"{warning} Take 100 or more." if few else "")
    assert results.caution(["Large", "Classes"]) == ""
    choice = chosen(results, 0.99, tasks=["Search"])
    assert choice.cell == Cell(8)
    assert (choice.sureness is None) == few
    assert ("sure)" in choice.sentence()) == (not few)
    assert ("(too few items to say how sure that is)" in choice.sentence()) == few
    assert "more than 99.9 % sure" in chosen(results, 0.99, tasks=["Classes"]).sentence()


def test_a_table_alone_says_what_its_scores_rest_on(tmp_path: Path) -> None:
    table = MadeUpSweep(tmp_path).curve({64: queries(0.6, 20)}).curve({64: 0.5}, task="Pairs").results().table()
    alone = Results(table, [tmp_path / "elsewhere"])
    assert {task: str(sample) for task, sample in alone.samples.items()} == {"Search": "20 queries"}
    assert "Search: 20 queries" in alone.caution()
    older = Results(table.drop(columns="unit"), [tmp_path / "elsewhere"])
    assert (str(older.samples["Search"]), older.caution()) == ("20 items", "")


def test_lines_of_one_name_are_told_apart(tmp_path: Path) -> None:
    newer, coarse = Line("someone/tuned", "0123456789abcdef"), Line("else/tuned", "r1", dtype="bfloat16")
    sweep = MadeUpSweep(tmp_path)
    for line in (MODEL, newer, coarse, OTHER, PCA):
        sweep.add(0.5, line)
    assert list(sweep.results().labels.values()) == [
        "tuned [r1, float32]",
        "tuned [01234567, float32]",
        "tuned [r1, bfloat16]",
        "other",
        "tuned (PCA)",
    ]


def test_bytes_become_gigabytes_of_a_hundred_million_vectors() -> None:
    assert gigabytes(1536) == pytest.approx(1536 * 100_000_000 / 10**9)


def test_the_front_holds_what_no_model_beats_in_score_with_as_few_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sweep = MadeUpSweep(tmp_path)
    precisions = ("float32", "float16", "int8", "binary")
    for line in (MODEL, OTHER):
        sweep.curve({(dim, kind): float(rng.random()) for dim in (8, 16, 24, 32) for kind in precisions}, line)
    results = sweep.curve({(8, "binary"): 1.0}, BASE).results()  # controls never stand on it
    points = [
        ((line, cell), cell.bytes, value_of(results.estimate(line, cell)))
        for line in (MODEL, OTHER)
        for cell in results.cells(line)
    ]
    expected = {
        point
        for point, size, score in points
        if not any(
            other <= size and better >= score and (other, better) != (size, score) for _, other, better in points
        )
    }
    assert results.pareto() == expected
    assert 1 < len(expected) < len(points)


def test_of_equal_scores_the_smaller_vectors_stand_on_the_front(tmp_path: Path) -> None:
    results = MadeUpSweep(tmp_path).curve({64: 0.5, (64, "float16"): 0.5, 8: 0.2}).results()
    assert results.pareto() == {(MODEL, Cell(64, "float16")), (MODEL, Cell(8))}


def test_cells_that_lack_a_task_stand_on_no_front(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.5, 8: 0.9}).curve({64: 0.5}, task="Pairs")
    assert sweep.results().pareto() == {(MODEL, Cell(64))}
    assert sweep.results().pareto(["Search"]) == {(MODEL, Cell(8))}


def test_the_table_adds_intervals_and_what_is_kept_to_every_row(tmp_path: Path) -> None:
    whole = queries(0.6)
    sweep = MadeUpSweep(tmp_path).curve({64: whole, 32: share_kept(whole, 0.9, noise=0.01)})
    sweep.curve({64: 0.8, 32: 0.4}, task="Pairs", split="validation").curve({16: 0.3}, PCA)
    results = sweep.results()
    table = results.table()
    assert list(table.columns) == [
        *sweep.rows[0],
        *("ci_low", "ci_high", "n", "retention", "retention_low", "retention_high", "unit"),
    ]
    pd.testing.assert_frame_equal(table[list(sweep.rows[0])], results.scores)
    full, half, pairs, small, pca = table.to_dict("records")
    score, kept = (
        interval_of(results.estimate(MODEL, Cell(32), ["Search"])),
        interval_of(results.retention(MODEL, Cell(32), ["Search"])),
    )
    assert (half["ci_low"], half["ci_high"], half["n"]) == (score.low, score.high, 100)
    assert (half["retention"], half["retention_low"], half["retention_high"]) == (
        pytest.approx(0.9),
        kept.low,
        kept.high,
    )
    assert (full["retention"], full["retention_low"], full["retention_high"]) == (1, 1, 1)
    assert [row["retention"] for row in (pairs, small, pca)] == pytest.approx([1, 0.5, 0.3 / 0.6])
    for row in (pairs, small, pca):
        assert all(pd.isna(row[name]) for name in ("ci_low", "ci_high", "n", "retention_low", "retention_high"))
    assert (str(table["n"].dtype), str(table["seed"].dtype)) == ("Int64", "Int64")
    assert [row["unit"] for row in (full, half, pairs, small)] == ["query", "query", "", ""]


def test_the_table_survives_being_written_and_read(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: queries(0.6)})
    for seed in RANDOM_SEEDS:
        sweep.add(queries(0.5, seed=seed), RANDOM, Cell(16), seed=seed)
    table = sweep.results().table()
    sweep.save()
    again = Results(pd.read_parquet(tmp_path / "scores.parquet"), [tmp_path])
    pd.testing.assert_frame_equal(again.table(), table)


def test_items_are_looked_for_in_every_folder(tmp_path: Path) -> None:
    first, second = MadeUpSweep(tmp_path / "a").curve({64: queries(0.6)}), MadeUpSweep(tmp_path / "b")
    second.curve({64: queries(0.5)}, OTHER)
    tables = [sweep.results().scores for sweep in (first, second)]
    results = Results(pd.concat(tables, ignore_index=True), [tmp_path / "a", tmp_path / "b"])
    assert interval_of(results.estimate(OTHER, Cell(64))).n == 100
    assert results.compare("Search", MODEL, 64, OTHER, 64).n == 100
    only_first = Results(results.scores, [tmp_path / "a"])
    other = only_first.estimate(OTHER, Cell(64))
    assert other is not None
    assert other.interval() is None


def test_items_of_every_evaluation_have_a_file_of_their_own(tmp_path: Path) -> None:
    variants = [
        variant
        for line in (MODEL, BASE, PCA, RANDOM, Line("someone/tuned", "r1", dtype="bfloat16"))
        for cell in (Cell(64), Cell(16), Cell(16, "int8"))
        for variant in line.variants(cell)
    ]
    files = [items_file(tmp_path, variant, "Search") for variant in variants]
    assert len(set(files)) == len(variants) == 4 * 3 + 3 * 3
    assert {file.name for file in files} == {"Search.parquet"}
    assert {file.relative_to(tmp_path).parts[0] for file in files} == {"items"}


def test_items_of_splits_that_are_not_in_the_table_are_left_alone(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).add(queries(0.6)).add(queries(0.2), split="validation")
    sweep.results()
    (items,) = (read_items(file) for file in tmp_path.glob("items/*/*/Search.parquet"))
    assert [one.split for one in items] == ["test", "validation"]
    results = Results(pd.DataFrame(sweep.rows[:1]), [tmp_path])
    assert interval_of(results.estimate(MODEL, Cell(64))).mean == pytest.approx(0.6)


def test_older_tables_coded_queries_as_they_coded_documents(tmp_path: Path) -> None:
    kinds = {
        Cell(64): 0.8,
        Cell(64, "float16"): 0.8,
        Cell(64, "int8", "symmetric"): 0.7,
        Cell(8, "binary", "symmetric"): 0.2,
    }
    made = MadeUpSweep(tmp_path).curve(kinds).results()
    older = Results(made.scores.drop(columns=["comparison", "rescore"]), made.folders)
    assert older.cells(MODEL) == list(kinds)
