"""What searches find under filters, of few rows and of many, about the queries' topic and about anything else.

Rows lie in clusters, and the queries in one of them. A filter leaves the rows nearest to the queries' topic, those
farthest from it, or any: it has to be searched as well as without it, on every engine and by every kind of index.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")

from mrl_text.search import SearchPlan, Store, create_store
from mrl_text.truncation import truncate

WIDTH, CLUSTERS, QUERIES = 32, 40, 40
SHARES = (0.005, 0.015, 0.1, 0.5)
TOPICS = ("on topic", "off topic", "any topic")
PLANS = {
    "faiss flat": SearchPlan(16, shortlist=200),
    "faiss hnsw": SearchPlan(16, "hnsw", shortlist=200, effort=100),
    "faiss hnsw int8": SearchPlan(16, "hnsw", "int8", shortlist=200, effort=100),
    "faiss hnsw full": SearchPlan(WIDTH, "hnsw", shortlist=20, final=WIDTH, effort=60),
    "faiss ivf": SearchPlan(16, "ivf", shortlist=200, effort=24),
    "faiss ivf int4": SearchPlan(24, "ivf", "int4", shortlist=200, effort=8),
    "postgres hnsw": SearchPlan(16, "hnsw", shortlist=100, effort=100),
    "postgres ivf": SearchPlan(16, "ivf", shortlist=150, effort=24),
    "qdrant-server hnsw": SearchPlan(16, "hnsw", shortlist=100, effort=100),
}
ROWS = {"faiss": 30_000, "postgres": 25_000, "qdrant-server": 600}  # the stand-in looks at each row in Python


@functools.cache
def data(rows: int) -> tuple[np.ndarray, np.ndarray, dict[str, list[bool]]]:
    """Vectors whose first numbers say most, queries in one cluster, and a column for each filter."""
    random = np.random.default_rng(0)
    weight = 1 / np.arange(1, WIDTH + 1) ** 0.7
    centres = random.standard_normal((CLUSTERS, WIDTH)) * weight
    vectors = centres[random.integers(CLUSTERS, size=rows)] + 0.5 * random.standard_normal((rows, WIDTH)) * weight
    queries = centres[0] + 0.5 * random.standard_normal((QUERIES, WIDTH)) * weight
    nearest = np.argsort(-(truncate(vectors) @ truncate(centres[:1])[0]))
    orders = {"on topic": nearest, "off topic": nearest[::-1], "any topic": random.permutation(rows)}
    columns = {}
    for topic, share in itertools.product(TOPICS, SHARES):
        chosen = np.zeros(rows, dtype=bool)
        chosen[orders[topic][: int(share * rows)]] = True
        columns[f"{topic} {share}"] = chosen.tolist()
    return vectors.astype(np.float32), queries.astype(np.float32), columns


@pytest.fixture(scope="module", params=PLANS)
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Store]]:
    name: str = request.param
    engine, _, kind = name.partition(" ")
    rows = ROWS[engine]
    with pytest.MonkeyPatch.context() as patch:
        if engine == "faiss":
            url = str(tmp_path_factory.mktemp("filters") / "index")
        elif engine == "postgres":
            url = f"{request.getfixturevalue('postgres_server').get_uri()}&table=filtered_{kind}"
        else:
            pytest.importorskip("qdrant_client")
            from tests.search.qdrant_server import StandIn

            patch.setattr("mrl_text.search.qdrant.store._POLL", 0.01)
            server = StandIn()
            request.addfinalizer(server.stop)
            url = f"qdrant://127.0.0.1:{server.port}/docs"
        vectors, _, columns = data(rows)
        store = create_store(url, width=WIDTH)
        store.add([str(row) for row in range(rows)], vectors, None, columns)
        store.set_plan(PLANS[name])
        store.flush()
        yield engine, store
        store.close()
        if engine == "postgres":
            store.drop()
            store.close()


@pytest.mark.slow
@pytest.mark.parametrize(("topic", "share"), itertools.product(TOPICS, SHARES))
def test_a_filter_takes_no_result_away(filled: tuple[str, Store], topic: str, share: float) -> None:
    engine, store = filled
    vectors, queries, columns = data(ROWS[engine])
    queries = queries[: 3 if engine == "qdrant-server" else QUERIES]
    kept = np.flatnonzero(columns[f"{topic} {share}"])
    scores = truncate(queries.astype(np.float64)) @ truncate(vectors[kept].astype(np.float64)).T
    best = kept[np.argsort(-scores, axis=1)[:, :10]]
    where: dict[str, Any] = {f"{topic} {share}": True}
    for search in (store.search, store.exact):
        found = search(queries, 10, where=where)
        assert ((found.ids == None).sum(axis=1) == 10 - best.shape[1]).all()  # noqa: E711
        shared = [len({str(row) for row in one} & set(ids)) for one, ids in zip(best, found.ids, strict=True)]
        assert np.mean(shared) >= 0.98 * best.shape[1]
    alone = store.search(queries[:1], 10, where=where)
    assert len({str(row) for row in best[0]} & set(alone.ids[0])) >= 0.8 * best.shape[1]
