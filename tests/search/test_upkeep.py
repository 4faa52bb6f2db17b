"""The commands that look after a store: info, compact, delete, verify, export; on every engine, without a model."""

from __future__ import annotations

import json
import uuid
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")

from mrl_text.search import AdaptiveIndex, SearchPlan, Store, create_store, open_store
from mrl_text.search.faiss.contents import Contents
from mrl_text.tables import open_table
from tests.conftest import invoke

WIDTH, COUNT = 16, 60
IDS = [f"d{row}" for row in range(COUNT)]
COLUMNS: dict[str, list[Any]] = {
    "lang": [("en", "de", None)[row % 3] for row in range(COUNT)],
    "year": [2000 + row for row in range(COUNT)],
    "score": [row / 8 for row in range(COUNT)],
    "open": [row % 2 == 0 for row in range(COUNT)],
}

pytestmark = pytest.mark.usefixtures("command_line")


def vectors(count: int = COUNT, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


@pytest.fixture(params=["faiss", "postgres", "qdrant"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def new_url(engine: str, request: pytest.FixtureRequest) -> str:
    if engine == "postgres":
        return f"{request.getfixturevalue('postgres_url')}&table=upkeep_{uuid.uuid4().hex}"
    if engine == "qdrant":
        pytest.importorskip("qdrant_client")
        return f"qdrant:{uuid.uuid4().hex}#docs"
    return uuid.uuid4().hex


@pytest.fixture
def url(engine: str, request: pytest.FixtureRequest) -> str:
    """A store with sixty rows; the text of one is missing."""
    made = create_store(new_url(engine, request), width=WIDTH, plan=SearchPlan(4, shortlist=50), model="m", dims=[4, 8])
    texts = [None, *(f"text {row}" for row in range(1, COUNT))]
    made.add(IDS, vectors(), texts, COLUMNS)
    made.flush()
    made.close()
    return made.url


def rows(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for documents, some in store.rows():
        found |= {one.id: (one, vector.tolist()) for one, vector in zip(documents, some, strict=True)}
    return found


def opened(url: str) -> dict[str, Any]:
    store = open_store(url)
    try:
        return rows(store)
    finally:
        store.close()


def test_info_says_what_there_is(url: str, engine: str) -> None:
    found = json.loads(invoke("index", "info", url, "--json").stdout)
    assert (found["rows"], found["width"], found["model"], found["dims"]) == (COUNT, WIDTH, "m", [4, 8, WIDTH])
    assert found["plan"] == SearchPlan(4, shortlist=50).to_json()
    assert found["columns"] == {"lang": "text", "year": "int", "score": "float", "open": "bool"}
    wanted = {"faiss": {"codes", "disk"}, "postgres": {"table", "ids"}, "qdrant": set()}[engine]
    assert wanted <= set(found["bytes"]) and all(size > 0 for size in found["bytes"].values())
    shown = invoke("index", "info", url).stdout
    for part in ("4 float32 flat, 50 → full", "lang (text), year (int)", "4, 8, 16", f"{COUNT}"):
        assert part in shown
    assert "removed" not in shown


@pytest.mark.slow
def test_delete_says_how_many(url: str) -> None:
    result = invoke("index", "delete", url, "--id", "d1", "--id", "d2", "--id", "d2", "--id", "gone")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(": 2 rows deleted, 1 id not there, 58 there now\n")
    Path("ids.txt").write_text("d3\n\nd4\nd1\n")
    Path("ids.csv").write_text("name,id\nx,d5\ny,d6\n")
    assert "2 rows deleted, 1 id not there" in invoke("index", "delete", url, "--ids-file", "ids.txt").stdout
    assert ": 2 rows deleted, 54 there now" in invoke("index", "delete", url, "--ids-file", "ids.csv").stdout
    assert (
        ": 8 rows deleted, 46" in invoke("index", "delete", url, "--where", "lang=de", "--where", "year>=2036").stdout
    )
    assert ": 1 row deleted, 45 there now" in invoke("index", "delete", url, "--id", "d0").stdout
    left = [id_ for row, id_ in enumerate(IDS) if row not in range(7) and not (row % 3 == 1 and row >= 36)]
    assert sorted(opened(url)) == sorted(left)
    for options in (("--id", "d1"), ("--where", "lang=it or year>3000")):
        result = invoke("index", "delete", url, *options)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith("no row of ") and "nothing was deleted" in result.stderr
    assert len(opened(url)) == 45


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "where"])
def test_an_export_fills_an_equal_store(
    url: str, engine: str, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_text.search.export._SHARD_ROWS", 25)
    monkeypatch.setattr("mrl_text.search.faiss.contents.Contents.batches", partialmethod(Contents.batches, rows=20))
    monkeypatch.setattr("mrl_text.search.postgres.pages._ROWS", 20)
    monkeypatch.setattr("mrl_text.search.qdrant.store._MOVED", 20)
    options = ("--where", "lang=en,null") if kind == "where" else ()
    result = invoke("index", "export", url, "out", *options)
    expected = {id_: row for id_, row in opened(url).items() if not options or row[0].columns["lang"] != "de"}
    assert result.stdout == f"out: {len(expected)} rows; to fill another store with it: mrl-text index push STORE out\n"
    assert len(list(Path("out/shards").iterdir())) == (1 if options else 2)
    other = new_url(engine, request)
    pushed = invoke("index", "push", other, "out")
    assert pushed.exit_code == 0, pushed.output
    found = opened(other)
    assert {id_: row[0] for id_, row in found.items()} == {id_: row[0] for id_, row in expected.items()}
    exact = 1e-6 if engine == "qdrant" else 0  # which makes its vectors unit length again
    for id_, (_, vector) in expected.items():
        np.testing.assert_allclose(found[id_][1], vector, atol=exact, rtol=0)
    store = open_store(other)
    assert (store.model, store.dims) == ("m", (4, 8, WIDTH))
    store.close()


@pytest.mark.slow
def test_an_export_of_lines_has_everything(url: str) -> None:
    result = invoke("index", "export", url, "rows.jsonl")
    assert (result.exit_code, result.stdout) == (0, f"rows.jsonl: {COUNT} rows\n")
    found = {row.cells["_id"]: row.cells for row in open_table("rows.jsonl").rows()}
    for id_, (document, vector) in opened(url).items():
        assert found[id_] == {
            "_id": id_,
            "text": document.text,
            **document.columns,
            "embedding": pytest.approx(vector, abs=1e-8),
        }
    exact = np.array([found[id_]["embedding"] for id_ in IDS], dtype=np.float32)
    np.testing.assert_array_equal(exact.astype(np.float16), [np.float16(opened(url)[id_][1]) for id_ in IDS])


def test_verify_of_a_whole_store(url: str) -> None:
    result = invoke("index", "verify", url)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(": all was read, and nothing is wrong\n")


@pytest.fixture
def folder() -> Path:
    with AdaptiveIndex.create("index", width=WIDTH, plan=SearchPlan(4, shortlist=50, rerank=((8, 50),))) as made:
        made.add(IDS, vectors(), [f"text {row}" for row in range(COUNT)], COLUMNS)
        made.remove(IDS[:20])
        made.save()
    return Path("index")


def test_compact_says_what_it_saved(folder: Path) -> None:
    before = sum(file.stat().st_size for file in folder.iterdir())
    shown = invoke("index", "info", folder).stdout
    assert "20, which still take up room: mrl-text index compact" in shown
    result = invoke("index", "compact", folder)
    after = sum(file.stat().st_size for file in folder.iterdir())
    assert after < 0.75 * before
    assert result.stdout == f"index: {before:,} bytes before, {after:,} now; 20 removed rows left out\n"
    assert sorted(opened("index")) == sorted(IDS[20:])


def test_verify_prints_each_fault(folder: Path) -> None:
    damaged = ("rows-000001.arrow", "removed-000001.npy", "size-8.f16", "vectors.f16")
    for name in damaged:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2 + 1] ^= 0x7F
        (folder / name).write_bytes(content)
    result = invoke("index", "verify", folder)
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    for name in ("rows-000001.arrow", "removed-000001.npy", "vectors.f16"):
        assert sum(f"index/{name} is not what was saved" in line for line in lines) == 1
    assert result.stderr.strip() == "error: index has 3 faults, see above: restore it, or fill it anew"
    (folder / "size-8.f16").unlink()
    (folder / "rows-000001.arrow").write_bytes(b"")
    result = invoke("index", "verify", folder)
    assert [line.split(" ")[0:3:2] for line in result.stdout.splitlines()] == [
        ["index/rows-000001.arrow", "0"],
        ["index/size-8.f16", "missing:"],
    ]


def test_verify_reads_every_vector(folder: Path) -> None:
    """Also where a file is as it was saved, and what was saved is no vector."""
    index = AdaptiveIndex.load(folder)
    index.add(names := [f"more {row}" for row in range(139)], vectors(len(names), seed=1))  # loading looks at some
    index._rows.append(["wrong"], np.full((1, WIDTH), 2, dtype=np.float32))
    index.save()
    index.close()
    result = invoke("index", "verify", folder)
    assert (result.exit_code, result.stdout) == (2, "the vector of 'wrong' has the length 8.000, not 1\n")
    assert "index has 1 fault" in result.stderr


def test_names_that_an_export_has_itself_are_refused(folder: Path) -> None:
    with AdaptiveIndex.create("named", width=WIDTH) as made:
        made.add(["a"], vectors(1), None, {"text": ["x"]})
        made.save()
    for output in ("out", "out.jsonl"):
        result = invoke("index", "export", "named", output)
        assert (result.exit_code, Path(output).exists()) == (2, False)
        assert "a column of named is called 'text'" in result.stderr
    Path("out").mkdir()
    Path("out", ".lock").touch()  # as what could not be written there before left it
    AdaptiveIndex.create("empty", width=WIDTH).close()
    result = invoke("index", "export", "empty", "out")
    assert result.exit_code == 2
    assert "nothing was written: empty has no rows" in result.stderr
    result = invoke("index", "export", folder, "out", "--where", "year=1900")
    assert "has no rows that meet the conditions" in result.stderr


def test_a_database_clears_up_itself() -> None:
    for url in ("postgresql://me:secret@nowhere/texts?table=t", "qdrant://nowhere/docs", "qdrant:nowhere#docs"):
        result = invoke("index", "compact", url)
        assert result.exit_code == 2
        assert "PostgreSQL by VACUUM, Qdrant by its optimizer" in result.stderr and "secret" not in result.stderr
