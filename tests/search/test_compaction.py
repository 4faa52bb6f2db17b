"""A folder that is filled again and again stays as large as its rows; readers and crashes meanwhile lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")

from mrl_text.search import AdaptiveIndex, Document, SearchPlan, open_store
from mrl_text.search.faiss import folder as folders
from mrl_text.search.faiss import store as stores
from mrl_text.search.faiss.folder import IndexFolder, faults
from mrl_text.search.faiss.store import FaissStore
from tests.processes import killed_while_reporting
from tests.search.test_index import WIDTH, names, vectors

PLAN = SearchPlan(8, "hnsw", "int8", shortlist=40, rerank=((16, 20),))


def make(path: Path, rows: int = 300) -> FaissStore:
    store = FaissStore.create(str(path), width=WIDTH, plan=PLAN, model="a-model", dims=[8, 16])
    put(store, 0, rows)
    return store


def put(store: FaissStore, version: int, rows: int = 300) -> None:
    texts = [f"version {version} of {row}" for row in range(rows)]
    store.add(names(rows), vectors(rows, seed=version), texts, {"version": [version] * rows, "row": list(range(rows))})
    store.flush()


def files(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in path.iterdir()}


def state(store: FaissStore) -> Any:
    found = store.search(vectors(10, seed=99), 5)
    exact = store.exact(vectors(10, seed=99), 5)
    rows = [(documents, numbers.tolist()) for documents, numbers in store.rows()]
    return found.ids.tolist(), exact.ids.tolist(), rows, store.documents([*names(5), "not there"])


@pytest.fixture
def compacting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any removed row makes a folder be written anew."""
    monkeypatch.setattr(stores, "_REMOVED_SHARE", 0)
    monkeypatch.setattr(stores, "_FEW_REMOVED", 0)


def test_the_same_rows_again_add_nothing(tmp_path: Path) -> None:
    store = make(tmp_path / "index")
    before, found = files(store.index.path), state(store)
    for _ in range(5):
        store.expect(300)
        put(store, 0)
        assert store.removed() == 0
    assert {name: size for name, size in files(store.index.path).items() if name != "index.json"} == {
        name: size for name, size in before.items() if name != "index.json"
    }
    assert state(store) == found
    store.close()


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another vector": ({"vectors": vectors(1, seed=5)}, {}),
    "another text": ({"texts": ["new"]}, {"text": "new"}),
    "no text": ({"texts": None}, {"text": None}),
    "another value": ({"columns": {"n": [8], "m": ["a"]}}, {"columns": {"n": 8, "m": "a"}}),
    "no value": ({"columns": {"n": [7]}}, {"columns": {"n": 7, "m": None}}),
    "a new column": ({"columns": {"n": [7], "m": ["a"], "o": [True]}}, {"columns": {"n": 7, "m": "a", "o": True}}),
    "the same": ({}, {}),
    "the same with a column of nothing": ({"columns": {"n": [7], "m": ["a"], "o": [None]}}, {}),
    "the same in other types": ({"columns": {"n": [np.float64(7)], "m": [np.str_("a")]}}, {}),
}


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_row_is_replaced_where_anything_of_it_is_another(tmp_path: Path, change: str, saved: bool) -> None:
    given, expected = CHANGES[change]
    with AdaptiveIndex.create(tmp_path / "index", width=WIDTH) as index:
        index.add(["a", "b"], vectors(2), ["old", "old"], {"n": [7.0, 1], "m": ["a", "b"]})
        if saved:
            index.save()
        row = {"vectors": vectors(1), "texts": ["old"], "columns": {"n": [7], "m": ["a"]}, **given}
        index.add(["a"], row["vectors"], row["texts"], row["columns"])
        assert index.removed == int("same" not in change)
        position = index.find(["a"])
        was = {"text": "old", "columns": {"n": 7.0, "m": "a"}, **expected}
        assert (index.texts(position), index.columns(position)) == ([was["text"]], [was["columns"]])
        assert index.search(row["vectors"], 1).ids.tolist() == [["a"]]


def test_a_push_of_old_and_new_rows_takes_the_new_ones(tmp_path: Path) -> None:
    store = make(tmp_path / "index")
    mixed = np.concatenate([vectors(300), vectors(10, seed=3)])
    texts = [f"version 0 of {row}" for row in range(300)] + ["new"] * 10
    store.add(names(310), mixed, texts, {"version": [0] * 310, "row": list(range(310))})
    store.flush()
    assert (store.count(), store.removed()) == (310, 0)
    assert store.search(vectors(10, seed=3), 1).ids[:, 0].tolist() == names(10, 300)
    store.close()


def test_rows_that_change_with_each_push_do_not_make_the_folder_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_FEW_REMOVED", 100)
    store = make(tmp_path / "index")
    once = sum(files(store.index.path).values())
    for version in range(1, 6):
        put(store, version)
        assert sum(files(store.index.path).values()) < 1.1 * once
    assert set(files(store.index.path)) == {".lock", "index.json", *store.index._folder._expected_sizes()}
    store.close()
    assert faults(tmp_path / "index") == []
    again = FaissStore.open(str(tmp_path / "index"))
    with AdaptiveIndex.create(width=WIDTH, plan=PLAN) as fresh:
        fresh.add(names(300), vectors(300, seed=5))
        assert again.search(vectors(20, seed=9), 5).ids.tolist() == fresh.search(vectors(20, seed=9), 5).ids.tolist()
    own = {"version": 5, "row": 7}
    assert again.documents(["row 7"]) == [Document("row 7", "version 5 of 7", own)]
    again.close()


def test_a_few_removed_rows_stay_and_compact_takes_them(tmp_path: Path) -> None:
    store = make(tmp_path / "index")
    store.delete(names(50))
    store.flush()
    assert store.removed() == 50
    found = state(store)
    store.index.compact()
    assert store.removed() == 0
    assert state(store) == found
    store.close()
    loaded = FaissStore.open(str(tmp_path / "index"))
    assert state(loaded) == found
    loaded.add(["more"], vectors(1, seed=8))  # and it can be changed as before
    loaded.set_plan(SearchPlan(4, shortlist=300, rerank=((12, 300),)))
    loaded.flush()
    assert loaded.search(vectors(1, seed=8), 1).ids.tolist() == [["more"]]
    loaded.close()
    assert faults(tmp_path / "index") == []


def test_nothing_is_left_of_a_store_without_rows(tmp_path: Path, compacting: None) -> None:
    store = make(tmp_path / "index")
    store.delete(names(300))
    store.flush()
    assert set(files(store.index.path)) == {".lock", "index.json"}
    put(store, 1)
    assert store.count() == 300
    store.close()
    assert faults(tmp_path / "index") == []


@pytest.mark.slow
def test_many_saves_leave_few_files(tmp_path: Path) -> None:
    store = make(tmp_path / "index", 5)
    for row in range(5, 105):
        store.add([f"row {row}"], vectors(1, seed=row), [f"text {row}"], {f"column {row % 7}": [row]})
        store.confirm()
    assert len(list(store.index.path.glob("*.arrow"))) <= 33
    store.close()
    again = FaissStore.open(str(tmp_path / "index"))
    assert [
        one and (one.text, one.columns[f"column {row % 7}"])
        for row, one in zip(range(5, 105), again.documents(names(100, 5)), strict=True)
    ] == [(f"text {row}", row) for row in range(5, 105)]
    assert again.documents(["row 3"]) == [
        Document(
            "row 3",
            "version 0 of 3",
            {"version": 0, "row": 3, **{f"column {at}": None for at in (5, 6, 0, 1, 2, 3, 4)}},
        )
    ]
    again.close()
    assert faults(tmp_path / "index") == []


def test_readers_go_on_with_what_they_loaded(tmp_path: Path, compacting: None) -> None:
    writer = make(tmp_path / "index")
    reader = FaissStore.open(str(tmp_path / "index"))
    before = {file.name for file in (tmp_path / "index").glob("*.f16")}
    expected = state(FaissStore.open(str(tmp_path / "index")))
    put(writer, 1)
    put(writer, 2)
    assert before.isdisjoint(files(tmp_path / "index"))
    assert state(reader) == expected
    with pytest.raises(ValueError, match="load it again"):
        writer.close()
        reader.add(["late"], vectors(1))
    assert state(reader) == expected
    reader.close()
    assert FaissStore.open(str(tmp_path / "index")).documents(["row 0"])[0].text == "version 2 of 0"  # type: ignore[union-attr]


def test_rows_that_are_being_read_are_read_to_the_end(tmp_path: Path, compacting: None) -> None:
    store = make(tmp_path / "index")
    expected = [documents for documents, _ in store.index.batches(rows=20)]
    reading = store.index.batches(rows=20)
    found = [next(reading)[0]]
    store.delete(names(250))
    store.flush()
    put(store, 1, 10)
    found += [documents for documents, _ in reading]
    assert found == expected
    assert sum(len(documents) for documents, _ in store.rows()) == 60
    store.close()


STEPS = ("write_rows", "write_texts", "write", "_write_manifest")


def test_a_disk_that_is_full_at_any_step_loses_nothing(
    tmp_path: Path, compacting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "index")
    left = 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(28, "No space left on device")
            return real(*arguments, **options)

        return step

    for name in STEPS:
        monkeypatch.setattr(IndexFolder, name, failing(getattr(IndexFolder, name)))
    left = 1_000
    store.delete(["row 0"])
    steps = 0
    while True:
        left = steps
        try:
            store.index.compact()
            break
        except OSError as error:
            assert "No space" in str(error)
        left, steps = 1_000, steps + 1
        assert faults(tmp_path / "index") == []
        assert store.count() == 299
        assert FaissStore.open(str(tmp_path / "index")).count() == (300 if steps < 3 else 299)
    assert 4 < steps < 20
    left = 1_000
    assert store.removed() == 0
    found = state(store)
    store.close()
    assert state(FaissStore.open(str(tmp_path / "index"))) == found
    assert faults(tmp_path / "index") == []


def test_without_room_to_be_written_anew_a_folder_is_saved_as_it_is(
    tmp_path: Path, compacting: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = make(tmp_path / "index")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mrl_text.search.faiss.stored_rows.Rows.copy_to", full)
        put(store, 1)
    assert "keeps 300 removed rows: no room to write it anew" in caplog.text
    store.close()
    again = FaissStore.open(str(tmp_path / "index"))
    assert again.documents(["row 9"])[0].text == "version 1 of 9"  # type: ignore[union-attr]
    again.close()


def test_what_killed_writers_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path / "index").close()
    kept = {*files(tmp_path / "index"), "tune.json", "notes.txt", ".tune.json.abcd1234", "rows.csv"}
    left = ["rows-000009.arrow", "vectors-000009.f16", ".index.json.x8_gt1ab", ".shortlist-000009.faiss.aaaaaaaa"]
    left += [".removed-000003.npy.q1q1q1q1", ".rows-000003.arrow.q1q1q1q1", "size-16-000009.f16"]
    for name in {*left, *kept - set(files(tmp_path / "index"))}:
        (tmp_path / "index" / name).write_bytes(b"anything")
    writing = FaissStore.open(str(tmp_path / "index"))
    assert set(left) < set(files(tmp_path / "index"))  # a reader clears nothing
    writing.add(["new"], vectors(1, seed=4))
    other = FaissStore.open(str(tmp_path / "index"))
    with pytest.raises(ValueError, match="is writing into"):
        other.add(["late"], vectors(1))
    assert not set(left) & set(files(tmp_path / "index"))
    writing.flush()
    writing.close()
    assert {name for name in kept if name[:2] != "sh"} <= set(files(tmp_path / "index"))
    assert len(files(tmp_path / "index")) == len(kept) + 1  # a second file of texts


WRITER = """
import sys
from pathlib import Path
from mrl_text.search.faiss import store as stores
from tests.search.test_compaction import put
stores._REMOVED_SHARE = stores._FEW_REMOVED = 0
store = stores.FaissStore.open(sys.argv[1])
version = store.documents(["row 0"])[0].columns["version"]
while True:
    version += 1
    put(store, version)
    print(version, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_has_one_whole_version(tmp_path: Path) -> None:
    path = tmp_path / "index"
    make(path).close()
    random = np.random.default_rng(0)
    reported = 0
    for _ in range(6):
        reported = max(reported, killed_while_reporting(WRITER, path, random.uniform(0, 0.3)))
        assert faults(path) == []
        store = FaissStore.open(str(path))
        found = [one for documents, _ in store.rows() for one in documents]
        version = found[0].columns["version"]
        assert version in (reported, reported + 1)
        assert [one.id for one in found] == names(300)
        assert {one.text for one in found} == {f"version {version} of {row}" for row in range(300)}
        unit = folders.truncate(vectors(300, seed=version))
        np.testing.assert_array_equal(store.index.vectors(store.index.find(names(300))), unit.astype(np.float16))
        store.close()
    assert len(files(path)) < 20
    open_store(path).close()
    assert reported >= 6
