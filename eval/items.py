"""The per-item scores behind a task's main score: kept in a file, resampled for intervals."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytrec_eval
from mteb.abstasks import AbsTask
from mteb.results import TaskResult
from scipy import stats
from sklearn.metrics import f1_score

from mrl_text.amounts import FEW, count
from mrl_text.files import write_atomically

from .encoders import RecordingSearch
from .statistics import Units, mean_units

_TYPES_WITH_PREDICTIONS = ("STS", "PairClassification", "BitextMining", "Summarization")

_MERGED = "max_over_subqueries_"
_TREC = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "hit_rate": "success"}


@dataclass(frozen=True)
class Items:
    """The units of one split and subset, and the word for one of them."""

    split: str
    subset: str
    unit: str
    units: Units


@dataclass(frozen=True)
class Sample:
    """How many units the score of a task rests on, and the word for one of them; an older table names none."""

    n: int
    unit: str

    def __str__(self) -> str:
        return count(self.n, self.unit or "item")

    @property
    def few(self) -> bool:
        """Whether these are too few items; an experiment has many, and a handful of experiments is enough."""
        return self.unit not in ("", "experiment") and self.n < FEW


def from_predictions(task: AbsTask) -> bool:
    """Whether the items of a task come from the predictions that mteb writes.

    A classifier that is trained once gives items, too; where training is repeated the experiments are the units.
    """
    once = task.metadata.type == "Classification" and task.n_experiments == 1
    return once or task.metadata.type in _TYPES_WITH_PREDICTIONS


def collect_items(
    task: AbsTask,
    result: TaskResult,
    search: RecordingSearch | None,
    predictions: Path | None,
    *,
    by_hamming: bool = False,
) -> list[Items]:
    """The units of every split and subset of a result.

    Queries of retrieval and reranking tasks, pairs of STS and pair classification, texts of bitext mining and
    summarisation. Classification and clustering tasks repeat experiments on samples: these are the units, unless there
    is one experiment only, of which the texts are. A split and subset is left out where its units do not reproduce the
    main score, or where its type has none.
    ``task`` has its data loaded, ``search`` is what answered a retrieval task, ``predictions`` mteb's file
    (:func:`from_predictions`). With ``by_hamming`` every measure is the model's own similarity
    (:func:`mrl_text.eval.encoders.with_hamming`).
    """
    predicted = json.loads(predictions.read_text(encoding="utf-8")) if predictions and predictions.is_file() else {}
    collected = []
    for split, subsets in result.scores.items():
        for scores in subsets:
            subset, main = scores["hf_subset"], task.metadata.main_score
            found: Items | None
            if search is not None:
                found = _queries(task, search, split, subset, main)
            elif (answer := predicted.get(subset, predicted.get("parallel", {})).get(split)) is not None:
                found = _predicted(task, answer, split, subset, main, by_hamming)
            else:
                found = _experiments(scores, split, subset, main)
            if found is not None and abs(found.units.score() - scores["main_score"]) < 1e-4:
                collected.append(found)
    return collected


def write_items(file: Path, items: list[Items], facts: Mapping[str, str]) -> None:
    """Write items as Parquet: split, subset, id, and the numbers that make the score; ``facts`` as metadata."""
    parts = [
        pd.DataFrame({"split": one.split, "subset": one.subset, "id": one.units.ids.tolist(), **one.units.columns})
        for one in items
    ]
    table = pd.concat(parts) if parts else pd.DataFrame(columns=["split", "subset", "id"])
    kinds = {f"{one.split}/{one.subset}": [one.units.statistic, one.unit] for one in items}
    columns = [*table.columns[:3], *sorted(table.columns[3:])]
    schema = pa.schema(
        [(name, pa.string() if name in ("split", "subset", "id") else pa.float64()) for name in columns],
        metadata={**facts, "statistics": json.dumps(kinds)},
    )
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table[columns], schema, preserve_index=False).cast(schema), stream)
    write_atomically(file, stream.getvalue())


def read_facts(file: Path) -> dict[str, str]:
    """The facts that :func:`write_items` stored; FileNotFoundError without the file, ValueError if it is not whole."""
    metadata = pq.read_schema(file).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def read_items(file: Path) -> list[Items]:
    """Read the items that :func:`write_items` wrote."""
    table = pq.read_table(file)
    statistics = json.loads((table.schema.metadata or {})[b"statistics"])
    frame = table.to_pandas()
    items = []
    for key, (statistic, unit) in statistics.items():
        split, _, subset = key.partition("/")
        own = frame[(frame["split"] == split) & (frame["subset"] == subset)]
        columns = {name: own[name].to_numpy() for name in frame.columns[3:] if own[name].notna().all()}
        # strings as wide as the longest of these, whatever else the file holds
        ids = np.array(own["id"].tolist(), dtype=np.str_)
        items.append(Items(split, subset, unit, Units(ids, columns, statistic)))
    return items


def _queries(task: AbsTask, search: RecordingSearch, split: str, subset: str, main: str) -> Items | None:
    """Score each query with the evaluator that mteb uses."""
    merged, plain = main.startswith(_MERGED), main.removeprefix(_MERGED)
    plain = "recall_at_1" if plain == "accuracy" else plain  # mteb's name for the metric where one answer is right
    match = re.fullmatch(r"(ndcg|map|recall|precision|hit_rate|mrr)_at_(\d+)", plain)
    if match is None:
        return None
    judgements, ranking = task.dataset[subset][split]["relevant_docs"], search.rankings[split, subset]
    if merged:
        judgements, ranking = _merge_subqueries(judgements, ranking)
    elif task.skip_first_result:
        ranked = {
            query: sorted(found.items(), key=lambda pair: pair[1], reverse=True) for query, found in ranking.items()
        }
        ranking = {query: dict(found[1:]) for query, found in ranked.items()}
    name, depth = match[1], int(match[2])
    if name == "mrr":
        scores = {query: _reciprocal_rank(ranking[query], judgements[query], depth) for query in ranking}
    else:
        scores = query_scores(judgements, ranking, name, depth)
    ordered = sorted(scores)
    return Items(split, subset, "query", mean_units([scores[query] for query in ordered], ordered))


def query_scores(
    judgements: Mapping[str, Mapping[str, int]], ranking: Mapping[str, Mapping[str, float]], measure: str, depth: int
) -> dict[str, float]:
    """Score the ranking of every query as trec_eval does.

    ``judgements`` are query -> document -> grade, where 0 is not relevant, ``ranking`` query -> document -> similarity;
    ``measure`` is ``ndcg``, ``map``, ``recall``, ``precision`` or ``hit_rate``, ``depth`` how many documents count.

    Returns:
        Query -> score, 0 to 1.
    """
    name = _TREC[measure]
    measured = pytrec_eval.RelevanceEvaluator(judgements, {f"{name}.{depth}"}).evaluate(ranking)
    return {query: scores[f"{name}_{depth}"] for query, scores in measured.items()}


def _merge_subqueries(
    judgements: Mapping[str, Mapping[str, int]], ranking: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, Mapping[str, int]], dict[str, dict[str, float]]]:
    """Merge queries whose ids differ only after the last ``_``. A document gets its highest similarity among them."""
    judged: dict[str, Mapping[str, int]] = {}
    best: dict[str, dict[str, float]] = {}
    for query, relevant in judgements.items():
        base = query.rpartition("_")[0]
        judged[base] = relevant
        found = best.setdefault(base, {})
        for document, similarity in ranking[query].items():
            found[document] = max(similarity, found.get(document, similarity))
    return judged, best


def _reciprocal_rank(found: Mapping[str, float], judged: Mapping[str, int], depth: int) -> float:
    best = sorted(found, key=lambda document: (found[document], document), reverse=True)[:depth]
    return next((1 / rank for rank, document in enumerate(best, 1) if judged.get(document, 0) > 0), 0.0)


def _predicted(task: AbsTask, answer: Any, split: str, subset: str, main: str, by_hamming: bool) -> Items | None:
    if task.metadata.type == "BitextMining":
        return _bitext(task, answer, split, subset, main)
    if task.metadata.type == "Classification":
        gold = task.dataset.get(subset, task.dataset)[split][task.label_column_name][:]
        right = np.equal(answer[0], gold)
        return Items(split, subset, "text", mean_units(right)) if main == "accuracy" else None
    if task.metadata.type == "Summarization":
        return _summaries(answer, split, subset, main, by_hamming)
    data = task.dataset.get(subset, task.dataset)
    kind, _, statistic = main.rpartition("_")
    of_pairs = task.metadata.type == "STS"
    sign = 1 if of_pairs else -1
    similarities = {
        "cosine": np.array(answer["cosine_scores"]),
        "similarity": np.array(answer["similarity_scores"]),
        "euclidean": sign * np.array(answer["euclidean_distances"]),
        "manhattan": sign * np.array(answer["manhattan_distances"]),
    }
    if by_hamming:
        similarities = dict.fromkeys([*similarities, "dot"], similarities["similarity"])
    if of_pairs:
        gold = data[split]["score"][:]
        similarities[""] = similarities["similarity"]
        if kind not in similarities or statistic not in ("spearman", "pearson"):
            return None
        columns = {"value": similarities[kind]}
    else:
        gold = data[split][task.label_column_name][:]
        gold = gold[0] if len(gold) == 1 else gold  # older data sets keep all pairs in one row
        similarities.setdefault("dot", np.array(answer["dot_scores"]))
        if statistic != "ap" or (kind != "max" and kind not in similarities):
            return None
        columns = {f"value_{name}": values for name, values in similarities.items() if kind in ("max", name)}
    columns["gold"] = np.array(gold, dtype=np.float64)
    return Items(split, subset, "pair", Units(np.arange(len(gold)).astype(np.str_), columns, statistic))


def _bitext(task: AbsTask, answer: Any, split: str, subset: str, main: str) -> Items | None:
    """Weighted F1 is the mean over texts of the F1 of their own label; accuracy is the mean of hits."""
    answer = answer.get("-".join(task._get_pairs(False)[0]), answer.get(subset)) if isinstance(answer, dict) else answer
    if answer is None or main not in ("f1", "accuracy"):
        return None
    data = task.dataset.get(subset, task.dataset)[split]
    paired = isinstance(data, dict) and "gold" in data  # BUCC; elsewhere line belongs to line
    gold = data["gold"] if paired else [(row, row) for row in range(len(answer))]
    labels, found = np.array([pair[1] for pair in gold]), np.array([row["corpus_id"] for row in answer])
    values = (labels == found).astype(np.float64)
    if main == "f1":
        per_label = f1_score(labels, found, labels=labels, average=None, zero_division=0)
        values = np.asarray(per_label, dtype=np.float64)
    return Items(split, subset, "text", mean_units(values))


def _summaries(answer: Any, split: str, subset: str, main: str, by_hamming: bool) -> Items | None:
    match = re.fullmatch(r"(?:(cosine|dot)_)?(spearman|pearson)", main)
    if match is None:
        return None
    correlate = stats.spearmanr if match[2] == "spearman" else stats.pearsonr
    machine = answer[f"{match[1]}_scores" if match[1] and not by_hamming else "similarity_scores"]
    values = [correlate(human, scored).statistic for human, scored in zip(answer["human_scores"], machine, strict=True)]
    return Items(split, subset, "text", mean_units(values))


def _experiments(scores: Mapping[str, Any], split: str, subset: str, main: str) -> Items | None:
    """Scores of the experiments that classification and clustering tasks repeat on samples of their own."""
    values: list[float] = []
    if experiments := scores.get("scores_per_experiment"):
        values = [experiment.get(main) for experiment in experiments]
        if any(value is None for value in values):
            return None
    elif (measured := scores.get(f"{main}s", scores.get(f"{main}_scores"))) is not None:
        if isinstance(measured, Mapping):  # hierarchical clustering: the levels of one experiment belong together
            levels = list(measured.values())
            if len({len(level) for level in levels}) != 1:
                return None
            measured = np.mean(levels, axis=0).tolist()
        values = list(measured)
    if len(values) < 2:
        return None
    return Items(split, subset, "experiment", mean_units(values))
