from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.util import quantize_embeddings

from mrl_text.truncation import PRECISIONS, Precision, bytes_per_vector, check_dim, check_dims, quantize, truncate

TOLERANCE = {"float64": 1e-15, "float32": 2e-7, "float16": 2.5e-4, "bfloat16": 2e-3}
"""What rounding a number below 1 to that format may change; float32 computes in itself and gets more."""


QUANTIZED = [one for one in PRECISIONS if one not in ("int4", "int2")]  # those two are tested in test_codes.py


def reference(vectors: np.ndarray, dim: int | None) -> np.ndarray:
    """Cut and renormalised in float64, one vector and one number at a time."""
    if vectors.ndim == 1:
        kept = [float(number) for number in vectors[:dim]]
        norm = math.sqrt(math.fsum(number * number for number in kept))
        return np.array([number / norm if norm else number for number in kept])
    return np.stack([reference(vector, dim) for vector in vectors])


def random_vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("dim", [1, 7, 16, 24, None])
@pytest.mark.parametrize("shape", [(24,), (5, 24)], ids=["1-D", "2-D"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_numpy_vectors_are_cut_and_unit_length(dtype: str, shape: tuple[int, ...], dim: int | None) -> None:
    vectors = random_vectors(*shape).astype(dtype)
    before = vectors.copy()
    cut = truncate(vectors, dim)
    assert cut.dtype == vectors.dtype
    assert cut.flags.c_contiguous
    np.testing.assert_allclose(cut, reference(vectors, dim), rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize("dim", [1, 16, None])
@pytest.mark.parametrize("shape", [(24,), (5, 24)], ids=["1-D", "2-D"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torch_vectors_are_cut_and_unit_length(dtype: torch.dtype, shape: tuple[int, ...], dim: int | None) -> None:
    vectors = torch.from_numpy(random_vectors(*shape)).to(dtype)
    before = vectors.clone()
    cut = truncate(vectors, dim)
    assert cut.dtype == dtype
    assert cut.device == vectors.device
    expected = reference(vectors.double().numpy(), dim)
    np.testing.assert_allclose(
        cut.double().numpy(), expected, rtol=0, atol=TOLERANCE[str(dtype).removeprefix("torch.")]
    )
    assert torch.equal(vectors, before)


def test_a_zero_vector_stays_zero_and_leaves_the_others_alone() -> None:
    vectors = random_vectors(3, 8).astype(np.float32)
    vectors[1] = 0
    for cut in (truncate(vectors, 4), truncate(torch.from_numpy(vectors), 4).numpy()):
        np.testing.assert_array_equal(cut[1], np.zeros(4))
        np.testing.assert_allclose(cut, reference(vectors, 4), rtol=0, atol=TOLERANCE["float32"])


def test_a_vector_whose_prefix_is_zero_stays_zero_there() -> None:
    np.testing.assert_array_equal(truncate(np.array([0.0, 0.0, 3.0, 4.0]), 2), [0.0, 0.0])
    np.testing.assert_array_equal(truncate(np.array([0.0, 0.0, 3.0, 4.0])), [0.0, 0.0, 0.6, 0.8])


def test_without_normalisation_the_numbers_are_a_plain_slice() -> None:
    vectors = random_vectors(4, 10).astype(np.float32)
    cut = truncate(vectors, 3, normalize=False)
    np.testing.assert_array_equal(cut, vectors[:, :3])
    assert cut.flags.c_contiguous
    assert torch.equal(truncate(torch.from_numpy(vectors), 3, normalize=False), torch.from_numpy(vectors)[:, :3])


@pytest.mark.parametrize("normalize", [True, False])
def test_a_result_is_contiguous_whatever_the_layout_of_the_input(normalize: bool) -> None:
    for vectors in (np.asfortranarray(random_vectors(6, 8)), random_vectors(12, 8)[::2], random_vectors(6, 16)[:, ::2]):
        assert truncate(vectors, normalize=normalize).flags.c_contiguous
        assert truncate(vectors, 4, normalize=normalize).flags.c_contiguous


def test_float16_whose_squares_overflow_is_still_normalised() -> None:
    vectors = np.array([[300.0, 400.0, 1.0], [60000.0, 0.0, 1.0]], dtype=np.float16)
    np.testing.assert_allclose(truncate(vectors, 2), [[0.6, 0.8], [1.0, 0.0]], atol=TOLERANCE["float16"])
    cut = truncate(torch.from_numpy(vectors), 2)
    np.testing.assert_allclose(cut.numpy(), [[0.6, 0.8], [1.0, 0.0]], atol=TOLERANCE["float16"])


def test_no_vectors_give_no_vectors_of_that_width() -> None:
    assert truncate(np.zeros((0, 8), dtype=np.float32), 4).shape == (0, 4)
    assert truncate(torch.zeros(0, 8), 4).shape == (0, 4)


@pytest.mark.parametrize("dim", [True, 8.0, "8", 0, -1, 25, np.float32(8), None])
def test_an_impossible_size_is_refused_with_the_trained_ones(dim: Any) -> None:
    with pytest.raises(ValueError, match=r"dim must be .*; trained sizes: 8, 16, 24$"):
        check_dim(dim, 24, trained=(8, 16, 24))


@pytest.mark.parametrize("dim", [0, 25, True])
def test_truncate_refuses_an_impossible_size(dim: int) -> None:
    for vectors in (random_vectors(2, 24), torch.from_numpy(random_vectors(2, 24))):
        with pytest.raises(ValueError, match="dim must be"):
            truncate(vectors, dim)


def test_the_error_names_the_width_and_what_was_given() -> None:
    with pytest.raises(ValueError, match=r"^dim must be from 1 to 24, the model's width, got 25$"):
        check_dim(25, 24)
    with pytest.raises(ValueError, match=r"^dim must be at least 1, got 0$"):
        check_dim(0, None)


@pytest.mark.parametrize("dim", [1, 24, np.int64(8), np.uint8(8)])
def test_a_possible_size_comes_back_as_a_python_int(dim: Any) -> None:
    checked = check_dim(dim, 24)
    assert checked == dim
    assert type(checked) is int


def test_any_size_is_possible_where_the_width_is_unknown() -> None:
    assert check_dim(10_000, None) == 10_000


def test_sizes_come_back_ascending_without_repeats() -> None:
    assert check_dims([16, np.int32(8), 16, 24], 24) == (8, 16, 24)


@pytest.mark.parametrize(
    ("dims", "message"), [([], "empty"), ([8, 0], "got 0"), ([8, 32], "got 32"), ([8, 16.0], "whole number")]
)
def test_impossible_sizes_are_refused(dims: Sequence[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_dims(dims, 24)


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("dim", [16, 13])
def test_quantised_vectors_equal_those_of_sentence_transformers(precision: Precision, dim: int) -> None:
    vectors = truncate(random_vectors(6, dim).astype(np.float32))
    expected = quantize_embeddings(vectors, precision=precision)
    stored = quantize(vectors, precision)
    assert stored.dtype == expected.dtype
    np.testing.assert_array_equal(stored, expected)


def test_quantised_vectors_use_the_ranges_of_the_corpus() -> None:
    vectors = random_vectors(6, 8).astype(np.float32)
    ranges = np.stack([np.full(8, -2.0), np.full(8, 2.0)]).astype(np.float32)
    steps = np.clip(np.floor((vectors.astype(np.float64) + 2) / (4 / 255)), 0, 255)
    np.testing.assert_allclose(quantize(vectors, "uint8", ranges=ranges), steps, rtol=0, atol=1)
    np.testing.assert_allclose(quantize(vectors, "int8", ranges=ranges), steps - 128, rtol=0, atol=1)


@pytest.mark.parametrize("dim", [8, 13, 16])
def test_binary_vectors_hold_one_sign_bit_per_number_first_number_in_the_highest_bit(dim: int) -> None:
    vectors = random_vectors(5, dim).astype(np.float32)
    vectors[0, :3] = 0  # a zero is no positive number
    packed = [
        [
            sum(128 >> bit for bit, number in enumerate(vector[start : start + 8]) if number > 0)
            for start in range(0, dim, 8)
        ]
        for vector in vectors
    ]
    np.testing.assert_array_equal(quantize(vectors, "ubinary"), packed)
    np.testing.assert_array_equal(quantize(vectors, "binary"), np.array(packed) - 128)


def test_float16_is_a_plain_cast() -> None:
    vectors = random_vectors(3, 8).astype(np.float32)
    stored = quantize(vectors, "float16")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, vectors.astype(np.float16))


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("dim", [16, 13])
def test_no_vectors_are_stored_with_the_type_and_width_of_any_others(precision: Precision, dim: int) -> None:
    some = quantize(random_vectors(2, dim).astype(np.float32), precision)
    none = quantize(np.zeros((0, dim), dtype=np.float32), precision)
    assert none.dtype == some.dtype
    assert none.shape == (0, some.shape[1])


def test_an_unknown_precision_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="precision 'int9' is unknown; did you mean 'int8'"):
        quantize(random_vectors(2, 8), "int9")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"int4 codes are made by mrl_text\.codes\.Codec"):
        quantize(random_vectors(2, 8), "int4")


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("dim", [1, 8, 13, 24])
def test_bytes_per_vector_are_the_bytes_that_are_stored(precision: Precision, dim: int) -> None:
    stored = quantize(random_vectors(4, dim).astype(np.float32), precision)
    assert bytes_per_vector(dim, precision) == stored.nbytes // 4
