"""What signs keep, and what few bytes find, against plain numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from mrl_text.adapt import Adaptation, fit
from mrl_text.adapt.bits import kept_by_bytes, turned_for_signs
from mrl_text.codes import Codec

from .test_fitting import WIDTH, hidden_signal

DIMS = (4, 8, WIDTH)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def loss(vectors: np.ndarray) -> float:
    """What signs of the best length leave of vectors, in float64: 1 - mean |x| squared / mean x squared."""
    return float(1 - np.abs(vectors).mean(axis=1).mean() ** 2 / np.square(vectors).mean())


def test_turns_keep_every_prefix_and_suit_the_signs() -> None:
    vectors = unit(hidden_signal(3000)).astype(np.float32)
    before = scipy.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))[0]
    after = turned_for_signs(vectors, before, DIMS[:-1], 0)
    np.testing.assert_allclose(after.T @ after, np.eye(WIDTH), atol=1e-12)
    for first, last in ((0, 4), (4, 8), (8, WIDTH)):
        old, new = before[:, first:last], after[:, first:last]
        np.testing.assert_allclose(new @ new.T, old @ old.T, atol=1e-6)  # the same numbers, turned
        assert loss(vectors @ new) < loss(vectors @ old)
    assert loss(vectors @ after[:, :4]) < loss(vectors @ before[:, :4]) - 0.02


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
    assert [row["bytes"] for row in rows] == sorted(by_bytes) and rows[-1]["bytes"] <= WIDTH
    assert (np.diff([row["after"] for row in rows]) > 0).all()  # nothing that fewer bytes do as well
    assert rows[-1]["after"] > 0.9 > by_bytes[1]["after"] > by_bytes[1]["before"]


def test_a_rotation_for_bits_finds_more_than_one_for_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts in 40 groups along 8 directions: one bit of each, with and without the turns."""
    vectors, unseen = hidden_signal(2400), hidden_signal(400, seed=1)
    turned = fit(vectors, dims=(8, WIDTH), steps=100)
    monkeypatch.setattr("mrl_text.adapt.fitting.turned_for_signs", lambda vectors, rotation, *rest: rotation)
    plain = fit(vectors, dims=(8, WIDTH), steps=100)
    for one in (turned, plain):
        assert one.codec is not None
        np.testing.assert_allclose(one.codec.scales, Codec.fit(vectors @ one.matrix).scales, rtol=1e-5)
    first, second = (kept_by_bytes(unseen, one)[0] for one in (turned, plain))
    assert first["bytes"] == second["bytes"] == 1
    assert first["after"] > second["after"] > first["before"] == second["before"]
    exact = Adaptation(np.eye(WIDTH, dtype=np.float32), (8, WIDTH), "rotation", {}, Codec.fit(unseen[100:]))
    assert all(row["after"] == row["before"] for row in kept_by_bytes(unseen, exact))
