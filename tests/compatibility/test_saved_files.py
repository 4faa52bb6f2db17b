"""What servers that read a model's files themselves need to find there, each need with its source.

The servers are not run here: these tests say that the files are as their sources ask.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer

from mrl_text import MatryoshkaEncoder
from mrl_text.server_files import write_server_files

TEXTS = ["the cat sits on the mat", "a dog eats bread", "plays music " * 200]


@pytest.fixture(scope="module")
def rotated(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with all modules that ours have: transformer, mean pooling, a rotation, unit length."""
    torch.manual_seed(1)
    transformer = Transformer(str(tiny_bert))
    rotation = torch.linalg.qr(torch.randn(32, 32))[0]
    dense = Dense(32, 32, bias=False, activation_function=torch.nn.Identity(), init_weight=rotation)
    modules = [transformer, Pooling(32, "mean"), dense, Normalize()]
    folder = tmp_path_factory.mktemp("rotated") / "model"
    model = MatryoshkaEncoder(modules=modules, matryoshka_dims=[8, 16, 32], device="cpu", prompts={"query": "the "})
    model.save(str(folder))
    np.save(folder.parent / "vectors.npy", model.encode(TEXTS))
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_vllm(rotated):
    config = read(rotated, "config.json")
    # docs/models/pooling_models: a request with dimensions needs is_matryoshka or matryoshka_dimensions in config.json
    assert config["is_matryoshka"] is True
    assert config["matryoshka_dimensions"] == [8, 16, 32]
    # vllm/model_executor/models/registry.py: the architecture must be a supported one; BertModel is
    assert config["architectures"] == ["BertModel"]
    # vllm/transformers_utils/config.py, get_pooling_config: module types, then flags that are true
    types = [module["type"] for module in read(rotated, "modules.json")]
    assert types == [
        f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Dense", "Normalize")
    ]
    assert read(rotated, "1_Pooling/config.json")["pooling_mode_mean_tokens"] is True
    # get_sentence_transformer_tokenizer_config: read only if both are there
    assert read(rotated, "sentence_bert_config.json") == {"max_seq_length": 64, "do_lower_case": False}
    # vllm/model_executor/models/adapters.py, _load_st_projector and _load_dense_weights
    dense = read(rotated, "2_Dense/config.json")
    assert (dense["in_features"], dense["out_features"], dense["bias"]) == (32, 32, False)
    assert load_file(rotated / "2_Dense" / "model.safetensors")["linear.weight"].shape == (32, 32)


def test_text_embeddings_inference(rotated):
    # router/src/lib.rs: ModelConfig, PoolConfig, STConfig and NewSTConfig are parsed with these fields
    config = read(rotated, "config.json")
    assert config["model_type"] == "bert"  # backends/candle/src/lib.rs, enum Config
    assert isinstance(config["architectures"], list) and isinstance(config["max_position_embeddings"], int)
    pooling = read(rotated, "1_Pooling/config.json")
    assert (pooling["pooling_mode_cls_token"], pooling["pooling_mode_mean_tokens"]) == (False, True)
    assert read(rotated, "sentence_bert_config.json")["max_seq_length"] == 64
    assert read(rotated, "config_sentence_transformers.json")["prompts"]["query"] == "the "
    # "text-embeddings-inference only supports fast tokenizers"
    assert Tokenizer.from_file(str(rotated / "tokenizer.json")).get_vocab_size() > 0
    assert (rotated / "model.safetensors").is_file()
    # backends/src/lib.rs, enum ModuleType, and core/src/download.rs: a Dense by its old name, at 2_Dense by default
    assert read(rotated, "modules.json")[2] == {
        "idx": 2,
        "name": "2",
        "path": "2_Dense",
        "type": "sentence_transformers.models.Dense",
    }
    # backends/candle/src/models/dense.rs: Tanh or Identity, and linear.weight
    assert read(rotated, "2_Dense/config.json")["activation_function"] == "torch.nn.modules.linear.Identity"


def test_readers_of_sentence_transformers_3(rotated):
    """infinity-emb 0.0.78 pins them: their modules take these settings as arguments and no others."""
    assert read(rotated, "2_Dense/config.json").keys() <= {"in_features", "out_features", "bias", "activation_function"}
    assert all(
        key in ("word_embedding_dimension", "include_prompt") or key.startswith("pooling_mode_")
        for key in read(rotated, "1_Pooling/config.json")
    )


def test_vectors_stay_the_same(rotated):
    expected = np.load(rotated.parent / "vectors.npy")
    plain = SentenceTransformer(str(rotated), device="cpu")
    np.testing.assert_allclose(plain.encode(TEXTS), expected, atol=1e-6)
    assert plain.max_seq_length == 64
    assert MatryoshkaEncoder(str(rotated)).matryoshka_dims == (8, 16, 32)


@pytest.mark.parametrize("mode", ["cls", "mean", "max", "lasttoken", "mean_sqrt_len_tokens", ("cls", "mean")])
def test_every_pooling_comes_back(tiny_bert, tmp_path, mode):
    model = SentenceTransformer(modules=[Transformer(str(tiny_bert)), Pooling(32, mode)], device="cpu")
    expected = model.encode(TEXTS)
    model.save(str(tmp_path / "model"))
    assert write_server_files(tmp_path / "model", max_seq_length=model.max_seq_length)
    assert "pooling_mode" not in read(tmp_path / "model", "1_Pooling/config.json")
    np.testing.assert_array_equal(SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(TEXTS), expected)
    before = {file: file.read_bytes() for file in (tmp_path / "model").rglob("*.json")}
    assert write_server_files(tmp_path / "model", max_seq_length=model.max_seq_length)  # again changes nothing
    assert before == {file: file.read_bytes() for file in before}


def test_what_the_old_words_cannot_say_stays(tiny_bert, tmp_path):
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    static = StaticEmbedding(Tokenizer.from_file(str(tiny_bert / "tokenizer.json")), embedding_dim=8)
    residual = Dense(32, 32, use_residual=True)
    for name, modules in {
        "static": [static],
        "residual": [Transformer(str(tiny_bert)), Pooling(32, "mean"), residual],
    }.items():
        folder = tmp_path / name
        SentenceTransformer(modules=modules, device="cpu").save(str(folder))
        before = {file: file.read_bytes() for file in folder.rglob("*.json")}
        assert not write_server_files(folder, max_seq_length=64)
        assert before == {file: file.read_bytes() for file in before}
    assert not write_server_files(tmp_path / "nothing", max_seq_length=64)
