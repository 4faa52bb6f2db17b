"""A small task of every type of text task that mteb has, over the vocabulary of the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mteb
import numpy as np
from datasets import Dataset, DatasetDict
from mteb._evaluators.retrieval_metrics import evaluate_p_mrr_change, max_over_subqueries
from mteb.abstasks import (
    AbsTask,
    AbsTaskBitextMining,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
    AbsTaskMultilabelClassification,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.results import TaskResult
from sentence_transformers import SentenceTransformer

from tests.conftest import WORDS
from tests.eval.conftest import _metadata

TASKS: dict[str, type[AbsTask]] = {}
LANGUAGES = {"one": ["eng-Latn"], "two": ["deu-Latn"]}
CHANGED = {f"q{number}": [f"d{number}", f"d{number + 9}"] for number in range(8)}
"""Documents that the second instruction of a query makes irrelevant."""


def sentences(count: int, length: int, seed: int) -> list[str]:
    """Distinct sentences of random words: no two documents tie."""
    generator = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(generator.choice(WORDS, length))] = None
    return list(made)


def reworded(texts: Sequence[str], seed: int, keep: int = 3) -> list[str]:
    """Sentences that begin like others and go on differently."""
    others = sentences(len(texts), 4, seed)
    return [" ".join([*text.split()[:keep], other]) for text, other in zip(texts, others, strict=True)]


def _about(topics: Sequence[int], seed: int) -> list[str]:
    """Sentences with words of a topic in them."""
    others = sentences(len(topics), 4, seed)
    return [
        f"{WORDS[3 * topic + 5]} {other} {WORDS[3 * topic + 6]}" for topic, other in zip(topics, others, strict=True)
    ]


def _task(
    name: str,
    base: type[AbsTask],
    kind: str,
    main: str,
    data: Callable[[], Any],
    *,
    described: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> None:
    """Add a task that takes its data from a function."""

    def load_data(self: AbsTask, **kwargs: Any) -> None:
        self.dataset = data()
        self.data_loaded = True

    metadata = _metadata(name, kind, main).model_copy(update=described or {})
    TASKS[name] = type(name, (base,), {"metadata": metadata, "load_data": load_data, **attributes})


def _test(columns: Mapping[str, Any]) -> DatasetDict:
    return DatasetDict({"test": Dataset.from_dict(dict(columns))})


def _pairs() -> dict[str, list[Any]]:
    labels = np.random.default_rng(2).integers(0, 2, 60).tolist()
    first, other = sentences(60, 6, 1), sentences(60, 6, 3)
    similar = reworded(first, 4)
    second = [close if label else far for label, close, far in zip(labels, similar, other, strict=True)]
    return {"sentence1": first, "sentence2": second, "labels": labels}


_task("Pairs", AbsTaskPairClassification, "PairClassification", "max_ap", lambda: _test(_pairs()))
_task(
    "PairsInOneRow",
    AbsTaskPairClassification,
    "PairClassification",
    "cosine_ap",
    lambda: _test({name: [column] for name, column in _pairs().items()}),
)


def _sts(seed: int) -> Dataset:
    first = sentences(40, 5, seed)
    keep = np.random.default_rng(seed).integers(0, 5, 40)
    second = [reworded([text], seed + row, int(keep[row]))[0] for row, text in enumerate(first)]
    return Dataset.from_dict({"sentence1": first, "sentence2": second, "score": (keep + 0.5).tolist()})


_task(
    "ManySTS",
    AbsTaskSTS,
    "STS",
    "cosine_spearman",
    lambda: {
        subset: DatasetDict({split: _sts(seed + step) for step, split in ((0, "validation"), (100, "test"))})
        for subset, seed in (("one", 1000), ("two", 2000))
    },
    described={"eval_langs": LANGUAGES, "eval_splits": ["validation", "test"]},
    min_score=0,
    max_score=5,
)


def _clusters(labels: Sequence[Any]) -> DatasetDict:
    topics = [label[-1] if isinstance(label, list) else label for label in labels]
    return _test({"sentences": _about(topics, 5), "labels": labels})


_SAMPLES = {"max_fraction_of_documents_to_embed": None, "max_documents_per_cluster": 50, "n_clusters": 4}
_LEVELS = [[row % 2] if row % 5 == 0 else [row % 2, row % 4] for row in range(80)]  # not every text has both
_task(
    "Clusters",
    AbsTaskClustering,
    "Clustering",
    "v_measure",
    lambda: _clusters([row % 3 for row in range(80)]),
    **_SAMPLES,
)
_task("ClustersInLevels", AbsTaskClustering, "Clustering", "v_measure", lambda: _clusters(_LEVELS), **_SAMPLES)
_task("ClustersByAmi", AbsTaskClustering, "Clustering", "ami", lambda: _clusters(_LEVELS), **_SAMPLES)


def _cluster_sets() -> DatasetDict:
    topics = [row % 3 for row in range(30)]
    labels = [[f"topic {topic}" for topic in topics]] * 3
    return _test({"sentences": [_about(topics, seed) for seed in (6, 7, 8)], "labels": labels})


_task("ClusterSets", AbsTaskClusteringLegacy, "Clustering", "v_measure", _cluster_sets)


def _classes(seed: int, label: Callable[[int], Any]) -> DatasetDict:
    topics = [row % 3 for row in range(60)]
    parts = {"train": _about(topics, seed), "test": _about(topics, seed + 1)}
    labels = [label(topic) for topic in topics]
    return DatasetDict({name: Dataset.from_dict({"text": texts, "label": labels}) for name, texts in parts.items()})


_task(
    "Labels",
    AbsTaskMultilabelClassification,
    "MultilabelClassification",
    "accuracy",
    lambda: _classes(9, lambda topic: [topic, 3 + topic % 2]),
    n_experiments=3,
)
_task(
    "Classes",
    AbsTaskClassification,
    "Classification",
    "f1",
    lambda: {subset: _classes(seed, lambda topic: topic) for subset, seed in (("one", 11), ("two", 13))},
    described={"eval_langs": LANGUAGES},
    n_experiments=3,
    samples_per_label=4,
)


def search_data(
    *, ids: Sequence[str] | None = None, instructions: bool = False, candidates: bool = False
) -> dict[str, dict[str, RetrievalSplitData]]:
    """Fifty documents with titles; a query has two relevant ones, graded 2 and 1."""
    names = list(ids or [f"q{number}" for number in range(20)])
    bases = list(dict.fromkeys(name.partition("_")[0].partition("-")[0] for name in names))
    texts, titles = sentences(50, 8, 15), sentences(50, 2, 16)
    queries: dict[str, list[str]] = {"id": names, "text": []}
    relevant, ranked = {}, {}
    for row, name in enumerate(names):
        target = bases.index(name.partition("_")[0].partition("-")[0])  # what belongs together has the same answers
        queries["text"].append(reworded([texts[target]], 100 + row, 5)[0])
        relevant[name] = {f"d{target}": 2, f"d{target + 9}": 1, f"d{target + 3}": 0}
        ranked[name] = [f"d{(target + step) % 50}" for step in range(-6, 14)]
    if instructions:
        queries["instruction"] = [f"find {text}" for text in sentences(len(names), 3, 17)]
    corpus = {"id": [f"d{number}" for number in range(50)], "title": titles, "text": texts}
    parts = RetrievalSplitData(
        corpus=Dataset.from_dict(corpus),
        queries=Dataset.from_dict(queries),
        relevant_docs=relevant,
        top_ranked=ranked if candidates else None,
    )
    return {"default": {"test": parts}}


def _search_task(name: str, kind: str, main: str, data: Mapping[str, Any] | None = None, **attributes: Any) -> None:
    given = {"instructions": kind.startswith("Instruction"), "candidates": kind.endswith("Reranking"), **(data or {})}
    described = {"category": "t2t"}
    _task(name, AbsTaskRetrieval, kind, main, lambda: search_data(**given), described=described, **attributes)


def _merged(self: AbsTask, scores: Any, qrels: Any, results: Any, **where: str) -> dict[str, float]:
    return max_over_subqueries(qrels, results, self.k_values)


def _p_mrr(self: AbsTask, scores: Any, qrels: Any, results: Any, **where: str) -> dict[str, Any]:
    return evaluate_p_mrr_change(qrels, results, CHANGED, self.k_values)


for _main in ("ndcg_at_10", "mrr_at_10", "recall_at_10"):
    _search_task(f"Search_{_main}", "Retrieval", _main)
_search_task("Rerank", "Reranking", "map_at_1000")
_search_task("RerankByAccuracy", "Reranking", "accuracy")
_subqueries = [f"q{number}_{part}" for number in range(8) for part in range(1 + number % 3)]
_search_task(
    "RerankMerged",
    "Reranking",
    "max_over_subqueries_map_at_1000",
    {"ids": _subqueries},
    task_specific_scores=_merged,
)
_search_task("WithoutFirst", "Retrieval", "ndcg_at_10", skip_first_result=True)
_search_task(
    "OthersThanItself",
    "Retrieval",
    "ndcg_at_10",
    {"ids": [f"d{number}" for number in range(5, 20)]},
    ignore_identical_ids=True,
)
_search_task("Instructed", "InstructionRetrieval", "ndcg_at_20")
_versions = [f"q{number}-{version}" for number in range(8) for version in ("og", "changed")]
_search_task("InstructionChanged", "InstructionReranking", "p-MRR", {"ids": _versions}, task_specific_scores=_p_mrr)


def _translations() -> tuple[list[str], list[str]]:
    left = sentences(40, 6, 20)
    return left, reworded(left, 21, 4)


def _mined() -> dict[str, dict[str, dict[str, list[Any]]]]:
    """As in BUCC: two lists of different length, and which belongs to which."""
    left, right = _translations()
    order = np.random.default_rng(22).permutation(40)
    gold = [(row, int(np.flatnonzero(order == row)[0])) for row in range(30)]
    gold[-1] = (29, gold[0][1])  # two with the same translation
    mixed = [right[row] for row in order] + sentences(20, 6, 23)
    return {"one-two": {"test": {"sentence1": left[:30], "sentence2": mixed, "gold": gold}}}


def _in_subsets() -> dict[str, DatasetDict]:
    left, right = _translations()
    return {
        subset: _test({"sentence1": first, "sentence2": second})
        for subset, first, second in (("one-two", left, right), ("two-one", right, left))
    }


def _bitext_task(name: str, main: str, data: Callable[[], Any], *subsets: str, **attributes: Any) -> None:
    described = {"eval_langs": {subset: LANGUAGES[subset[:3]] for subset in subsets}} if subsets else {}
    _task(name, AbsTaskBitextMining, "BitextMining", main, data, described=described, **attributes)


def _columns(*names: str) -> DatasetDict:
    return _test(dict(zip(names, _translations(), strict=True)))


_bitext_task("Bitext", "f1", lambda: _columns("sentence1", "sentence2"))
_bitext_task("BitextSubsets", "f1", _in_subsets, "one-two", "two-one")
_bitext_task("BitextParallel", "accuracy", lambda: _columns("one", "two"), "one-two", "two-one", parallel_subsets=True)
_bitext_task("BitextMined", "f1", _mined, "one-two")


def _summaries() -> DatasetDict:
    texts = sentences(12, 10, 30)
    relevance = np.random.default_rng(31).integers(0, 6, (12, 6)).astype(float).tolist()
    relevance[3] = [4.0] * 6  # nothing to correlate: mteb leaves the text out
    rows = {
        "text": texts,
        "human_summaries": [reworded([text] * 2, 32 + row, 5) for row, text in enumerate(texts)],
        "machine_summaries": [
            [reworded([text], 60 + 7 * row + rank, int(score))[0] for rank, score in enumerate(relevance[row])]
            for row, text in enumerate(texts)
        ],
        "relevance": relevance,
    }
    return _test(rows)


_task("Summaries", AbsTaskSummarization, "Summarization", "cosine_spearman", _summaries, min_score=0, max_score=5)


def by_mteb(model: SentenceTransformer, task: AbsTask, *, normalize: bool = True) -> TaskResult:
    """What mteb alone finds, with plain sentence-transformers."""
    return mteb.evaluate(
        model,
        task,
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs={"normalize_embeddings": normalize},
    ).task_results[0]
