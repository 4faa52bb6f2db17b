"""Every prefix size and every depth at once: 2D Matryoshka."""

from __future__ import annotations

from collections.abc import Sequence

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import Matryoshka2dLoss, MultipleNegativesRankingLoss

from mrl_text.losses.objectives import InfoNCE


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
        dims: sizes, any order.
        weights: one per size in the order of ``dims``, at least 0; None is 1 for each. The loss is their sum.
        scale: inverse temperature of the softmax over cosine similarities.
        layers_per_step: lower layers per step; None takes all.
        dims_per_step: sizes per step, drawn anew for each layer; None takes all (the paper draws one).
        last_layer_weight: weight of the last layer's loss.
        prior_layers_weight: weight of the mean of the lower layers' losses.
        kl_div_weight: weight of the divergence between a lower layer's vectors and the last layer's.
        kl_temperature: temperature of that divergence; 0 leaves it out.

    Returns:
        A loss for ``SentenceTransformerTrainer`` over the columns (anchor, positive, negative...).

    Raises:
        ValueError: impossible sizes, weights, scale or numbers per step, or a model without layers.

    Example:
        >>> loss = nested_infonce_2d(model, [64, 128, 256, 384])
        >>> SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss).train()
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
