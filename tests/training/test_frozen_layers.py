from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from torch import Tensor
from transformers import AutoTokenizer

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.layers import find_layers
from mrl_text.losses import nested_infonce
from mrl_text.training.activations import Activations, make_room
from mrl_text.training.adapters import attach_adapters
from mrl_text.training.base import load_base
from mrl_text.training.callbacks import MetricsLog
from mrl_text.training.frozen_layers import FrozenLayers
from mrl_text.training.recipe import Recipe
from mrl_text.training.trainer import train
from tests.conftest import WORDS
from tests.training.runs import at_step

LAYERS, FROZEN, WIDTH = 4, 2, 32
Make = Callable[[str], SentenceTransformer]


def _config(kind: str, vocabulary: int) -> object:
    import transformers

    shape = {"vocab_size": vocabulary, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    shape |= {
        "intermediate_size": 48,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if kind == "Qwen3":
        shape |= {"num_key_value_heads": 2, "head_dim": 8}
    if kind == "ModernBert":
        shape |= {"local_attention": 4, "global_attn_every_n_layers": 3, "reference_compile": False}
    return getattr(transformers, f"{kind}Config")(**shape)


@pytest.fixture
def make(tiny_bert: Path, tmp_path: Path) -> Make:
    """A float64 model of four random layers, by the name of its family; Qwen3's padding is on the left."""

    def made(kind: str) -> SentenceTransformer:
        import transformers

        tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
        tokenizer.padding_side = "left" if kind == "Qwen3" else "right"
        torch.manual_seed(0)
        folder = tmp_path / kind
        getattr(transformers, f"{kind}Model")(_config(kind, len(tokenizer))).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float64"})
        assert isinstance(model[1], Pooling)
        if kind == "Qwen3":
            model[1] = Pooling(WIDTH, pooling_mode="lasttoken")
        return model.double()

    return made


TEXTS = [
    " ".join(WORDS[start : start + length]) for start, length in ((0, 2), (5, 9), (9, 4), (20, 1), (3, 6), (11, 3))
]


def _columns(model: SentenceTransformer) -> list[dict[str, Tensor]]:
    return [dict(model.preprocess(TEXTS[:3])), dict(model.preprocess(TEXTS[3:]))]


def _step(model: SentenceTransformer) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Embeddings of two columns in training mode, and the gradients of the loss."""
    model.train()
    model.zero_grad()
    embeddings = [model(one)["sentence_embedding"] for one in _columns(model)]
    sum(nested_infonce(model, [8, WIDTH])(_columns(model), None).values()).backward()
    return embeddings, {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("kind", ["Bert", "MPNet", "ModernBert", "Qwen3", "Roberta"])
def test_embeddings_and_gradients_are_those_of_the_whole_model(make: Make, kind: str) -> None:
    model = make(kind)
    expected, gradients = _step(copy.deepcopy(model))
    frozen = FrozenLayers(model, FROZEN)
    kept = Activations(None, WIDTH, torch.float64)
    ran: list[int] = []  # texts that went through the first layer
    find_layers(model[0].model)[0].register_forward_hook(lambda layer, args, output: ran.append(len(args[0])))
    for activations in (None, kept, kept):  # computed, kept, and looked up
        with frozen.running(activations):
            found, own = _step(model)
            for one, right in zip(found, expected, strict=True):
                torch.testing.assert_close(one, right, rtol=0, atol=1e-12)
            for name, gradient in own.items():
                torch.testing.assert_close(gradient, gradients[name], rtol=0, atol=1e-12)
    assert sum(ran) == 3 * len(TEXTS)  # two passes of a step compute them, then each once
    layers = [name for name in own if any(part.isdecimal() for part in name.split(".")[1:])]
    assert {next(int(part) for part in name.split(".")[1:] if part.isdecimal()) for name in layers} == {2, 3}
    missing = {name for name in gradients if name not in own}
    assert all(not one.requires_grad for name, one in model.named_parameters() if name in missing)
    assert any("relative_attention_bias" in name for name in missing) == (kind == "MPNet")
    assert any(name.endswith("norm.weight") for name in own if "layers." not in name) == (
        kind in ("ModernBert", "Qwen3")
    )


def test_mixed_precision_has_activations_of_its_own(make: Make) -> None:
    model = make("Bert").float()
    frozen = FrozenLayers(model, FROZEN)
    kept = Activations(None, WIDTH, torch.float32)
    ran: list[int] = []
    find_layers(model[0].model)[0].register_forward_hook(lambda layer, args, output: ran.append(len(args[0])))
    with frozen.running(kept):
        for mixed in (False, True, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                model(dict(model.preprocess(TEXTS)))
    assert ran == [len(TEXTS)] * 2


def test_numbers_that_float16_cannot_hold_are_refused(make: Make) -> None:
    model = make("Qwen3")
    frozen = FrozenLayers(model, FROZEN)
    with torch.no_grad():
        model[0].model.embed_tokens.weight.mul_(1e7)
    for dtype in (torch.bfloat16, torch.float16):
        with frozen.running(Activations(None, WIDTH, dtype)):
            if dtype is torch.bfloat16:
                assert model(dict(model.preprocess(TEXTS)))["sentence_embedding"].isfinite().all()
                continue
            with pytest.raises(
                ValueError, match=r"activations up to .*e\+05 do not fit float16: set model.activations=bf"
            ):
                model(dict(model.preprocess(TEXTS)))


def test_models_that_cannot_be_split_are_refused(make: Make, tiny_bert: Path) -> None:
    for layers in (0, LAYERS):
        with pytest.raises(ValueError, match=f"freeze_layers={layers}, but the model has 4 layers: give 1 to 3"):
            FrozenLayers(make("Bert"), layers)
    table = SentenceTransformer(modules=[StaticEmbedding(AutoTokenizer.from_pretrained(tiny_bert), embedding_dim=8)])
    with pytest.raises(ValueError, match="this one has no transformer"):
        FrozenLayers(table, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_activations_come_back_as_they_were_rounded(tmp_path: Path, dtype: torch.dtype) -> None:
    file = tmp_path / "folder" / "activations.bin"
    given = {bytes([tokens]) * 16: torch.randn(tokens, 3).to(dtype) for tokens in (1, 2, 5, 2)}
    kept = Activations(file, 3, dtype)
    for key, states in given.items():
        kept.put(key, states)
    kept.flush()
    for again in (kept, Activations(file, 3, dtype)):  # of a later run
        assert all(torch.equal(again.get(key, len(states)), states) for key, states in given.items())
    assert again.bytes == file.stat().st_size


def test_what_goes_beyond_the_limit_is_not_kept(tmp_path: Path) -> None:
    kept = Activations(tmp_path / "activations.bin", 4, torch.float32, limit=100)
    for key in (b"a" * 16, b"b" * 16):
        kept.put(key, torch.ones(4, 4))  # 64 bytes
    assert b"a" * 16 in kept
    assert b"b" * 16 not in kept


def test_a_full_disk_ends_the_keeping_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    kept = Activations(tmp_path / "activations.bin", 4, torch.float32)
    kept.put(b"a" * 16, torch.ones(4, 4))
    monkeypatch.setattr("mrl_text.vector_file.VectorFile.append", full)
    kept.flush()
    assert "No space left on device): activations are computed in each step from here on" in caplog.text
    kept.put(b"a" * 16, torch.ones(4, 4))
    assert b"a" * 16 not in kept


def test_older_activations_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate("cba"):
        file = tmp_path / name / "float16.bin"
        file.parent.mkdir()
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 - age))  # a is the oldest
    own = tmp_path / "own" / "float16.bin"
    assert make_room(own, 1000, 600) == 700  # there is enough
    assert make_room(own, 1000, 750) == 800
    assert sorted(file.parent.name for file in tmp_path.glob("*/*.bin")) == ["b", "c"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 10**9 + 30))
    file = tmp_path / "c" / "float16.bin"
    assert make_room(file, 1000, 100) == 130  # 2 GB stay free
    assert make_room(file, 150, 10**6) == 130
    assert [file.parent.name for file in tmp_path.glob("*/*.bin")] == ["c"]


def _recipe(tiny_bert: Path, folder: Path, triplets: list[dict[str, str]], **model: object) -> Recipe:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in triplets), encoding="utf-8")
    return Recipe.model_validate(
        {
            "model": {"name": str(tiny_bert), "dropout": 0.0, **model},
            "data": {"train": [{"source": str(file)}], "validation": [{"source": str(file), "limit": 20}]},
            "loss": {"dims": [8, 32]},
            "training": {"max_steps": 12, "per_device_train_batch_size": 16, "learning_rate": 1e-3}
            | {"logging_steps": 1, "save_steps": 4, "bf16": False, "use_cpu": True},
        }
    )


def _weights(run: Path) -> dict[str, Tensor]:
    return dict(load_file(run / "model" / "model.safetensors"))


@pytest.mark.slow
def test_a_run_reaches_the_weights_of_one_that_computes_frozen_layers(
    tiny_bert: Path, tmp_path: Path, triplets: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text in three epochs, and twice in validation; the reference freezes by name and knows no activations."""

    def by_name(*args: object) -> object:
        model = load_base(*args)  # type: ignore[arg-type]
        model[0].model.embeddings.requires_grad_(False)
        model[0].model.encoder.layer[0].requires_grad_(False)
        return model

    kept = _recipe(tiny_bert, tmp_path, triplets, freeze_layers=1, activations="float32")
    train(kept, tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr("mrl_text.training.trainer.load_base", by_name)
        train(_recipe(tiny_bert, tmp_path, triplets), tmp_path / "whole")
    right, base = _weights(tmp_path / "whole"), load_file(tiny_bert / "model.safetensors")
    for name, weight in _weights(tmp_path / "kept").items():
        torch.testing.assert_close(weight, right[name], rtol=0, atol=1e-5, msg=name)
    moved = {name for name, weight in right.items() if not torch.equal(weight, base[name])}
    assert moved == {name for name in right if "layer.1." in name}
    scores = [json.loads((tmp_path / name / "result.json").read_text())["validation"] for name in ("kept", "whole")]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_adapters_stand_above_frozen_layers(tiny_bert: Path, tmp_path: Path, triplets: list[dict[str, str]]) -> None:
    """peft's own ``layers_to_transform`` trains the same without activations."""
    adapters = {"r": 4, "layers_to_transform": [1]}
    train(_recipe(tiny_bert, tmp_path, triplets, peft=adapters), tmp_path / "whole")
    frozen = {"freeze_layers": 1, "activations": "float32"}
    train(_recipe(tiny_bert, tmp_path, triplets, peft=adapters, **frozen), tmp_path / "kept")
    right = _weights(tmp_path / "whole")
    for name, weight in _weights(tmp_path / "kept").items():
        torch.testing.assert_close(weight, right[name], rtol=0, atol=1e-5, msg=name)
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    attach_adapters(model, {"r": 4}, seed=0, above=1)
    assert {name.split(".")[4] for name, one in model.named_parameters() if one.requires_grad} == {"1"}


@pytest.mark.slow
def test_an_interrupted_run_finds_its_activations(
    tiny_bert: Path, tmp_path: Path, triplets: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(tiny_bert, tmp_path, triplets, freeze_layers=1)
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "one"))
    train(recipe, tmp_path / "whole")
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "other"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsLog, "on_log", at_step(6, lambda: signal.raise_signal(signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "broken")
    [file] = (tmp_path / "other").glob("activations/*/float16.bin")
    size = file.stat().st_size
    train(recipe, tmp_path / "broken", resume=True)
    assert file.stat().st_size == size > 0  # each text was there
    assert all(
        torch.equal(one, _weights(tmp_path / "whole")[name]) for name, one in _weights(tmp_path / "broken").items()
    )
