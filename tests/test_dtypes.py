from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from mrl_text.dtypes import fastest_dtype, training_precision


@pytest.mark.parametrize(
    ("use_cpu", "cuda", "native_on_cuda", "mps", "capabilities", "expected"),
    [
        (False, True, True, False, {}, {"bf16": True}),
        (False, True, False, False, {"avx512_bf16": True}, {"fp16": True}),
        (True, True, True, False, {}, {"use_cpu": True}),
        (False, False, False, True, {"amx_bf16": True}, {}),
        (True, False, False, True, {"amx_bf16": True}, {"bf16": True, "use_cpu": True}),
        (False, False, False, False, {"avx512_bf16": True, "amx_bf16": False}, {"bf16": True, "use_cpu": True}),
        (False, False, False, False, {"avx512_bf16": False, "amx_bf16": True}, {"bf16": True, "use_cpu": True}),
        (False, False, False, False, {"avx512_bf16": False, "avx2": True}, {"use_cpu": True}),
        (False, False, False, False, {}, {"use_cpu": True}),
        (False, False, False, False, None, {"use_cpu": True}),
    ],
    ids=[
        "CUDA with bfloat16",
        "older CUDA",
        "CUDA left alone",
        "Apple GPU",
        "Apple GPU left alone",
        "AVX-512 BF16",
        "AMX",
        "plain processor",
        "processor that tells nothing",
        "torch that cannot tell",
    ],
)
def test_the_fastest_native_format_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    use_cpu: bool,
    cuda: bool,
    native_on_cuda: bool,
    mps: bool,
    capabilities: dict[str, bool] | None,
    expected: dict[str, bool],
) -> None:
    def bf16_on_cuda(including_emulation: bool = True) -> bool:
        return native_on_cuda or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", bf16_on_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert training_precision(use_cpu=use_cpu) == expected


@pytest.mark.parametrize(("allowed", "expected"), [("AVX512", "bfloat16"), ("AVX2", "float32"), ("DEFAULT", "float32")])
def test_a_processor_that_is_held_back_has_no_bfloat16(
    monkeypatch: pytest.MonkeyPatch, allowed: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: allowed)
    assert fastest_dtype("cpu") == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("AVX512_CORE_VNNI", "float32"), ("avx2", "float32"), ("AVX512_CORE_BF16", "bfloat16"), ("ALL", "bfloat16")],
)
def test_what_onednn_may_not_use_is_not_there(monkeypatch: pytest.MonkeyPatch, limit: str, expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert fastest_dtype("cpu") == expected


def test_torch_is_held_back_by_its_environment() -> None:
    said = "import torch; from mrl_text.dtypes import fastest_dtype; print(fastest_dtype('cpu'))"
    held = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", said], env=held, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "float32"
