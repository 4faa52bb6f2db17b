from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mrl_text import MatryoshkaEncoder
from mrl_text.search import AdaptiveIndex, SearchPlan
from mrl_text.search import build as building
from mrl_text.search.build import build, default_plan, load_model
from mrl_text.sources import open_source
from tests.conftest import WORDS

TEXTS = [f"the {WORDS[row % 40]} and a {WORDS[row * 7 % 43]} {WORDS[row // 40]}" for row in range(120)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"d{row}", "text": text} for row, text in enumerate(TEXTS)])


def write_jsonl(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def stored(folder: Path) -> tuple[list[str], list[str | None], np.ndarray]:
    index = AdaptiveIndex.load(folder)
    rows = np.arange(len(index))
    return list(index.ids), index.texts(rows), index.vectors(rows)


def test_the_index_holds_the_models_vectors_ids_and_texts(tmp_path: Path, corpus: Path, tiny_bert: Path) -> None:
    report = build([corpus], tmp_path / "index", model=str(tiny_bert), chunk_rows=50)
    ids, texts, vectors = stored(tmp_path / "index")
    assert (report.rows, report.encoded, report.left_out) == (120, 120, 0)
    assert ids == [f"d{row}" for row in range(120)]
    assert texts == TEXTS
    expected = MatryoshkaEncoder(str(tiny_bert)).encode_document(TEXTS)
    np.testing.assert_allclose(vectors.astype(np.float32), expected, atol=1e-3)  # float16
    assert not AdaptiveIndex.load(tmp_path / "index").facts["build"]["plan"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet", "txt"])
def test_every_format_gives_the_same_rows_from_any_start(tmp_path: Path, suffix: str) -> None:
    texts = ["plain", 'with "quotes", a comma\tand a tab', "é ü 漢", "last"]
    if suffix in ("csv", "tsv"):
        texts[0] = "over two\nlines"
    file = tmp_path / f"corpus.{suffix}"
    rows = [{"id": f"i{number}", "text": text, "other": number} for number, text in enumerate(texts)]
    if suffix == "jsonl":
        write_jsonl(file, rows)
    elif suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=2)
    elif suffix == "txt":
        file.write_text("\ufeff" + "\n".join(texts), encoding="utf-8")
    else:
        import pandas as pd

        pd.DataFrame(rows).to_csv(file, sep="," if suffix == "csv" else "\t", index=False)
    source = open_source(file)
    assert [row.text for row in source.rows()] == texts
    if suffix != "txt":
        assert [row.id for row in source.rows()] == ["i0", "i1", "i2", "i3"]
    for skip in range(5):
        assert [(row.number, row.text) for row in source.rows(skip)] == list(enumerate(texts, 1))[skip:]
    assert source.count() == 4 + (suffix in ("csv", "tsv"))  # a line break inside a cell counts


def test_beir_titles_come_before_texts(tmp_path: Path) -> None:
    rows = [
        {"_id": "1", "title": "a title", "text": "a text"},
        {"_id": 2, "text": "only text"},
        {"_id": "3", "title": "t"},
    ]
    found = list(open_source(write_jsonl(tmp_path / "c.jsonl", rows)).rows())
    assert [(row.id, row.text) for row in found] == [("1", "a title a text"), ("2", "only text"), ("3", "t")]


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
    assert report.left_out == 4
    places = [problem.split(": ")[0] for problem in report.problems]
    assert places == [f"corpus.jsonl, row {row}" for row in (2, 4, 5, 6)]
    with pytest.raises(ValueError, match=r"row 2: has no text.*--on-error skip"):
        build([file], tmp_path / "strict", model=str(tiny_bert), on_error="fail")
    report = build([file], tmp_path / "strict", model=str(tiny_bert))  # the same folder, now with another policy
    assert report.rows == 2


@pytest.mark.parametrize("chunk_rows", [1, 10])
def test_an_id_that_comes_twice_is_an_error_that_names_both_rows_or_follows_the_policy(
    tmp_path: Path, tiny_bert: Path, chunk_rows: int
) -> None:
    rows = [{"_id": name, "text": text} for name, text in (("a", "the cat"), ("b", "a dog"), ("a", "red car"))]
    file = write_jsonl(tmp_path / "c.jsonl", rows)

    def run(policy: Any) -> building.BuildReport:
        folder = tmp_path / policy
        return build([file], folder, model=str(tiny_bert), on_duplicate=policy, chunk_rows=chunk_rows)

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
    build([corpus], tmp_path / "index", model=str(tiny_bert), limit=70, chunk_rows=32, plan=plan)
    assert len(AdaptiveIndex.load(tmp_path / "index")) == 70
    report = build([corpus], tmp_path / "index", model=str(tiny_bert), chunk_rows=32)
    assert (report.rows, report.encoded, report.plan) == (120, 50, plan)
    monkeypatch.setattr(building, "_load_encoder", lambda *_: pytest.fail("a model was loaded to do nothing"))
    report = build([corpus], tmp_path / "index", model=str(tiny_bert))
    assert (report.rows, report.encoded, report.plan) == (120, 0, plan)
    ids, texts, _ = stored(tmp_path / "index")
    assert (ids, texts) == ([f"d{row}" for row in range(120)], TEXTS)


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
        ({"corpus": ["missing.jsonl"]}, "no corpus file at"),
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


def test_the_default_plan_takes_a_sixth_of_the_width_and_cells_for_many_rows() -> None:
    assert default_plan(1000, 384, [16, 32, 64, 128, 384]) == SearchPlan(64, "flat", "float32", shortlist=200)
    many = default_plan(10**6, 768, [64, 128, 256, 768])
    assert (many.dim, many.kind, many.precision, many.effort) == (256, "ivf", "int4", 187)  # of 500 cells
    assert default_plan(10**6, 384, [384]).precision == "int8"
    assert default_plan(10, 384, [384]).single


def test_a_model_that_changed_since_is_warned_about(
    tmp_path: Path, corpus: Path, tiny_bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    MatryoshkaEncoder(str(tiny_bert)).save(str(model))
    build([corpus], tmp_path / "index", model=str(model), limit=10)
    index = AdaptiveIndex.load(tmp_path / "index")
    load_model(index)
    assert "has changed" not in caplog.text
    (model / "config_sentence_transformers.json").write_text("{}", encoding="utf-8")
    load_model(index)
    assert "has changed" in caplog.text


PROGRAM = """
import sys, time
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.search import build as building
from mrl_text.search.faiss.index import AdaptiveIndex
left, where = int(sys.argv[4]), sys.argv[5]
save, encode = AdaptiveIndex.save, MatryoshkaEncoder.encode_document
def wait():
    print("here", flush=True)
    time.sleep(300)  # to be killed
def counted_save(self, *args):
    global left
    done = save(self, *args)
    left -= 1
    if not left and where == "between":
        wait()
    return done
def counted_encode(self, *args, **kwargs):
    vectors = encode(self, *args, **kwargs)
    if left <= 0:
        wait()
    return vectors
AdaptiveIndex.save, MatryoshkaEncoder.encode_document = counted_save, counted_encode
building.build([sys.argv[1]], sys.argv[2], model=sys.argv[3], chunk_rows=8)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_interrupted_goes_on_to_the_same_index(
    tmp_path: Path, corpus: Path, tiny_bert: Path, sent: signal.Signals
) -> None:
    build([corpus], tmp_path / "whole", model=str(tiny_bert), chunk_rows=8)
    arguments = [sys.executable, "-c", PROGRAM, str(corpus), str(tmp_path / "torn"), str(tiny_bert)]
    for place in (("3", "between"), ("2", "within")):  # two saves; the next chunk, encoded and not yet saved
        process = subprocess.Popen([*arguments, *place], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        os.kill(process.pid, sent)
        process.wait()
        process.stdout.close()
        assert process.returncode != 0
    rows = len(AdaptiveIndex.load(tmp_path / "torn"))
    assert rows == 40  # five chunks of 8 were saved
    report = build([corpus], tmp_path / "torn", model=str(tiny_bert), chunk_rows=8)
    assert report.encoded == 120 - rows
    (ids, texts, vectors), (whole_ids, whole_texts, whole_vectors) = (
        stored(tmp_path / name) for name in ("torn", "whole")
    )
    assert (ids, texts) == (whole_ids, whole_texts)
    np.testing.assert_array_equal(vectors, whole_vectors)
