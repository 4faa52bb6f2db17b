from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from sentence_transformers.sentence_transformer.losses import (
    Matryoshka2dLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from torch import Tensor

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.losses import EmbeddingDistillation, InfoNCE, NestedLoss, ScoreDistillation
from mrl_text.training.losses import LossConfig
from mrl_text.training.recipe import Loss

DIMS = [32, 8, 16]
WEIGHTS = [1.0, 0.5, 2.0]


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu").eval()


@pytest.fixture
def columns(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> list[dict[str, Tensor]]:
    names = ("anchor", "positive", "negative")
    return [dict(model.preprocess([row[name] for row in triplets[:12]])) for name in names]


def config(**options: Any) -> LossConfig:
    found: LossConfig = TypeAdapter(Loss).validate_python({"dims": DIMS, **options})
    return found


def value(loss: torch.nn.Module, columns: list[dict[str, Tensor]], labels: Any = None) -> float:
    found = loss([dict(column) for column in columns], labels)
    return float((sum(found.values()) if isinstance(found, dict) else found).detach())


def distilled(
    model: MatryoshkaEncoder, columns: list[dict[str, Tensor]], teacher: Tensor, scale: float, weights: list[float]
) -> float:
    """Kullback-Leibler divergence of the neighbourhoods in float64, from its definition, text by text."""
    with torch.no_grad():
        texts = torch.cat([model(dict(column))["sentence_embedding"] for column in columns]).double()
    target = torch.nn.functional.normalize(teacher.double(), dim=1)
    others = ~torch.eye(len(texts), dtype=torch.bool)
    total = 0.0
    for dim, weight in zip(DIMS, weights, strict=True):
        short = torch.nn.functional.normalize(texts[:, :dim], dim=1)
        divergences = []
        for row, kept in enumerate(others):
            wanted = (scale * target[row] @ target[kept].T).softmax(dim=0)
            found = (scale * short[row] @ short[kept].T).softmax(dim=0)
            divergences.append((wanted * (wanted / found).log()).sum())
        total += weight * float(torch.stack(divergences).mean())
    return total


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("mini_batch_size", [None, 5])
def test_nested_infonce_is_the_loss_of_sentence_transformers(
    model: MatryoshkaEncoder, columns: list[dict[str, Tensor]], symmetric: bool, mini_batch_size: int | None
) -> None:
    kind = MultipleNegativesSymmetricRankingLoss if symmetric else MultipleNegativesRankingLoss
    pairs = columns[:2] if symmetric else columns
    theirs = MatryoshkaLoss(model, kind(model, scale=5.0), DIMS, WEIGHTS)
    options: dict[str, Any] = {"symmetric": symmetric, "mini_batch_size": mini_batch_size}
    ours = config(weights=WEIGHTS, scale=5.0, **options).build(model)
    expected = value(theirs, pairs)
    assert value(ours, pairs) == pytest.approx(expected, rel=1e-5)
    mean = config(weights=WEIGHTS, scale=5.0, reduction="mean", **options).build(model)
    assert value(mean, pairs) == pytest.approx(expected / sum(WEIGHTS), rel=1e-5)


def test_nested_infonce_2d_is_sentence_transformers_own(
    model: MatryoshkaEncoder, columns: list[dict[str, Tensor]]
) -> None:
    loss = config(name="nested_infonce_2d", weights=WEIGHTS, layers_per_step=2, dims_per_step=2).build(model)
    assert isinstance(loss, Matryoshka2dLoss)
    given = loss.get_config_dict()
    assert sorted(zip(given["matryoshka_dims"], given["matryoshka_weights"], strict=True)) == sorted(
        zip(DIMS, WEIGHTS, strict=True)
    )
    assert (given["n_layers_per_step"], given["n_dims_per_step"]) == (2, 2)
    assert value(loss, columns) > 0


@pytest.mark.parametrize("scale", [10.0, 3.0])
def test_self_distillation_matches_the_vectors_in_the_label(
    model: MatryoshkaEncoder, columns: list[dict[str, Tensor]], scale: float
) -> None:
    teacher = torch.randn(12, 3 * 20, generator=torch.Generator().manual_seed(0))
    loss = config(name="self_distillation", weights=WEIGHTS, distill_scale=scale).build(model)
    stacked = torch.cat(teacher.chunk(3, dim=1))
    assert value(loss, columns, teacher) == pytest.approx(distilled(model, columns, stacked, scale, WEIGHTS), rel=1e-5)


def test_a_model_that_is_its_own_teacher_passes_over_the_label(
    model: MatryoshkaEncoder, columns: list[dict[str, Tensor]]
) -> None:
    teacher = torch.randn(12, 3 * 20, generator=torch.Generator().manual_seed(0))
    loss = config(name="self_distillation", teacher="self").build(model)
    with torch.no_grad():
        own = torch.cat([model(dict(column))["sentence_embedding"] for column in columns])
    expected = distilled(model, columns, own, 10.0, [1.0] * 3)
    assert value(loss, columns, teacher) == value(loss, columns) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [None, [3.0, 0.0, 1.0]])
def test_distillation_is_added_to_contrast_with_its_own_weights(
    model: MatryoshkaEncoder, columns: list[dict[str, Tensor]], weights: list[float] | None
) -> None:
    teacher = torch.randn(12, 3 * 20, generator=torch.Generator().manual_seed(0))
    both = config(weights=WEIGHTS, distill_weight=4.0, distill_weights=weights).build(model)
    contrast = config(weights=WEIGHTS).build(model)
    stacked = torch.cat(teacher.chunk(3, dim=1))
    expected = value(contrast, columns) + 4.0 * distilled(model, columns, stacked, 10.0, weights or WEIGHTS)
    assert value(both, columns, teacher) == pytest.approx(expected, rel=1e-5)
    assert value(contrast, columns, teacher) == value(contrast, columns), "it reads no vectors"


def test_one_column_is_enough_to_distil(model: MatryoshkaEncoder, columns: list[dict[str, Tensor]]) -> None:
    teacher = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    loss = config(name="self_distillation").build(model)
    expected = distilled(model, columns[:1], teacher, 10.0, [1.0] * 3)
    assert value(loss, columns[:1], teacher) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["nested_infonce", "self_distillation", "nested_infonce_2d"])
def test_a_size_larger_than_the_model_is_refused(model: MatryoshkaEncoder, name: str) -> None:
    with pytest.raises(ValueError, match="dims asks for 64, but the model has width 32"):
        config(name=name, dims=[8, 64]).build(model)


def test_a_static_model_has_no_layers_to_train(model: MatryoshkaEncoder) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    table = MatryoshkaEncoder(modules=[StaticEmbedding(model.tokenizer.backend_tokenizer, embedding_dim=32)])
    with pytest.raises(ValueError, match="has no layers to train"):
        config(name="nested_infonce_2d").build(table)
    with pytest.raises(ValueError, match="leave mini_batch_size out"):
        config(mini_batch_size=4).build(table)


@pytest.mark.parametrize("how", [{}, {"margin": 0.1}, {"margin": 0.05, "margin_strategy": "relative"}], ids=str)
def test_the_guide_of_a_recipe_masks_as_the_objective_does(
    model: MatryoshkaEncoder, columns: list[dict[str, Tensor]], how: dict[str, Any]
) -> None:
    guide = torch.randn(12, 3 * 20, generator=torch.Generator().manual_seed(0))
    loss = config(weights=WEIGHTS, guide="base", **how).build(model)
    same = NestedLoss(model, InfoNCE(DIMS, weights=WEIGHTS, **{"margin": 0.0, **how}))
    found = value(loss, columns, {"guide": guide})
    assert found == value(same, columns, {"guide": guide})
    assert found < value(config(weights=WEIGHTS).build(model), columns) - 1e-3


@pytest.mark.parametrize("weights", [None, [3.0, 0.0, 1.0]])
@pytest.mark.parametrize("name", ["nested_infonce", "self_distillation"])
def test_embedding_distillation_is_added_with_its_own_weight(
    model: MatryoshkaEncoder, columns: list[dict[str, Tensor]], name: str, weights: list[float] | None
) -> None:
    teacher = torch.randn(12, 3 * 20, generator=torch.Generator().manual_seed(0))
    both, alone = (
        config(name=name, weights=WEIGHTS, distill_weights=weights, embed_weight=weight).build(model)
        for weight in (0.5, 0.0)
    )
    embed = NestedLoss(model, EmbeddingDistillation(DIMS, weights=weights or WEIGHTS))
    expected = value(alone, columns, teacher) + 0.5 * value(embed, columns, teacher)
    assert value(both, columns, {"teacher": teacher}) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("divergence", ["kl", "margin_mse"])
def test_scores_are_distilled_alone_and_beside_contrast(
    model: MatryoshkaEncoder, columns: list[dict[str, Tensor]], divergence: Any
) -> None:
    scores = {"label": 5 * torch.randn(12, 2, generator=torch.Generator().manual_seed(0))}
    how: dict[str, Any] = {"weights": WEIGHTS, "scale": 8.0, "score_scale": 0.5, "divergence": divergence}
    alone = config(name="score_distillation", **how).build(model)
    expected = value(NestedLoss(model, ScoreDistillation(DIMS, **how)), columns, scores)
    assert value(alone, columns, scores) == expected > 0
    both = config(name="score_distillation", contrast_weight=0.5, **how).build(model)
    contrast = value(config(weights=WEIGHTS, scale=8.0).build(model), columns)
    assert value(both, columns, scores) == pytest.approx(expected + 0.5 * contrast, rel=1e-5)
