"""``encode`` and ``eval`` with a model behind an API: what the same model gives here, and nothing is paid twice."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from mrl_text import MatryoshkaEncoder
from mrl_text.adapt import load_adaptation
from mrl_text.api.options import KEY_VARIABLE, URL_VARIABLE, ApiOptions
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.encoding import encode_files, open_encoded
from mrl_text.eval import sweep
from mrl_text.loading import cached, full_width, load, shared_folder
from mrl_text.models import find_any_model, find_model
from mrl_text.truncation import truncate
from mrl_text.vector_file import VectorFile
from tests.api.conftest import SECRET, WIDTH, Failure, Stub, until, vector
from tests.conftest import WORDS, invoke
from tests.processes import command
from tests.serving.conftest import Running


def lines(count: int) -> list[str]:
    words = len(WORDS)
    return [f"{WORDS[n % words]} {WORDS[7 * n % words]} {WORDS[n // 9 % words]} {n}" for n in range(count)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(lines(100)), encoding="utf-8")
    return file


@pytest.fixture
def command_line_with_key(command_line: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder for commands, and the key in the environment, where alone it belongs."""
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setattr(logging.root, "handlers", [])
    yield


def vectors(folder: Path, dim: int | None = None) -> np.ndarray:
    return np.concatenate([batch.vectors for batch in open_encoded(folder).batches(dim)])


@pytest.mark.slow
def test_a_served_model_encodes_as_it_does_here(
    served: Running, tiny_bert: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setenv(URL_VARIABLE, f"{served.url}/v1")
    report = encode_files([texts], tmp_path / "out", model="openai:tiny", dims=[8, 32], shard_rows=64)
    assert (report.rows, report.encoded, report.left_out, report.backend) == (100, 100, 0, "api")
    local = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    for dim in (8, 32):
        np.testing.assert_allclose(vectors(tmp_path / "out", dim), local.encode(lines(100), dim=dim), atol=1e-6)
        body = {"model": "tiny", "input": lines(100), "dimensions": dim}
        key = {"authorization": f"Bearer {SECRET}"}
        answer = requests.post(f"{served.url}/v1/embeddings", json=body, headers=key, timeout=60).json()
        theirs = np.array([entry["embedding"] for entry in answer["data"]])
        np.testing.assert_allclose(vectors(tmp_path / "out", dim), theirs, atol=1e-6)
    manifest = open_encoded(tmp_path / "out").manifest
    assert (manifest["model"], manifest["base_url"]) == ("openai:tiny", f"{served.url}/v1")


@pytest.mark.slow
def test_a_served_model_scores_as_it_does_here(
    served: Running, tiny_bert: Path, command_line_with_key: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Every cell of the table: what differs is the sixth digit of vectors."""
    rows = [f"{lines(80)[n]},{lines(80)[(n * 3 + 1) % 80]},{n % 7}" for n in range(80)]
    Path("pairs.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]))
    api = ["--base-url", f"{served.url}/v1", "--price-per-million", 2000, "--request-texts", 30]
    same = ["--data", "pairs.csv", "--dims", "16", "-o", "out", "--controls", "none", "--precisions", "float32,int4"]
    result = invoke("eval", "openai:tiny", *same, *api)
    assert result.exit_code == 0, result.output
    sent = r"tiny at http\S+: \d+ texts to send, about \d+ tokens .*, 0\.\d\d US dollars at 2000 a million"
    assert re.search(sent, caplog.text)
    caplog.clear()
    assert invoke("eval", tiny_bert, *same).exit_code == 0
    import pandas as pd

    table = pd.read_csv("out/scores.csv").fillna("")
    keys = ["method", "task", "metric", "dim", "precision", "comparison", "seed", "bytes"]
    by_api = table[table["model"] == "openai/tiny"].set_index(keys)["score"].sort_index()
    here = table[table["model"] != "openai/tiny"].set_index(keys)["score"].sort_index()
    assert len(by_api) == 4
    assert by_api.index.equals(here.index)
    floats = by_api.index.get_level_values("precision") == "float32"
    np.testing.assert_allclose(by_api[floats], here[floats], atol=1e-4)  # mteb keeps five digits
    assert np.abs(by_api - here).max() < 0.05  # a number that rounds to the other side
    [folder] = [path for path in Path("out/results").iterdir() if path.name.startswith("openai")]
    assert folder.name == "openai__tiny"
    found = {path.name for path in Path("out").rglob("*")}
    assert not [name for name in found if set(name) & set(':*?"<>|')]
    meta = next(folder.rglob("model_meta.json")).read_text()
    before = len(list(folder.rglob("*.json")))
    again = invoke("eval", "openai:tiny", *same, *api)
    assert again.exit_code == 0 and "to send" not in caplog.text
    assert len(list(folder.rglob("*.json"))) == before
    assert '"API"' in meta
    assert SECRET not in result.output + again.output + meta + caplog.text


def test_a_second_pass_asks_for_nothing(stub: Stub, texts: Path, tmp_path: Path) -> None:
    options = {"model": "openai:m", "api": stub.options(request_texts=30)}
    encode_files([texts], tmp_path / "a", **options, precisions=["int8", "int4"])  # type: ignore[arg-type]
    assert Counter(stub.texts) == Counter([*lines(100), "width"])
    encode_files([texts], tmp_path / "b", **options)  # type: ignore[arg-type]
    source = find_any_model("openai:m", api=stub.options(timeout=5))
    np.testing.assert_array_equal(cached(source).embed(lines(100)), [vector(text) for text in lines(100)])
    assert full_width(source) == WIDTH
    assert len(stub.texts) == 101
    np.testing.assert_allclose(
        vectors(tmp_path / "b"), truncate(np.stack([vector(text) for text in lines(100)])), atol=1e-6
    )
    other = find_any_model("openai:other", api=stub.options())
    assert other.revision != source.revision
    assert source.revision == find_any_model("openai:m", api=stub.options()).revision
    with pytest.raises(ValueError, match=r"was begun with base_url .*, not http://127\.0\.0\.1:1/v1"):
        encode_files([texts], tmp_path / "b", model="openai:m", api=ApiOptions(base_url="http://127.0.0.1:1/v1"))


@pytest.mark.slow
def test_killed_in_the_middle(stub: Stub, tmp_path: Path) -> None:
    """What came before the kill is asked for by nobody again."""
    (tmp_path / "texts.txt").write_text("\n".join(lines(400)), encoding="utf-8")
    given = ["encode", tmp_path / "texts.txt", "-o", tmp_path / "out", "--model", "openai:m", "--request-texts", 10]
    given += ["--base-url", stub.url, "--dims", "4,12"]
    stub.gate = threading.Semaphore(15)  # answers, and then silence
    process = command(*given)
    until(lambda: len(stub.asked) == 15 and len(stub.bodies) == 19)  # four are under way
    process.kill()
    process.wait()
    [file] = shared_folder().rglob("vectors.bin")
    known = VectorFile(file)
    known.refresh()
    kept = {text for text in lines(400) if EmbeddingCache._keys([text], "", None)[0] in known.rows}
    assert len(kept) >= 100
    stub.gate.release(4)
    until(lambda: len(stub.asked) == 19)  # into the void
    stub.gate.release(100)
    again = command(*given)
    assert again.wait() == 0, again.errors
    later = [text for texts in stub.asked[19:] for text in texts]
    assert Counter(later) == Counter(set(lines(400)) - kept)
    np.testing.assert_allclose(
        vectors(tmp_path / "out", 12), truncate(np.stack([vector(text) for text in lines(400)])), atol=1e-6
    )


def test_a_corpus_with_everything_in_it(stub: Stub, tmp_path: Path) -> None:
    """Blank rows are left out as always, a long text is cut and reported, in a later run, too."""

    def refuse(body: dict[str, Any]) -> Failure | None:
        long = any(len(text) > 300 for text in body["input"])
        return (400, {}, {"error": {"message": "maximum context length is 75 tokens"}}) if long else None

    stub.refuse = refuse
    rows = [{"text": "a cat"}, {"text": " "}, {"text": "dog " * 200}, {"text": "a cat"}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for folder in ("a", "b"):
        report = encode_files([tmp_path / "corpus.jsonl"], tmp_path / folder, model="openai:m", api=stub.options())
        assert (report.rows, report.left_out, report.cut) == (3, 1, 1)
        assert report.problems == [
            "corpus.jsonl, row 2: has no text",
            "corpus.jsonl, row 3: is longer than the model reads and was cut",
        ]
    assert len(stub.texts) == 3  # with the one that tells the width
    with pytest.raises(ValueError, match="row 3 is longer than the model reads"):
        encode_files([tmp_path / "corpus.jsonl"], tmp_path / "c", model="openai:m", api=stub.options(), on_long="fail")


def test_blank_texts_have_zeros(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    cache = cached(find_any_model("openai:m", api=stub.options()))
    with caplog.at_level(logging.INFO):
        found = cache.embed(["", "a", " \n"])
    np.testing.assert_array_equal(found, [np.zeros(WIDTH), vector("a"), np.zeros(WIDTH)])
    assert "m: 2 blank texts were not sent, their vectors are zero" in caplog.messages
    assert stub.texts == ["a"]
    np.testing.assert_array_equal(cache.embed(["b"], prompt="query: "), [vector("query: b")])
    np.testing.assert_array_equal(
        cached(find_any_model("openai:blank", api=stub.options())).embed([" "]), np.zeros((1, WIDTH))
    )


def test_the_cost_is_told_and_limited_before_anything_is_sent(
    stub: Stub, texts: Path, command_line_with_key: None, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = sum(-(-len(text) // 4) for text in lines(100))
    given = ["encode", texts, "-o", "out", "--model", "openai:m", "--base-url", stub.url]
    refused = invoke(*given, "--max-total-tokens", tokens - 1)
    assert refused.exit_code == 2
    assert f"{tokens:,} tokens, estimated, are more than the {tokens - 1:,} of --max-total-tokens" in refused.stderr
    assert not stub.bodies
    result = invoke(*given, "--max-total-tokens", tokens, "--price-per-million", 20_000)
    assert result.exit_code == 0, result.output
    cost = f"{tokens / 50:.2f} US dollars at 20000 a million"
    assert f"100 texts to send, about {tokens} tokens (a token for 4 bytes), {cost}" in caplog.text
    assert "m: 2 requests, 101 tokens, 2.02 US dollars" in caplog.text  # as the stand-in counts


@pytest.mark.parametrize(
    "failure",
    [
        (401, {}, {"error": {"message": f"Incorrect API key provided: {SECRET}"}}),
        (500, {}, f"<p>unknown Bearer {SECRET}</p>"),
        (400, {}, {"detail": [f"bad header Bearer {SECRET}"]}),
        (200, {}, {"echo": SECRET}),
        (302, {"location": f"https://elsewhere/{SECRET}"}, ""),
        (0, {}, None),
        None,
    ],
    ids=str,
)
def test_the_key_is_never_seen(
    failure: Failure | None,
    stub: Stub,
    texts: Path,
    tmp_path: Path,
    command_line_with_key: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub.refuse = lambda body: failure
    seen = ""
    with caplog.at_level(logging.DEBUG):
        for more in ([], ["--precision", "int8"]):
            result = invoke("encode", texts, "-o", "out", "--model", "openai:m", "--base-url", stub.url, *more)
            assert result.exit_code == (0 if failure is None and not more else 2), result.output
            seen += result.stdout + result.stderr
    seen += "".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    for place in (Path("out"), shared_folder()):
        for file in place.rglob("*"):
            seen += file.name + (file.read_bytes().decode("latin-1") if file.is_file() else "")
    source = find_any_model("openai:m", api=stub.options())
    seen += f"{source!r} {source.api!r} {vars(source)}"
    assert stub.keys == {f"Bearer {SECRET}"}
    assert "Geheim" not in seen


def test_what_needs_weights_says_what_does_not(stub: Stub, texts: Path) -> None:
    for action in (
        lambda: find_model("openai:m"),
        lambda: load(find_any_model("openai:m", api=stub.options())),
        lambda: MatryoshkaEncoder("openai:m"),
    ):
        with pytest.raises(ValueError, match="openai:m is behind an API: it has vectors and no weights"):
            action()
    with pytest.raises(ValueError, match="engine ray is for models that are computed here"):
        encode_files([texts], "out", model="openai:m", engine="ray")
    with pytest.raises(ValueError, match="the deepest of these models has 0"):
        sweep([find_any_model("openai:m", api=stub.options())], ["STS12"], output="out", layers=[2])
    assert stub.texts == ["width"]


def test_vectors_of_an_api_are_made_smaller_by_adapt(stub: Stub, tmp_path: Path, command_line_with_key: None) -> None:
    """As docs/adapting.md has it."""
    Path("corpus.txt").write_text("\n".join(lines(600)))
    for line in (
        f"encode corpus.txt -o vectors --model openai:m --base-url {stub.url} --format npy",
        "adapt --embeddings vectors/embedding_12.npy --output rotation.npy --dims 4,12",
    ):
        result = invoke(*line.split())
        assert result.exit_code == 0, result.output
    found = np.load("vectors/embedding_12.npy")
    small = load_adaptation("rotation.npy").transform(found, dim=4)
    assert np.isfinite(small).all() and len(small) == 600
    np.testing.assert_allclose(small, truncate(found @ np.load("rotation.npy"), 4), atol=1e-5)


def test_a_folder_is_pushed_though_nobody_here_can_ask_it_in_words(
    stub: Stub, texts: Path, tmp_path: Path, command_line_with_key: None
) -> None:
    pytest.importorskip("faiss")
    from mrl_text.search import open_store

    encode_files([texts], tmp_path / "vectors", model="openai:m", api=stub.options(), keep=["text"])
    pushed = invoke("index", "push", "store", tmp_path / "vectors")
    assert pushed.exit_code == 0, pushed.output
    store = open_store("store")
    assert store.model == "openai:m"
    assert list(store.search(vector(lines(100)[7]), 1).ids) == ["8"]
    asked = invoke("search", "store", "a cat")
    assert asked.exit_code == 2
    assert "openai:m is behind an API" in asked.stderr
