from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from mrl_text.classification import NestedClassifier
from mrl_text.classification.nested import fit_heads, tied_loss
from mrl_text.truncation import truncate

DIMS = (2, 5, 8)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, size=120)
    vectors = generator.normal(size=(4, 8))[labels] + generator.normal(size=(120, 8))
    return vectors, labels


def naive_loss(parameters: torch.Tensor, data: tuple[np.ndarray, np.ndarray], C: float) -> torch.Tensor:
    """The definition, one size after the other, in float64."""
    vectors, labels = torch.tensor(data[0]), torch.tensor(data[1])
    weights, intercepts = parameters.reshape(-1, 4).split([8, 3])
    total = torch.zeros((), dtype=torch.float64)
    for stage, dim in enumerate(DIMS):
        unit = torch.nn.functional.normalize(vectors[:, :dim])
        logits = unit @ weights[:dim] + intercepts[stage]
        total += torch.nn.functional.cross_entropy(logits, labels) + weights.square().sum() / (2 * C * len(labels))
    return total


def test_gradient_of_tied_heads_is_that_of_the_definition(data: tuple[np.ndarray, np.ndarray]) -> None:
    point = np.random.default_rng(1).normal(size=(8 + 3) * 4)
    loss, gradient = tied_loss(point, *data, DIMS, 3.0)
    parameters = torch.tensor(point, requires_grad=True)
    expected = naive_loss(parameters, data, 3.0)
    expected.backward()
    assert parameters.grad is not None
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, parameters.grad.numpy(), atol=1e-12)
    finite = approx_fprime(point, lambda p: tied_loss(p, *data, DIMS, 3.0)[0], 1e-6)
    np.testing.assert_allclose(gradient, finite, atol=1e-5)


def test_the_tied_loss_is_convex_along_lines(data: tuple[np.ndarray, np.ndarray]) -> None:
    generator = np.random.default_rng(2)
    for _ in range(20):
        a, b = generator.normal(size=(2, 44)) * generator.uniform(0.1, 10)
        ends = (tied_loss(a, *data, DIMS, 3.0)[0] + tied_loss(b, *data, DIMS, 3.0)[0]) / 2
        assert tied_loss((a + b) / 2, *data, DIMS, 3.0)[0] <= ends + 1e-12


def test_tied_heads_are_what_another_solver_finds(data: tuple[np.ndarray, np.ndarray]) -> None:
    heads = fit_heads(*data, DIMS, tied=True, C=3.0, max_iter=1000)
    parameters = torch.zeros(44, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([parameters], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Any:
        solver.zero_grad()
        loss = naive_loss(parameters, data, 3.0)
        loss.backward()
        return loss

    solver.step(closure)
    np.testing.assert_allclose(heads.weights[-1], parameters.detach().numpy().reshape(-1, 4)[:8], atol=5e-3)
    for stage, dim in enumerate(DIMS):
        np.testing.assert_array_equal(heads.weights[stage], heads.weights[-1][:dim])


def test_one_tied_size_is_a_separate_head(data: tuple[np.ndarray, np.ndarray]) -> None:
    tied = fit_heads(*data, (5,), tied=True, C=3.0, max_iter=1000)
    separate = fit_heads(*data, (5,), tied=False, C=3.0, max_iter=1000)
    np.testing.assert_allclose(*(softmax(heads.logits(data[0], 0), axis=1) for heads in (tied, separate)), atol=2e-3)


@pytest.mark.parametrize("classes", [2, 4])
def test_separate_heads_are_logistic_regressions_on_prefixes(data: tuple[np.ndarray, np.ndarray], classes: int) -> None:
    vectors, labels = data[0], data[1] % classes
    nested = NestedClassifier(DIMS, C=2.0).fit(vectors, labels)
    for dim in DIMS:
        expected = LogisticRegression(C=2.0, max_iter=1000).fit(truncate(vectors, dim), labels)
        found = nested.predict_proba(vectors, dim)
        np.testing.assert_allclose(found, expected.predict_proba(truncate(vectors, dim)), atol=1e-9)
        assert nested.scores(vectors, labels)[dim] == expected.score(truncate(vectors, dim), labels)


def test_impossible_calls_say_what_is_allowed(data: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="from 1 to 8"):
        NestedClassifier([4, 16]).fit(*data)
    with pytest.raises(ValueError, match="C must be above 0"):
        NestedClassifier(C=0).fit(*data)
    with pytest.raises(ValueError, match="1 class"):
        NestedClassifier().fit(data[0], np.zeros(120))
    with pytest.raises(ValueError, match="heads for 2, 5, 8"):
        NestedClassifier(DIMS).fit(*data).predict(data[0], 4)
