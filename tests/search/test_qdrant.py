"""What is asked of Qdrant, and what happens when it does not answer.

The requests are compared with Qdrant's published schema, as the client has it, and sent to a stand-in that is a server
in nothing but its interface (see qdrant_server.py).
"""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_client")

from qdrant_client import QdrantClient, models

from mrl_text.choices import Code
from mrl_text.search import (
    AnyOf,
    Not,
    Prefix,
    Range,
    SearchPlan,
    StoreUnavailableError,
    Where,
    create_store,
    open_store,
)
from mrl_text.search.filters import check_where
from mrl_text.search.qdrant import requests
from mrl_text.search.qdrant.calls import Address
from mrl_text.search.qdrant.store import QdrantStore
from mrl_text.truncation import truncate
from tests.search.qdrant_server import StandIn

pytestmark = pytest.mark.slow

WIDTH = 16


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


def as_json(model: Any) -> Any:
    return json.loads(model.model_dump_json(exclude_none=True))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr("mrl_text.search.qdrant.store._POLL", 0.0)
    monkeypatch.setattr("mrl_text.search.retry._FIRST_WAIT", 0.001)
    running = StandIn()
    yield running
    running.stop()


@pytest.fixture
def url(server: StandIn) -> str:
    return f"qdrant://127.0.0.1:{server.port}/docs?wait=2"


@pytest.fixture
def store(url: str) -> Iterator[QdrantStore]:
    made = QdrantStore.create(url, width=WIDTH, plan=SearchPlan(8, shortlist=20), dims=[4, 8])
    yield made
    made.close()


def sent(server: StandIn, method: str, end: str) -> list[Any]:
    return [body for verb, path, body in server.requests if verb == method and path.partition("?")[0].endswith(end)]


def test_a_search_is_one_request_with_the_stages_nested() -> None:
    query = truncate(vectors(1))[0]
    plan = SearchPlan(2, "hnsw", shortlist=200, rerank=((4, 100), (8, 50)), effort=300)
    where = requests.condition_filter(check_where({"lang": "en"}, {"lang": "text"}), {"lang": "text"})
    found = as_json(requests.search_request(query, 10, plan, where))

    def close_to(dim: int) -> Any:
        return pytest.approx(truncate(query.astype(np.float64), dim).tolist(), abs=1e-6)

    assert found == {
        "prefetch": {
            "prefetch": {
                "prefetch": {
                    "query": close_to(2),
                    "using": "2_float32",
                    "limit": 200,
                    "filter": {"must": [{"key": "lang", "match": {"any": ["en"]}}]},
                    "params": {"hnsw_ef": 300, "exact": False, "indexed_only": False},
                },
                "query": close_to(4),
                "using": "4",
                "limit": 100,
            },
            "query": close_to(8),
            "using": "8",
            "limit": 50,
        },
        "query": close_to(16),
        "using": "16",
        "limit": 10,
        "with_payload": ["mrl_text_id"],
    }


@pytest.mark.parametrize(
    ("plan", "k", "using", "limits", "parameters"),
    [
        (None, 5, ["16"], [5], {"exact": True}),
        (SearchPlan(4), 5, ["4_float32", "16"], [200, 5], {"exact": True}),
        (SearchPlan(4), 500, ["4_float32", "16"], [500, 500], {"exact": True}),
        (SearchPlan(4, "hnsw", "float16", effort=50), 5, ["4", "16"], [200, 5], {"hnsw_ef": 200}),
        (SearchPlan(4, "hnsw", "int8"), 5, ["4", "16"], [200, 5], {"hnsw_ef": 200, "quantization": {"rescore": False}}),
        (SearchPlan(8, "flat", "binary"), 5, ["8", "16"], [200, 5], {"quantization": {"rescore": False}}),
        (
            SearchPlan(8, "hnsw", "binary"),
            5,
            ["8", "16"],
            [200, 5],
            {"hnsw_ef": 200, "quantization": {"rescore": False}},
        ),
        (SearchPlan(16, "flat", "int2"), 5, ["16", "16"], [200, 5], {"quantization": {"rescore": False}}),
        (SearchPlan(8, "flat", "int8", final=8), 5, ["8"], [5], {"quantization": {"rescore": True}}),
        (SearchPlan(4, final=8, shortlist=30), 5, ["4_float32", "8"], [30, 5], {"exact": True}),
        (SearchPlan(16, "hnsw"), 5, ["16"], [5], {"hnsw_ef": 128}),
    ],
)
def test_stages_of_a_plan(
    plan: SearchPlan | None, k: int, using: list[str], limits: list[int], parameters: dict[str, Any]
) -> None:
    stage: Any = as_json(requests.search_request(truncate(vectors(1))[0], k, plan))
    models.QueryRequest.model_validate(stage)
    stages = [stage]
    while "prefetch" in stage:
        stage = stage["prefetch"]
        stages.insert(0, stage)
    assert [one["using"] for one in stages] == using and [one["limit"] for one in stages] == limits
    assert all("params" not in one for one in stages[1:])
    defaults = {"exact": False, "indexed_only": False}
    quantization = (
        {"quantization": {"ignore": False, **parameters["quantization"]}} if "quantization" in parameters else {}
    )
    assert stages[0]["params"] == {**defaults, **parameters, **quantization}


def test_vectors_of_a_collection() -> None:
    def shape(plan: SearchPlan | None) -> dict[str, Any]:
        return {name: as_json(params) for name, params in requests.vectors_config(plan, 16).items()}

    ordering = {"distance": "Cosine", "datatype": "float16", "on_disk": True, "hnsw_config": {"m": 0}}
    assert shape(None) == {"16": {"size": 16, **ordering}}
    graph = shape(SearchPlan(4, "hnsw", neighbours=24, rerank=((8, 50),)))
    assert graph == {
        "4_float32": {
            "size": 4,
            "distance": "Cosine",
            "datatype": "float32",
            "on_disk": False,
            "hnsw_config": {"m": 24, "ef_construct": 100},
        },
        "8": {"size": 8, **ordering},
        "16": {"size": 16, **ordering},
    }
    whole = shape(SearchPlan(16, "hnsw", neighbours=8, ef_construction=300))
    assert whole == {"16": {"size": 16, **ordering, "on_disk": False, "hnsw_config": {"m": 8, "ef_construct": 300}}}
    int8 = shape(SearchPlan(4, "hnsw", "int8"))["4"]
    assert int8["quantization_config"] == {"scalar": {"type": "int8", "always_ram": True}}
    assert int8["on_disk"] and int8["datatype"] == "float16" and int8["hnsw_config"] == {"m": 16, "ef_construct": 100}
    codes: dict[Code, str] = {"binary": "one_bit", "int1.5": "one_and_half_bits", "int2": "two_bits"}
    for precision, encoding in codes.items():
        bits = shape(SearchPlan(8, precision=precision))["8"]
        coded = {"always_ram": True, "encoding": encoding, "query_encoding": "scalar8bits"}
        assert bits["quantization_config"] == {"binary": coded} and bits["hnsw_config"] == {"m": 0}


def test_filters_as_qdrant_has_them() -> None:
    columns: dict[str, Any] = {"lang": "text", "n": "int", "w": "float", "ok": "bool", "a b.c": "text"}
    where: dict[str, Any] = {"lang": ["de", "fr"], "n": 7, "w": 0.5, "ok": [True, False], "a b.c": "x"}
    found = as_json(requests.condition_filter(check_where(where, columns), columns))
    assert found == {
        "must": [
            {"key": "lang", "match": {"any": ["de", "fr"]}},
            {"key": "n", "match": {"any": [7]}},
            {"should": [{"key": "w", "range": {"gte": 0.5, "lte": 0.5}}]},
            {"should": [{"key": "ok", "match": {"value": True}}, {"key": "ok", "match": {"value": False}}]},
            {"key": '"a b.c"', "match": {"any": ["x"]}},
        ]
    }
    bounds = as_json(requests.condition_filter(check_where({"w": Range(gt=1, lte=2.5)}, columns), columns))
    assert bounds == {"must": [{"key": "w", "range": {"gt": 1.0, "lte": 2.5}}]}
    empty = {"is_empty": {"key": "lang"}}
    other: Where = AnyOf([{"lang": Not("de")}, {"lang": None, "n": Not(None)}, {"lang": Prefix("d")}])
    assert as_json(requests.condition_filter(check_where(other, columns), columns)) == {
        "must": [
            {
                "should": [
                    {"must": [{"must_not": [{"key": "lang", "match": {"any": ["de"]}}, empty]}]},
                    {"must": [empty, {"must_not": [{"is_empty": {"key": "n"}}]}]},
                    {"must": [{"key": "lang", "match": {"prefix": "d"}}]},
                ]
            }
        ]
    }
    assert requests.condition_filter((), columns) is None


def test_a_client_that_cannot_ask_for_a_prefix_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(models, "MatchPrefix")
    with pytest.raises(ValueError, match="too old to ask for a prefix: update it"):
        requests.condition_filter(check_where({"lang": Prefix("d")}, {"lang": "text"}), {"lang": "text"})


@pytest.mark.parametrize(
    ("text", "server", "folder", "collection"),
    [
        ("qdrant://db/docs", "http://db:6333", None, "docs"),
        ("qdrant://db:7000/docs?wait=5", "http://db:7000", None, "docs"),
        ("qdrants://x.cloud.example:6333/docs", "https://x.cloud.example:6333", None, "docs"),
        ("qdrants://db:443/behind/proxy/my%20docs", "https://db:443/behind/proxy", None, "my docs"),
        ("qdrant://[::1]:6333/docs", "http://[::1]:6333", None, "docs"),
        ("qdrant:some/folder#docs", None, Path("some/folder"), "docs"),
        ("qdrant:/abs/with#hash#docs", None, Path("/abs/with#hash"), "docs"),
    ],
)
def test_addresses(text: str, server: str | None, folder: Path | None, collection: str) -> None:
    address = Address.parse(text)
    assert (address.server, address.folder, address.collection) == (server, folder, collection)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("qdrant://db:6333", "no collection"),
        ("qdrant://db:6333/", "no collection"),
        ("qdrant:///docs", "no collection"),
        ("qdrant:folder", "no collection"),
        ("qdrant:#docs", "no collection"),
        ("qdrants:folder#docs", "no collection"),
        ("qdrant://db:port/docs", "not an address"),
        ("qdrant://db/docs?api_key=secret", "QDRANT_API_KEY"),
        ("qdrant://db/docs?wait=long", "wait=long"),
        ("qdrant://secret@db/docs", "QDRANT_API_KEY"),
        ("qdrant://me:sec[ret@db:99999/docs", "QDRANT_API_KEY"),
        ("qdrant://db:99999/docs", "not an address"),
    ],
)
def test_addresses_that_are_none(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        Address.parse(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [(SearchPlan(8, "ivf"), "ivf"), (SearchPlan(8, precision="int4"), "int4"), (SearchPlan(32), "32")],
)
def test_plans_that_qdrant_cannot_follow(tmp_path: Path, plan: SearchPlan, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        create_store(f"qdrant:{tmp_path / 'q'}#docs", width=WIDTH, plan=plan)
    assert not (tmp_path / "q").exists()
    store = create_store(f"qdrant:{tmp_path / 'q'}#docs", width=WIDTH)
    for change in (store.set_plan, lambda one: store.search(vectors(1), plan=one)):
        with pytest.raises(ValueError, match=reason):
            change(plan)
    store.close()


def test_rows_go_up_in_bounded_batches_each_confirmed(
    server: StandIn, store: QdrantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_text.search.qdrant.store._UPLOAD_BYTES", 4_000)
    texts = ["short" if row % 10 else "longer than a batch " * 400 for row in range(60)]
    store.add(names(60), vectors(60), texts)
    uploads = [
        (path, body["batch"]) for method, path, body in server.requests if path.split("?")[0].endswith("/points")
    ]
    assert all("wait=true" in path for path, _ in uploads)
    assert [payload["mrl_text_id"] for _, batch in uploads for payload in batch["payloads"]] == names(60)
    sizes = [(len(json.dumps(batch)), len(batch["ids"])) for _, batch in uploads]
    assert len(uploads) >= 12 and all(size < 5_000 or rows == 1 for size, rows in sizes)
    assert set(uploads[0][1]["vectors"]) == {"8_float32", "16"}
    assert np.allclose(uploads[0][1]["vectors"]["16"][0], truncate(vectors(1))[0], atol=1e-6)
    assert store.count() == 60


def test_point_ids_are_uuids_made_from_the_ids() -> None:
    assert len({requests.point_id(one) for one in ("", "a", "A", "é", "e\u0301")}) == 5
    assert uuid.UUID(requests.point_id("a")).version == 5
    assert requests.point_id("a") == "4bba1d27-1d37-553d-81e3-e9ca1a2d31a2"  # stored: it must never change


FAULTS: dict[str, list[Any]] = {
    "unavailable": [503, 503],
    "gateway": [502, 504],
    "too many, without a time": [429],
    "dropped": ["drop", "drop"],
    "answer lost": ["lose"],
    "all of it": [503, "drop", (429, {"Retry-After": "0"}), "lose", 500],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_what_may_pass_is_tried_again(server: StandIn, url: str, faults: list[Any]) -> None:
    server.faults = list(faults)
    store = create_store(url, width=WIDTH, plan=SearchPlan(8, shortlist=40))
    steps: list[Callable[[], Any]] = [
        lambda: store.add(names(40), vectors(40), None, {"n": list(range(40))}),
        lambda: store.search(vectors(1), 3).ids[0, 0],
        lambda: store.documents(["row 3"])[0].columns,  # type: ignore[union-attr]
        lambda: store.delete(names(5)),
        store.count,
        lambda: store.set_plan(SearchPlan.funnel([4, 8, 16], shortlist=40)),
        lambda: store.search(vectors(8)[7:], 1).ids[0, 0],
    ]
    answers = []
    for step in steps:
        server.faults = list(faults)
        answers.append(step())
        assert not server.faults
    assert answers == [None, "row 0", {"n": 3}, 5, 35, None, "row 7"]
    store.close()


def test_lost_answer_to_creating_is_no_second_collection(server: StandIn, url: str) -> None:
    exists_then_lose: list[Any] = [None, "lose"]
    server.faults = exists_then_lose
    create_store(url, width=WIDTH).close()
    assert [verb for verb, path, _ in server.requests if path.split("?")[0] == "/collections/docs"].count("PUT") == 2
    with pytest.raises(FileExistsError):
        create_store(url, width=WIDTH)


def test_the_time_a_server_asks_for_is_waited(
    server: StandIn, store: QdrantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("mrl_text.search.qdrant.calls.time.sleep", waited.append)
    server.faults = [(429, {"Retry-After": "1"}), (429, {"Retry-After": "3600"})]
    store.add(["a"], vectors(1))
    assert waited[0] == 1 and 2 in waited  # an hour is cut to what the URL says to wait
    assert store.count() == 1


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        (400, ValueError, "fault with status 400"),
        (413, ValueError, "413"),
        (401, PermissionError, "QDRANT_API_KEY"),
        (403, PermissionError, "QDRANT_API_KEY"),
        (404, FileNotFoundError, "docs"),
    ],
)
def test_what_is_refused_is_not_tried_again(
    server: StandIn, store: QdrantStore, fault: int, error: type[Exception], reason: str
) -> None:
    before = len(server.keys)
    server.faults = [fault]
    with pytest.raises(error, match=reason):
        store.add(["a"], vectors(1))
    assert len(server.keys) == before + 1


def test_an_upload_that_broke_off_is_repeated(server: StandIn, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.search.qdrant.store._UPLOAD_BYTES", 4_000)
    store = create_store(url.replace("wait=2", "wait=0"), width=WIDTH, plan=SearchPlan(8, shortlist=60))
    server.faults = [None, None, None, "drop"]
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1.*running"):
        store.add(names(60), vectors(60))
    assert 0 < store.count() < 60
    store.add(names(60), vectors(60))
    assert store.count() == 60
    queries = vectors(60)
    assert store.search(queries, 1).ids[:, 0].tolist() == names(60)
    store.close()


@pytest.mark.slow
def test_a_change_of_plan_that_broke_off_goes_on(server: StandIn, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.search.qdrant.store._MOVED", 10)
    store = create_store(url.replace("wait=2", "wait=0"), width=WIDTH, plan=SearchPlan(8, shortlist=60))
    store.add(names(60), vectors(60))
    plan = SearchPlan.funnel([4, 8, 16], shortlist=60)
    for answered in (2, 6, 9):  # each time a little further
        server.faults = [*[None] * answered, "drop"]
        with pytest.raises(StoreUnavailableError):
            store.set_plan(plan)
        server.faults = []
        other = open_store(url)
        assert other.plan == SearchPlan(8, shortlist=60)
        assert other.search(vectors(60), 1).ids[:, 0].tolist() == names(60)
        other.add(names(5), vectors(60)[:5])  # without the size that is on its way
        other.close()
    store.set_plan(plan)
    moved = sum(len(body["points"]) for body in sent(server, "PUT", "/points/vectors"))
    assert 2 * 60 <= moved < 3 * 60
    assert store.search(vectors(60), 1).ids[:, 0].tolist() == names(60)
    kept = server.client.get_collection("docs").config.params.vectors
    assert set(kept) == {"16", "8", "4_float32"}
    for point in server.client.scroll("docs", limit=60, with_vectors=True)[0]:
        row = int(point.payload["mrl_text_id"].split()[1])
        for name, dim in (("4_float32", 4), ("8", 8)):
            assert np.allclose(point.vector[name], truncate(vectors(60)[row], dim), atol=1e-5)
    store.close()


def test_rows_that_another_writer_adds_while_the_plan_changes(
    url: str, store: QdrantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(names(10), vectors(10))
    other, keep = open_store(url), QdrantStore._keep

    def late(self: QdrantStore, facts: dict[str, Any]) -> None:
        other.add(["late"], vectors(1, seed=1))  # by the plan before, after all other rows got the new size
        keep(self, facts)

    with monkeypatch.context() as patched:
        patched.setattr(QdrantStore, "_keep", late)
        store.set_plan(SearchPlan(4, shortlist=20))
    assert store.search(vectors(1, seed=1), 1).ids.tolist() == [["late"]]
    other.close()


def test_a_reader_follows_a_plan_that_another_process_chose(url: str, store: QdrantStore) -> None:
    store.add(names(10), vectors(10))
    reader = open_store(url)
    store.set_plan(SearchPlan(4, shortlist=20))  # what the reader's plan searches is dropped
    assert reader.search(vectors(10), 1).ids[:, 0].tolist() == names(10)
    assert reader.plan == SearchPlan(4, shortlist=20)
    reader.close()


def test_graphs_and_codes_are_changed_in_place(server: StandIn, store: QdrantStore) -> None:
    store.set_plan(SearchPlan(8, "hnsw", "int8", neighbours=20))
    store.set_plan(SearchPlan(8, "flat", "float16"))
    changes = [body["vectors"]["8"] for body in sent(server, "PATCH", "/docs") if body.get("vectors")]
    coded = {
        "hnsw_config": {"m": 20, "ef_construct": 100},
        "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
        "on_disk": True,
    }
    plain = {"hnsw_config": {"m": 0}, "quantization_config": "Disabled", "on_disk": False}
    assert changes == [coded, coded, plain]  # once before the new vector has rows, once with the plan


def test_columns_get_an_index_before_rows_have_them(server: StandIn, store: QdrantStore) -> None:
    store.add(
        ["a"], vectors(1), None, {"lang": ["de"], "n": [1], "w": [0.5], "ok": [True], "a.b": ["x"], "none": [None]}
    )
    schema = {body["field_name"]: body["field_schema"] for body in sent(server, "PUT", "/index")}
    assert schema == {"lang": "keyword", "n": "integer", "w": "float", "ok": "bool", '"a.b"': "keyword"}
    paths = [path.split("?")[0].rsplit("/", 1)[1] for method, path, _ in server.requests if method == "PUT"]
    assert paths == ["docs", *["index"] * 5, "points"]
    store.add(["b"], vectors(1), None, {"lang": ["fr"], "w": [2]})
    assert len(sent(server, "PUT", "/index")) == 5
    assert sent(server, "PUT", "/points")[-1]["batch"]["payloads"] == [{"mrl_text_id": "b", "lang": "fr", "w": 2.0}]
    for name in ("mrl_text_id", "mrl_text", 'a"b'):
        with pytest.raises(ValueError, match=name):
            store.add(["c"], vectors(1), None, {name: ["x"]})


def test_columns_that_another_writer_added_are_known(url: str, store: QdrantStore) -> None:
    other = open_store(url)
    other.add(["a"], vectors(1), None, {"lang": ["de"]})
    assert store.search(vectors(1), 1, where={"lang": "de"}).ids.tolist() == [["a"]]
    store.add(["b"], vectors(1), None, {"n": [1]})
    other.add(["c"], vectors(1), None, {"m": [1]})
    assert set(open_store(url).documents(["a"])[0].columns) == {"lang", "n", "m"}  # type: ignore[union-attr]
    other.close()


def test_flush_waits_until_the_server_has_built(server: StandIn, store: QdrantStore) -> None:
    server.statuses = ["green", "yellow", "yellow", "grey", "green", "green"]
    before = len(server.requests)
    store.flush()
    asked = server.requests[before:]
    assert [method for method, _, _ in asked] == ["GET", "GET", "GET", "GET", "PATCH", "GET", "GET"]
    assert asked[4][2] == {"optimizers_config": {}}
    server.statuses = ["red"]
    with pytest.raises(StoreUnavailableError, match="failed to build"):
        store.flush()


def test_the_key_goes_into_the_header_only(server: StandIn, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "hidden-key")
    with pytest.warns(UserWarning, match="insecure"):
        store = create_store(url, width=WIDTH)
    assert set(server.keys) == {"hidden-key"}
    server.faults = [403]
    with pytest.raises(PermissionError) as caught:
        store.count()
    assert "hidden-key" not in str(caught.value) and "hidden-key" not in store.url
    store.close()


def test_servers_that_are_too_old_say_so(server: StandIn, url: str) -> None:
    server.old = True
    with pytest.raises(ValueError, match=r"1\.16"):
        create_store(url, width=WIDTH)
    assert not server.client.collection_exists("docs")
    server.old = False
    store = create_store(url, width=WIDTH, plan=SearchPlan(8))
    store.add(names(3), vectors(3))
    server.old = True
    with pytest.raises(ValueError, match=r"1\.18"):
        store.set_plan(SearchPlan(4))
    assert store.plan == SearchPlan(8) and store.search(vectors(1), 1).ids.tolist() == [["row 0"]]
    store.set_plan(None)  # needs nothing new; what it does not need stays
    store.close()
    again = open_store(url)
    assert again.plan is None and again.search(vectors(1), 1).ids.tolist() == [["row 0"]]
    again.close()


def test_a_collection_of_somebody_else_is_left_alone(server: StandIn, url: str) -> None:
    server.client.create_collection("docs", vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))
    with pytest.raises(ValueError, match="did not make"):
        open_store(url)
    with pytest.raises(FileExistsError):
        create_store(url, width=WIDTH)


def test_something_that_is_not_qdrant(url: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ValueError, match="like Qdrant"):
            open_store(f"qdrant://127.0.0.1:{listening.getsockname()[1]}/docs?wait=0")


def test_embedded_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no embedded Qdrant"):
        open_store(f"qdrant:{tmp_path / 'none'}#docs")
    assert not (tmp_path / "none").exists()
    store = create_store(f"qdrant:{tmp_path / 'q'}#docs", width=WIDTH)
    with pytest.raises(ValueError, match="open in another"):
        open_store(f"qdrant:{tmp_path / 'q'}#docs")
    store.close()
    with pytest.raises(FileNotFoundError, match="no collection 'other'"):
        open_store(f"qdrant:{tmp_path / 'q'}#other")
    create_store(f"qdrant:{tmp_path / 'q'}#other", width=WIDTH).close()  # beside the first
    open_store(f"qdrant:{tmp_path / 'q'}#docs").close()


def test_a_full_disk_of_the_embedded_mode_keeps_what_was_confirmed(tmp_path: Path) -> None:
    url = f"qdrant:{tmp_path / 'q'}#docs"
    store = QdrantStore.create(url, width=WIDTH, plan=SearchPlan(8))
    store.add(names(40), vectors(40), ["text"] * 40)
    database = store._call._client._client.collections["docs"].storage.storage
    [(pages,)] = database.execute("PRAGMA page_count").fetchall()
    database.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own "disk is full"
    confirmed = 40
    with pytest.raises(OSError, match=r"disk is full.: make room there, and run the same again; .* is kept") as caught:
        for row in range(40, 4000):
            store.add([f"row {row}"], vectors(1, seed=row), ["text" * 50])
            confirmed += 1
    assert "\n" not in str(caught.value)
    store.close()
    again = open_store(url)
    assert again.count() == confirmed
    assert again.documents(names(confirmed)).count(None) == 0
    again.add(names(confirmed + 20), vectors(confirmed + 20))  # room was made
    assert again.count() == confirmed + 20
    again.close()


def test_a_folder_that_was_begun_on_a_full_disk_can_be_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"qdrant:{tmp_path / 'q'}#docs"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("qdrant_client.local.qdrant_local.json", SimpleNamespace(dump=full, dumps=full))
        with pytest.raises(OSError, match=r"cannot be written or read .*No space left.*: make room there"):
            QdrantStore.create(url, width=WIDTH)
    QdrantStore.create(url, width=WIDTH).close()


@pytest.mark.parametrize("damage", ["gone", "empty", "half", "a byte less", "garbage"])
@pytest.mark.parametrize("name", ["meta.json", "collection/docs/storage.sqlite"])
def test_damage_of_the_embedded_mode_is_one_line(tmp_path: Path, name: str, damage: str) -> None:
    url = f"qdrant:{tmp_path / 'q'}#docs"
    store = QdrantStore.create(url, width=WIDTH)
    store.add(names(40), vectors(40))
    store.close()
    file = tmp_path / "q" / name
    content = file.read_bytes()
    changed = {"empty": b"", "half": content[: len(content) // 2], "a byte less": content[:-1]}
    file.unlink()
    if damage != "gone":
        file.write_bytes(changed.get(damage) or np.random.default_rng(0).bytes(len(content)) * (damage == "garbage"))
    with pytest.raises((ValueError, FileNotFoundError), match=f"{tmp_path}.*(restore it|create the store)") as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_plain_qdrant_client_reads_what_was_stored(tmp_path: Path) -> None:
    store = create_store(f"qdrant:{tmp_path / 'q'}#docs", width=WIDTH, plan=SearchPlan(8, shortlist=20), dims=[8])
    store.add(names(20), vectors(20), [f"text {row}" for row in range(20)], {"n": list(range(20))})
    store.close()
    client = QdrantClient(path=str(tmp_path / "q"))
    query = truncate(vectors(4)[3], 8).tolist()
    found = client.query_points("docs", query=query, using="8_float32", limit=1).points[0]
    assert found.payload == {"mrl_text_id": "row 3", "mrl_text": "text 3", "n": 3}
    client.close()


def test_rows_that_a_graph_did_not_lead_to_under_a_filter_are_compared(
    server: StandIn, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, asked = create_store(url, width=WIDTH, plan=SearchPlan(8, "hnsw", shortlist=40)), QdrantStore._asked
    store.add(names(40), vectors(40), None, {"n": list(range(40))})

    def lost(self: QdrantStore, some: np.ndarray, k: int, condition: Any, plan: SearchPlan | None) -> Any:
        found = asked(self, some, k, condition, plan)
        if plan is not None and plan.kind == "hnsw":
            found.ids[::2, 3:] = None
        return found

    monkeypatch.setattr(QdrantStore, "_asked", lost)
    found, where = store.search(vectors(4, seed=1), 10, where={"n": Range(lt=20)}), {"n": Range(lt=20)}
    assert found.ids.tolist() == store.exact(vectors(4, seed=1), 10, where=where).ids.tolist()
    last = sent(server, "POST", "/query/batch")[-2]["searches"]
    assert len(last) == 2 and last[0]["prefetch"]["params"]["exact"]
    store.close()
