"""The mirror against a small hub that speaks as much of the hub's protocol as a download needs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import datasets
import mteb
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants
from mteb.abstasks import AbsTask, AbsTaskSTS
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from scipy.stats import spearmanr

from mrl_text.eval.mirror import MANIFEST, check_mirror, mirror_tasks

from .conftest import _metadata

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "f" * 40
SENTENCES = ["a cat sits", "the dog runs on a mat", "a red house", "green water", "the man plays guitar", "bread"]


@dataclass
class FakeRepository:
    """What the hub has of one data set."""

    files: dict[str, bytes]
    commit: str = COMMIT
    gated: bool = False
    token: str | None = None
    """What opens it if it is gated."""


@dataclass
class FakeHub:
    """A hub on a local port that remembers what it was asked."""

    repositories: dict[str, FakeRepository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    """Data sets whose files the hub fails to send."""
    answers: dict[str, int] = field(default_factory=dict)
    """Data sets about which every question gets this status and no content."""
    endpoint: str = ""

    def contents(self) -> list[str]:
        """The files that were sent, as ``organisation/name/file``."""
        found = [
            re.fullmatch("/datasets/(.+)/resolve/[^/]+/(.+)", path) for kind, path in self.requests if kind == "GET"
        ]
        return sorted(f"{match[1]}/{match[2]}" for match in found if match)

    def serve(self) -> ThreadingHTTPServer:
        """Start to answer; the caller shuts the server down."""
        hub = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                hub.requests.append((self.command, urlsplit(self.path).path))
                self.answer(hub)

            do_HEAD = do_POST = do_GET

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def use(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Point the hub library and datasets of this process here, with empty caches."""
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for module, values in (
            (constants, {"ENDPOINT": self.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": template}),
            (constants, {"HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(folder / "hub")}),
            (constants, {"HF_TOKEN_PATH": str(folder / "token")}),
            (datasets.config, {"HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": False}),
            (datasets.config, {"HF_DATASETS_CACHE": folder / "datasets"}),
        ):
            for name, value in values.items():
                monkeypatch.setattr(module, name, value)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, hub: FakeHub) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        match = re.fullmatch(r"(/api)?/datasets/([^/]+/[^/]+)(?:/([^/]+)(?:/([^/]+)(?:/(.*))?)?)?", path)
        repository = hub.repositories.get(match[2]) if match else None
        if match and match[2] in hub.answers:
            self.refuse(hub.answers[match[2]], "")
            return
        if match is None or repository is None:
            self.refuse(404, "RepoNotFound")
            return
        api, name, action, revision, rest = match.groups()
        if revision is not None and not repository.commit.startswith(revision):
            self.refuse(404, "RevisionNotFound")
            return
        if api is None:
            closed = repository.gated and rest not in ("README.md", ".gitattributes")
            if closed and self.headers.get("Authorization") != f"Bearer {repository.token}":
                self.refuse(403, "GatedRepo")
            else:
                self.send_file(hub, name, repository, rest)
            return
        self.send_json(_listing(name, repository, action, rest or "", body.decode()))

    def send_file(self, hub: FakeHub, name: str, repository: FakeRepository, file: str) -> None:
        if file not in repository.files:
            self.refuse(404, "EntryNotFound")
        elif name in hub.broken:
            self.refuse(507, "")
        else:
            described = _described(file, repository.files[file])
            etag = described["lfs"]["oid"] if "lfs" in described else described["oid"]
            self.send(200, repository.files[file], {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit})

    def send_json(self, content: Any) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b"", {"X-Error-Code": code})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


def _listing(name: str, repository: FakeRepository, action: str, folder: str, body: str) -> Any:
    """Answers to the three ways of asking for the files of a repository."""
    files = [_described(file, content) for file, content in repository.files.items()]
    folders = {parent.as_posix() for file in repository.files for parent in Path(file).parents} - {"."}
    tree = [*files, *({"type": "directory", "path": folder, "oid": "0" * 40} for folder in sorted(folders))]
    if action == "tree":
        return [item for item in tree if item["path"].startswith(folder) and item["path"] != folder]
    if action == "paths-info":
        wanted = [unquote(path) for path in re.findall("paths=([^&]*)", body)]
        return [item for item in tree if item["path"] in wanted]
    siblings = [{"rfilename": file["path"], "size": file["size"], "blobId": file["oid"]} for file in files]
    for sibling, file in zip(siblings, files, strict=True):
        if "lfs" in file:
            sibling["lfs"] = {**file["lfs"], "sha256": file["lfs"]["oid"]}
    gated = "auto" if repository.gated else False
    return {"id": name, "sha": repository.commit, "gated": gated, "siblings": siblings}


def _described(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it: large ones with the checksum of their content, small ones with git's."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    described: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if name.endswith(".parquet"):
        described["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return described


def make_task(name: str, path: str, revision: str = COMMIT, **dataset: Any) -> AbsTask:
    """An ordinary mteb task on a data set."""
    metadata = _metadata(name, "STS", "cosine_spearman")
    metadata = metadata.model_copy(update={"dataset": {"path": path, "revision": revision, **dataset}})
    return type(name, (AbsTaskSTS,), {"metadata": metadata, "min_score": 0, "max_score": 5})()


def sts_files(shift: int = 0) -> dict[str, bytes]:
    """A data set of sentence pairs, laid out as on the hub; the data files are where only the card leads to."""
    table = pd.DataFrame(
        {
            "sentence1": SENTENCES,
            "sentence2": SENTENCES[1:] + SENTENCES[:1],
            "score": [float((index * 3 + shift) % 6) for index in range(len(SENTENCES))],
        }
    )
    stream = io.BytesIO()
    table.to_parquet(stream, index=False)
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: pairs/part-*\n---\n# Tiny\n"
    )
    return {"README.md": card.encode(), "pairs/part-0.parquet": stream.getvalue(), ".gitattributes": b"*.parquet\n"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    fake = FakeHub({f"test-org/{name}": FakeRepository(sts_files(shift)) for shift, name in enumerate(["one", "two"])})
    server = fake.serve()
    fake.use(monkeypatch, tmp_path / "caches")
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


ONE = make_task("One", "test-org/one")
TWO = make_task("Two", "test-org/two")
ONE_FILES = [".gitattributes", "README.md", "pairs/part-0.parquet"]


def _manifest(mirror: Path) -> dict[str, Any]:
    return json.loads((mirror / "mirror.json").read_text())


class LetterCounts(AbsEncoder):
    """Counts letters: an encoder that anyone can recompute."""

    def __init__(self) -> None:
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={"name": "test/letters", "revision": "1", "similarity_fn_name": ScoringFunction("cosine")}
        )

    def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
        return np.stack([letter_counts(text) for batch in inputs for text in batch["text"]])


def letter_counts(text: str) -> np.ndarray:
    return np.bincount([ord(letter) - 32 for letter in text], minlength=96).astype(np.float64)


def test_a_mirrored_data_set_is_what_the_hub_has_and_evaluates_without_it(
    hub: FakeHub, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = mirror_tasks([ONE], mirror)
    assert folders == {"test-org/one": mirror / "test-org" / "one"}
    present = {
        path.relative_to(mirror / "test-org/one").as_posix(): path
        for path in mirror.rglob("*")
        if path.is_file() and path.name != "mirror.json"
    }
    assert {name: path.read_bytes() for name, path in present.items()} == hub.repositories["test-org/one"].files

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    rows = datasets.load_dataset(str(folders["test-org/one"]), name="default", split="test")
    assert rows["sentence1"][:] == SENTENCES

    task = make_task("One", str(folders["test-org/one"]))
    result = mteb.evaluate(LetterCounts(), task, cache=None, overwrite_strategy="always")
    first, second = (np.stack([letter_counts(text) for text in rows[f"sentence{side}"]]) for side in (1, 2))
    cosines = (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    expected = spearmanr(cosines, [float(index * 3 % 6) for index in range(6)]).statistic
    assert result.task_results[0].scores["test"][0]["main_score"] == pytest.approx(expected, abs=1e-6)
    assert len(hub.requests) == asked


def test_the_manifest_records_revision_tasks_sizes_and_checksums(hub: FakeHub, mirror: Path) -> None:
    mirror_tasks([make_task("Second", "test-org/one"), ONE, TWO], mirror)
    files = hub.repositories["test-org/one"].files
    assert MANIFEST == "mirror.json"
    assert sorted(_manifest(mirror)) == ["test-org/one", "test-org/two"]
    assert _manifest(mirror)["test-org/one"] == {
        "revision": COMMIT,
        "tasks": ["One", "Second"],
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }
    assert hub.contents() == [f"test-org/{name}/{file}" for name in ("one", "two") for file in ONE_FILES]


def test_a_second_call_asks_the_hub_nothing(hub: FakeHub, mirror: Path) -> None:
    mirror_tasks([ONE, TWO], mirror)
    hub.requests.clear()
    assert mirror_tasks([TWO, make_task("Late", "test-org/one")], mirror) == {
        "test-org/two": mirror / "test-org/two",
        "test-org/one": mirror / "test-org/one",
    }
    assert hub.requests == []
    assert _manifest(mirror)["test-org/one"]["tasks"] == ["Late", "One"]


@pytest.mark.slow
def test_an_interrupted_mirror_is_not_taken_for_whole_and_continues(hub: FakeHub, mirror: Path) -> None:
    hub.broken.add("test-org/two")
    with pytest.raises(OSError, match=rf"Two: test-org/two at revision {COMMIT} .*status 507"):
        mirror_tasks([ONE, TWO], mirror)
    check_mirror(mirror, ONE.metadata.dataset)
    with pytest.raises(ValueError, match="not copied to the end"):
        check_mirror(mirror, TWO.metadata.dataset)
    hub.broken.clear()
    hub.requests.clear()
    mirror_tasks([ONE, TWO], mirror)
    assert hub.contents() == [f"test-org/two/{name}" for name in ONE_FILES]
    check_mirror(mirror, TWO.metadata.dataset)


@pytest.mark.parametrize("name", ["README.md", "pairs/part-0.parquet"])
@pytest.mark.parametrize("damage", ["changed", "shorter", "missing"])
def test_damage_is_found_and_mended_by_mirroring_again(hub: FakeHub, mirror: Path, name: str, damage: str) -> None:
    mirror_tasks([ONE], mirror)
    check_mirror(mirror, ONE.metadata.dataset)
    file, content = mirror / "test-org/one" / name, hub.repositories["test-org/one"].files[name]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if damage == "changed" else b""))
    with pytest.raises(ValueError, match=re.escape(name)):
        check_mirror(mirror, ONE.metadata.dataset)
    hub.requests.clear()
    mirror_tasks([ONE], mirror)
    assert f"test-org/one/{name}" in hub.contents()
    assert file.read_bytes() == content
    check_mirror(mirror, ONE.metadata.dataset)


def test_a_file_more_is_found(hub: FakeHub, mirror: Path) -> None:
    mirror_tasks([ONE], mirror)
    (mirror / "test-org/one/.DS_Store").touch()
    check_mirror(mirror, ONE.metadata.dataset)
    shutil.copy(mirror / "test-org/one/pairs/part-0.parquet", mirror / "test-org/one/pairs/part-1.parquet")
    with pytest.raises(ValueError, match=r"part-1\.parquet, which is not of the data set"):
        check_mirror(mirror, ONE.metadata.dataset)
    with pytest.raises(ValueError, match=r"part-1\.parquet.*remove it"):
        mirror_tasks([ONE], mirror)


def test_every_file_is_read_once_in_a_process(hub: FakeHub, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror_tasks([ONE], mirror)
    opened: list[str] = []
    plain_open = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *args, **kw: opened.append(path.name) or plain_open(path, *args, **kw)
    )
    file = mirror / "test-org/one/README.md"
    os.utime(file, ns=(1, 1))
    for _ in range(2):
        check_mirror(mirror, ONE.metadata.dataset)
    assert [name for name in opened if name != MANIFEST] == ["README.md"]


def test_another_revision_is_refused_then_replaced(hub: FakeHub, mirror: Path) -> None:
    mirror_tasks([ONE], mirror)
    newer = make_task("One", "test-org/one", OTHER_COMMIT)
    with pytest.raises(ValueError, match=rf"{COMMIT}.*{OTHER_COMMIT}.*mrl-text mirror.*One"):
        check_mirror(mirror, newer.metadata.dataset)
    files = sts_files(5)
    files["pairs/part-9.parquet"] = files.pop("pairs/part-0.parquet")
    hub.repositories["test-org/one"] = FakeRepository(files, OTHER_COMMIT)
    mirror_tasks([newer], mirror)
    check_mirror(mirror, newer.metadata.dataset)
    assert [path.name for path in (mirror / "test-org/one/pairs").iterdir()] == ["part-9.parquet"]


def test_a_path_inside_the_mirror_and_a_copy_by_hand(hub: FakeHub, mirror: Path) -> None:
    mirror_tasks([ONE], mirror)
    inside = {"path": str(mirror / "test-org/one"), "revision": COMMIT}
    check_mirror(mirror, inside)
    with pytest.raises(ValueError, match="holds revision"):
        check_mirror(mirror, {**inside, "revision": OTHER_COMMIT})
    shutil.copytree(mirror / "test-org/one", mirror / "by-hand/one")
    check_mirror(mirror, {"path": "by-hand/one", "revision": "any"})
    with pytest.raises(FileNotFoundError, match=r"no data set by-hand/two"):
        check_mirror(mirror, {"path": "by-hand/two", "revision": "any"})
    (mirror / MANIFEST).write_text("[]")
    with pytest.raises(ValueError, match="not the manifest"):
        check_mirror(mirror, inside)


@pytest.mark.parametrize(
    ("path", "revision", "error", "words"),
    [
        ("test-org/none", COMMIT, FileNotFoundError, "hf auth login"),
        ("test-org/one", OTHER_COMMIT, FileNotFoundError, "no revision"),
        (
            "test-org/gated",
            COMMIT,
            PermissionError,
            r"accept the terms at http.*/datasets/test-org/gated .*hf auth login",
        ),
        ("test-org/script", COMMIT, ValueError, "loading script"),
        ("not a repository", "1", FileNotFoundError, "does not name"),
    ],
)
def test_what_cannot_be_copied_is_said_before_anything_is(
    hub: FakeHub, mirror: Path, path: str, revision: str, error: type[Exception], words: str
) -> None:
    hub.repositories["test-org/gated"] = FakeRepository(sts_files(), gated=True)
    hub.repositories["test-org/script"] = FakeRepository({"script.py": b"", "README.md": b""})
    with pytest.raises(error, match=f"Odd: {path} at revision {revision}.*{words}"):
        mirror_tasks([TWO, make_task("Odd", path, revision)], mirror)
    assert hub.contents() == []
    assert not mirror.exists()


def test_a_task_that_wants_code_run_is_refused(hub: FakeHub, mirror: Path) -> None:
    with pytest.raises(ValueError, match=r"Odd: .*loading script"):
        mirror_tasks([make_task("Odd", "test-org/one", trust_remote_code=True)], mirror)
    assert hub.requests == []


def test_one_data_set_at_two_revisions_is_a_conflict(hub: FakeHub, mirror: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"One needs test-org/one at revision {COMMIT}, New needs it at {OTHER_COMMIT}"
    ):
        mirror_tasks([ONE, make_task("New", "test-org/one", OTHER_COMMIT)], mirror)
    assert hub.requests == []


@pytest.mark.slow
def test_a_full_disk_is_noticed_before_the_download(
    hub: FakeHub, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [len(content) for name in ("one", "two") for content in hub.repositories[f"test-org/{name}"].files.values()]
    _write(mirror / "test-org/one/README.md", b"half a card")  # does not spare the download
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=sum(sizes) - 1))
    with pytest.raises(OSError, match="room"):
        mirror_tasks([ONE, TWO], mirror)
    assert hub.contents() == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=sum(sizes)))
    mirror_tasks([ONE, TWO], mirror)
    check_mirror(mirror, ONE.metadata.dataset)


def test_a_file_that_is_not_what_the_hub_states_is_not_kept(
    hub: FakeHub, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = "pairs/part-0.parquet"
    monkeypatch.setattr(
        "mrl_text.eval.mirror.snapshot_download",
        lambda path, local_dir, **kw: [
            _write(local_dir / name, b"x" * len(content)) for name, content in sts_files().items()
        ],
    )
    with pytest.raises(OSError, match=f"{file} is not what the hub states"):
        mirror_tasks([ONE], mirror)
    assert not (mirror / "test-org/one" / file).exists()
    with pytest.raises(ValueError, match="not copied to the end"):
        check_mirror(mirror, ONE.metadata.dataset)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.slow
def test_the_endpoint_of_the_environment_is_used(hub: FakeHub, mirror: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from types import SimpleNamespace as Of; from mrl_text.eval.mirror import mirror_tasks\n"
        f"dataset = {{'path': 'test-org/one', 'revision': {COMMIT[:7]!r}}}\n"
        "mirror_tasks([Of(metadata=Of(name='One', dataset=dataset))], sys.argv[1])"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", program, str(mirror)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (mirror / "test-org/one/README.md").read_bytes() == sts_files()["README.md"]
    check_mirror(mirror, {"path": "test-org/one", "revision": COMMIT[:7]})
    environment["HF_HUB_OFFLINE"] = "1"
    command[-1] = str(tmp_path / "offline")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (
        "ConnectionError: One: test-org/one at revision 0123456 cannot be copied: HF_HUB_OFFLINE is set" in done.stderr
    )
