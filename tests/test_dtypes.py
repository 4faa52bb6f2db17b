from __future__ import annotations

import pytest
import torch

from mrl_text.dtypes import training_precision


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
    assert training_precision(use_cpu=use_cpu) == expected
