"""Which columns of a corpus are ids and texts, and BEIR's queries and judgements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mrl_text.tables import Problems
from mrl_text.tables.beir import read_judgements, read_queries
from mrl_text.tables.corpus import id_prefixes, open_corpus


def lines(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_titles_come_before_texts_whichever_row_has_them(tmp_path: Path) -> None:
    file = lines(
        tmp_path / "c.jsonl",
        {"text": "only text"},
        {"_id": "2", "title": "a title", "text": "a text", "lang": "en"},
        {"_id": 3, "title": "t"},
    )
    found = list(open_corpus(file, keep=["lang"]).texts())
    assert [(row.id, row.text) for row in found] == [(None, "only text"), ("2", "a title a text"), ("3", "t")]
    assert [row.cells for row in found] == [{"lang": None}, {"lang": "en"}, {"lang": None}]


def test_ids_are_text_or_whole_numbers(tmp_path: Path) -> None:
    file = lines(tmp_path / "c.jsonl", *({"id": one, "text": "t"} for one in ("a", 7, "", " ", None, 1.5, True, ["x"])))
    found = list(open_corpus(file).texts())
    assert [row.id for row in found] == ["a", "7", None, None, None, None, None, None]
    assert [row.problem for row in found[5:]] == [
        f"has the id {one}, neither text nor a whole number" for one in ("1.5", "True", "['x']")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_columns": ["txt"]}, "has no column 'txt'; did you mean 'text'"),
        ({"id_column": "key"}, "has no column 'key'"),
        ({"keep": ["lang"]}, "has no column 'lang'"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_corpus(lines(tmp_path / "c.jsonl", {"text": "t"}), **options)
    (tmp_path / "c.txt").write_text("t\n")
    with pytest.raises(ValueError, match="it has no columns to choose"):
        open_corpus(tmp_path / "c.txt", id_column="text")
    with pytest.raises(ValueError, match="no column 'text' but 'body': say which to encode with --text-column"):
        open_corpus(lines(tmp_path / "b.jsonl", {"body": "t"}))
    with pytest.raises(ValueError, match=r"b.jsonl, line 1: is \[1\], not a JSON object|b.jsonl, row 1: is 1, not"):
        open_corpus(lines(tmp_path / "b.jsonl", [1]))


def test_prefixes_tell_files_of_one_name_apart_and_stay() -> None:
    paths = [Path(one) for one in ("/a/x.csv", "/b/x.csv", "/c/x.csv", "/d/c/x.csv", "/d/y.csv", "/c/b/x.csv")]
    expected = ["", "x.csv:", "c/x.csv:", "d/c/x.csv:", "y.csv:", "b/x.csv:"]
    for count in range(1, 7):
        assert id_prefixes(paths[:count]) == expected[:count]


def test_queries_are_called_after_their_lines_and_split_at_line_ends_only(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("one\u2028query\n\nanother\x85one\x0c\r\n last\n", encoding="utf-8")
    assert read_queries(tmp_path / "q.txt") == (["1", "3", "4"], ["one\u2028query", "another\x85one", "last"])


@pytest.mark.parametrize("column", ["text", "query", "question"])
@pytest.mark.parametrize("name", ["_id", "id", "query-id", "qid"])
def test_queries_of_tables(tmp_path: Path, column: str, name: str) -> None:
    file = lines(tmp_path / "q.jsonl", {name: 7, column: "a"}, {column: "b", name: "x"})
    assert read_queries(file) == (["7", "x"], ["a", "b"])
    lines(file, {name: 7, column: "a"}, {column: "b", name: "7"}, {column: "c"})
    with pytest.raises(ValueError, match=rf"2 problems .* 2: {name} '7' is used before; .* 3: {name} is missing"):
        read_queries(file)


@pytest.mark.parametrize("written", ["{}", "{}.0"])
@pytest.mark.parametrize("typed", [True, False])
def test_a_grade_is_the_same_however_it_is_written(tmp_path: Path, written: str, typed: bool) -> None:
    rows = [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d1", 1)]
    file = tmp_path / ("qrels.jsonl" if typed else "qrels.tsv")
    if typed:
        shape = '{{"query-id": "{}", "corpus-id": "{}", "score": {}}}'
        file.write_text("\n".join(shape.format(query, name, written.format(grade)) for query, name, grade in rows))
    else:
        table = ["query-id\tcorpus-id\tscore"]
        file.write_text(
            "\n".join([*table, *(f"{query}\t{name}\t{written.format(grade)}" for query, name, grade in rows)])
        )
    assert read_judgements(file, Problems(file)) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}


def test_two_grades_of_a_pair_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "qrels.tsv"
    file.write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td1\t0\nq1\td1\t2\n")
    with pytest.raises(ValueError, match=r"qrels.tsv, line 3: judges 'q1' and 'd1' as 0, an earlier line as 2"):
        read_judgements(file, Problems(file))
