from __future__ import annotations

import csv
import gzip
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from mrl_text.training import data as data_module
from mrl_text.training.data import check_source, load_source, load_sources
from mrl_text.training.recipe import SourceConfig

Row = dict[str, Any]
ROWS: list[Row] = [
    {"anchor": 'a "quoted", comma', "positive": "the first\nof two lines", "negative": "tab\there"},
    {"anchor": "grüße 日本 🙂", "positive": " blanks around ", "negative": "back\\slash"},
    {"anchor": "12 monkeys", "positive": "a film's title", "negative": "; semicolon | bar"},
]


def write_csv(path: Path, rows: list[Row], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_tsv(path: Path, rows: list[Row]) -> None:
    write_csv(path, rows, "\t")


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_parquet_folder(path: Path, rows: list[Row]) -> None:
    path.mkdir()
    write_parquet(path / "part-0.parquet", rows[:1])
    write_parquet(path / "part-1.parquet", rows[1:])
    (path / "README.md").write_text("not data", encoding="utf-8")


FORMATS = {
    "pairs.csv": write_csv,
    "pairs.tsv": write_tsv,
    "pairs.jsonl": write_jsonl,
    "pairs.ndjson": write_jsonl,
    "pairs.json": write_json,
    "pairs.parquet": write_parquet,
    "folder": write_parquet_folder,
}


def source(path: Path, **options: Any) -> SourceConfig:
    return SourceConfig(source=str(path), **options)


def jsonl(folder: Path, rows: list[Row], name: str = "rows.jsonl") -> Path:
    write_jsonl(folder / name, rows)
    return folder / name


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name, ROWS)
    loaded = load_source(source(tmp_path / name))
    assert loaded.column_names == ["anchor", "positive", "negative"]
    assert loaded.to_list() == ROWS


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "pairs.jsonl", "pairs.parquet"])
def test_words_that_some_readers_take_for_missing_stay_words(tmp_path: Path, name: str) -> None:
    rows = [{"anchor": word, "positive": f"the word {word}"} for word in ("None", "null", "NA", "nan", "fine")]
    FORMATS[name](tmp_path / name, rows)
    assert load_source(source(tmp_path / name)).to_list() == rows


def test_a_file_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = jsonl(tmp_path, ROWS[:1])
    assert load_source(source(file)).to_list() == ROWS[:1]
    jsonl(tmp_path, ROWS[1:])
    assert load_source(source(file)).to_list() == ROWS[1:]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["question", "answer"], {"anchor": "q", "positive": "a"}),
        (["positive", "anchor"], {"anchor": "p", "positive": "x"}),
        (["anchor", "negative", "positive"], {"anchor": "x", "positive": "n", "negative": "p"}),
        (
            ["question", "answer", "positive", "anchor", "negative"],
            {"anchor": "q", "positive": "a", "negative": "p", "negative_2": "x", "negative_3": "n"},
        ),
        (["answer"], {"anchor": "a"}),
        (None, {"anchor": "x", "positive": "p", "negative": "n"}),
    ],
    ids=["renamed", "swapped", "rotated", "several negatives", "texts alone", "by their names"],
)
def test_columns_become_anchor_positive_and_negatives_in_their_order(
    tmp_path: Path, columns: list[str] | None, expected: Row
) -> None:
    row = {"extra": 1, "negative": "n", "positive": "p", "anchor": "x", "question": "q", "answer": "a"}
    loaded = load_source(source(jsonl(tmp_path, [row]), columns=columns))
    assert loaded.column_names == list(expected)
    assert loaded.to_list() == [expected]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["anchor", "answer"],
            r"has no column 'answer'; it has anchor, text, year: name those to use with columns: \[ANCHOR, POSITIVE\]$",
        ),
        (None, r"has the columns anchor, text, year: name those to use with columns: \[ANCHOR, POSITIVE\]"),
        (
            ["anchor", "year"],
            "rows.jsonl: column 'year' holds numbers such as 1990, not text: leave it out, as columns",
        ),
        (["anchor", "anchor"], "anchor.* twice"),
    ],
    ids=["missing", "not named", "numbers", "named twice"],
)
def test_columns_that_do_not_fit_are_named(tmp_path: Path, columns: list[str] | None, message: str) -> None:
    file = jsonl(tmp_path, [{"anchor": "a dog", "text": "a cat", "year": 1990}])
    with pytest.raises(ValueError, match=message):
        load_source(source(file, columns=columns))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["1984", "3.50", "true", "2020-01-01"])
def test_every_cell_of_a_csv_is_text_as_it_is_written(tmp_path: Path, first: str) -> None:
    rows = [{"anchor": f"row {number}", "positive": first} for number in range(12_000)]
    rows.append({"anchor": "row", "positive": "a word"})
    write_csv(tmp_path / "n.csv", rows)
    assert load_source(source(tmp_path / "n.csv")).to_list() == rows


def test_columns_of_parquet_that_are_no_text_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "n.parquet", [{"anchor": "a dog", "positive": 1}])
    with pytest.raises(ValueError, match=r"n.parquet: column 'positive' holds int64, not text"):
        load_source(source(tmp_path / "n.parquet"))


def test_every_kind_of_text_column_of_parquet_is_text(tmp_path: Path) -> None:
    columns = {
        "anchor": pa.array(["a", "b", "a"]).dictionary_encode(),
        "positive": pa.array(["c", None, "d"], pa.large_string()),
        "number": pa.array([1, 2, 3]),
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    expected = [{"anchor": "a", "positive": "c"}, {"anchor": "a", "positive": "d"}]
    assert load_source(source(tmp_path / "d.parquet")).to_list() == expected


def test_no_row_is_lost_to_quotes_or_to_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text('anchor\tpositive\n"We leave,\tspeech\nand go."\tscene\nRain fell.\train\n')
    anchors = ['"We leave,', 'and go."', "Rain fell."]
    assert load_source(source(tmp_path / "q.tsv"))["anchor"][:] == anchors
    rows = [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d", "negative": "e"}]
    assert load_source(source(jsonl(tmp_path, rows))).to_list() == [rows[1]]


@pytest.mark.parametrize("ending", [".csv.gz", ".jsonl.zst"])
def test_compressed_files_are_read(tmp_path: Path, ending: str) -> None:
    plain = tmp_path / f"pairs{ending.rpartition('.')[0]}"
    FORMATS[plain.name](plain, ROWS)
    packed = tmp_path / f"packed{ending}"
    packed.write_bytes(
        gzip.compress(plain.read_bytes())
        if ending.endswith("gz")
        else pa.compress(plain.read_bytes(), codec="zstd", asbytes=True)
    )
    assert load_source(source(packed)).to_list() == ROWS


def test_all_rows_that_cannot_be_read_are_named_together(tmp_path: Path) -> None:
    lines = [json.dumps(ROWS[0]), "{", json.dumps({"anchor": 1, "positive": "b", "negative": "c"}), json.dumps(ROWS[1])]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=r"2 problems to fix: a.jsonl, line 2: .*; a.jsonl, line 3: anchor is 1"):
        load_source(source(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "pairs.jsonl", "pairs.parquet"])
def test_rows_with_a_blank_cell_are_counted_and_left_out(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Row] = [
        {"anchor": "a dog", "positive": "an animal"},
        {"anchor": None, "positive": "no anchor"},
        {"anchor": "blank positive", "positive": "  \t"},
        {"anchor": "empty positive", "positive": ""},
        {"anchor": "a cat", "positive": "another animal"},
    ]
    FORMATS[name](tmp_path / name, rows)
    loaded = load_source(source(tmp_path / name))
    assert loaded.to_list() == [rows[0], rows[4]]
    assert f"{tmp_path / name}: 3 of 5 rows have a blank cell and are left out" in caplog.text


def test_a_file_without_blank_cells_is_not_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_source(source(jsonl(tmp_path, ROWS)))
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "empty.csv is empty"),
        ("empty.parquet", b"", "empty.parquet is empty"),
        ("header.csv", b"anchor,positive\n", "no row with text in anchor, positive: it needs at least one"),
        (
            "semicolons.csv",
            b"anchor;positive\na;b\n",
            "anchor;positive: it is separated by semicolons, so save it with",
        ),
        (
            "commas.tsv",
            b"anchor,positive\na,b\n",
            "anchor,positive: it is separated by commas, so give it the ending .csv",
        ),
        ("tabs.csv", b"anchor\tpositive\na\tb\n", "it is separated by tabs, so give it the ending .tsv"),
        ("blank.csv", b"anchor,positive\n,\n , \n", "no row with text in anchor, positive"),
        ("broken.jsonl", b'{"anchor": "a", "positive": "b"}\n{"anchor": \n', "line 2: is not valid JSON"),
        ("ragged.csv", b"anchor,positive\na,b\nc,d,e,f\n", "line 3: has 4 cells"),
        ("latin.csv", "anchor,positive\ncaf\u00e9,bar\n".encode("latin-1"), "line 2: is not UTF-8"),
        ("text.parquet", b"PAR2 is no magic number", "cannot be read as Parquet"),
        ("pairs.txt", b"a\tb\n", r"has the columns text: name those to use with columns: \[ANCHOR, POSITIVE\]"),
        ("pairs", b"a\tb\n", "expected files of one type among .jsonl"),
    ],
)
def test_files_without_data_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        load_source(source(tmp_path / name))
    assert "\n" not in str(refused.value)
    assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize(
    ("files", "found"), [([], "no data file"), (["notes.md"], "no data file"), (["a.csv", "b.jsonl"], ".csv, .jsonl")]
)
def test_a_folder_holds_files_of_one_type(tmp_path: Path, files: list[str], found: str) -> None:
    for name in files:
        (tmp_path / name).write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match=f"expected files of one type among .*, found {found}$"):
        load_source(source(tmp_path))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_score_is_no_negative(tmp_path: Path, ending: str) -> None:
    rows = [{"anchor": f"a {number}", "positive": f"b {number}", "score": number / 10} for number in range(9)]
    file, data = tmp_path / f"scored.{ending}", Dataset.from_list(rows)
    {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[ending](str(file))
    with pytest.raises(
        ValueError, match=r"column 'score' holds .*, not text: leave it out, as columns names texts only"
    ):
        load_source(source(file, columns=["anchor", "positive", "score"]))
    assert load_source(source(file)).column_names == ["anchor", "positive"]


def test_numbers_beside_numbers_are_texts(tmp_path: Path) -> None:
    file = tmp_path / "years.csv"
    file.write_text("question,right,wrong\nwhen was a,1984,1985\nwhen was b,2001,1999\n", encoding="utf-8")
    loaded = load_source(source(file, columns=["question", "right", "wrong"]))
    assert loaded["negative"][:] == ["1985", "1999"]


@pytest.mark.parametrize("kind", ["one", "several"])
def test_a_folder_of_save_to_disk_is_known(tmp_path: Path, kind: str) -> None:
    data = Dataset.from_list(ROWS)
    (data if kind == "one" else DatasetDict({"train": data})).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match=r"saved is a folder of save_to_disk, .* write the data with to_parquet"):
        check_source(source(tmp_path / "saved"))


@pytest.mark.parametrize("name", ["missing.csv", "./missing", "~/missing-pairs.jsonl", "/nowhere/at/all", "a/b/c.tsv"])
@pytest.mark.parametrize("function", [load_source, check_source])
def test_a_path_that_is_not_there_is_named(function: Callable[[SourceConfig], object], name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"no training data at {name}$"):
        function(SourceConfig(source=name))


@pytest.mark.parametrize("name", ["mrl-nobody/mrl-nothing", "mrl-nothing-at-all", "pairs.txt", "some/deep/folder"])
def test_a_hub_data_set_out_of_reach_is_no_file_either(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"^{name} is neither a local file nor a hub data set") as refused:
        load_source(SourceConfig(source=name))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (3, 3), (100, 3), (None, 3)])
def test_the_limit_counts_rows_from_the_start(tmp_path: Path, limit: int | None, expected: int) -> None:
    assert load_source(source(jsonl(tmp_path, ROWS), limit=limit)).to_list() == ROWS[:expected]


def test_several_sources_keep_their_order_and_their_columns(tmp_path: Path) -> None:
    pairs = [{"anchor": row["anchor"], "positive": row["positive"]} for row in ROWS]
    (tmp_path / "other").mkdir()
    files = [jsonl(tmp_path, ROWS), jsonl(tmp_path / "other", pairs), jsonl(tmp_path, ROWS[:1], "a.jsonl")]
    loaded = load_sources([source(file) for file in files])
    assert isinstance(loaded, DatasetDict)
    assert [part.to_list() for part in loaded.values()] == [ROWS, pairs, ROWS[:1]]


def test_a_single_source_is_a_plain_data_set(tmp_path: Path) -> None:
    loaded = load_sources([source(jsonl(tmp_path, ROWS))])
    assert isinstance(loaded, Dataset)
    assert loaded.to_list() == ROWS


@pytest.mark.parametrize("packages", [["json"], ["numpy", "sklearn", "json"]])
@pytest.mark.parametrize("function", [load_source, check_source])
def test_held_out_packages_are_never_trained_on(
    function: Callable[[SourceConfig], object], packages: list[str]
) -> None:
    named = ", ".join(sorted(set(packages) - {"numpy"}))
    with pytest.raises(ValueError, match=f"packages {named} are held out for evaluation"):
        function(SourceConfig(source="docstrings", packages=packages))


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Package ``mrlpublic`` copies one text from ``mrlhidden``, which alone is held out; ``mrlcopy`` is all copied."""

    def documented(name: str, words: str) -> str:
        rest = f"Its {words} are told in a text of more than a dozen words, as {words} deserve."
        return f'def {name}():\n    """Tell about {words}.\n\n    {rest}\n    """\n'

    files = {
        "mrlhidden": documented("a", "secret things") + documented("b", "dark secrets"),
        "mrlpublic": "".join(documented(f"f{number}", f"open things {number}") for number in range(4))
        + documented("g", "SECRET things"),
        "mrlcopy": documented("a", "Secret Things"),
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data_module, "HELD_OUT_PACKAGES", ("mrlhidden",))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("libraries")
def test_docstrings_that_a_held_out_package_shares_are_left_out() -> None:
    loaded = load_source(SourceConfig(source="docstrings", packages=["mrlpublic"]))
    assert loaded["anchor"][:] == [f"Tell about open things {number}." for number in range(4)]
    assert loaded["positive"][0].startswith("Its open things 0 are told")


@pytest.mark.usefixtures("libraries")
def test_limits_apply_to_docstrings_too() -> None:
    options: Row = {"source": "docstrings", "packages": ["mrlpublic"]}
    assert len(load_source(SourceConfig(**options, limit=2))) == 2
    assert len(load_source(SourceConfig(**options, limit_per_package=3))) == 3


@pytest.mark.usefixtures("libraries")
def test_docstrings_of_which_none_is_left_are_refused() -> None:
    with pytest.raises(ValueError, match="docstrings"):
        load_source(SourceConfig(source="docstrings", packages=["mrlcopy"]))
