"""What every store must do, checked on each engine against brute force in float64.

``qdrant`` is the embedded mode, ``qdrant-server`` the REST interface in front of a stand-in (see qdrant_server.py),
``postgres`` a real server.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("faiss")

from mrl_text.search import (
    AllOf,
    AnyOf,
    Document,
    Not,
    Prefix,
    Range,
    SearchPlan,
    Store,
    StoreUnavailableError,
    Where,
    create_store,
    open_store,
)
from mrl_text.truncation import truncate
from tests.search.wheres import holds, wheres

pytestmark = pytest.mark.slow

WIDTH, COUNT = 32, 40
IDS = [f"row {number}" for number in range(COUNT)]
TEXTS = [f"text {number}" for number in range(COUNT)]
COLUMNS: dict[str, list[Any]] = {
    "lang": [("en", "de", "fr", None)[row % 4] for row in range(COUNT)],
    "year": [2000 + row for row in range(COUNT)],
    "score": [None if row % 5 == 0 else row / 8 for row in range(COUNT)],
    "open": [row % 3 == 0 for row in range(COUNT)],
    "ein Feld.v2": ["ja" if row < 10 else "nein" for row in range(COUNT)],
}
PLANS = {
    "exact": None,
    "adaptive": SearchPlan(8, shortlist=COUNT),
    "graph": SearchPlan(8, "hnsw", "float16", shortlist=COUNT, effort=2 * COUNT),
    "funnel": SearchPlan(4, shortlist=COUNT, rerank=((8, COUNT), (16, COUNT))),
    "prefix": SearchPlan(8, final=8, shortlist=COUNT),
    "whole": SearchPlan(WIDTH, "hnsw", shortlist=COUNT),
}


def vectors(count: int = COUNT, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def cosines(queries: np.ndarray, rows: np.ndarray, dim: int = WIDTH) -> np.ndarray:
    left, right = (truncate(array.astype(np.float64), dim) for array in (queries, rows))
    return np.asarray(left @ right.T)


@pytest.fixture(params=["faiss", "postgres", "qdrant", "qdrant-server"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_url(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], str]]:
    """Gives the URL of a store that is not there, another one each time."""
    numbers = iter(range(10_000))
    if engine == "faiss":
        yield lambda: str(tmp_path / f"index-{next(numbers)}")
    elif engine == "postgres":
        url = request.getfixturevalue("postgres_url")
        yield lambda: f"{url}&table=contract_{uuid.uuid4().hex}"
    elif engine == "qdrant":
        pytest.importorskip("qdrant_client")
        yield lambda: f"qdrant:{tmp_path / f'qdrant-{next(numbers)}'}#docs"
    else:
        pytest.importorskip("qdrant_client")
        from tests.search.qdrant_server import StandIn

        monkeypatch.setattr("mrl_text.search.qdrant.store._POLL", 0.01)
        server = StandIn()
        yield lambda: f"qdrant://127.0.0.1:{server.port}/docs {next(numbers)}"
        server.stop()


@pytest.fixture
def make(new_url: Callable[[], str]) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def create(**options: Any) -> Store:
        made.append(create_store(new_url(), **{"width": WIDTH, **options}))
        return made[-1]

    yield create
    for store in made:
        store.close()


@pytest.fixture
def store(make: Callable[..., Store]) -> Store:
    """All rows with texts and columns, under the adaptive plan."""
    filled = make(plan=PLANS["adaptive"])
    filled.add(IDS, vectors(), TEXTS, COLUMNS)
    filled.flush()
    return filled


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_finds_what_exact_search_finds_where_the_shortlist_covers_all(make: Callable[..., Store], name: str) -> None:
    filled = make(plan=PLANS[name])
    filled.add(IDS[:25], vectors()[:25] * 7)  # of any length
    filled.add(IDS[25:], vectors()[25:])
    filled.flush()
    queries = vectors(5, seed=1)
    reference = cosines(queries, vectors(), 8 if name == "prefix" else WIDTH)
    best = np.argsort(-reference, axis=1)[:, :10]
    found = filled.search(queries, 10)
    assert found.ids.tolist() == [[IDS[row] for row in rows] for rows in best]
    assert np.abs(found.scores - np.take_along_axis(reference, best, axis=1)).max() < 2e-3
    assert found.scores.dtype == np.float32


def test_exact_compares_full_vectors_whatever_the_plan(make: Callable[..., Store]) -> None:
    filled = make(plan=SearchPlan(4, shortlist=1, final=4))
    filled.add(IDS, vectors())
    filled.flush()
    queries = vectors(5, seed=1)
    best = np.argsort(-cosines(queries, vectors()), axis=1)[:, :3]
    assert filled.exact(queries, 3).ids.tolist() == [[IDS[row] for row in rows] for rows in best]
    assert filled.exact(queries[0], 1).ids.shape == (1, 1)


def test_a_short_shortlist_leaves_rows_out(make: Callable[..., Store]) -> None:
    plan = SearchPlan(8, shortlist=3)
    filled = make(plan=plan)
    filled.add(IDS, vectors())
    filled.flush()
    query = vectors(1, seed=2)
    shortlist = set(np.argsort(-cosines(query, vectors(), 8)[0])[:3].tolist())
    order = [row for row in np.argsort(-cosines(query, vectors())[0]) if row in shortlist]
    assert filled.search(query, 3).ids[0].tolist() == [IDS[row] for row in order]


def test_another_plan_for_one_search(store: Store) -> None:
    query = vectors(1, seed=2)
    few = store.search(query, 3, plan=SearchPlan(8, shortlist=3))
    assert set(few.ids[0]) == {IDS[row] for row in np.argsort(-cosines(query, vectors(), 8)[0])[:3]}
    unprepared = SearchPlan(4, "hnsw", shortlist=COUNT, effort=2 * COUNT)
    try:
        found = store.search(query, 3, plan=unprepared).ids[0]
    except ValueError as error:  # an engine without that prefix says what to do
        assert "set_plan" in str(error)
    else:
        assert found.tolist() == [IDS[row] for row in np.argsort(-cosines(query, vectors())[0])[:3]]


def test_a_plan_for_one_search_of_a_store_without_one(make: Callable[..., Store]) -> None:
    filled, query = make(), vectors(1, seed=2)
    filled.add(IDS, vectors())
    filled.flush()
    try:
        found = filled.search(query, 3, plan=PLANS["graph"]).ids[0]
    except ValueError as error:
        assert "set_plan" in str(error)
    else:
        assert found.tolist() == [IDS[row] for row in np.argsort(-cosines(query, vectors())[0])[:3]]


FILTERS: dict[str, tuple[Where, Callable[[int], bool]]] = {
    "equal": ({"lang": "de"}, lambda row: row % 4 == 1),
    "several": ({"lang": ["de", "fr"]}, lambda row: row % 4 in (1, 2)),
    "none of them": ({"lang": []}, lambda row: False),
    "no such value": ({"lang": "it"}, lambda row: False),
    "number": ({"year": 2007}, lambda row: row == 7),
    "numbers": ({"year": {2007, 2008}}, lambda row: row in (7, 8)),
    "half a number": ({"year": 2007.5}, lambda row: False),
    "range": ({"year": Range(gte=2010, lt=2020)}, lambda row: 10 <= row < 20),
    "open range": ({"score": Range(gt=2.0)}, lambda row: row % 5 != 0 and row / 8 > 2),
    "range without bounds": ({"score": Range()}, lambda row: row % 5 != 0),
    "float": ({"score": 0.875}, lambda row: row == 7),
    "floats and whole numbers": ({"score": [1, 0.875]}, lambda row: row in (7, 8)),
    "a bound beyond 64 bits": ({"score": Range(lt=2**70, gt=-(2**70))}, lambda row: row % 5 != 0),
    "a number beyond 64 bits": ({"score": 2**70}, lambda row: False),
    "boolean": ({"open": True}, lambda row: row % 3 == 0),
    "no": ({"open": [False]}, lambda row: row % 3 != 0),
    "combined": (
        {"lang": ["en", "de"], "year": Range(lte=2020), "open": False},
        lambda row: row % 4 in (0, 1) and row <= 20 and row % 3 != 0,
    ),
    "a name with a dot and a space": ({"ein Feld.v2": "ja"}, lambda row: row < 10),
    "empty": ({}, lambda row: True),
    "another value": ({"lang": Not("de")}, lambda row: row % 4 in (0, 2)),
    "none of several": ({"lang": Not(["de", "fr"])}, lambda row: row % 4 == 0),
    "another number": ({"score": Not(0.875)}, lambda row: row % 5 != 0 and row != 7),
    "not a number that no row can have": ({"year": Not(2007.5)}, lambda row: True),
    "outside a range": ({"score": Not(Range(gt=1))}, lambda row: row % 5 != 0 and row <= 8),
    "not open": ({"open": Not(True)}, lambda row: row % 3 != 0),
    "no value": ({"lang": None}, lambda row: row % 4 == 3),
    "a value": ({"lang": Not(None)}, lambda row: row % 4 != 3),
    "a value or none": ({"lang": ["en", None]}, lambda row: row % 4 in (0, 3)),
    "neither value nor none": ({"lang": Not(["en", None])}, lambda row: row % 4 in (1, 2)),
    "prefix": ({"ein Feld.v2": Prefix("ne")}, lambda row: row >= 10),
    "a prefix is no pattern": ({"lang": Prefix("%")}, lambda row: False),
    "another prefix": ({"lang": Not(Prefix("e"))}, lambda row: row % 4 in (1, 2)),
    "any of": (AnyOf([{"lang": "en"}, {"year": Range(gte=2038)}]), lambda row: row % 4 == 0 or row >= 38),
    "all of": (AllOf([{"year": Range(gte=2010)}, {"year": Not(2011)}]), lambda row: row >= 10 and row != 11),
    "any with all": (AnyOf([{"lang": "en"}, {}]), lambda row: True),
    "one inside the other": (
        AllOf([{"open": True}, AnyOf([{"lang": None}, AllOf([{"year": Not(2000)}, {"lang": "en"}])])]),
        lambda row: row % 3 == 0 and (row % 4 == 3 or (row % 4 == 0 and row != 0)),
    ),
}


@pytest.mark.slow
def test_filters_by_the_users_columns(store: Store) -> None:
    query = vectors(1, seed=3)
    order = np.argsort(-cosines(query, vectors())[0]).tolist()
    for name, (where, fits) in FILTERS.items():
        expected = [IDS[row] for row in order if fits(row)]
        padded = expected + [None] * (COUNT - len(expected))
        assert store.search(query, COUNT, where=where).ids[0].tolist() == padded, name
        assert store.exact(query, COUNT, where=where).ids[0].tolist() == padded, name


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(where=wheres())
def test_any_filter_lets_through_what_plain_python_does(store: Store, where: Where) -> None:
    rows = [{name: values[row] for name, values in COLUMNS.items()} for row in range(COUNT)]
    expected = {id_ for id_, row in zip(IDS, rows, strict=True) if holds(where, row)}
    assert set(store.exact(vectors(1), COUNT, where=where).ids[0]) - {None} == expected


def test_a_filter_on_a_column_that_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match="no column 'language'"):
        store.search(vectors(1), where={"language": "en"})
    with pytest.raises(ValueError, match="year"):
        store.search(vectors(1), where={"year": "2007"})
    with pytest.raises(ValueError, match="lang"):
        store.exact(vectors(1), where={"lang": Range(gt=1)})
    with pytest.raises(ValueError, match="score"):
        store.search(vectors(1), where={"score": 10**400})
    with pytest.raises(ValueError, match="no column 'language'"):
        store.search(vectors(1), where=AnyOf([{"year": 2007}, {"language": "en"}]))
    with pytest.raises(ValueError, match=r"year.*a prefix is for text"):
        store.search(vectors(1), where={"year": Prefix("20")})
    with pytest.raises(ValueError, match="AnyOf has no filters"):
        store.search(vectors(1), where=AnyOf([]))
    with pytest.raises(ValueError, match=r"lang.*text stands in quotes"):
        store.search(vectors(1), where={"lang": Not(7)})
    with pytest.raises(ValueError, match="Not of Not"):
        store.search(vectors(1), where={"lang": Not(Not("en"))})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="maps columns"):
        store.search(vectors(1), where="lang=en")  # type: ignore[arg-type]


def test_columns_may_come_later_and_keep_their_type(store: Store) -> None:
    store.add(["later"], vectors(1, seed=4), None, {"source": ["web"], "score": [3]})
    store.flush()
    assert store.search(vectors(1, seed=4), 2, where={"source": "web"}).ids.tolist() == [["later", None]]
    assert store.search(vectors(1, seed=4), 1, where={"score": Range(gte=3, lte=3)}).ids.tolist() == [["later"]]
    found = store.documents(["later", IDS[1]])
    assert found[0] is not None and found[0].columns["source"] == "web" and found[0].columns["lang"] is None
    assert found[1] is not None and found[1].columns["source"] is None
    with pytest.raises(ValueError, match="year"):
        store.add(["other"], vectors(1), None, {"year": ["MMVII"]})
    assert store.count() == COUNT + 1


def test_documents(store: Store) -> None:
    own = {name: values[6] for name, values in COLUMNS.items()}
    assert store.documents([IDS[6], "not there", IDS[6]]) == [
        Document(IDS[6], TEXTS[6], own),
        None,
        Document(IDS[6], TEXTS[6], own),
    ]
    assert store.documents([]) == []


def test_adding_an_id_again_replaces_the_row(store: Store) -> None:
    fresh = vectors(1, seed=5)
    store.add([IDS[6]], fresh, ["another text"], {"lang": ["it"]})
    store.flush()
    assert store.count() == COUNT
    assert store.search(fresh, 1).ids.tolist() == [[IDS[6]]]
    assert store.search(fresh, 1).scores[0, 0] > 0.998
    assert store.search(vectors()[6:7], 1).scores[0, 0] < 0.9
    found = store.documents([IDS[6]])[0]
    assert found is not None and found.text == "another text"
    assert {name: value for name, value in found.columns.items() if value is not None} == {"lang": "it"}
    assert store.search(fresh, 5, where={"year": 2006}).ids.tolist() == [[None] * 5]
    store.add([IDS[6]], fresh)
    found = store.documents([IDS[6]])[0]
    assert found is not None and found.text is None and not any(found.columns.values())


def test_delete(store: Store) -> None:
    assert store.delete([IDS[3], "not there", IDS[4], IDS[3]]) == 2
    store.flush()
    assert store.count() == COUNT - 2
    assert store.documents([IDS[3]]) == [None]
    assert store.search(vectors()[3:4], COUNT).ids[0].tolist().count(IDS[3]) == 0
    assert store.exact(vectors()[3:4], COUNT, where={"year": Range(gte=2003, lte=2004)}).ids[0, 0] is None
    assert store.delete([IDS[3]]) == 0
    assert store.delete([]) == 0
    with pytest.raises(TypeError, match="collection of ids"):
        store.delete(IDS[5])


def test_delete_by_a_filter(store: Store) -> None:
    assert store.delete_where({"lang": ["de", None], "year": Range(lt=2030)}) == 15
    store.flush()
    left = {IDS[row] for row in range(COUNT) if row >= 30 or row % 4 in (0, 2)}
    assert {one.id for documents, _ in store.rows() for one in documents} == left
    assert store.count() == len(left)
    assert store.delete_where({"lang": "it"}) == 0
    for everything in ({}, AllOf([]), AnyOf([{}])):
        with pytest.raises(ValueError, match="every row"):
            store.delete_where(everything)


def test_rows_and_the_types_of_their_columns(store: Store) -> None:
    store.add(["no text"], vectors(1, seed=4), [None], {"score": [2]})
    store.flush()
    found = {
        one.id: (one, vector) for documents, some in store.rows() for one, vector in zip(documents, some, strict=True)
    }
    assert sorted(found) == sorted([*IDS, "no text"])
    assert [found[id_][0] for id_ in IDS] == store.documents(IDS)
    assert found["no text"][0] == Document("no text", None, {**dict.fromkeys(COLUMNS), "score": 2.0})
    stored = np.array([found[id_][1] for id_ in IDS], dtype=np.float64)
    np.testing.assert_allclose(stored, truncate(vectors().astype(np.float64)), atol=1e-3)
    some = [one.id for documents, _ in store.rows({"lang": Not("en")}) for one in documents]
    assert sorted(some) == sorted(id_ for row, id_ in enumerate(IDS) if row % 4 in (1, 2))
    assert not list(store.rows({"lang": "it"}))
    assert store.column_types() == {
        "lang": "text",
        "year": "int",
        "score": "float",
        "open": "bool",
        "ein Feld.v2": "text",
    }


def test_a_whole_store_has_no_faults(store: Store) -> None:
    store.delete(IDS[:3])
    store.flush()
    store.close()  # the embedded Qdrant lets one in
    assert list(type(store).verify(store.url)) == []


def test_any_string_is_an_id(make: Callable[..., Store]) -> None:
    ids = [
        "",
        " ",
        "é",
        "e\u0301",
        "日本語",
        "👩‍👩‍👧",
        'it\'s "quoted"',
        "a\tb\nc\\d",
        "%s {0} $1 ?",
        "../../x",
        "9" * 2_000,
        "NULL",
    ]
    filled = make(plan=PLANS["adaptive"])
    filled.add(ids, vectors(len(ids)), [f"text of {one[:20]}" for one in ids])
    filled.flush()
    assert filled.search(vectors(len(ids)), 1).ids[:, 0].tolist() == ids
    assert [found and found.id for found in filled.documents(ids)] == ids
    assert filled.delete(ids[2:8]) == 6
    assert filled.count() == len(ids) - 6
    assert filled.delete(ids) == len(ids) - 6


def test_wrong_input_is_refused_and_changes_nothing(store: Store) -> None:
    good = vectors(2, seed=6)
    for bad, position in ((np.nan, 1), (np.inf, 1), (0.0, 0)):
        broken = good.copy()
        broken[position] = bad
        with pytest.raises(ValueError, match=f"position {position}"):
            store.add(["a", "b"], broken)
        with pytest.raises(ValueError, match=f"position {position}"):
            store.search(broken)
    for wrong in (good[:, :16], np.hstack([good, good]), good[0], good.astype(np.int8)):
        with pytest.raises(ValueError, match=f"{WIDTH}"):
            store.add(["a", "b"], wrong)
    with pytest.raises(ValueError, match=f"{WIDTH}"):
        store.search(good[:, :8])
    with pytest.raises(ValueError, match="twice"):
        store.add(["a", "a"], good)
    with pytest.raises(ValueError, match="ids"):
        store.add(["a"], good)
    with pytest.raises(ValueError, match="texts"):
        store.add(["a", "b"], good, ["one"])
    with pytest.raises(TypeError, match="position 1"):
        store.add(["a", 7], good)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="lang"):
        store.add(["a", "b"], good, None, {"lang": ["en"]})
    with pytest.raises(TypeError, match="position 0"):
        store.add(["a", "b"], good, None, {"tags": [["x"], ["y"]]})
    half = "\ud800"  # of a surrogate pair: JSON can hold it, no store can
    with pytest.raises(ValueError, match="ids at position 1 has half"):
        store.add(["a", half], good)
    with pytest.raises(ValueError, match="texts at position 0 has half"):
        store.add(["a", "b"], good, [half, "text"])
    with pytest.raises(ValueError, match="'lang' at position 1 has half"):
        store.add(["a", "b"], good, None, {"lang": ["en", half]})
    for k in (0, -1, True, 2.5):
        with pytest.raises(ValueError, match="k must be"):
            store.search(good, k)  # type: ignore[arg-type]
    store.flush()
    assert store.count() == COUNT


def test_more_results_wanted_than_there_are(store: Store) -> None:
    for found in (store.search(vectors(2), COUNT + 5), store.exact(vectors(2), COUNT + 5)):
        assert found.ids.shape == found.scores.shape == (2, COUNT + 5)
        assert (found.ids[:, COUNT:] == None).all() and (found.ids[:, :COUNT] != None).all()  # noqa: E711
        assert np.isneginf(found.scores[:, COUNT:]).all() and np.isfinite(found.scores[:, :COUNT]).all()


def test_an_empty_store_finds_nothing(make: Callable[..., Store]) -> None:
    for plan in (None, PLANS["adaptive"], PLANS["graph"]):
        empty = make(plan=plan)
        empty.flush()
        empty.add([], np.zeros((0, WIDTH), dtype=np.float32))
        found = empty.search(vectors(1), 3)
        assert found.ids.tolist() == [[None] * 3] and np.isneginf(found.scores).all()
        assert empty.count() == 0


def test_is_as_it_was_when_opened_again(new_url: Callable[[], str]) -> None:
    url, queries = new_url(), vectors(3, seed=7)
    first = create_store(url, width=WIDTH, plan=PLANS["funnel"], model="a-model", dims=[16, 8])
    first.add(IDS, vectors(), TEXTS, COLUMNS)
    first.delete(IDS[:1])
    first.flush()
    expected = first.search(queries, 5, where={"lang": "de"})
    first.close()
    again = open_store(url)
    assert (again.url, again.width, again.model, again.dims) == (url, WIDTH, "a-model", (8, 16, WIDTH))
    assert again.plan == PLANS["funnel"] and again.count() == COUNT - 1
    found = again.search(queries, 5, where={"lang": "de"})
    assert found.ids.tolist() == expected.ids.tolist()
    assert np.allclose(found.scores, expected.scores, atol=1e-5)
    again.close()


@pytest.mark.slow
def test_a_new_plan_is_built_and_kept(new_url: Callable[[], str]) -> None:
    url, queries = new_url(), vectors(3, seed=7)
    store = create_store(url, width=WIDTH)
    store.add(IDS, vectors())
    store.flush()
    best = np.argsort(-cosines(queries, vectors()), axis=1)[:, :5]
    for name, plan in PLANS.items():
        store.set_plan(plan)
        store.add(["removed again"], vectors(1, seed=9))
        store.delete(["removed again"])
        store.flush()
        store.close()
        store = open_store(url)
        assert store.plan == plan
        if name != "prefix":
            assert store.search(queries, 5).ids.tolist() == [[IDS[row] for row in rows] for rows in best], name
    with pytest.raises(ValueError, match=f"{WIDTH}"):
        store.set_plan(SearchPlan(2 * WIDTH))
    assert store.plan == PLANS["whole"]
    store.close()


def test_a_second_one_is_not_created_and_a_missing_one_not_opened(new_url: Callable[[], str]) -> None:
    url = new_url()
    with pytest.raises(FileNotFoundError):
        open_store(url)
    with pytest.raises(ValueError, match="from 1 to"):
        create_store(url, width=WIDTH, plan=SearchPlan(64))
    first = create_store(url, width=WIDTH)
    first.add(IDS[:1], vectors(1))
    first.flush()
    first.close()
    with pytest.raises(FileExistsError):
        create_store(url, width=WIDTH)
    again = open_store(url)
    assert again.count() == 1
    again.close()


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "delete"]), st.sets(st.integers(0, 7), min_size=1, max_size=5)),
        min_size=1,
        max_size=6,
    )
)
def test_any_order_of_adding_replacing_and_deleting(
    make: Callable[..., Store], steps: list[tuple[str, set[int]]]
) -> None:
    store, kept = make(plan=PLANS["adaptive"]), dict[str, np.ndarray]()
    for number, (action, rows) in enumerate(steps):
        ids = [IDS[row] for row in sorted(rows)]
        if action == "add":
            fresh = vectors(len(ids), seed=number + 20)
            store.add(ids, fresh)
            kept |= dict(zip(ids, fresh, strict=True))
        else:
            assert store.delete(ids) == sum(one in kept for one in ids)
            kept = {id_: vector for id_, vector in kept.items() if id_ not in ids}
    store.flush()
    assert store.count() == len(kept)
    found = store.search(vectors(1, seed=10), 8).ids[0].tolist()
    names = list(kept)
    there = np.array(list(kept.values())).reshape(-1, WIDTH)
    order = np.argsort(-cosines(vectors(1, seed=10), there)[0]).tolist()
    assert found == [names[row] for row in order] + [None] * (8 - len(kept))
    store.close()


@pytest.mark.parametrize(
    "url", ["postgresql://nobody@127.0.0.1:{port}/x?table=docs&wait=1", "qdrant://127.0.0.1:{port}/docs?wait=1"]
)
def test_a_server_that_is_not_there_is_waited_for_and_named(url: str) -> None:
    pytest.importorskip("psycopg" if url.startswith("p") else "qdrant_client")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=f"(?s)127.0.0.1.*{port}"):
            open_store(url.format(port=port))
        assert 1 <= time.monotonic() - started < 15


def test_a_store_that_was_dropped_is_gone_and_may_be_made_anew(new_url: Callable[[], str]) -> None:
    url = new_url()
    first = create_store(url, width=WIDTH, plan=PLANS["graph"], model="first")
    assert first.is_empty()
    first.add(IDS, vectors())
    first.flush()
    assert not first.is_empty()
    first.delete(IDS)
    assert first.is_empty()
    first.drop()
    first.close()
    with pytest.raises(FileNotFoundError):
        open_store(url)
    second = create_store(url, width=16, model="second", dims=[8])
    assert (second.width, second.model, second.dims, second.plan) == (16, "second", (8, 16), None)
    second.close()


@pytest.mark.parametrize("k", [999_999_999_999, 2**63])
def test_more_results_than_memory_holds_are_refused(store: Store, k: int) -> None:
    for search in (store.search, store.exact):
        with pytest.raises(ValueError, match=f"k {k:,} is more than 10,000,000 results in one search: ask for fewer"):
            search(vectors(1), k)
    with pytest.raises(ValueError, match="k 4,000,000 for 3 queries is more than 10,000,000 results"):
        store.search(vectors(3), 4_000_000)


def test_a_condition_that_is_no_unicode_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"column .lang..*half of a surrogate pair"):
        store.search(vectors(1), where={"lang": "\ud800"})
