from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_text import MatryoshkaEncoder
from mrl_text.search import AdaptiveIndex, Range, SearchPlan
from mrl_text.search.build import build
from mrl_text.search.faiss.store import FaissStore
from mrl_text.search.push import PushReport
from mrl_text.search.push_rows import encode_corpus
from mrl_text.search.query_model import load_model
from tests.conftest import WORDS
from tests.processes import Started

TEXTS = [f"the {WORDS[row % 40]} and a {WORDS[row * 7 % 43]} {WORDS[row // 40]}" for row in range(120)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"d{row}", "text": text} for row, text in enumerate(TEXTS)])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_jsonl(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def stored(folder: Path) -> tuple[list[str], list[str | None], np.ndarray]:
    index = AdaptiveIndex.load(folder)
    rows = np.arange(len(index))
    return list(index.ids), index.texts(rows), index.vectors(rows)


def test_the_index_holds_the_models_vectors_ids_and_texts(
    tmp_path: Path, corpus: Path, tiny_bert: Path, own_cache: Path
) -> None:
    report = build([corpus], tmp_path / "index", model=str(tiny_bert), shard_rows=50)
    ids, texts, vectors = stored(tmp_path / "index")
    assert (report.stored, report.pushed, report.left_out) == (120, 120, 0)
    assert ids == [f"d{row}" for row in range(120)]
    assert texts == TEXTS
    expected = MatryoshkaEncoder(str(tiny_bert)).encode_document(TEXTS)
    np.testing.assert_allclose(vectors.astype(np.float32), expected, atol=1e-3)  # float16
    assert AdaptiveIndex.load(tmp_path / "index").plan == report.plan
    assert not list((own_cache / "push").iterdir())


def test_rows_that_cannot_be_indexed_are_left_out_by_place_or_stop_the_build(tmp_path: Path, tiny_bert: Path) -> None:
    lines = [
        '{"_id": "a", "text": "the cat"}',
        '{"_id": "b", "text": "  "}',
        "",
        '{"_id": "c"',
        '{"_id": "d", "text": 7}',
    ]
    file = tmp_path / "corpus.jsonl"
    file.write_bytes("\n".join(lines).encode() + b'\n{"_id": "e", "text": "\xff"}\n{"_id": "f", "text": "a dog"}')
    report = build([file], tmp_path / "index", model=str(tiny_bert))
    assert stored(tmp_path / "index")[0] == ["a", "f"]
    assert report.left_out == 5  # a blank line is a row without text
    places = [problem.split(": ")[0] for problem in report.problems]
    assert places == [f"corpus.jsonl, row {row}" for row in (2, 3, 4, 5, 6)]
    with pytest.raises(ValueError, match=r"row 2 has no text.*--on-error skip"):
        build([file], tmp_path / "strict", model=str(tiny_bert), on_error="fail")
    report = build([file], tmp_path / "strict", model=str(tiny_bert))  # the same folder, now with another policy
    assert report.stored == 2


@pytest.mark.parametrize("shard_rows", [1, 10])
def test_an_id_that_comes_twice_is_an_error_that_names_both_rows_or_follows_the_policy(
    tmp_path: Path, tiny_bert: Path, shard_rows: int
) -> None:
    rows = [{"_id": name, "text": text} for name, text in (("a", "the cat"), ("b", "a dog"), ("a", "red car"))]
    file = write_jsonl(tmp_path / "c.jsonl", rows)

    def run(policy: Any) -> PushReport:
        folder = tmp_path / policy
        return build([file], folder, model=str(tiny_bert), on_duplicate=policy, shard_rows=shard_rows)

    with pytest.raises(ValueError, match=r"'a' is used twice: c.jsonl, row 1 and c.jsonl, row 3"):
        run("fail")
    for policy, text in (("first", "the cat"), ("last", "red car")):
        assert run(policy).duplicates == 1
        index = AdaptiveIndex.load(tmp_path / policy)
        assert sorted(index.ids) == ["a", "b"]
        hits = index.exact(MatryoshkaEncoder(str(tiny_bert)).encode([text]), 1)
        assert hits.ids[0, 0] == "a"
        assert index.texts(hits.positions[0]) == [text]


def test_rows_without_id_are_called_after_their_number_and_later_files_after_their_name(
    tmp_path: Path, tiny_bert: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"the cat {name}\n\na dog {name}\n", encoding="utf-8")
    build([tmp_path / "one.txt"], tmp_path / "index", model=str(tiny_bert))
    build([tmp_path / "one.txt", tmp_path / "two.txt"], tmp_path / "index", model=str(tiny_bert))
    assert stored(tmp_path / "index")[0] == ["1", "3", "two.txt:1", "two.txt:3"]


def test_a_second_call_encodes_only_what_is_new(
    tmp_path: Path, corpus: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SearchPlan(8, "flat", "int8", shortlist=30)
    build([corpus], tmp_path / "index", model=str(tiny_bert), limit=70)
    with AdaptiveIndex.load(tmp_path / "index") as index:
        assert len(index) == 70
        index.set_plan(plan)
        index.save()
    report = build([corpus], tmp_path / "index", model=str(tiny_bert))
    assert (report.stored, report.pushed, report.plan) == (120, 50, plan)
    monkeypatch.setattr("mrl_text.encoding.run.open_engine", lambda *_: pytest.fail("a model was loaded for nothing"))
    report = build([corpus], tmp_path / "index", model=str(tiny_bert))
    assert (report.stored, report.pushed, report.plan) == (120, 0, plan)
    ids, texts, _ = stored(tmp_path / "index")
    assert (ids, texts) == ([f"d{row}" for row in range(120)], TEXTS)


def test_columns_are_kept_beside_the_text(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [
        {"_id": f"d{row}", "text": TEXTS[row], "lang": ("en", "de")[row % 2], "year": 2000 + row} for row in range(9)
    ]
    rows[4].pop("year")
    one = write_jsonl(tmp_path / "one.jsonl", rows[:6])
    two = write_jsonl(tmp_path / "two.jsonl", rows[6:])
    build([one], tmp_path / "index", model=str(tiny_bert), keep=["lang", "year"])
    report = build([one, two], tmp_path / "index", model=str(tiny_bert), keep=["lang", "year"])
    assert (report.stored, report.pushed) == (9, 3)
    store = FaissStore.open(str(tmp_path / "index"))
    documents = store.documents([f"d{row}" for row in range(9)])
    kept = [document.columns for document in documents if document is not None]
    assert kept == [{name: row.get(name) for name in ("lang", "year")} for row in rows]
    [query] = MatryoshkaEncoder(str(tiny_bert)).encode_query([TEXTS[3]])[None]
    assert store.search(query, 2, where={"lang": "de", "year": Range(gte=2003)}).ids[0, 0] == "d3"
    with pytest.raises(ValueError, match=r"one.jsonl was indexed with lang, year kept: build into another folder"):
        build([one], tmp_path / "index", model=str(tiny_bert))
    with pytest.raises(ValueError, match="no column 'yaer'; did you mean 'year'"):
        build([one], tmp_path / "index", model=str(tiny_bert), keep=["yaer"])


def test_a_limit_that_ends_at_a_blank_line_does_not_end_the_file(tmp_path: Path, tiny_bert: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join([*TEXTS[:4], "", *TEXTS[4:8]]), encoding="utf-8")
    assert build([file], tmp_path / "index", model=str(tiny_bert), limit=5).stored == 4
    assert build([file], tmp_path / "index", model=str(tiny_bert)).stored == 8
    assert stored(tmp_path / "index")[0] == ["1", "2", "3", "4", "6", "7", "8", "9"]


def test_further_files_of_one_name_give_different_ids(tmp_path: Path, tiny_bert: Path) -> None:
    files = [tmp_path / place / "corpus.txt" for place in ("a", "b", "c")]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text("\n".join(TEXTS[2 * number : 2 * number + 2]), encoding="utf-8")
    build(files, tmp_path / "whole", model=str(tiny_bert))
    for upto in (1, 2, 3):
        build(files[:upto], tmp_path / "grown", model=str(tiny_bert))
    names = ["1", "2", "corpus.txt:1", "corpus.txt:2", "c/corpus.txt:1", "c/corpus.txt:2"]
    assert stored(tmp_path / "whole")[:2] == stored(tmp_path / "grown")[:2] == (names, TEXTS[:6])


@pytest.mark.slow
def test_an_id_of_a_further_file_that_is_in_the_index_follows_the_policy(tmp_path: Path, tiny_bert: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", [{"_id": "a", "text": TEXTS[0]}, {"_id": "b", "text": TEXTS[1]}])
    two = write_jsonl(tmp_path / "two.jsonl", [{"_id": "c", "text": TEXTS[2]}, {"_id": "b", "text": TEXTS[3]}])
    for policy, text in (("first", TEXTS[1]), ("last", TEXTS[3])):
        build([one], tmp_path / policy, model=str(tiny_bert))
        with pytest.raises(ValueError, match=r"the id 'b' of two.jsonl, row 2 is in the index already"):
            build([two], tmp_path / policy, model=str(tiny_bert))
        report = build([two], tmp_path / policy, model=str(tiny_bert), on_duplicate=policy)  # type: ignore[arg-type]
        assert (report.stored, report.duplicates) == (3, 1)
        ids, _, _ = stored(tmp_path / policy)
        assert sorted(ids) == ["a", "b", "c"]
        [document] = FaissStore.open(str(tmp_path / policy)).documents(["b"])
        assert document is not None
        assert document.text == text


def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, corpus: Path, tiny_bert: Path) -> None:
    folder = tmp_path / "index"
    build([corpus], folder, model=str(tiny_bert), limit=20)
    with pytest.raises(ValueError, match="indexed by the columns text"):
        build([corpus], folder, model=str(tiny_bert), text_columns=["_id"])
    other = tmp_path / "other"
    MatryoshkaEncoder(str(tiny_bert)).save(str(other))
    with pytest.raises(ValueError, match=f"built with {tiny_bert.resolve()}, not with {other.resolve()}"):
        build([corpus], folder, model=str(other))
    with corpus.open("a", encoding="utf-8") as stream:
        stream.write('{"_id": "new", "text": "the cat"}\n')
    with pytest.raises(ValueError, match="has changed since 20 rows"):
        build([corpus], folder, model=str(tiny_bert))
    foreign = tmp_path / "foreign"
    AdaptiveIndex.create(foreign, width=32).close()
    with pytest.raises(ValueError, match="was not built from files"):
        build([corpus], foreign, model=str(tiny_bert))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": []}, "no corpus file was named"),
        ({"corpus": ["missing.jsonl"]}, "no data file at"),
        ({"corpus": ["corpus.pdf"]}, "none of the types"),
        ({"text_columns": ["txet"]}, "no column 'txet'; did you mean 'text'"),
        ({"on_error": "ignore"}, "on_error 'ignore' is unknown"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"model": "/nowhere"}, "no model at"),
        ({"dims": [8, 64]}, "64"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    tmp_path: Path, corpus: Path, tiny_bert: Path, change: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {"corpus": [corpus], "model": str(tiny_bert), **change}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(options.pop("corpus"), tmp_path / "index", **options)
    assert not (tmp_path / "index").exists()


def test_a_corpus_without_a_text_column_is_told_how_to_name_it(tmp_path: Path, tiny_bert: Path) -> None:
    file = write_jsonl(tmp_path / "c.jsonl", [{"id": 1, "body": "the cat", "head": "dog"}])
    with pytest.raises(ValueError, match=r"has no column 'text' but 'id', 'body', 'head'.*--text-column"):
        build([file], tmp_path / "index", model=str(tiny_bert))
    build([file], tmp_path / "index", model=str(tiny_bert), text_columns=["head", "body"])
    assert stored(tmp_path / "index")[1] == ["dog the cat"]


def test_the_starting_plan_takes_a_sixth_of_the_width_and_cells_for_many_rows() -> None:
    plan = FaissStore.starting_plan
    assert plan(1000, 384, [16, 32, 64, 128, 384]) == SearchPlan(64, "flat", "float32", shortlist=200)
    many = plan(10**6, 768, [64, 128, 256, 768])
    assert (many.dim, many.kind, many.precision, many.effort) == (256, "ivf", "int4", 187)  # of 500 cells
    assert plan(10**6, 384, [384]).precision == "int8"
    assert plan(10, 384, [384]).single


def test_a_model_that_changed_since_is_warned_about(
    tmp_path: Path, corpus: Path, tiny_bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    MatryoshkaEncoder(str(tiny_bert)).save(str(model))
    build([corpus], tmp_path / "index", model=str(model), limit=10)
    store = FaissStore.open(str(tmp_path / "index"))
    load_model(store)
    assert "has changed" not in caplog.text
    (model / "config_sentence_transformers.json").write_text("{}", encoding="utf-8")
    load_model(store)
    assert "has changed" in caplog.text


def test_a_push_that_was_interrupted_is_no_duplicate_for_another_command(
    tmp_path: Path, corpus: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = FaissStore.add

    def interrupted(self: FaissStore, *rows: Any) -> None:
        if self.count() >= 50:
            self.confirm()
            raise KeyboardInterrupt
        add(self, *rows)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FaissStore, "add", interrupted)
        build([corpus], tmp_path / "index", model=str(tiny_bert), shard_rows=50)
    assert len(AdaptiveIndex.load(tmp_path / "index")) == 50
    more = write_jsonl(tmp_path / "more.jsonl", [{"_id": "more", "text": TEXTS[0]}])
    assert build([corpus, more], tmp_path / "index", model=str(tiny_bert)).stored == 121
    with pytest.raises(ValueError, match="in the index already"):
        again = write_jsonl(tmp_path / "again.jsonl", [{"_id": "d7", "text": TEXTS[0]}])
        build([again], tmp_path / "index", model=str(tiny_bert))


PROGRAM = """
import sys, time
from mrl_text.encoding import run
from mrl_text.search.build import build
from mrl_text.search.faiss.store import FaissStore
left, where = int(sys.argv[4]), sys.argv[5]
def counted(function):
    def call(*args):
        global left
        if not left:
            print("here", flush=True)
            time.sleep(300)  # to be killed
        left -= 1
        return function(*args)
    return call
if where == "encoding":
    run.write_atomically = counted(run.write_atomically)
else:
    FaissStore.add = counted(FaissStore.add)
build([sys.argv[1]], sys.argv[2], model=sys.argv[3], shard_rows=8)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_interrupted_goes_on_to_the_same_index(
    tmp_path: Path, corpus: Path, tiny_bert: Path, sent: signal.Signals, own_cache: Path
) -> None:
    build([corpus], tmp_path / "whole", model=str(tiny_bert), shard_rows=8)
    for place in (("3", "encoding"), ("2", "encoding"), ("0", "pushing")):
        process = Started(PROGRAM, corpus, tmp_path / "torn", tiny_bert, *place)
        assert process.stdout.readline() == "here\n", process.errors
        process.send_signal(sent)
        assert process.wait() != 0
        [work] = (own_cache / "push").iterdir()
        assert len(list((work / "shards").glob("[0-9]*"))) == {"3": 3, "2": 5, "0": 15}[place[0]]
    assert len(AdaptiveIndex.load(tmp_path / "torn")) == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mrl_text.encoding.engines.load_encoder", lambda _: pytest.fail("it was encoded already"))
        report = build([corpus], tmp_path / "torn", model=str(tiny_bert), shard_rows=8)
    assert report.stored == 120
    (ids, texts, vectors), (whole_ids, whole_texts, whole_vectors) = (
        stored(tmp_path / name) for name in ("torn", "whole")
    )
    assert (ids, texts) == (whole_ids, whole_texts)
    np.testing.assert_array_equal(vectors, whole_vectors)
    assert not list((own_cache / "push").iterdir())


@pytest.mark.slow
def test_the_seconds_are_those_of_the_whole_build(
    tmp_path: Path, corpus: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.5)
        return encode_corpus(*arguments, **options)

    monkeypatch.setattr("mrl_text.search.build.encode_corpus", slowly)
    assert build([corpus], tmp_path / "index", model=str(tiny_bert)).seconds >= 0.5
