"""What a model computes in while it encodes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from mrl_text.choices import AutoDtype
from mrl_text.precision import training_precision
from mrl_text.suggest import check_choice

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


_AMPERE = (8, 0)  # the first GPUs that multiply bfloat16 natively


def compute_dtype(model: SentenceTransformer, wanted: str | None = None) -> str:
    """The number format that a model's matrix products are computed in.

    Args:
        model: on the device where it encodes.
        wanted: None and ``auto`` take bfloat16 where the device has it natively (processors with AVX-512 BF16 or AMX,
            CUDA GPUs of compute capability 8.0 and later) and the model has a transformer, else the model's own.

    Returns:
        ``float32``, ``bfloat16``, or for a model loaded in float16 just that.

    Raises:
        ValueError: an unknown format, or float32 of a model that was loaded in fewer bits.
    """
    if wanted is not None:
        check_choice("dtype", wanted, AutoDtype)
    parameter = next(model.parameters(), None)
    own = str(parameter.dtype).removeprefix("torch.") if parameter is not None else "float32"
    if wanted == "float32" and own != "float32":
        raise ValueError(f"dtype='float32', but the model was loaded in {own}: load it in float32")
    if wanted == "bfloat16" or own != "float32" or wanted == "float32":
        return wanted if wanted in ("bfloat16", "float32") and own == "float32" else own
    return "bfloat16" if _multiplies(model) and _has_bfloat16(model.device) else "float32"


def computing_in(dtype: str, model: SentenceTransformer) -> AbstractContextManager[None]:
    """A context in which the model's matrix products are in ``dtype``, the rest in the model's own format.

    The model itself is left as it is: weights are rounded on the way into each product.
    """
    own = next((str(parameter.dtype) for parameter in model.parameters()), "torch.float32")
    if own == f"torch.{dtype}":
        return nullcontext()
    return torch.autocast(model.device.type, getattr(torch, dtype))


def _multiplies(model: SentenceTransformer) -> bool:
    """Whether there are matrix products at all; models that look up and average gain nothing from fewer bits."""
    return any(isinstance(module, torch.nn.Linear) for module in model.modules())


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    return device.type == "cpu" and training_precision(use_cpu=True).get("bf16", False)
