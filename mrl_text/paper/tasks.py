"""What the questions are asked about: tasks of four kinds, each with its score at every size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrl_text.eval.statistics import Units, mean_units

if TYPE_CHECKING:
    from mrl_text.eval.own_data import OwnData
    from mrl_text.eval.tasks import TaskLoader
    from mrl_text.paper.experiment import Side

logger = logging.getLogger(__name__)

MIRROR_TASKS = ("STSBenchmark", "SciFact", "Banking77Classification")
"""Tasks of mteb that are taken from a mirror unless others are named: one of each kind."""
_MOST_PARAPHRASES = 1000

Change = Callable[[str], str]
"""What happens to a text before it is encoded; ``str`` changes nothing."""
Classify = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Unit vectors to train on (n, dim), their labels (n,) and unit vectors to label (m, dim) to labels (m,)."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts with gold, float64 (n,): a similarity, or 1 for a paraphrase and 0 for none."""

    name: str
    left: list[str]
    right: list[str]
    gold: np.ndarray
    metric = "Spearman"

    def score(self, side: Side, dims: Iterable[int]) -> dict[int, Units]:
        """Correlation of cosine similarities with gold, by size."""
        left, right = side.embed(self.left), side.embed(self.right)
        ids, found = np.arange(len(self.gold)).astype(np.str_), {}
        for dim in dims:
            cosines = np.einsum("ij,ij->i", side.cut(left, dim), side.cut(right, dim), dtype=np.float64)
            found[dim] = Units(ids, {"value": cosines, "gold": self.gold}, "spearman")
        return found

    def find_paraphrases(self, side: Side, dims: Iterable[int]) -> dict[int, Units]:
        """How often the second text of a true pair is the nearest to the first among all second texts, by size."""
        true = np.flatnonzero(self.gold > 0)[:_MOST_PARAPHRASES]
        asked, among = side.embed([self.left[place] for place in true]), side.embed(self.right)
        return {dim: correct((side.cut(asked, dim) @ side.cut(among, dim).T).argmax(axis=1), true) for dim in dims}


@dataclass(frozen=True)
class Retrieval:
    """Queries and documents by id, and the grades of judged documents by query."""

    name: str
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, int]]
    metric = "nDCG@10"

    def score(self, side: Side, dims: Iterable[int], change: Change = str) -> dict[int, Units]:
        """nDCG@10 of exact search, by size; queries are changed and documents are not."""
        queries = side.embed([*map(change, self.queries.values())], role="query")
        documents = side.embed([*self.documents.values()], role="document")
        return {dim: self._ndcg(side.cut(queries, dim), side.cut(documents, dim)) for dim in dims}

    def _ndcg(self, queries: np.ndarray, documents: np.ndarray) -> Units:
        import torch
        from sentence_transformers.util import dot_score, semantic_search

        from mrl_text.eval.items import query_scores

        hits = semantic_search(torch.from_numpy(queries), torch.from_numpy(documents), score_function=dot_score)
        names = list(self.documents)
        ranking = {
            query: {names[int(hit["corpus_id"])]: hit["score"] for hit in found}
            for query, found in zip(self.queries, hits, strict=True)
        }
        scores = query_scores(self.judgements, ranking, "ndcg", 10)
        return mean_units([scores[query] for query in self.queries])


@dataclass(frozen=True)
class Labelled:
    """Texts to train on and to test with labels, int64, that count through ``classes``."""

    name: str
    train: list[str]
    train_labels: np.ndarray
    test: list[str]
    test_labels: np.ndarray
    classes: tuple[str, ...]
    metric = "1-NN accuracy"

    def embed(self, side: Side, change: Change = str) -> tuple[np.ndarray, np.ndarray]:
        """Full-width vectors of training texts and of changed test texts."""
        return side.embed(self.train), side.embed([*map(change, self.test)])

    def score(self, side: Side, dims: Iterable[int], change: Change = str) -> dict[int, Units]:
        """Accuracy of the nearest training text's label, by size."""
        found = self.predict(side, dims, nearest, change)
        return {dim: correct(labels, self.test_labels) for dim, labels in found.items()}

    def predict(
        self, side: Side, dims: Iterable[int], classify: Classify, change: Change = str
    ) -> dict[int, np.ndarray]:
        """Size -> labels of the test texts, int64."""
        train, test = self.embed(side, change)
        return {dim: classify(side.cut(train, dim), self.train_labels, side.cut(test, dim)) for dim in dims}


@dataclass(frozen=True)
class Tasks:
    """All there is, by kind."""

    similar: list[Pairs] = field(default_factory=list)
    """Pairs with a graded similarity."""
    paraphrases: list[Pairs] = field(default_factory=list)
    """Pairs that say the same or do not."""
    searches: list[Retrieval] = field(default_factory=list)
    labelled: list[Labelled] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Of each task, what tells two versions of it apart."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Task -> why it cannot be used."""


def nearest(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Label of the nearest training text, by scikit-learn's brute-force search."""
    from sklearn.neighbors import KNeighborsClassifier

    return np.asarray(KNeighborsClassifier(1, algorithm="brute").fit(train, labels).predict(test))


def linear_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Label by a linear classifier: scikit-learn's linear discriminants, a tenth of the spread made round.

    It has a closed form and, with a fixed share, minds no rotation of its input (``shrinkage="auto"`` would: it scales
    every number by its spread first).
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return np.asarray(LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(train, labels).predict(test))


def correct(found: np.ndarray, labels: np.ndarray) -> Units:
    """Accuracy, made of one 0 or 1 per text."""
    return mean_units(found == labels)


def read_tasks(
    mirror: str | Path | None,
    data: Sequence[str | Path],
    names: Sequence[str] | None = None,
    read: Sequence[OwnData] = (),
) -> Tasks:
    """Read the tasks of a mirror and a user's own files as ``mrl-text eval`` does, of each the first subset and split.

    Args as for :func:`mrl_text.paper.paper`; tasks that the mirror lacks are left out.

    Raises:
        FileNotFoundError, ValueError: no data at all, a missing mirror, or a malformed file.
    """
    from mrl_text.eval.tasks import TaskLoader

    chosen = list(names) if names is not None else list(MIRROR_TASKS) if mirror is not None else []
    if not (chosen or data or read):
        raise ValueError("no data given: name a mirror of mteb data sets (--mirror) or files of your own (--data)")
    loader = TaskLoader(chosen, data=data, read=read, mirror=mirror, keep_going=True)
    found = Tasks(left_out=dict(loader.left_out))
    for name in loader.names:
        _read_task(loader, name, found)
        loader.release(name)
    return found


def _read_task(loader: TaskLoader, name: str, found: Tasks) -> None:
    task = loader.fresh(name)
    kind, split = task.metadata.type, task.eval_splits[0]
    parts = task.dataset.get(task.hf_subsets[0], task.dataset)
    if beside := [*task.hf_subsets[1:], *task.eval_splits[1:]]:
        logger.info("%s: only %s, %s is measured, not %s", name, task.hf_subsets[0], split, ", ".join(beside))
    rows = parts[split]
    if kind == "STS":
        left, right = task.column_names
        found.similar.append(_pairs(name, rows, left, right, "score"))
    elif kind == "PairClassification":
        found.paraphrases.append(_pairs(name, rows, "sentence1", "sentence2", "labels"))
    elif kind == "Retrieval":
        found.searches.append(_retrieval(name, rows))
    elif kind == "Classification":
        found.labelled.append(_labelled(name, parts["train"], rows, task.input_column_name, task.label_column_name))
    else:
        found.left_out[name] = f"no question is about {kind}"
        return
    found.fingerprints[name] = loader.fingerprint(name)


def _pairs(name: str, rows: Any, left: str, right: str, gold: str) -> Pairs:
    return Pairs(name, list(rows[left]), list(rows[right]), np.asarray(rows[gold], dtype=np.float64))


def _retrieval(name: str, split: Any) -> Retrieval:
    documents = {row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in split["corpus"]}
    judged = {query: grades for query, grades in split["relevant_docs"].items() if max(grades.values(), default=0) > 0}
    queries = {row["id"]: row["text"] for row in split["queries"] if row["id"] in judged}
    return Retrieval(name, queries, documents, judged)


def _labelled(name: str, train: Any, test: Any, text: str, label: str) -> Labelled:
    labels = [np.asarray(rows[label]) for rows in (train, test)]
    known = np.unique(np.concatenate(labels))
    named = dict(zip(labels[0].tolist(), train["label_text"], strict=True)) if "label_text" in train.features else {}
    classes = tuple(str(named.get(one, one)) for one in known.tolist())
    numbers = [np.searchsorted(known, one).astype(np.int64) for one in labels]
    return Labelled(name, list(train[text]), numbers[0], list(test[text]), numbers[1], classes)
