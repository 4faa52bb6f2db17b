"""The number type of a model: one rule for all commands.

1. A model computes in the type of its weights. :func:`mrl_text.loading.load` makes that float32, whatever type the
   checkpoint was saved in, unless ``dtype`` says otherwise; ``auto`` takes :func:`fastest_dtype`.
2. Matrix products alone can be computed in bfloat16 from float32 weights (``encode_stream(dtype=...)``, ``mrl-text
   encode``): weights, norms and sums keep float32. This is slower than weights in bfloat16, and closer to float32.
3. Another engine (:mod:`mrl_text.backends`) computes in the type that it was loaded for, also int8.
4. Training updates float32 weights; mixed precision (:func:`training_precision`) is the Trainer's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch

from mrl_text.choices import AutoDtype
from mrl_text.suggest import check_choice

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# what torch says where ATEN_CPU_CAPABILITY keeps it from newer instructions
_WITHOUT_AVX512 = ("DEFAULT", "AVX2")
# limits of oneDNN, by which torch and OpenVINO multiply, under which it emulates bfloat16 or has none
_ONEDNN_LIMIT = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")


def training_precision(*, use_cpu: bool = False) -> dict[str, bool]:
    """Device and mixed-precision arguments for the Trainer on this machine.

    bfloat16 on GPUs that have it and on processors with AVX-512 BF16 or AMX, float16 on older CUDA GPUs, otherwise
    float32: on a processor without the instructions bfloat16 is emulated and slower.

    Args:
        use_cpu: leave GPUs alone.

    Returns:
        Some of ``bf16``, ``fp16`` and ``use_cpu``; the Trainer allows bfloat16 on a processor only with ``use_cpu``.
    """
    if not use_cpu and torch.cuda.is_available():
        return {"bf16": True} if _has_bfloat16("cuda") else {"fp16": True}
    if not use_cpu and torch.backends.mps.is_available():
        return {}
    return {"bf16": True, "use_cpu": True} if _has_bfloat16("cpu") else {"use_cpu": True}


def fastest_dtype(device: str | torch.device | None = None) -> Literal["float32", "bfloat16"]:
    """bfloat16 where a device has it natively (AVX-512 BF16, AMX, CUDA GPUs from Ampere on), else float32.

    A processor that is held back by ``ATEN_CPU_CAPABILITY`` or ``ONEDNN_MAX_CPU_ISA`` has what these leave it.

    Args:
        device: None is the one that sentence-transformers chooses.
    """
    if device is None:
        from sentence_transformers.util import get_device_name

        device = get_device_name()
    return "bfloat16" if _has_bfloat16(torch.device(device).type) else "float32"


def compute_dtype(model: SentenceTransformer, wanted: str | None = None) -> str:
    """The type that a model's matrix products are computed in.

    Args:
        model: on the device where it encodes.
        wanted: None is the type of its weights. ``auto`` takes bfloat16 where the device has it natively and the model
            multiplies matrices, else that of its weights. Weights in fewer bits than float32 stay as they are.

    Returns:
        ``float32``, ``bfloat16``, or for a model loaded in another type, as float16 or int8, just that.

    Raises:
        ValueError: an unknown type, or another one than the model was loaded in.
    """
    if engine := next((one for one in model.modules() if hasattr(one, "computes_in")), None):
        if wanted not in (None, "auto", engine.computes_in):
            raise ValueError(f"dtype={wanted!r}, but the model was loaded to compute in {engine.computes_in}")
        return str(engine.computes_in)
    parameter = next(model.parameters(), None)
    own = str(parameter.dtype).removeprefix("torch.") if parameter is not None else "float32"
    if wanted is None:
        return own
    check_choice("dtype", wanted, AutoDtype)
    if wanted == "int8":
        raise ValueError("torch does not compute in int8 here: load the model with backend openvino or onnx")
    if own != "float32":
        if wanted == "float32":
            raise ValueError(
                f"dtype='float32', but the model's weights are in {own}: load it by mrl_text.loading.load, or with"
                " model_kwargs={'dtype': 'float32'}"
            )
        return own
    if wanted == "auto":
        # models that look up and average have no products, and gain nothing from fewer bits
        multiplies = any(isinstance(module, torch.nn.Linear) for module in model.modules())
        return fastest_dtype(model.device) if multiplies else own
    return wanted


@contextmanager
def computing_in(dtype: str, model: SentenceTransformer) -> Iterator[None]:
    """Compute without gradients, the model's matrix products in ``dtype``, the rest in the type of its weights.

    The model itself is left as it is: each weight is rounded once, and forgotten when the context ends.
    """
    same = compute_dtype(model) == dtype
    # not inference mode: there autocast keeps no rounded weight, and rounds it again in each product
    with torch.no_grad(), nullcontext() if same else torch.autocast(model.device.type, getattr(torch, dtype)):
        yield


def _has_bfloat16(device_type: str) -> bool:
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type != "cpu" or torch.backends.cpu.get_cpu_capability() in _WITHOUT_AVX512:
        return False
    if any(os.environ.get(name, "").upper() in _WITHOUT_BFLOAT16 for name in _ONEDNN_LIMIT):
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
