from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from mrl_text.eval.engines import find_engine
from mrl_text.eval.figures import draw_curve
from mrl_text.eval.grid import Cell, Line
from mrl_text.eval.reference import Reference
from mrl_text.eval.report import summarize, write_report
from mrl_text.eval.results import Results
from mrl_text.eval.statistics import bootstrap_mean
from mrl_text.eval.tables import (
    beaten_by_pca,
    code_table,
    control_table,
    print_report,
    recommendations,
    score_table,
    task_table,
)
from mrl_text.figures import PALETTE
from tests.eval.test_results import (
    BASE,
    MODEL,
    OTHER,
    PCA,
    RANDOM,
    MadeUpSweep,
    chosen,
    interval_of,
    queries,
    share_kept,
    value_of,
)

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def single(tmp_path: Path) -> Results:
    """One retrieval task: a model in two precisions with all its controls, and another model without."""
    whole = queries(0.6)
    sweep = MadeUpSweep(tmp_path / "single").curve({64: whole, 16: share_kept(whole, 0.8, noise=0.01)})
    sweep.curve({(64, "int8"): share_kept(whole, 0.995), (16, "int8"): share_kept(whole, 0.79)})
    sweep.curve({64: 0.5, 16: 0.3}, BASE).curve({64: 0.6, 16: 0.45}, PCA).curve({16: 0.2}, RANDOM, seed=0)
    return sweep.curve({32: queries(0.55, seed=1)}, OTHER).results()


@pytest.fixture
def several(tmp_path: Path) -> Results:
    """Two tasks of different type."""
    sweep = MadeUpSweep(tmp_path / "several").curve({64: 0.6, 16: 0.597})
    return sweep.curve({64: 0.8, 16: 0.4}, task="Pairs", kind="STS", metric="cosine_spearman").results()


def columns(table: Table | None) -> dict[str, list[str]]:
    assert table is not None
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def labels(svg: Path) -> list[str]:
    """Every text in a figure."""
    root = ElementTree.parse(svg).getroot()
    return ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]


def test_the_score_table_has_the_numbers_of_the_results(single: Results) -> None:
    table = score_table(single, MODEL)
    assert table.title == "tuned"
    interval = interval_of(single.estimate(MODEL, Cell(16)))
    found = columns(table)
    assert list(found) == ["bytes", "size", "precision", "Search", "retention %", "*"]
    assert found["bytes"] == ["256", "64", "64", "16"]
    assert found["size"] == ["64", "64", "16", "16"]
    assert found["precision"] == ["float32", "int8", "float32", "int8"]
    assert found["retention %"][0] == "100.00"  # of itself
    assert [kept.partition(" [")[0] for kept in found["retention %"][1:]] == ["99.50", "80.00", "79.00"]
    value, low, high = map(float, re.findall(r"[\d.]+", found["retention %"][2]))
    whole = queries(0.6)
    change = bootstrap_mean(share_kept(whole, 0.8, noise=0.01) / 0.6 - 0.8 * whole / 0.6)  # the ratio to first order
    assert [low, high] == pytest.approx([value + 100 * change.low, value + 100 * change.high], abs=0.06)
    assert found["*"] == ["*", "*", "", "*"]  # 64 numbers in int8 are better than 16 in float32
    assert found["Search"][2] == f"48.00 [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    assert [cell.partition(" ")[0] for cell in found["Search"]] == ["60.00", "59.70", "48.00", "47.40"]


def test_the_score_table_of_several_tasks_has_their_mean_and_the_task_table_each(several: Results) -> None:
    assert columns(score_table(several, MODEL)) == {
        "bytes": ["256", "64"],
        "size": ["64", "16"],
        "precision": ["float32", "float32"],
        "mean of 2 tasks": ["70.00", "49.85"],
        "retention %": ["100.00", "71.21"],
        "*": ["*", "*"],
    }
    assert columns(task_table(several, MODEL)) == {
        "task": ["Search", "Pairs"],
        "metric": ["ndcg_at_10", "cosine_spearman"],
        "items": ["-", "-"],
        "64": ["60.00", "80.00"],
        "16": ["59.70", "40.00"],
    }


def test_tables_say_how_many_items_were_scored(single: Results, tmp_path: Path) -> None:
    best = "* nothing scores higher in as few bytes"
    assert score_table(single, MODEL).caption == f"measured on 100 queries; {best}"
    assert task_table(single, MODEL) is None
    sweep = MadeUpSweep(tmp_path).curve({64: queries(0.6, 1200)}).curve({64: queries(0.6, 30)}, task="Pairs")
    assert score_table(sweep.results(), MODEL).caption == f"measured on 1,230 items; {best}"
    assert columns(task_table(sweep.results(), MODEL))["items"] == ["1,200", "30"]


def test_few_items_are_pointed_out_in_print_and_on_the_page(single: Results, tmp_path: Path) -> None:
    whole = queries(0.6, 20)
    few = MadeUpSweep(tmp_path).curve({64: whole, 16: whole}).results()
    texts = []
    for results in (single, few):
        stream = io.StringIO()
        console = Console(width=80, file=stream)
        print_report(results, console)
        texts.append(stream.getvalue())
    assert "Few items" not in texts[0]
    assert "sure)" in texts[0]
    assert texts[1].rstrip().endswith(few.caution())
    assert "sure)" not in texts[1]
    data = summarize(few)
    assert data["caution"] == few.caution() != ""
    assert data["tasks"] == [
        {"name": "Search", "type": "Retrieval", "metric": "ndcg_at_10", "items": "20 queries", "n": 20}
    ]
    assert {one["sureness"] for one in data["recommendations"]} == {None}


def test_the_score_table_fits_80_columns_unfolded(tmp_path: Path) -> None:
    whole = queries(0.6558, 300, noise=0.4)
    results = MadeUpSweep(tmp_path).curve({768: whole, 64: share_kept(whole, 1, noise=0.04)}, task="SciFact").results()
    stream = io.StringIO()
    console = Console(width=80, file=stream)
    console.print(score_table(results, MODEL))
    rows = [line for line in stream.getvalue().splitlines() if line.startswith("│")]
    assert len(rows) == 2
    assert all(len(row) <= 80 and row.count("[") == row.count("]") for row in rows)


def test_the_difference_from_the_base_is_paired(tmp_path: Path) -> None:
    base = queries(0.5, noise=0.2)
    trained = base + queries(0.03, noise=0.01, seed=5)
    results = MadeUpSweep(tmp_path).curve({64: trained, 16: 0.4}).curve({64: base, 16: 0.5}, BASE).results()
    expected = bootstrap_mean(trained - base)
    full, narrow = columns(control_table(results, MODEL))["model minus base"]
    mean, low, high = map(float, re.findall(r"[+-][\d.]+", full))
    assert [mean, low, high] == pytest.approx([100 * one for one in (0.03, expected.low, expected.high)], abs=0.03)
    assert narrow == "-10.00"


def test_words_say_where_principal_components_score_higher(tmp_path: Path) -> None:
    whole = queries(0.6, noise=0.2)
    better, same = whole + queries(0.02, noise=0.01, seed=6), whole + queries(0.0, noise=0.01, seed=7)
    sweep = MadeUpSweep(tmp_path).curve({64: whole, 32: whole, 16: whole})
    results = sweep.curve({64: same, 32: better, 16: better}, PCA).results()
    (sentence,) = beaten_by_pca(results, MODEL)
    assert re.search(
        r"^PCA beats the model at 16 \(\+2\.00 \[\+1\.\d\d, \+2\.\d\d\]\), 32 \(\+2\.00 .*mrl-text adapt", sentence
    )
    assert beaten_by_pca(results, BASE) == []
    assert sentence.endswith("; mrl-text adapt --method pca puts such components into a model")
    stream = io.StringIO()
    console = Console(width=80, file=stream)
    print_report(results, console, vectors={MODEL.model: "corpus.npy"})
    told = stream.getvalue()
    assert "; mrl-text adapt --embeddings corpus.npy --method pca fits such components to vectors" in told


def test_the_score_table_leaves_out_sizes_that_lack_a_task_and_shares_of_nothing(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.0, 16: 0.1}).curve({64: 0.0}, task="Pairs")
    found = columns(score_table(sweep.results(), MODEL))
    assert (found["size"], found["retention %"]) == (["64"], ["-"])


def test_the_control_table_has_every_line_beside_the_model_in_float32(single: Results) -> None:
    found = columns(control_table(single, MODEL))
    assert list(found) == ["size", "model", "base (untrained base)", "PCA", "random dimensions", "model minus base"]
    assert list(found.values()) == [
        ["64", "16"],
        ["60.00", "48.00"],
        ["50.00", "30.00"],
        ["60.00", "45.00"],
        ["-", "20.00"],
        ["+10.00", "+18.00"],
    ]


def test_names_in_brackets_are_printed_as_they_are(tmp_path: Path) -> None:
    twin = Line(MODEL.model, "r9")
    sweep = MadeUpSweep(tmp_path).curve({64: 0.6}, task="own [data]").curve({64: 0.5}, twin, task="own [data]")
    results = sweep.curve({64: 0.4}, Line(MODEL.model, "r9", "control", "pca"), task="own [data]").results()
    stream = io.StringIO()
    console = Console(width=100, file=stream)
    print_report(results, console)
    printed = stream.getvalue()
    for text in ("tuned [r1, float32]", "tuned [r9, float32]", "own [data]", " model ", " PCA"):
        assert text in printed
    assert list(columns(control_table(results, twin))) == ["size", "model", "PCA"]


def test_a_model_without_controls_has_no_control_table(single: Results, several: Results) -> None:
    assert control_table(single, OTHER) is None
    assert control_table(several, MODEL) is None


def test_recommendations_are_made_overall_and_per_type(several: Results, single: Results) -> None:
    assert chosen(several, 0.99, tasks=["Search"]).cell == Cell(16)
    assert recommendations(several, MODEL, 0.99) == [
        "overall: nothing smaller than 64 x float32 keeps 99 % with confidence",
        (
            "Retrieval: 16 x float32 keeps 99.50 % of the full score (a point estimate: nothing to resample);"
            " 64 bytes per vector instead of 256 (4x smaller), 19.2 GB less per 100 million"
        ),
        "STS: nothing smaller than 64 x float32 keeps 99 % with confidence",
    ]
    assert recommendations(single, MODEL, 0.99) == [chosen(single, 0.99).sentence("overall")]


def test_a_model_whose_full_score_is_nothing_gets_a_sentence_too(tmp_path: Path) -> None:
    results = MadeUpSweep(tmp_path).curve({64: 0.0, 16: 0.1}).results()
    assert recommendations(results, MODEL, 0.99) == ["overall: no size can be recommended from these scores"]


def test_a_full_score_that_is_noise_recommends_nothing(tmp_path: Path) -> None:
    """As where ids of judgements and documents do not belong together: a hit here and there."""
    hits = np.zeros(200)
    hits[[17, 120, 150]] = 1.0
    results = MadeUpSweep(tmp_path).curve({64: hits, 16: hits}).results()
    assert results.recommend(MODEL, 0.99) is None
    (sentence,) = recommendations(results, MODEL, 0.99)
    assert sentence.startswith("overall: no size can be recommended: the full score is 1.50 [")
    assert "see whether ids and texts belong together" in sentence
    hits[:20] = 1.0
    results = MadeUpSweep(tmp_path / "more").curve({64: hits, 16: hits}).results()
    assert chosen(results, 0.99).cell == Cell(16)


def test_what_is_printed_holds_tables_controls_and_sentences_of_every_model(single: Results) -> None:
    stream = io.StringIO()
    console = Console(width=200, file=stream)
    print_report(single, console, keep=0.9)
    text = stream.getvalue()
    for line in (MODEL, OTHER):
        assert chosen(single, 0.9, line).sentence("overall") in text
        for cell in single.cells(line):
            (row,) = re.findall(rf"^│ *{cell.bytes} │ +{cell.dim} │ {cell.precision} +│(.*)$", text, re.MULTILINE)
            assert f"{100 * value_of(single.estimate(line, cell)):.2f}" in row
            assert f"{100 * value_of(single.retention(line, cell)):.2f}" in row
    assert text.count("beside controls") == 1


@pytest.mark.slow
def test_a_report_is_a_page_and_two_pictures(single: Results, tmp_path: Path) -> None:
    reference = Reference("vendor/small", {32: {"Search": 0.4}})
    failed = {"Pairs": "no data"}
    files = write_report(
        single, summarize(single, keep=0.9, references=[reference], failed=failed), references=[reference]
    )
    assert files == [single.folders[0] / name for name in ("report.html", "curve.png", "curve.svg")]
    page, png, svg = files
    found = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert json.loads(found[1]) == summarize(single, keep=0.9, references=[reference], failed=failed)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "small (published)" in labels(svg)
    elsewhere = write_report(single, summarize(single), tmp_path / "new" / "folder")
    assert {file.parent for file in elsewhere} == {tmp_path / "new" / "folder"}
    assert all(file.stat().st_size for file in elsewhere)


@pytest.mark.slow
def test_a_figure_names_every_line_once_every_precision_and_every_size(single: Results, tmp_path: Path) -> None:
    _, svg = draw_curve(single, tmp_path)
    found = labels(svg)
    names = [line.label for line in single.lines]
    assert sorted(set(names) & set(found)) == sorted(names)
    assert all(found.count(name) == 1 for name in [*names, "Pareto front", "float32", "int8"])
    assert {"16", "64", "128", "256", "bytes per vector in memory", "Search, nDCG@10 (x100)"} <= set(found)
    assert "binary" not in found


def test_a_figure_of_one_precision_has_neither_markers_to_explain_nor_a_front(several: Results, tmp_path: Path) -> None:
    found = labels(draw_curve(several, tmp_path)[1])
    assert found.count("tuned") == 1
    assert not {"float32", "Pareto front"} & set(found)
    assert "mean main score of 2 tasks (x100)" in found
    numbers = {float(label) for label in found if re.fullmatch(r"\d+(\.\d+)?", label)}
    assert {50, 60, 70, 64, 256} <= numbers  # scores 49.85 and 70, bytes 64 and 256


@pytest.mark.slow
def test_a_figure_has_a_curve_for_every_line_and_precision(single: Results, tmp_path: Path) -> None:
    _, svg = draw_curve(single, tmp_path)
    root = ElementTree.parse(svg).getroot()
    (axes,) = (group for group in root.iter(f"{SVG}g") if group.get("id") == "axes_1")
    paths = [path for path in axes.iter(f"{SVG}path") if "clip-path" in path.attrib]
    styles = [path.get("style", "") for path in paths]
    dashed = [style for style in styles if "stroke-dasharray" in style and "#6b6b6b" in style]
    assert len(dashed) == 3  # controls, in grey
    curves = [style for style in styles if "fill: none" in style and re.search("#0072b2|#d55e00", style)]
    assert len(curves) == 3  # the first model in two precisions, the second in one
    bands = [element for element in axes.iter(f"{SVG}g") if "FillBetween" in element.get("id", "")]
    assert len(bands) == 2  # intervals of the two models


def test_a_published_curve_that_lacks_a_task_is_not_drawn(several: Results, tmp_path: Path) -> None:
    whole = Reference("vendor/whole", {64: {"Search": 0.4, "Pairs": 0.5}, 32: {"Search": 0.3}})
    partial = Reference("vendor/partial", {64: {"Search": 0.4}})
    found = labels(draw_curve(several, tmp_path, [whole, partial])[1])
    assert "whole (published)" in found
    assert "partial (published)" not in found


def test_more_published_curves_than_colours_are_drawn(several: Results, tmp_path: Path) -> None:
    references = [Reference(f"vendor/v{number}", {64: {"Search": 0.4, "Pairs": 0.5}}) for number in range(7)]
    found = labels(draw_curve(several, tmp_path, references)[1])
    assert [name for name in found if "published" in name] == [f"v{number} (published)" for number in range(7)]


@pytest.mark.slow
def test_a_figure_is_the_same_bytes_again(single: Results, tmp_path: Path) -> None:
    first, second = (draw_curve(single, tmp_path / name) for name in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_many_sizes_are_marked_at_powers_of_two(tmp_path: Path) -> None:
    results = MadeUpSweep(tmp_path).curve(dict.fromkeys(range(8, 8 * 12, 8), 0.5)).results()
    found = labels(draw_curve(results)[1])
    assert {"32", "64", "128", "256"} <= set(found)
    assert not {"96", "192"} & set(found)


@pytest.mark.slow
def test_more_lines_than_colours_are_drawn(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path)
    for number in range(13):
        sweep.curve({64: number / 20, 16: number / 30}, Line(f"someone/model{number}", "r"))
    found = labels(draw_curve(sweep.results())[1])
    assert [name for name in found if name.startswith("model")] == [f"model{number}" for number in range(13)]


@pytest.fixture
def grid(tmp_path: Path) -> Results:
    """A model of 64 numbers in bits, with float and coded queries and in two stages, and FAISS's quantisers."""
    whole = queries(0.6)
    sweep = MadeUpSweep(tmp_path / "grid").curve({64: whole, 32: share_kept(whole, 0.9)})
    bits = {(64, "binary"): 0.93, (64, "int2"): 0.97}
    sweep.curve({key: share_kept(whole, kept, noise=0.01) for key, kept in bits.items()})
    sweep.add(share_kept(whole, 0.85), MODEL, Cell(64, "binary", "symmetric"))
    sweep.add(share_kept(whole, 0.996), MODEL, Cell(64, "binary", rescore=10))
    sweep.add(share_kept(whole, 0.9), replace(PCA, method="pq"), Cell(64, "PQ8"))
    return sweep.add(share_kept(whole, 0.95), replace(PCA, method="rabitq"), Cell(64, "RaBitQ")).results()


def test_the_table_has_bytes_on_disk_and_coded_queries_where_there_are_any(grid: Results) -> None:
    found = columns(score_table(grid, MODEL))
    assert list(found) == ["bytes", "on disk", "size", "precision", "queries", "Search", "retention %", "*"]
    assert found["bytes"] == ["256", "128", "16", "8", "8", "8"]
    rows = zip(found["bytes"], found["on disk"], found["queries"], found["*"], strict=True)
    assert sorted(row for row in rows if row[0] == "8") == [
        ("8", "-", "coded", ""),
        ("8", "-", "float32", "*"),  # and in as few bytes of memory and disk
        ("8", "256", "float32", "*"),  # what two stages find in as few bytes of memory
    ]


def test_of_many_cells_the_best_are_printed_and_the_rest_is_counted(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({dim: dim / 100 for dim in range(8, 72, 2)})
    sweep.curve({(dim, "int8"): 0.5 - dim / 1000 for dim in range(8, 72, 2)})  # the smallest is the best of these
    table = score_table(sweep.results(), MODEL)
    assert table.caption is not None
    assert re.search(r"^(\d+) of 64 cells; \* nothing scores higher", str(table.caption))
    assert columns(table)["precision"].count("int8") == 1
    assert columns(table)["bytes"][0] == "280"


def test_quantisers_stand_beside_the_best_of_the_model_in_as_few_bytes(grid: Results) -> None:
    found = code_table(grid, MODEL)
    assert found is not None
    rows = list(zip(*([str(cell) for cell in column.cells] for column in found.columns), strict=True))
    assert [row[:5] for row in rows] == [
        ("16", "64 x int2", "58.20", "FAISS RaBitQ, 64 x RaBitQ", "57.00"),  # 8 bytes of bits and 8 of factors
        ("8", "64 x binary", "55.80", "FAISS PQ, 64 x PQ8", "54.00"),
    ]
    assert rows[1][5].startswith("+1.80 [+")
    assert control_table(grid, MODEL) is None  # they have no float32


def test_an_engine_is_recommended_what_it_keeps_in_the_bytes_it_takes(grid: Results) -> None:
    stream = io.StringIO()
    console = Console(width=200, file=stream)
    print_report(grid, console, keep=0.9, engine=find_engine("qdrant"))
    text = stream.getvalue()
    assert "Qdrant, overall: 64 x binary keeps 93.00 % [" in text
    assert "; 16 bytes per vector instead of 256 (16x smaller)" in text  # whole blocks of 128 bits
    assert "Qdrant from 1.15.0 on keeps 64 x binary so: the sign; queries in 8 bits" in text
    assert '"code": {"size": 64, "distance": "Cosine", "on_disk": true,' in text
    staged = grid.recommend(MODEL, 0.99, engine=find_engine("pgvector"))
    assert staged is not None
    assert staged.cell == Cell(64)  # signs with float queries are not compared there, nor were two stages of Hamming
    assert (staged.bytes, staged.full_bytes) == (264, 264)
    assert recommendations(grid, MODEL, 0.88, find_engine("pgvector"))[0].startswith(
        "PostgreSQL with pgvector, overall: 32 x float32 keeps"
    )


def test_two_stages_are_recommended_with_their_bytes_on_disk(grid: Results) -> None:
    choice = grid.recommend(MODEL, 0.99)
    assert choice is not None
    assert (choice.cell, choice.bytes, choice.disk) == (Cell(64, "binary", rescore=10), 8, 256)
    assert "8 bytes in memory (and 256 on disk) per vector instead of 256 keep" in choice.headline()


@pytest.mark.slow
def test_the_curve_of_one_model_has_a_colour_for_each_precision(grid: Results, tmp_path: Path) -> None:
    _, svg = draw_curve(grid, tmp_path)
    found, text = labels(svg), svg.read_text(encoding="utf-8")
    names = {"float32", "int2", "binary", "float queries", "coded queries", "two stages, 256 bytes on disk"}
    assert names | {"tuned (FAISS PQ)", "tuned (FAISS RaBitQ)", "Pareto front", "Pareto front, one stage"} <= {*found}
    for color in PALETTE[:3]:
        assert color.lower() in text
