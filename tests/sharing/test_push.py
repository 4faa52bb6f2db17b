from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from mrl_text.sharing import prepare, push, write_upload
from tests.conftest import invoke
from tests.sharing.conftest import write_scores
from tests.sharing.hub import TOKEN, Hub, Repository

pytestmark = pytest.mark.slow

REPO = "me/small"
PUSH = "import sys; from mrl_text.sharing import prepare, push; print(push(prepare(sys.argv[1], sys.argv[2])))"


@pytest.mark.slow
def test_what_is_pushed_is_what_the_dry_run_wrote(
    saved: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = prepare(saved, REPO, results=[write_scores(saved, tmp_path / "scores")], license="mit", languages=["en"])
    folder = write_upload(upload, tmp_path / "dry")
    url = push(upload, api=hub.use(monkeypatch, tmp_path))
    written = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert hub.repositories[REPO].files == written
    assert url.startswith(f"{hub.endpoint}/{REPO}/commit/")
    assert {"README.md", "model.safetensors", "modules.json", "curve.png"} <= written.keys()


@pytest.mark.slow
def test_the_dry_run_loads_in_sentence_transformers_alone(saved: Path, tmp_path: Path) -> None:
    folder = write_upload(prepare(saved, REPO), tmp_path / "dry")
    texts = ["the cat sits", "a dog runs on the mat"]
    before, after = (
        SentenceTransformer(str(one), device="cpu", truncate_dim=8).encode(texts, normalize_embeddings=True)
        for one in (saved, folder)
    )
    assert np.array_equal(before, after)
    assert before.shape == (2, 8)
    code = f"from sentence_transformers import SentenceTransformer as S; import sys; S({str(folder)!r}, device='cpu');"
    code += "sys.exit(any(name.startswith('mrl_text') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_dry_run_does_not_overwrite_what_is_not_its_own(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        write_upload(prepare(saved, REPO), tmp_path)
    with pytest.raises(FileExistsError, match=r"thesis\.txt cannot be a folder, .*: name an empty folder"):
        write_upload(prepare(saved, REPO), tmp_path / "thesis.txt")
    folder = write_upload(prepare(saved, REPO), tmp_path / "dry")
    write_upload(prepare(saved, "me/other"), folder)
    assert "me/other" in (folder / "README.md").read_text()


def test_a_dry_run_never_writes_into_the_model(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_name_or_path": "/home/ada/base"}))
    before = {file: file.read_bytes() for file in (tmp_path / "model").rglob("*") if file.is_file()}
    with pytest.raises(FileExistsError, match="the model's own folder"):
        write_upload(prepare(tmp_path / "model", REPO), tmp_path / "model")
    assert before == {file: file.read_bytes() for file in before}


def test_a_second_push_sends_nothing_and_commits_nothing(
    saved: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = hub.use(monkeypatch, tmp_path)
    push(prepare(saved, REPO), api=api)
    first = len(hub.requests)
    push(prepare(saved, REPO), api=api)
    assert hub.repositories[REPO].commits == 1
    assert not [one for one in hub.requests[first:] if "/large/" in one or "/commit/" in one]


def test_weights_of_an_earlier_version_go_and_files_of_others_stay(
    saved: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}", "pytorch_model.bin": b"p"}
    others = {"onnx/model.onnx": b"o", "thumbnail.png": b"t", ".gitattributes": b"a", "lora/x.safetensors": b"l"}
    hub.create(REPO, {**old, **others})
    push(prepare(saved, REPO), api=hub.use(monkeypatch, tmp_path))
    files = hub.repositories[REPO].files
    assert not old.keys() & files.keys()
    assert {name: files[name] for name in others} == others
    assert hub.repositories[REPO].commits == 1


def test_branch_pull_request_and_privacy(
    saved: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, upload = hub.use(monkeypatch, tmp_path), prepare(saved, REPO)
    push(upload, api=api, private=True, revision="v2", message="second try")
    repository = hub.repositories[REPO]
    assert repository.private
    assert repository.commits == 0
    assert "model.safetensors" in repository.branches["v2"][-1][1]
    assert push(upload, api=api, create_pr=True).endswith("/discussions/1")
    assert repository.commits == 0
    assert "model.safetensors" in repository.pulls[0]
    hub.create("me/open")
    with pytest.raises(ValueError, match="there and public"):
        push(prepare(saved, "me/open"), api=api, private=True)
    assert hub.repositories["me/open"].commits == 0


def test_a_card_written_on_the_hub_is_not_lost(
    saved: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = hub.use(monkeypatch, tmp_path)
    hub.create(REPO, {"README.md": b"---\nlicense: mit\n---\n\n# Ours\n\nThanks to Ada.\n"})
    with pytest.raises(ValueError, match="--card hub"):
        push(prepare(saved, REPO), api=api)
    assert hub.repositories[REPO].commits == 0
    push(prepare(saved, REPO), api=api, prefer="hub")
    card = hub.repositories[REPO].files["README.md"].decode()
    assert "Thanks to Ada." in card
    assert "license: mit" in card
    assert "truncate_dim=" in card
    with pytest.raises(ValueError, match="--card hub"):  # what was kept once is not lost the next time
        push(prepare(saved, REPO), api=api)
    push(prepare(saved, REPO), api=api, prefer="hub")
    assert hub.repositories[REPO].files["README.md"].decode() == card
    push(prepare(saved, REPO), api=api, prefer="local")
    assert "Thanks to Ada." not in hub.repositories[REPO].files["README.md"].decode()


def test_local_words_follow_without_asking_while_nobody_edits_on_the_hub(
    saved: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, model = hub.use(monkeypatch, tmp_path), tmp_path / "model"
    shutil.copytree(saved, model)
    hub.create(REPO, {"README.md": b"---\nlicense: apache-2.0\n---\n"})  # as the hub's own form makes it
    for words in ("First words.", "Second words."):
        (model / "README.md").write_text(f"---\ntags: [mine]\n---\n# Small\n\n{words}\n", encoding="utf-8")
        push(prepare(model, REPO), api=api)
        card = hub.repositories[REPO].files["README.md"].decode()
        assert words in card
        assert "license: apache-2.0" in card
        assert "- mine" in card
    assert "First words." not in card


def test_what_is_wrong_is_said_before_anything_is_committed(
    saved: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = hub.use(monkeypatch, tmp_path)
    with pytest.raises(PermissionError, match=r"not logged in.*hf auth login"):
        push(prepare(saved, REPO), api=HfApi(endpoint=hub.endpoint))
    with pytest.raises(PermissionError, match="token"):
        push(prepare(saved, REPO), api=HfApi(endpoint=hub.endpoint, token="hf_wrong"))
    assert not hub.repositories
    hub.closed.add("them/theirs")
    with pytest.raises(PermissionError, match="no right to write to them/theirs"):
        push(prepare(saved, "them/theirs"), api=api)
    hub.create("them/theirs")
    with pytest.raises(PermissionError, match="no right to write to them/theirs"):
        push(prepare(saved, "them/theirs"), api=api)
    with pytest.raises(ValueError, match='"license" must be one of'):
        push(prepare(saved, REPO, license="no-such-license"), api=api)
    assert all(repository.commits == 0 for repository in hub.repositories.values())


def test_a_hub_that_breaks_off_or_cannot_be_reached(
    saved: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = hub.use(monkeypatch, tmp_path)
    hub.broken = "/commit/"
    with pytest.raises(ConnectionError, match=r"answered 500.*push again"):
        push(prepare(saved, REPO), api=api)
    assert hub.repositories[REPO].commits == 0
    with pytest.raises(ConnectionError, match=r"stopped answering.*nothing was committed"):
        push(prepare(saved, REPO), api=HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))


def test_a_commit_that_comes_between_is_not_overwritten(
    saved: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = hub.use(monkeypatch, tmp_path)
    hub.create(REPO)

    def interfere(number: int, request: str) -> None:
        if "/preupload/" in request:
            hub.repositories[REPO].commit({"README.md": b"# Quick\n"})

    hub.before = interfere
    with pytest.raises(ValueError, match=r"changed while this was sent.*push again"):
        push(prepare(saved, REPO), api=api)
    assert hub.repositories[REPO].files == {"README.md": b"# Quick\n"}


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Path:
    """The model in two shards, so that one may have arrived when the other has not."""
    folder = tmp_path_factory.mktemp("wider") / "model"
    SentenceTransformer(str(saved), device="cpu").save_pretrained(str(folder))
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
    weights = {name: file for file, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    return folder


def run_push(hub: Hub, model: Path, home: Path, *, when: int, done: bool = False) -> int:
    """Push in a process of its own that is killed at the request of that number, or once that request is done."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    start = len(hub.requests)
    process = subprocess.Popen([sys.executable, "-c", PUSH, str(model), REPO], env=environment, stdout=-1, stderr=-1)

    def kill(number: int, request: str) -> None:
        if number - start == when:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise ConnectionAbortedError

    hub.before, hub.after = (lambda *_: None, kill) if done else (kill, lambda *_: None)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.slow
def test_ten_kills_leave_all_or_nothing(wider: Path, tmp_path: Path) -> None:
    whole = Hub()
    server = whole.serve()
    assert run_push(whole, wider, tmp_path, when=0) == 0
    undisturbed, steps = whole.repositories[REPO].files, len(whole.requests)
    assert [one.split(" ")[0] for one in whole.requests][-1] == "POST", "the last is the commit"
    assert "/commit/" in whole.requests[-1]
    server.shutdown()
    hub = Hub()
    server = hub.serve()
    sent: list[str] = []
    kills = [*[(number, False) for number in range(1, steps + 1)][-9:], (steps, True)]
    assert len(kills) == 10, "the requests before the last nine change nothing"
    for number, done in kills:
        hub.repositories, hub.large = {}, {}
        assert run_push(hub, wider, tmp_path, when=number, done=done) == -signal.SIGKILL, f"request {number} never came"
        repository = hub.repositories.get(REPO, Repository(branches={"main": [("", {})]}))
        assert repository.files == (undisturbed if done else {}), "all of it or nothing"
        arrived, start = len(hub.large), len(hub.requests)
        assert run_push(hub, wider, tmp_path, when=0) == 0
        assert hub.repositories[REPO].files == undisturbed
        assert hub.repositories[REPO].commits == 1
        sent = [one for one in hub.requests[start:] if "/large/" in one]
        assert len(sent) == 2 - arrived, "what had arrived is not sent again"
    server.shutdown()


@pytest.mark.slow
def test_the_command_lists_the_repository_and_says_what_is_missing(saved: Path, tmp_path: Path) -> None:
    results = write_scores(saved, tmp_path / "scores")
    arguments = [str(saved), REPO, "--results", str(results), "--dry-run", "-o", str(tmp_path / "dry")]
    done = invoke("push", *arguments)
    assert done.exit_code == 0, done.output
    listed = dict(reversed(line.split()) for line in done.stdout.split("\n\n")[0].splitlines())
    files = {
        one.relative_to(tmp_path / "dry").as_posix(): one for one in (tmp_path / "dry").rglob("*") if one.is_file()
    }
    assert {name: int(size.replace(",", "")) for name, size in listed.items()} == {
        name: file.stat().st_size for name, file in files.items()
    }
    assert "model-index: 9 scores on 3 data sets" in done.stdout
    assert "names no license" in done.stderr
    wrong = invoke("push", saved, "small", "--dry-run")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "expected owner/name" in wrong.stderr
    assert invoke("push", saved, REPO, "-o", "x").exit_code == 2
