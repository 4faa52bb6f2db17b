from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.losses import nested_infonce

Gradients = dict[str, torch.Tensor]


@pytest.fixture
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu").double().eval()


def columns(triplets: list[dict[str, str]], negatives: int, batch: int = 8) -> list[list[str]]:
    """Anchors, positives and that many columns of hard negatives."""
    rows = triplets[:batch]
    shifted = [[triplets[index + batch * number]["negative"] for index in range(batch)] for number in range(negatives)]
    return [[row["anchor"] for row in rows], [row["positive"] for row in rows], *shifted]


def features(model: MatryoshkaEncoder, texts: list[list[str]]) -> Iterator[dict[str, torch.Tensor]]:
    return (model.preprocess(column) for column in texts)


def gradients(model: MatryoshkaEncoder, value: torch.Tensor) -> Gradients:
    model.zero_grad()
    value.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def reference(
    model: MatryoshkaEncoder,
    texts: list[list[str]],
    dims: Sequence[int],
    weights: Sequence[float],
    scale: float,
) -> torch.Tensor:
    """Cross-entropy over scaled cosines of every anchor with all positives and negatives, summed over sizes."""
    anchors, *others = (model(batch)["sentence_embedding"] for batch in features(model, texts))
    candidates = torch.cat(others)
    total = torch.zeros((), dtype=torch.float64)
    for dim, weight in zip(dims, weights, strict=True):
        for row in range(len(anchors)):
            anchor = anchors[row, :dim]
            cosines = [(anchor @ other[:dim]) / (anchor.norm() * other[:dim].norm()) for other in candidates]
            exponentials = torch.stack([torch.exp(scale * cosine) for cosine in cosines])
            total = total - weight * torch.log(exponentials[row] / exponentials.sum()) / len(anchors)
    return total


@pytest.mark.parametrize("mini_batch_size", [None, 3], ids=["at once", "cached gradients"])
@pytest.mark.parametrize("negatives", [0, 1, 2])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.25]], ids=["unweighted", "weighted"])
def test_the_loss_is_the_sum_of_cross_entropies_over_the_sizes(
    model: MatryoshkaEncoder,
    triplets: list[dict[str, str]],
    mini_batch_size: int | None,
    negatives: int,
    weights: list[float] | None,
) -> None:
    dims, scale = [32, 8, 16], 12.5
    texts = columns(triplets, negatives)
    expected = reference(model, texts, dims, weights or [1.0] * 3, scale)
    expected_gradients = gradients(model, expected)
    loss = nested_infonce(model, dims, weights=weights, scale=scale, mini_batch_size=mini_batch_size)
    value = loss(list(features(model, texts)), None)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=0)
    found = gradients(model, value)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-9 * max(largest, 1e-3), msg=name)


def test_one_size_at_full_width_is_plain_infonce(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> None:
    texts = columns(triplets, 0)
    anchors, positives = (torch.from_numpy(model.encode(column)) for column in texts)
    expected = torch.nn.functional.cross_entropy(20 * anchors @ positives.T, torch.arange(len(anchors)))
    value = nested_infonce(model, [32])(list(features(model, texts)), None)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("dims", "weights", "message"),
    [
        ([], None, "dims is empty"),
        ([0, 8], None, "from 1 to 32, the model's width, got 0"),
        ([8, 33], None, "from 1 to 32, the model's width, got 33"),
        ([8.0, 16], None, r"whole number, got 8\.0"),
        ([8, 16], [1.0], "expected 2 weights"),
        ([8, 16], [1.0, 1.0, 1.0], "expected 2 weights"),
        ([8, 16], [], "expected 2 weights"),
    ],
)
def test_impossible_sizes_and_weights_are_refused(
    model: MatryoshkaEncoder, dims: list[int], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        nested_infonce(model, dims, weights=weights)
