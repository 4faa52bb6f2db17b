"""An adaptation as part of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mrl_text.adapt.adaptation import Adaptation
    from mrl_text.encoder import MatryoshkaEncoder


def apply(model: MatryoshkaEncoder, adaptation: Adaptation) -> MatryoshkaEncoder:
    """Put the matrix into the model as sentence-transformers' own ``Dense`` layer, without bias and activation.

    It stands before a last ``Normalize``, else at the end. Length does not matter to cosines, so either place gives
    the same vectors. The saved model loads in plain sentence-transformers.

    Returns:
        The same model; its ``matryoshka_dims`` are the adaptation's.

    Raises:
        ValueError: the model's vectors have another width.
    """
    from sentence_transformers.sentence_transformer.modules import Dense

    if model.width != adaptation.width:
        raise ValueError(f"the adaptation is for vectors of {adaptation.width} numbers, the model's have {model.width}")
    weight = torch.from_numpy(adaptation.matrix.T.copy())  # a linear layer multiplies by the transpose
    layer = Dense(
        adaptation.width, adaptation.width, bias=False, activation_function=torch.nn.Identity(), init_weight=weight
    )
    last = len(model) - (type(model[-1]).__name__ == "Normalize")
    model.insert(last, layer.to(device=model.device, dtype=model.dtype))
    model.truncate_dim = None  # a cut saved with the model was of the old numbers
    model.matryoshka_dims = adaptation.dims
    return model
