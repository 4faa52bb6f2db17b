"""What embeddings are trained for, at every prefix size: contrast and self-distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from sentence_transformers.util import all_gather_with_grad, get_rank, get_world_size
from torch import Tensor

from mrl_text.codes import trained_precisions
from mrl_text.losses.coding import Coding, asking, likeness
from mrl_text.losses.kernel import Guide, Neighbours, NestedValue, Positives, nested_cross_entropy
from mrl_text.suggest import check_choice
from mrl_text.truncation import check_dims, truncate

Reduction = Literal["sum", "mean"]
MarginStrategy = Literal["absolute", "relative"]


class Objective(Protocol):
    """A term of :class:`~mrl_text.losses.NestedLoss`."""

    name: str
    dims: tuple[int, ...]
    weight_of: dict[int, float]
    reads: str | None
    """What it reads besides embeddings: vectors of a ``teacher`` or ``guide``, scores in the ``label``, or None."""

    def describe(self) -> dict[str, Any]:
        """Its settings, for the model card."""

    def __call__(self, columns: list[Tensor], given: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The value at ``dims``, some or all of the objective's own.

        Args:
            columns: one embedding per column, (n, width).
            given: what it ``reads``, one tensor per column; None where there is none.
            dims: sizes.
        """


class EverySize:
    """Sizes with a weight and a scale each, and the cross-entropy at some of them."""

    reads: str | None = None

    def __init__(
        self,
        dims: Sequence[int],
        weights: Sequence[float] | None,
        scale: float | Sequence[float],
        reduction: Reduction,
        strength: float = 1.0,
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
        if not 0 < strength < float("inf"):
            raise ValueError(f"strength must be above 0, got {strength}")
        total = sum(given.values()) if reduction == "mean" else 1.0
        self.weight_of = {dim: strength * weight / total for dim, weight in given.items()}
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
        with_codes: bool = True,
    ) -> NestedValue:
        weights = {dim: self.weight_of[dim] for dim in dims}
        value = self._entropy(queries, candidates, weights, targets)
        coded = self.coding.code(candidates, weights) if with_codes else None
        if coded is None:
            return value
        rows = asking(len(queries))
        stretch = 1 / likeness(coded.precision)
        among = self._entropy(queries[rows], coded.numbers, coded.weights, targets.of(rows), stretch)
        parts = zip(coded.weights.items(), among.per_size, strict=True)
        codes = {f"dim{dim}_{coded.precision}": weight * loss for (dim, weight), loss in parts}
        return NestedValue(value.total + among.total, value.per_size, codes)

    def _weighted(self, values: Sequence[Tensor], dims: Sequence[int]) -> NestedValue:
        """The sum of values, one per size, by their weights."""
        per_size = torch.stack(list(values))
        total = (per_size * per_size.new_tensor([self.weight_of[dim] for dim in dims])).sum()
        return NestedValue(total, per_size.detach())

    def _entropy(
        self,
        queries: Tensor,
        candidates: Tensor,
        weights: dict[int, float],
        targets: Positives | Neighbours,
        stretch: float = 1.0,
    ) -> NestedValue:
        scales = [stretch * self.scale_of[dim] for dim in weights]
        sizes, given = list(weights), list(weights.values())
        return nested_cross_entropy(queries, candidates, sizes, targets, weights=given, scales=scales)


class InfoNCE(EverySize):
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
        margin: with a number, candidates do not count that a guide finds nearer to the anchor than the positive less
            this (GISTEmbed, arXiv 2402.16829): what may be no negative at all. As ``GISTEmbedLoss(margin=...,
            contrast_anchors=False, contrast_positives=False)``, and with any number of negatives. None masks nothing.
        margin_strategy: ``absolute`` takes the margin from the positive's cosine similarity by the guide, ``relative``
            that share of it.
        strength: multiplies the whole, beside another objective.

    Raises:
        ValueError: impossible sizes, weights, scales or margin.
    """

    name = "infonce"
    reads: str | None = "guide"

    def __init__(
        self,
        dims: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        scale: float | Sequence[float] = 20.0,
        reduction: Reduction = "sum",
        symmetric: bool = False,
        gather_across_devices: bool = False,
        margin: float | None = None,
        margin_strategy: MarginStrategy = "absolute",
        strength: float = 1.0,
        precisions: Sequence[str] = ("float32",),
        precision_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(dims, weights, scale, reduction, strength, precisions, precision_weights)
        if margin is not None and not abs(margin) < float("inf"):
            raise ValueError(f"margin must be a finite number, got {margin}")
        check_choice("margin_strategy", margin_strategy, MarginStrategy)
        self.symmetric = symmetric
        self.gather_across_devices = gather_across_devices
        self.margin = margin
        self.margin_strategy = margin_strategy

    def describe(self) -> dict[str, Any]:
        """Its settings, for the model card."""
        guided = {"margin": self.margin, "margin_strategy": self.margin_strategy} if self.margin is not None else {}
        return {**super().describe(), "symmetric": self.symmetric, **guided}

    def __call__(self, columns: list[Tensor], given: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The value for columns anchor, positive, negative...; ``given`` are the guide's vectors of any width.

        Raises:
            ValueError: fewer than two columns, or a margin and no guide.
        """
        if len(columns) < 2:
            raise ValueError(f"InfoNCE needs the columns anchor and positive, got {len(columns)} column")
        offset = get_rank() * len(columns[0]) if self._gathers else 0
        own = torch.arange(offset, offset + len(columns[0]), device=columns[0].device)
        vectors = self._guiding(given, columns[0])
        forward = self._direction(columns[0], columns[1:], vectors, own, dims)
        if not self.symmetric:
            return forward
        vectors = vectors and [vectors[1], vectors[0]]
        backward = self._direction(columns[1], columns[:1], vectors, own, dims, with_codes=False)
        return NestedValue(
            (forward.total + backward.total) / 2,
            (forward.per_size + backward.per_size) / 2,
            {name: value / 2 for name, value in forward.codes.items()},
        )

    @property
    def _gathers(self) -> bool:
        return self.gather_across_devices and get_world_size() > 1

    def _everywhere(self, columns: Sequence[Tensor]) -> Tensor:
        """Columns below each other: of this process, or with gradients those of all."""
        return torch.cat([all_gather_with_grad(column) if self._gathers else column for column in columns])

    def _guiding(self, given: list[Tensor] | None, like: Tensor) -> list[Tensor] | None:
        """The guide's unit vectors; None where nothing is masked."""
        if self.margin is None:
            return None
        if given is None:
            raise ValueError("a margin needs a guide's vectors: give NestedLoss a guide, or leave the margin out")
        return [truncate(one.to(like.device, torch.promote_types(like.dtype, torch.float32))) for one in given]

    def _direction(
        self,
        queries: Tensor,
        others: Sequence[Tensor],
        vectors: list[Tensor] | None,
        own: Tensor,
        dims: Sequence[int],
        *,
        with_codes: bool = True,
    ) -> NestedValue:
        """Rows look for their own among ``others``; ``vectors`` are the guide's, of the rows and of the others."""
        guide = None
        if vectors is not None and self.margin is not None:
            similarities = (vectors[0] * vectors[1]).sum(dim=1)
            part = similarities.abs() if self.margin_strategy == "relative" else 1.0
            guide = Guide(vectors[0], self._everywhere(vectors[1:]), similarities - part * self.margin)
        return self._value(queries, self._everywhere(others), dims, Positives(own, guide), with_codes=with_codes)


class SelfDistillation(EverySize):
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
    reads: str | None = "teacher"

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
        super().__init__(dims, weights, scale, reduction, strength, precisions, precision_weights)

    def __call__(self, columns: list[Tensor], given: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The value for one or more columns of texts; ``given`` has the teacher's vector for each, of any width.

        Raises:
            ValueError: a batch of a single text, or a teacher with other columns than the student.
        """
        texts = torch.cat(columns)
        if len(texts) < 2:
            raise ValueError("self-distillation compares the texts of a batch: it needs at least two")
        target = teaching([texts.detach()] if given is None else given, texts)
        own = torch.arange(len(texts), device=texts.device)
        targets = Neighbours(target, target, self.scale_of[self.dims[-1]], own)
        return self._value(texts, texts, dims, targets)


class SpreadOut(EverySize):
    """Texts that have nothing to do with each other shall be at right angles, at every size (arXiv 1708.06320).

    The mean squared cosine of the different texts of a column, as in EmbeddingGemma (arXiv 2509.20354): it uses the
    space that is there, and so the bits of codes. Its memory is that of a matrix of width x width.

    Args:
        dims, weights, reduction, strength: as for :class:`SelfDistillation`.

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
        super().__init__(dims, weights, 1.0, reduction, strength)

    def describe(self) -> dict[str, Any]:
        """Its settings, for the model card."""
        return {"weights": super().describe()["weights"]}

    def __call__(self, columns: list[Tensor], given: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The mean over the columns; 0 for a batch of one row."""
        dtype = torch.promote_types(columns[0].dtype, torch.float32)
        with torch.autocast(device_type=columns[0].device.type, enabled=False):
            values = [[_squared_cosine(truncate(one.to(dtype), dim)) for one in columns] for dim in dims]
            return self._weighted([torch.stack(each).mean() for each in values], dims)


def _squared_cosine(unit: Tensor) -> Tensor:
    """Mean over the pairs of different rows."""
    rows = len(unit)
    return ((unit.T @ unit).square().sum() - rows) / max(rows * (rows - 1), 1)


def teaching(given: list[Tensor], texts: Tensor) -> Tensor:
    """A teacher's unit vectors of texts, in float32 at least."""
    target = torch.cat(given)
    if len(target) != len(texts):
        raise ValueError(f"the teacher has {len(target)} vectors for {len(texts)} texts of the batch")
    return truncate(target.to(texts.device, torch.promote_types(texts.dtype, torch.float32)))


def checked_weights(dims: Sequence[int], weights: Sequence[float] | None) -> dict[int, float]:
    """Size -> weight; None is 1 for each.

    Raises:
        ValueError: not one weight of at least 0 per size, or all of them 0.
    """
    given = [1.0] * len(dims) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(dims) or min(given) < 0 or not 0 < sum(given) < float("inf"):
        raise ValueError(f"expected {len(dims)} weights of at least 0, not all 0, one for each size; got {given}")
    return dict(zip(dims, given, strict=True))
