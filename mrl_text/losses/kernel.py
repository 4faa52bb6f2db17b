"""Softmax cross-entropy over cosine similarities at every prefix size, in one pass and in linear memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BUFFER_BYTES = 24 * 2**20
_CUDA_BUFFER_BYTES = 512 * 2**20
_MIN_NORM = 1e-12  # as in torch.nn.functional.normalize


@dataclass(frozen=True)
class Guide:
    """Which candidates do not count: those whose similarity to row i, by a frozen model's unit vectors ``queries``
    (n, any width) and ``candidates`` (m, the same width), is above ``ceilings[i]`` (n,)."""

    queries: Tensor
    candidates: Tensor
    ceilings: Tensor

    def of(self, rows: slice) -> Guide:
        """The same for some of the rows."""
        return Guide(self.queries[rows], self.candidates, self.ceilings[rows])


@dataclass(frozen=True)
class Positives:
    """Row i is a classification whose right answer is candidate ``indices[i]`` (int64, shape (n,)).

    ``guide`` takes others, never the right answer, out of the classification.
    """

    indices: Tensor
    guide: Guide | None = None

    def of(self, rows: slice) -> Positives:
        """The same for some of the rows."""
        return Positives(self.indices[rows], self.guide and self.guide.of(rows))


@dataclass(frozen=True)
class Neighbours:
    """Row i should have a teacher's similarities of ``queries[i]`` to ``candidates``: softmax(scale * cosine).

    ``queries`` (n, any width) and ``candidates`` (m, the same width) are the teacher's vectors, unit length, ``scale``
    is its inverse temperature. ``own`` is row i's own place among the candidates, left out of both distributions.
    """

    queries: Tensor
    candidates: Tensor
    scale: float
    own: Tensor | None = None

    def of(self, rows: slice) -> Neighbours:
        """The same for some of the rows."""
        own = None if self.own is None else self.own[rows]
        return Neighbours(self.queries[rows], self.candidates, self.scale, own)


class NestedValue(NamedTuple):
    """A loss over sizes."""

    total: Tensor
    """Weighted sum, a scalar with gradient."""
    per_size: Tensor
    """Unweighted mean over rows for every size, (sizes,), without gradient."""
    codes: Mapping[str, Tensor] = MappingProxyType({})
    """Parts of the total that come from codes, such as ``dim64_binary``, without gradient."""


def nested_cross_entropy(
    queries: Tensor,
    candidates: Tensor,
    dims: Sequence[int],
    targets: Positives | Neighbours,
    *,
    weights: Sequence[float],
    scales: Sequence[float],
    rows_per_chunk: int | None = None,
) -> NestedValue:
    """Weighted sum over sizes of the mean cross-entropy between ``targets`` and softmax(scale * cosine).

    For :class:`Positives` this is InfoNCE (arXiv 1807.03748) under equation 1 of arXiv 2205.13147; for
    :class:`Neighbours` the entropy of the target is subtracted, which leaves the Kullback-Leibler divergence.

    The sizes cut the width into blocks. One Gram matrix grows block by block, squared norms with it, so that every
    size costs one softmax and no matrix product of its own. Rows are processed in chunks whose gradients are formed
    at once: what is held grows with the number of rows plus candidates, never with their product. Computed in
    float32 (float64 for float64 input) whatever autocast says.

    Args:
        queries: (n, width), any length, any floating dtype.
        candidates: (m, width).
        dims: sizes, strictly ascending, the last at most ``width``.
        targets: what each row should find.
        weights: one per size.
        scales: inverse temperature, one per size.
        rows_per_chunk: rows held at a time; None fits the machine.

    Returns:
        The value; differentiable once with respect to ``queries`` and ``candidates``.
    """
    with_gradient = torch.is_grad_enabled() and (queries.requires_grad or candidates.requires_grad)
    plan = _Plan(tuple(dims), tuple(weights), tuple(scales), rows_per_chunk, with_gradient)
    total, per_size = _NestedCrossEntropy.apply(queries, candidates, targets, plan)  # type: ignore[no-untyped-call]
    return NestedValue(total, per_size)


class _Plan(NamedTuple):
    dims: tuple[int, ...]
    weights: tuple[float, ...]
    scales: tuple[float, ...]
    rows_per_chunk: int | None
    with_gradient: bool


class _NestedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, candidates: Tensor, targets: Positives | Neighbours, plan: _Plan
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(device_type=queries.device.type, enabled=False):
            dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
            width = plan.dims[-1]
            sweep = _Sweep(queries[:, :width].to(dtype), candidates[:, :width].to(dtype), targets, plan)
            per_size = sweep.run()
            total = (per_size * per_size.new_tensor(plan.weights)).sum()
        ctx.shapes, ctx.dtypes = (queries.shape, candidates.shape), (queries.dtype, candidates.dtype)
        if plan.with_gradient:
            ctx.save_for_backward(sweep.query_gradient, sweep.candidate_gradient)
        ctx.mark_non_differentiable(per_size)
        return total, per_size

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        padded = (  # numbers beyond the largest size have no influence
            torch.nn.functional.pad(saved * gradient, (0, shape[1] - saved.shape[1])).to(dtype)
            for saved, shape, dtype in zip(ctx.saved_tensors, ctx.shapes, ctx.dtypes, strict=True)
        )
        return (*padded, None, None)


class _Sweep:
    """One pass over the rows, chunk by chunk: the losses and, where wanted, both gradients.

    Notation of the comments: S_l is the Gram matrix over the first ``dims[l]`` numbers, C_l = scale_l S_l / (|q|_l
    |k|_l) the logits, P_l = weight_l (softmax(C_l) - target) / n the loss's derivative by them.
    """

    def __init__(self, queries: Tensor, candidates: Tensor, targets: Positives | Neighbours, plan: _Plan) -> None:
        self.queries, self.candidates, self.targets, self.plan = queries, candidates, targets, plan
        self.blocks = list(zip((0, *plan.dims[:-1]), plan.dims, strict=True))
        self.query_inverse = _inverse_norms(queries, self.blocks)
        self.candidate_inverse = _inverse_norms(candidates, self.blocks)
        self.query_gradient = torch.empty_like(queries) if plan.with_gradient else queries.new_empty(0)
        self.candidate_gradient = torch.zeros_like(candidates) if plan.with_gradient else queries.new_empty(0)
        self.column_terms = torch.zeros_like(self.candidate_inverse)

    def run(self) -> Tensor:
        sizes, columns = len(self.blocks), len(self.candidates)
        step = min(self.plan.rows_per_chunk or self._fitting_rows(), max(len(self.queries), 1))
        logits = self.queries.new_empty(sizes, step, columns)
        gram, spare = self.queries.new_empty(2, step, columns)
        losses = self.queries.new_zeros(sizes)
        for start in range(0, len(self.queries), step):
            rows = slice(start, min(start + step, len(self.queries)))
            count = rows.stop - start
            losses += self._chunk(rows, logits[:, :count], gram[:count], spare[:count])
        if self.plan.with_gradient:
            terms, inverse = self.column_terms, self.candidate_inverse
            self._subtract_norm_terms(self.candidate_gradient, self.candidates, terms, inverse)
        return losses / len(self.queries)

    def _fitting_rows(self) -> int:
        budget = _CUDA_BUFFER_BYTES if self.queries.is_cuda else _BUFFER_BYTES
        per_row = (len(self.blocks) + 2) * len(self.candidates) * self.queries.element_size()
        return max(16, min(1024, budget // max(per_row, 1) // 16 * 16))

    def _chunk(self, rows: slice, logits: Tensor, gram: Tensor, spare: Tensor) -> Tensor:
        queries = self.queries[rows]
        target = self._target(rows)
        own = getattr(self.targets, "own", None)
        own = None if own is None else own[rows, None]
        masked = self._masked(rows)
        row_terms = self.query_inverse.new_empty(len(self.blocks), len(queries))
        losses = []
        for size, (first, last) in enumerate(self.blocks):
            if first == 0:
                torch.mm(queries[:, first:last], self.candidates[:, first:last].T, out=gram)
            else:
                gram.addmm_(queries[:, first:last], self.candidates[:, first:last].T)
            scaled = (self.query_inverse[size, rows] * self.plan.scales[size])[:, None]
            current = logits[size]
            torch.mul(gram, self.candidate_inverse[size], out=current).mul_(scaled)
            if own is not None:
                current.scatter_(1, own, float("-inf"))
            if masked is not None:
                current.masked_fill_(masked, float("-inf"))
            log_probability = torch.log_softmax(current, dim=1, out=spare)
            losses.append(self._loss(log_probability, target))
            if not self.plan.with_gradient:
                continue
            derivative = self._derivative(log_probability, target, self.plan.weights[size])
            if own is not None:
                current.scatter_(1, own, 0.0)
            if masked is not None:
                current.masked_fill_(masked, 0.0)
            current.mul_(derivative)  # P * C
            row_terms[size] = current.sum(dim=1)
            self.column_terms[size] += current.sum(dim=0)
            torch.mul(derivative, self.candidate_inverse[size], out=current).mul_(scaled)  # dLoss/dS_l by this size
        if self.plan.with_gradient:
            self._accumulate(rows, queries, logits, row_terms)
        return torch.stack(losses)

    def _target(self, rows: slice) -> Tensor:
        """Indices (rows, 1) or probabilities (rows, candidates)."""
        if isinstance(self.targets, Positives):
            return self.targets.indices[rows, None]
        similarities = (self.targets.queries[rows] @ self.targets.candidates.T).to(self.queries.dtype)
        similarities *= self.targets.scale
        if self.targets.own is not None:
            similarities.scatter_(1, self.targets.own[rows, None], float("-inf"))
        return torch.softmax(similarities, dim=1)

    def _masked(self, rows: slice) -> Tensor | None:
        """Which candidates the guide takes out, bool (rows, candidates); None without a guide."""
        if not isinstance(self.targets, Positives) or self.targets.guide is None:
            return None
        guide = self.targets.guide
        masked = guide.queries[rows] @ guide.candidates.T > guide.ceilings[rows, None]
        return masked.scatter_(1, self.targets.indices[rows, None], False)

    def _loss(self, log_probability: Tensor, target: Tensor) -> Tensor:
        if isinstance(self.targets, Positives):
            return log_probability.gather(1, target).sum().neg()
        # 0 log 0 is 0, on the side of the target (xlogy) and where the row itself is left out (-inf)
        divergence: Tensor = torch.special.xlogy(target, target) - target * log_probability.clamp_min(-1e4)
        return divergence.sum()

    def _derivative(self, log_probability: Tensor, target: Tensor, weight: float) -> Tensor:
        derivative = log_probability.exp_()
        if isinstance(self.targets, Positives):
            derivative.scatter_add_(1, target, derivative.new_full((1, 1), -1.0).expand_as(target))
        else:
            derivative -= target
        derivative *= weight / len(self.queries)
        return derivative

    def _accumulate(self, rows: slice, queries: Tensor, by_gram: Tensor, row_terms: Tensor) -> None:
        """Block b is part of every size from b on, so its gradient takes their derivatives together."""
        for size in range(len(self.blocks) - 1, -1, -1):
            first, last = self.blocks[size]
            if size + 1 < len(self.blocks):
                by_gram[size] += by_gram[size + 1]
            torch.mm(by_gram[size], self.candidates[:, first:last], out=self.query_gradient[rows, first:last])
            self.candidate_gradient[:, first:last].addmm_(by_gram[size].T, queries[:, first:last])
        self._subtract_norm_terms(self.query_gradient[rows], queries, row_terms, self.query_inverse[:, rows])

    def _subtract_norm_terms(self, gradient: Tensor, vectors: Tensor, terms: Tensor, inverse: Tensor) -> None:
        """The part of the gradient that comes from the lengths: -x_b * sum over l >= b of sum(P_l C_l) / |x|_l^2."""
        per_size = terms * inverse.square()
        from_here_on = per_size.flip(0).cumsum(0).flip(0)
        for size, (first, last) in enumerate(self.blocks):
            gradient[:, first:last].addcmul_(vectors[:, first:last], from_here_on[size, :, None], value=-1)


def _inverse_norms(vectors: Tensor, blocks: Sequence[tuple[int, int]]) -> Tensor:
    """1 / |x| over the first numbers, for every size: (sizes, n)."""
    squares = torch.stack([vectors[:, first:last].square().sum(dim=1) for first, last in blocks]).cumsum(dim=0)
    return squares.sqrt().clamp_min(_MIN_NORM).reciprocal()
