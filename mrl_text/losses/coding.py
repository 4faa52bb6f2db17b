"""Codes of few bits in training: what the codes of a batch stand for, and which of them a step compares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrl_text.codes import FewBits, is_trained, levels_of
from mrl_text.losses.kernel import Coded


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
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    fixed = vectors.detach()
    lengths = torch.linalg.vector_norm(fixed, dim=1, keepdim=True).clamp_min(1e-12)
    unit = fixed / lengths
    scales = unit.square().mean(dim=0).sqrt()
    scales = scales.clamp_min(float(scales.max()) / 1000)
    edges, values = (torch.from_numpy(one).to(unit) for one in levels_of(precision))
    sizes = unit.new_tensor(unit.shape[1] ** -0.5) if precision == "binary" else scales
    numbers = values[torch.bucketize(unit / scales, edges)] * sizes * lengths
    reach = scales * lengths * values[-1]
    soft = reach * torch.tanh(vectors / reach)
    through: Tensor = soft + (numbers - soft).detach()
    return through


class Coding:
    """Which codes are compared beside the plain numbers, and how much they count.

    Each call takes one precision, drawn by the weights from torch's generator, with the weight of all: the cost does
    not grow with their number, and over the steps each has its weight.

    Args:
        dims: sizes, ascending.
        weights: precision -> weight relative to the plain numbers', as :func:`mrl_text.codes.trained_precisions` gives
            it; empty for no codes.
    """

    def __init__(self, dims: Sequence[int], weights: dict[FewBits, float]) -> None:
        self.weights = weights
        self.strength = 1.0  # a schedule may set it; 0 leaves codes out
        self.sizes = {one: [dim for dim in dims if is_trained(dim, one)] for one in weights}

    @property
    def factor(self) -> float:
        """What the weight of a size is multiplied with for codes."""
        return self.strength * sum(self.weights.values())

    def cells(self) -> list[str]:
        """Names of all that may be compared, such as ``dim128_binary``."""
        return [f"dim{dim}_{one}" for one, sizes in self.sizes.items() for dim in sizes]

    def code(self, candidates: Tensor, dims: Sequence[int], weights: Sequence[float]) -> Coded | None:
        """What this step compares: ``candidates`` (m, width) in a precision, and the weight at each of ``dims``."""
        if not self.weights or not self.strength:
            return None
        names = list(self.weights)
        drawn = names[int(torch.multinomial(torch.tensor(list(self.weights.values())), 1)) if len(names) > 1 else 0]
        given = [self.factor * weight * (dim in self.sizes[drawn]) for dim, weight in zip(dims, weights, strict=True)]
        return Coded(stands_for(candidates, drawn), given, drawn) if any(given) else None
