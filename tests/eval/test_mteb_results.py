from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mrl_text.eval.grid import Cell, Line
from mrl_text.eval.leaderboard import load_results
from mrl_text.eval.mteb_results import read_mteb_results


def written(folder: Path, score: Any, experiment: dict[str, Any] | None, task: str = "STSBenchmark") -> Path:
    """A result as mteb writes it."""
    place = folder / "a__b" / "r1" / "experiments" / "-".join(map(str, (experiment or {"none": ""}).values()))
    place.mkdir(parents=True, exist_ok=True)
    meta = {"name": "a/b", "revision": "r1", "embed_dim": 64, "experiment_kwargs": experiment}
    (place / "model_meta.json").write_text(json.dumps(meta), encoding="utf-8")
    scores = {"test": [{"main_score": score, "hf_subset": "default", "languages": ["eng-Latn"]}]}
    found = {"task_name": task, "dataset_revision": "d1", "mteb_version": "2.26.0", "scores": scores}
    (place / f"{task}.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def test_results_of_mteb_are_read_as_those_of_a_sweep(tmp_path: Path) -> None:
    written(tmp_path, 0.8, None)
    written(tmp_path, 0.6, {"embed_dim": 16})
    written(tmp_path, 0.5, {"embed_dim": 16, "output_dtypes": "int4", "comparison": "asymmetric"})
    written(tmp_path, 0.3, {"embed_dim": 16, "reduction": "pca"})
    results = load_results([tmp_path])
    model, pca = Line("a/b", "r1"), Line("a/b", "r1", "control", "pca")
    assert set(results.lines) == {model, pca}
    assert results.tasks == {"STSBenchmark": "STS"}
    assert set(results.cells(model)) == {Cell(64), Cell(16), Cell(16, "int4")}
    assert results.curve(model) == {64: 0.8, 16: 0.6}
    kept = results.retention(model, Cell(16, "int4"))
    assert kept is not None
    assert (kept.value, kept.replicates) == (0.5 / 0.8, None)


@pytest.mark.parametrize(
    ("score", "experiment", "task", "says"),
    [
        (1.2, {"embed_dim": 16}, "STSBenchmark", "main_score of test is 1.2: it goes from -1 to 1"),
        ("high", {"embed_dim": 16}, "STSBenchmark", "main_score of test is 'high'"),
        (0.5, {"embed_dim": 16}, "NoSuchTask", "'NoSuchTask' is no task of mteb"),
        (0.5, {"embed_dims": 16}, "STSBenchmark", "'embed_dims', which no size or precision is; did you mean"),
        (0.5, {"embed_dim": 0}, "STSBenchmark", "embed_dim is 0: write the size of the vectors there"),
        (0.5, {"embed_dim": 16, "output_dtypes": "int5"}, "STSBenchmark", "'int5' is unknown"),
        (0.5, {"embed_dim": 16, "reduction": "svd"}, "STSBenchmark", "of no method or comparison"),
    ],
)
def test_a_result_that_cannot_be_placed_is_named(
    score: Any, experiment: dict[str, Any], task: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as caught:
        read_mteb_results(written(tmp_path, score, experiment, task))
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
