from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from threadpoolctl import threadpool_info

from mrl_text.amounts import FEW
from mrl_text.paper.adaptive import read_tuning
from mrl_text.search import AdaptiveIndex, SearchPlan
from mrl_text.search.faiss.store import FaissStore
from mrl_text.search.measure import PlanTrials, Timing, Trial, measure, ratio_interval, smallest, steps_up_to, unseen
from mrl_text.search.measure import threads as limited_threads
from mrl_text.search.sample_queries import Judged, check_metric, read_judged, recall
from mrl_text.search.tune import Tuning, tune

WIDTH, ROWS, QUERIES = 32, 600, 60


def matryoshka_like(rows: int, seed: int) -> np.ndarray:
    """Vectors whose first numbers say most."""
    return (np.random.default_rng(seed).standard_normal((rows, WIDTH)) / np.arange(1, WIDTH + 1) ** 0.5).astype("f4")


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return matryoshka_like(ROWS, 0)[:QUERIES] + 0.2 * matryoshka_like(QUERIES, 1)


@pytest.fixture
def index(tmp_path: Path) -> AdaptiveIndex:
    made = AdaptiveIndex.create(tmp_path / "index", width=WIDTH, facts={"dims": [4, 8, 16, 32]})
    made.add([f"d{row}" for row in range(ROWS)], matryoshka_like(ROWS, 0))
    made.save()
    return made


def tuned(index: AdaptiveIndex, *arguments: Any, **options: Any) -> Tuning:
    return tune(FaissStore(index), *arguments, **options)


def judged(relevant: dict[str, dict[str, int]] | None = None) -> Judged:
    return Judged([f"q{row}" for row in range(QUERIES)], ["text"] * QUERIES, relevant)


def grades() -> dict[str, dict[str, int]]:
    return {f"q{row}": {f"d{row}": 2, f"d{(row * 7) % ROWS}": 1} for row in range(QUERIES)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.permutations(range(12)), st.lists(st.integers(0, 3), min_size=12, max_size=12)), min_size=1)
)
def test_ndcg_is_that_of_the_formula(rows: list[tuple[list[int], list[int]]]) -> None:
    relevant = {f"q{number}": {f"d{doc}": grade for doc, grade in enumerate(row[1])} for number, row in enumerate(rows)}
    found = np.array([[f"d{doc}" for doc in row[0][:10]] for row in rows], dtype=object)
    expected = []
    for order, grade in rows:
        gains = [grade[doc] / math.log2(rank + 2) for rank, doc in enumerate(order[:10])]
        best = [one / math.log2(rank + 2) for rank, one in enumerate(sorted(grade, reverse=True)[:10])]
        expected.append(sum(gains) / sum(best) if sum(best) else 0.0)
    scores = Judged(list(relevant), [""] * len(rows), relevant).ndcg(found)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_rows_that_were_not_found_count_as_nothing() -> None:
    found = np.array([["a", None, None], [None, None, None]], dtype=object)
    one = Judged(["q", "r"], ["", ""], {"q": {"a": 1}, "r": {"a": 1}})
    assert one.ndcg(found).tolist() == [1.0, 0.0]
    assert recall(found, np.array([["a", "b"], [None, None]], dtype=object)).tolist() == [0.5, 1.0]


@given(st.lists(st.booleans(), max_size=40))
def test_bisection_finds_the_first_level_that_is_enough(tail: list[bool]) -> None:
    answers = sorted(tail)
    expected = answers.index(True) if True in answers else None
    assert smallest(range(len(answers)), lambda level: answers[level]) == expected


def test_levels_grow_by_a_third_or_a_half_up_to_the_limit() -> None:
    assert steps_up_to(100) == [10, 15, 20, 30, 40, 60, 80, 100]
    assert steps_up_to(9, 1) == [1, 2, 3, 4, 6, 8, 9]
    assert steps_up_to(3) == [10]


def test_time_is_the_median_per_query(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    cost = {1: iter([50.0, *[2.0] * 100]), 3: iter([50.0, 6.0, 9.0, 30.0, 6.0, 9.0])}

    def search(some: np.ndarray) -> None:
        clock[0] += next(cost[len(some)]) / 1000

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    timing = measure(search, np.zeros((3, 4)))
    assert timing.single == pytest.approx(0.002)  # the slow first one is not counted
    assert timing.batch == pytest.approx(0.009 / 3)  # median of 6, 9, 30, 6, 9


def test_threads_are_limited_and_set_back() -> None:
    before, pools = faiss.omp_get_max_threads(), [pool["num_threads"] for pool in threadpool_info()]
    with pytest.raises(KeyError), limited_threads(1):
        assert faiss.omp_get_max_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        raise KeyError
    assert faiss.omp_get_max_threads() == before
    assert [pool["num_threads"] for pool in threadpool_info()] == pools
    with pytest.raises(ValueError, match="threads must be at least 1"), limited_threads(0):
        pass


def test_retention_is_the_share_of_the_exact_results(index: AdaptiveIndex, queries: np.ndarray) -> None:
    half = np.arange(30)
    trials = PlanTrials(FaissStore(index), queries, judged(), "recall@10", (half, half + 30))
    plan = SearchPlan(4, shortlist=20)
    vectors = index.vectors(range(ROWS)).astype(np.float64)
    units = [vectors[:, :dim] / np.linalg.norm(vectors[:, :dim], axis=1, keepdims=True) for dim in (4, WIDTH)]
    for part, rows in ((0, half), (1, half + 30)):
        shares = []
        for query in queries[rows].astype(np.float64):
            exact = set(np.argsort(-(units[1] @ query))[:10].tolist())
            candidates = np.argsort(-(units[0] @ query[:4]))[:20]
            ranked = candidates[np.argsort(-(units[1][candidates] @ query))][:10]
            shares.append(len(exact & set(ranked.tolist())) / 10)
        assert trials.retention(plan, part) == pytest.approx(np.mean(shares), abs=0.01)  # ties by float16
    assert trials.retention(SearchPlan(4, shortlist=ROWS)) == 1.0


def fake_times(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[SearchPlan], float]) -> None:
    """Time per query as a function of the plan, so that what is chosen does not depend on this machine."""

    def measured(self: PlanTrials, plan: SearchPlan, note: str = "") -> Trial:
        retention = self.retention(plan, 0), self.retention(plan, 1)
        return Trial(plan, note, retention, Timing(seconds(plan), seconds(plan)), self.store.ram())

    monkeypatch.setattr(PlanTrials, "measure", measured)


def work(plan: SearchPlan) -> float:
    return plan.dim * ROWS * {"flat": 1, "hnsw": 0.2, "ivf": 0.3}[plan.kind] + sum(
        dim * given for dim, given in plan.steps(WIDTH, 10)
    )


@pytest.mark.parametrize("metric", ["recall@10", "ndcg@10"])
def test_the_cheapest_plan_that_holds_on_both_halves_is_written(
    index: AdaptiveIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    fake_times(monkeypatch, work)
    found = tuned(index, queries, judged(grades()), metric=metric, keep=0.97, precisions=["float32"], kinds=["flat"])
    assert found.confirmed
    holding = [one for one in found.trials if one.retention and min(one.retention) >= 0.97]
    assert found.chosen.timing is not None
    assert found.chosen.timing.single <= 1.05 * min(one.timing.single for one in holding if one.timing)
    assert found.chosen.plan.dim < WIDTH
    loaded = AdaptiveIndex.load(index.path)
    assert loaded.plan == found.chosen.plan
    # quality again, from the saved index and without the code under test
    exact = loaded.exact(queries, 10).positions
    hits = loaded.search(queries, 10).positions
    if metric == "recall@10":
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, hits, strict=True)]) >= 0.97
    written = json.loads((index.path / "tune.json").read_text())
    shown = read_tuning(index.path / "tune.json")  # as the paper page shows it
    assert (shown["documents"], shown["share"]) == (len(index), written["chosen"]["retention"][1])
    assert SearchPlan.from_json(written["chosen"]["plan"]) == loaded.plan
    assert len(written["trials"]) == len(found.trials)
    assert sum(written["queries"]) == QUERIES


@pytest.mark.slow
def test_a_tie_in_time_goes_to_less_memory_and_a_limit_of_memory_is_kept(
    index: AdaptiveIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch, lambda plan: 1.0)
    found = tuned(index, queries, judged(), keep=0.9)
    holding = [one for one in found.trials if one.retention and min(one.retention) >= 0.9]
    assert found.chosen.ram == min(one.ram for one in holding if one.ram)
    limit = 8 * ROWS
    fake_times(monkeypatch, lambda plan: 1 / plan.dim)
    found = tuned(index, queries, judged(), keep=0.9, max_ram=limit)
    assert found.chosen.ram is not None
    assert found.chosen.ram <= limit
    assert any("more than allowed" in one.note for one in found.trials)
    with pytest.raises(ValueError, match=r"no plan keeps 99 % .* 10 bytes"):
        tuned(index, queries, judged(), max_ram=10)


def test_what_holds_by_luck_on_one_half_is_refused_on_the_other(
    index: AdaptiveIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch, work)
    retention = PlanTrials.retention
    monkeypatch.setattr(
        PlanTrials,
        "retention",
        lambda self, plan, half=0: 0.5 if half and plan.dim == 4 else retention(self, plan, half),
    )
    options: dict[str, Any] = {"keep": 0.9, "kinds": ["flat"], "precisions": ["float32"]}
    found = tuned(index, queries, judged(), **options)
    assert found.confirmed
    assert found.refused >= 1
    assert found.chosen.plan.dim > 4
    monkeypatch.setattr(PlanTrials, "retention", lambda self, plan, half=0: 0.5 if half else retention(self, plan))
    assert not tuned(index, queries, judged(), **options).confirmed


@pytest.mark.slow
def test_graph_and_cells_are_built_only_where_they_could_win(
    index: AdaptiveIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch, work)
    monkeypatch.setattr(
        PlanTrials, "rerank_seconds", lambda self, plan: plan.shortlist * WIDTH if plan.dim > 4 else 1e9
    )
    options: dict[str, Any] = {"keep": 0.95, "kinds": ["hnsw", "ivf"], "precisions": ["float32", "int8"]}
    found = tuned(index, queries, judged(), **options)
    tried = [one for one in found.trials if one.plan.kind != "flat"]
    assert all(one.note.startswith("cannot win") for one in tried if one.plan.dim == 4)
    assert any(one.timing for one in tried if one.plan.dim == 8)
    assert found.chosen.plan.kind == "hnsw"  # the cheapest by the times that are made up here
    assert min(found.chosen.retention or [0]) >= 0.95
    found = tuned(index, queries, judged(), minutes=0, **options)
    notes = {one.plan.precision: one.note for one in found.trials if one.plan.kind == "hnsw" and one.plan.dim == 16}
    assert notes["int8"].startswith("not tried: out of time")
    assert notes["float32"].startswith("int8 needs as few candidates")  # both need ten at this size
    assert all(one.timing is None for one in found.trials if one.plan.kind != "flat")


def test_float32_that_misses_spares_the_coarser_precisions(index: AdaptiveIndex, queries: np.ndarray) -> None:
    index.facts["dims"] = [2, 32]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(FaissStore, "abilities", replace(FaissStore.abilities, longest=10))
        found = tuned(index, queries, judged(), kinds=["flat"])
    notes = {one.plan.precision: one.note for one in found.trials if one.plan.dim == 2}
    assert "keeps" in notes["float32"]
    assert all(
        note == "misses the target, as float32 does at this size" or code in ("float32", "int1")  # of four numbers
        for code, note in notes.items()
    )
    assert found.exact is not None
    assert found.exact.retention == (1.0, 1.0)


def test_few_bits_of_the_full_width_are_tried_with_a_last_step(
    index: AdaptiveIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch, lambda plan: plan.code_bytes() / plan.dim)
    options: dict[str, Any] = {"precisions": ["float32", "int1"], "kinds": ["flat"], "keep": 0.95}
    found = tuned(index, queries, judged(), dims=[2, 32], **options)
    chosen = found.chosen.plan
    assert (chosen.dim, chosen.precision, chosen.steps(WIDTH, 10)) == (WIDTH, "int1", [(WIDTH, chosen.shortlist)])
    exact, hits = index.exact(queries, 10).positions, index.search(queries, 10).positions
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, hits, strict=True)]) >= 0.95
    [left_out] = [one.note for one in found.trials if one.plan.dim == 2 and one.plan.precision == "int1"]
    assert left_out.startswith("not for this store: int1 codes 4 numbers together")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0}, "expected a share"),
        ({"metric": "map"}, "metric 'map' is unknown"),
        ({"metric": "ndcg@10"}, "needs judgements"),
        ({"kinds": ["hnws"]}, "did you mean 'hnsw'"),
        ({"precisions": ["int5"]}, "precision 'int5' is unknown"),
        ({"precisions": ["int1.5"]}, "int1.5 is for Qdrant"),
        ({"dims": [64]}, "64"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_mistakes_are_named(index: AdaptiveIndex, queries: np.ndarray, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tuned(index, queries, judged(), **change)
    with pytest.raises(ValueError, match="4 queries at least"):
        tuned(index, queries[:3], judged())


@pytest.mark.parametrize("items", [1, 50, 1000])
def test_what_nobody_saw_may_still_be_there(items: int) -> None:
    assert unseen(items) == pytest.approx(beta.ppf(0.95, 1, items))  # the upper limit of Clopper and Pearson


def test_no_recall_may_be_above_that_of_exact_search(index: AdaptiveIndex, queries: np.ndarray) -> None:
    found = tuned(index, queries, judged(), keep=0.8, kinds=["flat"], precisions=["float32"], metric="recall@10")
    intervals = [one.interval for one in found.trials if one.interval and one.interval[0] < one.interval[1]]
    assert intervals
    assert max(high for _, high in intervals) <= 1


@pytest.mark.parametrize("few", [20, QUERIES])
def test_few_queries_are_warned_about(
    few: int,
    index: AdaptiveIndex,
    queries: np.ndarray,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_times(monkeypatch, work)
    some = judged().subset(range(few))
    tuned(index, queries[:few], some, keep=0.8, kinds=["flat"], precisions=["float32"])
    assert few < FEW
    assert f"with {few} queries the plan is chosen by luck as much as by quality: take 100 or more" in caplog.text


def test_queries_and_judgements_are_read_and_matched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text("\n".join(json.dumps({"_id": f"q{row}", "text": f"text {row}"}) for row in range(5)))
    qrels = tmp_path / "test.tsv"
    lines = ["query-id\tcorpus-id\tscore", "q0\td1\t1", "q0\td2\t0", "q1\td9\t2", "q2\td1\t0"]
    qrels.write_text("\n".join(lines))
    assert read_judged(queries).ids == [f"q{row}" for row in range(5)]
    found = read_judged(queries, qrels, known={"d1", "d2"}.intersection)
    assert (found.ids, found.relevant) == (["q0", "q1"], {"q0": {"d1": 1, "d2": 0}, "q1": {"d9": 2}})
    assert "1 of 2 relevant documents" in caplog.text
    assert "are not in the index and count as not found: 'd9'" in caplog.text
    with pytest.raises(ValueError, match=r"none of its documents, 'd1', 'd2', 'd9', \.\.\.|none of its documents"):
        read_judged(queries, qrels, known={"other"}.intersection)
    (tmp_path / "other.tsv").write_text("query-id\tcorpus-id\tscore\nx\td1\t1\n")
    with pytest.raises(ValueError, match="there the queries are 'x', here 'q0', 'q1', 'q2', "):
        read_judged(queries, tmp_path / "other.tsv")
    plain = tmp_path / "queries.txt"
    plain.write_text("one\n\ntwo\u2028and\x85on\nthree\n", encoding="utf-8")
    lines = read_judged(plain)  # a blank line counts, a line separator is text
    assert (lines.ids, lines.texts) == (["1", "3", "4"], ["one", "two\u2028and\x85on", "three"])
    with caplog.at_level(logging.INFO, "mrl_text.search.sample_queries"):
        drawn = read_judged(plain, limit=2)
    assert "2 of 3 queries are drawn at random" in caplog.text
    assert drawn == read_judged(plain, limit=2)
    assert len(drawn) == 2
    assert check_metric(None, True) == "ndcg@10"
    assert check_metric(None, False) == "recall@10"


def test_grades_are_read_as_evaluation_reads_them(tmp_path: Path) -> None:
    queries, qrels = tmp_path / "queries.jsonl", tmp_path / "test.tsv"
    queries.write_text('{"_id": "q", "text": "text"}')
    qrels.write_text("query-id\tcorpus-id\tscore\nq\ta\t1.0\nq\tb\t2\nq\tb\t2.0\n")
    assert read_judged(queries, qrels).relevant == {"q": {"a": 1, "b": 2}}
    qrels.write_text("query-id\tcorpus-id\tscore\nq\tb\t2\nq\ta\t1\nq\tb\t0\n")
    with pytest.raises(ValueError, match=r"line 4: judges 'q' and 'b' as 0.* as 2"):
        read_judged(queries, qrels)


def test_a_funnel_is_tried_where_there_are_sizes_between(
    index: AdaptiveIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch, work)
    found = tuned(index, queries, judged(), keep=0.97, kinds=["flat"], precisions=["float32"])
    wide = [
        one.plan
        for one in found.trials
        if one.timing and not one.plan.rerank and one.plan.shortlist >= 40 and one.plan.dim == 4
    ]
    funnels = [one.plan for one in found.trials if one.plan.rerank]
    assert wide
    assert funnels
    assert all([dim for dim, _ in plan.rerank] == [dim for dim in (8, 16) if dim > plan.dim] for plan in funnels)
    assert replace(funnels[0], rerank=(), final=None).dim in {plan.dim for plan in wide}


def test_the_interval_of_the_retention_is_that_of_a_bootstrap() -> None:
    generator = np.random.default_rng(0)
    whole = generator.beta(0.6, 1.0, 800)
    part = np.clip(whole - generator.exponential(0.02, 800) + generator.normal(0, 0.02, 800), 0, 1)
    rows = generator.integers(0, 800, (4000, 800))
    low, high = np.percentile(part[rows].mean(axis=1) / whole[rows].mean(axis=1), [2.5, 97.5])
    found = ratio_interval(part, whole)
    assert found[0] < part.mean() / whole.mean() < found[1]
    np.testing.assert_allclose(found, (low, high), atol=0.1 * (high - low))
