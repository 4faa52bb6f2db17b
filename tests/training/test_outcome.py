from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mrl_text.eval.statistics import mean_units
from mrl_text.training.outcome import compared, outcome

SINGLE = [0.5, None, None]  # of one query, of which there is no interval


def test_before_and_after_are_compared_query_by_query() -> None:
    random = np.random.default_rng(0)
    before = {dim: random.random(200) for dim in (8, 16)}
    after = {dim: each + 0.1 + 0.01 * random.standard_normal(200) for dim, each in before.items()}
    found = compared(*({dim: mean_units(each) for dim, each in scores.items()} for scores in (before, after)))
    assert found["queries"] == 200
    assert [one["dim"] for one in found["sizes"]] == [8, 16]
    for one in found["sizes"]:
        gains = after[one["dim"]] - before[one["dim"]]
        half = stats.t.ppf(0.975, 199) * stats.sem(gains)  # of the differences: far narrower than of either score
        expected = [gains.mean(), gains.mean() - half, gains.mean() + half]
        assert one["difference"] == pytest.approx(expected, abs=0.2 * half)
        assert one["after"][0] == pytest.approx(after[one["dim"]].mean())
        assert one["after"][2] - one["after"][1] > 10 * half


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (
            {
                "steps": 50,
                "rows_used": 960,
                "data": {"a": 1000, "b": 20},
                "validation": {
                    "queries": 300,
                    "sizes": [
                        {"dim": 8, "before": [0.5, 0.4, 0.6], "after": [0.4, 0.3, 0.5], "difference": [-0.1, -0.2, 0]},
                        {"dim": 256, "before": [1.0, 1, 1], "after": [1.0, 1, 1], "difference": [0.0, 0, 0]},
                    ],
                },
            },
            [
                "50 steps; 960 of 1,020 rows used",
                "Validation: nDCG@10 (x100) of 300 queries, 95 % intervals",
                "",
                "size  bytes                   before                    after               difference",
                " 256  1,024  100.00 [100.00, 100.00]  100.00 [100.00, 100.00]    +0.00 [+0.00, +0.00]",
                "   8     32     50.00 [40.00, 60.00]     40.00 [30.00, 50.00]  -10.00 [-20.00, +0.00]",
            ],
        ),
        (
            {
                "steps": 1,
                "rows_used": 64,
                "data": {"a": None},
                "validation": {
                    "queries": 1,
                    "sizes": [{"dim": 8, "before": SINGLE, "after": SINGLE, "difference": SINGLE}],
                },
            },
            [
                "1 step; 64 rows of a stream used",
                "Validation: nDCG@10 (x100) of 1 query, 95 % intervals",
                "",
                "size  bytes  before  after  difference",
                "   8     32   50.00  50.00      +50.00",
            ],
        ),
        (
            {"data": {"a": 9}},
            [
                "The rotation is fitted; the encoder is as it was",
                "Nothing was validated: name data.validation to see scores before and after",
            ],
        ),
    ],
)
def test_a_run_tells_its_steps_rows_and_scores(tmp_path: Path, result: dict[str, Any], lines: list[str]) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert [" ".join(line.split()) for line in outcome(tmp_path).splitlines()] == [
        " ".join(one.split()) for one in lines
    ]
