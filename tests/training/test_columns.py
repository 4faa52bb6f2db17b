from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset

from mrl_text.training import data as data_module
from mrl_text.training.columns import LABEL, Label, Needs
from mrl_text.training.corpus import load_training_data
from mrl_text.training.data import load_source
from mrl_text.training.recipe import Recipe, SourceConfig
from mrl_text.training.streams import stream_sources

Row = dict[str, Any]


def write_csv(file: Path, rows: list[Row]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {name: json.dumps(cell) if isinstance(cell, list) else cell for name, cell in row.items()} for row in rows
        )


def write_jsonl(file: Path, rows: list[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(file: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), file)


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}
KINDS: dict[Label, tuple[list[Any], list[Any]]] = {
    "score": ([4.5, 0.0, -3.25], [4.5, 0.0, -3.25]),
    "similarity": ([-1.0, 0.25, 1.0], [-1.0, 0.25, 1.0]),
    "binary": ([1, 0, 1], [1, 0, 1]),
    "class": (["sport", "art", "sport"], [1, 0, 1]),
    "scores": ([[0.5, 2.0], [1.0, -3.0], [0.25, 0.5]], [[0.5, 2.0], [1.0, -3.0], [0.25, 0.5]]),
    "margins": ([0.5, 1.0, -2.0], [[0.5], [1.0], [-2.0]]),
    "vector": ([[0.5, 2.0], [1.0, -3.0], [0.25, 0.5]], [[0.5, 2.0], [1.0, -3.0], [0.25, 0.5]]),
}


def rows_with(cells: list[Any]) -> list[Row]:
    return [{"one": f"text {row}", "two": f"other {row}", "beside": cell} for row, cell in enumerate(cells)]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Row]], SourceConfig]:
    """A data set of the hub with these rows."""

    def put(rows: list[Row]) -> SourceConfig:
        monkeypatch.setattr(data_module, "load_dataset", lambda *_, **__: Dataset.from_list(rows))
        return SourceConfig(source="org/scored", columns=["one", "two", "beside"])

    return put


@pytest.mark.parametrize("place", [*WRITERS, "hub"])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_beside_texts_are_read_from_every_place(
    tmp_path: Path, hub: Callable[[list[Row]], SourceConfig], kind: Label, place: str
) -> None:
    cells, expected = KINDS[kind]
    rows = rows_with(cells)
    if place == "hub":
        source = hub(rows)
    else:
        WRITERS[place](tmp_path / f"rows.{place}", rows)
        source = SourceConfig(source=str(tmp_path / f"rows.{place}"), columns=["one", "two", "beside"])
    loaded = load_source(source, Needs(2, 2, kind))
    assert loaded.column_names == ["anchor", "positive", LABEL]
    assert loaded["anchor"][:] == [row["one"] for row in rows]
    assert loaded[LABEL][:] == expected
    assert isinstance(loaded.features[LABEL], ClassLabel) == (kind == "class")


@pytest.mark.parametrize("place", WRITERS)
def test_a_stream_reads_the_same_numbers(tmp_path: Path, place: str) -> None:
    rows = [*rows_with([0.5, 2.0, -1.0]), {"one": "text", "two": "other", "beside": None}]
    WRITERS[place](tmp_path / f"rows.{place}", rows)
    source = SourceConfig(source=str(tmp_path / f"rows.{place}"), columns=["one", "two", "beside"])
    stream = stream_sources([source], Needs(2, 2, "score"), seed=0)
    assert stream.column_names == ["anchor", "positive", LABEL]
    found = [row for row, _ in zip(stream, range(3), strict=False)]
    assert sorted((row["anchor"], row[LABEL]) for row in found) == [("text 0", 0.5), ("text 1", 2.0), ("text 2", -1.0)]


def test_rows_without_a_number_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_csv(tmp_path / "rows.csv", rows_with([1.5, "", 2.5]))
    source = SourceConfig(source=str(tmp_path / "rows.csv"), columns=["one", "two", "beside"])
    assert load_source(source, Needs(2, 2, "score"))[LABEL][:] == [1.5, 2.5]
    assert "1 of 3 rows have a blank cell and are left out" in caplog.text


@pytest.mark.parametrize("name", ["label", "labels", "score", "scores"])
def test_without_columns_the_names_of_sentence_transformers_are_known(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{name: 0.5, "negative": "c", "positive": "b", "anchor": "a", "other": 3}])
    source = SourceConfig(source=str(tmp_path / "rows.jsonl"))
    assert load_source(source, Needs(2, 2, "score")).to_list() == [{"anchor": "a", "positive": "b", LABEL: 0.5}]


def test_without_numbers_under_such_a_name_columns_are_asked_for(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"anchor": "a", "positive": "b", "points": 3}])
    with pytest.raises(ValueError, match=r"name those to use with columns: \[ANCHOR, POSITIVE, LABEL\]"):
        load_source(SourceConfig(source=str(tmp_path / "rows.jsonl")), Needs(2, 2, "score"))


@pytest.mark.parametrize(
    ("kind", "cell", "words"),
    [
        ("score", "high", "beside is 'high', not a number"),
        ("score", "nan", "beside is 'nan', not a finite number"),
        ("score", [1.0], "not a number"),
        ("similarity", 4.5, "beside is .*4.5.*, not from -1 to 1: scale it, or let CoSENTLoss go by the order alone"),
        ("binary", 2, "beside is .*2.*, not 0 or 1"),
        ("scores", ["a"], "beside is 'a', not a number"),
        ("vector", "[1, 2", r"beside is '\[1, 2', not a list of numbers"),
    ],
)
@pytest.mark.parametrize("place", ["csv", "hub"])
def test_a_cell_that_is_something_else_is_named_with_its_row(
    tmp_path: Path, hub: Callable[[list[Row]], SourceConfig], kind: Label, cell: Any, words: str, place: str
) -> None:
    if place == "hub":
        source, where = hub(rows_with([cell])), "org/scored, row 1: "
        words = words.replace("a list of numbers", "a number").replace("a finite number", "a number")
    else:
        write_csv(tmp_path / "rows.csv", rows_with([cell]))
        source = SourceConfig(source=str(tmp_path / "rows.csv"), columns=["one", "two", "beside"])
        where = "rows.csv, line 2: "
    with pytest.raises(ValueError, match=where + ".*" + words):
        load_source(source, Needs(2, 2, kind))


def test_classes_need_to_be_several(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", rows_with([3, 3]))
    source = SourceConfig(source=str(tmp_path / "rows.jsonl"), columns=["one", "beside"])
    with pytest.raises(ValueError, match="all rows are of the class '3': at least two"):
        load_source(source, Needs(1, 1, "class"))


def test_a_row_with_another_number_is_no_repeat(tmp_path: Path) -> None:
    cells = [("a", "b", 0.5), ("a", "b", 0.75), ("A", " b", 0.5), ("b", "a", 0.5)]
    rows = [dict(zip(("one", "two", "beside"), row, strict=True)) for row in cells]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    scored = {"source": str(tmp_path / "rows.jsonl"), "columns": ["one", "two", "beside"]}
    pairs = {**scored, "columns": ["one", "two"], "loss": {"name": "nested_infonce"}}
    loss = {"name": "matryoshka", "inner": "CoSENTLoss", "dims": [8]}
    recipe = Recipe.model_validate({"model": {"name": "m"}, "data": {"train": [scored, pairs]}, "loss": loss})
    first, second = load_training_data(recipe).values()
    assert first[LABEL][:] == [0.5, 0.75, 0.5]
    assert len(second) == 2, "what the scored pairs have seen is new to a loss of another kind"
