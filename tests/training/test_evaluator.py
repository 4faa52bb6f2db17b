from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sentence_transformers import SentenceTransformer
from sklearn.metrics import average_precision_score, ndcg_score

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.training.evaluator import (
    PRECISION,
    SPEARMAN,
    Metric,
    NestedRetrievalEvaluator,
    NestedSimilarityEvaluator,
    nested_ndcg,
)


def noisy_pairs(rows: int, width: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    anchors = torch.randn(rows, width, generator=generator)
    return anchors, anchors + noise * torch.randn(rows, width, generator=generator)


@pytest.mark.parametrize("rows", [40, 1100], ids=["one block of rows", "several blocks of rows"])
@pytest.mark.parametrize("dim", [3, 8, 24])
def test_the_score_is_ndcg_at_10_of_the_cut_vectors(rows: int, dim: int) -> None:
    anchors, positives = noisy_pairs(rows, 24, noise=1.5)
    queries, documents = anchors.double().numpy()[:, :dim], positives.double().numpy()[:, :dim]
    cosines = queries @ documents.T / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(documents, axis=1))
    expected = ndcg_score(np.eye(rows), cosines, k=10)
    assert 0.01 < expected < 0.99
    assert nested_ndcg(anchors.double(), positives.double(), dim).mean() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("several", [False, True], ids=["one answer each", "several answers each"])
def test_ties_count_as_the_mean_over_their_orders(several: bool) -> None:
    """As scikit-learn does: three numbers of -1 and 1 leave four different similarities among 30 documents."""
    random = np.random.default_rng(1)
    queries, documents = (random.choice([-1.0, 1.0], (rows, 3)) for rows in (20, 30))
    right = np.eye(20, 30) if not several else (random.random((20, 30)) < 0.4) + np.eye(20, 30) > 0
    expected = [ndcg_score(right[row : row + 1], queries[row : row + 1] @ documents.T, k=10) for row in range(20)]
    assert 0.05 < np.mean(expected) < 0.95
    answers = torch.tensor(np.argwhere(right))
    found = nested_ndcg(torch.tensor(queries) * 2, torch.tensor(documents) * 4, 3, answers)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(("rows", "expected"), [(1, 1.0), (3, (1 + 1 / np.log2(3) + 0.5) / 3)])
def test_a_model_that_cannot_tell_texts_apart_scores_as_much_as_chance(rows: int, expected: float) -> None:
    same = torch.ones(rows, 4)
    assert nested_ndcg(same, same, 4) == pytest.approx(np.full(rows, expected))


class Perfect(torch.nn.Module):
    """Puts every question at its answer: what ends in the same word has the same vector."""

    def encode_query(self, texts: list[str], **options: Any) -> torch.Tensor:
        return torch.stack([torch.eye(8)[int(text.split()[-1])] for text in texts])

    encode_document = encode_query


def test_a_perfect_model_scores_1_where_answers_and_questions_repeat() -> None:
    """Five answers to twelve questions each, one spelt in two ways, and a question with two right answers."""
    anchors = [f"question {number} about {answer}" for number in range(12) for answer in range(5)]
    positives = [f"{'The' if number % 2 else 'the  '} answer {answer}" for number in range(12) for answer in range(5)]
    anchors += ["Question 0 about 0"]
    positives += ["also an answer 0"]
    evaluator = NestedRetrievalEvaluator(anchors, positives, [5, 8])
    assert (len(evaluator.queries), len(evaluator.documents), len(evaluator.answers)) == (60, 6, 61)
    for scores in evaluator.measure(Perfect()).values():  # type: ignore[arg-type]
        # two documents have one vector, and eleven questions have only one of them as their answer
        half = (1 + 1 / np.log2(3)) / 2
        np.testing.assert_allclose(np.sort(scores), [half] * 11 + [1] * 49)


def test_vectors_that_are_no_numbers_score_nothing() -> None:
    anchors, positives = noisy_pairs(20, 8, noise=0.1)
    assert nested_ndcg(torch.full_like(anchors, torch.nan), positives, 8).max() == 0
    anchors[:10] = torch.nan
    assert nested_ndcg(anchors, positives, 8)[:10].max() == 0
    assert nested_ndcg(positives, anchors, 8)[:10].max() == 0


@pytest.fixture
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu")


@pytest.fixture
def texts(triplets: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    return [row["anchor"] for row in triplets], [row["positive"] for row in triplets]


@pytest.mark.parametrize("dims", [[32], [32, 8, 16, 4, 2]])
def test_each_text_is_encoded_once_however_many_sizes_are_asked_for(
    model: MatryoshkaEncoder, texts: tuple[list[str], list[str]], dims: list[int]
) -> None:
    encoded: list[int] = []
    model[0].register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0]["input_ids"])))
    NestedRetrievalEvaluator(*texts, dims, batch_size=16)(model)
    assert sum(encoded) == len(texts[0]) + len(texts[1])


@pytest.mark.parametrize("kind", [MatryoshkaEncoder, SentenceTransformer])
def test_every_size_is_scored_on_the_full_width_vectors_of_any_model(
    kind: type[SentenceTransformer], tiny_bert: Path, texts: tuple[list[str], list[str]]
) -> None:
    model = kind(str(tiny_bert), device="cpu")
    anchors, positives = (torch.from_numpy(model.encode(part)) for part in texts)
    metrics = NestedRetrievalEvaluator(*texts, [32, 8])(model)
    expected = {dim: nested_ndcg(anchors, positives, dim).mean() for dim in (8, 32)}
    assert expected[8] != expected[32]
    assert list(metrics) == ["validation_dim8_ndcg@10", "validation_dim32_ndcg@10"]
    assert list(metrics.values()) == pytest.approx(list(expected.values()), abs=1e-6)


def test_the_largest_size_is_the_primary_metric_and_the_name_its_prefix(
    model: MatryoshkaEncoder, texts: tuple[list[str], list[str]]
) -> None:
    evaluator = NestedRetrievalEvaluator(*texts, [16, 4], name="dev")
    metrics = evaluator(model)
    assert list(metrics) == ["dev_dim4_ndcg@10", "dev_dim16_ndcg@10"]
    assert evaluator.primary_metric == "dev_dim16_ndcg@10"
    assert evaluator.greater_is_better


@pytest.mark.parametrize(
    ("anchors", "positives", "dims", "message"),
    [
        ([], [], [8], "got 0/0"),
        (["a dog"], ["a cat", "a house"], [8], "got 1/2"),
        (["a dog"], ["a cat"], [], "dims is empty"),
    ],
)
def test_nothing_to_measure_is_refused(anchors: list[str], positives: list[str], dims: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NestedRetrievalEvaluator(anchors, positives, dims)


@pytest.mark.parametrize("metric", [SPEARMAN, PRECISION], ids=lambda one: one.key)
def test_the_similarity_of_pairs_is_scored_at_every_size(
    model: MatryoshkaEncoder, texts: tuple[list[str], list[str]], metric: Metric
) -> None:
    """Against scipy and scikit-learn on cosines in float64; a text in several pairs is encoded once."""
    model.prompts = {"query": "a red ", "document": "the "}  # pairs are neither
    first, second = texts[0], [texts[1][row // 2] for row in range(len(texts[1]))]
    gold = [float(row % 5 > 2 if metric is PRECISION else row % 7) for row in range(len(first))]
    evaluator = NestedSimilarityEvaluator(first, second, gold, [32, 8], metric)
    encoded: list[int] = []
    model[0].register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0]["input_ids"])))
    metrics = evaluator(model)
    assert sum(encoded) == len({*first, *second})
    assert list(metrics) == [f"validation_dim{dim}_{metric.key}" for dim in (8, 32)]
    assert evaluator.primary_metric == f"validation_dim32_{metric.key}"
    plain = SentenceTransformer(modules=list(model), device="cpu")
    sides = [np.asarray(plain.encode(side), dtype=np.float64) for side in (first, second)]
    for dim, score in zip((8, 32), metrics.values(), strict=True):
        one, two = (side[:, :dim] / np.linalg.norm(side[:, :dim], axis=1, keepdims=True) for side in sides)
        cosines = (one * two).sum(axis=1).round(9)
        expected = stats.spearmanr(cosines, gold)[0] if metric is SPEARMAN else average_precision_score(gold, cosines)
        assert score == pytest.approx(expected, abs=1e-6)
        units = evaluator.units(evaluator.measure(model)[dim])
        assert len(units) == evaluator.items == len(first)


def test_scores_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match=r"all 2 scores are 0.5: there is nothing to tell apart"):
        NestedSimilarityEvaluator(["a", "b"], ["c", "d"], [0.5, 0.5], [8])
