"""What embeddings are trained for, at every prefix size: contrast and self-distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from sentence_transformers.util import all_gather_with_grad, get_rank, get_world_size
from torch import Tensor
from torch.nn.functional import normalize

from mrl_text.codes import trained_precisions
from mrl_text.losses.coding import Coding
from mrl_text.losses.kernel import Neighbours, NestedValue, Positives, nested_cross_entropy
from mrl_text.suggest import check_choice
from mrl_text.truncation import check_dims, truncate

Reduction = Literal["sum", "mean"]


class Objective(Protocol):
    """A term of :class:`~mrl_text.losses.NestedLoss`."""

    name: str
    dims: tuple[int, ...]
    weight_of: dict[int, float]

    def describe(self) -> dict[str, Any]:
        """Its settings, for the model card."""

    def __call__(self, columns: list[Tensor], teacher: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The value at ``dims``, some or all of the objective's own, for one embedding per column (n, width)."""


class _EverySize:
    """Sizes with a weight and a scale each, and the cross-entropy at some of them."""

    def __init__(
        self,
        dims: Sequence[int],
        weights: Sequence[float] | None,
        scale: float | Sequence[float],
        reduction: Reduction,
        precisions: Sequence[str] = ("float32",),
        precision_weights: Sequence[float] | None = None,
    ) -> None:
        self.dims = check_dims(dims)
        if len(set(dims)) != len(dims):
            raise ValueError(f"dims names a size twice: {list(dims)}")
        check_choice("reduction", reduction, Reduction)
        given = checked_weights(dims, weights)
        scales = [float(one) for one in scale] if isinstance(scale, Sequence) else [float(scale)] * len(dims)
        if len(scales) != len(dims) or not all(0 < one < float("inf") for one in scales):
            raise ValueError(f"expected a positive scale, or {len(dims)}, one for each size; got {scale}")
        total = sum(given.values()) if reduction == "mean" else 1.0
        self.weight_of = {dim: weight / total for dim, weight in given.items()}
        self.scale_of = dict(zip(dims, scales, strict=True))
        self.coding = Coding(self.dims, trained_precisions(dims, precisions, precision_weights))

    def describe(self) -> dict[str, Any]:
        """Its settings, for the model card."""
        weights = {str(dim): weight for dim, weight in self.weight_of.items()}
        codes = {"codes": dict(self.coding.weights)} if self.coding.weights else {}
        return {"weights": weights, "scales": list(self.scale_of.values()), **codes}

    def _value(
        self,
        queries: Tensor,
        candidates: Tensor,
        dims: Sequence[int],
        targets: Positives | Neighbours,
        *,
        coded: bool = True,
    ) -> NestedValue:
        weights, scales = ([known[dim] for dim in dims] for known in (self.weight_of, self.scale_of))
        codes = self.coding.code(candidates, dims, weights) if coded else None
        return nested_cross_entropy(queries, candidates, dims, targets, weights=weights, scales=scales, coded=codes)


class InfoNCE(_EverySize):
    """Every anchor finds its own positive among the batch's positives and hard negatives (arXiv 1807.03748).

    Args:
        dims: sizes, any order.
        weights: one per size in the order of ``dims``, at least 0; None is 1 for each.
        scale: inverse temperature, for all sizes or one per size in the order of ``dims``.
        reduction: ``sum`` over the sizes (the default, as ``MatryoshkaLoss``: a learning rate carries over from
            there) or the weighted ``mean`` (one learning rate for any number of sizes).
        symmetric: the mean of this and the other direction, in which every positive finds its own anchor among the
            anchors. As ``MultipleNegativesRankingLoss(directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction")``.
        gather_across_devices: candidates are the positives and negatives of all processes, with gradients. Every
            process needs as many rows: train with ``dataloader_drop_last=True``.
        precisions: ``float32`` and any of ``int8``, ``int4``, ``int2``, ``binary``: anchors find their positives among
            the codes of the candidates, too (:class:`~mrl_text.losses.coding.Coding`).
        precision_weights: one per precision, above 0; None is 1 for each. The other direction of ``symmetric`` has
            no codes.

    Raises:
        ValueError: impossible sizes, weights or scales.
    """

    name = "infonce"

    def __init__(
        self,
        dims: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        scale: float | Sequence[float] = 20.0,
        reduction: Reduction = "sum",
        symmetric: bool = False,
        gather_across_devices: bool = False,
        precisions: Sequence[str] = ("float32",),
        precision_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(dims, weights, scale, reduction, precisions, precision_weights)
        self.symmetric = symmetric
        self.gather_across_devices = gather_across_devices

    def describe(self) -> dict[str, Any]:
        """Its settings, for the model card."""
        return {**super().describe(), "symmetric": self.symmetric}

    def __call__(self, columns: list[Tensor], teacher: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The value for columns anchor, positive, negative...; ``teacher`` is not used.

        Raises:
            ValueError: fewer than two columns.
        """
        if len(columns) < 2:
            raise ValueError(f"InfoNCE needs the columns anchor and positive, got {len(columns)} column")
        anchors, positives = columns[0], columns[1]
        all_anchors, candidates = anchors, columns[1:]
        offset = 0
        if self.gather_across_devices and get_world_size() > 1:
            all_anchors = all_gather_with_grad(anchors) if self.symmetric else anchors
            candidates = [all_gather_with_grad(column) for column in candidates]
            offset = get_rank() * len(anchors)
        own = torch.arange(offset, offset + len(anchors), device=anchors.device)
        forward = self._value(anchors, torch.cat(list(candidates)), dims, Positives(own))
        if not self.symmetric:
            return forward
        backward = self._value(positives, all_anchors, dims, Positives(own), coded=False)
        return NestedValue(
            (forward.total + backward.total) / 2,
            (forward.per_size + backward.per_size) / 2,
            None if forward.per_code is None else forward.per_code / 2,
            forward.precision,
        )


class SelfDistillation(_EverySize):
    """Every prefix keeps the neighbourhood that the full width has: no labels needed.

    For each text of the batch the softmax over its similarities to all others, at every size, is pulled towards the
    same softmax of a teacher (Kullback-Leibler divergence). All columns of the batch count as texts alike. The
    teacher is what :class:`~mrl_text.losses.NestedLoss` is given (the frozen base, precomputed or run along); without
    one it is the model's own full width, which then gets no gradient as teacher. It works on batches of texts that
    are near each other (:mod:`mrl_text.neighbours`): random batches hold little to be kept.

    Args:
        dims, weights, reduction: as for :class:`InfoNCE`.
        scale: inverse temperature of both distributions, for all sizes or one per size; the teacher's is that of the
            largest size.
        strength: multiplies the whole, beside another objective.
        precisions, precision_weights: as for :class:`InfoNCE`: each text keeps its neighbourhood among the codes of
            the others, too.

    Raises:
        ValueError: impossible sizes, weights or scales.
    """

    name = "distill"

    def __init__(
        self,
        dims: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        scale: float | Sequence[float] = 10.0,
        reduction: Reduction = "sum",
        strength: float = 1.0,
        precisions: Sequence[str] = ("float32",),
        precision_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(dims, weights, scale, reduction, precisions, precision_weights)
        self.weight_of = _strengthened(self.weight_of, strength)

    def __call__(self, columns: list[Tensor], teacher: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The value for one or more columns of texts; ``teacher`` has a vector for each, of any width.

        Raises:
            ValueError: a batch of a single text, or a teacher with other columns than the student.
        """
        texts = torch.cat(columns)
        target = texts.detach() if teacher is None else torch.cat(teacher)
        if len(target) != len(texts):
            raise ValueError(f"the teacher has {len(target)} vectors for {len(texts)} texts of the batch")
        if len(texts) < 2:
            raise ValueError("self-distillation compares the texts of a batch: it needs at least two")
        target = truncate(target.to(texts.device, torch.promote_types(texts.dtype, torch.float32)))
        own = torch.arange(len(texts), device=texts.device)
        targets = Neighbours(target, target, self.scale_of[self.dims[-1]], own)
        return self._value(texts, texts, dims, targets)


class SpreadOut:
    """Texts that have nothing to do with each other shall be at right angles, at every size (arXiv 1708.06320).

    The mean squared cosine of the different texts of a column, as in EmbeddingGemma (arXiv 2509.20354): it uses the
    space that is there, and so the bits of codes. Its memory is that of a matrix of width x width.

    Args:
        dims, weights, reduction: as for :class:`InfoNCE`.
        strength: multiplies the whole.

    Raises:
        ValueError: impossible sizes, weights or strength.
    """

    name = "spread"

    def __init__(
        self,
        dims: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        reduction: Reduction = "sum",
        strength: float = 1.0,
    ) -> None:
        plain = _EverySize(dims, weights, 1.0, reduction)
        self.dims = plain.dims
        self.weight_of = _strengthened(plain.weight_of, strength)

    def describe(self) -> dict[str, Any]:
        """Its settings, for the model card."""
        return {"weights": {str(dim): weight for dim, weight in self.weight_of.items()}}

    def __call__(self, columns: list[Tensor], teacher: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The mean over the columns; ``teacher`` is not used. 0 for a batch of one row."""
        values = []
        for dim in dims:
            each = columns[0].new_zeros((), dtype=torch.promote_types(columns[0].dtype, torch.float32))
            for column in columns:
                unit, rows = normalize(column[:, :dim].to(each.dtype), dim=1), len(column)
                if rows > 1:
                    each = each + ((unit.T @ unit).square().sum() - rows) / (rows * (rows - 1) * len(columns))
            values.append(each)
        per_size = torch.stack(values)
        return NestedValue((per_size * per_size.new_tensor([self.weight_of[dim] for dim in dims])).sum(), per_size)


def _strengthened(weight_of: dict[int, float], strength: float) -> dict[int, float]:
    if not 0 < strength < float("inf"):
        raise ValueError(f"strength must be above 0, got {strength}")
    return {dim: strength * weight for dim, weight in weight_of.items()}


def checked_weights(dims: Sequence[int], weights: Sequence[float] | None) -> dict[int, float]:
    """Size -> weight; None is 1 for each.

    Raises:
        ValueError: not one weight of at least 0 per size, or all of them 0.
    """
    given = [1.0] * len(dims) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(dims) or min(given) < 0 or not 0 < sum(given) < float("inf"):
        raise ValueError(f"expected {len(dims)} weights of at least 0, not all 0, one for each size; got {given}")
    return dict(zip(dims, given, strict=True))
