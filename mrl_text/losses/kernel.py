"""Softmax cross-entropy over cosine similarities at every prefix size, in one pass and in linear memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Positives:
    """Row i is a classification whose right answer is candidate ``indices[i]`` (int64, shape (n,)).

    ``guide`` takes others, never the right answer, out of the classification.
    """

    indices: Tensor
    guide: Guide | None = None


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


@dataclass(frozen=True)
class Coded:
    """The candidates as few bits keep them: every row is to find its answer among these, too.

    ``numbers`` (m, width) is what the codes stand for; a prefix is compared by its cosine. How their gradient reaches
    the candidates is their maker's choice (:func:`mrl_text.losses.coding.stands_for`). ``weights`` has one weight per
    size; where it is 0 nothing is compared.
    """

    numbers: Tensor
    weights: Sequence[float]
    precision: str = ""
    """Its name, for the log."""


class NestedValue(NamedTuple):
    """A loss over sizes."""

    total: Tensor
    """Weighted sum, a scalar with gradient."""
    per_size: Tensor
    """Unweighted mean over rows for every size, (sizes,), without gradient."""
    per_code: Tensor | None = None
    """The same with coded candidates; 0 at sizes that were not compared."""
    precision: str = ""
    """That of the codes."""


def nested_cross_entropy(
    queries: Tensor,
    candidates: Tensor,
    dims: Sequence[int],
    targets: Positives | Neighbours,
    *,
    weights: Sequence[float],
    scales: Sequence[float],
    coded: Coded | None = None,
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
        coded: candidates of few bits, for a second term of the loss beside that of the plain numbers.
        rows_per_chunk: rows held at a time; None fits the machine.

    Returns:
        The value; differentiable once with respect to ``queries``, ``candidates`` and the numbers of ``coded``.
    """
    compared, given = [candidates], [tuple(weights)]
    if coded is not None and any(coded.weights):
        compared, given = [candidates, coded.numbers], [tuple(weights), tuple(coded.weights)]
    with_gradient = torch.is_grad_enabled() and any(one.requires_grad for one in (queries, *compared))
    plan = _Plan(tuple(dims), tuple(given), tuple(scales), rows_per_chunk, with_gradient)
    total, values = _NestedCrossEntropy.apply(targets, plan, queries, *compared)  # type: ignore[no-untyped-call]
    per_code = values[1] if len(values) > 1 else None
    return NestedValue(total, values[0], per_code, coded.precision if coded else "")


class _Plan(NamedTuple):
    dims: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]  # of the plain candidates, and of coded ones
    scales: tuple[float, ...]
    rows_per_chunk: int | None
    with_gradient: bool


class _NestedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, targets: Positives | Neighbours, plan: _Plan, queries: Tensor, *compared: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(device_type=queries.device.type, enabled=False):
            dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
            cut = [one[:, : plan.dims[-1]].to(dtype) for one in (queries, *compared)]
            sweep = _Sweep(cut[0], cut[1:], targets, plan)
            values = sweep.run()
            total = (values * values.new_tensor(plan.weights)).sum()
        ctx.shapes, ctx.dtypes = ([getattr(one, what) for one in (queries, *compared)] for what in ("shape", "dtype"))
        if plan.with_gradient:
            ctx.save_for_backward(sweep.query_gradient, *(side.gradient for side in sweep.sides))
        ctx.mark_non_differentiable(values)
        return total, values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        padded = (  # numbers beyond the largest size have no influence
            torch.nn.functional.pad(saved * gradient, (0, shape[1] - saved.shape[1])).to(dtype)
            for saved, shape, dtype in zip(ctx.saved_tensors, ctx.shapes, ctx.dtypes, strict=True)
        )
        return (None, None, *padded)


class _Side:
    """The candidates in one form, as numbers or as what codes stand for, and what is gathered on their account."""

    def __init__(self, numbers: Tensor, weights: Sequence[float], blocks: Sequence[tuple[int, int]]) -> None:
        self.numbers, self.weights, self.blocks = numbers, weights, blocks
        self.inverse = _inverse_norms(numbers, blocks)
        self.column_terms = torch.zeros_like(self.inverse)
        self.gradient = torch.zeros_like(numbers)


class _Sweep:
    """One pass over the rows, chunk by chunk: the losses and, where wanted, all gradients.

    Notation of the comments: S_l is the Gram matrix over the first ``dims[l]`` numbers, C_l = scale_l S_l / (|q|_l
    |k|_l) the logits, P_l = weight_l (softmax(C_l) - target) / n the loss's derivative by them.
    """

    def __init__(
        self, queries: Tensor, compared: Sequence[Tensor], targets: Positives | Neighbours, plan: _Plan
    ) -> None:
        self.queries, self.targets, self.plan = queries, targets, plan
        self.blocks = list(zip((0, *plan.dims[:-1]), plan.dims, strict=True))
        self.sides = [_Side(compared[0], plan.weights[0], self.blocks)]
        for numbers, weights in zip(compared[1:], plan.weights[1:], strict=True):
            largest = max(size for size, weight in enumerate(weights, start=1) if weight)
            self.sides.append(_Side(numbers, weights, self.blocks[:largest]))
        self.query_inverse = _inverse_norms(queries, self.blocks)
        self.query_gradient = torch.empty_like(queries) if plan.with_gradient else queries.new_empty(0)

    def run(self) -> Tensor:
        """Mean loss of every size on every side, (sides, sizes)."""
        sizes, columns = len(self.blocks), len(self.sides[0].numbers)
        step = min(self.plan.rows_per_chunk or self._fitting_rows(), max(len(self.queries), 1))
        logits = self.queries.new_empty(len(self.sides), sizes, step, columns)
        gram, spare = self.queries.new_empty(2, step, columns)
        losses = self.queries.new_zeros(len(self.sides), sizes)
        for start in range(0, len(self.queries), step):
            rows = slice(start, min(start + step, len(self.queries)))
            count = rows.stop - start
            losses += self._chunk(rows, logits[:, :, :count], gram[:count], spare[:count])
        if self.plan.with_gradient:
            for side in self.sides:
                self._subtract_norm_terms(side.gradient, side.numbers, side.column_terms, side.inverse)
        return losses / len(self.queries)

    def _fitting_rows(self) -> int:
        budget = _CUDA_BUFFER_BYTES if self.queries.is_cuda else _BUFFER_BYTES
        buffers = len(self.blocks) * len(self.sides) + 2
        per_row = buffers * len(self.sides[0].numbers) * self.queries.element_size()
        return max(16, min(1024, budget // max(per_row, 1) // 16 * 16))

    def _chunk(self, rows: slice, logits: Tensor, gram: Tensor, spare: Tensor) -> Tensor:
        target, masked = self._target(rows), self._masked(rows)
        row_terms = self.query_inverse.new_zeros(len(self.blocks), rows.stop - rows.start)
        found = [
            self._compare(side, rows, target, masked, row_terms, own_logits, gram, spare)
            for side, own_logits in zip(self.sides, logits, strict=True)
        ]
        if self.plan.with_gradient:
            self._accumulate(rows, logits, row_terms)
        return torch.stack(found)

    def _compare(
        self,
        side: _Side,
        rows: slice,
        target: Tensor,
        masked: Tensor | None,
        row_terms: Tensor,
        logits: Tensor,
        gram: Tensor,
        spare: Tensor,
    ) -> Tensor:
        """Summed loss of every size, (sizes,); ``logits`` become the derivatives by the Gram matrices."""
        queries, own = self.queries[rows], getattr(self.targets, "own", None)
        own = None if own is None else own[rows, None]
        losses = row_terms.new_zeros(len(self.blocks))
        for size, (first, last) in enumerate(side.blocks):
            if first == 0:
                torch.mm(queries[:, first:last], side.numbers[:, first:last].T, out=gram)
            else:
                gram.addmm_(queries[:, first:last], side.numbers[:, first:last].T)
            current, scaled = logits[size], (self.query_inverse[size, rows] * self.plan.scales[size])[:, None]
            if side is not self.sides[0] and not side.weights[size]:
                current.zero_()
                continue
            torch.mul(gram, side.inverse[size], out=current).mul_(scaled)
            if own is not None:
                current.scatter_(1, own, float("-inf"))
            if masked is not None:
                current.masked_fill_(masked, float("-inf"))
            log_probability = torch.log_softmax(current, dim=1, out=spare)
            losses[size] = self._loss(log_probability, target)
            if not self.plan.with_gradient:
                continue
            derivative, share = self._derivative(log_probability, target), side.weights[size] / len(self.queries)
            if own is not None:
                current.scatter_(1, own, 0.0)
            if masked is not None:
                current.masked_fill_(masked, 0.0)
            current.mul_(derivative)  # P * C, but for weight and n
            row_terms[size].add_(current.sum(dim=1), alpha=share)
            side.column_terms[size].add_(current.sum(dim=0), alpha=share)
            torch.mul(derivative, side.inverse[size], out=current).mul_(scaled * share)  # dLoss/dS_l by this size
        return losses

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

    def _derivative(self, log_probability: Tensor, target: Tensor) -> Tensor:
        derivative = log_probability.exp_()
        if isinstance(self.targets, Positives):
            derivative.scatter_add_(1, target, derivative.new_full((1, 1), -1.0).expand_as(target))
        else:
            derivative -= target
        return derivative

    def _accumulate(self, rows: slice, by_gram: Tensor, row_terms: Tensor) -> None:
        """Block b is part of every size from b on, so its gradient takes their derivatives together."""
        queries, gradient = self.queries[rows], self.query_gradient[rows]
        gradient.zero_()
        for side, derivatives in zip(self.sides, by_gram, strict=True):
            for size in range(len(side.blocks) - 1, -1, -1):
                block = slice(*side.blocks[size])
                if size + 1 < len(side.blocks):
                    derivatives[size] += derivatives[size + 1]
                gradient[:, block].addmm_(derivatives[size], side.numbers[:, block])
                side.gradient[:, block].addmm_(derivatives[size].T, queries[:, block])
        self._subtract_norm_terms(gradient, queries, row_terms, self.query_inverse[:, rows])

    def _subtract_norm_terms(self, gradient: Tensor, vectors: Tensor, terms: Tensor, inverse: Tensor) -> None:
        """The part of the gradient that comes from the lengths: -x_b * sum over l >= b of sum(P_l C_l) / |x|_l^2."""
        per_size = terms * inverse.square()
        from_here_on = per_size.flip(0).cumsum(0).flip(0)
        for size, (first, last) in enumerate(self.blocks[: len(terms)]):
            gradient[:, first:last].addcmul_(vectors[:, first:last], from_here_on[size, :, None], value=-1)


def _inverse_norms(vectors: Tensor, blocks: Sequence[tuple[int, int]]) -> Tensor:
    """1 / |x| over the first numbers, for every size: (sizes, n)."""
    squares = torch.stack([vectors[:, first:last].square().sum(dim=1) for first, last in blocks]).cumsum(dim=0)
    return squares.sqrt().clamp_min(_MIN_NORM).reciprocal()
