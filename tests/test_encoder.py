from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import quantize_embeddings
from tokenizers import Tokenizer, models, pre_tokenizers

import mrl_text
from mrl_text.codes import Codec, FewBits
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.loading import remembered
from mrl_text.models import METADATA_KEY
from tests.conftest import WORDS

TEXTS = ["the cat sits on the mat", "a dog runs", "a red car and a blue train in the city", "music"]
DIMS = [8, 16, 32]


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=DIMS, device="cpu")


@pytest.fixture
def fresh_encoder(tiny_bert: Path) -> MatryoshkaEncoder:
    """One that has warned about nothing yet."""
    return MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=DIMS, device="cpu")


@pytest.fixture(scope="module")
def plain(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu")


@pytest.fixture(scope="module")
def saved(encoder: MatryoshkaEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "new" / "model"
    encoder.save(str(folder))
    return folder


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("mrl_text") and record.levelno >= logging.WARNING
    ]


def read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("dim", [1, 8, 16, 31, 32, None])
def test_vectors_are_those_of_sentence_transformers_cut_and_renormalised(
    encoder: MatryoshkaEncoder, plain: SentenceTransformer, dim: int | None
) -> None:
    vectors = encoder.encode(TEXTS, dim=dim)
    assert vectors.shape == (len(TEXTS), dim or 32)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    expected = plain.encode(TEXTS, truncate_dim=dim, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)


def test_without_normalisation_a_small_vector_is_a_slice_of_the_full_one(
    encoder: MatryoshkaEncoder, plain: SentenceTransformer
) -> None:
    full = plain.encode(TEXTS)
    assert np.abs(np.linalg.norm(full, axis=1) - 1).min() > 0.1  # the model itself does not normalise
    vectors = encoder.encode(TEXTS, dim=8, normalize_embeddings=False)
    np.testing.assert_allclose(vectors, full[:, :8], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        dict.fromkeys(TEXTS).keys(),
        datasets.Dataset.from_dict({"text": TEXTS})["text"],
    ],
    ids=["tuple", "array", "object-array", "keys", "datasets-column"],
)
def test_any_collection_of_texts_is_encoded(encoder: MatryoshkaEncoder, inputs: Any) -> None:
    np.testing.assert_array_equal(encoder.encode(inputs, dim=8), encoder.encode(TEXTS, dim=8))


def test_a_generator_of_texts_is_encoded(encoder: MatryoshkaEncoder) -> None:
    texts = (text for text in TEXTS)
    np.testing.assert_array_equal(encoder.encode(texts, dim=8), encoder.encode(TEXTS, dim=8))


@pytest.mark.parametrize("text", [TEXTS[0], np.str_(TEXTS[0]), np.array(TEXTS[0])], ids=["str", "np.str_", "0-d array"])
def test_one_text_gives_one_vector(encoder: MatryoshkaEncoder, text: Any) -> None:
    vector = encoder.encode(text, dim=16)
    assert vector.shape == (16,)
    np.testing.assert_allclose(vector, encoder.encode(TEXTS[:1], dim=16)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("empty", [[], (), np.array([], dtype=str), iter(())], ids=["list", "tuple", "array", "iter"])
def test_no_texts_give_no_vectors_of_that_width(encoder: MatryoshkaEncoder, empty: Any) -> None:
    vectors = encoder.encode(empty, dim=16)
    assert vectors.shape == (0, 16)
    assert vectors.dtype == np.float32


def test_no_texts_give_no_vectors_in_every_form(encoder: MatryoshkaEncoder) -> None:
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.encode([], convert_to_tensor=True).shape == (0, 32)
    assert encoder.encode([], convert_to_numpy=False) == []
    binary = encoder.encode([], dim=16, precision="binary")
    assert binary.dtype == np.int8
    assert binary.shape == (0, 2)


def test_an_empty_text_has_a_unit_vector_too(encoder: MatryoshkaEncoder) -> None:
    vectors = encoder.encode(["", TEXTS[0]], dim=8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[0], encoder.encode("", dim=8), rtol=0, atol=1e-6)


def test_a_long_text_is_cut_with_one_warning(
    fresh_encoder: MatryoshkaEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    words = (WORDS * 4)[:150]
    long = " ".join(words)
    kept = " ".join(words[:62])  # of 64 tokens, the first and the last are the model's own
    vectors = fresh_encoder.encode([TEXTS[0], long, kept])
    np.testing.assert_allclose(vectors[1], vectors[2], rtol=0, atol=1e-6)
    assert warnings_of(caplog) == ["1 of 3 texts are longer than 64 tokens and are cut there"]
    fresh_encoder.encode([long, long])
    assert len(warnings_of(caplog)) == 1


def test_a_long_text_is_not_tokenised_to_its_end(
    fresh_encoder: MatryoshkaEncoder, plain: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a cat", " ".join(WORDS * 500)]
    preprocess, lengths = fresh_encoder.preprocess, []

    def spy(given: list[str], **options: Any) -> Any:
        lengths.extend(map(len, given))
        return preprocess(given, **options)

    monkeypatch.setattr(fresh_encoder, "preprocess", spy)
    found = fresh_encoder.encode(texts, prompt="the red ")
    np.testing.assert_allclose(found, plain.encode(texts, prompt="the red ", normalize_embeddings=True), atol=1e-6)
    assert max(lengths) < 2000 < len(texts[1])


def test_a_text_that_may_just_fit_is_not_warned_about(
    fresh_encoder: MatryoshkaEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    fresh_encoder.encode([" ".join(WORDS[:30]), "a" * 500])
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("value", [None, 7, float("nan"), b"bytes", ["a list"]], ids=repr)
def test_what_is_no_text_is_refused_with_its_position(encoder: MatryoshkaEncoder, value: Any) -> None:
    with pytest.raises(TypeError, match=f"expected a text at position 2, got {type(value).__name__}"):
        encoder.encode([*TEXTS[:2], value, TEXTS[2]])


@pytest.mark.parametrize("value", [None, 7, float("nan"), b"bytes"], ids=repr)
def test_what_is_no_text_is_refused_alone(encoder: MatryoshkaEncoder, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^expected a text, got {type(value).__name__}"):
        encoder.encode(value)


@pytest.mark.parametrize("dim", [0, -8, 33, 8.0, True, "8"])
@pytest.mark.parametrize("name", ["dim", "truncate_dim"])
def test_an_impossible_size_is_refused_with_the_trained_ones(encoder: MatryoshkaEncoder, name: str, dim: Any) -> None:
    options = {name: dim}
    for encode in (encoder.encode, encoder.encode_query, encoder.encode_document):
        with pytest.raises(ValueError, match="trained sizes: 8, 16, 32"):
            encode(TEXTS, **options)


@pytest.mark.parametrize("dim", [0, 33])
def test_an_impossible_size_given_at_construction_is_refused(tiny_bert: Path, dim: int) -> None:
    with pytest.raises(ValueError, match="dim must be from 1 to 32"):
        MatryoshkaEncoder(str(tiny_bert), truncate_dim=dim, device="cpu").encode(TEXTS)


def test_truncate_dim_is_another_name_for_dim(encoder: MatryoshkaEncoder) -> None:
    expected = encoder.encode(TEXTS, dim=8)
    np.testing.assert_array_equal(encoder.encode(TEXTS, truncate_dim=8), expected)
    np.testing.assert_array_equal(encoder.encode(TEXTS, dim=8, truncate_dim=8), expected)
    with pytest.raises(ValueError, match="dim=8 and truncate_dim=16 disagree"):
        encoder.encode(TEXTS, dim=8, truncate_dim=16)


def test_a_size_given_at_construction_holds_until_another_is_asked_for(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=DIMS, truncate_dim=16, device="cpu")
    assert model.width == 32
    assert model.encode(TEXTS).shape == (len(TEXTS), 16)
    assert model.encode(TEXTS, dim=32).shape == (len(TEXTS), 32)


def test_an_untrained_size_is_warned_about_once(
    fresh_encoder: MatryoshkaEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    for dim in (8, 16, 32, None):
        fresh_encoder.encode(TEXTS, dim=dim)
    assert warnings_of(caplog) == []
    for dim in (12, 12, 20, 12):
        fresh_encoder.encode(TEXTS, dim=dim)
    assert warnings_of(caplog) == [
        f"{dim} is not a trained size of this model (trained: 8, 16, 32); quality may drop" for dim in (12, 20)
    ]


def test_prompts_are_put_before_queries_and_documents(tiny_bert: Path, encoder: MatryoshkaEncoder) -> None:
    prompts = {"query": "the man ", "document": "a woman with "}
    model = MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=DIMS, prompts=prompts, device="cpu")
    for encode, name in ((model.encode_query, "query"), (model.encode_document, "document")):
        by_hand = encoder.encode([prompts[name] + text for text in TEXTS], dim=8)
        np.testing.assert_allclose(encode(TEXTS, dim=8), by_hand, rtol=0, atol=1e-6)
        np.testing.assert_allclose(model.encode(TEXTS, prompt_name=name, dim=8), by_hand, rtol=0, atol=1e-6)
        np.testing.assert_allclose(encoder.encode(TEXTS, prompt=prompts[name], dim=8), by_hand, rtol=0, atol=1e-6)
        assert np.abs(by_hand - encoder.encode(TEXTS, dim=8)).max() > 1e-3
    np.testing.assert_array_equal(model.encode(TEXTS, dim=8), encoder.encode(TEXTS, dim=8))


def test_precisions_are_applied_after_the_cut(encoder: MatryoshkaEncoder) -> None:
    vectors = encoder.encode(TEXTS, dim=16)
    half = encoder.encode(TEXTS, dim=16, precision="float16")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, vectors.astype(np.float16))
    for precision, dtype, width in (("int8", np.int8, 16), ("uint8", np.uint8, 16), ("binary", np.int8, 2)):
        stored = encoder.encode(TEXTS, dim=16, precision=precision)
        assert stored.dtype == dtype
        assert stored.shape == (len(TEXTS), width)
        np.testing.assert_array_equal(stored, quantize_embeddings(vectors, precision=precision))
    np.testing.assert_array_equal(encoder.encode(TEXTS[0], dim=16, precision="ubinary"), np.packbits(vectors[0] > 0))
    full, codec = encoder.encode(TEXTS), Codec.plain(32)  # of a model without a codec of its own
    few: tuple[FewBits, ...] = ("int4", "int2")
    for bits in few:
        expected = codec.encode(full, 16, bits)
        np.testing.assert_array_equal(encoder.encode(TEXTS, dim=16, precision=bits), expected)
        tensor = encoder.encode(TEXTS[0], dim=16, precision=bits, convert_to_tensor=True)
        np.testing.assert_array_equal(tensor.numpy(), expected[0])
        [streamed] = encoder.encode_stream(TEXTS, dim=16, precision=bits)
        np.testing.assert_array_equal(streamed, expected)
        assert encoder.encode([], dim=16, precision=bits).shape == (0, expected.shape[1])
    with pytest.raises(ValueError, match="precision 'float64' is unknown; did you mean"):
        encoder.encode(TEXTS, precision="float64")


def test_tensors_hold_the_same_numbers(encoder: MatryoshkaEncoder) -> None:
    expected = encoder.encode(TEXTS, dim=8)
    tensor = encoder.encode(TEXTS, dim=8, convert_to_tensor=True)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)  # torch and numpy sum squares in other orders
    assert encoder.encode(TEXTS, dim=8, precision="float16", convert_to_tensor=True).dtype == torch.float16
    rows = encoder.encode(TEXTS, dim=8, convert_to_numpy=False)
    assert [type(row) for row in rows] == [torch.Tensor] * len(TEXTS)
    np.testing.assert_allclose(torch.stack(rows).numpy(), expected, rtol=1e-6)
    one = encoder.encode(TEXTS[0], dim=8, convert_to_tensor=True)
    assert one.shape == (8,)
    np.testing.assert_allclose(one.numpy(), expected[0], rtol=0, atol=1e-6)


def test_other_outputs_are_passed_through(encoder: MatryoshkaEncoder, plain: SentenceTransformer) -> None:
    tokens = encoder.encode(TEXTS, output_value="token_embeddings")
    for row, expected in zip(tokens, plain.encode(TEXTS, output_value="token_embeddings"), strict=True):
        np.testing.assert_array_equal(row.numpy(), expected.numpy())
    assert encoder.encode(TEXTS[1], output_value="token_embeddings").shape == (5, 32)


def test_a_half_precision_model_gives_float32_unit_vectors(tiny_bert: Path, encoder: MatryoshkaEncoder) -> None:
    model = MatryoshkaEncoder(
        str(tiny_bert), matryoshka_dims=DIMS, device="cpu", model_kwargs={"dtype": torch.bfloat16}
    )
    vectors = model.encode(TEXTS, dim=16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors * encoder.encode(TEXTS, dim=16)).sum(axis=1).min() > 0.99


@pytest.mark.slow
def test_several_processes_give_the_vectors_of_one(encoder: MatryoshkaEncoder) -> None:
    texts = [f"{text} {word}" for text in TEXTS for word in WORDS[:3]]
    vectors = encoder.encode(texts, dim=8, device=["cpu", "cpu"], chunk_size=5)
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(vectors, encoder.encode(texts, dim=8), rtol=0, atol=1e-6)


def test_a_saved_model_is_an_ordinary_sentence_transformers_model(encoder: MatryoshkaEncoder, saved: Path) -> None:
    loaded = SentenceTransformer(str(saved), device="cpu")
    np.testing.assert_array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS, normalize_embeddings=False))
    vectors = loaded.encode(TEXTS, truncate_dim=16, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS, dim=16), rtol=0, atol=1e-6)


def test_a_saved_model_tells_its_sizes_where_servers_and_we_look(saved: Path) -> None:
    config = read_json(saved / "config.json")
    assert config["matryoshka_dimensions"] == DIMS
    assert config["is_matryoshka"] is True
    ours = read_json(saved / "config_sentence_transformers.json")
    assert ours[METADATA_KEY] == {"matryoshka_dims": DIMS}
    assert ours["model_type"] == "SentenceTransformer"


def test_a_saved_model_keeps_sizes_prompts_and_facts_through_another_round(tiny_bert: Path, tmp_path: Path) -> None:
    first = MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=[32, 8], prompts={"query": "the "}, device="cpu")
    first.describe(name="small", base_model="someone/base")
    first.save(str(tmp_path / "first"))
    second = MatryoshkaEncoder(str(tmp_path / "first"), device="cpu")
    assert second.matryoshka_dims == (8, 32)
    second.save_pretrained(str(tmp_path / "second"))
    third = MatryoshkaEncoder(str(tmp_path / "second"), device="cpu")
    assert third.matryoshka_dims == (8, 32)
    np.testing.assert_array_equal(third.encode_query(TEXTS, dim=8), first.encode_query(TEXTS, dim=8))
    block = read_json(tmp_path / "second" / "config_sentence_transformers.json")[METADATA_KEY]
    assert block == {"name": "small", "base_model": "someone/base", "matryoshka_dims": [8, 32]}


def test_sizes_given_at_construction_replace_the_saved_ones(saved: Path) -> None:
    assert MatryoshkaEncoder(str(saved), device="cpu").matryoshka_dims == (8, 16, 32)
    assert MatryoshkaEncoder(str(saved), matryoshka_dims=[4, 32], device="cpu").matryoshka_dims == (4, 32)


def test_a_model_that_does_not_tell_counts_as_trained_at_full_width_and_says_nothing_when_saved(
    tiny_bert: Path, tmp_path: Path
) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    assert model.matryoshka_dims == (32,)
    model.save(str(tmp_path))
    assert not {"matryoshka_dimensions", "is_matryoshka"} & set(read_json(tmp_path / "config.json"))
    assert METADATA_KEY not in read_json(tmp_path / "config_sentence_transformers.json")


def test_the_sizes_in_somebody_elses_config_are_recognised(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(tiny_bert, folder)
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [32, 16]}), encoding="utf-8")
    assert MatryoshkaEncoder(str(folder), device="cpu").matryoshka_dims == (16, 32)


@pytest.mark.parametrize("dims", [[64], [0, 8], [8.5]])
def test_sizes_the_model_cannot_have_are_refused(tiny_bert: Path, dims: list[Any]) -> None:
    with pytest.raises(ValueError, match="dim must be"):
        MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=dims, device="cpu")


def test_the_encode_function_loads_a_model_once_until_its_files_change(
    encoder: MatryoshkaEncoder, saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    for dim in (8, 16):
        vectors = mrl_text.encode(TEXTS, dim, model=str(folder), device="cpu")
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS, dim=dim), atol=1e-6)
    assert mrl_text.encode("music", model=str(folder), device="cpu").shape == (32,)
    first = remembered(str(folder))
    assert remembered(str(folder)) is first
    retrained = MatryoshkaEncoder(str(folder))
    for parameter in retrained.parameters():
        parameter.data.mul_(-0.5)
    retrained.save_pretrained(str(folder))
    assert remembered(str(folder)) is not first
    np.testing.assert_allclose(mrl_text.encode(TEXTS, model=str(folder)), retrained.encode(TEXTS), atol=1e-6)


def test_a_static_model_is_encoded_saved_and_loaded_with_its_sizes(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.random.default_rng(0).normal(size=(len(WORDS) + 1, 16)).astype(np.float32)
    model = MatryoshkaEncoder(modules=[StaticEmbedding(tokenizer, weights)], matryoshka_dims=[16, 4], device="cpu")
    ids = [[WORDS.index(word) + 1 for word in text.split()] for text in TEXTS]
    means = np.stack([weights[row].astype(np.float64).mean(axis=0)[:4] for row in ids])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(TEXTS, dim=4), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.encode("", dim=4), np.zeros(4))
    model.save(str(tmp_path / "static"))
    loaded = MatryoshkaEncoder(str(tmp_path / "static"), device="cpu")
    assert loaded.matryoshka_dims == (4, 16)
    assert loaded.width == 16
    np.testing.assert_array_equal(loaded.encode(TEXTS, dim=4), model.encode(TEXTS, dim=4))
