"""Validation during training, at every size from one encoding pass: retrieval, or the similarity of pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from mrl_text.eval.statistics import Units, mean_units
from mrl_text.training.columns import Needs
from mrl_text.training.texts import normalised
from mrl_text.truncation import check_dims, truncate

_DEPTH = 10  # documents that count


class Metric(NamedTuple):
    """What a validation measures."""

    key: str
    """What sentence-transformers calls it."""
    words: str
    items: str
    """Of what it is measured."""


NDCG = Metric("ndcg@10", "nDCG@10", "queries")
SPEARMAN = Metric("spearman_cosine", "Spearman correlation", "pairs")
PRECISION = Metric("cosine_ap", "average precision", "pairs")


class NestedEvaluator(SentenceEvaluator, ABC):
    """A score at every size. Each text is encoded once at full width; each size is a slice."""

    metric: Metric

    def __init__(self, metric: Metric, dims: Sequence[int], name: str, batch_size: int) -> None:
        super().__init__()
        self.metric = metric
        self.dims = check_dims(dims)
        self.name = name
        self.batch_size = batch_size
        self.greater_is_better = True
        self.primary_metric = metric_names(self.dims, name, self.metric)[-1]

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return ``{"<name>_dim<d>_<metric>": score}`` for every size, ascending."""
        measured = self.measure(model).items()
        scores = {f"dim{dim}_{self.metric.key}": self.units(each).score() for dim, each in measured}
        metrics = self.prefix_name_to_metrics(scores, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return dict(metrics)

    @property
    @abstractmethod
    def items(self) -> int:
        """How many are measured."""

    @abstractmethod
    def measure(self, model: SentenceTransformer) -> dict[int, np.ndarray]:
        """Size -> what was measured of each item, float64 (items,)."""

    @abstractmethod
    def units(self, measured: np.ndarray) -> Units:
        """What is measured as units of a score that can be resampled."""

    def _options(self) -> dict[str, Any]:
        """Of encoding."""
        quiet = {"convert_to_tensor": True, "show_progress_bar": False, "truncate_dim": None}
        return {"batch_size": self.batch_size, **quiet}


class NestedRetrievalEvaluator(NestedEvaluator):
    """nDCG@10 of finding each query's own documents among all documents, at every size.

    Equal anchors are one query and equal positives one document (case and spacing ignored), right for every query
    that has it in a row. Among documents of one similarity the order is anybody's guess, and the score is the mean
    over these orders.

    Raises:
        ValueError: no pairs, or lists of different length.
    """

    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        dims: Sequence[int],
        name: str = "validation",
        batch_size: int = 64,
    ) -> None:
        super().__init__(NDCG, dims, name, batch_size)
        _check_pairs(anchors, positives)
        self.queries, own = _distinct(anchors)
        self.documents, right = _distinct(positives)
        self.answers = torch.tensor(sorted(set(zip(own, right, strict=True))))
        """Row by row a query and a document that is right for it, int64 (n, 2)."""

    @property
    def description(self) -> str:
        """What the metrics are, for the model card."""
        return "Nested Retrieval"

    @property
    def items(self) -> int:
        """Different queries."""
        return len(self.queries)

    def measure(self, model: SentenceTransformer) -> dict[int, np.ndarray]:
        """Size -> nDCG@10 of each query, float64 (queries,)."""
        queries = model.encode_query(self.queries, **self._options()).float()
        documents = model.encode_document(self.documents, **self._options()).float()
        return {dim: nested_ndcg(queries, documents, dim, self.answers) for dim in self.dims}

    def units(self, measured: np.ndarray) -> Units:
        """Their mean is the score."""
        return mean_units(measured)


class NestedSimilarityEvaluator(NestedEvaluator):
    """How well the cosine similarity of pairs goes with their scores, at every size.

    Spearman's rank correlation, as sentence-transformers' ``EmbeddingSimilarityEvaluator`` and mteb's STS tasks have
    it, or, of scores of 0 and 1, average precision.

    Args:
        scores: of each pair, whatever their range.
        metric: which of the two.

    Raises:
        ValueError: no pairs, lists of different length, or scores that are all the same.
    """

    def __init__(
        self,
        first: Sequence[str],
        second: Sequence[str],
        scores: Sequence[float],
        dims: Sequence[int],
        metric: Metric = SPEARMAN,
        name: str = "validation",
        batch_size: int = 64,
    ) -> None:
        super().__init__(metric, dims, name, batch_size)
        _check_pairs(first, second, scores)
        if len(set(scores)) == 1:
            raise ValueError(f"all {len(scores)} scores are {scores[0]}: there is nothing to tell apart")
        self.first, self.second, self.scores = list(first), list(second), np.asarray(scores, dtype=np.float64)

    @property
    def description(self) -> str:
        """What the metrics are, for the model card."""
        return "Nested Similarity"

    @property
    def items(self) -> int:
        """Pairs."""
        return len(self.first)

    def measure(self, model: SentenceTransformer) -> dict[int, np.ndarray]:
        """Size -> cosine similarity of each pair, float64 (pairs,); -1 where it is no number."""
        texts = list(dict.fromkeys([*self.first, *self.second]))
        rows = {text: row for row, text in enumerate(texts)}
        vectors = model.encode(texts, **self._options()).double()
        pairs = [vectors[[rows[text] for text in side]] for side in (self.first, self.second)]
        cosines = {}
        for dim in self.dims:
            first, second = (truncate(side, dim) for side in pairs)
            cosines[dim] = np.nan_to_num((first * second).sum(dim=1).cpu().numpy(), nan=-1.0)
        return cosines

    def units(self, measured: np.ndarray) -> Units:
        """Similarities beside scores."""
        names = np.arange(self.items).astype(np.str_)
        statistic = "ap" if self.metric is PRECISION else "spearman"
        return Units(names, {"value": np.asarray(measured, dtype=np.float64), "gold": self.scores}, statistic)


def metric_of(needs: Needs) -> Metric:
    """What the validation of data like these measures."""
    return {"binary": PRECISION, "score": SPEARMAN}.get(needs.label or "", NDCG)


def metric_names(dims: Sequence[int], name: str = "validation", metric: Metric = NDCG) -> list[str]:
    """What a :class:`NestedEvaluator` calls its scores, of the smallest size first."""
    return [f"{name}_dim{dim}_{metric.key}" for dim in sorted(dims)]


def _check_pairs(*columns: Sequence[Any]) -> None:
    counts = "/".join(str(len(column)) for column in columns)
    if not columns[0] or len({len(column) for column in columns}) > 1:
        raise ValueError(f"expected as many anchors as positives, at least one; got {counts}")


def nested_ndcg(
    queries: torch.Tensor, documents: torch.Tensor, dim: int, answers: torch.Tensor | None = None
) -> np.ndarray:
    """nDCG@10 of each query by the first ``dim`` numbers, its mean over the orders of equally similar documents.

    So do McSherry and Najork ("Computing Information Retrieval Performance Measures Efficiently in the Presence of
    Tied Scores", ECIR 2008) and scikit-learn. A similarity that is no number finds nothing.

    Args:
        queries: (n, width).
        documents: (m, width).
        dim: numbers to compare.
        answers: int64 (pairs, 2), query and right document; None is document i for query i.

    Returns:
        float64 (n,), 0..1.
    """
    if answers is None:
        answers = torch.arange(len(queries)).repeat(2, 1).T
    cut, candidates = truncate(queries, dim), truncate(documents, dim)
    ranks = torch.arange(1, _DEPTH + 1, dtype=torch.float64)
    gained = torch.cat([torch.zeros(1, dtype=torch.float64), (1 / torch.log2(ranks + 1)).cumsum(0)])  # by first ranks
    scores = torch.zeros(len(queries), dtype=torch.float64)
    for part in torch.split(answers, 1024):
        own, right = part.to(cut.device).unbind(1)
        similarities = cut[own] @ candidates.T
        found = similarities.gather(1, right[:, None])
        above = (~(similarities <= found)).sum(dim=1).cpu()  # what is no number counts as nearer
        equal = (similarities == found).sum(dim=1).cpu()  # the document itself among them
        gain = gained[(above + equal).clamp(max=_DEPTH)] - gained[above.clamp(max=_DEPTH)]
        scores.index_add_(0, part[:, 0], gain / equal.clamp(min=1))
    best = gained[torch.bincount(answers[:, 0], minlength=len(queries)).clamp(max=_DEPTH)]
    return (scores / best).numpy()


def _distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The texts, each once, and for every text given its place among them."""
    places: dict[str, int] = {}
    kept: list[str] = []
    numbers = []
    for text in texts:
        number = places.setdefault(normalised(text), len(kept))
        if number == len(kept):
            kept.append(text)
        numbers.append(number)
    return kept, numbers
