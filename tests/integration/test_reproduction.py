"""The published MTEB scores of all-MiniLM-L6-v2, reproduced from the mirror by our own evaluation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mrl_text.eval import sweep

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.data
@pytest.mark.model
def test_full_width_scores_are_the_published_ones(test_data: Path, tmp_path: Path) -> None:
    tasks = ["STSBenchmark", "PoemSentimentClassification"]
    published = pd.read_csv(test_data / "published" / "all-MiniLM-L6-v2.csv")
    published = published[published["task"].isin(tasks)].set_index(["task", "split"])["main_score_x100"]
    mirror = test_data / "mteb-mirror"
    result = sweep([MODEL], tasks, output=tmp_path, dims=[64, 384], precisions=["float32"], controls=[], mirror=mirror)
    measured = result.scores[result.scores["dim"] == 384].set_index(["task", "split"])["score"] * 100
    assert sorted(measured.index) == sorted(published.index)
    for key in published.index:
        assert measured[key] == pytest.approx(published[key], abs=0.05), key
    curve = result.curve(result.lines[0])
    assert curve[64] < curve[384]
