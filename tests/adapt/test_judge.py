"""What few bytes find, against plain numpy in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mrl_text.adapt import Adaptation, fit
from mrl_text.adapt.judge import kept_by_bytes
from mrl_text.codes import Codec

from .test_fitting import WIDTH, hidden_signal

DIMS = (4, 8, WIDTH)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_few_bytes_are_judged_by_the_nearest_at_full_width() -> None:
    vectors = hidden_signal(400)
    adaptation = fit(hidden_signal(2000, seed=3), method="pca", dims=DIMS)
    rows = kept_by_bytes(vectors, adaptation)
    queries, documents = np.split(unit(vectors.astype(np.float64)), [100])
    true = np.argsort(-(queries @ documents.T), axis=1)[:, :10]

    def found(queries: np.ndarray, codes: np.ndarray) -> float:
        best = np.argsort(-(queries @ unit(codes).T), axis=1, kind="stable")[:, :10]
        return float(np.mean([len(set(one) & set(other)) / 10 for one, other in zip(true, best, strict=True)]))

    basis = adaptation.matrix.astype(np.float64)
    asked = {dim: unit((queries @ basis)[:, :dim]) for dim in DIMS}
    binary = {dim: found(asked[dim], np.where((documents @ basis)[:, :dim] > 0, 1.0, -1.0)) for dim in DIMS}
    by_bytes = {row["bytes"]: row for row in rows}
    assert rows[0]["bytes"] == 1
    assert by_bytes[1]["precision"] == "binary" and by_bytes[1]["dim"] in (4, 8)
    assert by_bytes[1]["after"] == pytest.approx(max(binary[4], binary[8]), abs=0.01)
    assert by_bytes[1]["before"] == pytest.approx(
        max(found(unit(queries[:, :dim]), np.where(documents[:, :dim] > 0, 1.0, -1.0)) for dim in (4, 8)), abs=0.01
    )
    assert [row["bytes"] for row in rows] == [1, 2, 4, 8, 16, 32]
    assert (np.diff([row["after"] for row in rows]) >= 0).all()  # of more bytes the best is as good at least
    assert rows[-1]["after"] > 0.9 > by_bytes[1]["after"] > by_bytes[1]["before"]


def test_the_judge_takes_the_codec_that_is_saved_and_sees_no_change_where_there_is_none() -> None:
    unseen = hidden_signal(400, seed=1)
    same = Adaptation(np.eye(WIDTH, dtype=np.float32), (8, WIDTH), "rotation", {}, Codec.fit(unseen[100:]))
    assert all(row["after"] == row["before"] for row in kept_by_bytes(unseen, same))
    coarse = replace(same, codec=Codec(np.full(WIDTH, 9, np.float32)))  # every number is in the two middle levels
    fine, rough = (kept_by_bytes(unseen, one) for one in (same, coarse))
    assert [row["bytes"] for row in rough] == [row["bytes"] for row in fine]
    codes = [{(row["dim"], row["precision"]) for row in rows} for rows in (rough, fine)]
    assert len(codes[0]) < len(codes[1])  # more bits than the sign tell nothing more


def test_every_method_is_judged_at_the_same_numbers_of_bytes() -> None:
    unseen, known = hidden_signal(400, seed=1), hidden_signal(2000, seed=3)
    fitted = [fit(known, method="pca", dims=DIMS), fit(known, method="rotation", dims=DIMS, steps=5)]
    sizes = [[row["bytes"] for row in kept_by_bytes(unseen, one)] for one in fitted]
    assert sizes[0] == sizes[1]


def test_a_fitted_adaptation_has_the_codec_of_what_it_makes() -> None:
    vectors = hidden_signal(2000)
    found = fit(7 * vectors, method="pca", dims=DIMS)
    assert found.codec is not None
    exact = unit(vectors.astype(np.float64)) @ found.matrix.astype(np.float64)
    np.testing.assert_allclose(found.codec.scales, np.sqrt(np.square(exact).mean(axis=0)), rtol=1e-4)
