"""Codes of few bits: the layout read back by a reader of its own, and sizes and bits cut out of one code."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from sentence_transformers.util import quantize_embeddings

from mrl_text.codes import CODEC_FILE, FEW_BITS, Codec, FewBits, saved_codec
from mrl_text.truncation import bytes_per_vector

WIDTH = 40
BITS = {"int8": 8, "int4": 4, "int2": 2, "binary": 1}


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def texts(count: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Vectors whose first numbers are larger, as of a model that was trained to be cut."""
    numbers = np.random.default_rng(seed).normal(size=(count, width)) * np.linspace(2, 0.5, width)
    return unit(numbers).astype(np.float32)


def read(codec_file: Path, code: bytes, dim: int, precision: str) -> list[float]:
    """The vector of one code, by docs/codes.md alone: plain Python, in double precision."""
    codec = json.loads(codec_file.read_text())
    bits = BITS[precision]
    string = "".join(f"{byte:08b}" for byte in code)
    values = []
    for place in range(dim):
        level = int(string[place * bits : (place + 1) * bits], 2)
        if precision == "binary":
            values.append(1.0 if level else -1.0)
        else:
            values.append(codec["levels"][precision][level] * codec["scales"][place])
    length = sum(number**2 for number in values) ** 0.5
    return [number / length for number in values]


@pytest.mark.parametrize("precision", FEW_BITS)
@pytest.mark.parametrize("dim", [8, 24, 37, 40])
def test_a_reader_of_the_documented_layout_finds_what_decode_finds(
    tmp_path: Path, dim: int, precision: FewBits
) -> None:
    vectors = texts(50)
    codec = Codec.fit(vectors)
    codec.save(tmp_path / "codec.json")
    codes = codec.encode(vectors, dim, precision)
    assert codes.dtype == np.uint8
    assert codes.shape == (50, bytes_per_vector(dim, precision)) == (50, -(-dim * BITS[precision] // 8))
    expected = [read(tmp_path / "codec.json", code.tobytes(), dim, precision) for code in codes]
    np.testing.assert_allclose(codec.decode(codes, dim, precision), expected, atol=2e-6)
    assert (Codec.load(tmp_path / "codec.json").encode(vectors, dim, precision) == codes).all()


@pytest.mark.parametrize("precision", FEW_BITS)
def test_a_vector_is_coded_by_the_level_that_its_numbers_are_in(precision: FewBits) -> None:
    """Level by level in float64, from the definition."""
    vectors = texts(30)
    codec = Codec.fit(vectors)
    bits = BITS[precision]
    edges = np.round(1024 * 1.4553 * norm.ppf(np.arange(1, 2**bits) / 2**bits)) / 1024
    places = vectors.astype(np.float64) / codec.scales
    levels = np.searchsorted(edges, places)
    clear = np.abs(places[..., None] - edges).min(axis=-1) > 1e-5  # not at an edge, up to rounding
    string = np.unpackbits(codec.encode(vectors, precision=precision), axis=1).reshape(30, WIDTH, bits)
    found = string @ (2 ** np.arange(bits)[::-1])
    assert (found == levels)[clear].all()
    assert clear.mean() > 0.99


def test_every_shorter_code_is_cut_out_of_the_longest() -> None:
    vectors = texts(60)
    codec = Codec.fit(vectors)
    for dim, precision in itertools.product((8, 21, 40), FEW_BITS):
        codes = codec.encode(vectors, dim, precision)
        longest = codec.cut(codec.encode(vectors), WIDTH, "int8", to_dim=dim, to=precision)
        np.testing.assert_array_equal(longest, codes)
        for to_dim, to in itertools.product((5, dim), FEW_BITS[FEW_BITS.index(precision) :]):
            shorter = codec.cut(codes, dim, precision, to_dim=to_dim, to=to)
            np.testing.assert_array_equal(shorter, codec.encode(vectors, to_dim, to))


def test_scores_are_cosines_of_the_query_and_what_the_code_stands_for() -> None:
    documents, queries = texts(70), texts(9, seed=1)
    codec = Codec.plain(WIDTH)
    for dim, precision in itertools.product((16, 37, 40), FEW_BITS):
        codes = codec.encode(documents, dim, precision)
        expected = unit(queries[:, :dim].astype(np.float64)) @ codec.decode(codes, dim, precision).T.astype(np.float64)
        for given in (queries, queries[:, :dim]):
            np.testing.assert_allclose(codec.scores(given, codes, dim, precision), expected, atol=2e-6)


def test_binary_is_the_sign_as_sentence_transformers_packs_it() -> None:
    vectors = texts(40)
    vectors[0, ::2], vectors[1, ::2] = 0.0, -0.0
    packed = quantize_embeddings(vectors[:, :37], precision="ubinary")
    np.testing.assert_array_equal(Codec.fit(vectors).encode(vectors, 37, "binary"), packed)


def test_a_level_stands_for_the_mean_of_the_normal_numbers_in_it(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=1_000_000)
    Codec.plain(8).save(tmp_path / "codec.json")
    saved = json.loads((tmp_path / "codec.json").read_text())
    assert len(saved["edges"]) == 255
    for precision, bits in (("int8", 8), ("int4", 4), ("int2", 2)):
        levels = np.searchsorted(saved["edges"], numbers) >> (8 - bits)
        means = np.bincount(levels, numbers, 2**bits) / np.bincount(levels, minlength=2**bits)
        np.testing.assert_allclose(saved["levels"][precision], means, atol=0.02)
    best = [-1.5104, -0.4528, 0.4528, 1.5104]  # Max 1960, table I: the best four levels for normal numbers
    np.testing.assert_allclose(saved["levels"]["int2"], best, atol=2e-3)


def test_more_bits_stand_for_something_nearer() -> None:
    vectors = texts(300, width=384)
    codec = Codec.fit(vectors)
    near = [
        float((codec.decode(codec.encode(vectors, None, p), 384, p) * vectors).sum(axis=1).mean()) for p in FEW_BITS
    ]
    # of normal numbers, for one bit: the root of 2 / pi, less what numbers of other sizes take
    assert near == sorted(near, reverse=True)
    assert near[0] > 0.99
    sizes = np.linspace(2, 0.5, 384)
    assert near[-1] == pytest.approx((2 / np.pi) ** 0.5 * sizes.mean() / (sizes**2).mean() ** 0.5, abs=0.01)


def test_scales_are_the_standard_deviations_of_the_numbers() -> None:
    vectors = texts(500)
    codec = Codec.fit(3 * vectors.astype(np.float16))  # any length
    np.testing.assert_allclose(codec.scales, np.sqrt((vectors.astype(np.float64) ** 2).mean(axis=0)), rtol=2e-3)
    assert codec.scales[0] > 2 * codec.scales[-1]
    constant = np.zeros((5, 16), np.float32)
    constant[:, 0] = 1
    fitted = Codec.fit(constant)
    assert (fitted.scales > 0).all()
    assert np.isfinite(fitted.decode(fitted.encode(constant), 16, "int8")).all()


def test_bad_input_is_named() -> None:
    codec = Codec.plain(WIDTH)
    codes = codec.encode(texts(3), 24, "int4")
    for call, words in (
        (lambda: codec.encode(texts(3, width=32)), "shape .n, 40., got float32 of shape .3, 32."),
        (lambda: codec.encode(np.zeros((2, WIDTH))), "position 0 is zero or not finite"),
        (lambda: codec.encode(texts(3), 24, "int3"), "int3"),  # type: ignore[arg-type]
        (lambda: codec.encode(texts(3), 48), "from 1 to 40"),
        (lambda: codec.decode(codes, 40, "int4"), r"codes of 40 numbers in int4 are uint8 of shape \(n, 20\)"),
        (lambda: codec.cut(codes, 24, "int4", to="int8"), "no int8 codes in them"),
        (lambda: codec.cut(codes, 24, "int4", to_dim=25), "from 1 to 24"),
        (lambda: Codec.fit(np.zeros((0, 8), np.float32)), "give some thousand"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "codec.json"
    Codec.plain(WIDTH).save(file)
    whole = json.loads(file.read_text())
    for damage in (
        {"format": 1},
        {"format": 3},
        {"scales": []},
        {"scales": [0.0, *whole["scales"]]},
        {"scales": [float("inf"), *whole["scales"]]},
        {"scales": "wide"},
    ):
        file.write_text(json.dumps({**whole, **damage}))
        with pytest.raises(ValueError, match=str(file)):
            Codec.load(file)
    file.write_text("{")
    with pytest.raises(ValueError, match="no codec, or damaged"):
        Codec.load(file)
    with pytest.raises(FileNotFoundError):
        Codec.load(tmp_path / "none.json")


def test_a_saved_codec_is_found_in_its_folder(tmp_path: Path) -> None:
    assert saved_codec(tmp_path) is None
    codec = Codec.fit(texts(50))
    codec.save(tmp_path / CODEC_FILE)
    found = saved_codec(str(tmp_path))
    assert found is not None
    np.testing.assert_array_equal(found.scales, codec.scales)
