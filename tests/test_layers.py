from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    BertTokenizerFast,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    T5EncoderModel,
)

from mrl_text import MatryoshkaEncoder
from mrl_text.codes import Codec
from mrl_text.layers import check_layers, find_layers, peek_layers
from mrl_text.models import find_model

TEXTS = ["the cat sits on the mat", "a dog", "small blue car in the city with a man and a woman"]
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": 60}
CONFIGS: dict[str, PretrainedConfig] = {
    "distilbert": DistilBertConfig(dim=32, hidden_dim=64, n_heads=2, n_layers=4, vocab_size=60),
    "modernbert": ModernBertConfig(**WIDE, num_hidden_layers=4, pad_token_id=0, reference_compile=False),
    "mpnet": MPNetConfig(**WIDE, num_hidden_layers=4, max_position_embeddings=64),
    "roberta": RobertaConfig(**WIDE, num_hidden_layers=4, max_position_embeddings=64, pad_token_id=0),
    "qwen3": Qwen3Config(**WIDE, num_hidden_layers=4, num_key_value_heads=2, head_dim=16),
    # a block of T5 is itself a list of two modules, here as many as there are blocks
    "t5": T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=60),
}
NORMS = {"modernbert": "final_norm", "qwen3": "norm", "t5": "encoder.final_layer_norm"}


@pytest.fixture
def make(tiny_bert: Path, tmp_path: Path) -> Any:
    """Folder of a random model of a kind, with the tiny BERT's tokenizer."""

    def made(kind: str) -> Path:
        if kind == "bert":
            return tiny_bert
        torch.manual_seed(1)
        config = CONFIGS[kind]
        backbone = T5EncoderModel(config) if kind == "t5" else AutoModel.from_config(config)
        for parameter in backbone.parameters():  # norms that start at 1 would hide whether they are applied
            nn.init.normal_(parameter, std=0.3)
        backbone.save_pretrained(tmp_path / kind)
        BertTokenizerFast.from_pretrained(tiny_bert).save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return made


def expected(folder: Path, layers: int, norm: str | None) -> np.ndarray:
    """Hidden state of a layer of the whole model, its final norm where it has one, mean over the tokens."""
    whole = SentenceTransformer(str(folder), device="cpu")
    backbone = whole[0].model
    features = whole.tokenize(TEXTS)
    mask = features["attention_mask"]
    outputs = backbone(features["input_ids"], attention_mask=mask, output_hidden_states=True)
    if layers == len(outputs.hidden_states) - 1:
        states = outputs.last_hidden_state
    else:
        states = outputs.hidden_states[layers]
        states = backbone.get_submodule(norm)(states) if norm else states
    mean = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return nn.functional.normalize(mean).detach().numpy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", *CONFIGS])
def test_a_cut_model_computes_what_the_layer_of_the_whole_model_did(make: Any, kind: str) -> None:
    folder = make(kind)
    depth = AutoConfig.from_pretrained(folder).num_hidden_layers
    for layers in range(1, depth + 1):
        cut = MatryoshkaEncoder(str(folder), device="cpu").truncate_layers(layers)
        assert cut.encode(TEXTS) == pytest.approx(expected(folder, layers, NORMS.get(kind)), abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", *CONFIGS])
def test_a_cut_model_is_smaller_and_loads_so_in_plain_sentence_transformers(
    make: Any, kind: str, tmp_path: Path
) -> None:
    model = MatryoshkaEncoder(str(make(kind)), matryoshka_dims=[8, 32], device="cpu")
    model.save_pretrained(str(tmp_path / "whole"))
    before = sum(parameter.numel() for parameter in model.parameters())
    dropped = sum(parameter.numel() for parameter in find_layers(model[0].model)[1:].parameters())
    model.codec = Codec.plain(model.width)
    assert model.truncate_layers(1) is model
    assert model.codec is None
    assert sum(parameter.numel() for parameter in model.parameters()) == before - dropped < before
    model.save_pretrained(str(tmp_path / "cut"))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "cut")]
    assert sizes[0] - sizes[1] >= 4 * dropped  # bytes of float32

    plain = SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    assert plain[0].model.config.num_hidden_layers == len(find_layers(plain[0].model)) == 1
    assert plain.encode(TEXTS, normalize_embeddings=True) == pytest.approx(model.encode(TEXTS), abs=1e-6)
    again = MatryoshkaEncoder(str(tmp_path / "cut"), device="cpu")
    assert again.matryoshka_dims == (8, 32)
    assert peek_layers(find_model(str(tmp_path / "cut"))) == 1


def test_a_list_of_sizes_is_no_list_of_layers(make: Any) -> None:
    model = MatryoshkaEncoder(str(make("modernbert")), matryoshka_dims=[4, 8, 16, 32], device="cpu")
    model.truncate_layers(3)
    assert model.config.matryoshka_dimensions == [4, 8, 16, 32]
    assert len(model.config.layer_types) == 3


def test_all_layers_are_the_model_itself(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    before = model.encode(TEXTS)
    np.testing.assert_array_equal(model.truncate_layers(2).encode(TEXTS), before)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (0, "from 1 to 2, the model's own number, got 0"),
        (-1, "got -1"),
        (3, "from 1 to 2, the model's own number, got 3"),
        (1.5, "a whole number, got 1.5"),
        (True, "a whole number, got True"),
    ],
)
def test_an_impossible_depth_is_refused_and_the_model_untouched(tiny_bert: Path, layers: Any, message: str) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    with pytest.raises(ValueError, match=message):
        model.truncate_layers(layers)
    assert len(find_layers(model[0].model)) == model.config.num_hidden_layers == 2


def test_a_depth_without_a_model_has_no_upper_bound() -> None:
    assert check_layers(np.int64(48), None) == 48
    with pytest.raises(ValueError, match="at least 1, got 0"):
        check_layers(0, None)


def test_models_without_layers_are_refused(tiny_bert: Path) -> None:
    tokenizer = BertTokenizerFast.from_pretrained(tiny_bert)
    static = MatryoshkaEncoder(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")
    with pytest.raises(ValueError, match="no transformer"):
        static.truncate_layers(1)


def test_a_model_with_a_transformer_per_route_is_refused(tiny_bert: Path) -> None:
    routes = [SentenceTransformer(str(tiny_bert), device="cpu") for _ in range(2)]
    router = Router.for_query_document([routes[0][0], Pooling(32)], [routes[1][0], Pooling(32)])
    model = MatryoshkaEncoder(modules=[router], device="cpu")
    with pytest.raises(ValueError, match="2 transformers, one per route"):
        model.truncate_layers(1)


class Stacks(nn.Module):
    """Lists of modules under a configuration that speaks of two layers."""

    def __init__(self, *lengths: int) -> None:
        super().__init__()
        self.config = PretrainedConfig()
        self.config.num_hidden_layers = 2
        for number, length in enumerate(lengths):
            self.add_module(f"stack{number}", nn.ModuleList(nn.Linear(2, 2) for _ in range(length)))


@pytest.mark.parametrize(("lengths", "found"), [((1, 3), "found none"), ((2, 2), "found stack0, stack1")])
def test_layers_that_are_not_certain_are_refused(lengths: tuple[int, ...], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        find_layers(Stacks(*lengths))
    with pytest.raises(ValueError, match="found none"):
        find_layers(object())  # type: ignore[arg-type]  # a model that runs outside of torch


def test_the_depth_is_known_from_the_configuration_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("weights were read"))

    def depth(name: str, config: dict[str, Any], subfolder: str = "") -> int | None:
        folder = tmp_path / name
        (folder / subfolder).mkdir(parents=True)
        modules = [{"idx": 0, "name": "0", "path": subfolder, "type": "sentence_transformers.models.Transformer"}]
        (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
        (folder / subfolder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return peek_layers(find_model(str(folder)))

    assert depth("bert", {"num_hidden_layers": 12}) == 12
    assert depth("distilbert", {"n_layers": 6}) == 6
    assert depth("in a subfolder", {"num_hidden_layers": 3}, "0_Transformer") == 3
    assert depth("static", {"vocab_size": 3}) is None
