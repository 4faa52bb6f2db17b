"""Search in a served index, and reranking."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mrl_text import MatryoshkaEncoder
from mrl_text.search import StoreUnavailableError, create_store
from mrl_text.serving.errors import ApiError
from mrl_text.serving.retrieval import Index
from tests.conftest import WORDS
from tests.serving.conftest import Running
from tests.serving.test_refusals import JSON, ask

TEXTS = [f"the {WORDS[row % 40]} and a {WORDS[row * 7 % 43]}" for row in range(60)]
LANGUAGES = ["en", "de", "fr"] * 20
YEARS = list(range(1990, 2050))


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu")


@pytest.fixture(scope="module")
def folder(tiny_bert: Path, model: MatryoshkaEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served") / "index"
    store = create_store(made, width=32, model=str(tiny_bert), dims=(8, 32))
    names = [f"d{row}" for row in range(60)]
    store.add(names, model.encode_document(TEXTS), TEXTS, {"lang": LANGUAGES, "year": YEARS})
    store.flush()
    store.close()
    return made


@pytest.fixture(scope="module")
def served(start: Callable[..., Running], folder: Path) -> Running:
    """The index with the model that its rows were made with."""
    return start(None, model_name="tiny", index=str(folder), max_inputs=100)


def post(server: Running, path: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def best(scores: np.ndarray, allowed: list[int], k: int) -> list[str]:
    return [f"d{row}" for row in sorted(allowed, key=lambda row: -scores[row])[:k]]


def test_search_by_text_finds_what_numpy_does(served: Running, model: MatryoshkaEncoder) -> None:
    scores = model.encode_document(TEXTS) @ model.encode_query("the red cat")
    found = post(served, "/search", query="the red cat", k=5)
    [row] = found["data"]
    assert (found["object"], found["model"], row["index"]) == ("list", "tiny", 0)
    assert [one["id"] for one in row["results"]] == best(scores, list(range(60)), 5)
    for one in row["results"]:
        at = int(one["id"][1:])
        assert one["score"] == pytest.approx(scores[at], abs=1e-3)  # the folder keeps float16
        assert (one["text"], one["columns"]) == (TEXTS[at], {"lang": LANGUAGES[at], "year": YEARS[at]})
    assert found["usage"]["prompt_tokens"] == len(model.tokenizer("the red cat")["input_ids"])
    assert post(served, "/v1/search", query="the red cat", limit=5, model="tiny") == found


def test_search_by_vectors_and_several_at_once(served: Running, model: MatryoshkaEncoder) -> None:
    texts = ["the red cat", "a small car"]
    by_text = post(served, "/search", query=texts, k=3)
    assert [row["index"] for row in by_text["data"]] == [0, 1]
    vectors = model.encode_query(texts)
    by_vector = post(served, "/search", query=vectors.tolist(), k=3)
    found, wanted = ([[one["id"] for one in row["results"]] for row in some["data"]] for some in (by_vector, by_text))
    assert found == wanted
    assert by_vector["usage"]["prompt_tokens"] == 0
    one = post(served, "/search", query=(3 * vectors[0]).tolist(), k=3, exact=True)  # of any length
    assert [[result["id"] for result in row["results"]] for row in one["data"]] == wanted[:1]


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"lang": "de"}, lambda lang, year: lang == "de"),
        (
            {"lang": ["de", "fr"], "year": {"gte": 2000, "lt": 2010}},
            lambda lang, year: lang != "en" and 2000 <= year < 2010,
        ),
        (["lang=de,fr", "year>=2000", "year<2010"], lambda lang, year: lang != "en" and 2000 <= year < 2010),
        ("year=1999", lambda lang, year: year == 1999),
        ({"year": 1}, lambda lang, year: False),
        ({}, lambda lang, year: True),
    ],
)
def test_search_with_conditions(served: Running, model: MatryoshkaEncoder, given: Any, allowed: Any) -> None:
    rows = [row for row in range(60) if allowed(LANGUAGES[row], YEARS[row])]
    scores = model.encode_document(TEXTS) @ model.encode_query("the red cat")
    [found] = post(served, "/search", query="the red cat", k=4, filter=given, return_documents=False)["data"]
    assert [one["id"] for one in found["results"]] == best(scores, rows, 4)
    assert all(one.keys() == {"rank", "id", "score"} for one in found["results"])


def test_rerank_orders_by_cosine(server: Running, model: MatryoshkaEncoder) -> None:
    documents = TEXTS[:20]
    scores = model.encode_document(documents) @ model.encode_query("the red cat")
    order = np.argsort(-scores)
    found = post(
        server, "/rerank", query="the red cat", documents=documents, model="tiny", top_n=5, return_documents=True
    )
    assert [one["index"] for one in found["results"]] == order[:5].tolist()
    np.testing.assert_allclose([one["relevance_score"] for one in found["results"]], scores[order[:5]], atol=1e-5)
    assert [one["document"] for one in found["results"]] == [{"text": documents[row]} for row in order[:5]]
    counted = model.tokenizer(["the red cat", *documents])["input_ids"]
    assert found["usage"]["total_tokens"] == sum(map(len, counted))
    objects = [{"text": text} for text in documents]
    plain = post(server, "/v1/rerank", query="the red cat", documents=objects)
    assert [one["index"] for one in plain["results"]] == order.tolist()
    assert all(one.keys() == {"index", "relevance_score"} for one in plain["results"])


def test_a_long_document_costs_what_is_read_of_it(server: Running) -> None:
    found = post(server, "/rerank", query="the cat", documents=["the cat " * 5000, "a dog"])
    assert found["usage"]["total_tokens"] == 4 + 64 + 4


SEARCHES = [
    ({}, 400, "'query' is missing"),
    ({"query": ""}, 400, "query[0] is empty"),
    ({"query": []}, 400, "query is an empty list"),
    ({"query": None}, 400, "query must be a text or a list of texts, got null"),
    ({"query": ["a", 7]}, 400, "query[1] must be a text like the first, got a number"),
    ({"query": [0.5] * 31}, 400, "query[0] must be a text, or a vector of 32 numbers, the width of the index"),
    ({"query": [[0.5] * 32, [0.5] * 31]}, 400, "query[1] must be a text, or a vector of 32 numbers"),
    ({"query": [[0.5] * 31 + ["a"]]}, 400, "query[0] must be"),
    ({"query": [10**400] * 32}, 400, "query has a whole number that is too large"),
    ({"query": [0.0] * 32}, 400, "the query at position 0 is zero or not finite"),
    ({"query": ["a"] * 101}, 400, "at most 100"),
    ({"query": "a", "k": 0}, 400, "k must be from 1 to 10000, got 0"),
    ({"query": ["a"] * 10, "k": 1001}, 400, "k must be from 1 to 1000 for each of 10 queries, got 1001"),
    ({"query": "a", "k": "3"}, 400, "integer, got '3'"),
    ({"query": "a", "k": 3, "limit": 3}, 400, "unknown field 'limit'"),
    ({"query": "a", "model": "gpt"}, 404, "'tiny' is"),
    ({"query": "a", "filters": {}}, 400, "did you mean 'filter'"),
    ({"query": "a", "filter": {"land": "en"}}, 400, "the store has no column 'land'; did you mean 'lang'"),
    ({"query": "a", "filter": {"lang": 7}}, 400, "column 'lang' holds text and cannot be compared with 7"),
    ({"query": "a", "filter": {"lang": {"gte": 7}}}, 400, "a range is for numbers"),
    (
        {"query": "a", "filter": {"lang": None}},
        400,
        "filter: 'lang' must be a value, a list of values, or bounds such as",
    ),
    ({"query": "a", "filter": {"lang": []}}, 400, "filter: 'lang' must be"),
    ({"query": "a", "filter": {"year": {"ge": 7}}}, 400, "'year' has an unknown bound 'ge'; did you mean 'gte'"),
    ({"query": "a", "filter": {"year": {"gte": "x"}}}, 400, "gte of 'year' must be a number, got 'x'"),
    ({"query": "a", "filter": 7}, 400, "filter must be an object of columns, or a list of conditions in text, got 7"),
    ({"query": "a", "filter": ["year"]}, 400, "filter 'year'"),
    ({"query": "a", "filter": [["year=1"]]}, 400, "filter must be an object"),
]
RERANKS = [
    ({"query": "a"}, 400, "'documents' is missing"),
    ({"query": "a", "documents": []}, 400, "documents is an empty list"),
    ({"query": "a", "documents": "b"}, 400, "documents must be a list, got a text"),
    ({"query": "a", "documents": ["b", ""]}, 400, "documents[1] is empty"),
    (
        {"query": "a", "documents": ["b", {"title": "c"}]},
        400,
        "documents[1] must be a text like the first, got an object",
    ),
    ({"query": "a", "documents": [{"title": "c"}]}, 400, "documents must be a text or a list of texts, got an object"),
    ({"query": "a", "documents": ["b"] * 101}, 400, "at most 100"),
    ({"query": ["a"], "documents": ["b"]}, 400, "query"),
    ({"query": "", "documents": ["b"]}, 400, "query[0] is empty"),
    ({"query": "a", "documents": ["b"], "top_n": 0}, 400, "top_n must be at least 1, got 0"),
    ({"query": "a", "documents": ["b"], "top_k": 1}, 400, "unknown field 'top_k'"),
    ({"query": "a", "documents": ["b"], "model": "gpt"}, 404, "not served"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [("/search", *row) for row in SEARCHES] + [("/rerank", *row) for row in RERANKS],
)
def test_refusals(served: Running, path: str, body: dict[str, Any], status: int, reason: str) -> None:
    found, headers, answer = ask(served, body, path=path)
    error = json.loads(answer)["error"]
    assert found == status, answer
    assert reason in error["message"]
    assert headers["content-type"] == "application/json" and len(answer) < 500
    assert error.keys() == {"message", "type", "param", "code"}


def test_without_an_index_there_is_no_search(server: Running) -> None:
    status, _, answer = ask(server, {"query": "a"}, path="/search")
    assert (status, json.loads(answer)["error"]["code"]) == (404, "no_index")
    assert b"--index STORE" in answer


def test_they_are_described_and_guarded(served: Running, guarded: Running) -> None:
    paths = json.loads(ask(served, method="GET", path="/openapi.json", headers={})[2])["paths"]
    for path, field in (("/search", "filter"), ("/v1/rerank", "top_n")):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        assert field in content["schema"]["properties"]
        assert ask(guarded, {"query": "a"}, path=path, headers=JSON)[0] == 401


def test_embeddings_are_served_beside_the_index(served: Running, model: MatryoshkaEncoder) -> None:
    found = post(served, "/v1/embeddings", input="the cat", model="tiny")
    np.testing.assert_allclose(found["data"][0]["embedding"], model.encode("the cat"), atol=1e-6)


def test_a_model_of_another_width_is_refused(folder: Path, tmp_path: Path, tiny_bert: Path) -> None:
    from mrl_text.serving import ServerSettings, serve

    narrow = create_store(tmp_path / "narrow", width=8, model=str(tiny_bert))
    narrow.add(["a"], np.ones((1, 8), np.float32))
    narrow.flush()
    narrow.close()
    with pytest.raises(ValueError, match=r"gives vectors of width 32, .*narrow holds 8"):
        serve(str(tiny_bert), ServerSettings(port=0), index=str(tmp_path / "narrow"))
    with pytest.raises(ValueError, match="nothing to serve"):
        serve(None, ServerSettings(port=0))


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        width = 2

        def search(self, *_: Any, **__: Any) -> None:
            raise StoreUnavailableError("postgresql://me:secret@db does not answer")

        def close(self) -> None:
            pass

    monkeypatch.setattr("mrl_text.serving.retrieval.open_store", lambda _: Silent())
    index = Index("anywhere")
    with pytest.raises(ApiError) as refused:
        asyncio.run(index.search(np.ones((1, 2), np.float32), 3, None, exact=False, documents=True))
    index.close()
    assert (refused.value.status, refused.value.code) == (503, "index_unavailable")
    assert "secret" not in refused.value.message
