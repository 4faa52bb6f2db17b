"""A file of queries gives what its queries give one by one."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval
from typer.testing import CliRunner

pytest.importorskip("faiss")

from mrl_text.cli import app
from tests.conftest import WORDS, invoke

TEXTS = [f"the {WORDS[row % 40]} and a {WORDS[row * 7 % 43]} {WORDS[row // 40]}" for row in range(120)]
QUERIES = {"q 1": "the red cat", "q2": "a dog", "q3": "green train"}


@pytest.fixture(scope="module")
def home(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that keeps a column, and a file of queries with a bad row."""
    folder = tmp_path_factory.mktemp("queries")
    rows = [{"_id": f"d{row}", "text": text, "lang": ("en", "de")[row % 2]} for row, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    built = invoke("index", "build", folder / "corpus.jsonl", "-o", folder / "index", "-m", tiny_bert, "--keep", "lang")
    assert built.exit_code == 0, built.output
    lines = [json.dumps({"qid": name, "query": text}) for name, text in QUERIES.items()]
    (folder / "queries.jsonl").write_text("\n".join([*lines[:2], '{"qid": "bad", "query": 7}', "", lines[2]]))
    return folder


@pytest.fixture(autouse=True)
def _own_place(command_line: None) -> None:
    pass


def single(home: Path, text: str, *options: Any) -> list[dict[str, Any]]:
    found = json.loads(invoke("search", home / "index", text, "--json", *options).stdout)["results"]
    return list(found)


def of_file(home: Path, *options: Any) -> Any:
    return invoke("search", home / "index", "--queries", home / "queries.jsonl", *options)


def test_each_query_gives_what_it_gives_alone(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = of_file(home, "-k", 5, "--where", "lang=en")
    assert done.exit_code == 0, done.output
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["id"], one["query"]) for one in answers] == list(QUERIES.items())
    for one in answers:
        expected = single(home, one["query"], "-k", 5, "--where", "lang=en")
        assert [{**row, "score": round(row["score"], 4)} for row in one["results"]] == expected
        assert {row["columns"]["lang"] for row in one["results"]} == {"en"}
        assert len(expected) == 5
    assert caplog.messages == ["left out: queries.jsonl, line 3 query is 7, not text"]


def test_batches_change_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of_file(home).stdout
    monkeypatch.setattr("mrl_text.search.query_file._TOGETHER", 2)
    assert [json.loads(one)["id"] for one in of_file(home).stdout.splitlines()] == list(QUERIES)
    for one, other in zip(of_file(home).stdout.splitlines(), whole.splitlines(), strict=True):
        assert [row["id"] for row in json.loads(one)["results"]] == [row["id"] for row in json.loads(other)["results"]]


def test_csv_and_trec_hold_the_same_results(home: Path, tmp_path: Path) -> None:
    answers = [json.loads(line) for line in of_file(home, "--exact").stdout.splitlines()]
    expected = {one["id"]: {row["id"]: row["score"] for row in one["results"]} for one in answers}
    done = of_file(home, "--exact", "-o", tmp_path / "out.csv.gz")
    assert done.stdout == f"{tmp_path / 'out.csv.gz'}: 3 queries, 10 results each at most, as csv\n"
    (tmp_path / "one.txt").write_text(TEXTS[0])
    done = invoke("search", home / "index", "--queries", tmp_path / "one.txt", "-k", 1, "-o", tmp_path / "one.csv")
    assert done.stdout == f"{tmp_path / 'one.csv'}: 1 query, 1 result each at most, as csv\n"
    with gzip.open(tmp_path / "out.csv.gz", "rt", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row["query-id"], {})[row["corpus-id"]] = float(row["score"])
    assert found == expected
    assert [row["rank"] for row in rows[:10]] == [str(rank) for rank in range(1, 11)]
    refused = of_file(home, "-o", tmp_path / "out.trec")
    assert refused.exit_code == 2
    assert "the id 'q 1' has a blank" in refused.stderr
    assert not (tmp_path / "out.trec").exists()
    (tmp_path / "queries.tsv").write_text("_id\ttext\n" + "".join(f"x{row}\t{TEXTS[row]}\n" for row in range(4)))
    done = invoke(
        "search", home / "index", "--queries", tmp_path / "queries.tsv", "--format", "trec", "--exact", "-k", 3
    )
    run = pytrec_eval.parse_run(done.stdout.splitlines(keepends=True))
    assert {name: len(one) for name, one in run.items()} == {f"x{row}": 3 for row in range(4)}
    assert all(max(one, key=one.get) == f"d{name[1:]}" for name, one in run.items())  # a text finds itself


def test_standard_input_holds_queries_too(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    arguments = ["search", str(home / "index"), "--queries", "-", "-k", "1"]
    done = CliRunner().invoke(app, arguments, input=f"{TEXTS[7]}\n\n{TEXTS[9]}\n")
    assert done.exit_code == 0, done.output
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["id"], one["results"][0]["id"]) for one in answers] == [("1", "d7"), ("3", "d9")]
    assert "standard input is read as .txt" in caplog.messages


def test_nothing_found_is_said(home: Path) -> None:
    done = of_file(home, "--where", "lang=fr", "--format", "csv")
    assert (done.exit_code, done.stdout) == (0, "query-id,corpus-id,rank,score\n")
    assert "3 of 3 queries found nothing: no row of" in done.stderr


def test_an_id_that_comes_twice_is_refused_before_the_model_is_loaded(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_text.loading.load", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "twice.csv").write_text("id,text\na,the cat\na,a dog\n")
    (tmp_path / "none.csv").write_text("id,text\na,\n")
    (tmp_path / "other.csv").write_text("id,body\na,the cat\n")
    for name, message in (
        ("twice", "the id 'a' comes twice in"),
        ("none", "has no query: no row of it has text in text"),
        ("other", "has the columns 'id', 'body'; it needs text or query or question"),
    ):
        refused = invoke("search", home / "index", "--queries", tmp_path / f"{name}.csv")
        assert refused.exit_code == 2
        assert message in refused.stderr
