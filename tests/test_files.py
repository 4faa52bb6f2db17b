from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from mrl_text.files import cache_dir, check_writable, read_json, replaced_folder, write_atomically


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MRL_TEXT_CACHE": "/chosen", "XDG_CACHE_HOME": "/xdg"}, "/chosen"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/mrl-text"),
        ({"MRL_TEXT_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/someone/.cache/mrl-text"),
        ({}, "/home/someone/.cache/mrl-text"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("MRL_TEXT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/someone"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


def test_a_file_is_written_whole_with_its_folders_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "answer.json"
    write_atomically(file, b"first")
    write_atomically(file, b"second")
    assert file.read_bytes() == b"second"
    assert list(file.parent.iterdir()) == [file]


def test_a_failed_write_leaves_the_older_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "answer.json"
    file.write_bytes(b"older")

    def full_disk(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"newer")
    assert file.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.name != "posix", reason="permissions of this kind are POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_gets_the_permissions_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "answer.json", b"")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "answer.json").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("there", [None, {}, {"facts.json": "old", "more.txt": ""}])
def test_a_folder_is_replaced_whole(tmp_path: Path, there: dict[str, str] | None) -> None:
    folder = tmp_path / "out"
    if there is not None:
        folder.mkdir()
        for name, text in there.items():
            (folder / name).write_text(text)
    with replaced_folder(folder, "facts.json", "result") as partial:
        (partial / "facts.json").write_text("new")
        assert folder.is_dir() == (there is not None), "until the end all is as it was"
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"facts.json": "new"}
    assert list(tmp_path.iterdir()) == [folder]


def test_an_error_leaves_the_older_folder_and_no_rest(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "facts.json").write_text("old")
    with (
        pytest.raises(RuntimeError, match="half way"),
        replaced_folder(tmp_path / "out", "facts.json", "result") as partial,
    ):
        (partial / "facts.json").write_text("new")
        raise RuntimeError("half way")
    assert (tmp_path / "out" / "facts.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("marker", ["facts.json", None])
def test_what_is_no_result_of_ours_is_not_replaced(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "folder" / "thesis.txt", tmp_path / "file"):
        file.write_text("years of work")
        place = tmp_path / file.relative_to(tmp_path).parts[0]
        with pytest.raises(FileExistsError, match="choose another folder"), replaced_folder(place, marker, "result"):
            pytest.fail("nothing is computed for a folder that cannot be written")
        assert file.read_text() == "years of work"


@pytest.mark.parametrize("content", [b'{"a": 1', b"\xff\xfe{}", b""])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "facts.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"facts\.json is damaged"):
        read_json(tmp_path / "facts.json")


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder", "choose another")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(FileExistsError, match=f"{folder} cannot be a folder, .*file is a file: choose another"):
            check_writable(folder, "choose another")
    with pytest.raises(OSError, match=r"/proc/new cannot be written \(.+\): choose another"):
        check_writable(Path("/proc/new"), "choose another")


def test_weights_that_do_not_fit_on_the_disk_are_an_error_of_the_disk(tmp_path: Path) -> None:
    words = r"the model cannot be written to .*model: Error while serializing: No space left"
    with pytest.raises(OSError, match=words), replaced_folder(tmp_path / "model", None, "model"):
        raise SafetensorError("Error while serializing: No space left on device")
    assert list(tmp_path.iterdir()) == []
