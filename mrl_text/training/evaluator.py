"""Validation during training: retrieval at every size from one encoding pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from mrl_text.training.texts import normalised
from mrl_text.truncation import check_dims, truncate

_DEPTH = 10  # documents that count


class NestedRetrievalEvaluator(SentenceEvaluator):
    """nDCG@10 of finding each query's own documents among all documents, at every size.

    Equal anchors are one query and equal positives one document (case and spacing ignored), right for every query
    that has it in a row. Each text is encoded once at full width; each size is a slice. Among documents of one
    similarity the order is anybody's guess, and the score is the mean over these orders.

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
        super().__init__()
        if not anchors or len(anchors) != len(positives):
            raise ValueError(
                f"expected as many anchors as positives, at least one; got {len(anchors)}/{len(positives)}"
            )
        self.queries, own = _distinct(anchors)
        self.documents, right = _distinct(positives)
        self.answers = torch.tensor(sorted(set(zip(own, right, strict=True))))
        """Row by row a query and a document that is right for it, int64 (n, 2)."""
        self.dims = check_dims(dims)
        self.name = name
        self.batch_size = batch_size
        self.greater_is_better = True
        self.primary_metric = metric_names(self.dims, name)[-1]

    @property
    def description(self) -> str:
        """What the metrics are, for the model card."""
        return "Nested Retrieval"

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return ``{"<name>_dim<d>_ndcg@10": score}`` with scores 0..1 for every size, ascending."""
        scores = {f"dim{dim}_ndcg@10": float(each.mean()) for dim, each in self.per_query(model).items()}
        metrics = self.prefix_name_to_metrics(scores, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return dict(metrics)

    def per_query(self, model: SentenceTransformer) -> dict[int, np.ndarray]:
        """Size -> nDCG@10 of each query, float64 (queries,)."""
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "convert_to_tensor": True,
            "show_progress_bar": False,
            "truncate_dim": None,
        }
        queries = model.encode_query(self.queries, **options).float()
        documents = model.encode_document(self.documents, **options).float()
        return {dim: nested_ndcg(queries, documents, dim, self.answers) for dim in self.dims}


def metric_names(dims: Sequence[int], name: str = "validation") -> list[str]:
    """What :class:`NestedRetrievalEvaluator` calls its scores, of the smallest size first."""
    return [f"{name}_dim{dim}_ndcg@10" for dim in sorted(dims)]


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
