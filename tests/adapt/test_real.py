"""The rotation of a real model, scored with gold that it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from scipy.stats import spearmanr

from mrl_text import MatryoshkaEncoder
from mrl_text.adapt import fit


@pytest.mark.data
@pytest.mark.model
def test_rotation_of_minilm_gains_at_small_sizes_and_loses_nothing_at_full_width(test_data: Path) -> None:
    model = MatryoshkaEncoder("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
    captions = parquet.read_table(test_data / "train" / "captions.parquet").to_pydict()
    texts = list(dict.fromkeys([*captions["anchor"][:800], *captions["positive"][:800]]))
    rotation = fit(model.encode(texts), dims=[16, 32, 64, 384], steps=100)
    rows = parquet.read_table(test_data / "mteb-mirror/mteb/stsbenchmark-sts/validation.parquet").to_pydict()
    left, right = (model.encode(rows[column][:700]) for column in ("sentence1", "sentence2"))

    def score(matrix: np.ndarray, dim: int) -> float:
        first, second = ((side @ matrix)[:, :dim] for side in (left, right))
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        return 100 * float(spearmanr((first * second).sum(axis=1) / lengths, rows["score"][:700])[0])

    identity = np.eye(384, dtype=np.float32)
    assert abs(score(rotation.matrix, 384) - score(identity, 384)) < 0.01
    gains = {dim: score(rotation.matrix, dim) - score(identity, dim) for dim in (64, 32)}
    assert min(gains.values()) > 0.3, gains
