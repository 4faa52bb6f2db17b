"""Linear layers behind a model, as a rotation is one: put there, and seen apart from it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder


def add_linear(model: MatryoshkaEncoder, weight: torch.Tensor) -> None:
    """Put a linear layer without bias, weight (out, in), before a last ``Normalize``, else at the end."""
    width, full = weight.shape
    layer = Dense(full, width, bias=False, activation_function=torch.nn.Identity(), init_weight=weight)
    last = len(model) - (type(model[-1]).__name__ == "Normalize")
    model.insert(last, layer.to(device=model.device, dtype=model.dtype))


def split_linear(model: MatryoshkaEncoder) -> tuple[MatryoshkaEncoder, Callable[[np.ndarray], np.ndarray] | None]:
    """A model without the float32 layers that :func:`add_linear` puts there, and what they do with its vectors.

    A linear layer without bias keeps the lengths' ratios, so the ``Normalize`` behind it may stand before it as well:
    the first of the two then is the model that the layers were added to, with the same vectors.

    Returns:
        The model with the same modules, and a function from its vectors (n, width), float32, to those of the given one;
        the given model and None where there is no such layer.
    """
    modules = list(model)
    last = [modules.pop()] if modules and isinstance(modules[-1], Normalize) else []
    layers: list[torch.nn.Module] = []
    while len(modules) > 1 and _is_linear(modules[-1]):
        layers.insert(0, modules.pop())
    if not layers:
        return model, None
    behind = torch.nn.Sequential(*layers, *last)

    def apply(vectors: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = behind({"sentence_embedding": torch.from_numpy(vectors).to(model.device)})["sentence_embedding"]
        applied: np.ndarray = found.cpu().numpy()
        return applied

    encoder = type(model)(modules=[*modules, *last], device=str(model.device))
    encoder.warn_when_cut = model.warn_when_cut
    return encoder, apply


def _is_linear(module: torch.nn.Module) -> bool:
    return (
        isinstance(module, Dense)
        and isinstance(module.activation_function, torch.nn.Identity)
        and module.linear.bias is None
        and module.linear.weight.dtype == torch.float32
        and module.module_input_name == module.module_output_name == "sentence_embedding"
    )
