"""Every type of task: the scores of plain mteb at every size and precision, from one pass over the texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from mrl_text.eval import sweep
from mrl_text.eval import tasks as eval_tasks
from mrl_text.eval.grid import Cell, Variant
from mrl_text.eval.items import read_facts
from mrl_text.eval.results import items_file
from mrl_text.eval.tasks import TaskLoader
from tests.coding import stood_for
from tests.eval.task_types import TASKS, by_mteb, search_data

DIMS = [8, 32]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, task in TASKS.items():
        monkeypatch.setitem(eval_tasks.OWN_TASKS, name, task)


class Listening(SentenceTransformer):
    """Remembers what it encodes."""

    heard: set[str]

    def encode(self, inputs: list[str], *args: Any, **kwargs: Any) -> Any:
        self.heard = {*getattr(self, "heard", ()), *inputs}
        return super().encode(inputs, *args, **kwargs)


class Rounding(SentenceTransformer):
    """Codes in plain numpy; one text at a time, since numbers differ in the last digit between batches."""

    coded: Callable[[np.ndarray], np.ndarray]
    asked: Callable[[np.ndarray], np.ndarray]

    def encode(self, inputs: list[str], *args: Any, **kwargs: Any) -> np.ndarray:
        return self.coded(self._whole(inputs))

    def encode_query(self, inputs: list[str], *args: Any, **kwargs: Any) -> np.ndarray:
        return self.asked(self._whole(inputs))

    def _whole(self, inputs: list[str]) -> np.ndarray:
        return unit(np.asarray(super().encode(inputs, batch_size=1, show_progress_bar=False)))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def plain_scores(model: SentenceTransformer, name: str) -> dict[tuple[str, str], float]:
    """(split, subset) -> main score, by mteb alone."""
    result = by_mteb(model, TASKS[name]())
    return {
        (split, scores["hf_subset"]): scores["main_score"]
        for split, subsets in result.scores.items()
        for scores in subsets
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_task_of_every_type_scores_as_in_plain_mteb(name: str, tiny_bert: Path, tmp_path: Path) -> None:
    result = sweep([str(tiny_bert)], [name], output=tmp_path, dims=DIMS, controls=[])
    table = result.scores.set_index(["precision", "dim", "split", "subset"])["score"].sort_index()
    models = {dim: Listening(str(tiny_bert), truncate_dim=dim) for dim in DIMS}
    expected = {dim: plain_scores(model, name) for dim, model in models.items()}
    for dim, scores in expected.items():
        assert table["float32", dim].to_dict() == pytest.approx(scores, abs=1e-4)
    assert expected[8] != expected[32]  # a size says something on this task
    assert list(result.encoded.values()) == [len(models[32].heard)]  # each distinct text once
    for precision, tolerance in (("float16", 0.02), ("int8", 0.15), ("int4", 0.3)):
        assert table[precision, 32].to_dict() == pytest.approx(expected[32], abs=tolerance)
    assert table["binary"].between(-1, 1).all()
    assert table["binary", 32].to_dict() != table["float32", 32].to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Pairs", "Rerank"])
def test_more_sizes_precisions_and_controls_cost_no_further_pass(name: str, tiny_bert: Path, tmp_path: Path) -> None:
    model = Listening(str(tiny_bert))
    plain_scores(model, name)
    result = sweep([str(tiny_bert)], [name], output=tmp_path, dims=[8, 16, 32], cache="none")
    assert list(result.encoded.values()) == [len(model.heard)]
    assert {line.method for line in result.lines} == {"truncation", "pca", "random"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Pairs", "Search_ndcg_at_10", "Summaries"])
def test_a_cell_is_plain_mteb_on_vectors_coded_by_hand(name: str, tiny_bert: Path, tmp_path: Path) -> None:
    result = sweep(
        [str(tiny_bert)],
        [name],
        output=tmp_path,
        dims=[16],
        comparisons=["asymmetric", "symmetric"],
        controls=[],
        batch_size=1,
    )
    (line,) = result.lines

    def measured(what: str, cell: Cell) -> np.ndarray:
        return np.array(json.loads(read_facts(items_file(tmp_path, Variant(line, cell), name))[what])["default"])

    low, high = measured("ranges", Cell(16, "int8", "symmetric"))
    scales = measured("scales", Cell(16, "int2"))

    def levels(whole: np.ndarray, precision: str) -> np.ndarray:
        return unit(stood_for(whole, scales, precision)[:, :16]).astype(np.float32)

    coded: dict[tuple[str, str], Callable[[np.ndarray], np.ndarray]] = {
        ("float32", "asymmetric"): lambda whole: unit(whole[:, :16]),
        ("float16", "asymmetric"): lambda whole: unit(whole[:, :16]).astype(np.float16).astype(np.float32),
        ("int8", "symmetric"): lambda whole: _bucket_centres(unit(whole[:, :16]), low, high),
        ("int8", "asymmetric"): lambda whole: levels(whole, "int8"),
    }
    for comparison in ("asymmetric", "symmetric"):
        coded["int4", comparison] = lambda whole: levels(whole, "int4")
        coded["int2", comparison] = lambda whole: levels(whole, "int2")
        coded["binary", comparison] = lambda whole: np.where(whole[:, :16] > 0, 0.25, -0.25).astype(np.float32)
    model = Rounding(str(tiny_bert))
    assert {cell.sequence[:2] for cell in result.cells(line)} == set(coded)
    for (precision, comparison), how in coded.items():
        model.coded = how
        model.asked = how if comparison == "symmetric" else coded["float32", "asymmetric"]
        (expected,) = plain_scores(model, name).values()
        found = result.curve(line, precision, comparison=comparison)  # type: ignore[arg-type]
        assert found[16] == pytest.approx(expected, abs=1e-4), (precision, comparison)


def _bucket_centres(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """255 steps between the ends of each dimension, 256 codes: the last is for the end itself."""
    step = (high - low) / 255
    bucket = np.clip(np.floor((values - low) / step), 0, 255)
    return (low + (bucket + 0.5) * step).astype(np.float32)


def test_reranking_that_would_become_retrieval_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_candidates(self: Any, **kwargs: Any) -> None:
        self.dataset, self.data_loaded = search_data(), True

    assert TaskLoader(["Rerank"]).fresh("Rerank").dataset["default"]["test"]["top_ranked"]
    monkeypatch.setattr(TASKS["Rerank"], "load_data", without_candidates)
    with pytest.raises(ValueError, match=r"Rerank \(default, test\) is a reranking task.*top_ranked.*mrl-text mirror"):
        TaskLoader(["Rerank"]).fresh("Rerank")
    monkeypatch.setattr(TASKS["Search_ndcg_at_10"], "load_data", without_candidates)
    assert TaskLoader(["Search_ndcg_at_10"]).fresh("Search_ndcg_at_10").dataset  # retrieval needs none


@pytest.fixture
def all_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.eval.tasks.unavailable", lambda tasks: {})


@pytest.mark.slow
@pytest.mark.usefixtures("all_present")
def test_a_benchmark_stands_for_its_tasks_languages_and_splits() -> None:
    loader = TaskLoader(benchmark="MTEB(eng, v2)", keep_going=True)
    assert len(loader.names) == 41
    assert loader.prototype("STS17").hf_subsets == ["en-en"]
    assert loader.prototype("STS22.v2").hf_subsets == ["en"]
    for task in mteb.get_benchmark("MTEB(eng, v2)").tasks:
        ours = loader.prototype(task.metadata.name)
        assert set(ours.hf_subsets) == set(task.hf_subsets)
        assert list(ours.eval_splits) == list(task.eval_splits)
    with pytest.raises(ValueError, match=r"no benchmark named 'MTEB\(eng, v3\)'.*MTEB\(eng, v2\)"):
        TaskLoader(benchmark="MTEB(eng, v3)")


@pytest.mark.usefixtures("all_present")
def test_a_task_is_narrowed_to_languages_subsets_and_splits() -> None:
    def chosen(name: str, **filters: Any) -> tuple[list[str], list[str]]:
        task = TaskLoader([name], **filters).prototype(name)
        return sorted(task.hf_subsets), sorted(task.eval_splits)

    assert chosen("STS17", languages=["spa"])[0] == ["es-en", "es-es"]
    assert chosen("STS17", subsets=["en-de", "en-en"])[0] == ["en-de", "en-en"]
    assert chosen("MassiveIntentClassification", languages=["deu-Latn", "fra"])[0] == ["de", "fr"]
    assert chosen("PoemSentimentClassification")[1] == ["test", "validation"]
    assert chosen("PoemSentimentClassification", splits=["validation"])[1] == ["validation"]
    with pytest.raises(ValueError, match=r"STS17 has no subset 'xx-yy': there are .*en-en"):
        TaskLoader(["STS17"], subsets=["xx-yy"])
    with pytest.raises(ValueError, match=r"PoemSentimentClassification has no split 'dev'.*validation"):
        TaskLoader(["PoemSentimentClassification"], splits=["dev"])
    with pytest.raises(ValueError, match=r"STS17 has nothing in fin; it is in .*eng"):
        TaskLoader(["STS17"], languages=["fin"])


@pytest.mark.usefixtures("all_present")
def test_another_selection_of_the_same_task_is_other_data() -> None:
    prints = {
        TaskLoader(["STS17"], **filters).fingerprint("STS17")
        for filters in ({}, {"subsets": ["en-de"]}, {"subsets": ["en-en"]})
    }
    assert len(prints) == 3
    assert TaskLoader(["STS17"], languages=["eng"], subsets=["en-en"]).fingerprint("STS17") in prints


def test_tasks_that_cannot_run_are_named_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.eval.tasks.unavailable", lambda tasks: {"STS12": "gated: accept the terms"})
    with pytest.raises(FileNotFoundError, match=r"STS12 \(gated: accept the terms\).*--keep-going"):
        TaskLoader(["STS12", "STSBenchmark"])
    loader = TaskLoader(["STS12", "STSBenchmark", "Pairs"], keep_going=True)
    assert sorted(loader.names) == ["Pairs", "STSBenchmark"]
    assert loader.left_out == {"STS12": "gated: accept the terms"}
    with pytest.raises(FileNotFoundError, match="none of the tasks can run here"):
        TaskLoader(["STS12"], keep_going=True)
