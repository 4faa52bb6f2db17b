from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from mrl_text.search import AdaptiveIndex, SearchPlan
from mrl_text.search.faiss import figure as drawing
from mrl_text.search.faiss.figure import figure
from mrl_text.search.sample_queries import Judged

WIDTH, ROWS = 16, 300


@pytest.fixture
def index(tmp_path: Path) -> AdaptiveIndex:
    vectors = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype("f4")
    plan = SearchPlan(8, "flat", "int8", shortlist=40)
    made = AdaptiveIndex.create(tmp_path / "index", width=WIDTH, plan=plan, facts={"dims": [4, 8, 16]})
    made.add([str(row) for row in range(ROWS)], vectors)
    made.save()
    made.close()
    return AdaptiveIndex.load(tmp_path / "index")


@pytest.mark.slow
@pytest.mark.parametrize("judgements", [True, False])
def test_every_family_is_measured_against_exact_search(
    index: AdaptiveIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judgements: bool
) -> None:
    monkeypatch.setattr(drawing, "_EFFORTS", (10, 80))
    queries = np.random.default_rng(1).standard_normal((25, WIDTH)).astype("f4")
    names = [f"q{row}" for row in range(25)]
    vectors = index.vectors(range(ROWS)).astype(np.float64)
    ranked = np.argsort(-queries.astype(np.float64) @ vectors.T)
    relevant = {name: {str(row[0]): 1} for name, row in zip(names, ranked, strict=True)} if judgements else None
    written = figure(index, queries, Judged(names, names, relevant), tmp_path / "out")
    assert [file.name for file in written] == ["search.csv", "search.png"]
    table = pd.read_csv(written[0])
    assert set(table["line"]) == set(drawing._STYLES) - {"funnel, all rows"}  # from 8 there is no size before the last
    exact = table[table["line"] == "exact, full width"].iloc[0]
    assert exact["recall"] == 1.0
    assert exact["ram_mb"] == pytest.approx(ROWS * WIDTH * 4 / 2**20, rel=1e-4)
    if judgements:
        assert exact["ndcg"] == pytest.approx(1.0)
    else:
        assert table["ndcg"].isna().all()
    adaptive = table[table["line"] == "adaptive, all rows"]
    cut = vectors[:, :8] / np.linalg.norm(vectors[:, :8], axis=1, keepdims=True)
    expected = []
    for shortlist in (10, 20, 50, 100, 200):
        found = [
            set(one[np.argsort(-(vectors[one] @ query))][:10].tolist())
            for query, one in zip(queries, np.argsort(-queries[:, :8] @ cut.T)[:, :shortlist], strict=True)
        ]
        expected.append(
            np.mean([len(set(row[:10].tolist()) & one) / 10 for row, one in zip(ranked, found, strict=True)])
        )
    np.testing.assert_allclose(adaptive["recall"], expected, atol=0.005)
    assert (table["milliseconds"] > 0).all()
    height, width, _ = image.imread(written[1]).shape
    assert width > 1000
    assert height > (1000 if judgements else 500)


@pytest.mark.slow
def test_the_index_on_disk_stays_as_it_was(index: AdaptiveIndex, tmp_path: Path) -> None:
    before = index.plan
    manifest = (index.path / "index.json").read_bytes()
    queries = np.random.default_rng(1).standard_normal((4, WIDTH)).astype("f4")
    written = figure(index, queries, Judged(list("abcd"), list("abcd")), tmp_path / "out", dim=4)
    index.close()
    assert "funnel, all rows" in set(pd.read_csv(written[0])["line"])  # 4, 8, 16
    assert (index.path / "index.json").read_bytes() == manifest
    assert AdaptiveIndex.load(index.path).plan == before


def test_no_queries_are_refused(index: AdaptiveIndex, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no queries"):
        figure(index, np.zeros((0, WIDTH), dtype="f4"), Judged([], []), tmp_path)


def test_a_prefix_that_the_index_does_not_have_is_refused(index: AdaptiveIndex, tmp_path: Path) -> None:
    queries = np.ones((1, WIDTH), np.float32)
    with pytest.raises(ValueError, match="dim must be from 1 to 16, the model's width, got 64"):
        figure(index, queries, Judged(["q"], ["q"], None), tmp_path / "out", dim=64)
    assert not (tmp_path / "out").exists()
