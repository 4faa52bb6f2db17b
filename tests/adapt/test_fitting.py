"""Fitting against references: float64 divergences, the singular value decomposition, and what cannot change."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from mrl_text.adapt import fit
from mrl_text.adapt.fitting import _turned
from mrl_text.neighbours import neighbour_groups

WIDTH, DIMS = 32, (4, 8, 32)


def hidden_signal(n: int, seed: int = 0) -> np.ndarray:
    """Vectors in groups whose differences lie in 8 directions that no axis shows, with noise in the 24 others."""
    generator = np.random.default_rng(seed)
    basis = scipy.linalg.qr(np.random.default_rng(99).normal(size=(WIDTH, WIDTH)))[0]
    centres = np.random.default_rng(7).normal(size=(40, 8))
    signal = centres[generator.integers(40, size=n)] + 0.5 * generator.normal(size=(n, 8))
    values = np.concatenate([signal, 0.3 * generator.normal(size=(n, WIDTH - 8))], axis=1)
    return (values @ basis).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return hidden_signal(2400)


def divergence(vectors: np.ndarray, matrix: np.ndarray, dim: int, scale: float = 10.0) -> float:
    """Mean KL(full width || prefix) of softmax(scale * cosine) without the text itself, in float64."""

    def distribution(values: np.ndarray) -> np.ndarray:
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        logits = scale * unit @ unit.T
        np.fill_diagonal(logits, -np.inf)
        return scipy.special.softmax(logits, axis=1)

    full = distribution(vectors.astype(np.float64))
    cut = distribution((vectors.astype(np.float64) @ matrix)[:, :dim])
    return float(scipy.special.rel_entr(full, cut).sum(axis=1).mean())


@pytest.mark.slow
def test_rotation_keeps_every_similarity_and_improves_the_prefixes(vectors: np.ndarray) -> None:
    rotation = fit(vectors, dims=DIMS, steps=300)
    unseen = hidden_signal(300, seed=1)
    exact = rotation.matrix.astype(np.float64)
    np.testing.assert_allclose(exact.T @ exact, np.eye(WIDTH), atol=1e-6)
    unit = unseen / np.linalg.norm(unseen, axis=1, keepdims=True)
    rotated = rotation.transform(unseen)
    np.testing.assert_allclose(rotated @ rotated.T, unit @ unit.T, atol=1e-5)
    for dim in (4, 8):
        plain = divergence(unseen, np.eye(WIDTH), dim)
        assert divergence(unseen, exact, dim) < 0.5 * plain
    random = scipy.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]
    assert divergence(unseen, random, 8) > divergence(unseen, exact, 8)


def test_first_step_follows_the_gradient_of_the_divergence(vectors: np.ndarray) -> None:
    """Adam's first step is the sign of the gradient; the reference differentiates through the matrix exponential."""
    some = vectors[:300]  # one batch holds them all, so the order of texts does not matter
    texts = torch.from_numpy(some).double()
    texts = texts / texts.norm(dim=1, keepdim=True)
    free = torch.zeros(WIDTH, WIDTH, dtype=torch.float64, requires_grad=True)
    rotated = texts @ torch.matrix_exp(free - free.T)
    itself = torch.eye(len(texts), dtype=torch.bool)
    teacher = (10 * texts @ texts.T).masked_fill(itself, float("-inf")).softmax(dim=1)
    total = torch.zeros((), dtype=torch.float64)
    for dim in (4, 8):
        prefix = torch.nn.functional.normalize(rotated[:, :dim])
        student = (10 * prefix @ prefix.T).masked_fill(itself, float("-inf")).log_softmax(dim=1)
        total = total + (teacher * (teacher.clamp_min(1e-300).log() - student.masked_fill(itself, 0))).sum(1).mean()
    total.backward()
    assert free.grad is not None
    step = fit(some, dims=DIMS, steps=1).matrix - np.eye(WIDTH)
    skew = (step - step.T) / 2
    clear = free.grad.abs().numpy() > 1e-6
    assert clear.sum() > 200
    np.testing.assert_array_equal(np.sign(skew[clear]), -np.sign(free.grad.numpy()[clear]))
    assert np.abs(skew[~clear]).max() < np.abs(skew[clear]).min()


def test_numbers_of_one_block_are_not_mixed_for_nothing(vectors: np.ndarray) -> None:
    """Below the smallest size no order is asked for: the rotation leaves such numbers as it found them."""
    step = fit(vectors[:300], dims=(8,), steps=1).matrix
    skew = (step - step.T) / 2
    assert max(np.abs(skew[:8, :8]).max(), np.abs(skew[8:, 8:]).max()) < 1e-6 < np.abs(skew[:8, 8:]).min()


def test_pca_is_the_singular_value_decomposition_of_what_is_not_centred(vectors: np.ndarray) -> None:
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    unit += 0.1  # a mean that centring would remove
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = fit(unit, method="pca", dims=DIMS)
    _, values, right = np.linalg.svd(unit, full_matrices=False)
    np.testing.assert_allclose(np.linalg.norm(unit @ found.matrix, axis=0), values, rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.diagonal(right @ found.matrix)), 1, atol=1e-4)
    assert found.method == "pca" and found.dims == DIMS and found.facts["texts"] == len(vectors)


@pytest.mark.slow
def test_linear_learns_from_pairs() -> None:
    """The positive shares the anchor's signal; the map shall find it where the prefix shows noise as well."""
    anchors, positives = hidden_signal(1500), hidden_signal(1500)  # same groups, the same draws
    noise = np.random.default_rng(5).normal(size=(2, 1500, WIDTH)).astype(np.float32)
    stacked = np.concatenate([anchors + 0.4 * noise[0], positives + 0.4 * noise[1]])
    pairs = np.stack([np.arange(1500), np.arange(1500, 3000)], axis=1)
    found = fit(stacked, method="linear", dims=DIMS, pairs=pairs[:1000], steps=600)

    def hits(values: np.ndarray) -> float:
        queries, candidates = values[1000:1500], values[2500:]
        return float(np.mean((queries @ candidates.T).argmax(axis=1) == np.arange(500)))

    for dim in (4, 8):
        plain = stacked[:, :dim] / np.linalg.norm(stacked[:, :dim], axis=1, keepdims=True)
        assert hits(found.transform(stacked, dim)) > 1.5 * hits(plain)


@pytest.mark.parametrize("method", ["rotation", "pca"])
def test_same_seed_same_matrix_and_length_of_vectors_does_not_matter(vectors: np.ndarray, method: Any) -> None:
    lengths = np.random.default_rng(0).uniform(0.5, 40, size=(len(vectors), 1)).astype(np.float32)
    first = fit(vectors, method=method, dims=DIMS, steps=5)
    np.testing.assert_array_equal(first.matrix, fit(vectors, method=method, dims=DIMS, steps=5).matrix)
    np.testing.assert_allclose(
        first.matrix, fit(vectors * lengths, method=method, dims=DIMS, steps=5).matrix, atol=1e-3
    )


@pytest.mark.slow
def test_seed_and_weights_are_used(vectors: np.ndarray) -> None:
    first = fit(vectors, dims=DIMS, steps=5).matrix
    assert not np.array_equal(first, fit(vectors, dims=DIMS, steps=5, seed=1).matrix)
    only_small = fit(vectors, dims=(8, 4, 32), weights=[0, 1, 0], steps=100).matrix
    assert divergence(vectors[:300], only_small, 4) < divergence(vectors[:300], np.eye(WIDTH), 4)
    np.testing.assert_allclose(only_small[4:, 4:8].T @ only_small[4:, 4:8], np.eye(4), atol=0.2)  # 4-8 follow no loss


def test_default_dims_are_powers_of_two_and_the_width(vectors: np.ndarray) -> None:
    assert fit(vectors, method="pca").dims == (16, 32)
    wide = np.random.default_rng(0).normal(size=(2000, 48)).astype(np.float32)
    assert fit(wide, method="pca").dims == (16, 32, 48)
    assert fit(wide[:, :12], method="pca").dims == (12,)


def test_float16_and_float64_are_taken(vectors: np.ndarray) -> None:
    expected = fit(vectors, method="pca", dims=DIMS).matrix
    for dtype in (np.float64, np.float16):
        found = fit(vectors.astype(dtype), method="pca", dims=DIMS).matrix
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.abs(found[:, :4]), np.abs(expected[:, :4]), atol=0.05)


@pytest.mark.slow
def test_few_texts_are_seen_twenty_times_and_no_more(vectors: np.ndarray) -> None:
    by_default = fit(vectors, dims=DIMS).matrix
    np.testing.assert_array_equal(by_default, fit(vectors, dims=DIMS, steps=20 * 2400 // 384).matrix)
    assert not np.array_equal(by_default, fit(vectors, dims=DIMS, steps=20 * 2400 // 384 + 1).matrix)


def test_few_texts_are_warned_about(vectors: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mrl_text"):
        fit(vectors[:100], method="pca", dims=DIMS)
    assert "100 texts are few" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mrl_text"):
        fit(np.tile(vectors, (5, 1)), method="pca", dims=DIMS)
    assert not caplog.records


def _with(vectors: np.ndarray, row: int, value: float) -> np.ndarray:
    changed = vectors.copy()
    changed[row] = value
    return changed


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda x: x, {"method": "rotatoin"}, "did you mean 'rotation'"),
        (lambda x: x[0], {}, "shape"),
        (lambda x: x[:1], {}, "two texts at least"),
        (lambda x: (x * 100).astype(int), {}, "int64"),
        (lambda x: _with(x, 17, 0), {}, "position 17 is zero"),
        (lambda x: _with(x, 3, np.nan), {}, "position 3 is not finite"),
        (lambda x: _with(x, 5, np.inf), {}, "position 5 is not finite"),
        (lambda x: x, {"dims": [4, 33]}, "from 1 to 32"),
        (lambda x: x, {"dims": []}, "dims is empty"),
        (lambda x: x, {"dims": [32]}, "weight to a smaller size"),
        (lambda x: x, {"weights": [1.0]}, "expected 3 weights"),
        (lambda x: x, {"weights": [1.0, -1.0, 1.0]}, "at least 0"),
        (lambda x: x, {"weights": [0.0, 0.0, 1.0]}, "smaller size"),
        (lambda x: x, {"steps": 0}, "steps must be at least 1"),
        (lambda x: x, {"method": "linear"}, "trained on pairs"),
        (lambda x: x, {"pairs": np.array([[0, 1], [1, 2]])}, "rotation needs no pairs"),
        (lambda x: x, {"method": "linear", "pairs": np.array([[0, 1], [1, 2400]])}, "rows from 0 to 2399"),
        (lambda x: x, {"method": "linear", "pairs": np.array([[0, -1], [1, 2]])}, "rows from 0 to 2399"),
        (lambda x: x, {"method": "linear", "pairs": np.array([0, 1])}, "shape"),
        (lambda x: x, {"method": "linear", "pairs": np.array([[0, 1], [0, 2]])}, "share their anchor"),
        (lambda x: x, {"method": "linear", "pairs": np.array([[1, 0], [2, 0]])}, "share their anchor or"),
        (lambda x: x, {"method": "linear", "pairs": np.array([[0.0, 1.0], [1.0, 2.0]])}, "float64"),
    ],
)
def test_bad_input_is_refused(vectors: np.ndarray, change: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(change(vectors), **{"dims": DIMS, **options})


def test_groups_follow_the_seed_of_the_fit(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(embeddings: np.ndarray, *, seed: int) -> np.ndarray:
        seen.append(seed)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        return neighbour_groups(embeddings, seed=seed)

    monkeypatch.setattr("mrl_text.adapt.fitting.neighbour_groups", spy)
    fit(vectors, dims=DIMS, steps=1, seed=11)
    assert seen == [11]


def skew(length: float, rank: int, seed: int) -> torch.Tensor:
    """(768, 768) of that spectral norm."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(768, rank, generator=generator) for _ in range(2))
    made = left @ right.T - right @ left.T
    return made * (length / float(torch.linalg.matrix_norm(made.double(), 2)))


def test_a_small_turn_ends_at_the_nearest_orthogonal_matrix() -> None:
    turn = skew(0.1, 300, 0)
    nearest, _ = scipy.linalg.polar((torch.eye(768) + turn).double().numpy())
    np.testing.assert_allclose(_turned(torch.eye(768), turn).numpy(), nearest, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 300])
def test_a_long_turn_does_not_tear_the_rotation_apart(rank: int) -> None:
    rotation = torch.eye(768)
    for step in range(20):
        rotation = _turned(rotation, skew(5.8, rank, step))
        assert float((rotation.T @ rotation - torch.eye(768)).abs().max()) < 0.05
