"""Rows with their numbers and places, whatever the file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from mrl_text.tables import SUFFIXES, open_table
from mrl_text.tables.file_types import table_files, table_stem, table_suffix
from mrl_text.tables.read import Row

TEXTS = ["over two\nlines", 'with "quotes", a comma\tand a tab', "é ü 漢\u2028", "last"]
ROWS = [{"id": f"i{number}", "text": text} for number, text in enumerate(TEXTS)]


def written(folder: Path, name: str) -> Path:
    """The rows in a file, as other packages write them."""
    file = folder / name
    if name.startswith("array"):
        file.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    elif name.endswith((".jsonl", ".json")):
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    elif name.endswith(".parquet"):
        parquet.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=2)
    elif ".csv" in name or ".tsv" in name:
        pd.DataFrame(ROWS).to_csv(file, sep="," if ".csv" in name else "\t", index=False)
    else:
        content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        file.write_bytes(gzip.compress(content) if name.endswith(".gz") else pa.compress(content, "zstd", asbytes=True))
    return file


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "array.json", "a.csv", "a.tsv", "a.parquet", "a.csv.gz", "a.jsonl.gz", "a.jsonl.zst"]
)
def test_every_type_gives_the_same_rows_from_any_start(tmp_path: Path, name: str) -> None:
    table = open_table(written(tmp_path, name))
    assert table.columns == ["id", "text"]
    assert table.count() == 4
    for skip in range(6):
        assert [(row.number, row.cells) for row in table.rows(skip)] == list(enumerate(ROWS, start=1))[skip:]
    assert table.typed == (".csv" not in name and ".tsv" not in name)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", 'a,b\n"x\ny",1\n\nz,2\nw\n', [(1, 2), (2, 5), (3, 6)]),
        ("a.tsv", 'a\tb\n"x\ny"\t1\n\nz\t2\nw\n', [(1, 2), (2, 5), (3, 6)]),
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}\n', [(1, 1), (2, 2), (3, 3)]),
        ("a.txt", "x\n\ny\n", [(1, 1), (2, 2), (3, 3)]),
        ("a.json", '[{"a": 1},\n\n\n{"a": 2}]', [(1, 1), (2, 2)]),
        ("a.json", '{\n"a": 1\n}', [(1, 1)]),
        ("one.csv", "a\nx\n\ny\n", [(1, 2), (2, 3), (3, 4)]),
    ],
)
def test_numbers_count_rows_and_lines_are_where_they_start(
    tmp_path: Path, name: str, content: str, expected: list[tuple[int, int]]
) -> None:
    (tmp_path / name).write_text(content)
    table = open_table(tmp_path / name)
    assert [(row.number, row.line) for row in table.rows()] == expected
    assert [(row.number, row.line) for row in table.rows(1)] == expected[1:]
    assert table.count() == len(expected)


def rows(file: Path, content: str) -> list[Row]:
    file.write_text(content)
    return list(open_table(file).rows())


def test_lines_that_an_open_quote_takes_along_are_counted(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", 'a,b\nx,1\n"y,2\nz,3\nw,4\n')
    assert [row.problem for row in found[:1]] == [None]
    assert "with it lines 3 to 5 are left out" in str(found[1].problem)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('a\tb\nx\t"open\n\ny\tsaid "\n', [["x", '"open'], ["y", 'said "']]),
        ('a\tb\nx\t"open\n\nclosed"\n', [["x", "open\n\nclosed"]]),
        ('a\tb\n"x\tstill"\t1\n', [["x\tstill", "1"]]),
        ('a\tb\n"x\ny\t1\nz"\t2\n', [None, ["y", "1"], ['z"', "2"]]),
        ('a\tb\n"x\ny"\t"z\nw"\n', [["x\ny", "z\nw"]]),
        ('a\n"x\ny"\n', [['"x'], ['y"']]),
    ],
)
def test_a_quote_of_tsv_that_could_be_either(tmp_path: Path, content: str, expected: list[Any]) -> None:
    found = [row for row in rows(tmp_path / "a.tsv", content) if not row.blank]
    assert [None if row.problem else list(row.cells.values()) for row in found] == expected


def test_a_record_of_many_lines_is_given_up_on(tmp_path: Path) -> None:
    found = rows(
        tmp_path / "a.tsv", 'a\tb\n"open\n' + "line\n" * 3000 + 'x\t1\n"whole\n' + "line\n" * 500 + 'end"\t2\n'
    )
    good = [row.cells for row in found if row.problem is None]
    assert good == [{"a": "x", "b": "1"}, {"a": "whole\n" + "line\n" * 500 + "end", "b": "2"}]
    assert len(found) - len(good) == 3001


def test_what_cannot_be_opened_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no data file at"):
        open_table(tmp_path / "missing.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder: give the path of a file"):
        open_table(tmp_path / "folder.csv")
    (tmp_path / "folder.csv" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="of a folder of texts make a file"):
        open_table(tmp_path / "folder.csv")
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(ValueError, match=f"none of the types that can be read: {', '.join(SUFFIXES)}"):
        open_table(tmp_path / "a.docx")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="none of the types"):
        open_table(tmp_path / "a.txt", [".csv"])


def test_columns_of_parquet_are_read_where_they_are_wanted(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "a.parquet"))
    assert [row.cells for row in table.rows(columns=["text", "other"])] == [{"text": text} for text in TEXTS]
    assert [row.cells for row in table.rows(3, columns=[])] == [{}]


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("a.csv", ".csv", "a"),
        ("A.b.JSONL.GZ", ".jsonl", "A.b"),
        ("a.txt.zst", ".txt", "a"),
        ("a.parquet.gz", ".gz", "a.parquet"),
        ("gz", "", "gz"),
        (".csv", "", ".csv"),
    ],
)
def test_endings(name: str, suffix: str, stem: str) -> None:
    assert (table_suffix(Path(name)), table_stem(Path(name))) == (suffix, stem)


def test_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.csv", "a.jsonl.gz", "notes.txt", "README.md", "deep/c.parquet"):
        (tmp_path / name).write_text("x")
    assert [file.name for file in table_files(tmp_path)] == ["a.jsonl.gz", "b.csv"]
    assert [file.name for file in table_files(tmp_path, deep=True)] == ["a.jsonl.gz", "b.csv", "c.parquet"]
    assert table_files(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_fewer_rows_of_parquet_are_read_together_where_they_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{number:04} " * 200 for number in range(40)]  # 1000 bytes
    table = pa.table({"id": [str(number) for number in range(40)], "text": texts})
    parquet.write_table(table, tmp_path / "long.parquet", row_group_size=20, use_dictionary=False)
    sizes: list[int] = []
    iter_batches = parquet.ParquetFile.iter_batches

    def spy(self: Any, batch_size: int, **options: Any) -> Any:
        sizes.append(batch_size)
        return iter_batches(self, batch_size, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", spy)
    monkeypatch.setattr("mrl_text.tables.read._BATCH_BYTES", 5100)
    opened = open_table(tmp_path / "long.parquet")
    assert [row.cells["text"] for row in opened.rows(columns=["text"])] == texts
    assert [row.cells["id"] for row in opened.rows(columns=["id"])] == [str(number) for number in range(40)]
    assert 4 <= sizes[0] <= 5 < sizes[1]
