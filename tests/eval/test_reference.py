from __future__ import annotations

from pathlib import Path

import pytest

from mrl_text.eval.reference import Reference, read_references
from mrl_text.eval.report import summarize
from mrl_text.eval.results import Results
from tests.eval.test_results import BASE, MODEL, MadeUpSweep


@pytest.fixture
def results(tmp_path: Path) -> Results:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.6, 16: 0.5}).curve({64: 0.8, 16: 0.7}, task="Pairs", kind="STS")
    return sweep.curve({128: 0.5}, BASE).results()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "published.csv"


def written(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_file_with_sizes_becomes_a_curve_per_model(file: Path, results: Results) -> None:
    written(
        file,
        "model,dim,task,score,source",
        "vendor/large,1024,Search,0.66,paper",
        "vendor/large,256,Search,0.6,paper",
        "vendor/large,256,Pairs,0.7,paper",
        "vendor/small,256,Search,0.5,paper",
    )
    assert read_references([file], results) == [
        Reference("vendor/large", {1024: {"Search": 0.66}, 256: {"Search": 0.6, "Pairs": 0.7}}),
        Reference("vendor/small", {256: {"Search": 0.5}}),
    ]


def test_without_sizes_scores_are_those_of_the_same_models_full_width(file: Path, results: Results) -> None:
    written(
        file,
        "model,revision,task,split,main_score_x100",
        "someone/tuned,r1,Search,test,64.5",
        "someone/tuned,r1,Pairs,test,82.03",
        "someone/base,r0,Search,test,50",
    )
    tuned, base = read_references([str(file)], results)
    assert (tuned.model, base.model) == ("someone/tuned", "someone/base")
    assert tuned.scores == {64: {"Search": pytest.approx(0.645), "Pairs": pytest.approx(0.8203)}}
    assert base.scores == {128: {"Search": pytest.approx(0.5)}}


def test_splits_and_subsets_of_a_task_are_averaged(file: Path, results: Results) -> None:
    written(
        file,
        "model,dim,task,split,score",
        "vendor/small,32,Search,test,0.4",
        "vendor/small,32,Search,validation,0.6",
        "vendor/small,16,Search,test,0.1",
    )
    (reference,) = read_references([file], results)
    assert reference.scores == {32: {"Search": pytest.approx(0.5)}, 16: {"Search": pytest.approx(0.1)}}


def test_several_files_are_read_in_order(tmp_path: Path, results: Results) -> None:
    files = [written(tmp_path / f"{name}.csv", "model,dim,task,score", f"vendor/{name},32,Search,0.4") for name in "ba"]
    assert [one.model for one in read_references(files, results)] == ["vendor/b", "vendor/a"]
    assert read_references([], results) == []


def test_of_two_score_columns_the_hundredfold_one_counts(file: Path, results: Results) -> None:
    written(file, "model,dim,task,score,main_score_x100", "vendor/small,32,Search,0.9,40")
    (reference,) = read_references([file], results)
    assert reference.scores[32]["Search"] == pytest.approx(0.4)


def test_a_reference_has_a_label_bytes_and_means() -> None:
    reference = Reference("vendor/small", {64: {"Search": 0.4, "Pairs": 0.8}, 32: {"Search": 0.3}})
    assert reference.label == "small (published)"
    assert Reference("small", {}).label == "small (published)"
    assert (reference.bytes(64), reference.bytes(32)) == (256, 128)
    assert reference.mean(64, ["Search", "Pairs"]) == pytest.approx(0.6)
    assert reference.mean(64, ["Search"]) == 0.4
    assert reference.mean(32, ["Search", "Pairs"]) is None
    assert reference.mean(32, []) is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["model,task,accuracy", "a,b,1"],
            r"has the columns 'model', 'task', 'accuracy'; it needs .*add main_score_x100, or add score",
        ),
        (["task,score", "Search,0.4"], "has the columns 'task', 'score'; .*add model"),
        (["model,score,dim", "a,0.4,8"], "add task"),
        (
            ["model,dim,task,score", "a,8,Search,0.4", "a,8,Pairs,good"],
            r"published\.csv, line 3: score is 'good', not a number",
        ),
        (["model,dim,task,score", "a,8,Search,"], "line 2: score is empty"),
        (["model,dim,task,score", "a,8,Search,62.3"], "score is '62.3': it goes from 0 to 1"),
        (["model,dim,task,main_score_x100", "a,8,Search,623"], "main_score_x100 is '623': it goes from 0 to 100"),
        (["model,dim,task,score", "a,half,Search,0.4"], "dim is 'half', not a number"),
        (["model,dim,task,score", "a,,Search,0.4"], "dim is empty"),
        (["model,dim,task,score", "a,0,Search,0.4"], "dim is '0', not a whole number of at least 1"),
        (["model,dim,task,score", "a,8.5,Search,0.4"], "dim is '8.5', not a whole number of at least 1"),
        (
            ["model,task,score", "someone/tuned,Search,0.4", "vendor/new,Search,0.4"],
            "has no column dim, and vendor/new is not among the evaluated models: add the column",
        ),
        (["model,dim,task,score", ",8,Search,0.4"], "line 2: model is empty"),
        (["model,task,score", 'a,"b,0.4', "c,d,0.5,6,7,8"], "line 2: its quotes do not match"),
        ([], r"published\.csv"),
    ],
)
def test_a_file_that_cannot_be_understood_says_why(
    lines: list[str], message: str, file: Path, results: Results
) -> None:
    written(file, *lines)
    with pytest.raises(ValueError, match=message):
        read_references([file], results)


def test_files_that_are_missing_or_no_text_are_named(file: Path, results: Results) -> None:
    with pytest.raises(FileNotFoundError, match=r"no data file at .*published\.csv"):
        read_references([file], results)
    file.write_bytes(b"model,task\n\xff\xfe\x80,1\n")
    with pytest.raises(ValueError, match="line 2: is not UTF-8"):
        read_references([file], results)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_references([file], results)


def test_a_page_shows_published_scores_where_the_tasks_are_there(results: Results) -> None:
    reference = Reference("vendor/small", {32: {"Search": 0.4}, 256: {"Search": 0.5, "Pairs": 0.7, "Elsewhere": 0.1}})
    data = summarize(results, references=[reference])
    (line,) = (line for line in data["lines"] if line["role"] == "reference")
    assert (line["label"], line["model"], line["dtype"]) == ("small (published)", "vendor/small", "float32")
    full, small = (cell for cell in data["cells"] if cell["line"] == line["id"])
    assert (full["dim"], full["precision"], full["bytes"], full["gb_per_100m"]) == (256, "float32", 1024, 102.4)
    assert full["overall"]["score"] == pytest.approx(0.6)
    assert full["overall"]["retention"] == 1
    assert {name: part["score"] for name, part in full["types"].items()} == {"Retrieval": 0.5, "STS": 0.7}
    assert {name: part["score"] for name, part in full["tasks"].items()} == {"Search": 0.5, "Pairs": 0.7}
    assert small["overall"] is None
    assert set(small["types"]) == {"Retrieval"}
    assert set(small["tasks"]) == {"Search"}
    assert small["tasks"]["Search"] == {
        **{"score": 0.4, "low": None, "high": None, "n": None},
        **{"retention": pytest.approx(0.8), "retention_low": None, "retention_high": None},
    }
    assert not any(cell["pareto"] for cell in (full, small))
    assert not any(one["line"] == line["id"] for one in data["recommendations"])


def test_two_files_about_one_model_are_two_curves(results: Results) -> None:
    references = [Reference("vendor/small", {32: {"Search": score}}) for score in (0.4, 0.5)]
    data = summarize(results, references=references)
    names = [line["id"] for line in data["lines"] if line["role"] == "reference"]
    assert len(set(names)) == 2
    cells = [cell for cell in data["cells"] if cell["line"] in names]
    found = [(cell["line"], cell["tasks"]["Search"]["score"]) for cell in cells]
    assert found == list(zip(names, (0.4, 0.5), strict=True))


def test_a_reference_at_full_width_stands_beside_the_model_it_is_of(file: Path, results: Results) -> None:
    written(file, "model,task,main_score_x100", "someone/tuned,Search,61", "someone/tuned,Pairs,79")
    data = summarize(results, references=read_references([file], results))
    published = [cell for cell in data["cells"] if cell["line"] == "r0"]
    assert [(cell["dim"], cell["overall"]["score"]) for cell in published] == [(64, pytest.approx(0.7))]
    assert MODEL.model == "someone/tuned"
