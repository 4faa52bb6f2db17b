from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor, nn

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.losses.nested import embed_by_length
from tests.losses.reference import difference, ragged


class Recording(nn.Module):
    """Passes on to a model and notes the shape of every forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        self.shapes.append(tuple(features["input_ids"].shape))
        output: dict[str, Any] = self.model(features)
        return output

    @property
    def tokens(self) -> int:
        return sum(rows * length for rows, length in self.shapes)


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu").double().eval()


def one_by_one(model: nn.Module, columns: Sequence[dict[str, Any]]) -> list[Tensor]:
    return [model(dict(column))["sentence_embedding"] for column in columns]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 2), (64, 1), (63, 3), (200, 2), (300, 1), (130, 4)])
def test_embeddings_are_those_of_a_forward_pass_per_column(model: MatryoshkaEncoder, rows: int, columns: int) -> None:
    features = [model.preprocess(column) for column in ragged(rows, columns, seed=rows)]
    found, expected = embed_by_length(model, features), one_by_one(model, features)
    assert len(found) == columns
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) < 1e-10


@pytest.mark.slow
def test_gradients_are_those_of_a_forward_pass_per_column(model: MatryoshkaEncoder) -> None:
    features = [model.preprocess(column) for column in ragged(150, 2)]
    weights = torch.randn(2, 150, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for embed in (embed_by_length, one_by_one):
        model.zero_grad()
        (torch.stack(embed(model, features)) * weights).sum().backward()
        results.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    model.zero_grad()
    largest = max(float(gradient.abs().max()) for gradient in results[1])
    assert len(results[0]) == len(results[1]) > 0
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() < 1e-10 * largest


def test_fewer_padded_tokens_go_through_the_model(model: MatryoshkaEncoder) -> None:
    features = [model.preprocess(column) for column in ragged(256, 2)]
    by_length, plain = Recording(model), Recording(model)
    embed_by_length(by_length, features)
    one_by_one(plain, features)
    real = sum(int(column["attention_mask"].sum()) for column in features)
    assert real <= by_length.tokens < min(0.6 * plain.tokens, 1.25 * real)
    assert sum(rows for rows, _ in by_length.shapes) == 512
    assert all(rows * tokens >= 1024 for rows, tokens in by_length.shapes[:-1])


def test_a_small_batch_is_one_forward_pass(model: MatryoshkaEncoder) -> None:
    recording = Recording(model)
    embed_by_length(recording, [model.preprocess(column) for column in ragged(8, 3)])
    assert [rows for rows, _ in recording.shapes] == [24]


def test_the_features_of_the_batch_stay_as_they_are(model: MatryoshkaEncoder) -> None:
    """They are used again: for the teacher, and for the second pass of gradient caching."""
    features = [model.preprocess(column) for column in ragged(80, 2)]
    before = [
        {name: value.clone() for name, value in column.items() if isinstance(value, Tensor)} for column in features
    ]
    embed_by_length(model, features)
    for column, old in zip(features, before, strict=True):
        assert {name for name, value in column.items() if isinstance(value, Tensor)} == set(old)
        assert all(torch.equal(column[name], value) for name, value in old.items())


def test_texts_padded_on_the_left_are_not_cut(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu").double().eval()
    model.tokenizer.padding_side = "left"
    features = [model.preprocess(column) for column in ragged(150, 2)]
    assert not features[0]["attention_mask"][:, 0].all()
    for ours, theirs in zip(embed_by_length(model, features), one_by_one(model, features), strict=True):
        assert difference(ours, theirs) < 1e-10


def test_a_static_model_takes_its_columns_one_by_one(tiny_bert: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=12)], device="cpu")
    features = [model.preprocess(column) for column in ragged(90, 3)]
    for ours, theirs in zip(embed_by_length(model, features), one_by_one(model, features), strict=True):
        assert torch.equal(ours, theirs)


def test_columns_with_different_prompts_stay_apart(model: MatryoshkaEncoder) -> None:
    """Pooling leaves out the prompt's tokens, whose number goes along with each column."""
    first, second = ragged(70, 2)
    model[1].include_prompt = False
    try:
        features = [model.preprocess(first, prompt="the cat sits: "), model.preprocess(second, prompt="a dog: ")]
        assert features[0]["prompt_length"] != features[1]["prompt_length"]
        copies = [{name: _copy(value) for name, value in column.items()} for column in features]
        for ours, theirs in zip(embed_by_length(model, features), one_by_one(model, copies), strict=True):
            assert difference(ours, theirs) < 1e-10
    finally:
        model[1].include_prompt = True


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


@pytest.mark.gpu
def test_on_a_gpu_columns_are_not_cut_into_pieces(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cuda").eval()
    features = [
        {name: value.cuda() if isinstance(value, Tensor) else value for name, value in model.preprocess(column).items()}
        for column in ragged(200, 2)
    ]
    recording = Recording(model)
    found = embed_by_length(recording, features)
    assert len(recording.shapes) == 2
    for ours, theirs in zip(found, one_by_one(model, features), strict=True):
        assert difference(ours.cpu(), theirs.cpu()) < 1e-4
