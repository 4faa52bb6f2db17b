"""What a stronger model knows beside similarities in a batch: its embeddings, and a cross-encoder's scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from sentence_transformers.util import get_world_size
from torch import Tensor

from mrl_text.losses.kernel import NestedValue
from mrl_text.losses.objectives import EverySize, Reduction, teaching
from mrl_text.suggest import check_choice
from mrl_text.truncation import truncate

Divergence = Literal["kl", "margin_mse"]

_MEMORY = 0.99  # of what a step adds to the moments of a map, what is left one step later
_RIDGE = 1e-3  # of the mean square of what goes into a map


class EmbeddingDistillation(EverySize):
    """Every prefix says, through an affine map, what the teacher's vector says: for whatever similarities leave out.

    The value at a size is the mean squared distance between the teacher's unit vectors and what the map makes of the
    unit prefixes: the part of the teacher that the prefix does not tell, 0 to 1. Each size has a map of its own, from
    its width to the teacher's. It is the least-squares one over the batches so far, each step weighing 1 % more than
    the one before, and no gradient goes through it: at a least-squares solution none is missing (variable projection,
    Golub and Pereyra 1973), no learning rate has to fit it, and gradient caching and several processes work as with
    other objectives. The maps serve training only: checkpoints have them, models do not.

    Args:
        dims, weights, reduction: as for :class:`~mrl_text.losses.InfoNCE`.
        strength: multiplies the whole, beside another objective.

    Raises:
        ValueError: impossible sizes or weights.
    """

    name = "embed"
    reads: str | None = "teacher"

    def __init__(
        self,
        dims: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        reduction: Reduction = "sum",
        strength: float = 1.0,
    ) -> None:
        super().__init__(dims, weights, 1.0, reduction, strength)
        self.moments: dict[int, Tensor] = {}
        """Size -> what the map is solved from: second moments of (prefix, 1) with itself and with the teacher's
        vectors, float64 (size + 1, size + 1 + the teacher's width)."""

    def describe(self) -> dict[str, Any]:
        """Its settings, for the model card."""
        return {"weights": super().describe()["weights"]}

    def __call__(self, columns: list[Tensor], given: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The value for one or more columns of texts; ``given`` has the teacher's vector for each, of any width.

        With gradients enabled the batch also counts for the maps.

        Raises:
            ValueError: no teacher, or one with other columns than the student.
        """
        if given is None:
            raise ValueError("EmbeddingDistillation needs a teacher's vectors: give NestedLoss a teacher")
        texts = torch.cat(columns)
        dtype = torch.promote_types(texts.dtype, torch.float32)
        target = teaching(given, texts)
        with torch.autocast(device_type=texts.device.type, enabled=False):
            values = []
            for dim in dims:
                prefix = truncate(texts.to(dtype), dim)
                known = torch.cat([prefix, prefix.new_ones(len(prefix), 1)], dim=1)
                told = known @ self._map(dim, known.detach(), target)
                values.append((target - told).square().sum(dim=1).mean())
            return self._weighted(values, dims)

    def _map(self, dim: int, known: Tensor, target: Tensor) -> Tensor:
        """The affine map at a size, (size + 1, the teacher's width)."""
        before = self.moments.get(dim)
        if before is None or torch.is_grad_enabled():
            now = known.double().T @ torch.cat([known, target], dim=1).double() / len(known)
            if get_world_size() > 1:
                torch.distributed.all_reduce(now)
            self.moments[dim] = now if before is None else before.to(now.device) * _MEMORY + now
        moments = self.moments[dim].to(known.device)
        square, cross = moments[:, : dim + 1], moments[:, dim + 1 :]
        ridge = _RIDGE * square.diagonal().mean() * torch.eye(dim + 1, dtype=square.dtype, device=square.device)
        return torch.cholesky_solve(cross, torch.linalg.cholesky(square + ridge)).to(known.dtype)


class ScoreDistillation(EverySize):
    """Every prefix ranks the candidates of a row as scores beside it do: those of a cross-encoder, say.

    The student's scores are ``scale`` times the cosines of the anchor with the positive and with each negative of its
    own row. ``kl`` is the Kullback-Leibler divergence of their softmax from that of the given scores (listwise; as
    ``DistillKLDivLoss``), ``margin_mse`` the mean squared difference between the student's and the given margins of
    the positive over each negative (arXiv 2010.02666; as ``MarginMSELoss``).

    Args:
        dims, weights, reduction: as for :class:`~mrl_text.losses.InfoNCE`.
        scale: multiplies cosines, for all sizes or one per size: scores of other models have a wider range.
        divergence: ``kl`` or ``margin_mse``.
        score_scale: multiplies the given scores.
        strength: multiplies the whole, beside another objective.

    Raises:
        ValueError: impossible sizes, weights or scales, or an unknown divergence.
    """

    name = "score"
    reads: str | None = "label"

    def __init__(
        self,
        dims: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        scale: float | Sequence[float] = 20.0,
        divergence: Divergence = "kl",
        score_scale: float = 1.0,
        reduction: Reduction = "sum",
        strength: float = 1.0,
    ) -> None:
        super().__init__(dims, weights, scale, reduction, strength)
        if not 0 < score_scale < float("inf"):
            raise ValueError(f"score_scale must be above 0, got {score_scale}")
        check_choice("divergence", divergence, Divergence)
        self.divergence = divergence
        self.score_scale = score_scale

    def describe(self) -> dict[str, Any]:
        """Its settings, for the model card."""
        return {**super().describe(), "divergence": self.divergence, "score_scale": self.score_scale}

    def __call__(self, columns: list[Tensor], given: list[Tensor] | None, dims: Sequence[int]) -> NestedValue:
        """The value for columns anchor, positive, negative...

        ``given`` is one tensor: scores of all candidates, (n, columns - 1), or, for ``margin_mse``, margins of the
        positive over each negative, (n, columns - 2).

        Raises:
            ValueError: fewer than three columns, or not as many scores.
        """
        if len(columns) < 3:
            raise ValueError(f"ScoreDistillation needs anchor, positive and a negative, got {len(columns)} columns")
        wanted = self._wanted(given, columns)
        with torch.autocast(device_type=columns[0].device.type, enabled=False):
            texts = torch.stack([column.to(wanted.dtype) for column in columns], dim=1)
            values = []
            for dim in dims:
                unit = truncate(texts, dim)
                scores = self.scale_of[dim] * (unit[:, :1] * unit[:, 1:]).sum(dim=2)
                values.append(self._distance(scores, wanted))
            return self._weighted(values, dims)

    def _wanted(self, given: list[Tensor] | None, columns: list[Tensor]) -> Tensor:
        """The target of every row: a distribution over the candidates, or margins."""
        candidates, (rows, like) = len(columns) - 1, (len(columns[0]), columns[0])
        scores = None if given is None else given[0].to(like.device, torch.promote_types(like.dtype, torch.float32))
        shape = (0, 0) if scores is None else tuple(scores.reshape(rows, -1).shape)
        if scores is None or shape[1] not in (
            (candidates,) if self.divergence == "kl" else (candidates, candidates - 1)
        ):
            found = "none" if scores is None else f"{shape[1]} a row"
            raise ValueError(
                f"ScoreDistillation needs {candidates} scores a row, one per positive and negative: {found}"
            )
        scores = scores.reshape(shape) * self.score_scale
        if self.divergence == "kl":
            return scores.softmax(dim=1)
        return scores[:, :1] - scores[:, 1:] if shape[1] == candidates else scores

    def _distance(self, scores: Tensor, wanted: Tensor) -> Tensor:
        if self.divergence == "kl":
            return torch.nn.functional.kl_div(scores.log_softmax(dim=1), wanted, reduction="batchmean")
        return (scores[:, :1] - scores[:, 1:] - wanted).square().mean()
