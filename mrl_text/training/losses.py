"""From a recipe's ``loss`` section to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from mrl_text.losses import InfoNCE, NestedLoss, SelfDistillation
from mrl_text.training.recipe import LossConfig

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder
    from mrl_text.losses.objectives import Objective


def build_loss(config: LossConfig, model: MatryoshkaEncoder) -> nn.Module:
    """The loss of a recipe for this model.

    Args:
        config: the recipe's ``loss`` section.
        model: the model to train.

    Returns:
        A loss for ``SentenceTransformerTrainer``.

    Raises:
        ValueError: sizes or options that do not fit the model.
    """
    if config.name == "nested_infonce_2d":
        from mrl_text.losses import nested_infonce_2d

        loss: nn.Module = nested_infonce_2d(
            model,
            config.dims,
            weights=config.weights,
            scale=config.scale,
            layers_per_step=config.layers_per_step,
            dims_per_step=config.dims_per_step,
        )
        return loss
    objectives: list[Objective] = []
    if config.name == "nested_infonce":
        objectives.append(
            InfoNCE(
                config.dims,
                weights=config.weights,
                scale=config.scale,
                reduction=config.reduction,
                symmetric=config.symmetric,
                gather_across_devices=config.gather_across_devices,
            )
        )
    if config.distills:
        strength = config.distill_weight if config.name == "nested_infonce" else 1.0
        objectives.append(
            SelfDistillation(
                config.dims,
                weights=config.distill_weights or config.weights,
                scale=config.distill_scale,
                reduction=config.reduction,
                strength=strength,
            )
        )
    return NestedLoss(
        model,
        *objectives,
        mini_batch_size=config.mini_batch_size,
        dims_per_step=config.dims_per_step,
        use_labels=config.needs_teacher,
    )
