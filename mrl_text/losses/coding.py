"""Codes of few bits in training: what the codes of a batch stand for, and which of them a step compares."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrl_text.codes import FewBits, is_trained, levels_of

_ASKING = 384


def stands_for(vectors: Tensor, precision: FewBits) -> Tensor:
    """The numbers that the codes of vectors stand for, as :class:`mrl_text.codes.Codec` fitted on these vectors.

    The gradient of a number is passed on by the slope of tanh over the widest level: in full around zero, where a
    small change turns the code, and hardly at all far out, where none does (a straight-through estimator, arXiv
    1308.3432, with the surrogate of HashNet, arXiv 1702.00758). Passed on as it is, it pushes numbers outwards that
    change nothing any more, and the full width pays for it.

    Args:
        vectors: (n, width), of any length but zero.
        precision: bits of each number.

    Returns:
        (n, width) float32 or float64, each row of about the length of its vector; a prefix at unit length is what
        ``Codec.decode`` gives for the code of that size.
    """
    with torch.autocast(device_type=vectors.device.type, enabled=False):
        exact = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        coded: Tensor = _Coded.apply(exact, precision)  # type: ignore[no-untyped-call]
    return coded


class _Coded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, precision: FewBits) -> Tensor:
        edges, values = (torch.from_numpy(one).to(vectors) for one in levels_of(precision))
        lengths = torch.linalg.vector_norm(vectors, dim=1).clamp_min(1e-12)
        scales = (lengths.square().reciprocal() @ vectors.square() / len(vectors)).sqrt()  # of unit vectors
        scales = torch.maximum(scales, scales.max() / 1000)
        deviations = vectors / torch.outer(lengths, scales)
        sizes = scales.new_full(scales.shape, vectors.shape[1] ** -0.5) if precision == "binary" else scales
        numbers = values[_levels(deviations, edges)].mul_(torch.outer(lengths, sizes))
        ctx.save_for_backward(deviations.div_(values[-1]).tanh_().square_().neg_().add_(1))
        return numbers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


def _levels(deviations: Tensor, edges: Tensor) -> Tensor:
    """How many edges each number is above: as ``torch.bucketize``, which is slow where there are few."""
    if len(edges) > 15:
        return torch.bucketize(deviations, edges)
    levels = torch.zeros_like(deviations, dtype=torch.int32)
    for edge in edges.tolist():
        levels += deviations > edge
    return levels


@functools.cache
def likeness(precision: FewBits) -> float:
    """The cosine of a vector and what its code stands for, expected of normally distributed numbers: 0.80 at one bit.

    Cosines of queries with coded candidates are shorter by it. The scale of a softmax over them makes up for that: at
    the scale of plain numbers each would have to be more like its own neighbours than it is, to no one's good.
    """
    edges, values = (one.astype(float).tolist() for one in levels_of(precision))
    normal, bounds = NormalDist(), [-math.inf, *edges, math.inf]
    shares = [normal.cdf(high) - normal.cdf(low) for low, high in pairwise(bounds)]
    means = [normal.pdf(low) - normal.pdf(high) for low, high in pairwise(bounds)]  # times their shares
    length = math.sqrt(sum(share * value**2 for share, value in zip(shares, values, strict=True)))
    return math.fsum(mean * value for mean, value in zip(means, values, strict=True)) / length


class Coded(NamedTuple):
    """What one step compares in place of the candidates."""

    precision: FewBits
    numbers: Tensor
    """What the codes stand for, (m, width)."""
    weights: dict[int, float]
    """Size -> weight."""


class Coding:
    """Which codes are compared beside the plain numbers, and how much they count.

    Each call takes one precision, drawn by the weights from torch's generator, with the weight of all: the cost does
    not grow with their number, and over the steps each has its weight. Of a large batch some rows ask, evenly spread
    (:func:`asking`).

    Args:
        dims: sizes, ascending.
        weights: precision -> weight relative to the plain numbers', as :func:`mrl_text.codes.trained_precisions` gives
            it; empty for no codes.
    """

    def __init__(self, dims: Sequence[int], weights: dict[FewBits, float]) -> None:
        self.weights = weights
        self.strength = 1.0  # a schedule may set it; 0 leaves codes out
        self.sizes = {one: [dim for dim in dims if is_trained(dim, one)] for one in weights}

    def cells(self) -> list[str]:
        """Names of all that may be compared, such as ``dim128_binary``."""
        return [f"dim{dim}_{one}" for one, sizes in self.sizes.items() for dim in sizes]

    def code(self, candidates: Tensor, weights: Mapping[int, float]) -> Coded | None:
        """Codes for one step, or None without any.

        Args:
            candidates: (m, width), the plain numbers.
            weights: size -> weight of the plain numbers.
        """
        if not self.weights or not self.strength:
            return None
        names = list(self.weights)
        drawn = names[int(torch.multinomial(torch.tensor(list(self.weights.values())), 1)) if len(names) > 1 else 0]
        factor = self.strength * sum(self.weights.values())
        given = {dim: factor * weight for dim, weight in weights.items() if dim in self.sizes[drawn]}
        return Coded(drawn, stands_for(candidates, drawn), given) if any(given.values()) else None


def asking(rows: int) -> slice:
    """Which rows of a batch are compared with codes: each, or each second, third... so that 384 at most are.

    The mean over so many is as good a guide as that over all, and a step costs little more than without codes.
    """
    return slice(None, None, -(-rows // _ASKING))
