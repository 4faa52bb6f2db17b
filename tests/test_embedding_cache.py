from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

from mrl_text import MatryoshkaEncoder
from mrl_text.embedding_cache import EmbeddingCache, fingerprint
from mrl_text.linear_layers import add_linear, split_linear
from mrl_text.streaming import EncodedWindow, bounded_budget, encode_windows
from mrl_text.vector_file import VectorFile
from tests.processes import Started

TEXTS = ["the cat sits", "a red house", "the cat sits", "water", "a man plays the guitar in the city"]


def test_vectors_equal_those_of_the_model_in_the_order_of_the_texts(tiny_bert: Path) -> None:
    cache = EmbeddingCache(lambda: MatryoshkaEncoder(str(tiny_bert)), None)
    expected = SentenceTransformer(str(tiny_bert)).encode(TEXTS)
    np.testing.assert_allclose(cache.embed(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(cache.embed(["the dog", *TEXTS])[1:], expected, atol=1e-6)
    assert cache.embed([]).shape == (0, 32)


def test_each_distinct_text_is_encoded_once_even_by_a_later_process(tiny_bert: Path, tmp_path: Path) -> None:
    first = EmbeddingCache(lambda: MatryoshkaEncoder(str(tiny_bert)), tmp_path)
    vectors = first.embed(TEXTS)
    first.embed(TEXTS[:2])
    assert first.encoded == 4
    second = EmbeddingCache(lambda: MatryoshkaEncoder(str(tiny_bert)), tmp_path)
    np.testing.assert_array_equal(second.embed(TEXTS), vectors)
    assert second.encoded == 0


@pytest.mark.slow
def test_many_small_calls_take_one_file_and_one_descriptor(tiny_bert: Path, tmp_path: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert))
    cache = EmbeddingCache(lambda: model, tmp_path)
    cache.embed(["water"])
    descriptors = Path(f"/proc/{os.getpid()}/fd")
    before = len(list(descriptors.iterdir()))
    texts = [f"the cat {'red ' * number}" for number in range(40)]
    for text in texts:
        cache.embed([text])
    assert len(list(descriptors.iterdir())) <= before
    again = EmbeddingCache(lambda: model, tmp_path)
    np.testing.assert_allclose(again.embed(texts), model.encode(texts, normalize_embeddings=False), atol=1e-6)
    assert again.encoded == 0
    assert len(list(descriptors.iterdir())) <= before + 1
    assert [file.name for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".lock"] == ["vectors.bin"]


BLOCK = 36 + 4 * (16 + 4 * 32)  # header, keys and vectors of the four texts


@pytest.mark.parametrize(
    ("damage", "encoded", "warned"),
    [
        (lambda content: content[:-20], 2, False),  # killed while it wrote: noticed, and nothing is wrong
        (lambda content: content + content[:30], 0, False),
        (lambda content: content[:-9] + b"X" + content[-8:], 2, True),
        (lambda content: content[: BLOCK - 9] + b"X" + content[BLOCK - 8 :], 4, True),  # only what is in that block
        (lambda content: content[:9] + b"X" + content[10:], 6, True),
        (lambda content: b"something else", 6, False),
        (lambda content: b"something else" * 99, 6, True),
        (lambda content: b"", 6, False),
    ],
)
def test_what_is_damaged_is_noticed_and_encoded_again(
    tiny_bert: Path, tmp_path: Path, damage: Any, encoded: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model, later = MatryoshkaEncoder(str(tiny_bert)), ["the dog", "green"]
    cache = EmbeddingCache(lambda: model, tmp_path)
    vectors = np.concatenate([cache.embed(TEXTS), cache.embed(later)])
    (file,) = tmp_path.rglob("vectors.bin")
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(damage(whole))  # beside the mapping of the first cache
    again = EmbeddingCache(lambda: model, tmp_path)
    np.testing.assert_allclose(again.embed([*TEXTS, *later]), vectors, atol=1e-6)
    assert again.encoded == encoded
    assert ("damaged" in caplog.text) == warned
    caplog.clear()
    third = EmbeddingCache(lambda: model, tmp_path)
    np.testing.assert_allclose(third.embed([*TEXTS, *later]), vectors, atol=1e-6)
    assert third.encoded == 0 and not caplog.text
    np.testing.assert_allclose(cache.embed(["red", *TEXTS, *later])[1:], vectors, atol=1e-6)  # and the first goes on


def test_a_folder_that_is_deleted_meanwhile_begins_anew(tiny_bert: Path, tmp_path: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert))
    cache = EmbeddingCache(lambda: model, tmp_path)
    vectors = cache.embed(TEXTS)
    for file in tmp_path.rglob("vectors.bin"):
        file.unlink()
    np.testing.assert_allclose(cache.embed([*TEXTS, "green"])[:-1], vectors, atol=1e-6)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from mrl_text.vector_file import VectorFile
file, first = VectorFile(Path(sys.argv[1])), int(sys.argv[2])
file.refresh()
number = first
while number < first + int(sys.argv[3]):
    file.append([f"{number:016}".encode()], np.full((1, 2048), number, np.float32))
    number += 1
"""


def start(file: Path, first: int, count: int) -> Started:
    return Started(WRITER, file, first, count)


def read_whole(file: Path) -> dict[int, np.ndarray]:
    read = VectorFile(file)
    read.refresh()
    return {int(key): read.get([key])[0] for key in read.rows}


@pytest.mark.slow
def test_several_processes_write_at_once(tmp_path: Path) -> None:
    file = tmp_path / "vectors.bin"
    writers = [start(file, 1000 * number, 60) for number in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = read_whole(file)
    assert sorted(found) == [1000 * writer + number for writer in range(3) for number in range(60)]
    assert all((vector == number).all() for number, vector in found.items())


@pytest.mark.slow
def test_a_process_that_is_killed_loses_the_block_it_was_writing_at_most(tmp_path: Path) -> None:
    file = tmp_path / "vectors.bin"
    for round_ in range(4):
        writer = start(file, 100_000 * round_, 100_000)
        size = file.stat().st_size if file.exists() else 0
        while not file.exists() or file.stat().st_size < size + 50_000 * (round_ + 1):
            assert writer.poll() is None
            time.sleep(0.002)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        found = read_whole(file)
        for earlier in range(round_ + 1):
            numbers = sorted(number % 100_000 for number in found if number // 100_000 == earlier)
            assert numbers == list(range(len(numbers))) and numbers
        assert all((vector == number).all() for number, vector in found.items())


def test_prompts_and_roles_are_kept_apart_only_where_the_model_tells_them_apart(tiny_bert: Path) -> None:
    plain = EmbeddingCache(lambda: MatryoshkaEncoder(str(tiny_bert)), None)
    plain.embed(TEXTS, role="query")
    plain.embed(TEXTS, role="document")
    assert plain.encoded == 4

    model = MatryoshkaEncoder(str(tiny_bert), prompts={"query": "the ", "document": "a "})
    prompted = EmbeddingCache(lambda: model, None)
    queries = prompted.embed(TEXTS, role="query")
    documents = prompted.embed(TEXTS, role="document")
    reference = SentenceTransformer(str(tiny_bert))
    np.testing.assert_allclose(queries, reference.encode([f"the {text}" for text in TEXTS]), atol=1e-6)
    np.testing.assert_allclose(documents, reference.encode([f"a {text}" for text in TEXTS]), atol=1e-6)
    explicit = prompted.embed(TEXTS, prompt="red ")
    np.testing.assert_allclose(explicit, reference.encode([f"red {text}" for text in TEXTS]), atol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"passage": "a "}, None),
        ({"corpus": "a "}, None),
        ({"passage": "a ", "corpus": "the "}, None),
        ({"query": "the "}, None),
        ({"document": "", "passage": "a "}, None),
        ({"passage": "a ", "other": "red "}, "other"),
        ({"other": "red "}, "other"),
    ],
)
def test_roles_are_read_as_the_parent_class_reads_them(
    tiny_bert: Path, prompts: dict[str, str], default: str | None
) -> None:
    model = MatryoshkaEncoder(str(tiny_bert))
    model.prompts, model.default_prompt_name = prompts, default
    cache = EmbeddingCache(lambda: model, None)
    for role, encode in (
        ("query", SentenceTransformer.encode_query),
        ("document", SentenceTransformer.encode_document),
        (None, SentenceTransformer.encode),
    ):
        np.testing.assert_allclose(cache.embed(TEXTS, role=role), encode(model, TEXTS), atol=1e-6)


def test_routes_are_kept_apart(tiny_bert: Path) -> None:
    routes = [[Transformer(str(tiny_bert)), Pooling(32, pooling_mode=mode)] for mode in ("mean", "cls")]
    model = MatryoshkaEncoder(modules=[Router.for_query_document(*routes)], device="cpu")
    cache = EmbeddingCache(lambda: model, None)
    for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
        expected = encode(TEXTS, normalize_embeddings=False)
        np.testing.assert_allclose(cache.embed(TEXTS, role=role), expected, atol=1e-6)
    assert not np.allclose(cache.embed(TEXTS, role="query"), cache.embed(TEXTS, role="document"), atol=1e-3)


def test_the_full_width_is_kept_of_a_model_that_is_cut(tiny_bert: Path, tmp_path: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), truncate_dim=8)
    assert EmbeddingCache(lambda: model, tmp_path).embed(TEXTS).shape == (5, 32)
    assert model.truncate_dim == 8


@pytest.mark.parametrize("normalized", [True, False])
def test_a_rotated_model_has_nothing_to_encode_that_the_model_before_has_encoded(
    tiny_bert: Path, tmp_path: Path, normalized: bool
) -> None:
    def load() -> MatryoshkaEncoder:
        loaded = MatryoshkaEncoder(str(tiny_bert), device="cpu")
        loaded.config.architectures = ["BertForMaskedLM"]  # as on the hub; saving a model names what it is then
        modules = [module for module in loaded if not isinstance(module, Normalize)]
        return MatryoshkaEncoder(modules=[*modules, *([Normalize()] if normalized else [])], device="cpu")

    EmbeddingCache(load, tmp_path / "cache").embed(TEXTS)
    narrowed, turned = load(), load()
    add_linear(turned, torch.linalg.qr(torch.randn(turned.width, turned.width)).Q)
    turned.matryoshka_dims = [8, turned.width]
    turned.save(str(tmp_path / "saved"))
    rotated = MatryoshkaEncoder(str(tmp_path / "saved"), device="cpu")
    add_linear(narrowed, torch.randn(5, narrowed.width))
    add_linear(narrowed, torch.randn(3, 5))
    for model in (rotated, narrowed):
        cache = EmbeddingCache(lambda model=model: model, tmp_path / "cache")
        expected = SentenceTransformer.encode(model, TEXTS)
        np.testing.assert_allclose(cache.embed(TEXTS), expected, rtol=1e-5, atol=1e-6)
        assert cache.embed([]).shape == (0, expected.shape[1])
        assert cache.encoded == 0
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["bias", "activation", "dtype"])
def test_layers_that_are_more_than_linear_belong_to_the_model(tiny_bert: Path, change: str) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    activation = torch.nn.Tanh() if change == "activation" else torch.nn.Identity()
    model.append(Dense(model.width, 8, bias=change == "bias", activation_function=activation))
    if change == "dtype":
        model.to(torch.bfloat16)
    assert split_linear(model) == (model, None)


def test_a_number_that_is_not_finite_stops_with_the_text_that_caused_it(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MatryoshkaEncoder(str(tiny_bert))

    def broken(*given: Any, **options: Any) -> Iterator[EncodedWindow]:
        for texts, window in zip(given[1], encode_windows(*given, **options), strict=True):
            window.vectors[texts.index("water"), 3] = np.nan
            yield window

    monkeypatch.setattr("mrl_text.embedding_cache.encode_windows", broken)
    with pytest.raises(ValueError, match="'water'"):
        EmbeddingCache(lambda: model, None).embed(TEXTS)


def test_a_batch_has_no_more_tokens_than_so_many_texts_of_full_length(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    assert bounded_budget(model, 1) == model.max_seq_length
    assert bounded_budget(model, 1000) == 1024  # what suits a processor
    model.max_seq_length = None
    assert bounded_budget(model, 1) == 1024


def test_the_fingerprint_is_of_what_decides_the_vectors(tiny_bert: Path) -> None:
    def load(**options: Any) -> MatryoshkaEncoder:
        return MatryoshkaEncoder(str(tiny_bert), device="cpu", **options)

    model = load()
    first = fingerprint(model)
    model.encode(["a cat", "the dog runs"], batch_size=1)  # sets the tokenizer's truncation and padding
    model.matryoshka_dims = [8, 32]
    assert fingerprint(model) == first == fingerprint(load(prompts={"query": "the "}, truncate_dim=8))
    others = [load(model_kwargs={"dtype": "bfloat16"}), load(), load(), load().truncate_layers(1), load(), load()]
    others[1].max_seq_length = 5
    others[2].set_pooling_include_prompt(False)
    others[4].config.layer_norm_eps = 0.1
    others[5].state_dict()["0.model.embeddings.word_embeddings.weight"][7, 3] += 1
    assert len({first, *map(fingerprint, others)}) == 7
