from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.training.base import check_recipe, load_base
from mrl_text.training.recipe import Recipe
from mrl_text.truncation import truncate

Load = Callable[..., MatryoshkaEncoder]


@pytest.fixture
def make(tiny_bert: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe on the tiny BERT; ``loss`` and the options of ``model``."""
    (tmp_path / "pairs.csv").write_text("anchor,positive\na cat,the cat\n", encoding="utf-8")

    def recipe(loss: dict[str, object] | None = None, name: str | None = None, **model: object) -> Recipe:
        return Recipe.model_validate(
            {
                "model": {"name": name or str(tiny_bert), **model},
                "data": {"train": [{"source": str(tmp_path / "pairs.csv")}]},
                "loss": {"dims": [8], **(loss or {})},
            }
        )

    return recipe


@pytest.fixture
def load(make: Callable[..., Recipe]) -> Load:
    def from_options(**options: object) -> MatryoshkaEncoder:
        recipe = make(**options)
        return load_base(recipe, check_recipe(recipe)).to("cpu")

    return from_options


@pytest.fixture
def texts(triplets: list[dict[str, str]]) -> list[str]:
    return [row["positive"] for row in triplets]


def test_a_plain_base_is_the_model_as_it_is(load: Load, tiny_bert: Path, texts: list[str]) -> None:
    model = load(loss={"dims": [8, 32]})
    expected = SentenceTransformer(str(tiny_bert), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-6)
    assert model.matryoshka_dims == (8, 32)


def test_a_cut_saved_with_the_base_is_no_cut_of_the_new_model(make: Callable[..., Recipe], tmp_path: Path) -> None:
    base = MatryoshkaEncoder(str(make().model.name), device="cpu", truncate_dim=8)
    base.save(str(tmp_path / "cut"))
    assert SentenceTransformer(str(tmp_path / "cut"), device="cpu").encode("a cat").shape == (8,)
    recipe = make(name=str(tmp_path / "cut"), loss={"dims": [8, 32]})
    assert load_base(recipe, check_recipe(recipe)).encode("a cat").shape == (32,)


@pytest.mark.parametrize("normalised", [False, True])
def test_a_narrowed_model_begins_as_the_plain_cut(
    make: Callable[..., Recipe], tiny_bert: Path, tmp_path: Path, texts: list[str], normalised: bool
) -> None:
    base = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    if normalised:
        from sentence_transformers.sentence_transformer.modules import Normalize

        base.append(Normalize())
    base.save(str(tmp_path / "base"))
    recipe = make(name=str(tmp_path / "base"), width=8)
    model = load_base(recipe, check_recipe(recipe)).to("cpu")
    full = SentenceTransformer(str(tmp_path / "base"), device="cpu").encode(texts)
    assert (model.width, model.matryoshka_dims) == (8, (8,))
    np.testing.assert_allclose(model.encode(texts), truncate(full, 8), atol=1e-6)
    assert (type(model[-1]).__name__ == "Normalize") == normalised
    model.save(str(tmp_path / "narrow"))
    plain = SentenceTransformer(str(tmp_path / "narrow"), device="cpu")
    assert plain.get_embedding_dimension() == 8
    np.testing.assert_allclose(plain.encode(texts, normalize_embeddings=True), truncate(full, 8), atol=1e-6)


def test_a_narrowed_model_trains_its_new_layer(load: Load) -> None:
    layer = load(width=8)[-1].linear
    assert layer.weight.shape == (8, 32)
    assert layer.weight.requires_grad
    assert layer.bias is None


def test_a_static_model_is_a_table_of_the_vocabulary(load: Load, tiny_bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = load(static=16, loss={"dims": [8, 16]}, prompts={"query": "the "})
    table = model[0]
    assert isinstance(table, StaticEmbedding)
    tokenizer = SentenceTransformer(str(tiny_bert), device="cpu").tokenizer
    assert table.embedding.weight.shape == (len(tokenizer), 16)
    words = "the cat sits on a red mat with a dog"
    rows = table.embedding.weight[tokenizer(words, add_special_tokens=False)["input_ids"]].mean(dim=0)
    expected = torch.nn.functional.normalize(rows, dim=0).detach().numpy()
    np.testing.assert_allclose(model.encode(words), expected, atol=1e-6)
    np.testing.assert_allclose(model.encode_query(words.removeprefix("the ")), expected, atol=1e-6)
    assert (model.width, model.matryoshka_dims) == (16, (8, 16))
    model.save(str(tmp_path / "static"))
    plain = SentenceTransformer(str(tmp_path / "static"), device="cpu")
    np.testing.assert_allclose(plain.encode(words, normalize_embeddings=True), expected, atol=1e-6)


def test_a_model_without_tokens_has_nothing_to_pool(make: Callable[..., Recipe], load: Load, tmp_path: Path) -> None:
    load(static=16).save(str(tmp_path / "static"))
    recipe = make(name=str(tmp_path / "static"), pooling="cls")
    with pytest.raises(ValueError, match=r"model.pooling=cls, but .*static has no pooling of tokens: leave it out"):
        load_base(recipe, check_recipe(recipe))


def test_layer_norm_comes_before_the_numbers_are_made_fewer(load: Load, tiny_bert: Path, texts: list[str]) -> None:
    full = torch.from_numpy(SentenceTransformer(str(tiny_bert), device="cpu").encode(texts))
    normed = torch.nn.functional.layer_norm(full, (32,)).numpy()
    model = load(layer_norm=True, width=8)
    np.testing.assert_allclose(model.encode(texts), truncate(normed, 8), atol=1e-6)
    assert [layer.linear.weight.requires_grad for layer in list(model)[2:4]] == [False, True]


def test_prompts_are_saved_with_the_model(load: Load, tmp_path: Path) -> None:
    load(prompts={"query": "the ", "document": "a "}).save(str(tmp_path / "model"))
    saved = MatryoshkaEncoder(str(tmp_path / "model"), device="cpu")
    assert {name: saved.prompts[name] for name in ("query", "document")} == {"query": "the ", "document": "a "}
    np.testing.assert_allclose(saved.encode_query("cat"), saved.encode("the cat"), atol=1e-6)
    np.testing.assert_allclose(saved.encode_document("cat"), saved.encode("a cat"), atol=1e-6)
    assert np.abs(saved.encode_query("cat") - saved.encode("cat")).max() > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_is_that_of_the_recipe(load: Load, dropout: float) -> None:
    found = {module.p for module in load(dropout=dropout).modules() if isinstance(module, torch.nn.Dropout)}
    assert found == {dropout}
    assert {module.p for module in load().modules() if isinstance(module, torch.nn.Dropout)} == {0.1}


def test_only_the_token_embeddings_are_frozen(load: Load) -> None:
    frozen = [name for name, value in load(freeze_embeddings=True).named_parameters() if not value.requires_grad]
    assert len(frozen) == 1
    assert frozen[0].endswith("embeddings.word_embeddings.weight")
    assert all(value.requires_grad for value in load().parameters())


def test_the_length_is_that_of_the_recipe_and_nobody_warns(
    load: Load, caplog: pytest.LogCaptureFixture, texts: list[str]
) -> None:
    model = load(max_seq_length=8)
    assert model.max_seq_length == 8
    with caplog.at_level(logging.WARNING):
        model.encode([" ".join(texts)])
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": {"dims": [8, 64]}}, "loss.dims asks for 64, but .*tiny-bert.* has width 32"),
        ({"width": 4}, "loss.dims asks for 8, but .*tiny-bert.* has width 4"),
        ({"static": 4}, "loss.dims asks for 8, but .*tiny-bert.* has width 4"),
        ({"width": 33}, "model.width=33, but .*tiny-bert.* has only 32"),
        (
            {"rotation": True, "loss": {"dims": [32]}},
            "a rotation changes nothing at 32, the full width: give loss.dims",
        ),
        ({"rotation": True, "width": 8}, "a rotation changes nothing at 8, the full width"),
        ({"loss": {"name": "rotation", "dims": [32]}}, "a rotation changes nothing at 32, the full width"),
        ({"loss": {"name": "rotation", "dims": [8, 32], "weights": [0, 1]}}, "a rotation changes nothing at 32"),
        ({"name": "/nowhere/model"}, "no model at /nowhere/model"),
    ],
)
def test_what_does_not_fit_is_found_before_the_model_is_loaded(
    make: Callable[..., Recipe], options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_text.training.base.MatryoshkaEncoder", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_recipe(make(**options))


def test_weights_of_the_training_do_not_count_for_a_rotation_to_begin_with(make: Callable[..., Recipe]) -> None:
    check_recipe(make(rotation=True, loss={"dims": [8, 32], "weights": [0, 1]}))


@pytest.mark.parametrize("saved_in", ["bfloat16", "float16"])
def test_a_base_saved_in_fewer_bits_is_trained_in_float32(
    make: Callable[..., Recipe], tiny_bert: Path, tmp_path: Path, saved_in: str
) -> None:
    MatryoshkaEncoder(str(tiny_bert), device="cpu").to(getattr(torch, saved_in)).save(str(tmp_path / "base"))
    recipe = make(name=str(tmp_path / "base"))
    model = load_base(recipe, check_recipe(recipe))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exact = SentenceTransformer(str(tmp_path / "base"), device="cpu", model_kwargs={"dtype": "float32"})
    np.testing.assert_allclose(
        model.to("cpu").encode(["a cat"]), exact.encode(["a cat"], normalize_embeddings=True), atol=1e-6
    )


def test_a_length_that_the_model_cannot_read_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match=r"max_seq_length=65, but model .* has 64 positions: give at most 64"):
        load(max_seq_length=65)
    assert load(max_seq_length=64).max_seq_length == 64


def test_a_length_of_training_without_effect_is_said(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        load(max_seq_length=32, train_seq_length=31)
        assert "no effect" not in caplog.text
        load(max_seq_length=32, train_seq_length=33)
    assert "model.train_seq_length=33 has no effect: the model reads 32 tokens anyway" in caplog.text


def test_a_mapping_to_routes_needs_routes(make: Callable[..., Recipe]) -> None:
    recipe = make().model_copy(update={"training": {"router_mapping": {"anchor": "query"}}})
    with pytest.raises(ValueError, match=r"training.router_mapping: .* has no routes to choose from: leave it out"):
        load_base(recipe, check_recipe(recipe))
