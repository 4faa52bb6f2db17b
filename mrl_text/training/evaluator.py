"""Validation during training: retrieval at every size from one encoding pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from mrl_text.truncation import check_dims, truncate


class NestedRetrievalEvaluator(SentenceEvaluator):
    """nDCG@10 of finding each anchor's own positive among all positives, at every size.

    Texts are encoded once at full width; each size is a slice. With one relevant text per query, nDCG@10 is
    ``1 / log2(rank + 1)`` for a rank up to 10, else 0. Equal similarities count against the model.

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
        self.anchors, self.positives = list(anchors), list(positives)
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
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "convert_to_tensor": True,
            "show_progress_bar": False,
            "truncate_dim": None,
        }
        anchors = model.encode_query(self.anchors, **options).float()
        positives = model.encode_document(self.positives, **options).float()
        scores = {f"dim{dim}_ndcg@10": nested_ndcg(anchors, positives, dim) for dim in self.dims}
        metrics = self.prefix_name_to_metrics(scores, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return dict(metrics)


def metric_names(dims: Sequence[int], name: str = "validation") -> list[str]:
    """What :class:`NestedRetrievalEvaluator` calls its scores, of the smallest size first."""
    return [f"{name}_dim{dim}_ndcg@10" for dim in sorted(dims)]


def nested_ndcg(anchors: torch.Tensor, positives: torch.Tensor, dim: int) -> float:
    """Mean nDCG@10 over the rows of ``anchors`` (n, width), row i of ``positives`` being the one right answer."""
    queries, documents = truncate(anchors, dim), truncate(positives, dim)
    gains = []
    for start in range(0, len(queries), 1024):
        similarities = queries[start : start + 1024] @ documents.T
        own = similarities.diagonal(offset=start).unsqueeze(1)
        ranks = (~(similarities < own)).sum(dim=1)  # counts the answer itself, so 1 is best; NaN is never below
        gains.append(torch.where(ranks <= 10, 1 / torch.log2(ranks + 1.0), 0.0))
    return float(torch.cat(gains).double().mean())
