from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from mrl_text import MatryoshkaEncoder
from mrl_text.embedding_cache import EmbeddingCache

TEXTS = ["the cat sits", "a red house", "the cat sits", "water", "a man plays the guitar in the city"]


def test_vectors_equal_those_of_the_model_in_the_order_of_the_texts(tiny_bert: Path) -> None:
    cache = EmbeddingCache(lambda: MatryoshkaEncoder(str(tiny_bert)), None)
    expected = SentenceTransformer(str(tiny_bert)).encode(TEXTS)
    np.testing.assert_allclose(cache.embed(TEXTS), expected, atol=1e-6)
    assert cache.embed([]).shape == (0, 32)


def test_each_distinct_text_is_encoded_once_even_by_a_later_process(tiny_bert: Path, tmp_path: Path) -> None:
    first = EmbeddingCache(lambda: MatryoshkaEncoder(str(tiny_bert)), tmp_path)
    vectors = first.embed(TEXTS)
    first.embed(TEXTS[:2])
    assert first.encoded == 4
    second = EmbeddingCache(lambda: MatryoshkaEncoder(str(tiny_bert)), tmp_path)
    np.testing.assert_array_equal(second.embed(TEXTS), vectors)
    assert second.encoded == 0


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: content[:-9] + b"X" + content[-8:]])
def test_a_damaged_file_is_noticed_and_its_texts_are_encoded_again(
    tiny_bert: Path, tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = EmbeddingCache(lambda: MatryoshkaEncoder(str(tiny_bert)), tmp_path).embed(TEXTS)
    (shard,) = tmp_path.glob("*.npy")
    shard.write_bytes(damage(shard.read_bytes()))
    again = EmbeddingCache(lambda: MatryoshkaEncoder(str(tiny_bert)), tmp_path)
    np.testing.assert_array_equal(again.embed(TEXTS), vectors)
    assert "damaged" in caplog.text
    assert again.encoded == 4
    assert len(list(tmp_path.glob("*.npy"))) == 1


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


def test_a_number_that_is_not_finite_stops_with_the_text_that_caused_it(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MatryoshkaEncoder(str(tiny_bert))
    encode = model.encode

    def broken(texts: list[str], **kwargs: Any) -> Any:
        vectors = encode(texts, **kwargs)
        vectors[texts.index("water"), 3] = np.nan
        return vectors

    monkeypatch.setattr(model, "encode", broken)
    with pytest.raises(ValueError, match="'water'"):
        EmbeddingCache(lambda: model, None).embed(TEXTS)
