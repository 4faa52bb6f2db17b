"""Fewer transformer layers: how many a model has, and dropping those above the first few."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mrl_text.models import read_model_json

if TYPE_CHECKING:
    from torch import nn

    from mrl_text.models import ModelSource

_COUNT_KEYS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
"""What configurations call the number of layers; transformers maps the first to the model's own."""


def truncate_backbone(backbone: nn.Module, layers: int) -> None:
    """Drop the transformer layers above the first ``layers``, in place, and write that into the configuration.

    What stands after the layers stays: a norm (ModernBERT, decoders), a pooler. The outputs are those of hidden state
    ``layers`` of the whole model, with that norm applied where there is one.

    Raises:
        ValueError: an impossible number, or a model whose list of layers is not certain.
    """
    stack = find_layers(backbone)
    before = len(stack)
    check_layers(layers, before)
    for config in _configs(backbone, before):
        for name, value in vars(config).items():
            # layer_types and the like have an entry per layer and are checked against the number on loading
            if "layer" in name and isinstance(value, list) and len(value) == before:
                setattr(config, name, value[:layers])
        config.num_hidden_layers = layers
    del stack[layers:]


def find_layers(backbone: nn.Module) -> nn.ModuleList:
    """The list of a backbone's transformer layers: the outermost one as long as its configuration says.

    Raises:
        ValueError: no such list, or more than one.
    """
    from torch import nn

    count = getattr(getattr(backbone, "config", None), "num_hidden_layers", None)
    modules = backbone.named_modules() if isinstance(backbone, nn.Module) else ()
    lists = {name: module for name, module in modules if isinstance(module, nn.ModuleList) and len(module) == count}
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outermost) != 1:
        found = "none" if not outermost else ", ".join(outermost)
        raise ValueError(
            f"cannot tell the layers of {type(backbone).__name__}: expected one list of {count} modules"
            f" (num_hidden_layers), found {found}; models that share their layers, have several stacks of them or run"
            " outside of torch cannot be cut"
        )
    return lists[outermost[0]]


def check_layers(layers: int, full: int | None) -> int:
    """Return ``layers`` as an int if a model of ``full`` layers (None: unknown) can be cut to it.

    Raises:
        ValueError: not a whole number, below 1, or above ``full``.
    """
    if isinstance(layers, bool) or not isinstance(layers, int | np.integer):
        raise ValueError(f"layers must be a whole number, got {layers!r}")
    if layers < 1 or (full is not None and layers > full):
        allowed = f"from 1 to {full}, the model's own number" if full is not None else "at least 1"
        raise ValueError(f"layers must be {allowed}, got {layers}")
    return int(layers)


def peek_layers(source: ModelSource) -> int | None:
    """Number of a model's transformer layers from its configuration files alone; None where they do not tell.

    For a hub id these small files are fetched.
    """
    modules = read_model_json(source, "modules.json")
    folder = modules[0].get("path", "") if modules else ""
    config = read_model_json(source, f"{folder}/config.json" if folder else "config.json") or {}
    return next((config[key] for key in _COUNT_KEYS if isinstance(config.get(key), int)), None)


def _configs(backbone: nn.Module, layers: int) -> Iterator[Any]:
    """Every configuration of that depth once: parts of a model may hold copies of their own."""
    seen: set[int] = set()
    for module in backbone.modules():
        config = getattr(module, "config", None)
        if id(config) not in seen and getattr(config, "num_hidden_layers", None) == layers:
            seen.add(id(config))
            yield config
