from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import CrossEncoder, SentenceTransformer

from mrl_text.adapt import fit
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.training import teacher as teacher_module
from mrl_text.training.prepare import prepare
from mrl_text.training.recipe import Recipe
from mrl_text.training.run import RunFolder

DIMS = [8, 16, 32]
Make = Callable[..., Recipe]


@pytest.fixture(autouse=True)
def _own_cache_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mrl_text.dtypes.fastest_dtype", lambda device=None: "float32")


@pytest.fixture
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu")


@pytest.fixture
def data(triplets: list[dict[str, str]]) -> Dataset:
    return Dataset.from_list(triplets)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def recipe(loss: dict[str, Any] | None = None, *, source: dict[str, Any] | None = None, **options: Any) -> Recipe:
    model = {name: options.pop(name) for name in ("rotation", "prompts") if name in options}
    return Recipe.model_validate(
        {
            "model": {"name": "some/model", **model},
            "data": {"train": [{"source": "a.csv", **(source or {})}], **options},
            "loss": {"dims": DIMS, **(loss or {})},
        }
    )


def unit(model_folder: Path, texts: list[str], prompt: str = "") -> np.ndarray:
    """Vectors of the frozen model by plain sentence-transformers, with prompts written out."""
    plain = SentenceTransformer(str(model_folder), device="cpu")
    return np.asarray(plain.encode([prompt + text for text in texts], normalize_embeddings=True))


@pytest.mark.parametrize(
    "asked", [{}, {"loss": {"distill_weight": 1.0, "teacher": "self"}}, {"batches": "by_length"}], ids=str
)
def test_nothing_is_done_that_the_recipe_does_not_ask_for(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    monkeypatch.setattr("mrl_text.embedding_cache.encode_windows", lambda *_, **__: pytest.fail("texts were encoded"))
    same_model, same_data = prepare(recipe(**asked), model, data, folder)
    assert same_model is model
    assert same_data is data
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "column"),
    [
        ({"loss": {"distill_weight": 1.0}}, "teacher"),
        ({"loss": {"name": "self_distillation"}}, "teacher"),
        ({"loss": {"guide": "base"}}, "guide"),
        ({"batches": "neighbours"}, "base"),
    ],
)
def test_the_vectors_of_the_frozen_model_come_with_the_data(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, tiny_bert: Path, asked: dict[str, Any], column: str
) -> None:
    model.prompts = {"query": "the ", "passage": "a red "}  # the base's own
    same_model, taught = prepare(recipe(**asked), model, data, folder)
    assert same_model is model
    assert len(model) == 2, "no layer is added"
    assert taught.column_names == [*data.column_names, column]
    columns = {"anchor": "the ", "positive": "a red ", "negative": "a red "}
    expected = np.concatenate([unit(tiny_bert, data[name][:], prompt) for name, prompt in columns.items()], axis=1)
    np.testing.assert_allclose(taught[:][column].numpy(), expected, atol=1e-5)


def test_another_teacher_reads_with_its_own_tokenizer_prompts_and_length(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, other_model: Path
) -> None:
    model.prompts = {"query": "red ", "document": "blue "}  # the student's own
    model.max_seq_length = 4
    loss = {"name": "self_distillation", "teacher": str(other_model)}
    same_model, taught = prepare(recipe(loss, batches="neighbours"), model, data, folder)
    assert same_model is model
    columns = {"anchor": "the ", "positive": "a green ", "negative": "a green "}
    expected = np.concatenate([unit(other_model, data[name][:], prompt) for name, prompt in columns.items()], axis=1)
    assert expected.shape == (64, 3 * 20)
    np.testing.assert_allclose(taught[:]["teacher"].numpy(), expected, atol=1e-5)


def test_several_teachers_give_the_mean_of_their_similarities(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, tiny_bert: Path, other_model: Path
) -> None:
    loss = {"name": "self_distillation", "teacher": [str(other_model), "base"]}
    _, taught = prepare(recipe(loss, batches="neighbours"), model, data, folder)
    assert taught.column_names == [*data.column_names, "teacher"]
    columns = taught[:]["teacher"].unflatten(1, (3, 20 + 32))
    for place, (name, prompt) in enumerate({"anchor": "the ", "positive": "a green ", "negative": "a green "}.items()):
        both = [unit(other_model, data[name][:], prompt), unit(tiny_bert, data[name][:])]
        vectors = columns[:, place].double()
        mean = np.mean([one.astype(float) @ one.astype(float).T for one in both], axis=0)
        np.testing.assert_allclose(vectors @ vectors.T, mean, atol=1e-5)


def test_teacher_and_guide_of_one_model_share_their_vectors_and_others_have_their_own(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, tiny_bert: Path, other_model: Path
) -> None:
    loss = {"distill_weight": 1.0, "teacher": str(other_model), "guide": str(other_model)}
    _, taught = prepare(recipe(loss, batches="neighbours"), model, data, folder)
    assert taught.column_names == [*data.column_names, "teacher", "guide"]
    places = [taught.data.column(name).chunk(0).values.buffers()[1].address for name in ("teacher", "guide")]
    assert places[0] == places[1]
    _, taught = prepare(recipe(loss | {"teacher": "base"}), model, data, folder)
    np.testing.assert_allclose(taught[:]["teacher"][:, :32], unit(tiny_bert, data["anchor"][:]), atol=1e-5)
    np.testing.assert_allclose(taught[:]["guide"][:, :20], unit(other_model, data["anchor"][:], "the "), atol=1e-5)


def test_a_rotation_is_the_bases_whoever_teaches(
    data: Dataset, folder: RunFolder, tiny_bert: Path, other_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    for teacher, place in (("base", folder), (str(other_model), RunFolder(tmp_path / "other"))):
        asked = recipe({"distill_weight": 1.0, "teacher": teacher}, rotation=True)
        prepare(asked, MatryoshkaEncoder(str(tiny_bert), device="cpu"), data, place)
    np.testing.assert_array_equal(np.load(folder.rotation), np.load(tmp_path / "other" / "rotation.npy"))


def test_every_source_gets_its_vectors(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, tiny_bert: Path
) -> None:
    texts = data.select_columns(["anchor"])
    both = recipe({"name": "self_distillation"}, train=[{"source": "a.csv"}, {"source": "b.csv"}])
    _, taught = prepare(both, model, DatasetDict({"1 a": data, "2 b": texts}), folder)
    assert taught["1 a"][:]["teacher"].shape == (64, 96)
    np.testing.assert_allclose(taught["2 b"][:]["teacher"].numpy(), unit(tiny_bert, texts["anchor"][:]), atol=1e-5)


@pytest.mark.parametrize("asked", [{"rotation": True}, {"loss": {"name": "rotation"}}], ids=str)
def test_a_rotation_keeps_the_similarities_of_the_full_width(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, tiny_bert: Path, asked: dict[str, Any]
) -> None:
    rotated, same_data = prepare(recipe(**asked), model, data, folder)
    assert same_data is data, "the vectors are of no use to the training"
    texts = [text for row in data for text in row.values()]
    before, after = unit(tiny_bert, texts), rotated.encode(texts)
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)
    assert np.abs(after - before).max() > 0.01
    assert rotated.matryoshka_dims == tuple(DIMS)


@pytest.mark.parametrize(("name", "used"), [("rotation", [5.0, 0.0, 1.0]), ("nested_infonce", None)])
def test_the_rotation_is_fitted_on_all_texts_once_with_the_weights_of_its_own_loss(
    model: MatryoshkaEncoder,
    data: Dataset,
    folder: RunFolder,
    tiny_bert: Path,
    name: str,
    used: list[float] | None,
) -> None:
    prepare(recipe({"name": name, "weights": [5.0, 0.0, 1.0]}, rotation=True), model, data, folder)
    vectors = np.unique(unit(tiny_bert, sorted({text for row in data for text in row.values()})), axis=0)
    expected = fit(vectors, dims=DIMS, weights=used, seed=42)
    np.testing.assert_allclose(np.load(folder.path / "rotation.npy"), expected.matrix, atol=1e-3)
    other = fit(vectors, dims=DIMS, weights=None if used else [5.0, 0.0, 1.0], seed=42)
    assert np.abs(other.matrix - expected.matrix).max() > 0.01


def test_rotation_and_vectors_of_a_run_are_used_again_when_it_is_resumed(
    data: Dataset, folder: RunFolder, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe({"distill_weight": 1.0}, rotation=True)
    first, taught = prepare(asked, MatryoshkaEncoder(str(tiny_bert), device="cpu"), data, folder)
    monkeypatch.setattr("mrl_text.adapt.fitting._rotation", lambda *_: pytest.fail("fitted again"))
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr("mrl_text.embedding_cache.encode_windows", lambda *_, **__: pytest.fail("encoded again"))
        second, again = prepare(asked, model, data, folder)
    np.testing.assert_array_equal(again[:]["teacher"].numpy(), taught[:]["teacher"].numpy())
    np.testing.assert_array_equal(second.encode(["a cat", "water"]), first.encode(["a cat", "water"]))


def test_negatives_are_mined_before_the_vectors_are_computed(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, tiny_bert: Path
) -> None:
    source = {"mine_negatives": {"num": 2, "range_min": 0, "range_max": 20, "relative_margin": None}}
    pairs = data.select_columns(["anchor", "positive"])
    _, taught = prepare(recipe({"distill_weight": 1.0}, source=source), model, pairs, folder)
    assert taught.column_names == ["anchor", "positive", "negative", "negative_2", "teacher"]
    expected = unit(tiny_bert, taught["negative_2"][:])
    np.testing.assert_allclose(taught[:]["teacher"][:, 96:].numpy(), expected, atol=1e-5)


def test_scores_are_of_the_mined_negatives_and_come_beside_a_teachers_vectors(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, cross_encoder: Path
) -> None:
    source = {"mine_negatives": {"num": 2, "range_min": 0, "range_max": 20, "relative_margin": None}}
    loss = {"name": "score_distillation", "cross_encoder": str(cross_encoder), "distill_weight": 1.0}
    pairs = data.select_columns(["anchor", "positive"])
    _, taught = prepare(recipe(loss, source=source), model, pairs, folder)
    assert taught.column_names == ["anchor", "positive", "negative", "negative_2", "label", "teacher"]
    plain = CrossEncoder(str(cross_encoder), device="cpu")
    for number, name in enumerate(("positive", "negative", "negative_2")):
        texts = list(zip(taught["anchor"][:], taught[name][:], strict=True))
        expected = plain.predict(texts, activation_fn=torch.nn.Identity())
        np.testing.assert_allclose(taught[:]["label"][:, number], expected, atol=1e-5)


def test_only_sources_whose_loss_asks_for_scores_get_them(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, cross_encoder: Path
) -> None:
    given = recipe({"distill_weight": 1.0}).model_dump()
    own = {"name": "score_distillation", "dims": DIMS, "cross_encoder": str(cross_encoder)}
    given["data"]["train"] = [{"source": "a.csv"}, {"source": "b.csv", "loss": own}]
    parts = DatasetDict({"1 a": data, "2 b": data})
    _, taught = prepare(Recipe.model_validate(given), model, parts, folder)
    assert taught["1 a"].column_names == [*data.column_names, "teacher"]
    assert taught["2 b"].column_names == [*data.column_names, "label"]


def test_the_teacher_is_a_copy_in_the_fastest_number_format(
    model: MatryoshkaEncoder, data: Dataset, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_text.dtypes.fastest_dtype", lambda device=None: "bfloat16")
    used: list[Any] = []
    add = teacher_module.add_teacher

    def spy(given: Any, teachers: list[MatryoshkaEncoder], **options: Any) -> Any:
        used.extend(one.dtype for one in teachers)
        return add(given, teachers, **options)

    monkeypatch.setattr(teacher_module, "add_teacher", spy)
    prepare(recipe({"distill_weight": 1.0}), model, data.select(range(4)), folder)
    assert [str(dtype) for dtype in used] == ["torch.bfloat16"]
    assert str(model.dtype) == "torch.float32"


@pytest.mark.parametrize(("damaged", "keep"), [("rotation.json", None), ("rotation.json", 9), ("rotation.npy", 100)])
def test_half_a_rotation_is_fitted_again_and_this_is_said(
    data: Dataset,
    folder: RunFolder,
    tiny_bert: Path,
    caplog: pytest.LogCaptureFixture,
    damaged: str,
    keep: int | None,
) -> None:
    prepare(recipe(rotation=True), MatryoshkaEncoder(str(tiny_bert), device="cpu"), data, folder)
    whole = {name: (folder.path / name).read_bytes() for name in ("rotation.npy", "rotation.json")}
    if keep is None:
        (folder.path / damaged).unlink()
    else:
        (folder.path / damaged).write_bytes(whole[damaged][:keep])
    prepare(recipe(rotation=True), MatryoshkaEncoder(str(tiny_bert), device="cpu"), data, folder)
    assert f"{damaged}" in caplog.text
    assert "the rotation is fitted again" in caplog.text
    assert (folder.path / "rotation.npy").read_bytes() == whole["rotation.npy"]
