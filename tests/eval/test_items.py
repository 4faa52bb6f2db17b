"""The items make up the main score, and each is what a computation by hand gives."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mteb.abstasks import AbsTask
from mteb.results import TaskResult
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.metrics import average_precision_score, f1_score

from mrl_text.eval import sweep
from mrl_text.eval import tasks as eval_tasks
from mrl_text.eval.grid import Cell
from mrl_text.eval.items import Items, read_facts, read_items, write_items
from mrl_text.eval.results import items_file
from mrl_text.eval.runner import SweepResult
from mrl_text.eval.statistics import Units, weighted_statistic
from mrl_text.eval.tasks import TaskLoader
from tests.eval.task_types import TASKS, by_mteb

EXPECTED = {
    "Pairs": ("pair", "ap", 60),
    "PairsInOneRow": ("pair", "ap", 60),
    "ManySTS": ("pair", "spearman", 40),
    "Clusters": ("experiment", "mean", 4),
    "ClustersInLevels": ("experiment", "mean", 4),
    "ClustersByAmi": ("experiment", "mean", 4),
    "ClusterSets": ("experiment", "mean", 3),
    "Labels": ("experiment", "mean", 3),
    "Classes": ("experiment", "mean", 3),
    "Search_ndcg_at_10": ("query", "mean", 20),
    "Search_mrr_at_10": ("query", "mean", 20),
    "Search_recall_at_10": ("query", "mean", 20),
    "Rerank": ("query", "mean", 20),
    "RerankByAccuracy": ("query", "mean", 20),
    "RerankMerged": ("query", "mean", 8),
    "WithoutFirst": ("query", "mean", 20),
    "OthersThanItself": ("query", "mean", 15),
    "Instructed": ("query", "mean", 20),
    "Bitext": ("text", "mean", 40),
    "BitextSubsets": ("text", "mean", 40),
    "BitextParallel": ("text", "mean", 40),
    "BitextMined": ("text", "mean", 30),
    "Summaries": ("text", "mean", 11),
}
"""Task -> what its items are, the statistic that makes the score, how many there are in a split and subset."""

Evaluate = Callable[..., SweepResult]


@pytest.fixture
def evaluated(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Evaluates one of the tasks, at full width in float32 unless told otherwise."""
    for name, task in TASKS.items():
        monkeypatch.setitem(eval_tasks.OWN_TASKS, name, task)

    def evaluate(name: str, dims: Sequence[int] = (32,)) -> SweepResult:
        return sweep([str(tiny_bert)], [name], output=tmp_path, dims=dims, precisions=["float32"], controls=[])

    return evaluate


def items_of(result: SweepResult, name: str, dim: int = 32) -> dict[tuple[str, str], Items]:
    (variant,) = result.lines[0].variants(Cell(dim))
    return {(one.split, one.subset): one for one in read_items(items_file(result.folder, variant, name))}


def the_item(result: SweepResult, name: str) -> Items:
    (item,) = items_of(result, name).values()
    return item


def data_of(name: str) -> Any:
    return TaskLoader([name]).fresh(name).dataset


def unit_vectors(model: Path, texts: Sequence[str]) -> np.ndarray:
    return np.asarray(SentenceTransformer(str(model)).encode(list(texts), normalize_embeddings=True), dtype=np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_items_make_up_the_main_score_of_every_split_and_subset(name: str, evaluated: Evaluate) -> None:
    result = evaluated(name)
    items = items_of(result, name)
    assert set(items) == set(zip(result.scores["split"], result.scores["subset"], strict=True))
    for row in result.scores.itertuples():
        item = items[row.split, row.subset]
        assert (item.unit, item.units.statistic, len(item.units)) == EXPECTED[name]
        assert item.units.score() == pytest.approx(row.score, abs=1e-4)
        assert len(set(item.units.ids)) == row.n == len(item.units)
        assert row.ci_low <= row.score <= row.ci_high


def test_every_task_type_is_looked_at() -> None:
    assert {*EXPECTED, "InstructionChanged"} == set(TASKS)


# what a query contributes, from its documents' grades, best first


Measure = Callable[[list[int], list[int]], float]


def _ndcg_at(depth: int) -> Measure:
    def ndcg(grades: list[int], judged: list[int]) -> float:
        gains = [
            sum(grade / math.log2(rank + 2) for rank, grade in enumerate(order[:depth]))
            for order in (grades, sorted(judged, reverse=True))
        ]
        return gains[0] / gains[1]

    return ndcg


def _reciprocal_rank_at_10(grades: list[int], judged: list[int]) -> float:
    return next((1 / rank for rank, grade in enumerate(grades[:10], 1) if grade), 0.0)


def _recall_at_10(grades: list[int], judged: list[int]) -> float:
    return np.count_nonzero(grades[:10]) / np.count_nonzero(judged)


def _recall_at_1(grades: list[int], judged: list[int]) -> float:
    return bool(grades[0]) / np.count_nonzero(judged)


def _average_precision(grades: list[int], judged: list[int]) -> float:
    found = [rank for rank, grade in enumerate(grades, 1) if grade]
    return sum(number / rank for number, rank in enumerate(found, 1)) / np.count_nonzero(judged)


def _rankings(name: str, model: Path) -> dict[str, dict[str, float]]:
    """Query -> document -> similarity, in numpy."""
    parts = data_of(name)["default"]["test"]
    corpus, queries = parts["corpus"], parts["queries"]
    documents = unit_vectors(
        model, [f"{title} {text}" for title, text in zip(corpus["title"], corpus["text"], strict=True)]
    )
    texts = list(queries["text"])
    if "instruction" in queries.column_names:
        texts = [f"{text} {instruction}" for text, instruction in zip(texts, queries["instruction"], strict=True)]
    similarities = unit_vectors(model, texts) @ documents.T
    rankings = {}
    for query, row in zip(queries["id"], similarities, strict=True):
        chosen = set(parts["top_ranked"][query]) if parts["top_ranked"] else set(corpus["id"])
        rankings[query] = {key: float(value) for key, value in zip(corpus["id"], row, strict=True) if key in chosen}
    return rankings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("Search_ndcg_at_10", _ndcg_at(10)),
        ("Search_mrr_at_10", _reciprocal_rank_at_10),
        ("Search_recall_at_10", _recall_at_10),
        ("Rerank", _average_precision),
        ("RerankByAccuracy", _recall_at_1),
        ("RerankMerged", _average_precision),
        ("WithoutFirst", _ndcg_at(10)),
        ("OthersThanItself", _ndcg_at(10)),
        ("Instructed", _ndcg_at(20)),
    ],
)
def test_a_query_contributes_what_its_ranking_is_worth(
    name: str, measure: Measure, evaluated: Evaluate, tiny_bert: Path
) -> None:
    judged, rankings = data_of(name)["default"]["test"]["relevant_docs"], _rankings(name, tiny_bert)
    if name == "RerankMerged":  # the best similarity to any of the queries that belong together
        together: dict[str, dict[str, float]] = defaultdict(dict)
        for query, found in rankings.items():
            base = together[query.split("_")[0]]
            base.update({key: max(value, base.get(key, -1)) for key, value in found.items()})
        rankings, judged = together, {query.split("_")[0]: grades for query, grades in judged.items()}
    expected = {}
    for query, found in rankings.items():
        order = sorted(found, key=lambda key: -found[key])
        if name == "OthersThanItself":
            order = [key for key in order if key != query]
        if name == "WithoutFirst":
            order = order[1:]
        expected[query] = measure([judged[query].get(key, 0) for key in order], list(judged[query].values()))
    units = the_item(evaluated(name), name).units
    measured = dict(zip(units.ids.tolist(), units.columns["value"].tolist(), strict=True))
    assert measured == pytest.approx(expected, abs=1e-6)
    assert len(set(measured.values())) > 1


@pytest.mark.slow
def test_pairs_of_sts_are_cosines_with_their_gold_scores_and_resample_as_in_scipy(
    evaluated: Evaluate, tiny_bert: Path
) -> None:
    items = items_of(evaluated("ManySTS"), "ManySTS")
    assert set(items) == {(split, subset) for split in ("validation", "test") for subset in ("one", "two")}
    draws = np.random.default_rng(5).integers(0, 40, (3, 40))
    for (split, subset), item in items.items():
        rows = data_of("ManySTS")[subset][split]
        first, second = (unit_vectors(tiny_bert, rows[column]) for column in ("sentence1", "sentence2"))
        cosine, gold = (first * second).sum(axis=1), np.array(rows["score"])
        np.testing.assert_allclose(item.units.columns["value"], cosine, atol=1e-5)
        np.testing.assert_array_equal(item.units.columns["gold"], gold)
        counts = np.stack([np.bincount(draw, minlength=40) for draw in draws], axis=1).astype(np.float64)
        value = item.units.columns["value"]
        expected = [spearmanr(value[draw], gold[draw]).statistic for draw in draws]
        assert weighted_statistic(item.units)(counts).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["Pairs", "PairsInOneRow"])
def test_pairs_of_a_classification_give_the_average_precision_of_scikit_learn(
    name: str, evaluated: Evaluate, tiny_bert: Path
) -> None:
    result = evaluated(name)
    units, rows = the_item(result, name).units, data_of("Pairs")["test"]
    labels = np.array(rows["labels"])
    first, second = (unit_vectors(tiny_bert, rows[column]) for column in ("sentence1", "sentence2"))
    kinds = {
        "value_cosine": (first * second).sum(axis=1),
        "value_dot": (first * second).sum(axis=1),
        "value_similarity": (first * second).sum(axis=1),
        "value_euclidean": -np.linalg.norm(first - second, axis=1),
        "value_manhattan": -np.abs(first - second).sum(axis=1),
    }
    if name == "PairsInOneRow":  # its main score is cosine_ap
        kinds = {"value_cosine": kinds["value_cosine"]}
    assert set(units.columns) == {*kinds, "gold"}
    np.testing.assert_array_equal(units.columns["gold"], labels)
    for kind, values in kinds.items():
        np.testing.assert_allclose(units.columns[kind], values, atol=1e-5)
    best = max(average_precision_score(labels, values) for values in kinds.values())
    assert result.curve(result.lines[0])[32] == pytest.approx(best, abs=1e-4)
    draw = np.random.default_rng(6).integers(0, 60, 60)
    resampled = [average_precision_score(labels[draw], units.columns[kind][draw]) for kind in kinds]
    counts = np.bincount(draw, minlength=60).astype(np.float64)[:, None]
    assert weighted_statistic(units)(counts)[0] == pytest.approx(max(resampled), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bitext", "BitextSubsets", "BitextParallel", "BitextMined"])
def test_texts_of_bitext_mining_are_hits_or_the_f1_of_their_own_translation(
    name: str, evaluated: Evaluate, tiny_bert: Path
) -> None:
    data = data_of(name)
    for (split, subset), item in items_of(evaluated(name), name).items():
        rows = data.get(subset, data)[split]
        left, right = subset.split("-") if name == "BitextParallel" else ("sentence1", "sentence2")
        found = (unit_vectors(tiny_bert, rows[left]) @ unit_vectors(tiny_bert, rows[right]).T).argmax(axis=1)
        gold = np.array([pair[1] for pair in rows["gold"]]) if name == "BitextMined" else np.arange(len(found))
        values = item.units.columns["value"]
        if name == "BitextParallel":
            np.testing.assert_array_equal(values, found == gold)
            continue
        assert values.mean() == pytest.approx(f1_score(gold, found, average="weighted", zero_division=0))
        alone = [f1_score(gold == label, found == label, zero_division=0) for label in gold]
        assert values.tolist() == pytest.approx(alone)


@pytest.mark.slow
def test_texts_of_summarisation_are_their_correlation_with_people(evaluated: Evaluate, tiny_bert: Path) -> None:
    expected = []
    for row in data_of("Summaries")["test"]:
        people, machine = (unit_vectors(tiny_bert, row[f"{who}_summaries"]) for who in ("human", "machine"))
        if len(set(row["relevance"])) > 1:
            expected.append(spearmanr((machine @ people.T).max(axis=1), row["relevance"]).statistic)
    values = the_item(evaluated("Summaries"), "Summaries").units.columns["value"]
    assert values.tolist() == pytest.approx(expected, abs=1e-9)


def _plain(name: str, model: Path) -> TaskResult:
    return by_mteb(SentenceTransformer(str(model)), TASKS[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Classes", "Labels", "Clusters", "ClustersInLevels", "ClustersByAmi", "ClusterSets"])
def test_experiments_are_those_of_plain_mteb(name: str, evaluated: Evaluate, tiny_bert: Path) -> None:
    items = items_of(evaluated(name), name)
    for scores in _plain(name, tiny_bert).scores["test"]:
        if "scores_per_experiment" in scores:
            expected = [one[TASKS[name].metadata.main_score] for one in scores["scores_per_experiment"]]
        else:
            levels = scores["ami_scores" if name == "ClustersByAmi" else "v_measures"]
            levels = list(levels.values()) if isinstance(levels, dict) else [levels]
            expected = [sum(experiment) / len(levels) for experiment in zip(*levels, strict=True)]
        values = items["test", scores["hf_subset"]].units.columns["value"]
        assert values.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_sizes_are_compared_on_the_same_items(evaluated: Evaluate) -> None:
    result = evaluated("RerankMerged", dims=(8, 32))
    small, full = (items_of(result, "RerankMerged", dim)["test", "default"].units for dim in (8, 32))
    assert small.ids.tolist() == full.ids.tolist() == [f"q{number}" for number in range(8)]
    (line,) = result.lines
    difference = result.compare("RerankMerged", line, 32, line, 8)
    expected = (full.columns["value"] - small.columns["value"]).mean()
    assert difference.mean == pytest.approx(expected, abs=1e-4)
    assert difference.n == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["InstructionChanged", "AnotherMain"])
def test_a_score_that_items_do_not_make_up_has_no_interval(
    name: str, evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(self: AbsTask, *args: Any, **where: str) -> dict[str, float]:
        return {"ndcg_at_10": 0.25}

    base = TASKS["Search_ndcg_at_10"]
    overriding = type("AnotherMain", (base,), {"task_specific_scores": another})
    overriding.metadata = base.metadata.model_copy(update={"name": "AnotherMain"})
    monkeypatch.setitem(eval_tasks.OWN_TASKS, "AnotherMain", overriding)
    result = evaluated(name, dims=(8, 32))
    assert items_of(result, name) == {}
    assert result.scores[["ci_low", "ci_high", "n"]].isna().all(axis=None)
    assert result.scores["score"].notna().all()
    (line,) = result.lines
    estimate = result.estimate(line, Cell(32))
    assert estimate is not None
    assert estimate.interval() is None
    with pytest.raises(ValueError, match="no per-item scores"):
        result.compare(name, line, 32, line, 8)


def _units(statistic: str, n: int, *columns: str, ids: Sequence[str] | None = None) -> Units:
    generator = np.random.default_rng(n)
    return Units(
        np.array(ids or [str(row) for row in range(n)], dtype=np.str_),
        {name: generator.random(n) for name in columns},
        statistic,
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    items = [
        Items("test", "de-en", "query", _units("mean", 3, "value", ids=["q/1", "ü 2", "a much longer name"])),
        Items("test", "default", "pair", _units("spearman", 5, "value", "gold")),
        Items("dev", "default", "pair", _units("ap", 4, "value_cosine", "value_dot", "gold")),
    ]
    file = tmp_path / "deep" / "items.parquet"
    write_items(file, items, {"data": "1", "mteb": "2", "calibration": "3 texts"})
    facts = read_facts(file)
    assert {key: facts[key] for key in ("data", "mteb", "calibration")} == {
        "data": "1",
        "mteb": "2",
        "calibration": "3 texts",
    }
    again = read_items(file)
    assert [(one.split, one.subset, one.unit, one.units.statistic) for one in again] == [
        (one.split, one.subset, one.unit, one.units.statistic) for one in items
    ]
    for one, other in zip(items, again, strict=True):
        assert one.units.ids.tolist() == other.units.ids.tolist()
        assert set(one.units.columns) == set(other.units.columns)
        for name, values in one.units.columns.items():
            np.testing.assert_array_equal(values, other.units.columns[name])
        assert one.units.score() == other.units.score()


def test_ids_do_not_depend_on_what_else_is_in_the_file(tmp_path: Path) -> None:
    short = Items("test", "a", "query", _units("mean", 3, "value"))
    long = Items("test", "b", "query", _units("mean", 2, "value", ids=["a long id", "another long id"]))
    write_items(tmp_path / "both", [short, long], {})
    write_items(tmp_path / "one", [short], {})
    both, one = (read_items(tmp_path / name)[0].units.ids for name in ("both", "one"))
    assert both.tobytes() == one.tobytes()  # this is how results tell that two were measured on the same items


def test_no_items_are_a_file_with_facts_only(tmp_path: Path) -> None:
    write_items(tmp_path / "none", [], {"data": "1"})
    assert read_items(tmp_path / "none") == []
    assert read_facts(tmp_path / "none")["data"] == "1"


def test_half_a_file_and_no_file_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    with pytest.raises(FileNotFoundError):
        read_facts(file)
    write_items(file, [Items("test", "a", "query", _units("mean", 3, "value"))], {})
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ValueError, match="Parquet"):
        read_facts(file)
