from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mrl_text.losses.kernel import Neighbours, Positives, nested_cross_entropy
from tests.losses.reference import (
    TOLERANCE,
    assert_same,
    contrast,
    difference,
    distillation,
    gradients,
    published,
    random_columns,
)


def kernel(
    columns: Sequence[Tensor],
    dims: Sequence[int],
    weights: Sequence[float],
    scales: Sequence[float],
    rows_per_chunk: int | None = None,
) -> Tensor:
    own = torch.arange(len(columns[0]), device=columns[0].device)
    with torch.autocast(columns[0].device.type, enabled=False):  # under it, cat refuses the other half precision
        candidates = torch.cat(list(columns[1:]))
    return nested_cross_entropy(
        columns[0],
        candidates,
        dims,
        Positives(own),
        weights=weights,
        scales=scales,
        rows_per_chunk=rows_per_chunk,
    ).total


def distilled(texts: Tensor, teacher: Tensor, dims: Sequence[int], rows_per_chunk: int | None = None) -> Tensor:
    unit = torch.nn.functional.normalize(teacher, dim=1)
    target = Neighbours(unit, unit, 9.0, torch.arange(len(texts)))
    weights, scales = [1.0 + number for number in range(len(dims))], [9.0] * len(dims)
    value = nested_cross_entropy(
        texts, texts, dims, target, weights=weights, scales=scales, rows_per_chunk=rows_per_chunk
    )
    return value.total


# ------------------------------------------------------------------------------------------------ parity


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("rows_per_chunk", [1, 7, 1000, None])
@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_it_is_sentence_transformers_loss_at_any_chunk_size(
    dtype: torch.dtype, rows_per_chunk: int | None, negatives: int
) -> None:
    columns = random_columns(2 + negatives, 20, 24, dtype=dtype)
    dims, weights = [4, 10, 24], [1.0, 0.25, 3.0]
    found = kernel(columns, dims, weights, [20.0] * 3, rows_per_chunk)
    assert found.dtype == dtype
    assert_same(found, published(columns, dims, weights), columns)


@pytest.mark.parametrize("dims", [[24], [5], [1, 2, 3], [7, 16]], ids=str)
def test_one_size_tiny_sizes_and_sizes_short_of_the_width(dims: list[int]) -> None:
    columns = random_columns(3, 9, 24)
    found = kernel(columns, dims, [1.0] * len(dims), [20.0] * len(dims), 4)
    assert_same(found, published(columns, dims), columns)
    for gradient in gradients(kernel(columns, dims, [1.0] * len(dims), [20.0] * len(dims)), columns):
        assert gradient[:, dims[-1] :].count_nonzero() == 0


@pytest.mark.parametrize("seed", range(12))
def test_it_is_sentence_transformers_loss_for_random_shapes(seed: int) -> None:
    draw = random.Random(seed)
    width = draw.randint(2, 70)
    dims = sorted(draw.sample(range(1, width + 1), draw.randint(1, min(6, width))))
    weights = [draw.uniform(0, 3) for _ in dims]
    columns = random_columns(draw.randint(2, 5), draw.randint(1, 45), width, seed=seed)
    scale, chunk = draw.uniform(1, 40), draw.randint(1, 50)
    if len(columns) == 2 and len(columns[0]) == 1:
        columns = random_columns(3, 1, width, seed=seed)  # one candidate only: the loss and its gradient are 0
    found = kernel(columns, dims, weights, [scale] * len(dims), chunk)
    assert_same(found, published(columns, dims, weights, scale=scale), columns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_every_size_has_its_own_weight_and_scale(dtype: torch.dtype) -> None:
    dims, weights, scales = [3, 8, 20], [2.0, 0.5, 1.5], [35.0, 20.0, 5.0]
    columns = random_columns(3, 17, 20, dtype=dtype)
    wide = [column.detach().double().requires_grad_() for column in columns]
    found = kernel(columns, dims, weights, scales, 5)
    assert_same(found, contrast(wide, dims, weights, scales), columns, expected_columns=wide)


def test_the_right_answer_can_be_any_candidate() -> None:
    queries, candidates = random_columns(2, 12, 10)
    answers = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    found = nested_cross_entropy(queries, candidates, [4, 10], Positives(answers), weights=[1, 1], scales=[20, 20])
    reordered = candidates.detach()[answers].requires_grad_()
    expected = contrast([queries, reordered], [4, 10], [1, 1], [20, 20])
    assert_same(found.total, expected, [queries], expected_columns=[queries])
    ours = gradients(
        nested_cross_entropy(queries, candidates, [4, 10], Positives(answers), weights=[1, 1], scales=[20, 20]).total,
        [candidates],
    )
    theirs = gradients(contrast([queries, reordered], [4, 10], [1, 1], [20, 20]), [reordered])
    assert difference(ours[0][answers], theirs[0]) < TOLERANCE[torch.float64]


def test_the_values_of_the_sizes_are_reported_without_their_weights() -> None:
    columns = random_columns(2, 11, 16)
    dims, weights = [4, 16], [0.5, 3.0]
    value = nested_cross_entropy(*columns, dims, Positives(torch.arange(11)), weights=weights, scales=[20.0, 20.0])
    for dim, found in zip(dims, value.per_size, strict=True):
        assert found.item() == pytest.approx(contrast(columns, [dim], [1.0], [20.0]).item(), rel=1e-12)
    assert value.total.item() == pytest.approx(0.5 * value.per_size[0].item() + 3 * value.per_size[1].item())
    assert not value.per_size.requires_grad


@pytest.mark.parametrize("rows_per_chunk", [1, 6, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_distillation_is_the_divergence_written_plainly(dtype: torch.dtype, rows_per_chunk: int | None) -> None:
    (texts,), (teacher,) = random_columns(1, 16, 20, dtype=dtype), random_columns(1, 16, 33, dtype=dtype, seed=1)
    wide = texts.detach().double().requires_grad_()
    dims = [2, 9, 20]
    expected = distillation(wide, teacher.detach().double(), dims, [1.0, 2.0, 3.0], [9.0] * 3, 9.0)
    found = distilled(texts, teacher.detach(), dims, rows_per_chunk)
    assert_same(found, expected, [texts], expected_columns=[wide])


def test_distillation_between_two_sets_of_texts_leaves_nothing_out() -> None:
    queries, candidates = random_columns(2, 8, 12)
    one, two = (torch.nn.functional.normalize(column.detach(), dim=1) for column in random_columns(2, 8, 5, seed=4))
    found = nested_cross_entropy(
        queries, candidates, [12], Neighbours(one, two, 6.0), weights=[1.0], scales=[7.0], rows_per_chunk=3
    ).total
    unit = [torch.nn.functional.normalize(column, dim=1) for column in (queries, candidates)]
    student = (7.0 * unit[0] @ unit[1].T).log_softmax(dim=1)
    target = (6.0 * one @ two.T).softmax(dim=1)
    expected = torch.nn.functional.kl_div(student, target, reduction="batchmean")
    assert_same(found, expected, [queries, candidates])


def test_finite_differences_agree() -> None:
    queries, candidates = random_columns(2, 5, 6)

    def value(one: Tensor, two: Tensor) -> Tensor:
        return kernel([one, two], [2, 6], [1.0, 0.3], [4.0, 3.0], 2)

    assert torch.autograd.gradcheck(value, (queries, candidates))


# ------------------------------------------------------------------------------------------------ gradients


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    queries, candidates = random_columns(2, 6, 8)
    kernel([queries, candidates.detach()], [4, 8], [1, 1], [20, 20]).backward()
    assert queries.grad is not None
    with torch.no_grad():
        assert not kernel([queries, candidates], [4, 8], [1, 1], [20, 20]).requires_grad
    assert not kernel([queries.detach(), candidates.detach()], [4, 8], [1, 1], [20, 20]).requires_grad


def test_the_incoming_gradient_multiplies_and_a_second_backward_repeats_it() -> None:
    columns = random_columns(2, 6, 8)
    value = kernel(columns, [4, 8], [1, 1], [20, 20])
    once = torch.autograd.grad(value, columns, retain_graph=True)
    thrice = torch.autograd.grad(3 * value, columns, retain_graph=True)
    again = torch.autograd.grad(value, columns)
    for first, third, repeated in zip(once, thrice, again, strict=True):
        torch.testing.assert_close(third, 3 * first)
        assert torch.equal(first, repeated)


def test_columns_that_are_views_are_taken_as_they_are() -> None:
    """Pieces of a larger tensor and every second row: strides are not assumed."""
    base = random_columns(1, 40, 30)[0]
    views = [base[::2, 3:27], base[1::2, 6:30]]
    copies = [view.detach().clone().requires_grad_() for view in views]
    (ours,) = gradients(kernel(views, [5, 24], [1, 1], [20, 20], 6), [base])
    one, two = gradients(contrast(copies, [5, 24], [1, 1], [20, 20]), copies)
    expected = torch.zeros_like(base)
    expected[::2, 3:27] += one
    expected[1::2, 6:30] += two
    assert difference(ours, expected) < TOLERANCE[torch.float64]


# ------------------------------------------------------------------------------------------------ awkward numbers


@pytest.mark.parametrize("rows_per_chunk", [3, None])
def test_zero_vectors_give_what_normalize_gives(rows_per_chunk: int | None) -> None:
    """Whole vectors of zeros, and vectors whose first numbers are zero; their gradient is 1e12 times as large."""
    columns = random_columns(3, 8, 12)
    with torch.no_grad():
        columns[0][2] = 0
        columns[1][5] = 0
        columns[2][1, :4] = 0
    found = kernel(columns, [4, 12], [1, 1], [20, 20], rows_per_chunk)
    expected = contrast(columns, [4, 12], [1, 1], [20, 20])
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    ours, theirs = gradients(found, columns), gradients(expected, columns)
    for one, other in zip(ours, theirs, strict=True):
        for row, (here, there) in enumerate(zip(one, other, strict=True)):
            assert difference(here, there) < 1e-10, row


def test_identical_texts_have_the_loss_of_a_blind_guess() -> None:
    """All candidates alike: log of their number at every size, and no direction to move in."""
    column = torch.ones(6, 8, dtype=torch.float32, requires_grad=True)
    found = kernel([column, column], [2, 8], [1, 1], [20, 20])
    assert found.item() == pytest.approx(2 * torch.log(torch.tensor(6.0)).item(), rel=1e-6)
    assert gradients(found, [column])[0].abs().max() < 1e-6


def test_a_batch_of_one() -> None:
    with_negatives = random_columns(3, 1, 8)
    found = kernel(with_negatives, [2, 8], [1, 1], [20, 20])
    assert_same(found, published(with_negatives, [2, 8]), with_negatives)
    alone = random_columns(2, 1, 8)
    value = kernel(alone, [2, 8], [1, 1], [20, 20])
    assert value.item() == 0
    assert all(gradient.count_nonzero() == 0 for gradient in gradients(value, alone))


def test_a_scale_of_a_hundred_in_float32() -> None:
    """exp(100) is beyond float32: only differences of logits may be raised to a power."""
    columns = random_columns(3, 30, 16, dtype=torch.float32)
    with torch.no_grad():
        columns[1][:10] = columns[0][:10]
        columns[1][10:20] = -columns[0][10:20]
    wide = [column.detach().double().requires_grad_() for column in columns]
    found = kernel(columns, [4, 16], [1, 1], [100, 100], 8)
    expected = contrast(wide, [4, 16], [1, 1], [100, 100])
    assert_same(found, expected, columns, expected_columns=wide)


@pytest.mark.parametrize("length", [1e-6, 1e6])
def test_the_length_of_the_vectors_does_not_matter_in_float32(length: float) -> None:
    columns = random_columns(2, 12, 16, dtype=torch.float32)
    other = [(column.detach() * length).requires_grad_() for column in columns]
    plain = kernel(columns, [4, 16], [1, 1], [20, 20])
    scaled = kernel(other, [4, 16], [1, 1], [20, 20])
    assert scaled.item() == pytest.approx(plain.item(), rel=1e-6)
    for small, large in zip(gradients(plain, columns), gradients(scaled, other), strict=True):
        assert difference(large * length, small) < 1e-5


# ------------------------------------------------------------------------------------------------ mixed precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=lambda dtype: f"autocast {dtype}")
def test_autocast_changes_nothing(dtype: torch.dtype, device: str, precision: torch.dtype) -> None:
    """The value of the very same embeddings in float64, to the precision of float32.

    On the CPU under bfloat16 MatryoshkaLoss(MultipleNegativesRankingLoss) is off by 0.1 to 0.4 % of the loss here.
    """
    columns = [column.detach().to(device).requires_grad_() for column in random_columns(3, 64, 48, dtype=dtype)]
    wide = [column.detach().double().cpu().requires_grad_() for column in columns]
    dims = [6, 16, 48]
    with torch.autocast(device, dtype=precision):
        found = kernel(columns, dims, [1, 1, 1], [20, 20, 20], 10)
    expected = contrast(wide, dims, [1, 1, 1], [20, 20, 20])
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    # a gradient comes back in its tensor's dtype, rounded once
    rounding = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 1e-5}[dtype]
    for ours, theirs in zip(gradients(found, columns), gradients(expected, wide), strict=True):
        assert ours.dtype == dtype
        smallest = 1e-5 * float(theirs.abs().max())
        assert ((ours.cpu().double() - theirs).abs() <= rounding * theirs.abs() + smallest).all()


def test_float16_gradients_survive_the_scaling_of_the_loss() -> None:
    """With the loss times 65536, as a gradient scaler has it, small gradients do not round to zero."""
    columns = random_columns(2, 64, 16, dtype=torch.float16)
    wide = [column.detach().double().requires_grad_() for column in columns]
    ours = gradients(1024 * kernel(columns, [4, 16], [1, 1], [20, 20]), columns)
    theirs = gradients(1024 * contrast(wide, [4, 16], [1, 1], [20, 20]), wide)
    for found, expected in zip(ours, theirs, strict=True):
        assert difference(found, expected) < 2**-10


@pytest.mark.gpu
@pytest.mark.parametrize("rows_per_chunk", [7, None])
def test_a_gpu_gives_the_same(rows_per_chunk: int | None) -> None:
    columns = random_columns(3, 40, 32)
    on_gpu = [column.detach().cuda().requires_grad_() for column in columns]
    expected = contrast(columns, [8, 32], [1, 2], [20, 10])
    found = kernel(on_gpu, [8, 32], [1, 2], [20, 10], rows_per_chunk)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    for ours, theirs in zip(gradients(found, on_gpu), gradients(expected, columns), strict=True):
        assert difference(ours.cpu(), theirs) < 1e-10


# ------------------------------------------------------------------------------------------------ memory


class Allocations(TorchDispatchMode):
    """Watches every operation: the largest result, in numbers, and the most bytes alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.numel())
                storage = leaf.untyped_storage()
                if storage._cdata not in known:
                    self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def watch(make: Callable[[], Tensor]) -> Allocations:
    with Allocations() as seen:
        make().backward()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["contrast", "distillation"])
def test_nothing_larger_than_a_chunk_is_made(kind: str) -> None:
    rows, dims, width = 8, [4, 8, 12], 12
    columns = random_columns(2, 300, width, dtype=torch.float32)

    def value() -> Tensor:
        if kind == "contrast":
            return kernel(columns, dims, [1.0] * 3, [20.0] * 3, rows)
        return distilled(columns[0], columns[1].detach(), dims, rows)

    assert watch(value).largest <= rows * 300 * len(dims)
    plain = watch(lambda: contrast(columns, dims, [1.0] * 3, [20.0] * 3))
    assert plain.largest == 300 * 300  # the yardstick sees what the plain way makes


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_not_with_its_square() -> None:
    def peak(batch: int, fused: bool) -> int:
        columns = random_columns(2, batch, 12, dtype=torch.float32)
        dims, weights, scales = [4, 8, 12], [1.0] * 3, [20.0] * 3
        if fused:
            return watch(lambda: kernel(columns, dims, weights, scales, 8)).peak
        return watch(lambda: contrast(columns, dims, weights, scales)).peak

    assert peak(1200, fused=True) < 2.05 * peak(600, fused=True)
    assert peak(1200, fused=False) > 3.5 * peak(600, fused=False)


@pytest.mark.slow
def test_the_chunk_that_is_chosen_stays_within_its_budget() -> None:
    """A batch of 3000 at six sizes: plainly 216 MB of logits."""
    columns = random_columns(2, 3000, 12, dtype=torch.float32)
    seen = watch(lambda: kernel(columns, [2, 4, 6, 8, 10, 12], [1.0] * 6, [20.0] * 6))
    assert seen.peak < 40e6
