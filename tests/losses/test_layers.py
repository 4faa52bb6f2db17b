from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    AdaptiveLayerLoss,
    Matryoshka2dLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import nn
from transformers import BertTokenizerFast

from mrl_text import MatryoshkaEncoder
from mrl_text.losses import nested_infonce_2d

DIMS = [8, 16, 32]


def load(folder: Path) -> MatryoshkaEncoder:
    model = MatryoshkaEncoder(str(folder), device="cpu")
    return model.eval()  # type: ignore[no-any-return]  # no dropout, so that two computations agree


def batch(model: SentenceTransformer, triplets: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [model.tokenize([row[name] for row in triplets[:16]]) for name in ("anchor", "positive", "negative")]


def value_and_gradients(loss: nn.Module, model: nn.Module, columns: list[dict[str, Any]]) -> tuple[float, list[Any]]:
    model.zero_grad()
    random.seed(3)
    value = loss([dict(column) for column in columns], None)
    value.backward()
    return value.item(), [None if one.grad is None else one.grad.clone() for one in model.parameters()]


@pytest.mark.parametrize("per_step", [(1, None), (1, 1), (None, 2)])
def test_it_is_sentence_transformers_own_loss(
    tiny_bert: Path, triplets: list[dict[str, str]], per_step: tuple[int | None, int | None]
) -> None:
    model = load(tiny_bert)
    columns = batch(model, triplets)
    weights = [3.0, 2.0, 1.0]
    layers, dims = per_step
    ours = nested_infonce_2d(
        model,
        DIMS,
        weights=weights,
        scale=10.0,
        layers_per_step=layers,
        dims_per_step=dims,
        last_layer_weight=0.7,
        prior_layers_weight=0.4,
        kl_div_weight=0.2,
        kl_temperature=0.5,
    )
    inner = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model, scale=10.0), DIMS, weights, dims or -1)
    theirs = AdaptiveLayerLoss(model, inner, layers or -1, 0.7, 0.4, 0.2, 0.5)
    (value, gradients), (other, others) = (value_and_gradients(one, model, columns) for one in (ours, theirs))
    assert value == pytest.approx(other, rel=1e-6)
    for gradient, expected in zip(gradients, others, strict=True):
        assert (gradient is None) == (expected is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, expected)


def test_every_layer_and_size_counts_as_the_weights_say(tiny_bert: Path, triplets: list[dict[str, str]]) -> None:
    model = load(tiny_bert).double()
    columns = batch(model, triplets)
    loss = nested_infonce_2d(
        model, DIMS, layers_per_step=None, last_layer_weight=2.0, prior_layers_weight=0.5, kl_temperature=0.0
    )
    with torch.no_grad():
        value = loss([dict(column) for column in columns], None).item()
        states = [_states(model, column) for column in columns]  # per column, one pooled tensor per layer
    by_layer = [sum(_infonce([column[layer][:, :dim] for column in states]) for dim in DIMS) for layer in range(3)]
    assert value == pytest.approx(2.0 * by_layer[2] + 0.5 * (by_layer[0] + by_layer[1]) / 2, rel=1e-10)


def _states(model: SentenceTransformer, column: dict[str, Any]) -> list[torch.Tensor]:
    mask = column["attention_mask"]
    states = model[0].model(column["input_ids"], attention_mask=mask, output_hidden_states=True).hidden_states
    return [(state * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True) for state in states]


def _infonce(vectors: list[torch.Tensor]) -> float:
    anchors, *others = (nn.functional.normalize(one) for one in vectors)
    similarities = 20.0 * anchors @ torch.cat(others).T
    return (torch.logsumexp(similarities, dim=1) - similarities.diagonal()).mean().item()


@pytest.mark.slow
def test_training_lowers_the_loss_at_every_depth_and_size(
    tiny_bert: Path, triplets: list[dict[str, str]], tmp_path: Path
) -> None:
    model = load(tiny_bert)

    def loss_at(layers: int) -> list[float]:
        model.save_pretrained(str(tmp_path / "now"))
        cut = load(tmp_path / "now").truncate_layers(layers)
        with torch.no_grad():
            vectors = [cut(column)["sentence_embedding"] for column in batch(cut, triplets)]
            return [_infonce([one[:, :dim] for one in vectors]) for dim in DIMS]

    before = [loss_at(layers) for layers in (1, 2)]
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "run"),
            num_train_epochs=8,
            per_device_train_batch_size=16,
            learning_rate=2e-3,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(triplets),
        loss=nested_infonce_2d(model, DIMS),
    )
    trainer.train()
    model.eval()
    after = [loss_at(layers) for layers in (1, 2)]
    for was, now in zip(before, after, strict=True):
        assert all(new < 0.9 * old for new, old in zip(now, was, strict=True)), (before, after)


def test_impossible_settings_are_refused(tiny_bert: Path) -> None:
    model = load(tiny_bert)
    assert isinstance(nested_infonce_2d(model, DIMS), Matryoshka2dLoss)
    for settings, message in (
        ({"dims": [16, 64]}, "dims asks for 64, but the model has width 32"),
        ({"dims": [0, 16]}, "dim must be at least 1"),
        ({"weights": [1.0]}, "expected 3 weights"),
        ({"scale": 0.0}, "a positive scale"),
        ({"layers_per_step": 0}, "layers_per_step must be at least 1, or None for all, got 0"),
        ({"dims_per_step": -1}, "dims_per_step must be at least 1, or None for all, got -1"),
        ({"kl_div_weight": -0.5}, "kl_div_weight must be a number of at least 0, got -0.5"),
        ({"kl_temperature": float("nan")}, "kl_temperature must be a number of at least 0, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            nested_infonce_2d(model, **{"dims": DIMS, **settings})


def test_a_model_without_layers_is_refused(tiny_bert: Path) -> None:
    tokenizer = BertTokenizerFast.from_pretrained(tiny_bert)
    static = MatryoshkaEncoder(modules=[StaticEmbedding(tokenizer, embedding_dim=32)], device="cpu")
    with pytest.raises(ValueError, match="StaticEmbedding, which has no layers to train: use nested_infonce"):
        nested_infonce_2d(static, DIMS)
