"""Streams against sentence-transformers' own encode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from torch.utils._python_dispatch import TorchDispatchMode

from mrl_text import MatryoshkaEncoder
from mrl_text.lanes import Share
from mrl_text.streaming import windows
from mrl_text.token_batches import token_batches
from mrl_text.truncation import quantize, truncate
from tests.encoding.conftest import sentences


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu", prompts={"query": "the red ", "document": "a mat "})


def stream(model: MatryoshkaEncoder, texts: Any, **options: Any) -> np.ndarray:
    return np.concatenate(list(model.encode_stream(texts, **{"dtype": "float32", **options})))


@pytest.mark.parametrize("window", [7, 64, 1000])
@pytest.mark.parametrize("token_budget", [1, 50, None])
def test_equals_encode_in_order(model: MatryoshkaEncoder, window: int, token_budget: int | None) -> None:
    texts = sentences(100)
    expected = SentenceTransformer.encode(model, texts, normalize_embeddings=True)
    found = stream(model, texts, window=window, token_budget=token_budget)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dim", [8, 32])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8", "binary", "ubinary"])
def test_sizes_and_precisions(model: MatryoshkaEncoder, dim: int, precision: Any) -> None:
    texts = sentences(50)
    full = stream(model, texts, normalize_embeddings=False)
    cut = truncate(full, dim)
    ranges = np.stack([cut.min(0), cut.max(0)])
    needed = {"ranges": ranges} if precision.endswith("int8") else {}
    found = stream(model, texts, dim=dim, precision=precision, **needed)
    np.testing.assert_array_equal(found, quantize(cut, precision, ranges=ranges))


def test_prompts_are_those_of_encode_query_and_encode_document(model: MatryoshkaEncoder) -> None:
    texts = sentences(20)
    np.testing.assert_allclose(stream(model, texts, task="query"), model.encode_query(texts), atol=1e-5)
    np.testing.assert_allclose(stream(model, texts, task="document"), model.encode_document(texts), atol=1e-5)
    np.testing.assert_allclose(stream(model, texts, prompt="dog "), model.encode(texts, prompt="dog "), atol=1e-5)
    np.testing.assert_allclose(stream(model, texts, prompt_name="query"), model.encode_query(texts), atol=1e-5)
    assert not np.allclose(model.encode_query(texts), model.encode(texts), atol=1e-3)


def test_pooling_without_the_prompt(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu", prompts={"query": "the red "})
    model.set_pooling_include_prompt(False)
    texts = sentences(20)
    np.testing.assert_allclose(stream(model, texts, task="query"), model.encode_query(texts), atol=1e-5)


@pytest.mark.parametrize("texts", [[], iter(()), (text for text in [])])
def test_nothing_gives_nothing(model: MatryoshkaEncoder, texts: Any) -> None:
    assert list(model.encode_stream(texts)) == []


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array])
def test_any_iterable(model: MatryoshkaEncoder, kind: Any) -> None:
    texts = sentences(9)
    np.testing.assert_array_equal(stream(model, kind(texts)), stream(model, texts))


def test_odd_texts(model: MatryoshkaEncoder) -> None:
    texts = ["", " ", "\n", "猫 cat \U0001f431", "e\u0301", "\x00", "cat " * 500, "a\ufffd", "cat"]
    np.testing.assert_allclose(stream(model, texts), model.encode(texts), atol=1e-5)


def test_takes_no_more_than_one_window_ahead_and_starts_when_asked(model: MatryoshkaEncoder) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "a cat sits"

    vectors = model.encode_stream(endless(), window=10)
    assert taken == 0
    for number in range(1, 6):
        assert len(next(vectors)) == 10
        assert taken <= 10 * (number + 1)
    vectors.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tokeniser")]


def test_windows_are_bounded_by_characters_too() -> None:
    sizes = [len(window) for window in windows(["x" * 2**21] * 5, 4)]
    assert sizes == [2, 2, 1]
    assert [len(window) for window in windows(["x" * 2**23, "a"], 4)] == [1, 1]


def test_batches_hold_every_text_once_within_the_budget(model: MatryoshkaEncoder) -> None:
    texts = sentences(200)
    batches = token_batches(model, texts, 128, None, None)
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(range(200))
    for batch in batches:
        assert batch.features["input_ids"].numel() <= 128
    padding = sum(int((batch.features["attention_mask"] == 0).sum()) for batch in batches)
    assert padding < 0.1 * sum(batch.features["input_ids"].numel() for batch in batches)


def test_says_which_texts_are_cut(model: MatryoshkaEncoder) -> None:
    limit = model.max_seq_length
    assert limit == 64
    texts = ["cat", "cat " * (limit - 1), "cat " * (limit - 2), "cat " * (limit - 3)]
    cut = np.zeros(len(texts), dtype=bool)
    for batch in token_batches(model, texts, 1000, None, None):
        cut[batch.rows] = batch.cut
    assert cut.tolist() == [False, True, False, False]  # two places are for [CLS] and [SEP]


def test_bfloat16_is_near_and_leaves_the_model_alone(model: MatryoshkaEncoder) -> None:
    texts = sentences(50)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exact, near = stream(model, texts), stream(model, texts, dtype="bfloat16")
    assert not np.array_equal(exact, near)
    assert (exact * near).sum(axis=1).min() > 0.9999
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    generator = model.encode_stream(texts, dtype="bfloat16", window=10)
    next(generator)
    assert not torch.is_autocast_enabled("cpu")  # between two windows the caller's code runs
    assert not torch.is_inference_mode_enabled()


def test_weights_are_rounded_once_a_window(model: MatryoshkaEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.lanes.split", lambda device: Share(1, 1))  # in this thread, where they are counted
    weights = {id(layer.weight) for layer in model.modules() if isinstance(layer, torch.nn.Linear)}

    class Count(TorchDispatchMode):
        rounded = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.rounded += func is torch.ops.aten._to_copy.default and id(args[0]) in weights
            return func(*args, **(kwargs or {}))

    with Count() as count:
        stream(model, [f"text {number}" for number in range(40)], dtype="bfloat16", token_budget=32)
    assert 0 < count.rounded <= len(weights)


def test_static_embeddings(tiny_bert: Path) -> None:
    tokenizer = MatryoshkaEncoder(str(tiny_bert)).tokenizer
    model = MatryoshkaEncoder(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")
    texts = [*sentences(60), "", "cat"]
    for dtype in ("float32", "auto"):
        np.testing.assert_allclose(stream(model, texts, token_budget=40, dtype=dtype), model.encode(texts), atol=1e-6)


def test_routes_and_dense(tiny_bert: Path) -> None:
    def route(seed: int) -> list[Any]:
        torch.manual_seed(seed)
        return [Transformer(str(tiny_bert)), Pooling(32), Dense(32, 24), Normalize()]

    model = MatryoshkaEncoder(modules=[Router.for_query_document(route(0), route(1))], device="cpu")
    texts = sentences(30)
    np.testing.assert_allclose(stream(model, texts, task="query"), model.encode_query(texts), atol=1e-5)
    np.testing.assert_allclose(stream(model, texts, task="document"), model.encode_document(texts), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 33}, "dim must be from 1 to 32"),
        ({"precision": "int8"}, "needs ranges"),
        ({"precision": "uint8", "dim": 8, "ranges": np.zeros((2, 32))}, r"needs ranges.*\(2, 8\), got \(2, 32\)"),
        ({"precision": "int9"}, "precision 'int9' is unknown; did you mean 'int8'"),
        ({"window": 0}, "window must be at least 1"),
        ({"token_budget": 0}, "token_budget must be at least 1"),
        ({"dtype": "float64"}, "dtype 'float64' is unknown"),
        ({"task": "clustering"}, "task must be query or document"),
        ({"prompt_name": "no"}, "the model has no prompt 'no'"),
    ],
)
def test_impossible_options(model: MatryoshkaEncoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(model.encode_stream(["a cat"], **options))


def test_no_text(model: MatryoshkaEncoder) -> None:
    with pytest.raises(TypeError, match="at position 3, got int: 5"):
        list(model.encode_stream(["a", "b", "c", 5], window=2))  # type: ignore[list-item]


def test_float32_of_a_model_in_fewer_bits(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu", model_kwargs={"dtype": "bfloat16"})
    with pytest.raises(ValueError, match="weights are in bfloat16"):
        list(model.encode_stream(["a cat"], dtype="float32"))
    [vectors] = model.encode_stream(["a cat"])
    assert vectors.dtype == np.float32


@pytest.mark.slow
@pytest.mark.model
def test_real_model_in_bfloat16() -> None:
    model = MatryoshkaEncoder("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
    texts = ["A matryoshka doll holds smaller ones.", "How long is a vector?", "Ein Satz auf Deutsch. " * 60]
    expected = SentenceTransformer.encode(model, texts, normalize_embeddings=True)
    np.testing.assert_allclose(stream(model, texts), expected, atol=1e-5)
    assert (stream(model, texts, dtype="bfloat16") * expected).sum(axis=1).min() > 0.9999
