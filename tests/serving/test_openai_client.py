"""The real OpenAI client against a real server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from mrl_text import MatryoshkaEncoder
from tests.conftest import WORDS
from tests.serving.conftest import KEY, Running

openai = pytest.importorskip("openai")

MIXED = [
    "the cat",
    "a dog eats bread in the city and drinks water " * 3,
    "Größe 東京 🐈‍⬛ café \u0000 \u202e",
    " ",
    "plays music " * 200,  # longer than the model reads
    "\n\t",
]


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def offline(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert))


def vectors(response: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    assert [entry.index for entry in response.data] == list(range(len(response.data)))
    return np.array([entry.embedding for entry in response.data])


@pytest.mark.parametrize("dim", [None, 1, 7, 16, 32])
@pytest.mark.parametrize("form", ["float", "base64", None])
def test_same_vectors_as_offline(client, offline, dim, form):
    options = {"dimensions": dim} if dim else {}
    if form:
        options["encoding_format"] = form
    response = client.embeddings.create(input=MIXED, model="tiny", **options)
    if form == "base64":  # the client hands these over as they are
        found = np.stack([np.frombuffer(base64.b64decode(entry.embedding), "<f4") for entry in response.data])
    else:
        found = vectors(response)
    expected = offline.encode(MIXED, dim=dim)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert response.model == "tiny"
    assert response.object == "list"


def test_both_encodings_decode_to_equal_numbers(client):
    as_list = vectors(client.embeddings.create(input=MIXED, model="tiny", encoding_format="float"))
    by_default = vectors(client.embeddings.create(input=MIXED, model="tiny"))  # base64, decoded by the client
    assert (as_list.astype(np.float32) == by_default.astype(np.float32)).all()


@pytest.mark.parametrize("dim", [12, 32])
def test_whole_numbers_and_bits_are_those_of_sentence_transformers(client, offline, dim):
    vectors_of, floats = {}, offline.encode(MIXED, dim=dim)
    for dtype in ("int8", "uint8", "binary", "ubinary"):
        body = {"extra_body": {"output_dtype": dtype}, "dimensions": dim, "encoding_format": "float"}
        vectors_of[dtype] = vectors(client.embeddings.create(input=MIXED, model="tiny", **body))
        if "binary" in dtype:
            np.testing.assert_array_equal(vectors_of[dtype], quantize_embeddings(floats, precision=dtype))
    # of numbers up to six times the usual one, or 1; each text on its own, so that those of two calls compare
    step = min(1, 6 / dim**0.5) / 127
    assert np.abs(vectors_of["int8"] * step - floats).max() <= step / 2 + 1e-6
    np.testing.assert_array_equal(vectors_of["uint8"], vectors_of["int8"] + 128)
    with pytest.raises(openai.BadRequestError, match="set encoding_format float with int8"):
        client.embeddings.create(input="the cat", model="tiny", extra_body={"output_dtype": "int8"})


def test_one_text(client, offline):
    response = client.embeddings.create(input="the cat", model="tiny", user="somebody")
    np.testing.assert_allclose(vectors(response)[0], offline.encode("the cat"), atol=1e-6)


def test_usage_is_what_the_tokenizer_counts(client, offline):
    response = client.embeddings.create(input=MIXED, model="tiny")
    counted = offline.tokenizer(MIXED, truncation=True, max_length=offline.max_seq_length)["input_ids"]
    assert response.usage.prompt_tokens == response.usage.total_tokens == sum(map(len, counted))


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "mrl-text"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(input="the cat", model="tiny", dimensions=33)
    assert refused.value.param == "dimensions"
    assert "from 1 to 32" in refused.value.message
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(input="the cat", model="text-embedding-3-small")
    assert unknown.value.code == "model_not_found"


def test_token(guarded):
    right = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=KEY, max_retries=0)
    assert len(right.embeddings.create(input="the cat", model="tiny").data[0].embedding) == 32
    with pytest.raises(openai.AuthenticationError):
        right.with_options(api_key="wrong").embeddings.create(input="the cat", model="tiny")


def test_prompts(start: Callable[..., Running], tiny_bert: Path, tmp_path: Path):
    model = MatryoshkaEncoder(str(tiny_bert), prompts={"query": "the man is in ", "document": "a red "})
    model.default_prompt_name = "document"
    model.save(str(tmp_path / "prompted"))
    offline = MatryoshkaEncoder(str(tmp_path / "prompted"))
    server = start(tmp_path / "prompted", model_name="tiny")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    texts = ["the cat", "a small car"]
    for extra, expected in [
        ({}, offline.encode(texts)),
        ({"input_type": "query"}, offline.encode_query(texts)),
        ({"input_type": "document"}, offline.encode_document(texts)),
        ({"prompt_name": "query"}, offline.encode(texts, prompt_name="query")),
    ]:
        response = client.embeddings.create(input=texts, model="tiny", extra_body=extra)
        np.testing.assert_allclose(vectors(response), expected, atol=1e-6)
    counted = offline.tokenizer([f"the man is in {text}" for text in texts])["input_ids"]
    response = client.embeddings.create(input=texts, model="tiny", extra_body={"input_type": "query"})
    assert response.usage.prompt_tokens == sum(map(len, counted))
    with pytest.raises(openai.BadRequestError, match="'query'"):
        client.embeddings.create(input=texts, model="tiny", extra_body={"prompt_name": "qery"})


def test_many_clients_at_once(server, offline):
    """Eight clients for three seconds: nobody gets a vector of somebody else's text."""
    generator = np.random.default_rng(0)
    pool = [" ".join(generator.choice(WORDS, generator.integers(1, 40))) for _ in range(200)]
    expected = offline.encode(pool)

    async def one(client: openai.AsyncOpenAI, number: int, until: float) -> int:
        answers = 0
        own = np.random.default_rng(number)
        while asyncio.get_running_loop().time() < until:
            rows, dim = own.integers(0, len(pool), own.choice([1, 1, 1, 5, 60])), int(own.choice([8, 16, 32]))
            response = await client.embeddings.create(input=[pool[row] for row in rows], model="tiny", dimensions=dim)
            cut = expected[rows, :dim]
            np.testing.assert_allclose(vectors(response), cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-5)
            answers += 1
        return answers

    async def all_of_them() -> list[int]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            until = asyncio.get_running_loop().time() + 3
            return await asyncio.gather(*(one(client, number, until) for number in range(8)))

    assert min(asyncio.run(all_of_them())) > 0
    metrics = dict(line.rsplit(" ", 1) for line in httpx.get(f"{server.url}/metrics").text.splitlines())
    assert float(metrics["mrl_text_queued_tokens"]) == 0
    assert float(metrics["mrl_text_batch_texts_sum"]) > float(metrics["mrl_text_batch_texts_count"])


@pytest.mark.model
def test_real_model_in_float32(start: Callable[..., Running]):
    server = start("sentence-transformers/all-MiniLM-L6-v2", dims=(64, 128))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    texts = [
        "How long is a vector?",
        "Unicode: 東京 – Größe 🐈",
        "long " * 400,
        *(f"text number {n}" for n in range(60)),
    ]
    offline = MatryoshkaEncoder("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
    name = client.models.list().data[0].id
    for dim in (64, 384):
        response = client.embeddings.create(input=texts, model=name, dimensions=dim)
        np.testing.assert_allclose(vectors(response), offline.encode(texts, dim=dim), atol=1e-6)
    counted = offline.tokenizer(texts, truncation=True, max_length=offline.max_seq_length)["input_ids"]
    assert response.usage.prompt_tokens == sum(map(len, counted))
    with pytest.raises(openai.BadRequestError, match="64, 128, 384"):
        client.embeddings.create(input=texts, model=name, dimensions=100)
