from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor, nn

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.losses import InfoNCE, NestedLoss, SelfDistillation, nested_infonce, self_distillation
from tests.losses.reference import TOLERANCE, contrast, distillation, ragged, without_dropout

DIMS = [8, 16, 32]
Gradients = dict[str, Tensor]


@pytest.fixture
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu").double().eval()


@pytest.fixture
def teacher(model: MatryoshkaEncoder) -> MatryoshkaEncoder:
    """The same words and width, other weights."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return other


def texts(triplets: list[dict[str, str]], negatives: int, batch: int = 8) -> list[list[str]]:
    """Anchors, positives and that many columns of hard negatives."""
    rows = triplets[:batch]
    others = [[triplets[index + batch * number]["negative"] for index in range(batch)] for number in range(negatives)]
    return [[row["anchor"] for row in rows], [row["positive"] for row in rows], *others]


def features(model: SentenceTransformer, columns: Sequence[list[str]]) -> list[dict[str, Any]]:
    return [model.preprocess(column) for column in columns]


def value_of(loss: nn.Module, model: SentenceTransformer, columns: Sequence[list[str]]) -> Tensor:
    """As the Trainer does it: a dict of values is summed."""
    result = loss(features(model, columns), None)
    return torch.stack(list(result.values())).sum() if isinstance(result, dict) else result


def gradients(model: nn.Module, value: Tensor) -> Gradients:
    model.zero_grad()
    value.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_gradients(found: Gradients, expected: Gradients, tolerance: float) -> None:
    """Weights that do not matter (a key's bias under softmax) have gradients of pure rounding: they are measured
    against a thousandth of the largest gradient."""
    assert found.keys() == expected.keys()
    floor = 1e-3 * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        largest = max(float(gradient.abs().max()), floor)
        assert (found[name] - gradient).abs().max() < tolerance * largest, name


# ------------------------------------------------------------------------------------------------ parity


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("mini_batch_size", [None, 3], ids=["at once", "cached"])
@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.25]], ids=["unweighted", "weighted"])
def test_gradients_of_the_model_are_those_of_sentence_transformers(
    model: MatryoshkaEncoder,
    triplets: list[dict[str, str]],
    dtype: torch.dtype,
    mini_batch_size: int | None,
    negatives: int,
    weights: list[float] | None,
) -> None:
    model.to(dtype)
    dims, scale, columns = [32, 8, 16], 12.5, texts(triplets, negatives)
    if mini_batch_size is None:
        inner = MultipleNegativesRankingLoss(model, scale=scale)
    else:
        inner = CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=mini_batch_size)
    theirs = value_of(MatryoshkaLoss(model, inner, dims, weights), model, columns)
    expected = gradients(model, theirs)
    loss = nested_infonce(model, dims, weights=weights, scale=scale, mini_batch_size=mini_batch_size)
    ours = value_of(loss, model, columns)
    assert ours.dtype == dtype
    assert ours.item() == pytest.approx(theirs.item(), rel=TOLERANCE[dtype])
    assert_same_gradients(gradients(model, ours), expected, TOLERANCE[dtype] * (3 if dtype == torch.float32 else 1))


@pytest.mark.parametrize("mini_batch_size", [1, 3, 8, 100])
def test_cached_gradients_are_those_of_the_whole_batch(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]], mini_batch_size: int
) -> None:
    columns = texts(triplets, 2)
    whole = value_of(nested_infonce(model, DIMS, symmetric=True), model, columns)
    expected = gradients(model, whole)
    loss = nested_infonce(model, DIMS, symmetric=True, mini_batch_size=mini_batch_size)
    pieces = value_of(loss, model, columns)
    assert pieces.item() == pytest.approx(whole.item(), rel=1e-10)
    assert_same_gradients(gradients(model, pieces), expected, 1e-10)


def test_with_dropout_the_second_pass_repeats_the_draws_of_the_first(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]]
) -> None:
    """Against sentence-transformers from the same seed, and against the same pieces with their graph kept."""
    model.train()
    columns = texts(triplets, 1)
    loss = nested_infonce(model, DIMS, mini_batch_size=3)

    def kept() -> Tensor:
        pieces = [[out for out, _ in loss.embed_minibatch_iter(column, True, False)] for column in inputs]
        return loss.compute_loss_from_embeddings([torch.cat(column) for column in pieces])

    results = []
    inputs = features(model, columns)
    cached = MatryoshkaLoss(model, CachedMultipleNegativesRankingLoss(model, mini_batch_size=3), DIMS)
    for compute in (lambda: value_of(loss, model, columns), lambda: value_of(cached, model, columns), kept):
        torch.manual_seed(11)
        value = compute()
        results.append((value.item(), gradients(model, value)))
    model.eval()
    assert abs(results[0][0] - value_of(loss, model, columns).item()) > 1e-4  # dropout was on
    for value, expected in results[1:]:
        assert results[0][0] == pytest.approx(value, rel=1e-10)
        assert_same_gradients(results[0][1], expected, 1e-10)


@pytest.mark.slow
def test_a_batch_in_several_pieces_has_the_gradients_of_one(model: MatryoshkaEncoder) -> None:
    """300 texts of uneven lengths: several forward passes on a processor."""
    columns = ragged(150, 2)
    theirs = value_of(MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), DIMS), model, columns)
    expected = gradients(model, theirs)
    ours = value_of(nested_infonce(model, DIMS), model, columns)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    assert_same_gradients(gradients(model, ours), expected, 1e-10)


def test_one_size_at_full_width_is_plain_infonce(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> None:
    columns = texts(triplets, 0)
    anchors, positives = (torch.from_numpy(model.encode(column)) for column in columns)
    expected = torch.nn.functional.cross_entropy(20 * anchors @ positives.T, torch.arange(len(anchors)))
    assert value_of(nested_infonce(model, [32]), model, columns).item() == pytest.approx(expected.item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------ components


@pytest.mark.parametrize("mini_batch_size", [None, 3], ids=["at once", "cached"])
def test_the_values_by_name_add_up_to_the_loss(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]], mini_batch_size: int | None
) -> None:
    objectives = InfoNCE(DIMS, weights=[1, 2, 3]), SelfDistillation([32, 8], weights=[0.5, 4.0])
    loss = NestedLoss(model, *objectives, mini_batch_size=mini_batch_size)
    found = loss(features(model, texts(triplets, 1)), None)
    assert list(found) == ["infonce_dim8", "infonce_dim16", "infonce_dim32", "distill_dim8", "distill_dim32"]
    columns = [model(column)["sentence_embedding"] for column in features(model, texts(triplets, 1))]
    vectors = torch.cat(columns)
    expected = [contrast(columns, [dim], [weight], [20]) for dim, weight in zip(DIMS, [1, 2, 3], strict=True)]
    expected += [
        distillation(vectors, vectors.detach(), [dim], [weight], [10], 10) for dim, weight in ((8, 4.0), (32, 0.5))
    ]
    for (name, ours), theirs in zip(found.items(), expected, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-9), name
    total = torch.stack(list(found.values())).sum()
    assert total.item() == pytest.approx(sum(value.item() for value in expected), rel=1e-6)
    everything = gradients(model, total)
    assert_same_gradients(everything, gradients(model, torch.stack(_again(model, triplets)).sum()), 1e-10)


def _again(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> list[Tensor]:
    columns = [model(column)["sentence_embedding"] for column in features(model, texts(triplets, 1))]
    vectors = torch.cat(columns)
    return [
        contrast(columns, DIMS, [1, 2, 3], [20] * 3),
        distillation(vectors, vectors.detach(), [8, 32], [4.0, 0.5], [10] * 2, 10),
    ]


@pytest.mark.parametrize("mini_batch_size", [None, 3], ids=["at once", "cached"])
def test_without_gradients_the_value_is_the_same(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]], mini_batch_size: int | None
) -> None:
    loss, columns = nested_infonce(model, DIMS, mini_batch_size=mini_batch_size), texts(triplets, 1)
    with torch.no_grad():
        silent = value_of(loss, model, columns)
    assert not silent.requires_grad
    assert silent.item() == pytest.approx(value_of(loss, model, columns).item(), rel=1e-12)


# ------------------------------------------------------------------------------------------------ teachers


@pytest.mark.parametrize("mini_batch_size", [None, 3], ids=["at once", "cached"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_live_teacher_is_run_along_and_stays_frozen(
    model: MatryoshkaEncoder,
    teacher: MatryoshkaEncoder,
    triplets: list[dict[str, str]],
    mini_batch_size: int | None,
    count: int,
) -> None:
    columns = texts(triplets, 0)[:count]
    loss = self_distillation(model, DIMS, teacher=teacher.train(), weights=[1, 2, 3], mini_batch_size=mini_batch_size)
    value = value_of(loss, model, columns)
    vectors = [
        torch.cat([one(column)["sentence_embedding"] for column in features(one, columns)]) for one in (model, teacher)
    ]
    expected = distillation(vectors[0], vectors[1].detach(), DIMS, [1, 2, 3], [10] * 3, 10)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    assert_same_gradients(gradients(model, value), gradients(model, expected), 1e-10)
    assert not teacher.training
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    assert {id(weight) for weight in loss.parameters()} == {id(weight) for weight in model.parameters()}


def test_precomputed_vectors_teach_as_the_live_teacher_does(
    model: MatryoshkaEncoder, teacher: MatryoshkaEncoder, triplets: list[dict[str, str]]
) -> None:
    columns = texts(triplets, 0)
    labels = torch.cat([teacher(column)["sentence_embedding"] for column in features(teacher, columns)], dim=1)
    live = value_of(self_distillation(model, DIMS, teacher=teacher), model, columns)
    stored = self_distillation(model, DIMS)(features(model, columns), labels.detach())
    assert sum(part.item() for part in stored.values()) == pytest.approx(live.item(), rel=1e-6)
    alone = value_of(self_distillation(model, DIMS), model, columns)
    assert abs(alone.item() - live.item()) > 1e-3


@pytest.mark.parametrize(
    "labels", [None, torch.zeros(8, dtype=torch.long), torch.zeros(8)], ids=["none", "ints", "floats"]
)
def test_labels_that_are_no_vectors_are_ignored(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]], labels: Tensor | None
) -> None:
    loss, columns = nested_infonce(model, DIMS), features(model, texts(triplets, 0))
    values = [sum(part.item() for part in loss(columns, given).values()) for given in (labels, None)]
    assert values[0] == values[1]


def test_a_teacher_that_does_not_fit_the_columns_is_refused(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]]
) -> None:
    with pytest.raises(ValueError, match="7 numbers do not divide among 2 columns"):
        self_distillation(model, DIMS)(features(model, texts(triplets, 0)), torch.zeros(8, 7))


# ------------------------------------------------------------------------------------------------ sizes per step


def counted(components: dict[str, torch.Tensor]) -> list[str]:
    """Names of the sizes that were drawn; the others are there with 0."""
    return [name for name, value in components.items() if value.item() != 0]


def drawn(loss: NestedLoss, columns: list[dict[str, Any]], steps: int) -> list[tuple[str, ...]]:
    return [tuple(counted(loss(columns, None))) for _ in range(steps)]


@pytest.mark.slow
@pytest.mark.parametrize("mini_batch_size", [None, 3], ids=["at once", "cached"])
def test_sizes_are_drawn_from_torchs_generator(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]], mini_batch_size: int | None
) -> None:
    model.train()
    loss = NestedLoss(model, InfoNCE(DIMS), dims_per_step=2, mini_batch_size=mini_batch_size)
    columns = features(model, texts(triplets, 0))
    torch.manual_seed(5)
    first = drawn(loss, columns, 20)
    torch.manual_seed(5)
    assert drawn(loss, columns, 20) == first
    assert set(first) == {
        ("infonce_dim8", "infonce_dim16"),
        ("infonce_dim8", "infonce_dim32"),
        ("infonce_dim16", "infonce_dim32"),
    }


def test_drawn_sizes_keep_their_own_weight(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> None:
    without_dropout(model)
    model.train()
    columns = features(model, texts(triplets, 0))
    full = NestedLoss(model, InfoNCE(DIMS, weights=[1, 2, 3]))(columns, None)
    part = NestedLoss(model, InfoNCE(DIMS, weights=[1, 2, 3]), dims_per_step=1)(columns, None)
    (name,) = counted(part)
    assert part[name].item() == pytest.approx(full[name].item(), rel=1e-6)


def test_evaluation_takes_all_sizes_and_draws_nothing(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> None:
    """The Trainer sets the model to evaluation, not the loss."""
    loss = NestedLoss(model, InfoNCE(DIMS), dims_per_step=1)
    columns = features(model, texts(triplets, 0))
    model.eval()
    state = torch.get_rng_state()
    assert len(counted(loss(columns, None))) == 3
    assert torch.equal(torch.get_rng_state(), state)
    model.train()
    assert len(counted(loss(columns, None))) == 1


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("make", [nested_infonce, self_distillation])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": []}, "dims is empty"),
        ({"dims": [0, 8]}, "at least 1, got 0"),
        ({"dims": [8, 33]}, "asks for 33, but the model has width 32"),
        ({"dims": [8], "mini_batch_size": 0}, "mini_batch_size must be at least 1, got 0"),
        ({"dims": [8, 16], "weights": [1.0]}, "expected 2 weights"),
    ],
)
def test_impossible_arguments_are_refused(
    model: MatryoshkaEncoder, make: Callable[..., NestedLoss], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(model, **arguments)


def test_a_loss_needs_an_objective_and_possible_sizes_per_step(model: MatryoshkaEncoder) -> None:
    with pytest.raises(ValueError, match="at least one objective"):
        NestedLoss(model)
    with pytest.raises(ValueError, match="dims_per_step must be at least 1, got 0"):
        NestedLoss(model, InfoNCE([8]), dims_per_step=0)


def test_a_static_model_trains_and_has_nothing_to_cache(tiny_bert: Path, triplets: list[dict[str, str]]) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=12)], device="cpu")
    with pytest.raises(ValueError, match="leave mini_batch_size out"):
        nested_infonce(model, [4, 12], mini_batch_size=4)
    columns = texts(triplets, 1)
    ours = value_of(nested_infonce(model, [4, 12]), model, columns)
    found = gradients(model, ours)
    theirs = value_of(MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), [4, 12]), model, columns)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert_same_gradients(found, gradients(model, theirs), 1e-5)
