"""Texts and pairs out of every kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mrl_text.adapt.texts import read_pairs, read_texts

ROWS = {"question": ["a, b", 'she said "no"', "two\nlines"], "n": [1, 2, 3], "answer": ["é", "NA", "None"]}


def written(folder: Path, name: str) -> Path:
    file = folder / name
    if file.suffix == ".parquet":
        parquet.write_table(pa.table(ROWS), file)
    elif file.suffix in (".jsonl", ".json"):
        rows = [dict(zip(ROWS, values, strict=True)) for values in zip(*ROWS.values(), strict=True)]
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        between = "\t" if file.suffix == ".tsv" else ","
        lines = [between.join(ROWS)]
        quoted = [['"' + str(value).replace('"', '""') + '"' for value in values] for values in ROWS.values()]
        lines += [between.join(values) for values in zip(*quoted, strict=True)]
        file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_every_text_column_of_a_table(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, name)
    assert read_texts([file]) == [*ROWS["question"], *ROWS["answer"]]
    assert read_texts([file], column="answer") == ROWS["answer"]
    with pytest.raises(ValueError, match="did you mean 'answer'"):
        read_texts([file], column="anwser")
    if file.suffix in (".csv", ".tsv"):
        assert read_texts([file], column="n") == ["1", "2", "3"]
    else:
        with pytest.raises(ValueError, match=r"3 problems to fix: .* 1: n is 1, not text"):
            read_texts([file], column="n")


def test_lines_without_blanks_and_repeats_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\r\n\r\n two \nThree\none\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("four\ntwo", encoding="utf-8")
    assert read_texts([tmp_path / "a.txt", str(tmp_path / "b.txt")]) == ["one", "two", "Three", "four"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.docx", b"x", "none of the types"),
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b"\n \n", "is empty"),
        ("latin.txt", "é".encode("latin-1"), "line 1: is not UTF-8"),
        ("a.parquet", b"nothing", "cannot be read as Parquet"),
        ("a.jsonl", b"{broken", "line 1: is not valid JSON"),
        ("empty.csv", b"", "is empty"),
        ("numbers.csv", b"a,b\n1,2\n", "holds no text"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_texts([tmp_path / name])
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        read_texts([tmp_path / "missing.txt"])
    with pytest.raises(ValueError, match="no file of texts"):
        read_texts([])


def test_what_is_text_in_one_row_is_text(tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes("body,n\na dog,1\ncaf\u00e9,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.csv, line 3: is not UTF-8 \(byte 0xe9 behind 'caf'\)"):
        read_texts([latin])
    words = pa.array(["a dog", "a cat", "a dog"]).dictionary_encode()
    parquet.write_table(
        pa.table({"text": words, "large": pa.array(["x", "y", None], pa.large_string())}), tmp_path / "a.parquet"
    )
    assert read_texts([tmp_path / "a.parquet"]) == ["a dog", "a cat", "x", "y"]
    (tmp_path / "mixed.jsonl").write_text('{"text": "a dog", "meta": 1}\n{"text": "a cat", "meta": "two"}\n')
    assert read_texts([tmp_path / "mixed.jsonl"], column="text") == ["a dog", "a cat"]
    assert read_texts([tmp_path / "mixed.jsonl"]) == ["a dog", "a cat", "two"]
    (tmp_path / "years.csv").write_text("text,n\n1984,1\n2001,2\n")
    assert read_texts([tmp_path / "years.csv"]) == ["1984", "2001"]
    (tmp_path / "lines.txt").write_text("one\u2028line\n\x0cpage\x0b\n", encoding="utf-8")
    assert read_texts([tmp_path / "lines.txt"]) == ["one\u2028line", "page"]


def test_quotes_in_tsv_are_characters(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tpositive\n"We shall leave,\tspeech\nand go."\tscene\nRain fell.\train\n')
    assert read_texts([tmp_path / "a.tsv"], column="text") == ['"We shall leave,', 'and go."', "Rain fell."]


def test_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("id,anchor,positive\n1,a,b\n2, ,c\n3,a,b\n4,d,e\n")
    assert read_pairs(file) == [("a", "b"), ("d", "e")]
    file.write_text("id,anchor,postive\n1,a,b\n")
    with pytest.raises(ValueError, match="for 'postive' did you mean 'positive'"):
        read_pairs(file)
    file.write_text("anchor,positive\na,b\nc,\n")
    with pytest.raises(ValueError, match="1 complete pair"):
        read_pairs(file)
    with pytest.raises(ValueError, match="none of the types"):
        read_pairs(tmp_path / "pairs.txt")


def test_ids_are_no_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"_id": f"doc-{row}", "title": f"title {row}", "text": f"text {row}", "year": f"19{row}0"} for row in range(3)
    ]
    file = tmp_path / "corpus.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with caplog.at_level("INFO", "mrl_text"):
        assert read_texts([file]) == [*(f"title {row}" for row in range(3)), *(f"text {row}" for row in range(3))]
    assert "corpus.jsonl: texts are in title, text" in caplog.text
    assert read_texts([file], column="_id") == ["doc-0", "doc-1", "doc-2"]
