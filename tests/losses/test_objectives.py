from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from mrl_text.losses import InfoNCE, NestedLoss, SelfDistillation
from mrl_text.losses.kernel import _Sweep
from mrl_text.losses.objectives import MarginStrategy, Objective
from tests.losses.reference import (
    Preset,
    assert_same,
    contrast,
    distillation,
    gradients,
    guided,
    published,
    random_columns,
)

DIMS = [4, 10, 24]


def value_of(objective: Objective, columns: list[Tensor], teacher: list[Tensor] | None = None) -> Tensor:
    return objective(columns, teacher, objective.dims).total


# ------------------------------------------------------------------------------------------------ InfoNCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.25]], ids=["unweighted", "weighted"])
def test_symmetric_is_sentence_transformers_per_direction(
    dtype: torch.dtype, negatives: int, weights: list[float] | None
) -> None:
    columns = random_columns(2 + negatives, 13, 24, dtype=dtype)
    expected = published(
        columns, DIMS, weights, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    assert_same(value_of(InfoNCE(DIMS, weights=weights, symmetric=True), columns), expected, columns)
    one_way = published(columns, DIMS, weights)
    assert abs(one_way.item() - expected.item()) > 1e-3
    assert_same(value_of(InfoNCE(DIMS, weights=weights), columns), one_way, columns)


def test_the_mean_is_the_sum_over_the_sum_of_weights() -> None:
    columns = random_columns(3, 11, 24)
    weights = [0.5, 2.0, 1.5]
    assert_same(
        value_of(InfoNCE(DIMS, weights=weights, reduction="mean"), columns),
        published(columns, DIMS, weights) / 4.0,
        columns,
    )
    assert_same(value_of(InfoNCE(DIMS, reduction="mean"), columns), published(columns, DIMS) / 3, columns)


def test_weights_and_scales_go_with_their_sizes_in_any_order() -> None:
    columns = random_columns(3, 11, 24)
    objective = InfoNCE([24, 4, 10], weights=[3.0, 1.0, 2.0], scale=[10.0, 30.0, 20.0])
    assert objective.dims == (4, 10, 24)
    assert_same(value_of(objective, columns), contrast(columns, DIMS, [1.0, 2.0, 3.0], [30.0, 20.0, 10.0]), columns)


def test_some_of_the_sizes_keep_their_weights() -> None:
    columns = random_columns(2, 11, 24)
    value = InfoNCE(DIMS, weights=[1.0, 2.0, 3.0], scale=[30.0, 20.0, 10.0])(columns, None, [4, 24])
    assert_same(value.total, contrast(columns, [4, 24], [1.0, 3.0], [30.0, 10.0]), columns)
    assert value.per_size.shape == (2,)


def test_per_size_values_of_both_directions_are_their_mean() -> None:
    columns = random_columns(2, 9, 24)
    value = InfoNCE(DIMS, symmetric=True)(columns, None, DIMS)
    both = [contrast(pair, [10], [1.0], [20.0]).item() for pair in (columns, columns[::-1])]
    assert value.per_size[1].item() == pytest.approx(sum(both) / 2, rel=1e-12)


def test_infonce_needs_two_columns() -> None:
    with pytest.raises(ValueError, match="anchor and positive, got 1"):
        value_of(InfoNCE([4]), random_columns(1, 5, 8))


# ------------------------------------------------------------------------------------------------ guided InfoNCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("negatives", [0, 1])
@pytest.mark.parametrize(
    ("strategy", "margin"), [("absolute", 0.0), ("absolute", 0.1), ("absolute", -0.2), ("relative", 0.3)]
)
def test_a_guide_masks_as_in_sentence_transformers(
    tiny_bert: Path, dtype: torch.dtype, negatives: int, strategy: MarginStrategy, margin: float
) -> None:
    columns = random_columns(2 + negatives, 40, 24, dtype=dtype)
    vectors = [one.detach() for one in random_columns(2 + negatives, 40, 7, dtype=dtype, seed=2)]
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    weights = [0.5, 2.0, 1.25]
    how: dict[str, Any] = {"margin": margin, "margin_strategy": strategy}
    expected = guided(columns, vectors, DIMS, weights, tokenizer, **how)
    assert_same(value_of(InfoNCE(DIMS, weights=weights, **how), columns, vectors), expected, columns)
    assert abs(published(columns, DIMS, weights).item() - expected.item()) > 1e-3, "some were masked"


@pytest.mark.parametrize("rows", [1, 7, None])
def test_a_guide_masks_in_both_directions_among_any_number_of_negatives(
    monkeypatch: pytest.MonkeyPatch, rows: int | None
) -> None:
    if rows is not None:
        monkeypatch.setattr(_Sweep, "_fitting_rows", lambda _: rows)
    columns, vectors = random_columns(4, 25, 24), [one.detach() for one in random_columns(4, 25, 9, seed=3)]
    unit = [torch.nn.functional.normalize(one, dim=1) for one in vectors]
    ceilings = ((unit[0] * unit[1]).sum(dim=1) - 0.05)[:, None]
    own = torch.eye(25, dtype=torch.bool)
    forward = (unit[0] @ torch.cat(unit[1:]).T > ceilings) & ~torch.cat([own, own.new_zeros(25, 50)], dim=1)
    backward = (unit[1] @ unit[0].T > ceilings) & ~own
    assert forward[:, 50:].any(), "some of the last column are masked"
    assert backward.any()
    options = (DIMS, [1.0] * 3, [20.0] * 3)
    expected = contrast(columns, *options, forward) + contrast(columns[1::-1], *options, backward)
    assert_same(value_of(InfoNCE(DIMS, symmetric=True, margin=0.05), columns, vectors), expected / 2, columns)


def test_an_anchor_whose_other_candidates_are_all_masked_has_nothing_to_learn() -> None:
    columns, vectors = random_columns(2, 6, 24), [torch.ones(6, 3), torch.ones(6, 3)]
    for precisions in (["float32"], ["float32", "int4"]):
        value = value_of(InfoNCE(DIMS, margin=0.5, precisions=precisions), columns, vectors)
        assert value.item() == 0
        assert all(gradient.count_nonzero() == 0 for gradient in gradients(value, columns))


def test_a_margin_needs_a_guide() -> None:
    columns = random_columns(2, 5, 24)
    with pytest.raises(ValueError, match="a margin needs a guide's vectors"):
        value_of(InfoNCE(DIMS, margin=0.0), columns)
    loss = NestedLoss(Preset(columns), InfoNCE(DIMS, margin=0.0))
    with pytest.raises(ValueError, match="a margin needs a guide's vectors"):
        loss.compute_loss_from_embeddings(columns, torch.zeros(5, 4))  # a teacher's, not a guide's
    with pytest.raises(ValueError, match="a guide is for InfoNCE with a margin"):
        NestedLoss(Preset(columns), InfoNCE(DIMS), guide=torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="margin must be a finite number, got nan"):
        InfoNCE(DIMS, margin=float("nan"))
    with pytest.raises(ValueError, match="margin_strategy 'both'"):
        InfoNCE(DIMS, margin=0.0, margin_strategy="both")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ distillation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("teacher_width", [5, 24, 61])
def test_distillation_matches_a_teacher_of_any_width(dtype: torch.dtype, count: int, teacher_width: int) -> None:
    """All columns count as texts alike; teachers need not be of unit length."""
    columns = random_columns(count, 9, 24, dtype=dtype)
    teacher = [column.detach() for column in random_columns(count, 9, teacher_width, dtype=dtype, seed=5)]
    wide = [column.detach().double().requires_grad_() for column in columns]
    weights, scales = [1.0, 0.5, 2.0], [15.0, 10.0, 6.0]
    expected = distillation(torch.cat(wide), torch.cat(teacher).double(), DIMS, weights, scales, 6.0)
    found = value_of(SelfDistillation(DIMS, weights=weights, scale=scales), columns, teacher)
    assert_same(found, expected, columns, expected_columns=wide)
    mean = value_of(SelfDistillation(DIMS, weights=weights, scale=scales, reduction="mean"), columns, teacher)
    assert mean.item() == pytest.approx(expected.item() / 3.5, rel=1e-5)


def test_without_a_teacher_the_full_width_teaches_and_is_not_taught() -> None:
    """The whole vector is the teacher even where the largest size is smaller; as a teacher it gets no gradient."""
    columns = random_columns(2, 9, 24)
    texts = torch.cat(columns)
    expected = distillation(texts, texts.detach(), [4, 10], [1, 1], [10, 10], 10)
    found = value_of(SelfDistillation([4, 10]), columns)
    assert_same(found, expected, columns)
    for gradient in gradients(value_of(SelfDistillation([4, 10]), columns), columns):
        assert gradient[:, 10:].count_nonzero() == 0
        assert gradient[:, :10].count_nonzero() > 0


def test_there_is_nothing_to_gain_where_every_prefix_has_the_teachers_similarities() -> None:
    """Vectors made of the same four numbers again and again: all prefixes of whole repeats are alike."""
    part = random_columns(1, 12, 4)[0].detach()
    columns = [torch.cat([part, part, part, part], dim=1).requires_grad_()]
    value = value_of(SelfDistillation([4, 8, 16]), columns, [part])
    assert abs(value.item()) < 1e-12
    assert gradients(value, columns)[0].abs().max() < 1e-12
    moved = [(columns[0].detach() + 0.1 * random_columns(1, 12, 16, seed=2)[0]).detach().requires_grad_()]
    assert value_of(SelfDistillation([4, 8, 16]), moved, [part]).item() > 1e-4


def test_going_down_the_gradient_reaches_the_teacher() -> None:
    teacher = random_columns(1, 16, 12, seed=3)[0].detach()
    student = random_columns(1, 16, 12, seed=4)[0]
    optimizer = torch.optim.Adam([student], lr=0.05)
    values = []
    for _ in range(150):
        optimizer.zero_grad()
        value = value_of(SelfDistillation([12]), [student], [teacher])
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.02 * values[0]


def test_two_equal_texts_in_a_batch_find_each_other() -> None:
    """Only a text itself is left out, not its double."""
    columns = random_columns(2, 6, 24)
    with torch.no_grad():
        columns[1][0] = columns[0][0]
    texts = torch.cat(columns)
    expected = distillation(texts, texts.detach(), DIMS, [1] * 3, [10] * 3, 10)
    assert_same(value_of(SelfDistillation(DIMS), columns), expected, columns)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_autocast_does_not_touch_distillation(dtype: torch.dtype, device: str) -> None:
    columns = [column.detach().to(device).requires_grad_() for column in random_columns(2, 20, 24, dtype=dtype)]
    teacher = [column.detach() for column in random_columns(2, 20, 30, dtype=torch.float32, seed=8)]
    wide = [column.detach().double().cpu() for column in columns]
    with torch.autocast(device, dtype=dtype):
        found = value_of(SelfDistillation(DIMS), columns, teacher)
    expected = distillation(torch.cat(wide), torch.cat(teacher).double(), DIMS, [1] * 3, [10] * 3, 10)
    assert found.item() == pytest.approx(expected.item(), rel=2e-6)


def test_distillation_needs_two_texts_and_a_vector_for_each() -> None:
    with pytest.raises(ValueError, match="at least two"):
        value_of(SelfDistillation([4]), random_columns(1, 1, 8))
    columns = random_columns(2, 5, 8)
    with pytest.raises(ValueError, match="5 vectors for 10 texts"):
        value_of(SelfDistillation([4]), columns, [columns[0].detach()])


# ------------------------------------------------------------------------------------------------ both


def test_teacher_and_guide_each_have_their_vectors() -> None:
    columns = random_columns(2, 9, 24)
    teacher, guide = ([one.detach() for one in random_columns(2, 9, width, seed=width)] for width in (31, 6))
    loss = NestedLoss(Preset(columns), InfoNCE(DIMS, margin=0.0), SelfDistillation(DIMS))
    given = {"label": torch.arange(9), "guide": torch.cat(guide, dim=1), "teacher": torch.cat(teacher, dim=1)}
    expected = value_of(InfoNCE(DIMS, margin=0.0), columns, guide) + value_of(SelfDistillation(DIMS), columns, teacher)
    assert_same(loss.compute_loss_from_embeddings(columns, given), expected, columns)


def test_two_objectives_are_the_sum_of_their_values() -> None:
    columns = random_columns(3, 9, 24)
    teacher = torch.cat([column.detach() for column in random_columns(3, 9, 31, seed=6)], dim=1)
    model = Preset(columns)
    loss = NestedLoss(model, InfoNCE(DIMS), SelfDistillation([10, 24], weights=[0.3, 0.7]))
    total = loss.compute_loss_from_embeddings(columns, teacher)
    vectors = torch.cat(teacher.chunk(3, dim=1))
    expected = published(columns, DIMS) + distillation(torch.cat(columns), vectors, [10, 24], [0.3, 0.7], [10, 10], 10)
    assert_same(total, expected, columns)


@pytest.mark.parametrize("objective", [InfoNCE, SelfDistillation])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": []}, "dims is empty"),
        ({"dims": [0, 8]}, "at least 1, got 0"),
        ({"dims": [8.0, 16]}, r"whole number, got 8\.0"),
        ({"dims": [8, 16, 8]}, "twice"),
        ({"dims": [8, 16], "weights": [1.0]}, "expected 2 weights"),
        ({"dims": [8, 16], "weights": [1.0, -1.0]}, "expected 2 weights"),
        ({"dims": [8, 16], "weights": [0.0, 0.0]}, "not all 0"),
        ({"dims": [8, 16], "weights": [1.0, float("nan")]}, "expected 2 weights"),
        ({"dims": [8, 16], "weights": [1.0, float("inf")]}, "expected 2 weights"),
        ({"dims": [8, 16], "weights": []}, "expected 2 weights"),
        ({"dims": [8, 16], "scale": 0.0}, "positive scale"),
        ({"dims": [8, 16], "scale": float("nan")}, "positive scale"),
        ({"dims": [8, 16], "scale": [20.0]}, "2, one for each size"),
        ({"dims": [8, 16], "scale": [20.0, -1.0]}, "positive scale"),
        ({"dims": [8, 16], "reduction": "max"}, "reduction 'max' is unknown; known: mean, sum"),
    ],
)
def test_what_cannot_be_is_refused(
    objective: type[InfoNCE] | type[SelfDistillation], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        objective(**arguments)
