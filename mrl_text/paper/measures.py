"""Scores made of items, so that every difference between sizes and sides is paired."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mrl_text.eval.statistics import Estimate, Units, bootstrap, mean_estimate
from mrl_text.paper.data import Data, Labelled, Pairs, Search
from mrl_text.paper.world import Encoder, Side

RESAMPLES = 500
SPEARMAN, NDCG, NEAREST, PROBE = "Spearman", "nDCG@10", "1-NN accuracy", "linear probe accuracy"
_BLOCK = 256

Scored = dict[tuple[str, str], dict[int, Units]]
"""(task, metric) -> size -> what the score is made of."""


def spearman(left: np.ndarray, right: np.ndarray, gold: np.ndarray) -> Units:
    """Correlation of the cosines of unit vectors (n, dim) with gold (n,)."""
    cosines = np.einsum("ij,ij->i", left, right, dtype=np.float64)
    return Units(np.arange(len(gold)).astype(str), {"value": cosines, "gold": gold}, "spearman")


def ndcg(
    queries: np.ndarray, documents: np.ndarray, relevant: Sequence[Mapping[int, float]], at: int = 10
) -> np.ndarray:
    """nDCG of each query with linear gains, as trec_eval has it.

    Args:
        queries: unit vectors (q, dim).
        documents: unit vectors (n, dim).
        relevant: of each query, position of a document -> grade above 0.
        at: documents that count.

    Returns:
        float64 (q,), 0 to 1.
    """
    discounts = 1 / np.log2(np.arange(2, at + 2))
    values = []
    for start in range(0, len(queries), _BLOCK):
        similar = queries[start : start + _BLOCK] @ documents.T
        top = np.argsort(-similar, axis=1, kind="stable")[:, :at]
        for found, grades in zip(top, relevant[start : start + _BLOCK], strict=True):
            best = np.sort(np.fromiter(grades.values(), dtype=np.float64))[::-1][:at]
            gained = [grades.get(int(document), 0.0) for document in found]
            values.append(discounts[: len(gained)] @ gained / (discounts[: len(best)] @ best))
    return np.array(values)


def nearest(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Label of the nearest training text, int64 (n,), by scikit-learn's brute-force search over unit vectors."""
    from sklearn.neighbors import KNeighborsClassifier

    found: np.ndarray = KNeighborsClassifier(1, algorithm="brute").fit(train, labels).predict(test)
    return found


def probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Label by a linear classifier, int64 (n,): scikit-learn's linear discriminants, a tenth of the spread made round.

    It has a closed form and, with a fixed share, minds no rotation of its input (``shrinkage="auto"`` would: it scales
    every number by its spread first).
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    found: np.ndarray = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(train, labels).predict(test)
    return found


def class_means(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Label of the nearest class mean, int64 (n,).

    scikit-learn's ``NearestCentroid`` finds the same and warns where classes have one text.
    """
    classes, place = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), train.shape[1]))
    np.add.at(sums, place, train)
    centres = sums / np.bincount(place)[:, None]
    found: np.ndarray = classes[(test @ centres.T - 0.5 * (centres**2).sum(axis=1)).argmax(axis=1)]
    return found


def correct(found: np.ndarray, labels: np.ndarray) -> Units:
    """Accuracy, made of one 0 or 1 per text."""
    return means((found == labels).astype(np.float64))


def means(values: np.ndarray) -> Units:
    """A mean of per-item scores (n,)."""
    return Units(np.arange(len(values)).astype(str), {"value": np.asarray(values, dtype=np.float64)}, "mean")


def score(side: Side, data: Data, dims: Iterable[int], *, probes: bool = False) -> Scored:
    """All tasks of the usual three kinds at every size: similarity, retrieval, classification.

    Args:
        side: whose vectors.
        data: the tasks.
        dims: sizes.
        probes: a linear probe besides the nearest neighbour.
    """
    sizes, found = list(dims), Scored()
    for pairs in data.similar:
        left, right = vectors_of_pairs(side.encoder, pairs)
        found[pairs.name, SPEARMAN] = {
            dim: spearman(side.cut(left, dim), side.cut(right, dim), pairs.gold) for dim in sizes
        }
    for search in data.searches:
        queries, documents = vectors_of_search(side.encoder, search)
        found[search.name, NDCG] = {
            dim: means(ndcg(side.cut(queries, dim), side.cut(documents, dim), search.relevant)) for dim in sizes
        }
    for task in data.labelled:
        train, test = vectors_of_labelled(side.encoder, task)
        for metric, predict in ((NEAREST, nearest), (PROBE, probe))[: 1 + probes]:
            found[task.name, metric] = {
                dim: correct(predict(side.cut(train, dim), task.train_labels, side.cut(test, dim)), task.test_labels)
                for dim in sizes
            }
    return found


def vectors_of_pairs(encoder: Encoder, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Full-width vectors of both sides."""
    return encoder.embed(pairs.left), encoder.embed(pairs.right)


def vectors_of_search(encoder: Encoder, search: Search) -> tuple[np.ndarray, np.ndarray]:
    """Full-width vectors of queries and documents."""
    return encoder.embed(search.queries, role="query"), encoder.embed(search.documents, role="document")


def vectors_of_labelled(encoder: Encoder, task: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Full-width vectors of training and test texts."""
    return encoder.embed(task.train), encoder.embed(task.test)


Estimates = dict[tuple[str, str, int], Estimate]
"""(task, metric, size) -> score with its bootstrap replicates."""


def estimates(scored: Scored) -> Estimates:
    """Bootstrap everything that was scored; the draws depend on the task alone, so that sides pair."""
    found: Estimates = {}
    for (task, metric), by_dim in scored.items():
        drawn = bootstrap(list(by_dim.values()), task, resamples=RESAMPLES)
        found.update({(task, metric, dim): one for dim, one in zip(by_dim, drawn, strict=True)})
    return found


def averaged(several: Sequence[Estimates]) -> Estimates:
    """Mean over seeds, score by score."""
    return {key: mean_estimate([one[key] for one in several]) for key in several[0]}


def over_tasks(found: Estimates, metrics: Sequence[str] | None = None) -> dict[int, Estimate]:
    """Size -> mean over tasks (of these metrics); every task counts the same."""
    dims = dict.fromkeys(dim for _, _, dim in found)
    return {
        dim: mean_estimate(
            [one for (_, metric, size), one in found.items() if size == dim and (not metrics or metric in metrics)]
        )
        for dim in dims
    }


def value(estimate: Estimate) -> dict[str, float | None]:
    """An estimate as JSON: value and 95 % interval x100, the interval null where there is none; 0 / 0 counts as 0."""
    if math.isnan(estimate.value):
        return {"value": 0.0, "low": None, "high": None}
    interval = estimate.interval()
    bounds = (100 * interval.low, 100 * interval.high) if interval is not None else (None, None)
    rounded = [None if one is None else round(one, 3) for one in (100 * estimate.value, *bounds)]
    return dict(zip(("value", "low", "high"), rounded, strict=True))


def rows(name: str, found: Estimates, *, control: bool = False) -> list[dict[str, Any]]:
    """Estimates as tidy JSON rows."""
    return [
        {"side": name, "control": control, "task": task, "metric": metric, "dim": dim, **value(one)}
        for (task, metric, dim), one in found.items()
    ]
