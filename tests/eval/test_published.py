from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mrl_text.eval.grid import Cell
from mrl_text.eval.published import kept, packaged, read_published
from mrl_text.eval.site import read_sources

HEADER = "model,width,dim,precision,task,tasks,type,metric,main_score_x100,retention_x100,source"
FULL = "a/b,64,64,,Search,1,Retrieval,ndcg_at_10,50,,https://a.org/card"
CUT = "a/b,64,16,int8,Search,1,Retrieval,ndcg_at_10,40,,https://a.org/card"


def table(file: Path, *rows: str, header: str = HEADER) -> Path:
    file.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return file


def test_a_table_becomes_figures(tmp_path: Path) -> None:
    rows = (FULL, CUT, "a/b,64,16,binary,Search,1,Retrieval,ndcg_at_10,,70.5,https://a.org/blog")
    figures = read_published([table(tmp_path / "a.csv", *rows)])
    assert [one.cell for one in figures] == [Cell(64), Cell(16, "int8"), Cell(16, "binary")]
    assert [one.score for one in figures] == [0.5, 0.4, None]
    assert kept(figures) == pytest.approx([1, 0.8, 0.705])
    assert (figures[1].source, figures[1].tasks, figures[1].place) == ("https://a.org/card", 1, "a.csv, line 3")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (CUT.replace("64,16", "64,128"), "line 3: dim is 128, more than the width of the model, 64"),
        (CUT.replace(",40,", ",140,"), "line 3: main_score_x100 is '140': it goes from 0 to 100"),
        (CUT.replace(",40,,", ",,160,"), "line 3: retention_x100 is '160': it goes from 0 to 150"),
        (CUT.replace(",40,,", ",,,"), "line 3: neither main_score_x100 nor retention_x100 is there"),
        (CUT.replace("https://a.org/card", "the card"), "line 3: source is 'the card': it is the address of the page"),
        (CUT.replace("https://a.org/card", ""), "line 3: source is empty"),
        (CUT.replace("int8", "int7"), "line 3: precision is 'int7' is unknown; did you mean 'int8'?"),
        (CUT.replace(",16,", ",16.5,"), "line 3: dim is '16.5', not a whole number"),
        (CUT.replace("Search,1", "Search,x"), "line 3: tasks is 'x', not a number"),
        (CUT.replace("a/b,", ","), "line 3: model is empty"),
        (FULL, "a.csv, line 2 and a.csv, line 3 both have a/b at 64 x float32 on Search: keep one"),
        (CUT.replace("Search,1", "Search,2"), "Search has tasks 1 in a.csv, line 2 and 2 in a.csv, line 3"),
        (CUT.replace("Retrieval", "STS"), "Search has type Retrieval in a.csv, line 2 and STS in a.csv, line 3"),
        (CUT.replace("64,16", "32,16"), "a/b has width 64 in a.csv, line 2 and 32 in a.csv, line 3"),
        (CUT.replace(",40,,", ",40,85,"), "retention_x100 is 85.00, and the scores of a/b on Search give 80.00"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(row: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        read_published([table(tmp_path / "a.csv", FULL, row)])
    assert says in str(caught.value)


def test_columns_and_scale_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"it needs .*source.*: add source"):
        read_published([table(tmp_path / "a.csv", FULL.rpartition(",")[0], header=HEADER.rpartition(",")[0])])
    with pytest.raises(ValueError, match="the column 'url', which means nothing here"):
        read_published([table(tmp_path / "b.csv", f"{FULL},x", header=f"{HEADER},url")])
    with pytest.raises(ValueError, match="main_score_x100 is at most 1 in every row: it goes from 0 to 100"):
        read_published([table(tmp_path / "c.csv", FULL.replace(",50,", ",0.5,"))])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no table of published figures"):
        read_published([tmp_path / "empty"])


def test_what_was_contributed_is_in_order() -> None:
    measured = Path(__file__).parents[2] / "eval" / "measured"  # a folder for each model, in mteb's layout
    _, figures = read_sources(sorted(measured.iterdir()) if measured.is_dir() else [], [packaged()])
    rows = [row for file in packaged().glob("*.csv") for row in csv.DictReader(file.open(encoding="utf-8"))]
    assert len(figures) == len(rows) >= 40
    nomic = {one.cell.dim: one.score for one in figures if one.task == "MTEB English (56 tasks)"}
    assert nomic == pytest.approx({768: 0.6228, 512: 0.6196, 256: 0.6104, 128: 0.5934, 64: 0.561})


@pytest.mark.data
def test_scores_of_single_tasks_are_those_of_the_published_results(test_data: Path) -> None:
    known = {}
    for name, width in (("nomic-embed-text-v1.5", "768"), ("all-MiniLM-L6-v2", "384")):
        for row in csv.DictReader((test_data / "published" / f"{name}.csv").open(encoding="utf-8")):
            if row.get("split", "test") == "test":
                known[row["model"], int(row.get("dim", width)), row["task"]] = float(row["main_score_x100"]) / 100
    single = [one for one in read_published([packaged()]) if one.tasks == 1]
    assert len(single) == 24
    for one in single:
        assert one.score == pytest.approx(known[one.model, one.cell.dim, one.task])
