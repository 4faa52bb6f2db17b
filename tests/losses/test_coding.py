from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from mrl_text.codes import FEW_BITS, Codec, FewBits
from mrl_text.losses import InfoNCE, NestedLoss, SelfDistillation, SpreadOut
from mrl_text.losses import coding as coding_module
from mrl_text.losses.coding import Coding, likeness, stands_for
from tests.losses.reference import (
    Preset,
    against_codes,
    assert_same,
    contrast,
    difference,
    distillation,
    gradients,
    random_columns,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("precision", FEW_BITS)
def test_what_codes_stand_for_is_what_the_codec_decodes(precision: FewBits, dtype: torch.dtype) -> None:
    vectors = random_columns(1, 200, 48, dtype=dtype)[0]
    vectors = vectors * torch.linspace(0.2, 3.0, 48, dtype=dtype)  # numbers of uneven size
    found = stands_for(vectors, precision)
    codec = Codec.fit(vectors.detach().float().numpy())
    for dim in (8, 24, 48):
        codes = codec.encode(vectors.detach().float().numpy(), dim, precision)
        decoded = codec.decode(codes, dim, precision)
        # a number on the edge of two levels may fall on either side of it: scales are means in another precision
        same = np.abs(normalize(found[:, :dim].detach().float(), dim=1).numpy() - decoded).max(axis=1) < 1e-4
        assert same.mean() > 0.97
    lengths = torch.linalg.vector_norm(vectors.detach().float(), dim=1)
    assert (torch.linalg.vector_norm(found.detach().float(), dim=1) / lengths).std() < 0.1


@pytest.mark.parametrize(
    ("precision", "distortion"), [("binary", 1 - 2 / np.pi), ("int2", 0.1175), ("int4", 0.009497), ("int8", 0.0)]
)
def test_cosines_with_codes_are_as_short_as_expected(precision: FewBits, distortion: float) -> None:
    """Beside a simulation the least distortion that as many levels can have (Max 1960, table I)."""
    vectors = torch.randn(2000, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers = stands_for(vectors, precision)
    assert likeness(precision) == pytest.approx(float(cosine_similarity(vectors, numbers).mean()), abs=1e-3)
    least = (1 - distortion) ** 0.5
    assert least - 0.01 < likeness(precision) < least + 1e-4


@pytest.mark.parametrize(("precision", "outermost"), [("binary", 1.0), ("int2", 1.7), ("int4", 3.0)])
def test_the_gradient_passes_by_the_slope_of_tanh_over_the_levels(precision: FewBits, outermost: float) -> None:
    vectors = random_columns(1, 50, 24)[0]
    coming = torch.randn(50, 24, dtype=torch.float64)
    (found,) = torch.autograd.grad(stands_for(vectors, precision), vectors, coming)
    unit = normalize(vectors, dim=1).detach()
    deviations = unit / unit.square().mean(dim=0).sqrt()
    slope = found / coming
    near, far = deviations.abs() < 0.1, deviations.abs() > 1.5 * outermost
    assert (slope[near] > 0.98).all()
    assert (slope[far] < 0.2).all()
    assert far.sum() > (5 if precision != "int4" else -1)
    flat = slope.flatten()[deviations.abs().flatten().argsort()]
    assert (flat.diff() <= 1e-12).all(), "the further out, the less"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("precision", ["binary", "int2", "int4"])
@pytest.mark.parametrize("asking", [100, 7])
def test_contrast_with_codes_is_the_sum_written_plainly(
    dtype: torch.dtype, precision: FewBits, asking: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coding_module, "_ASKING", asking)
    columns = random_columns(3, 20, 80, dtype=dtype)
    dims, weights, scales = [4, 64, 80], [1.0, 0.25, 3.0], [20.0, 15.0, 10.0]
    codes: dict[str, Any] = {"precisions": [precision, "float32"], "precision_weights": [3.0, 2.0]}
    found = InfoNCE(dims, weights=weights, scale=scales, **codes)(columns, None, dims)
    wide = [column.detach().double().requires_grad_() for column in columns]
    asks = slice(None, None, 1 if asking == 100 else 3)
    target = torch.eye(20, 40, dtype=torch.float64)[asks]
    numbers = stands_for(torch.cat(wide[1:]), precision)
    stretched = [scale / likeness(precision) for scale in scales[1:]]
    coded = against_codes(wide[0][asks], numbers, target, dims[1:], [0.375, 4.5], stretched)
    assert_same(found.total, contrast(wide, dims, weights, scales) + coded, columns, expected_columns=wide)
    assert list(found.codes) == [f"dim64_{precision}", f"dim80_{precision}"]
    assert float(sum(found.codes.values())) == pytest.approx(coded.item(), rel=1e-5)


def test_distillation_into_codes_is_the_sum_written_plainly() -> None:
    (texts,), (teacher,) = random_columns(1, 16, 72), random_columns(1, 16, 33, seed=1)
    dims, weights, unit = [8, 64, 72], [1.0, 2.0, 3.0], normalize(teacher.detach(), dim=1)
    objective = SelfDistillation(dims, weights=weights, scale=9.0, precisions=["float32", "binary"])
    found = objective([texts], [teacher.detach()], dims)
    expected, numbers = distillation(texts, unit, dims, weights, [9.0] * 3, 9.0), stands_for(texts, "binary")
    for row in range(16):  # each text among the others
        others = [other for other in range(16) if other != row]
        target = (9.0 * unit[row] @ unit[others].T).softmax(dim=0)[None]
        stretched = [9.0 / likeness("binary")] * 2
        alone = against_codes(texts[[row]], numbers[others], target, dims[1:], weights[1:], stretched)
        expected = expected + alone / 16
    assert_same(found.total, expected, [texts])


def test_only_one_direction_of_a_symmetric_loss_has_codes() -> None:
    columns = random_columns(2, 12, 64)
    options: dict[str, Any] = {"symmetric": True, "scale": 5.0}
    found, plain = (InfoNCE([64], precisions=one, **options) for one in (["float32", "binary"], ["float32"]))
    target, stretched = torch.eye(12, dtype=torch.float64), [5.0 / likeness("binary")]
    coded = against_codes(columns[0], stands_for(columns[1], "binary"), target, [64], [0.5], stretched)
    assert_same(found(columns, None, [64]).total, plain(columns, None, [64]).total + coded, columns)


def test_rows_that_ask_are_spread_evenly() -> None:
    for rows in (1, 384, 385, 1000, 16384):
        asked = range(rows)[coding_module.asking(rows)]
        assert len(asked) == rows if rows <= 384 else 190 < len(asked) <= 384
        assert rows - asked[-1] <= asked.step


def test_each_step_takes_one_precision_by_its_weight() -> None:
    torch.manual_seed(0)
    coding = Coding([8, 64, 128], {"binary": 3.0, "int4": 1.0})
    candidates, weights = torch.randn(5, 128), {8: 0.5, 64: 1.0, 128: 2.0}
    drawn = [one for _ in range(400) if (one := coding.code(candidates, weights)) is not None]
    assert len(drawn) == 400
    assert Counter(one.precision for one in drawn)["binary"] / 400 == pytest.approx(0.75, abs=0.07)
    for one in drawn:
        assert one.weights == {64: 4.0, 128: 8.0}  # 8 numbers are codes of fewer than 8 bytes
    coding.strength = 0.25
    quarter = coding.code(candidates, weights)
    assert quarter is not None
    assert quarter.weights == {64: 1.0, 128: 2.0}
    coding.strength = 0.0
    assert coding.code(candidates, weights) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precisions": ["binary"]}, "precisions are float32, which all training needs"),
        ({"precisions": ["float32", "int4", "int4"]}, "each once"),
        ({"precisions": ["float32", "int3"]}, "int3"),
        ({"precisions": ["float32", "binary"], "precision_weights": [1.0]}, "expected 2 weights above 0"),
        ({"precisions": ["float32", "binary"], "precision_weights": [1.0, 0.0]}, "expected 2 weights above 0"),
        ({"precisions": ["float32", "binary"]}, "binary codes of 32 numbers have fewer than 8 bytes"),
    ],
)
def test_precisions_that_cannot_be_trained_are_refused(options: dict[str, Any], message: str) -> None:
    for kind in (InfoNCE, SelfDistillation):
        with pytest.raises(ValueError, match=message):
            kind([16, 32], **options)


def test_the_loss_names_its_cells_and_they_sum_to_it() -> None:
    columns = random_columns(2, 20, 64)
    objectives = [
        InfoNCE([32, 64], weights=[0.5, 2.0], precisions=["float32", "int2"], precision_weights=[2.0, 1.0]),
        SpreadOut([64], strength=3.0),
    ]
    model = Preset(columns)
    loss = NestedLoss(model, *objectives)  # type: ignore[arg-type]
    total = loss.compute_loss_from_embeddings(columns)
    names = ["infonce_dim32", "infonce_dim64", "spread_dim64", "infonce_dim32_int2", "infonce_dim64_int2"]
    assert list(loss._values) == names
    assert sum(loss._values.values()).item() == pytest.approx(total.item(), rel=1e-6)
    loss.stage_codes(0.0)
    before = loss.compute_loss_from_embeddings(columns)
    assert before < total
    assert loss._values["infonce_dim32_int2"] == 0


@pytest.mark.parametrize("columns", [1, 2])
def test_spread_out_is_the_mean_squared_cosine_of_different_texts(columns: int) -> None:
    vectors = random_columns(columns, 9, 12)
    found = SpreadOut([4, 12], weights=[1.0, 2.0], strength=0.5)(vectors, None, [4, 12])
    expected = vectors[0].new_zeros(())
    for dim, weight in ((4, 0.5), (12, 1.0)):
        for column in vectors:
            unit = normalize(column[:, :dim], dim=1)
            different = ~torch.eye(9, dtype=torch.bool)
            expected = expected + weight * (unit @ unit.T)[different].square().mean() / columns
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-12)
    for ours, theirs in zip(gradients(found.total, vectors), gradients(expected, vectors), strict=True):
        assert difference(ours, theirs) < 1e-10


def test_one_row_has_nothing_to_be_spread_from() -> None:
    assert SpreadOut([4])([torch.randn(1, 4)], None, [4]).total.item() == pytest.approx(0, abs=1e-5)


def test_autocast_changes_neither_codes_nor_spread() -> None:
    columns = random_columns(2, 30, 64, dtype=torch.float32)
    spread = SpreadOut([64])
    plain = stands_for(columns[0], "int2"), spread(columns, None, [64]).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(stands_for(columns[0], "int2"), plain[0])
        assert torch.equal(spread(columns, None, [64]).total, plain[1])
