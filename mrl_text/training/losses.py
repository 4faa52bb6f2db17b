"""From a recipe's ``loss`` section to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from mrl_text.losses import InfoNCE, NestedLoss, SelfDistillation
from mrl_text.training.recipe import LossConfig

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder
    from mrl_text.losses.objectives import Objective


def build_loss(config: LossConfig, model: MatryoshkaEncoder) -> nn.Module:
    """The loss of a recipe for this model.

    Raises:
        ValueError: sizes or options that do not fit the model.
    """

    def given(names: str) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names.split()}

    if config.name == "nested_infonce_2d":
        from mrl_text.losses.layers import nested_infonce_2d

        options = given("weights scale layers_per_step dims_per_step")
        loss: nn.Module = nested_infonce_2d(model, config.dims, **options)
        return loss
    objectives: list[Objective] = []
    if config.name == "nested_infonce":
        options = given("weights scale reduction symmetric gather_across_devices")
        objectives.append(InfoNCE(config.dims, **options))
    if config.distills:
        options = {"scale": config.distill_scale, "reduction": config.reduction}
        options["weights"] = config.distill_weights or config.weights
        options["strength"] = config.distill_weight if config.name == "nested_infonce" else 1.0
        objectives.append(SelfDistillation(config.dims, **options))
    options = given("mini_batch_size dims_per_step")
    return NestedLoss(model, *objectives, use_labels=config.needs_teacher, **options)
