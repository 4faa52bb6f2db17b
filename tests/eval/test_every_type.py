"""Every type of mteb's text tasks, small: scores as plain mteb gives them, and items that make up the score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskBitextMining,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
    AbsTaskMultilabelClassification,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from sentence_transformers import SentenceTransformer

from mrl_text.eval import sweep
from mrl_text.eval import tasks as eval_tasks
from mrl_text.eval.items import read_items
from mrl_text.eval.results import items_file
from mrl_text.eval.tasks import TaskLoader
from tests.conftest import WORDS
from tests.eval.conftest import _metadata, _sentence

TYPES: dict[str, type[AbsTask]] = {}


def _described(name: str, kind: str, main: str, **changes: Any) -> Any:
    return _metadata(name, kind, main).model_copy(update={"category": "t2t", **changes})


def _small(task: type[AbsTask]) -> type[AbsTask]:
    TYPES[task.metadata.name] = task
    return task


class _Given:
    """Takes its data from a method instead of a hub."""

    def load_data(self, **kwargs: Any) -> None:
        self.dataset = self.data()  # type: ignore[attr-defined]
        self.data_loaded = True


def _pairs() -> dict[str, list[Any]]:
    generator = np.random.default_rng(1)
    return {
        "sentence1": [_sentence(index) for index in range(60)],
        "sentence2": [_sentence(index + int(generator.integers(0, 3)), 6) for index in range(60)],
        "labels": [int(value) for value in generator.integers(0, 2, 60)],
    }


@_small
class Pairs(_Given, AbsTaskPairClassification):
    metadata = _described("Pairs", "PairClassification", "max_ap")

    def data(self) -> DatasetDict:
        return DatasetDict({"test": Dataset.from_dict(_pairs())})


@_small
class PairsInOneRow(Pairs):
    metadata = _described("PairsInOneRow", "PairClassification", "cosine_ap")

    def data(self) -> DatasetDict:
        return DatasetDict({"test": Dataset.from_dict({name: [column] for name, column in _pairs().items()})})


@_small
class Clusters(_Given, AbsTaskClustering):
    metadata = _described("Clusters", "Clustering", "v_measure")
    max_fraction_of_documents_to_embed = None
    max_documents_per_cluster, n_clusters = 40, 4

    def data(self) -> DatasetDict:
        texts = [f"{_sentence(index)} {WORDS[index % 4]}" for index in range(80)]
        labels = [[index % 2, index % 4] for index in range(80)]
        return DatasetDict({"test": Dataset.from_dict({"sentences": texts, "labels": labels})})


@_small
class OldClusters(_Given, AbsTaskClusteringLegacy):
    metadata = _described("OldClusters", "Clustering", "v_measure")

    def data(self) -> DatasetDict:
        sets = [[f"{_sentence(index + shift)} {WORDS[index % 3]}" for index in range(30)] for shift in (0, 40, 80)]
        labels = [[str(index % 3) for index in range(30)]] * 3
        return DatasetDict({"test": Dataset.from_dict({"sentences": sets, "labels": labels})})


@_small
class Labels(_Given, AbsTaskMultilabelClassification):
    metadata = _described("Labels", "MultilabelClassification", "accuracy")
    n_experiments = 4

    def data(self) -> DatasetDict:
        def rows(start: int) -> Dataset:
            texts = [
                f"{_sentence(index)} {WORDS[index % 2]} {WORDS[5 + index % 3]}" for index in range(start, start + 60)
            ]
            labels = [[index % 2, 2 + index % 3] for index in range(start, start + 60)]
            return Dataset.from_dict({"text": texts, "label": labels})

        return DatasetDict({"train": rows(0), "test": rows(100)})


def _corpus(top_ranked: bool, instructions: bool = False) -> RetrievalSplitData:
    queries = {"id": [f"q_{number}" for number in range(20)], "text": [_sentence(index, 4) for index in range(20)]}
    if instructions:
        queries["instruction"] = [f"find {WORDS[index]}" for index in range(20)]
    ids = [f"d{index}" for index in range(50)]
    return RetrievalSplitData(
        corpus=Dataset.from_dict({"id": ids, "title": (WORDS * 2)[:50], "text": [_sentence(i, 9) for i in range(50)]}),
        queries=Dataset.from_dict(queries),
        relevant_docs={f"q_{i}": {f"d{i}": 2, f"d{(i + 9) % 50}": 1} for i in range(20)},
        top_ranked={f"q_{i}": [f"d{(i + step) % 50}" for step in range(12)] for i in range(20)} if top_ranked else None,
    )


class _Retrieval(_Given, AbsTaskRetrieval):
    metadata = _described("Base", "Retrieval", "ndcg_at_10")

    def data(self) -> dict[str, Any]:
        ranked = self.metadata.type == "Reranking"
        return {"default": {"test": _corpus(ranked, instructions=self.metadata.type == "InstructionRetrieval")}}


for _main in ("ndcg_at_10", "mrr_at_10", "recall_at_10", "hit_rate_at_5", "precision_at_1"):
    _small(type(f"R_{_main}", (_Retrieval,), {"metadata": _described(f"R_{_main}", "Retrieval", _main)}))
_small(type("Rerank", (_Retrieval,), {"metadata": _described("Rerank", "Reranking", "map_at_1000")}))
_small(type("Instruct", (_Retrieval,), {"metadata": _described("Instruct", "InstructionRetrieval", "ndcg_at_20")}))


@_small
class Bitext(_Given, AbsTaskBitextMining):
    metadata = _described("Bitext", "BitextMining", "f1", eval_langs={"aa-bb": ["eng-Latn"], "bb-aa": ["deu-Latn"]})

    def data(self) -> dict[str, DatasetDict]:
        left, right = [_sentence(index, 6) for index in range(40)], [_sentence(index, 7) for index in range(40)]
        columns = {"aa-bb": (left, right), "bb-aa": (right, left)}
        return {
            subset: DatasetDict({"test": Dataset.from_dict({"sentence1": first, "sentence2": second})})
            for subset, (first, second) in columns.items()
        }


@_small
class ParallelBitext(_Given, AbsTaskBitextMining):
    metadata = _described("ParallelBitext", "BitextMining", "accuracy", eval_langs={"aa-bb": ["eng-Latn"]})
    parallel_subsets = True

    def data(self) -> DatasetDict:
        columns = {"aa": [_sentence(index, 6) for index in range(40)], "bb": [_sentence(i, 7) for i in range(40)]}
        return DatasetDict({"test": Dataset.from_dict(columns)})


@_small
class Summaries(_Given, AbsTaskSummarization):
    metadata = _described("Summaries", "Summarization", "cosine_spearman")
    min_score, max_score = 0, 5

    def data(self) -> DatasetDict:
        rows = {
            "text": [_sentence(index, 12) for index in range(15)],
            "human_summaries": [[_sentence(index, 5), _sentence(index, 6)] for index in range(15)],
            "machine_summaries": [[_sentence(index + step, 5) for step in range(6)] for index in range(15)],
            "relevance": [[float((5 - step + index) % 6) for step in range(6)] for index in range(15)],
        }
        return DatasetDict({"test": Dataset.from_dict(rows)})


@_small
class ManySTS(_Given, AbsTaskSTS):
    """Two subsets, two splits."""

    metadata = _described(
        "ManySTS",
        "STS",
        "cosine_spearman",
        eval_langs={"en": ["eng-Latn"], "de": ["deu-Latn"]},
        eval_splits=["validation", "test"],
    )
    min_score, max_score = 0, 5

    def data(self) -> dict[str, DatasetDict]:
        def rows(shift: int) -> Dataset:
            first, second = ([_sentence(i + shift + step) for i in range(30)] for step in (0, 1))
            score = [float((i * 7 + shift) % 11) / 2 for i in range(30)]
            return Dataset.from_dict({"sentence1": first, "sentence2": second, "score": score})

        return {
            "en": DatasetDict({"validation": rows(0), "test": rows(30)}),
            "de": DatasetDict({"validation": rows(60), "test": rows(90)}),
        }


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[AbsTask]]:
    for name, task in TYPES.items():
        monkeypatch.setitem(eval_tasks.OWN_TASKS, name, task)
    return TYPES


@pytest.mark.parametrize("name", TYPES)
def test_scores_are_those_of_plain_mteb_and_items_make_them_up(
    name: str, types: dict[str, type[AbsTask]], tiny_bert: Path, tmp_path: Path
) -> None:
    result = sweep([str(tiny_bert)], [name], output=tmp_path, dims=[8, 32], controls=[])
    (line,) = result.lines
    for dim in (8, 32):
        rows = result.scores[(result.scores["dim"] == dim) & (result.scores["precision"] == "float32")]
        plain = mteb.evaluate(
            SentenceTransformer(str(tiny_bert), truncate_dim=dim),
            types[name](),
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"normalize_embeddings": True},
        ).task_results[0]
        expected = {
            (split, scores["hf_subset"]): scores["main_score"]
            for split, subsets in plain.scores.items()
            for scores in subsets
        }
        measured = {(row.split, row.subset): row.score for row in rows.itertuples()}
        assert measured == pytest.approx(expected, abs=2e-4)
    for cell in result.cells(line):
        (variant,) = line.variants(cell)
        items = {(one.split, one.subset): one for one in read_items(items_file(tmp_path, variant, name))}
        rows = result.scores[(result.scores["dim"] == cell.dim) & (result.scores["precision"] == cell.precision)]
        assert set(items) == set(zip(rows["split"], rows["subset"], strict=True))
        for row in rows.itertuples():
            assert items[row.split, row.subset].units.score() == pytest.approx(row.score, abs=1e-4)
            assert row.n == len(items[row.split, row.subset].units) > 1
            assert row.ci_low <= row.score + 1e-9
            assert row.score <= row.ci_high + 1e-9


def test_every_text_goes_through_the_model_once(
    types: dict[str, type[AbsTask]], tiny_bert: Path, tmp_path: Path
) -> None:
    once = sweep([str(tiny_bert)], list(types), output=tmp_path / "grid", dims=[8, 16, 32])
    full = sweep(
        [str(tiny_bert)], list(types), output=tmp_path / "full", dims=[32], precisions=["float32"], controls=[]
    )
    assert once.encoded == full.encoded


def test_reranking_without_candidates_is_refused(
    types: dict[str, type[AbsTask]], tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(types["Rerank"], "data", lambda self: {"default": {"test": _corpus(top_ranked=False)}})
    with pytest.raises(ValueError, match=r"Rerank .* does not say which documents to rank"):
        sweep([str(tiny_bert)], ["Rerank"], output=tmp_path, dims=[8])


def test_int8_is_calibrated_on_documents_and_says_so(
    types: dict[str, type[AbsTask]], tiny_bert: Path, tmp_path: Path
) -> None:
    result = sweep([str(tiny_bert)], ["R_ndcg_at_10", "Labels"], output=tmp_path, dims=[32], controls=[])
    int8 = result.scores[result.scores["precision"] == "int8"].set_index("task")["calibration"]
    assert int8["R_ndcg_at_10"] == "50 documents of the task"
    assert int8["Labels"].endswith("texts of the task")
    assert int(int8["Labels"].split()[0]) <= 60  # of the training split, not of the 60 test texts besides


def test_the_benchmark_of_english_tasks_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.eval.tasks.unavailable", lambda tasks: {})
    loader = TaskLoader(benchmark="MTEB(eng, v2)")
    assert len(loader.names) == 41
    assert loader.prototype("STS17").hf_subsets == ["en-en"]
    assert loader.prototype("MassiveIntentClassification").hf_subsets == ["en"]
    narrowed = TaskLoader(["STS17"], languages=["deu"])
    assert sorted(narrowed.prototype("STS17").hf_subsets) == ["en-de"]
    chosen = TaskLoader(["PoemSentimentClassification"], splits=["validation"])
    assert chosen.prototype("PoemSentimentClassification").eval_splits == ["validation"]
    assert chosen.fingerprint("PoemSentimentClassification") != TaskLoader(["PoemSentimentClassification"]).fingerprint(
        "PoemSentimentClassification"
    )
    with pytest.raises(ValueError, match="no split 'tests'"):
        TaskLoader(["PoemSentimentClassification"], splits=["tests"])


def test_what_cannot_run_is_left_out_at_the_start_when_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mrl_text.eval.tasks.unavailable", lambda tasks: {"STS12": "gated", "STS13": "gated"})
    with pytest.raises(FileNotFoundError, match=r"STS12, STS13 \(gated\). --keep-going"):
        TaskLoader(["STS12", "STS13", "STSBenchmark"])
    loader = TaskLoader(["STS12", "STS13", "STSBenchmark"], keep_going=True)
    assert loader.names == ("STSBenchmark",)
    assert loader.left_out == {"STS12": "gated", "STS13": "gated"}
