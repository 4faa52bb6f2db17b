from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    EmbedDistillLoss,
    MarginMSELoss,
    MatryoshkaLoss,
)
from sentence_transformers.util import pairwise_cos_sim
from torch import Tensor

from mrl_text.losses import EmbeddingDistillation, InfoNCE, NestedLoss, ScoreDistillation
from mrl_text.losses.objectives import Objective
from tests.losses.reference import Preset, assert_same, random_columns

DIMS = [4, 10, 24]


def value_of(objective: Objective, columns: list[Tensor], given: list[Tensor] | None = None) -> Tensor:
    return objective(columns, given, objective.dims).total


# ------------------------------------------------------------------------------------------------ embeddings


def affine(inputs: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The affine map of weighted least squares, with a ridge as rows of its own: numpy's own solution."""
    known = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1) * np.sqrt(weights)[:, None]
    ridge = np.sqrt(1e-3 * (known**2).sum() / known.shape[1]) * np.eye(known.shape[1])
    told = np.concatenate([outputs * np.sqrt(weights)[:, None], np.zeros((known.shape[1], outputs.shape[1]))])
    return np.asarray(np.linalg.lstsq(np.concatenate([known, ridge]), told, rcond=None)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("steps", [1, 3])
def test_embedding_distillation_is_mse_through_the_least_squares_map(dtype: torch.dtype, steps: int) -> None:
    """Gradients are those of sentence-transformers' EmbedDistillLoss with that map as its projection."""
    weights = [0.5, 2.0, 1.25]
    objective = EmbeddingDistillation(DIMS, weights=weights)
    seen: dict[int, list[np.ndarray]] = {dim: [] for dim in DIMS}
    told, counts = [], []
    for step in range(steps):
        columns = random_columns(2, 20, 24, dtype=dtype, seed=step)
        teacher = [one.detach() for one in random_columns(2, 20, 31, dtype=dtype, seed=50 + step)]
        found = value_of(objective, columns, teacher)
        counts = [count * 0.99 for count in counts] + [1 / 40] * 40
        told.append(np.concatenate([torch.nn.functional.normalize(one, dim=1).double().numpy() for one in teacher]))
        for dim in DIMS:
            unit = torch.nn.functional.normalize(torch.cat(columns).detach()[:, :dim].double(), dim=1)
            seen[dim].append(unit.numpy())
    expected = columns[0].new_zeros((), dtype=torch.float64)
    wide = [column.detach().double().requires_grad_() for column in columns]
    for dim, weight in zip(DIMS, weights, strict=True):
        matrix = affine(np.concatenate(seen[dim]), np.concatenate(told), np.array(counts))
        short = [torch.nn.functional.normalize(column[:, :dim], dim=1) for column in wide]
        loss = EmbedDistillLoss(Preset(short), distance_metric="mse")
        loss.projection = torch.nn.Linear(dim, 31).double()
        with torch.no_grad():
            loss.projection.weight.copy_(torch.from_numpy(matrix[:-1].T))
            loss.projection.bias.copy_(torch.from_numpy(matrix[-1]))
        labels = torch.stack([torch.nn.functional.normalize(one, dim=1) for one in teacher], dim=1)
        expected = expected + weight * 31 * loss(loss.model.columns(), labels.double())
    assert_same(found, expected, columns, expected_columns=wide)


def test_what_an_affine_map_tells_of_the_teacher_costs_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    texts = torch.nn.functional.normalize(torch.randn(4000, 6, generator=generator, dtype=torch.float64), dim=1)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    shift = 2.0 * torch.ones(1, 5, dtype=torch.float64)
    teacher = torch.cat([texts @ turn, shift.expand(4000, 5)], dim=1)  # longer than 1, and all alike in some numbers
    value = EmbeddingDistillation([3, 6])([texts], [teacher], [3, 6])
    assert value.per_size[1] < 1e-5
    assert 0.4 / 21 < value.per_size[0] < 0.6 / 21, "half of the unit vector's part that varies, 1 / 21 of all"


def test_maps_are_learnt_while_training_only_and_go_on_from_where_they_were() -> None:
    first, second = random_columns(1, 30, 24), random_columns(1, 30, 24, seed=1)
    teacher = torch.cat([one.detach() for one in random_columns(1, 30, 9, seed=2)])
    one, other = (NestedLoss(Preset(first), EmbeddingDistillation(DIMS)) for _ in range(2))
    assert one.learned == {}
    one.compute_loss_from_embeddings(first, teacher)
    assert {name: kept.shape for name, kept in one.learned.items()} == {
        f"embed_dim{dim}": (dim + 1, dim + 1 + 9) for dim in DIMS
    }
    other.learned = {name: kept.clone() for name, kept in one.learned.items()}
    with torch.no_grad():
        one.compute_loss_from_embeddings(second, teacher)
    values = [loss.compute_loss_from_embeddings(second, teacher).item() for loss in (one, other)]
    assert values[0] == values[1]


def test_embedding_distillation_needs_a_teacher_with_a_vector_for_each() -> None:
    columns = random_columns(2, 5, 8)
    with pytest.raises(ValueError, match="needs a teacher's vectors"):
        value_of(EmbeddingDistillation([4]), columns)
    with pytest.raises(ValueError, match="5 vectors for 10 texts"):
        value_of(EmbeddingDistillation([4]), columns, [columns[0].detach()])


# ------------------------------------------------------------------------------------------------ scores


def published(columns: list[Tensor], scores: Tensor, weights: list[float] | None, divergence: str) -> Tensor:
    """Sentence-transformers' MatryoshkaLoss over its own loss of scores, on 15 times the cosines."""

    def similarity(one: Tensor, other: Tensor) -> Tensor:
        return 15 * pairwise_cos_sim(one, other)

    model = Preset(columns)
    inner = {"kl": DistillKLDivLoss, "margin_mse": MarginMSELoss}[divergence](model, similarity_fct=similarity)
    loss: Tensor = MatryoshkaLoss(model, inner, DIMS, weights)(model.columns(), scores)
    return loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("negatives", [1, 4])
@pytest.mark.parametrize("divergence", ["kl", "margin_mse"])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.25]], ids=["unweighted", "weighted"])
def test_scores_are_distilled_as_sentence_transformers_does(
    dtype: torch.dtype, negatives: int, divergence: Any, weights: list[float] | None
) -> None:
    columns = random_columns(2 + negatives, 17, 24, dtype=dtype)
    scores = 6 * torch.randn(17, 1 + negatives, dtype=dtype, generator=torch.Generator().manual_seed(4))
    options: dict[str, Any] = {"weights": weights, "scale": 15.0, "divergence": divergence}
    expected = published(columns, scores, weights, divergence)
    assert_same(value_of(ScoreDistillation(DIMS, **options), columns, [scores]), expected, columns)
    halved = ScoreDistillation(DIMS, **options, score_scale=2.0, strength=3.0)
    expected = 3 * published(columns, scores, weights, divergence)
    assert_same(value_of(halved, columns, [scores / 2]), expected, columns)


@pytest.mark.parametrize("negatives", [1, 3])
def test_margins_may_be_given_in_place_of_scores(negatives: int) -> None:
    columns = random_columns(2 + negatives, 9, 24)
    scores = torch.randn(9, 1 + negatives, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    margins = scores[:, :1] - scores[:, 1:]
    objective = ScoreDistillation(DIMS, divergence="margin_mse")
    expected = value_of(objective, columns, [scores])
    assert_same(value_of(objective, columns, [margins]), expected, columns)
    if negatives == 1:  # a plain number a row
        assert value_of(objective, columns, [margins[:, 0]]).item() == expected.item()


def test_scores_come_in_the_label_beside_the_vectors_of_a_guide() -> None:
    columns = random_columns(3, 9, 24)
    scores = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    guide = [one.detach() for one in random_columns(3, 9, 5, seed=2)]
    loss = NestedLoss(Preset(columns), ScoreDistillation(DIMS), InfoNCE(DIMS, margin=0.0))
    found = loss.compute_loss_from_embeddings(columns, {"label": scores, "guide": torch.cat(guide, dim=1)})
    expected = value_of(ScoreDistillation(DIMS), columns, [scores]) + value_of(
        InfoNCE(DIMS, margin=0.0), columns, guide
    )
    assert_same(found, expected, columns)
    alone = NestedLoss(Preset(columns), ScoreDistillation(DIMS))
    assert alone.compute_loss_from_embeddings(columns, scores).item() == pytest.approx(
        value_of(ScoreDistillation(DIMS), columns, [scores]).item(), rel=1e-12
    )


@pytest.mark.parametrize(
    ("columns", "scores", "divergence", "message"),
    [
        (2, [5, 1], "kl", "needs anchor, positive and a negative, got 2 columns"),
        (4, [5, 2], "kl", "needs 3 scores a row, one per positive and negative: 2 a row"),
        (4, [5, 4], "margin_mse", "needs 3 scores a row, one per positive and negative: 4 a row"),
        (3, None, "kl", "needs 2 scores a row, one per positive and negative: none"),
    ],
)
def test_scores_that_do_not_fit_are_refused(
    columns: int, scores: list[int] | None, divergence: Any, message: str
) -> None:
    given = None if scores is None else [torch.zeros(scores)]
    with pytest.raises(ValueError, match=message):
        value_of(ScoreDistillation([4], divergence=divergence), random_columns(columns, 5, 8), given)


def test_impossible_options_of_score_distillation_are_refused() -> None:
    with pytest.raises(ValueError, match="score_scale must be above 0, got 0"):
        ScoreDistillation(DIMS, score_scale=0)
    with pytest.raises(ValueError, match="divergence 'mse'"):
        ScoreDistillation(DIMS, divergence="mse")  # type: ignore[arg-type]
