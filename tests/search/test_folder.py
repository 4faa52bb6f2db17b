"""What is on disk: nothing that was reported as saved is lost, and damage is noticed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mrl_text.files import write_atomically
from mrl_text.search import AdaptiveIndex, SearchPlan
from tests.processes import killed_while_reporting
from tests.search.test_index import WIDTH, names, vectors

PLAN = SearchPlan(8, "hnsw", "int8", shortlist=40, rerank=((16, 20),))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    with AdaptiveIndex.create(tmp_path / "index", width=WIDTH, plan=PLAN, facts={"seen": 300}) as index:
        index.add(names(300), vectors(300))
        index.remove(names(5))
        index.save()
    return tmp_path / "index"


def results(index: AdaptiveIndex) -> list:
    return index.search(vectors(20, seed=1)).ids.tolist()


def test_what_was_not_saved_is_gone_after_a_crash(saved: Path) -> None:
    before = results(AdaptiveIndex.load(saved))
    crashed = AdaptiveIndex.load(saved)
    crashed.add(names(50, 300), vectors(50, seed=2))
    crashed.remove(names(20))
    crashed._rows.write()  # all files of a save, but not the moment that makes it one
    crashed._folder.release()
    index = AdaptiveIndex.load(saved, verify=True)
    assert len(index) == 295
    assert results(index) == before
    index.add(names(10, 400), vectors(10, seed=3))  # the next writer drops what was left behind
    index.save()
    loaded = AdaptiveIndex.load(saved, verify=True)
    assert list(loaded.ids) == [*names(295, 5), *names(10, 400)]
    assert loaded.facts == {"seen": 300}
    assert {file.name for file in saved.iterdir()} == {".lock", "index.json", *loaded._folder._expected_sizes()}


def test_a_failed_write_leaves_the_index_as_it_was(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = AdaptiveIndex.load(saved)
    before = results(index)
    real = index._folder.write_rows

    def full_disk(name: str, rows: np.ndarray, first: int) -> None:
        real(name, rows[:7], first)
        if name.startswith("size"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(index._folder, "write_rows", full_disk)
    with pytest.raises(OSError, match="No space"):
        index.add(names(50, 300), vectors(50, seed=2))
    monkeypatch.undo()
    assert results(index) == before
    index.add(names(50, 300), vectors(50, seed=2))
    index.save()
    loaded = AdaptiveIndex.load(saved, verify=True)
    assert len(loaded) == 345
    np.testing.assert_allclose(
        loaded.vectors([349])[0], vectors(50, seed=2)[-1] / np.linalg.norm(vectors(50, seed=2)[-1]), atol=1e-3
    )


def test_a_save_that_fails_at_its_last_step_can_be_done_again(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = AdaptiveIndex.load(saved)
    index.add(names(50, 300), vectors(50, seed=2))
    index.remove(names(10, 5))

    def full(path: Path, content: bytes) -> None:
        if path.name == "index.json":
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("mrl_text.search.faiss.folder.write_atomically", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                index.save()
    assert len(AdaptiveIndex.load(saved, verify=True)) == 295
    index.save()
    loaded = AdaptiveIndex.load(saved, verify=True)
    assert list(loaded.ids) == names(335, 15)
    assert results(loaded) == results(index)
    with monkeypatch.context() as patched:
        patched.setattr("mrl_text.search.faiss.folder.write_atomically", full)
        index.remove(names(10, 15))
        with pytest.raises(OSError, match="No space"):
            index.save()
        index.close()  # which clears what does not count
    assert len(AdaptiveIndex.load(saved, verify=True)) == 335


@pytest.mark.parametrize("name", ["vectors.f16", "size-16.f16", "rows-000001.arrow", "shortlist-000001.faiss"])
def test_a_short_or_missing_file_is_noticed(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"damaged"):
        AdaptiveIndex.load(saved)
    (saved / name).unlink()
    with pytest.raises(ValueError, match="is missing: the index is damaged"):
        AdaptiveIndex.load(saved)


@pytest.mark.parametrize("name", ["vectors.f16", "rows-000001.arrow", "removed-000001.npy", "shortlist-000001.faiss"])
def test_verify_notices_a_changed_byte(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(ValueError, match="not what was saved"):
        AdaptiveIndex.load(saved, verify=True)


DAMAGE = {
    "gone": None,
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "a byte less": lambda content: content[:-1],
    "garbage": lambda content: np.random.default_rng(0).bytes(len(content)),
    "zeros": lambda content: bytes(len(content)),
    "longer garbage": lambda content: np.random.default_rng(0).bytes(len(content) + 40),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "name",
    ["index.json", "vectors.f16", "size-16.f16", "rows-000001.arrow", "removed-000001.npy", "shortlist-000001.faiss"],
)
def test_damage_is_one_line_with_the_file_and_the_fix(saved: Path, name: str, damage: str) -> None:
    change = DAMAGE[damage]
    if change is None:
        (saved / name).unlink()
    else:
        (saved / name).write_bytes(change((saved / name).read_bytes()))
    with pytest.raises((ValueError, FileNotFoundError), match=f"{name}.*build") as caught:
        results(AdaptiveIndex.load(saved))
    assert "\n" not in str(caught.value)


def test_a_state_that_says_too_little_is_named(saved: Path) -> None:
    whole = json.loads((saved / "index.json").read_text())
    for name in set(whole) - {"version", "columns", "learned_from"}:
        (saved / "index.json").write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        with pytest.raises(ValueError, match=r"index.json is not the description of an index.*build it anew"):
            AdaptiveIndex.load(saved)
    for wrong in (
        {"count": 10**9},
        {"count": 299},
        {"width": "8"},
        {"plan": {"dim": "x"}},
        {"files": []},
        {"segments": [{}]},
    ):
        (saved / "index.json").write_text(json.dumps({**whole, **wrong}))
        with pytest.raises(ValueError, match="damaged"):
            AdaptiveIndex.load(saved)


def test_what_is_no_index_is_named(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no index at"):
        AdaptiveIndex.load(tmp_path / "nothing")
    (saved / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="not the description"):
        AdaptiveIndex.load(saved)
    (saved / "index.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(ValueError, match="update mrl-text"):
        AdaptiveIndex.load(saved)


def test_a_folder_with_files_is_not_taken(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(FileExistsError, match="index already"):
        AdaptiveIndex.create(saved, width=WIDTH)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="has files"):
        AdaptiveIndex.create(tmp_path / "other", width=WIDTH)
    with pytest.raises(FileExistsError, match="has files"):
        AdaptiveIndex.load(saved).save(tmp_path / "other")


def test_one_process_writes_and_others_are_told(saved: Path) -> None:
    first, second, third = (AdaptiveIndex.load(saved) for _ in range(3))
    first.add(["a"], vectors(1))
    with pytest.raises(ValueError, match=f"process {os.getpid()} on .* is writing into {saved}: wait"):
        second.add(["b"], vectors(1))
    assert len(results(second)) == 20  # reading goes on
    first.save()
    first.close()
    with pytest.raises(ValueError, match="load it again"):
        third.add(["c"], vectors(1))
    fourth = AdaptiveIndex.load(saved)
    fourth.add(["c"], vectors(1))
    fourth.close()


WRITER = """
import sys
import numpy as np
from mrl_text.search import AdaptiveIndex
from tests.search.test_index import WIDTH, names, vectors
index = AdaptiveIndex.load(sys.argv[1])
while index._rows.count < 4000:
    first = index._rows.count
    index.add(names(20, first), vectors(20, seed=first))
    index.facts["rows"] = first + 20
    if first % 100 == 80:
        index.remove([f"row {first}"])
    index.save()
    print(first + 20, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_has_what_it_reported_as_saved(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    AdaptiveIndex.create(folder, width=WIDTH, plan=PLAN).close()
    random = np.random.default_rng(0)
    reported = 0
    for _ in range(6):
        reported = max(reported, killed_while_reporting(WRITER, folder, random.uniform(0, 0.4)))
        index = AdaptiveIndex.load(folder, verify=True)
        count = index._rows.count
        assert reported <= count <= reported + 20
        assert index.facts["rows"] == count
        gone = set(range(80, count, 100))
        assert list(index.ids) == [f"row {row}" for row in range(count) if row not in gone]
        blocks = [vectors(20, seed=first) for first in range(0, count, 20)]
        rows = np.concatenate(blocks)
        live = np.array([row for row in range(count) if row not in gone])
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_array_equal(index.vectors(live), unit[live].astype(np.float16))
        assert index.search(rows[live[-1]], 1).ids.tolist() == [[f"row {live[-1]}"]]
    assert reported > 100
