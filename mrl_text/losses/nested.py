"""Losses for ``SentenceTransformerTrainer`` at every prefix size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input
from sentence_transformers.base.losses.merged_forward import embed_columns, merge_feature_batches
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import (
    Matryoshka2dLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import get_world_size
from torch import Tensor, nn

from mrl_text.losses.distillation import EmbeddingDistillation
from mrl_text.losses.objectives import InfoNCE, Objective, SelfDistillation

Labels: TypeAlias = Tensor | Mapping[str, Tensor | None] | None
"""What comes with the texts of a batch: vectors by their role, or a single column of whatever is in the data."""

_TOKENS_PER_PIECE = 1024
"""Fewer tokens than this per forward pass leave a processor's matrix units idle; more of them are more padding."""

_ROWS_PER_PIECE = 64
"""Of several processes, which must make the same number of forward passes: each waits for the others."""


class NestedLoss(CachedLossMixin, nn.Module):
    """A sum of objectives, each at every prefix size, on one set of embeddings.

    The texts of a batch go through the model once. Gradients with respect to the embeddings are formed while the
    loss is computed, in memory that grows with the batch and not with its square. Nothing of the model is patched.

    Args:
        model: the model to train.
        *objectives: :class:`~mrl_text.losses.InfoNCE`, :class:`~mrl_text.losses.SelfDistillation`,
            :class:`~mrl_text.losses.EmbeddingDistillation`, :class:`~mrl_text.losses.ScoreDistillation`, or several.
        teacher: frozen model whose similarities, or vectors, distillation matches; it runs along on every batch and
            must share the tokenizer of ``model``. None takes what the data's ``label`` column brings, floats
            (n, columns x width), as :func:`mrl_text.training.teacher.add_teacher` makes it, and otherwise the model's
            own full width.
        guide: the same for an :class:`InfoNCE` with a margin.
        mini_batch_size: texts encoded at a time with cached gradients (GradCache, arXiv 2101.06983): batches of any
            size in the memory of a small one, for a second forward pass. None encodes the batch at once.
        use_labels: False keeps the ``label`` column, which near-neighbour batches bring, from being the teacher.
        dims_per_step: at each step only this many sizes, all with their own weight, the others being logged as 0; None
            takes all. They are drawn from torch's generator, which checkpoints keep, by the first process for all.

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
        guide: SentenceTransformer | None = None,
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
        if teacher is not None and all(one.reads != "teacher" for one in objectives):
            raise ValueError("a teacher is for SelfDistillation: add that objective, or leave the teacher out")
        if guide is not None and all(getattr(one, "margin", None) is None for one in objectives):
            raise ValueError("a guide is for InfoNCE with a margin: give it one, or leave the guide out")
        for name, number in (("mini_batch_size", mini_batch_size), ("dims_per_step", dims_per_step)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if mini_batch_size is not None and has_static_embedding_input(model):
            raise ValueError("a static model has no activations worth caching: leave mini_batch_size out")
        self.model = model
        self.objectives = objectives
        along = {"teacher": teacher, "guide": guide}
        self._frozen = {role: one.eval().requires_grad_(False) for role, one in along.items() if one is not None}
        self.mini_batch_size = mini_batch_size or 0
        self.uses_gradient_cache = mini_batch_size is not None
        self.dims_per_step = dims_per_step
        self.use_labels = use_labels
        self._values: dict[str, Tensor] = {}

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Labels = None) -> dict[str, Tensor]:
        """Embed and compare; see the class."""
        columns = list(sentence_features)
        labels = self._given(columns, labels)
        if self.uses_gradient_cache:
            total = CachedLossMixin.forward_cached(self, columns, labels)
        else:
            total = self.compute_loss_from_embeddings(embed_by_length(self.model, columns), labels)
        components = dict(self._values)
        first = next(iter(components))
        components[first] = components[first] + (total - total.detach())  # carries the gradient of all
        return components

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Labels = None) -> Tensor:
        """The loss of given embeddings, one (n, width) tensor per column: a scalar with gradient.

        ``labels`` may be a teacher's vectors, floats (n, columns x any width), scores, or by their role the vectors of
        ``teacher`` and ``guide`` and scores as ``label``; what no objective reads is ignored.
        """
        by_role = labels if isinstance(labels, Mapping) else {"teacher": labels, "label": labels}
        total = embeddings[0].new_zeros((), dtype=torch.float32)
        self._values = {f"{one.name}_dim{dim}": total for one in self.objectives for dim in one.dims}
        codings = [(one.name, coding) for one in self.objectives if (coding := getattr(one, "coding", None))]
        self._values |= {f"{name}_{cell}": total for name, coding in codings for cell in coding.cells()}
        for objective in self.objectives:
            dims = self._sizes(objective.dims, embeddings[0].device)
            value = objective(embeddings, _read(by_role, objective.reads, len(embeddings)), dims)
            total = total + value.total
            for dim, loss in zip(dims, value.per_size, strict=True):
                self._values[f"{objective.name}_dim{dim}"] = objective.weight_of[dim] * loss.detach()
            self._values |= {f"{objective.name}_{cell}": part.detach() for cell, part in value.codes.items()}
        return total

    def calculate_loss(self, reps: list[list[Tensor]], labels: Labels = None, *, with_backward: bool = False) -> Tensor:
        """The loss of embeddings that came in pieces; sentence-transformers' gradient caching calls this."""
        loss = self.compute_loss_from_embeddings([torch.cat(pieces) for pieces in reps], labels)
        if not with_backward:
            return loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def stage_codes(self, strength: float) -> None:
        """Let codes count so much, from 0 (not at all) to 1 (as the objectives say), from now on."""
        for objective in self.objectives:
            if coding := getattr(objective, "coding", None):
                coding.strength = strength

    @property
    def learned(self) -> dict[str, Tensor]:
        """What objectives learn beside the model, for checkpoints; assign it to go on from there."""
        kept = {one.name: one.moments for one in self.objectives if isinstance(one, EmbeddingDistillation)}
        return {f"{name}_dim{dim}": moments for name, of in kept.items() for dim, moments in of.items()}

    @learned.setter
    def learned(self, known: Mapping[str, Tensor]) -> None:
        for one in self.objectives:
            if isinstance(one, EmbeddingDistillation):
                named = {dim: known.get(f"{one.name}_dim{dim}") for dim in one.dims}
                one.moments = {dim: moments for dim, moments in named.items() if moments is not None}

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the loss."""
        return {
            "objectives": {objective.name: objective.describe() for objective in self.objectives},
            "mini_batch_size": self.mini_batch_size or None,
            "dims_per_step": self.dims_per_step,
        }

    citation = MatryoshkaLoss.citation  # of the method

    def _given(self, columns: list[dict[str, Tensor]], labels: Labels) -> Labels:
        """The vectors of models that run along, or what the data brings."""
        if not self._frozen:
            return labels if self.use_labels or isinstance(labels, Mapping) else None
        given = dict(labels) if isinstance(labels, Mapping) else {"label": labels}
        for role, model in self._frozen.items():
            with torch.no_grad():
                vectors = embed_by_length(model.to(self.model.device), [dict(column) for column in columns])
            given[role] = torch.cat(vectors, dim=1)
        return given

    def _sizes(self, dims: tuple[int, ...], device: torch.device) -> Sequence[int]:
        if self.dims_per_step is None or self.dims_per_step >= len(dims) or not self.model.training:
            return dims
        chosen = torch.randperm(len(dims))[: self.dims_per_step].sort().values.to(device)
        if get_world_size() > 1:
            torch.distributed.broadcast(chosen, src=0)
        return [dims[index] for index in chosen.tolist()]


def nested_infonce(
    model: SentenceTransformer, dims: Sequence[int], *, mini_batch_size: int | None = None, **options: Any
) -> NestedLoss:
    """Multiple negatives ranking loss at every prefix size (arXiv 1705.00652; arXiv 2205.13147, equation 1).

    What ``MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), dims)`` computes, from one Gram matrix.

    Args:
        model, mini_batch_size: as for :class:`NestedLoss`.
        dims: sizes, any order.
        **options: ``weights``, ``scale``, ``reduction``, ``symmetric`` and ``gather_across_devices``, as for
            :class:`~mrl_text.losses.InfoNCE`.

    Returns:
        A loss for ``SentenceTransformerTrainer`` over the columns (anchor, positive, negative...).

    Raises:
        ValueError: a size below 1 or larger than the model, or weights or scales that do not match.
    """
    return NestedLoss(model, InfoNCE(dims, **options), mini_batch_size=mini_batch_size)


def self_distillation(
    model: SentenceTransformer,
    dims: Sequence[int],
    *,
    teacher: SentenceTransformer | None = None,
    mini_batch_size: int | None = None,
    **options: Any,
) -> NestedLoss:
    """Keep the teacher's neighbourhoods at every prefix size, without labels.

    Args:
        model, teacher, mini_batch_size: as for :class:`NestedLoss`.
        dims: sizes, in any order. Include the full width to keep the uncut vectors near the teacher's.
        **options: ``weights``, ``scale``, ``reduction`` and ``strength``, as for
            :class:`~mrl_text.losses.SelfDistillation`.

    Returns:
        A loss for ``SentenceTransformerTrainer`` over any number of text columns.

    Raises:
        ValueError: as for :func:`nested_infonce`.
    """
    return NestedLoss(model, SelfDistillation(dims, **options), teacher=teacher, mini_batch_size=mini_batch_size)


def nested_infonce_2d(
    model: SentenceTransformer,
    dims: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    layers_per_step: int | None = 1,
    dims_per_step: int | None = None,
    last_layer_weight: float = 1.0,
    prior_layers_weight: float = 1.0,
    kl_div_weight: float = 1.0,
    kl_temperature: float = 0.3,
) -> Matryoshka2dLoss:
    """Multiple negatives ranking loss at every prefix size, at the last layer and at others (arXiv 2402.14776).

    This is sentence-transformers' ``Matryoshka2dLoss``. Its arguments have this project's names and are checked first.
    The model trained so is cut by ``encode(dim=...)`` and by ``MatryoshkaEncoder.truncate_layers``.

    Each step takes the last layer and ``layers_per_step`` others, drawn anew (the embedding layer among them), from
    Python's random generator: of several processes each may draw others, and their gradients are averaged. Where a
    norm stands after the layers (ModernBERT, decoders), lower layers are trained without it and used with it.

    Args:
        model: the model to train; its first module is a transformer.
        dims, weights: as for :class:`~mrl_text.losses.InfoNCE`.
        scale: inverse temperature of the softmax over cosine similarities.
        layers_per_step: lower layers per step; None takes all.
        dims_per_step: sizes per step, drawn anew for each layer; None takes all (the paper draws one).
        last_layer_weight, prior_layers_weight: of the last layer's loss, and of the mean of the lower layers' losses.
        kl_div_weight: weight of the divergence between a lower layer's vectors and the last layer's.
        kl_temperature: temperature of that divergence; 0 leaves it out.

    Returns:
        A loss for ``SentenceTransformerTrainer`` over the columns (anchor, positive, negative...).

    Raises:
        ValueError: impossible sizes, weights, scale or numbers per step, or a model without layers.
    """
    checked = InfoNCE(dims, weights=weights, scale=float(scale))
    width = model.get_embedding_dimension()
    if width is not None and checked.dims[-1] > width:
        raise ValueError(f"dims asks for {checked.dims[-1]}, but the model has width {width}")
    if not isinstance(model[0], Transformer):
        raise ValueError(
            f"the first module is {type(model[0]).__name__}, which has no layers to train: use nested_infonce"
        )
    for name, number in (("layers_per_step", layers_per_step), ("dims_per_step", dims_per_step)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, or None for all, got {number}")
    shares = {"last_layer_weight": last_layer_weight, "prior_layers_weight": prior_layers_weight}
    shares |= {"kl_div_weight": kl_div_weight, "kl_temperature": kl_temperature}
    for name, share in shares.items():
        if not 0 <= share < float("inf"):
            raise ValueError(f"{name} must be a number of at least 0, got {share}")
    return Matryoshka2dLoss(
        model,
        MultipleNegativesRankingLoss(model, scale=scale),
        list(checked.dims),
        [checked.weight_of[dim] for dim in checked.dims],
        n_layers_per_step=layers_per_step or -1,
        n_dims_per_step=dims_per_step or -1,
        **shares,
    )


def _read(by_role: Mapping[str, Tensor | None], role: str | None, columns: int) -> list[Tensor] | None:
    """What an objective reads: vectors by column, or the label as it is."""
    vectors = None if role is None else by_role.get(role)
    if role == "label":
        return None if vectors is None else [vectors]
    if not isinstance(vectors, Tensor) or not vectors.is_floating_point() or vectors.ndim != 2:
        return None
    if vectors.shape[1] % columns:
        raise ValueError(f"a teacher's vectors of {vectors.shape[1]} numbers do not divide among {columns} columns")
    return list(vectors.chunk(columns, dim=1))


def embed_by_length(model: nn.Module, columns: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Embed all columns of a batch: one ``sentence_embedding`` (n, width) per column, in the batch's order.

    On a processor the rows of all columns are sorted by length and cut into pieces, each padded to its own longest
    text only: of about as many tokens, or, where several processes train, of as many texts. The embeddings are those
    of a forward pass per column (up to dropout's draws and rounding); which texts are in the batch does not change. On
    other devices, and where columns are not plain token matrices (static embeddings, routers, flattened batches), each
    column is one forward pass, merged as sentence-transformers does.
    """
    columns = list(columns)
    mask = columns[0].get("attention_mask")
    merged = None
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.device.type == "cpu":
        merged = merge_feature_batches(columns) if len(columns) > 1 else dict(columns[0])
    if merged is None or not _only_token_matrices(merged):
        return list(embed_columns(model, columns))
    embeddings = _in_pieces(model, merged)
    return list(embeddings.reshape(len(columns), -1, *embeddings.shape[1:]).unbind(0))


def _only_token_matrices(features: dict[str, Any]) -> bool:
    shape = features["attention_mask"].shape
    tensors = [value for value in features.values() if isinstance(value, Tensor)]
    return all(value.shape == shape for value in tensors) and bool(features["attention_mask"][:, 0].all())


def _in_pieces(model: nn.Module, features: dict[str, Any]) -> Tensor:
    lengths = features["attention_mask"].sum(dim=1)
    order = lengths.argsort(stable=True, descending=True)
    embeddings = []
    sizes = _ROWS_PER_PIECE if get_world_size() > 1 else list(_rows_of_pieces(lengths[order].tolist()))
    for rows in order.split(sizes):
        longest = int(lengths[rows[0]])
        piece = {name: one[rows, :longest] if isinstance(one, Tensor) else one for name, one in features.items()}
        embeddings.append(model(piece)["sentence_embedding"])
    return torch.cat(embeddings)[order.argsort()]


def _rows_of_pieces(lengths: list[int]) -> Iterator[int]:
    """How many rows go together, the longest first, so that no piece but the last is too small."""
    start = 0
    while start < len(lengths):
        rows = min(-(-_TOKENS_PER_PIECE // lengths[start]), len(lengths) - start)
        start += rows
        yield rows
