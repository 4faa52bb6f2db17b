from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mteb.cache import ResultCache
from rich.console import Console
from sentence_transformers import SentenceTransformer

from mrl_text import MatryoshkaEncoder
from mrl_text.eval import SweepResult, sweep
from mrl_text.eval.encoders import model_meta
from mrl_text.eval.figures import draw_depths
from mrl_text.eval.grid import Cell, Line, SweepPlan, Variant, plan_lines
from mrl_text.eval.leaderboard import leaderboard, load_results
from mrl_text.eval.report import summarize, write_report
from mrl_text.eval.results import Results, with_new_columns
from mrl_text.eval.tables import depth_table, print_report, recommendations
from mrl_text.models import find_model
from tests.eval.conftest import TINY_TASKS
from tests.eval.task_types import by_mteb

DIMS = [8, 16, 32]
PLAIN: dict[str, Any] = {"precisions": ["float32"], "controls": []}


def kinds(plans: list[SweepPlan]) -> list[tuple[str, str, int | None]]:
    return [(plan.line.role, plan.line.method, plan.line.layers) for plan in plans]


def folder_of_depth(path: Path, layers: int | None, **about: Any) -> str:
    """The configuration files of a model of width 64."""
    path.mkdir()
    config = {"hidden_size": 64, "made_for": path.name, **({"num_hidden_layers": layers} if layers else {})}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "config_sentence_transformers.json").write_text(json.dumps({"mrl_text": about}), encoding="utf-8")
    return str(path)


def test_a_depth_is_a_line_beside_the_base_of_the_same_depth(tmp_path: Path) -> None:
    base = folder_of_depth(tmp_path / "base", 6)
    tuned = folder_of_depth(tmp_path / "tuned", 6, base_model=base)
    plans = plan_lines([tuned], dims=[16, 64], layers=[2, 6, 4, 2])
    assert kinds(plans) == [
        ("model", "truncation", None),
        ("control", "truncation", None),
        ("control", "pca", None),
        ("control", "random", None),
        ("model", "truncation", 4),
        ("control", "truncation", 4),
        ("model", "truncation", 2),
        ("control", "truncation", 2),
    ]
    assert {plan.cells for plan in plans if plan.line.role == "model"} == {plans[0].cells}
    assert kinds(plan_lines([tuned], controls=[], layers=[6])) == [("model", "truncation", None)]


def test_models_of_other_depth_have_the_depths_they_can(tmp_path: Path) -> None:
    deep, flat = folder_of_depth(tmp_path / "deep", 12), folder_of_depth(tmp_path / "flat", 4)
    plans = plan_lines([deep, flat], controls=[], layers=[3, 6])
    assert [(plan.line.label, plan.line.layers) for plan in plans] == [
        ("deep", None),
        ("deep (6 layers)", 6),
        ("deep (3 layers)", 3),
        ("flat", None),
        ("flat (3 layers)", 3),
    ]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 2], "layers must be at least 1, got 0"),
        ([2, 13], "layers asks for 13, but the deepest of these models has 6"),
        (["2"], "a whole number, got '2'"),
    ],
)
def test_an_impossible_depth_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: Any, message: str
) -> None:
    monkeypatch.setattr("mrl_text.loading.MatryoshkaEncoder", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=message):
        sweep([folder_of_depth(tmp_path / "model", 6)], ["STSBenchmark"], output=tmp_path / "out", layers=layers)


def test_a_model_that_does_not_tell_its_depth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="local/static does not tell how many layers it has: leave layers out"):
        plan_lines([folder_of_depth(tmp_path / "static", None)], layers=[2])


def test_depths_have_names_experiments_and_folders_of_their_own() -> None:
    whole, four, one = (Line("org/model", "r", layers=layers) for layers in (None, 4, 1))
    assert [line.label for line in (whole, four, one)] == ["model", "model (4 layers)", "model (1 layer)"]
    assert Line("org/model", "r", "control", layers=4).label == "model (untrained base, 4 layers)"
    assert len({line.slug for line in (whole, four, one)}) == 3
    assert Variant(whole, Cell(8)).experiment == {"embed_dim": 8}
    coarse = {"embed_dim": 8, "num_layers": 4, "output_dtypes": "int8"}
    assert Variant(four, Cell(8, "int8", "symmetric")).experiment == coarse
    assert Variant(four, Cell(8)).slug == "embed_dim_8"  # under a folder that names the depth


@pytest.mark.slow
def test_every_score_equals_plain_mteb_with_a_model_saved_at_that_depth(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path
) -> None:
    result = sweep([str(tiny_bert)], tiny_tasks, output=tmp_path, dims=DIMS, layers=[1, 2], **PLAIN)
    MatryoshkaEncoder(str(tiny_bert)).truncate_layers(1).save_pretrained(str(tmp_path / "cut"))
    folders = {"<NA>": str(tiny_bert), "1": str(tmp_path / "cut")}
    assert len(result.scores) == 2 * len(DIMS) * len(tiny_tasks)
    for row in result.scores.itertuples():
        cut = SentenceTransformer(folders[str(row.layers)], truncate_dim=row.dim)
        plain = by_mteb(cut, TINY_TASKS[row.task]())
        # vectors differ by 6e-8, which turns one of the 180 predictions of a classifier here
        tolerance = 1.5 / 180 if row.task == "TinyClassification" else 1e-4
        assert row.score == pytest.approx(plain.get_score(), abs=tolerance), (row.task, row.dim, row.layers)
    source = find_model(str(tiny_bert))
    for line in result.lines:
        for cell in result.cells(line):
            meta = model_meta(source, Variant(line, cell))
            found = ResultCache(cache_path=tmp_path).load_task_result("TinySTS", meta)
            assert found.get_score() == pytest.approx(result.estimate(line, cell, ["TinySTS"]).value)


@pytest.mark.slow
def test_each_depth_encodes_each_text_once_and_a_second_run_nothing(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str, **more: Any) -> SweepResult:
        return sweep(
            [str(tiny_bert)],
            ["TinyRetrieval"],
            output=tmp_path / folder,
            cache=tmp_path / f"{folder}-embeddings",
            **{**PLAIN, **more},
        )

    whole = sum(run("a", dims=[32]).encoded.values())
    grid = run("b", dims=DIMS, layers=[1])
    assert sum(grid.encoded.values()) == 2 * whole
    assert len(list((tmp_path / "b-embeddings").iterdir())) == 2
    monkeypatch.setattr("mrl_text.loading.MatryoshkaEncoder", lambda *_, **__: pytest.fail("a model was loaded"))
    again = run("b", dims=DIMS, layers=[1])
    pd.testing.assert_frame_equal(again.scores, grid.scores)
    assert not any(again.encoded.values())


@pytest.mark.slow
def test_a_depth_added_later_joins_the_table_of_an_older_version(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = sweep([str(tiny_bert)], ["TinySTS"], output=tmp_path, dims=DIMS, **PLAIN)
    older = first.scores.drop(columns="layers")
    older.assign(task="AnotherTask").to_parquet(tmp_path / "scores.parquet", index=False)
    sweep([str(tiny_bert)], ["TinySTS"], output=tmp_path, dims=DIMS, layers=[1], **PLAIN)
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert "damaged" not in caplog.text
    assert table.groupby("task").size().to_dict() == {"AnotherTask": 3, "TinySTS": 6}
    results = load_results([tmp_path])
    assert [line.layers for line in results.lines] == [None, 1]
    assert sorted(leaderboard(results)["model"].unique()) == [first.lines[0].label, f"{first.lines[0].label} (1 layer)"]


@pytest.mark.slow
def test_retention_is_measured_against_all_layers_at_full_width(
    trained: Path, tiny_tasks: list[str], tmp_path: Path
) -> None:
    result = sweep([str(trained)], ["TinySTS"], output=tmp_path, layers=[1], precisions=["float32"], controls=["base"])
    whole, base, cut, cut_base = result.lines
    assert [line.label.partition(" ")[2] for line in result.lines] == [
        "",
        "(untrained base)",
        "(1 layer)",
        "(untrained base, 1 layer)",
    ]
    assert (result.depths(whole), result.depths(base)) == ([whole, cut], [base, cut_base])
    for line, reference in ((cut, whole), (cut_base, base)):
        expected = result.curve(line)[8] / result.curve(reference)[32]
        assert result.retention(line, Cell(8)).value == pytest.approx(expected)


def made_up(scores: dict[int | None, dict[int, float]]) -> Results:
    rows = [
        {
            **{"model": "org/model", "revision": "r", "role": "model", "method": "truncation", "dtype": "float32"},
            **{"layers": pd.NA if layers is None else layers, "task": "T", "type": "STS", "split": "test"},
            **{"subset": "default", "dim": dim, "precision": "float32", "seed": pd.NA, "bytes": 4 * dim},
            **{"calibration": "", "metric": "cosine_spearman", "score": score, "data": "1"},
        }
        for layers, curve in scores.items()
        for dim, score in curve.items()
    ]
    return Results(pd.DataFrame(rows), [Path("nowhere")])


def test_a_depth_is_recommended_only_where_it_keeps_the_whole_models_score() -> None:
    results = made_up({None: {8: 0.5, 16: 0.8, 32: 0.8}, 4: {8: 0.2, 16: 0.796, 32: 0.9}, 2: {8: 0.1, 32: 0.7}})
    whole, four, two = results.lines
    assert results.recommend(whole, 0.99).cell == Cell(16)
    assert results.recommend(four, 0.99).cell == Cell(16)
    assert results.recommend(four, 0.999).cell == Cell(32)
    assert results.recommend(two, 0.99) is None
    assert {one["line"] for one in summarize(results)["recommendations"]} == {"m0", "m1"}
    assert recommendations(results, four, 0.99)[0].startswith("4 layers, overall: 16 x float32 keeps 99.50 % of the")
    (nothing,) = recommendations(results, two, 0.99)
    assert nothing == "2 layers, overall: no size keeps 99 % of the score of all layers with confidence"


def test_tables_without_the_column_are_of_all_layers() -> None:
    scores = made_up({None: {8: 0.5}}).scores
    older = with_new_columns(scores.drop(columns="layers"))
    assert (str(older["layers"].dtype), older["layers"].isna().tolist()) == ("Int64", [True])
    pd.testing.assert_frame_equal(with_new_columns(scores), scores)


@pytest.mark.slow
def test_the_report_shows_the_grid(trained: Path, tiny_tasks: list[str], tmp_path: Path) -> None:
    result = sweep([str(trained)], ["TinySTS"], output=tmp_path, layers=[1], precisions=["float32"], controls=["base"])
    console = Console(width=120, record=True, file=(tmp_path / "printed").open("w"))
    print_report(result, console)
    printed = console.export_text()
    for line in result.lines[:2]:
        table = depth_table(result, line)
        assert [column.header for column in table.columns] == ["size", "all layers", "1 layer"]
        for row, dim in enumerate(sorted(DIMS, reverse=True)):
            shown = [list(column.cells)[row] for column in table.columns]
            assert shown == [str(dim), *(f"{100 * result.curve(one)[dim]:.2f}" for one in result.depths(line))]
            assert re.search(r"│ *" + r" │ +".join(shown) + r" *│", printed)
    assert "1 layer, overall: " in printed

    written = {file.name: file for file in write_report(result, summarize(result))}
    assert set(written) == {"report.html", "curve.png", "curve.svg", "depths.png", "depths.svg"}
    assert written["depths.png"].read_bytes().startswith(b"\x89PNG")
    picture = written["depths.svg"].read_text()
    for line in result.lines:
        for score in result.curve(line).values():
            assert f">{100 * score:.1f}<" in picture
    page = written["report.html"].read_text()
    assert '"label":"moved (1 layer)"' in page


def test_a_model_of_one_depth_has_no_map(tmp_path: Path) -> None:
    assert draw_depths(made_up({None: {8: 0.5, 32: 0.8}}), tmp_path) == []
    assert not list(tmp_path.iterdir())
