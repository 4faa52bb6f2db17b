from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import mrl_text
from mrl_text.eval.engines import engines
from mrl_text.eval.grid import RANDOM_SEEDS, Cell, Line
from mrl_text.eval.reference import Reference
from mrl_text.eval.report import KEEP, render_html, scopes, summarize
from mrl_text.eval.results import Results
from mrl_text.eval.statistics import Estimate
from tests.eval.test_results import BASE, MODEL, OTHER, PCA, RANDOM, MadeUpSweep, chosen, queries, share_kept

STRUCTURE = {
    "": {
        "title",
        "version",
        "keep",
        "confidence",
        "lines",
        "tasks",
        "cells",
        "recommendations",
        "engines",
        "caution",
        "notes",
    },
    "lines": {"id", "label", "role", "method", "model", "revision", "dtype"},
    "tasks": {"name", "type", "metric", "items", "n"},
    "cells": {
        *("line", "dim", "precision", "comparison", "rescore", "bytes", "disk", "gb_per_100m", "pareto"),
        *("overall", "types", "tasks"),
    },
    "engines": {
        *("line", "name", "checked", "note", "cell", "bytes", "disk", "retention", "lines", "how", "since", "source"),
    },
    "recommendations": {
        *(
            "line",
            "scope",
            "dim",
            "precision",
            "comparison",
            "rescore",
            "bytes",
            "disk",
            "retention",
            "low",
            "sureness",
        ),
        *("saved_bytes", "saved_gb_per_100m", "times_smaller", "text"),
    },
}
NUMBERS = {"score", "low", "high", "retention", "retention_low", "retention_high", "n"}
REFERENCE = Reference("vendor/small", {32: {"Search": 0.4, "Pairs": 0.5, "Questions": 0.6}, 16: {"Search": 0.3}})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two models, all kinds of controls, three tasks of two types; the task Pairs has no items."""
    sweep = MadeUpSweep(tmp_path)
    for number, task in enumerate(("Search", "Questions")):
        whole = queries(0.6, noise=0.05, seed=number)
        fitted = {"calibration": "50 documents of the task"}
        sweep.curve({64: whole, 16: share_kept(whole, 0.8, noise=0.02)}, task=task)
        sweep.curve({(64, "int8"): share_kept(whole, 0.995)}, task=task, **fitted)
        sweep.curve({64: whole - 0.2}, BASE, task=task).curve({16: whole - 0.3}, PCA, task=task, **fitted)
        for seed in RANDOM_SEEDS:
            sweep.add(share_kept(whole, 0.5), RANDOM, Cell(16), task, seed=seed)
        sweep.curve({32: share_kept(whole, 0.9)}, OTHER, task=task)
    pairs: dict[str, Any] = {"task": "Pairs", "kind": "STS", "metric": "cosine_spearman"}
    sweep.curve({64: 0.8, 16: 0.7}, **pairs).curve({(64, "int8"): 0.799}, calibration="80 texts of the task", **pairs)
    sweep.curve({64: 0.5}, BASE, **pairs).curve({32: 0.75}, OTHER, **pairs).curve({16: 0.4}, PCA, **pairs)
    return sweep.results()


@pytest.fixture
def data(results: Results) -> dict[str, Any]:
    return summarize(results, references=[REFERENCE])


def cell_of(data: Mapping[str, Any], line: str, dim: int, precision: str = "float32") -> dict[str, Any]:
    wanted = (line, dim, precision)
    (found,) = (cell for cell in data["cells"] if (cell["line"], cell["dim"], cell["precision"]) == wanted)
    return found


def assert_equal_numbers(found: Mapping[str, Any], score: Estimate | None, retention: Estimate | None) -> None:
    assert score is not None
    assert retention is not None
    interval, kept = score.interval(), retention.interval()
    assert found == {
        "score": score.value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "n": interval.n if interval else None,
        "retention": retention.value,
        "retention_low": kept.low if kept else None,
        "retention_high": kept.high if kept else None,
    }


def test_the_structure_is_the_documented_one(data: dict[str, Any]) -> None:
    assert set(data) == STRUCTURE[""]
    for part in ("lines", "tasks", "cells", "recommendations", "engines"):
        assert data[part]
        assert all(set(entry) == STRUCTURE[part] for entry in data[part])
    identities = [line["id"] for line in data["lines"]]
    assert len(set(identities)) == len(identities) == 6
    assert {cell["line"] for cell in data["cells"]} == set(identities)
    for cell in data["cells"]:
        for numbers in (cell["overall"], *cell["types"].values(), *cell["tasks"].values()):
            assert numbers is None or set(numbers) == NUMBERS


def test_it_is_plain_json_and_comes_back_from_the_page(data: dict[str, Any]) -> None:
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    found = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', render_html(data), re.DOTALL)
    assert found is not None
    assert json.loads(found[1]) == data


@pytest.mark.slow
def test_facts_about_the_sweep(data: dict[str, Any], results: Results) -> None:
    assert (data["title"], data["version"], data["keep"]) == ("tuned, other", mrl_text.__version__, KEEP)
    assert data["confidence"] == 0.95
    assert summarize(results, title="mine", keep=0.9)["title"] == "mine"
    assert summarize(results, keep=0.9)["keep"] == 0.9
    assert data["tasks"] == [
        {"name": "Search", "type": "Retrieval", "metric": "ndcg_at_10", "items": "100 queries", "n": 100},
        {"name": "Questions", "type": "Retrieval", "metric": "ndcg_at_10", "items": "100 queries", "n": 100},
        {"name": "Pairs", "type": "STS", "metric": "cosine_spearman", "items": "", "n": None},
    ]
    assert [(line["label"], line["role"], line["method"]) for line in data["lines"]] == [
        ("tuned", "model", "truncation"),
        ("base (untrained base)", "control", "truncation"),
        ("tuned (PCA)", "control", "pca"),
        ("tuned (random dimensions)", "control", "random"),
        ("other", "model", "truncation"),
        ("small (published)", "reference", "truncation"),
    ]
    assert (data["lines"][0]["model"], data["lines"][0]["revision"]) == (MODEL.model, MODEL.revision)


@pytest.mark.parametrize("line", [MODEL, BASE, PCA, RANDOM, OTHER])
def test_every_cell_has_the_numbers_of_the_results(line: Line, data: dict[str, Any], results: Results) -> None:
    (identity,) = (
        one["id"]
        for one in data["lines"]
        if (one["model"], one["role"], one["method"]) == (line.model, line.role, line.method)
    )
    cells = results.cells(line)
    assert len([cell for cell in data["cells"] if cell["line"] == identity]) == len(cells)
    for cell in cells:
        found = cell_of(data, identity, cell.dim, cell.precision)
        assert (found["bytes"], found["gb_per_100m"]) == (cell.bytes, cell.bytes / 10)
        for scope, tasks in {"Retrieval": ["Search", "Questions"], "STS": ["Pairs"]}.items():
            if line is RANDOM and scope == "STS":
                assert scope not in found["types"]
            else:
                numbers = results.estimate(line, cell, tasks), results.retention(line, cell, tasks)
                assert_equal_numbers(found["types"][scope], *numbers)
        for task, part in found["tasks"].items():
            assert_equal_numbers(part, results.estimate(line, cell, [task]), results.retention(line, cell, [task]))
        if line is RANDOM:
            assert found["overall"] is None
            assert set(found["tasks"]) == {"Search", "Questions"}
        else:
            assert_equal_numbers(found["overall"], results.estimate(line, cell), results.retention(line, cell))


def test_intervals_stand_where_there_is_something_to_resample(data: dict[str, Any]) -> None:
    cell = cell_of(data, "m0", 16)
    assert cell["types"]["Retrieval"]["score"] == pytest.approx(0.48)
    assert cell["types"]["Retrieval"]["n"] == 200
    assert cell["tasks"]["Search"]["low"] < 0.48 < cell["tasks"]["Search"]["high"]
    assert cell["tasks"]["Pairs"]["low"] is None
    assert cell["overall"]["score"] == pytest.approx((2 * 0.48 + 0.7) / 3)
    assert cell["overall"]["low"] is None


def test_the_front_is_marked(data: dict[str, Any], results: Results) -> None:
    marked = {(cell["line"], cell["dim"], cell["precision"]) for cell in data["cells"] if cell["pareto"]}
    # by bytes: 64 of size 16, 64 of 64 x int8 (better), 128 of the other model (worse), 256 of full width (best)
    assert marked == {("m0", 64, "int8"), ("m0", 64, "float32")}
    assert len(results.pareto()) == 2


def test_every_model_is_given_a_choice_for_every_scope(data: dict[str, Any], results: Results) -> None:
    by_scope = {(one["line"], one["scope"]): one for one in data["recommendations"]}
    names = ["overall", "Retrieval", "STS", "Search", "Questions", "Pairs"]
    assert list(by_scope) == [(line, scope) for line in ("m0", "m4") for scope in names]
    found, choice = by_scope["m0", "Retrieval"], chosen(results, KEEP, tasks=["Search", "Questions"])
    interval = choice.retention.interval()
    assert interval is not None
    assert found == {
        **{"line": "m0", "scope": "Retrieval", "dim": 64, "precision": "int8", "bytes": 64, "disk": 0},
        **{"comparison": "asymmetric", "rescore": 0},
        **{"retention": choice.retention.value, "low": interval.low, "sureness": 1.0},
        **{"saved_bytes": 192, "saved_gb_per_100m": 19.2, "times_smaller": 4.0, "text": choice.headline()},
    }
    assert found["retention"] == pytest.approx(0.995)
    without = by_scope["m0", "Pairs"]
    assert (without["low"], without["sureness"], without["precision"]) == (None, None, "int8")
    alone = by_scope["m4", "overall"]
    assert (alone["dim"], alone["precision"], alone["saved_bytes"], alone["times_smaller"]) == (32, "float32", 0, 1)


def test_every_engine_has_the_smallest_vectors_that_it_keeps(data: dict[str, Any]) -> None:
    """In the made-up scores int8 is asymmetric, which few compare."""
    own = {one["name"]: one for one in data["engines"] if one["line"] == "m0"}
    assert len(own) == len(engines()) == len(data["engines"]) / 2
    assert {name for name, one in own.items() if one["cell"] == "64 x int8"} == {"FAISS", "Milvus"}
    assert (own["FAISS"]["bytes"], own["PostgreSQL with pgvector"]["bytes"]) == (64, 256 + 8)
    assert "index_factory(64, 'SQ8'" in own["FAISS"]["lines"]


def test_the_target_decides_the_choice(results: Results) -> None:
    def retrieval(keep: float) -> tuple[int, str]:
        chosen_ones = summarize(results, keep=keep)["recommendations"]
        (one,) = (one for one in chosen_ones if (one["line"], one["scope"]) == ("m0", "Retrieval"))
        return one["dim"], one["precision"]

    assert [retrieval(keep) for keep in (0.994, 0.996)] == [(64, "int8"), (64, "float32")]


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ({"A": "STS"}, {"overall": ["A"]}),
        ({"A": "STS", "B": "STS"}, {"overall": ["A", "B"], "A": ["A"], "B": ["B"]}),
        (
            {"A": "STS", "B": "Retrieval", "C": "STS"},
            {"overall": ["A", "B", "C"], "STS": ["A", "C"], "Retrieval": ["B"], "A": ["A"], "B": ["B"], "C": ["C"]},
        ),
    ],
)
def test_a_scope_that_says_nothing_new_is_left_out(
    tasks: dict[str, str], expected: dict[str, list[str]], tmp_path: Path
) -> None:
    sweep = MadeUpSweep(tmp_path)
    for task, kind in tasks.items():
        sweep.add(0.5, task=task, kind=kind)
    found = scopes(sweep.results())
    assert found == expected
    assert list(found) == list(expected)


def test_a_model_without_a_score_to_keep_gets_no_choice(tmp_path: Path) -> None:
    data = summarize(MadeUpSweep(tmp_path).curve({64: 0.0, 16: 0.0}).results())
    assert data["recommendations"] == []
    assert cell_of(data, "m0", 16)["overall"]["retention"] is None


def test_notes_say_what_was_left_out_measured_and_not_resampled(results: Results) -> None:
    failed = {"Clusters": "no data at made-up/Clusters", "Bitext": "out of memory"}
    assert summarize(results, failed=failed)["notes"] == [
        "Clusters was left out: no data at made-up/Clusters",
        "Bitext was left out: out of memory",
        "Search: what codes stand for was measured on 50 documents of the task",
        "Questions: what codes stand for was measured on 50 documents of the task",
        "Pairs: what codes stand for was measured on 80 texts of the task",
        "no interval, since there is nothing to resample: Pairs",
    ]


def test_there_are_no_notes_where_there_is_nothing_to_note(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: queries(0.6)}).curve({16: queries(0.3)}, PCA, calibration="50 texts")
    assert summarize(sweep.results())["notes"] == []


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.6}).curve({64: 0.5}, Line("someone/tuned", "r9"))
    data = summarize(sweep.results())
    names = ["tuned [r1, float32]", "tuned [r9, float32]"]
    assert data["title"] == ", ".join(names)
    assert [(line["id"], line["label"]) for line in data["lines"]] == list(zip(("m0", "m1"), names, strict=True))
