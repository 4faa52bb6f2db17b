"""What only a CUDA device can show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mrl_text import MatryoshkaEncoder
from mrl_text.training import load_recipe, train

pytestmark = pytest.mark.gpu


def test_vectors_from_the_gpu_are_those_of_the_processor(tiny_bert: Path) -> None:
    texts = ["the cat sits", "a red house", "water"]
    on_gpu = MatryoshkaEncoder(str(tiny_bert), device="cuda")
    on_cpu = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    np.testing.assert_allclose(on_gpu.encode(texts, dim=16), on_cpu.encode(texts, dim=16), atol=1e-5)
    tensor = on_gpu.encode(texts, dim=16, convert_to_tensor=True)
    assert tensor.device.type == "cuda"
    assert isinstance(on_gpu.encode(texts, dim=16, precision="float16"), np.ndarray)


def test_a_stream_on_the_gpu_gives_the_vectors_of_the_processor(tiny_bert: Path) -> None:
    texts = [" ".join(["cat"] * (1 + index % 30)) for index in range(300)]
    [found] = MatryoshkaEncoder(str(tiny_bert), device="cuda").encode_stream(texts, dim=16, token_budget=256)
    np.testing.assert_allclose(found, MatryoshkaEncoder(str(tiny_bert), device="cpu").encode(texts, dim=16), atol=1e-5)


def test_training_on_the_gpu_chooses_mixed_precision_by_itself(
    tiny_bert: Path, triplets: list[dict[str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in triplets), encoding="utf-8")
    overrides = [f"model.name={tiny_bert}", f"data.train=[{{source: {file}}}]", "loss.dims=[8,16,32]", "eval.dims=[]"]
    recipe = load_recipe("minilm-nli", [*overrides, "training.max_steps=2"])
    train(recipe, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["device"].startswith("cuda")
    assert result["mixed_precision"] in ("bf16", "fp16")
