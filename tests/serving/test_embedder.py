"""Counting tokens as the model reads them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from mrl_text import MatryoshkaEncoder
from mrl_text.serving.app import Service, create_app
from mrl_text.serving.embedder import PLAIN, Embedder, Reading, _token_counter
from mrl_text.serving.settings import ServerSettings


@pytest.mark.slow
def test_a_tokenizer_in_python_counts_special_tokens_too():
    from transformers import CanineTokenizer

    tokenizer = CanineTokenizer()
    texts = ["the cat", "Größe", ""]
    counted = _token_counter(tokenizer, None)(texts)
    assert counted == [len(tokenizer(text)["input_ids"]) for text in texts] == [9, 7, 2]


def test_float32_of_a_model_saved_in_bfloat16(tiny_bert: Path, tmp_path: Path) -> None:
    MatryoshkaEncoder(str(tiny_bert)).bfloat16().save(str(tmp_path / "small"))
    embedder = Embedder(str(tmp_path / "small"), dtype="float32", device="cpu")
    assert embedder.dtype == "float32"
    exact = SentenceTransformer(str(tmp_path / "small"), device="cpu", model_kwargs={"dtype": "float32"})
    np.testing.assert_allclose(
        embedder.encode(["a cat"]), exact.encode(["a cat"], normalize_embeddings=True), atol=1e-6
    )


def test_it_answers_to_the_names_it_was_started_by(tiny_bert: Path) -> None:
    assert {str(tiny_bert), tiny_bert.name} <= Embedder(str(tiny_bert), device="cpu").names
    assert Embedder(str(tiny_bert), device="cpu", name="my/search").names == {"my/search"}


@pytest.mark.model
def test_a_hub_model_answers_without_its_organisation() -> None:
    hub = "sentence-transformers/all-MiniLM-L6-v2"
    assert Embedder("all-MiniLM-L6-v2", device="cpu").names == {hub, "all-MiniLM-L6-v2"}


def test_a_static_model_is_described_and_served(tiny_bert: Path, tmp_path: Path) -> None:
    table = StaticEmbedding(MatryoshkaEncoder(str(tiny_bert)).tokenizer, embedding_dim=16)
    MatryoshkaEncoder(modules=[table]).save(str(tmp_path / "static"))
    service = Service(Embedder(str(tmp_path / "static"), device="cpu"), ServerSettings())

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            request = {"input": ["the cat", "water " * 5000], "model": "static"}
            return [
                await client.get("/v1/models"),
                await client.get("/v1/models/static"),
                await client.post("/v1/embeddings", json=request),
            ]

    listed, one, embedded = asyncio.run(ask())
    service.batcher.close()
    assert [answer.status_code for answer in (listed, one, embedded)] == [200, 200, 200]
    assert one.json()["max_tokens"] is None and listed.json()["data"] == [one.json()]
    assert embedded.json()["usage"]["prompt_tokens"] == 5002


def test_of_a_long_text_only_what_is_read_is_tokenised(tiny_bert: Path) -> None:
    embedder = Embedder(str(tiny_bert), dtype="float32", device="cpu")
    texts = ["the cat sits. " * 5_000, "x" * 50_000, "a dog"]
    for reading in (PLAIN, Reading("the man is in ")):
        short = embedder.shortened(texts, reading)
        assert max(map(len, short)) < 2_000
        whole = [min(count, 64) for count in embedder.count(texts, reading)]
        assert [min(count, 64) for count in embedder.count(short, reading)] == whole
        np.testing.assert_array_equal(embedder.encode(short, reading), embedder.encode(texts, reading))
