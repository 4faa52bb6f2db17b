"""What cannot run here is told at the start, with the reason and the fix."""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import datasets
import pandas as pd
import pytest
import yaml
from huggingface_hub import constants, snapshot_download
from mteb.abstasks import AbsTaskRetrieval

from mrl_text.eval.availability import unavailable

from .conftest import _metadata
from .test_mirror import COMMIT, OTHER_COMMIT, FakeHub, FakeRepository, make_task, sts_files

READABLE = make_task("Readable", "test-org/TinySts-Pairs")
CASES = [
    READABLE,
    make_task("Gated", "test-org/gated"),
    make_task("Missing", "test-org/missing"),
    make_task("Moved", "test-org/TinySts-Pairs", OTHER_COMMIT),
    make_task("Script", "test-org/script"),
    make_task("WantsCode", "test-org/TinySts-Pairs", trust_remote_code=True),
    make_task("Broken", "test-org/broken"),
]


def _retrieval_task() -> AbsTaskRetrieval:
    metadata = _metadata("Search", "Retrieval", "ndcg_at_10")
    metadata = metadata.model_copy(update={"dataset": {"path": "test-org/search", "revision": COMMIT}})
    return type("Search", (AbsTaskRetrieval,), {"metadata": metadata})()


def _retrieval_files(judgements: str, extra: list[str]) -> dict[str, bytes]:
    tables = {
        "corpus": {"_id": ["a", "b"], "title": ["", ""], "text": ["a cat", "a dog"]},
        "queries": {"_id": ["q"], "text": ["cat"]},
        judgements: {"query-id": ["q"], "corpus-id": ["a"], "score": [1]},
        "top_ranked": {"query-id": ["q"], "corpus-ids": [["b", "a"]]},
    }
    names = ["corpus", "queries", judgements, *extra]
    configs = [{"config_name": name, "data_files": [{"split": "test", "path": f"{name}/*"}]} for name in names]
    files = {"README.md": f"---\n{yaml.safe_dump({'configs': configs})}---\n".encode()}
    for name in names:
        stream = io.BytesIO()
        pd.DataFrame(tables[name]).to_parquet(stream, index=False)
        files[f"{name}/part.parquet"] = stream.getvalue()
    return files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    fake = FakeHub(
        {
            "test-org/TinySts-Pairs": FakeRepository(sts_files()),
            "test-org/gated": FakeRepository(sts_files(), gated=True),
            "test-org/script": FakeRepository({"script.py": b"", "README.md": b""}),
        }
    )
    fake.answers["test-org/broken"] = 507
    server = fake.serve()
    fake.use(monkeypatch, tmp_path / "caches")
    yield fake
    server.shutdown()
    server.server_close()


def _go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_every_reason_is_named_with_its_fix(hub: FakeHub) -> None:
    reasons = unavailable(CASES)
    assert list(reasons) == ["Gated", "Missing", "Moved", "Script", "WantsCode", "Broken"]
    assert f"accept the terms at {hub.endpoint}/datasets/test-org/gated and log in" in reasons["Gated"]
    assert "test-org/missing is not found or private" in reasons["Missing"]
    assert f"no revision {OTHER_COMMIT}" in reasons["Moved"]
    assert "loading script" in reasons["Script"]
    assert reasons["WantsCode"] == reasons["Script"]
    assert "status 507" in reasons["Broken"]
    assert hub.contents() == []


def test_a_login_opens_a_gated_data_set(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_let_me_in")
    hub.repositories["test-org/gated"].token = "hf_let_me_in"
    assert unavailable(CASES[:2]) == {}


def test_a_refused_token_is_no_missing_data_set(hub: FakeHub) -> None:
    hub.answers["test-org/TinySts-Pairs"] = 403
    assert "refuses access (status 403)" in unavailable([READABLE])["Readable"]


def test_a_repository_is_asked_for_once(hub: FakeHub) -> None:
    assert unavailable([READABLE, make_task("Again", "test-org/TinySts-Pairs"), READABLE]) == {}
    assert len(hub.requests) == 1


@pytest.mark.parametrize("revision", [COMMIT, COMMIT[:7]])
def test_prepared_data_need_no_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, revision: str) -> None:
    task = make_task("Prepared", "test-org/TinySts-Pairs", revision)
    task.load_data()
    hub.requests.clear()
    for offline in (False, True):
        if offline:
            _go_offline(monkeypatch)
        assert unavailable([task]) == {}
    again = make_task("Prepared", "test-org/TinySts-Pairs", revision)
    again.load_data()  # the claim, tried
    assert again.dataset["test"].to_dict() == task.dataset["test"].to_dict()
    assert hub.requests == []
    assert list(unavailable([make_task("Newer", "test-org/TinySts-Pairs", OTHER_COMMIT)])) == ["Newer"]


@pytest.mark.slow
def test_without_a_network_another_revision_in_the_cache_does_not_pass_for_this(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["test-org/pairs"] = FakeRepository(sts_files(0), COMMIT)
    older, newer = (make_task(commit[:5], "test-org/pairs", commit) for commit in (COMMIT, OTHER_COMMIT))
    older.load_data()
    hub.repositories["test-org/pairs"] = FakeRepository(sts_files(4), OTHER_COMMIT)
    newer.load_data()
    _go_offline(monkeypatch)
    assert list(unavailable([older, newer])) == [older.metadata.name]
    again = make_task("Again", "test-org/pairs", COMMIT)
    again.load_data()  # the reason: datasets hands out the other revision, in silence
    assert again.dataset["test"].to_dict() == newer.dataset["test"].to_dict() != older.dataset["test"].to_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("judgements", "extra", "ready"), [("default", [], True), ("qrels", [], False), ("default", ["top_ranked"], False)]
)
def test_a_retrieval_task_is_ready_when_mteb_can_load_it_in_full(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, judgements: str, extra: list[str], ready: bool
) -> None:
    hub.repositories["test-org/search"] = FakeRepository(_retrieval_files(judgements, extra))
    full = _retrieval_task()
    full.load_data()
    assert unavailable([_retrieval_task()]) == {}
    _go_offline(monkeypatch)
    assert (unavailable([_retrieval_task()]) == {}) is ready
    again = _retrieval_task()
    if judgements == "qrels":
        with pytest.raises(ValueError, match="default"):
            again.load_data()
        return
    again.load_data()
    first, second = (task.dataset["default"]["test"] for task in (full, again))
    assert first["relevant_docs"] == second["relevant_docs"] == {"q": {"a": 1}}
    assert (first["top_ranked"] == second["top_ranked"]) is ready


def test_downloaded_is_not_prepared(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_download("test-org/TinySts-Pairs", repo_type="dataset", revision=COMMIT, endpoint=hub.endpoint)
    assert unavailable([READABLE]) == {}
    _go_offline(monkeypatch)
    assert "HF_HUB_OFFLINE" in unavailable([READABLE])["Readable"]
    with pytest.raises(ConnectionError):  # as datasets has it
        make_task("Readable", "test-org/TinySts-Pairs").load_data()


def test_offline_nothing_is_asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _go_offline(monkeypatch)
    reasons = unavailable([READABLE, make_task("Folder", str(tmp_path))])
    assert list(reasons) == ["Readable"]
    assert re.search("not in the local cache and HF_HUB_OFFLINE is set: .*mrl-text mirror", reasons["Readable"])
    assert hub.requests == []


def test_an_unreachable_hub_is_tried_once(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        plain = socket.create_connection
        monkeypatch.setattr(
            socket, "create_connection", lambda at, *args, **kw: tried.append(at) or plain(at, *args, **kw)
        )
        tasks = [make_task(f"Task{number}", f"test-org/data-{number}") for number in range(20)]
        reasons = unavailable(tasks)
    assert list(reasons) == [task.metadata.name for task in tasks]
    assert all("the hub cannot be reached" in reason for reason in reasons.values())
    assert len(tried) == 1


def test_something_else_in_place_of_the_hub(hub: FakeHub) -> None:
    hub.answers["test-org/TinySts-Pairs"] = 200  # with no content: the page of a proxy
    assert "is not the hub" in unavailable([READABLE])["Readable"]
