from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from mrl_text.choices import EngineWord
from mrl_text.codes import FEW_BITS, Codec
from mrl_text.eval.engines import CHECKED, Engine, engine_table, engines, find_engine
from mrl_text.eval.grid import Cell
from mrl_text.truncation import bytes_per_vector, truncate
from tests.search.conftest import postgres_server  # noqa: F401  # a fixture

WIDTH, DIM = 192, 128
DOCS = Path(__file__).parents[2] / "docs" / "engines.md"


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Unit vectors in groups larger than what is asked for, so that the order within a group counts."""
    random = np.random.default_rng(5)
    centres = np.repeat(random.normal(size=(20, WIDTH)), 40, axis=0)
    return truncate((centres + random.normal(size=centres.shape)).astype(np.float32))


@pytest.fixture(scope="module")
def queries(vectors: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(6).normal(size=(20, WIDTH)) * 0.03
    return truncate((vectors[::40] + noise).astype(np.float32))


def cells(engine: Engine) -> Iterator[Cell]:
    """Every cell of size DIM that the engine keeps, in one stage and in two."""
    for one in engine.keeps:
        for rescore in (0, 2) if "rescored" in engine.words else (0,):
            yield Cell(DIM, one.precision, one.comparison, rescore)


def expected(cell: Cell, queries: np.ndarray, vectors: np.ndarray) -> list[list[int]]:
    """The ten nearest by what the cell compares, in float64; candidates by full width in two stages."""
    cut, asked = truncate(vectors, cell.dim).astype(np.float64), truncate(queries, cell.dim).astype(np.float64)
    if cell.precision in FEW_BITS:
        codec = Codec.fit(vectors)
        kept: Any = cell.precision
        cut = codec.decode(codec.encode(vectors, cell.dim, kept), cell.dim, kept).astype(np.float64)
        if cell.comparison == "symmetric":
            asked = codec.decode(codec.encode(queries, cell.dim, kept), cell.dim, kept).astype(np.float64)
    count = 10 * (cell.rescore or 1)
    found = np.argsort(-(asked @ cut.T), axis=1, kind="stable")[:, :count]
    if not cell.rescore:
        return [row.tolist() for row in found]
    whole = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    return [row[np.argsort(-whole[number, row])][:10].tolist() for number, row in enumerate(found)]


def agreement(found: Any, wanted: list[list[int]]) -> float:
    return float(np.mean([len({*map(int, a)} & {*b}) / 10 for a, b in zip(found, wanted, strict=True)]))


def test_every_fact_is_whole_and_has_a_source() -> None:
    assert tuple(engines()) == get_args(EngineWord)
    for engine in engines().values():
        assert engine.checked in CHECKED
        kinds = [(one.precision, one.comparison) for one in engine.keeps]
        assert len(set(kinds)) == len(kinds)
        assert ("float32", "asymmetric") in kinds  # so that every model has a cell that the engine keeps
        for one in engine.keeps:
            assert one.source.startswith("https://"), (engine.name, one)
            assert re.fullmatch(r"[\d.]*", one.since), (engine.name, one)
            assert one.how


def test_bytes_are_those_of_the_numbers_and_what_the_engine_adds() -> None:
    qdrant, weaviate, elastic = (find_engine(word) for word in ("qdrant", "weaviate", "elasticsearch"))
    assert qdrant.bytes(Cell(128, "int4")) == 64 + 4
    assert qdrant.bytes(Cell(192, "binary")) == 32  # whole blocks of 128 bits
    assert weaviate.bytes(Cell(64, "binary")) == 32 + 8  # 256 bits at least
    assert weaviate.bytes(Cell(100, "int8", "symmetric")) == 128 + 16
    assert elastic.bytes(Cell(384, "binary")) == 48 + 14
    assert elastic.bytes(Cell(64, "binary")) is None  # larger than 64 only
    assert elastic.bytes(Cell(12, "binary", "symmetric")) is None  # whole bytes only
    assert qdrant.bytes(Cell(128, "int8")) is None  # its queries are coded, too
    assert find_engine("redis").bytes(Cell(128, rescore=10)) is None  # nothing stays on disk


def test_what_an_engine_cannot_keep_has_no_lines() -> None:
    with pytest.raises(ValueError, match=r"pgvector has no .*int4.*; it keeps float32 asymmetric, float16"):
        find_engine("pgvector").lines(Cell(128, "int4"), WIDTH)
    with pytest.raises(ValueError, match="engine 'quadrant' is unknown; did you mean 'qdrant'"):
        find_engine("quadrant")


@pytest.mark.parametrize("word", get_args(EngineWord))
def test_lines_have_the_size_and_are_of_the_language(word: str) -> None:
    engine = find_engine(word)
    for cell in cells(engine):
        lines = engine.lines(cell, WIDTH)
        assert "${" not in lines
        assert str(DIM) in lines or str(DIM // 8) in lines
        assert bool(cell.rescore) == any(word in lines for word in ("full.npy", "full", "embedding v", "embedding f"))
        if lines.startswith(("import", "from")):
            ast.parse(lines)
        for _, _, body in requests(lines):
            assert body


def requests(lines: str) -> list[tuple[str, str, Any]]:
    """Method, path and body of each request in the lines."""
    found = re.findall(r"^(PUT|POST) (\S+)\n(\{.*?\})(?=\n(?:PUT|POST|hits|$)|\Z)", lines, re.MULTILINE | re.DOTALL)
    return [(method, path, json.loads(body)) for method, path, body in found]


@pytest.mark.parametrize("cell", cells(find_engine("faiss")), ids=str)
def test_faiss_does_what_is_printed(
    cell: Cell, vectors: np.ndarray, queries: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"vectors": vectors, "queries": queries}
    exec(find_engine("faiss").lines(cell, WIDTH), names)
    assert names["index"].code_size == find_engine("faiss").bytes(cell) == bytes_per_vector(DIM, cell.precision)
    wanted = expected(cell, queries, vectors)
    least = {"int8": 0.9, "int4": 0.85, "int2": 0.75}  # FAISS has levels of its own; signs and floats are the same
    assert agreement(names["found"], wanted) >= least.get(cell.precision, 1)


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells(find_engine("pgvector")), ids=str)
def test_postgresql_does_what_is_printed(
    cell: Cell,
    vectors: np.ndarray,
    queries: np.ndarray,
    postgres_server: Any,  # noqa: F811
) -> None:
    psycopg = pytest.importorskip("psycopg")
    engine = find_engine("pgvector")
    create, search = engine.lines(cell, WIDTH).split(";", 1)
    search = re.sub(r"^--.*\n", "", search.lstrip(), flags=re.MULTILINE)
    given = {"float32": "{}::vector", "float16": "{}::halfvec", "binary": f"binary_quantize({{}}::vector)::bit({DIM})"}
    with psycopg.connect(postgres_server.get_uri()) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(create.replace("CREATE TABLE", "CREATE TEMPORARY TABLE"))
        values = given[cell.precision].format("%s") + (", %s::vector" if cell.rescore else "")
        rows = [(number, text(one[:DIM]), *([text(one)] if cell.rescore else [])) for number, one in enumerate(vectors)]
        connection.cursor().executemany(f"INSERT INTO items VALUES (%s, {values})", rows)
        (size,) = connection.execute("SELECT pg_column_size(code) FROM items LIMIT 1").fetchone() or (None,)
        assert engine.bytes(cell) - size in (0, 3)  # PostgreSQL shortens the head of a small value
        found = [ids(connection, search, one) for one in queries]
    wanted = expected(cell, queries, vectors)
    assert agreement(found, wanted) >= (1 if cell.precision == "float32" else 0.95)  # as many bits differ: any order


def ids(connection: Any, search: str, query: np.ndarray) -> list[int]:
    """What the printed search finds; psql's variables are put in."""
    for name, value in (("'query'", query[:DIM]), ("'full_query'", query)):
        search = search.replace(f":{name}", f"'{text(value)}'")
    return [row[0] for row in connection.execute(search).fetchall()]


def text(vector: np.ndarray) -> str:
    return str(vector.tolist())


@pytest.mark.parametrize("cell", cells(find_engine("qdrant")), ids=str)
def test_the_requests_to_qdrant_are_those_of_its_client(cell: Cell, vectors: np.ndarray, queries: np.ndarray) -> None:
    """Its client's local mode answers them, too, by floats: it knows no codes."""
    client = pytest.importorskip("qdrant_client")
    from qdrant_client.http import models

    (_, made, body), (_, asked, search) = requests(find_engine("qdrant").lines(cell, WIDTH))
    assert (made, asked) == ("/collections/items", "/collections/items/points/query")
    collection = models.CreateCollection.model_validate(body, extra="forbid")
    query = models.QueryRequest.model_validate(search, extra="forbid")
    memory = client.QdrantClient(":memory:")
    memory.create_collection("items", vectors_config=collection.vectors)
    named = {"code": vectors[:, :DIM], "full": vectors}
    points = {name: named[name] for name in body["vectors"]}
    memory.upload_collection("items", points, ids=range(len(vectors)))
    found = []
    for one in queries:
        place: Callable[[Any], Any] = lambda stage, one=one: one[:DIM] if stage.using == "code" else one  # noqa: E731
        first = query.prefetch and query.prefetch.model_copy(update={"query": place(query.prefetch).tolist()})
        answer = memory.query_points(
            "items", place(query), using=query.using, limit=query.limit, prefetch=first, search_params=query.params
        )
        found.append([point.id for point in answer.points])
    assert agreement(found, expected(Cell(DIM, rescore=cell.rescore), queries, vectors)) == 1


def test_the_page_has_the_table() -> None:
    assert engine_table() in DOCS.read_text(encoding="utf-8")
