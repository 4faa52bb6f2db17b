"""InfoNCE at every prefix size, from sentence-transformers' own parts."""

from __future__ import annotations

from collections.abc import Sequence

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch import nn

from mrl_text.truncation import check_dims


def nested_infonce(
    model: SentenceTransformer,
    dims: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    mini_batch_size: int | None = None,
) -> nn.Module:
    """Multiple negatives ranking loss, summed over prefix sizes (arXiv 1705.00652; arXiv 2205.13147, equation 1).

    For every size the embeddings are cut, normalised and compared; each anchor must find its own positive among
    all positives and hard negatives of the batch. The result is ``sum_l weight_l * loss_l``: a sum, as in
    sentence-transformers, so learning rates carry over from its Matryoshka examples.

    Args:
        model: the model to train.
        dims: sizes; any order.
        weights: one non-negative weight per size, in the order of ``dims``; None is 1 for each.
        scale: inverse temperature; cosine similarities are multiplied by it.
        mini_batch_size: texts encoded at a time with cached gradients (GradCache, arXiv 2101.06983); None encodes
            the batch at once.

    Returns:
        A loss for ``SentenceTransformerTrainer``: columns (anchor, positive, negative...) to one float32 scalar.

    Raises:
        ValueError: a size below 1 or larger than the model, or weights that do not match.

    Example:
        >>> loss = nested_infonce(model, [64, 128, 256, 384])
        >>> SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss).train()
    """
    check_dims(dims, model.get_embedding_dimension())
    if weights is not None and (len(weights) != len(dims) or min(weights) < 0):
        raise ValueError(f"expected {len(dims)} weights of at least 0, one for each size, got {list(weights)}")
    if mini_batch_size is None:
        inner = MultipleNegativesRankingLoss(model, scale=scale)
    else:
        inner = CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=mini_batch_size)
    loss: nn.Module = MatryoshkaLoss(model, inner, list(dims), list(weights) if weights is not None else None)
    return loss
