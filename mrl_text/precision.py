"""The fastest number format that the processor at hand computes natively."""

from __future__ import annotations

from typing import Literal

import torch


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
        return {"bf16": True} if torch.cuda.is_bf16_supported(including_emulation=False) else {"fp16": True}
    if not use_cpu and torch.backends.mps.is_available():
        return {}
    return {"bf16": True, "use_cpu": True} if _processor_has_bfloat16() else {"use_cpu": True}


def inference_dtype() -> Literal["float32", "bfloat16"]:
    """bfloat16 where the device that encodes has it natively, else float32."""
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if not torch.backends.mps.is_available() and _processor_has_bfloat16() else "float32"


def _processor_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
