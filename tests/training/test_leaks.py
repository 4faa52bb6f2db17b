from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mrl_text.training.leaks import evaluation_hashes, leaked_rows
from mrl_text.training.texts import normalised, text_hash, text_hashes

TEXTS = ["A man is playing the guitar.", "Zwei Hunde laufen durch den Schnee", "今日はとても天気がいいですね"]


def hashes(*texts: str) -> list[int]:
    return sorted(text_hash(text) for text in texts)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_every_cell_of_a_file_counts(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    rows = [{"number": 7, "one": text, "list": [f"an inner text about {text}"]} for text in TEXTS]
    flat = [[str(row["number"]), str(row["one"]), str(row["list"])] for row in rows]
    expected = [*TEXTS, *(f"an inner text about {text}" for text in TEXTS)]
    if name.endswith("sv"):
        with file.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, delimiter="\t" if name.endswith("tsv") else ",").writerows(flat)
        expected = [*TEXTS, *(row[2] for row in flat)]
    elif name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif name.endswith("jsonl"):
        file.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    else:
        file.write_text(json.dumps({"data": rows}), encoding="utf-8")
    found = evaluation_hashes([str(file)])
    assert found.dtype == np.uint64
    assert found.tolist() == hashes(*expected)


def test_a_file_is_read_whole_whatever_is_in_it(tmp_path: Path) -> None:
    quotes = [
        '"We shall leave at dawn, all of us',
        'and nobody of them will follow us."',
        "The rain fell on the plain.",
    ]
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"{text}\tspeech\n" for text in quotes))
    assert evaluation_hashes([str(tmp_path / "a.tsv")]).tolist() == hashes(*quotes)
    (tmp_path / "long.csv").write_text(f"text,n\n{TEXTS[0]} {'x' * 200_000},1\n")
    assert evaluation_hashes([str(tmp_path / "long.csv")]).tolist() == hashes(f"{TEXTS[0]} {'x' * 200_000}")
    (tmp_path / "lines.json").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (tmp_path / "array.json").write_text(json.dumps([{"text": text} for text in TEXTS], indent=1))
    (tmp_path / "object.json").write_text(json.dumps({"data": [{"text": text} for text in TEXTS]}, indent=1))
    (tmp_path / "a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    for name in ("lines.json", "array.json", "object.json", "a.txt"):
        assert evaluation_hashes([str(tmp_path / name)]).tolist() == hashes(*TEXTS), name
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3\n4\n")
    with pytest.raises(ValueError, match=r"data.check_against: .*ragged.csv has 2 problems to fix: ragged.csv, line 3"):
        evaluation_hashes([str(tmp_path / "ragged.csv")])


def test_a_folder_is_read_with_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n", encoding="utf-8")
    (tmp_path / "corpus.jsonl").write_text(
        json.dumps({"_id": "d1", "title": "Guitars", "text": TEXTS[0], "metadata": {}}) + "\n", encoding="utf-8"
    )
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": TEXTS[1]}) + "\n", encoding="utf-8")
    assert evaluation_hashes([str(tmp_path)]).tolist() == hashes(TEXTS[0], TEXTS[1])


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("yes", False),
        ("a brown dog", False),
        ("  a   brown dog ", False),
        ("a brown dog runs", True),
        ("犬が走る", False),
        ("茶色い犬が公園を走っている", True),
    ],
)
def test_short_texts_say_nothing(tmp_path: Path, text: str, counts: bool) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}), encoding="utf-8")
    assert evaluation_hashes([str(tmp_path / "a.jsonl")]).tolist() == (hashes(text) if counts else [])


def test_case_and_spacing_do_not_hide_a_text() -> None:
    evaluation = np.array(hashes(TEXTS[0], "Straße und Haus und Hof"), dtype=np.uint64)
    rows = [
        ["something else", "A  man is\nplaying THE guitar. "],
        ["A man is playing a guitar.", "neither of them"],
        ["STRASSE und haus und hof", "in the first column"],
    ]
    found = leaked_rows(np.stack([text_hashes(row) for row in rows]), evaluation)
    assert found.tolist() == [True, False, True]
    assert leaked_rows(np.zeros((2, 2), np.uint64), np.zeros(0, np.uint64)).tolist() == [False, False]


def test_hashes_differ_where_normalised_texts_do() -> None:
    texts = [f"{first} {second}" for first in "abcdefgh" for second in range(500)]
    assert len(set(text_hashes(texts).tolist())) == len(texts)
    assert text_hash("lone \ud800 surrogate") != text_hash("lone surrogate")
    assert normalised(" A\u00a0 B\t") == "a b"


def test_what_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data.check_against: nothing at .*missing.csv"):
        evaluation_hashes([str(tmp_path / "missing.csv")])
    (tmp_path / "notes.md").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match=r"data.check_against: .*notes.md is no file or folder of .jsonl"):
        evaluation_hashes([str(tmp_path / "notes.md")])
    (tmp_path / "broken.jsonl").write_text('{"a": ', encoding="utf-8")
    with pytest.raises(ValueError, match=r"data.check_against: .*broken.jsonl, line 1: is not valid JSON"):
        evaluation_hashes([str(tmp_path / "broken.jsonl")])


def test_an_unknown_task_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no task named 'STSBenchmrk'; did you mean 'STSBenchmark'"):
        evaluation_hashes(["STSBenchmrk"])


def test_a_check_that_could_not_be_done_is_said_plainly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert evaluation_hashes(["STSBenchmark"], str(tmp_path)).tolist() == []
    assert "NOT CHECKED: whether texts of STSBenchmark are in the training data" in caplog.text
    assert "data.mirror=FOLDER" in caplog.text
    assert "--" not in caplog.text, "an option of another command"


@pytest.mark.data
@pytest.mark.parametrize(
    ("task", "file", "columns", "other"),
    [
        ("STSBenchmark", "mteb/stsbenchmark-sts", ["sentence1", "sentence2"], True),
        ("SciFact", "mteb/scifact", ["text"], False),
    ],
)
def test_a_task_counts_with_the_splits_it_is_evaluated_on(
    test_data: Path, task: str, file: str, columns: list[str], other: bool
) -> None:
    mirror = test_data / "mteb-mirror"
    found = set(evaluation_hashes([task], str(mirror)).tolist())
    tests = [path for path in (mirror / file).rglob("*.parquet") if "qrels" not in str(path)]
    evaluated = [path for path in tests if other is False or "test" in path.name]
    texts = {text for path in evaluated for name in columns for text in pq.read_table(path)[name].to_pylist()}
    long = [text for text in texts if len(text.split()) >= 4]
    assert len(long) > 1000
    missing = [text for text in long if text_hash(text) not in found]
    assert len(missing) < (1 if other else len(long) * 0.2)  # SciFact has queries of other splits in one file
    if other:
        train = next(path for path in tests if "train" in path.name)
        only_train = set(pq.read_table(train)["sentence1"].to_pylist()) - texts
        assert sum(text_hash(text) in found for text in only_train) < len(only_train) * 0.05
