"""What the losses are compared with: sentence-transformers' own, and plain autograd written for reading, not speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import (
    GISTEmbedLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn
from torch.nn.functional import normalize

from tests.conftest import WORDS

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest difference, as a share of the largest expected number."""


class Preset(nn.Module):
    """A model whose embeddings are given: column i of a batch gets ``embeddings[i]``."""

    def __init__(self, embeddings: Sequence[Tensor]) -> None:
        super().__init__()
        self.embeddings = list(embeddings)

    def get_embedding_dimension(self) -> int:
        return self.embeddings[0].shape[1]

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {"sentence_embedding": self.embeddings[features["column"]]}

    def columns(self) -> list[dict[str, Any]]:
        return [{"column": index} for index in range(len(self.embeddings))]


def random_columns(
    count: int, batch: int, width: int, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """Leaf embeddings of uneven lengths; the columns after the first lean towards it, as positives do."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    columns = [first]
    for index in range(1, count):
        noise = torch.randn(batch, width, generator=generator, dtype=torch.float64)
        columns.append(first / index + noise)
    lengths = torch.rand(count, batch, 1, generator=generator, dtype=torch.float64) * 5 + 0.2
    return [(column * length).to(dtype).requires_grad_() for column, length in zip(columns, lengths, strict=True)]


def ragged(rows: int, columns: int, *, longest: int = 40, seed: int = 0) -> list[list[str]]:
    """Texts of 1 to ``longest`` words, most of them short."""
    generator = torch.Generator().manual_seed(seed)

    def text() -> str:
        length = 1 + int(longest * torch.rand(1, generator=generator).item() ** 3)
        words = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        return " ".join(WORDS[word] for word in words)

    return [[text() for _ in range(rows)] for _ in range(columns)]


def published(
    columns: Sequence[Tensor], dims: Sequence[int], weights: Sequence[float] | None = None, **options: Any
) -> Tensor:
    """Sentence-transformers' MatryoshkaLoss over its MultipleNegativesRankingLoss."""
    model = Preset(columns)
    inner = MultipleNegativesRankingLoss(model, **options)
    loss: Tensor = MatryoshkaLoss(model, inner, list(dims), weights)(model.columns(), None)
    return loss


def guided(
    columns: Sequence[Tensor],
    vectors: Sequence[Tensor],
    dims: Sequence[int],
    weights: Sequence[float] | None,
    tokenizer: Any,
    **options: Any,
) -> Tensor:
    """Sentence-transformers' MatryoshkaLoss over its GISTEmbedLoss with anchors against documents only; scale 20."""
    model, guide = Preset(columns), Preset(vectors)
    for one in (model, guide):
        one.tokenizer, one.max_seq_length = tokenizer, 64
    only = {"contrast_anchors": False, "contrast_positives": False}
    inner = GISTEmbedLoss(model, guide, temperature=1 / 20, **only, **options)
    loss: Tensor = MatryoshkaLoss(model, inner, list(dims), weights)(model.columns(), None)
    return loss


def contrast(
    columns: Sequence[Tensor],
    dims: Sequence[int],
    weights: Sequence[float],
    scales: Sequence[float],
    masked: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of every anchor's scaled cosines with all positives and negatives, summed over the sizes; those
    that are ``masked`` (n, candidates) do not count."""
    total = columns[0].new_zeros(())
    for dim, weight, scale in zip(dims, weights, scales, strict=True):
        anchors, *others = (normalize(column[:, :dim], dim=1) for column in columns)
        logits = scale * anchors @ torch.cat(others).T
        if masked is not None:
            logits = logits.masked_fill(masked, float("-inf"))
        total = total + weight * (logits.logsumexp(dim=1) - logits.diagonal()).mean()
    return total


def against_codes(
    queries: Tensor,
    numbers: Tensor,
    target: Tensor,
    dims: Sequence[int],
    weights: Sequence[float],
    scales: Sequence[float],
) -> Tensor:
    """KL(target || softmax of every query's scaled cosines with coded candidates), ``target`` being (n, m)."""
    total = queries.new_zeros(())
    for dim, weight, scale in zip(dims, weights, scales, strict=True):
        logits = scale * normalize(queries[:, :dim], dim=1) @ normalize(numbers[:, :dim], dim=1).T
        left = torch.special.xlogy(target, target) - target * logits.log_softmax(dim=1)
        total = total + weight * left.nansum(dim=1).mean()
    return total


def distillation(
    texts: Tensor,
    teacher: Tensor,
    dims: Sequence[int],
    weights: Sequence[float],
    scales: Sequence[float],
    teacher_scale: float,
) -> Tensor:
    """KL(teacher || student) of each text's softmax over all others, averaged over texts, summed over the sizes."""
    target = _among_others(teacher, teacher_scale)
    total = texts.new_zeros(())
    for dim, weight, scale in zip(dims, weights, scales, strict=True):
        student = _among_others(texts[:, :dim], scale)
        total = total + weight * (target * (target / student).log()).sum(dim=1).mean()
    return total


def _among_others(vectors: Tensor, scale: float) -> Tensor:
    """Softmax of every row's scaled cosines with the other rows: (n, n - 1)."""
    unit = normalize(vectors, dim=1)
    n = len(unit)
    others = ~torch.eye(n, dtype=torch.bool)
    return (scale * unit @ unit.T)[others].reshape(n, n - 1).softmax(dim=1)


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def gradients(value: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(of)))


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected number."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max())


def assert_same(
    found: Tensor, expected: Tensor, columns: Sequence[Tensor], *, expected_columns: Sequence[Tensor] | None = None
) -> None:
    """Value and gradients agree to the tolerance of the columns' dtype."""
    tolerance = TOLERANCE[columns[0].dtype]
    assert difference(found.detach(), expected.detach()) < tolerance
    pairs = zip(gradients(found, columns), gradients(expected, expected_columns or columns), strict=True)
    for index, (ours, theirs) in enumerate(pairs):
        assert difference(ours, theirs) < tolerance, f"gradient of column {index}"
