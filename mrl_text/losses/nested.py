"""Losses for ``SentenceTransformerTrainer`` at every prefix size."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input
from sentence_transformers.util import get_world_size
from torch import Tensor, nn

from mrl_text.losses.embed import embed_by_length
from mrl_text.losses.kernel import NestedValue
from mrl_text.losses.objectives import InfoNCE, Objective, Reduction, SelfDistillation

logger = logging.getLogger(__name__)


class NestedLoss(CachedLossMixin, nn.Module):
    """A sum of objectives, each at every prefix size, on one set of embeddings.

    The texts of a batch go through the model once. Gradients with respect to the embeddings are formed while the
    loss is computed, in memory that grows with the batch and not with its square. Nothing of the model is patched.

    Args:
        model: the model to train.
        *objectives: :class:`~mrl_text.losses.InfoNCE`, :class:`~mrl_text.losses.SelfDistillation` or both.
        teacher: frozen model whose similarities a :class:`SelfDistillation` matches; it runs along on every batch and
            must share the tokenizer of ``model``.
            None takes what the data's ``label`` column brings, floats (n, columns x width), as
            :func:`mrl_text.training.teacher.add_teacher` makes it, and otherwise the model's own full width.
        mini_batch_size: texts encoded at a time with cached gradients (GradCache, arXiv 2101.06983): batches of any
            size in the memory of a small one, for a second forward pass. None encodes the batch at once.
        use_labels: False keeps the ``label`` column, which near-neighbour batches bring, from being the teacher.
        dims_per_step: at each step only this many sizes, drawn anew, all with their own weight, the others
            being logged as 0; None takes all.
            Drawn from torch's generator, which checkpoints keep, and on several processes by the first for all.

    Inputs:
        Columns as the objectives need them: (anchor, positive, negative...) for InfoNCE, any number of columns for
        self-distillation. Labels are ignored except for a teacher's vectors.

    Returns:
        From ``forward``, a dict whose sum is the loss: the weighted value per objective and size, float32 scalars
        (float64 for a float64 model), named ``infonce_dim64``. The Trainer sums and logs them.

    Raises:
        ValueError: no objective, a size larger than the model, or an impossible ``mini_batch_size`` or
            ``dims_per_step``.

    Example:
        >>> loss = NestedLoss(model, InfoNCE([64, 128, 384]), SelfDistillation([64, 128, 384]), teacher=base)
        >>> SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss).train()
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *objectives: Objective,
        teacher: SentenceTransformer | None = None,
        mini_batch_size: int | None = None,
        dims_per_step: int | None = None,
        use_labels: bool = True,
    ) -> None:
        super().__init__()
        if not objectives:
            raise ValueError("expected at least one objective, such as InfoNCE(dims)")
        largest = max(objective.dims[-1] for objective in objectives)
        width: int | None = model.get_embedding_dimension()
        if width is not None and largest > width:
            raise ValueError(f"dims asks for {largest}, but the model has width {width}")
        if teacher is not None and not any(isinstance(one, SelfDistillation) for one in objectives):
            raise ValueError("a teacher is for SelfDistillation: add that objective, or leave the teacher out")
        if mini_batch_size is not None and mini_batch_size < 1:
            raise ValueError(f"mini_batch_size must be at least 1, got {mini_batch_size}")
        if mini_batch_size is not None and has_static_embedding_input(model):
            raise ValueError("a static model has no activations worth caching: leave mini_batch_size out")
        if dims_per_step is not None and dims_per_step < 1:
            raise ValueError(f"dims_per_step must be at least 1, got {dims_per_step}")
        self.model = model
        self.objectives = objectives
        self._frozen = (teacher.eval().requires_grad_(False),) if teacher is not None else ()  # a tuple: no submodule
        self.mini_batch_size = mini_batch_size or 0
        self.uses_gradient_cache = mini_batch_size is not None
        self.dims_per_step = dims_per_step
        self.use_labels = use_labels
        self._values: dict[str, Tensor] = {}

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> dict[str, Tensor]:
        """Embed and compare; see the class."""
        columns = list(sentence_features)
        labels = self._taught(columns, labels)
        if self.uses_gradient_cache:
            total = CachedLossMixin.forward_cached(self, columns, labels)
        else:
            total = self.compute_loss_from_embeddings(embed_by_length(self.model, columns), labels)
        return self._components(total)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss of given embeddings.

        Args:
            embeddings: one (n, width) tensor per column.
            labels: a teacher's vectors (n, columns x any width), floats; anything else is ignored.

        Returns:
            Scalar with gradient.
        """
        distils = any(isinstance(objective, SelfDistillation) for objective in self.objectives)
        teacher = _split_teacher(labels, len(embeddings)) if distils else None
        zero = embeddings[0].new_zeros((), dtype=torch.float32)
        self._values = {f"{one.name}_dim{dim}": zero for one in self.objectives for dim in one.dims}
        total = embeddings[0].new_zeros((), dtype=torch.float32)
        for objective in self.objectives:
            dims = self._sizes(objective.dims, embeddings[0].device)
            value = objective(embeddings, teacher, dims)
            total = total + value.total
            self._note(objective, dims, value)
        return total

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """The loss of embeddings that came in pieces; sentence-transformers' gradient caching calls this."""
        loss = self.compute_loss_from_embeddings([torch.cat(pieces) for pieces in reps], labels)
        if not with_backward:
            return loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the loss."""
        return {
            "objectives": {objective.name: objective.describe() for objective in self.objectives},
            "mini_batch_size": self.mini_batch_size or None,
            "dims_per_step": self.dims_per_step,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the method."""
        return """
@inproceedings{kusupati2022matryoshka,
    title={Matryoshka Representation Learning},
    author={Kusupati, Aditya and others},
    booktitle={Advances in Neural Information Processing Systems},
    year={2022},
    eprint={2205.13147},
    archivePrefix={arXiv}
}
"""

    def _taught(self, columns: list[dict[str, Tensor]], labels: Tensor | None) -> Tensor | None:
        if not self._frozen:
            return labels if self.use_labels else None
        with torch.no_grad():
            teacher = self._frozen[0].to(self.model.device)
            vectors = embed_by_length(teacher, [dict(column) for column in columns])
        return torch.cat(vectors, dim=1)

    def _sizes(self, dims: tuple[int, ...], device: torch.device) -> Sequence[int]:
        if self.dims_per_step is None or self.dims_per_step >= len(dims) or not self.model.training:
            return dims
        chosen = torch.randperm(len(dims))[: self.dims_per_step].sort().values.to(device)
        if get_world_size() > 1:
            torch.distributed.broadcast(chosen, src=0)
        return [dims[index] for index in chosen.tolist()]

    def _note(self, objective: Objective, dims: Sequence[int], value: NestedValue) -> None:
        for dim, loss in zip(dims, value.per_size, strict=True):
            self._values[f"{objective.name}_dim{dim}"] = objective.weight_of[dim] * loss.detach()

    def _components(self, total: Tensor) -> dict[str, Tensor]:
        """Name the values; the first carries the gradient of all of them."""
        components = dict(self._values)
        first = next(iter(components))
        components[first] = components[first] + (total - total.detach())
        return components


def nested_infonce(
    model: SentenceTransformer,
    dims: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    scale: float | Sequence[float] = 20.0,
    reduction: Reduction = "sum",
    symmetric: bool = False,
    gather_across_devices: bool = False,
    mini_batch_size: int | None = None,
) -> NestedLoss:
    """Multiple negatives ranking loss at every prefix size (arXiv 1705.00652; arXiv 2205.13147, equation 1).

    What ``MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), dims)`` computes, from one Gram matrix.

    Args:
        model: the model to train.
        dims: sizes, any order.
        weights, scale, reduction, symmetric, gather_across_devices: as for :class:`~mrl_text.losses.InfoNCE`.
        mini_batch_size: as for :class:`NestedLoss`.

    Returns:
        A loss for ``SentenceTransformerTrainer`` over the columns (anchor, positive, negative...).

    Raises:
        ValueError: a size below 1 or larger than the model, or weights or scales that do not match.

    Example:
        >>> loss = nested_infonce(model, [64, 128, 256, 384])
        >>> SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss).train()
    """
    objective = InfoNCE(
        dims,
        weights=weights,
        scale=scale,
        reduction=reduction,
        symmetric=symmetric,
        gather_across_devices=gather_across_devices,
    )
    return NestedLoss(model, objective, mini_batch_size=mini_batch_size)


def self_distillation(
    model: SentenceTransformer,
    dims: Sequence[int],
    *,
    teacher: SentenceTransformer | None = None,
    weights: Sequence[float] | None = None,
    scale: float | Sequence[float] = 10.0,
    reduction: Reduction = "sum",
    mini_batch_size: int | None = None,
) -> NestedLoss:
    """Keep the teacher's neighbourhoods at every prefix size, without labels.

    Args:
        model: the model to train.
        dims: sizes, in any order. Include the full width to keep the uncut vectors near the teacher's.
        teacher, mini_batch_size: as for :class:`NestedLoss`.
        weights, scale, reduction: as for :class:`~mrl_text.losses.SelfDistillation`.

    Returns:
        A loss for ``SentenceTransformerTrainer`` over any number of text columns.

    Raises:
        ValueError: as for :func:`nested_infonce`.
    """
    objective = SelfDistillation(dims, weights=weights, scale=scale, reduction=reduction)
    return NestedLoss(model, objective, teacher=teacher, mini_batch_size=mini_batch_size)


def _split_teacher(labels: Tensor | None, columns: int) -> list[Tensor] | None:
    if not isinstance(labels, Tensor) or not labels.is_floating_point() or labels.ndim != 2:
        return None
    if labels.shape[1] % columns:
        raise ValueError(f"a teacher's vectors of {labels.shape[1]} numbers do not divide among {columns} columns")
    return list(labels.chunk(columns, dim=1))
