"""What only the index in a folder has: files, positions, older indexes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")

from mrl_text.search import AdaptiveIndex, Document, Range, SearchPlan, open_store
from mrl_text.search.faiss import shortlist
from mrl_text.search.faiss.store import FaissStore
from mrl_text.truncation import truncate

WIDTH = 16


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def names(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


def test_an_index_without_columns_still_opens(tmp_path: Path) -> None:
    with AdaptiveIndex.create(tmp_path / "index", width=WIDTH, model="m", facts={"dims": [8, WIDTH]}) as index:
        index.add(names(0, 20), vectors(20), ["text"] * 20)
        index.save()
    manifest = tmp_path / "index" / "index.json"
    older = json.loads(manifest.read_text())
    del older["columns"]  # as it was written before there were any
    manifest.write_text(json.dumps(older))
    store = open_store(tmp_path / "index")
    assert (store.model, store.dims) == ("m", (8, WIDTH))
    assert store.documents(["3"]) == [Document("3", "text", {})]
    store.add(["20"], vectors(1, seed=1), None, {"lang": ["de"]})
    store.flush()
    store.close()
    store = open_store(tmp_path / "index")
    assert store.documents(["3", "20"]) == [Document("3", "text", {"lang": None}), Document("20", None, {"lang": "de"})]
    assert store.search(vectors(1), 2, where={"lang": "de"}).ids.tolist() == [["20", None]]
    store.close()


def test_columns_of_saved_and_unsaved_rows(tmp_path: Path) -> None:
    store = FaissStore.create(str(tmp_path / "index"), width=WIDTH)
    store.add(names(0, 10), vectors(10), None, {"n": list(range(10))})
    store.flush()
    store.add(names(10, 20), vectors(10, seed=1), None, {"m": [row / 2 for row in range(10)]})
    store.add(names(20, 30), vectors(10, seed=2), None, {"n": list(range(20, 30)), "m": [None] * 9 + [7]})
    column = store.index.column("n")
    assert column.to_pylist() == [*range(10), *[None] * 10, *range(20, 30)]
    assert store.index.column("m").to_pylist()[-1] == 7.0 and store.index.column_types == {"n": "int", "m": "float"}
    found = store.search(vectors(1), 30, where={"n": Range(gte=8)}).ids[0]
    assert set(found[:12]) == {"8", "9", *names(20, 30)} and (found[12:] == None).all()  # noqa: E711
    store.flush()
    assert store.search(vectors(1), 30, where={"n": Range(gte=8)}).ids[0].tolist() == found.tolist()
    store.close()


def test_columns_survive_a_copy_that_drops_removed_rows(tmp_path: Path) -> None:
    with AdaptiveIndex.create(tmp_path / "index", width=WIDTH, plan=SearchPlan(8)) as index:
        index.add(names(0, 10), vectors(10), None, {"n": list(range(10)), "lang": ["a", None] * 5})
        index.save()
        index.add(names(10, 20), vectors(10, seed=1))
        index.remove(["0", "12"])
        index.save(tmp_path / "copy")
    store = open_store(tmp_path / "copy")
    assert store.count() == 18
    assert [found and found.columns for found in store.documents(["1", "2", "11", "12"])] == [
        {"n": 1, "lang": None},
        {"n": 2, "lang": "a"},
        {"n": None, "lang": None},
        None,
    ]
    store.close()


def test_columns_called_as_ours_do_not_mix_with_them(tmp_path: Path) -> None:
    store = FaissStore.create(str(tmp_path / "index"), width=WIDTH)
    store.add(["a"], vectors(1), ["the text"], {"id": [7], "text": ["other"]})
    store.flush()
    store.close()
    store = FaissStore.open(str(tmp_path / "index"))
    assert store.documents(["a"]) == [Document("a", "the text", {"id": 7, "text": "other"})]
    assert store.search(vectors(1), 1, where={"id": 7, "text": "other"}).ids.tolist() == [["a"]]
    store.close()


def test_a_mask_of_rows_instead_of_ids(tmp_path: Path) -> None:
    with AdaptiveIndex.create(tmp_path / "index", width=WIDTH, plan=SearchPlan(8, shortlist=40)) as index:
        index.add(names(0, 40), vectors(40))
        index.remove(["4"])
        mask = np.arange(40) % 2 == 0
        by_mask = index.search(vectors(1, seed=3), 40, among=mask).ids
        by_id = index.search(vectors(1, seed=3), 40, among=[str(row) for row in range(0, 40, 2)]).ids
        assert by_mask.tolist() == by_id.tolist() and (by_mask != None).sum() == 19  # noqa: E711
        with pytest.raises(ValueError, match=r"shape \(40,\)"):
            index.exact(vectors(1), among=mask[:30])


def test_a_refused_row_leaves_the_columns_as_they_were(tmp_path: Path) -> None:
    store = FaissStore.create(str(tmp_path / "index"), width=WIDTH)
    store.add(["a"], vectors(1), None, {"n": [1]})
    for values in ([1.5], [2**63], ["x"], [True]):
        with pytest.raises(ValueError, match="'n'"):
            store.add(["b"], vectors(1), None, {"n": values})
    store.add(["b"], vectors(1), None, {"n": [-(2**63)], "m": [None]})
    store.flush()
    assert store.count() == 2 and store.index.column("n").to_pylist() == [1, -(2**63)]
    assert store.index.column_types == {"n": "int"}
    assert store.search(vectors(1), 2, where={"n": [2**70, 1]}).ids.tolist() == [["a", None]]
    for where, expected in (
        (Range(lt=2**70, gte=0), ["a", None]),
        (Range(gt=2**70), [None, None]),
        (Range(lt=-(2**70)), [None, None]),
        (Range(gt=0.5, lt=1.5), ["a", None]),
        (Range(gt=0.5, lte=0.9), [None, None]),
        (Range(lt=0.5), ["b", None]),
        (Range(gte=-(2**63), lt=1 - 2**63), ["b", None]),
    ):
        assert store.search(vectors(1), 2, where={"n": where}).ids[0].tolist() == expected, where
    store.close()


@pytest.mark.slow
def test_rows_that_a_filter_leaves_are_found_through_a_graph(tmp_path: Path) -> None:
    store = FaissStore.create(str(tmp_path / "i"), width=WIDTH, plan=SearchPlan(8, "hnsw", shortlist=100, effort=200))
    rows = vectors(8_000)
    store.add(names(0, 8_000), rows, None, {"part": [row % 4 for row in range(8_000)]})
    store.flush()
    queries, part = vectors(20, seed=1), np.arange(3, 8_000, 4)
    found = store.search(queries, 10, where={"part": 3}).ids
    for query, ids in zip(queries, found, strict=True):
        cut, whole = truncate(rows[part], 8) @ truncate(query, 8), truncate(rows[part]) @ truncate(query)
        shortlist = np.argsort(-cut)[:100]
        best = part[shortlist[np.argsort(-whole[shortlist])[:10]]]
        assert len(set(ids) & {str(row) for row in best}) >= 9
    store.close()


def test_a_row_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FaissStore.create(str(tmp_path / "index"), width=WIDTH, plan=SearchPlan(8))
    store.add(names(0, 10), vectors(10), ["before"] * 10)

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mrl_text.search.faiss.folder.IndexFolder.write_rows", full)
        with pytest.raises(OSError, match="no space"):
            store.add(["3"], vectors(1, seed=1), ["after"])
    store.flush()
    store.close()
    store = FaissStore.open(str(tmp_path / "index"))
    assert store.count() == 10
    assert store.documents(["3"]) == [Document("3", "before", {})]
    store.close()


def test_an_index_that_is_saved_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the state that was read first are gone when they are to be opened."""
    writer = AdaptiveIndex.create(tmp_path / "index", width=WIDTH, plan=SearchPlan(8))
    writer.add(names(0, 10), vectors(10))
    writer.save()
    read = shortlist.faiss.read_index
    opened: list[Path] = []

    def saved_meanwhile(name: str) -> Any:
        file = Path(name)
        opened.append(file)
        if len(opened) == 1:
            writer.add(["late"], vectors(1, seed=1))
            writer.save()
            assert not file.exists()
        return read(name)

    monkeypatch.setattr(shortlist.faiss, "read_index", saved_meanwhile)
    reader = AdaptiveIndex.load(tmp_path / "index")
    assert len(opened) == 2
    assert reader.search(vectors(1, seed=1), 1).ids.tolist() == [["late"]]
    writer.close()
    opened[-1].write_bytes(b"damaged")
    with pytest.raises(ValueError, match="bytes"):  # nobody saves: an error is an error
        AdaptiveIndex.load(tmp_path / "index")
