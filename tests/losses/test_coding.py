from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mrl_text.codes import FEW_BITS, Codec, FewBits
from mrl_text.losses import InfoNCE, NestedLoss, SelfDistillation, SpreadOut
from mrl_text.losses.coding import Coding, stands_for
from tests.losses.reference import Preset, difference, gradients, random_columns


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


def test_each_step_takes_one_precision_by_its_weight() -> None:
    torch.manual_seed(0)
    coding = Coding([8, 64, 128], {"binary": 3.0, "int4": 1.0})
    candidates, dims, weights = torch.randn(5, 128), [8, 64, 128], [0.5, 1.0, 2.0]
    drawn = [coding.code(candidates, dims, weights) for _ in range(400)]
    counts = Counter(one.precision for one in drawn if one is not None)
    assert counts["binary"] / 400 == pytest.approx(0.75, abs=0.07)
    for one in drawn:
        assert one is not None
        assert one.weights == [0.0, 4.0, 8.0]  # 8 numbers are codes of fewer than 8 bytes
    coding.strength = 0.25
    quarter = coding.code(candidates, dims, weights)
    assert quarter is not None
    assert list(quarter.weights)[1:] == [1.0, 2.0]
    coding.strength = 0.0
    assert coding.code(candidates, dims, weights) is None


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
