"""Codes of one to eight bits for each number of a vector: every size and every precision is a part of one code.

A code keeps vectors small on disk and in memory; queries stay float32 and are compared with what the codes stand for.
docs/codes.md has the layout byte for byte and what it costs in quality.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Literal, Self, get_args

import numpy as np

from mrl_text.files import write_atomically
from mrl_text.suggest import check_choice
from mrl_text.truncation import (
    Precision,
    bytes_per_vector,
    check_dim,
    dequantize,
    quantize,
    truncate,
    unit_vectors,
)

FewBits = Literal["int8", "int4", "int2", "binary"]
FEW_BITS: tuple[FewBits, ...] = get_args(FewBits)  # the longest first; each is the top bits of those before
CODED: frozenset[Precision] = frozenset({"int4", "int2"})  # what a codec alone can make

_BITS: dict[FewBits, int] = {"int8": 8, "int4": 4, "int2": 2, "binary": 1}
_SPREAD = 1.4553  # puts the outer edges of four levels where the best quantiser of normal numbers has them (0.9816)
_GRID = 1024  # edges are whole multiples of standard deviations / 1024, so that coding is to look into a table
_BLOCK = 8192  # vectors that are coded or compared together
_FEWEST_BYTES = 8  # of codes to train for
_FORMAT = 2  # 1 had other levels, of rotated numbers
CODEC_FILE = "codec.json"  # in the folder of a model, or of vectors


@dataclass(frozen=True)
class Codec:
    """How vectors become codes, and what codes stand for.

    Each number becomes one of 256 levels, narrow around zero and wider outwards as the tails of a normal distribution
    thin out. The top four or two bits of that byte are the codes of fewer bits, of levels that are wider; the top bit,
    ``binary``, is the sign, as sentence-transformers' ``ubinary``, PostgreSQL and Qdrant have it. So one code of full
    width in ``int8`` holds all others: a smaller size is its first numbers, fewer bits their top bits (:meth:`cut`).

    What a code stands for has unit length: the length of the numbers is found from the code, and takes no byte.

    Args:
        scales: float32 (width,), the standard deviation of each number of unit vectors.
    """

    scales: np.ndarray

    @property
    def width(self) -> int:
        """Numbers of the full vectors."""
        return len(self.scales)

    @classmethod
    def plain(cls, width: int) -> Self:
        """The codec of unit vectors whose numbers are all of about one size; nothing is measured."""
        return cls(np.full(check_dim(width, None), width**-0.5, np.float32))

    @classmethod
    def fit(cls, vectors: np.ndarray) -> Self:
        """The codec of a corpus, by the size of each number in a sample of it.

        Args:
            vectors: float array (n, width), of any length but zero; some thousand are enough.

        Raises:
            ValueError: no vectors, or one that is zero or not finite.
        """
        sample = unit_vectors(vectors)
        if not len(sample):
            raise ValueError("a codec is fitted on vectors: give some thousand of the corpus")
        scales = np.sqrt(np.mean(np.square(sample, dtype=np.float64), axis=0))
        least = scales.max() / 1000  # of a number that is always zero
        return cls(np.maximum(scales, least).astype(np.float32))

    def encode(self, vectors: np.ndarray, dim: int | None = None, precision: FewBits = "int8") -> np.ndarray:
        """The codes of vectors.

        Args:
            vectors: float array (n, width), of any length but zero.
            dim: numbers to keep; None keeps all.
            precision: bits for each.

        Returns:
            uint8 (n, bytes), as many as :func:`mrl_text.truncation.bytes_per_vector` says.

        Raises:
            ValueError: another width, an unknown precision, or a vector that is zero or not finite.
        """
        dim = check_dim(self.width if dim is None else dim, self.width)
        bits = _BITS[check_choice("precision", precision, FewBits)]
        unit = unit_vectors(vectors, self.width)
        codes = np.empty((len(unit), bytes_per_vector(dim, precision)), np.uint8)
        table, last = _level_of()
        steps = _GRID / self.scales[:dim]
        for start in range(0, len(unit), _BLOCK):
            places = np.ceil(unit[start : start + _BLOCK, :dim] * steps)
            levels = table[np.clip(places, -last, last).astype(np.int16) + np.int16(last)]
            codes[start : start + _BLOCK] = _packed(levels, bits)
        return codes

    def cut(
        self, codes: np.ndarray, dim: int, precision: FewBits, *, to_dim: int | None = None, to: FewBits | None = None
    ) -> np.ndarray:
        """Shorter codes out of codes, without the vectors: equal to what :meth:`encode` gives for them.

        Args:
            codes: uint8 (n, bytes) of ``dim`` numbers in ``precision``.
            dim: numbers of the codes.
            precision: of the codes.
            to_dim: numbers to keep; None keeps all.
            to: bits to keep; None keeps all.

        Raises:
            ValueError: codes of another length, or more numbers or bits than there are.
        """
        levels = self._levels(codes, dim, precision)
        to_dim, to = check_dim(dim if to_dim is None else to_dim, dim), to or precision
        bits = _BITS[check_choice("precision", to, FewBits)]
        if bits > _BITS[precision]:
            raise ValueError(f"{precision} codes have no {to} codes in them: encode the vectors in {to}")
        return _packed(levels[:, :to_dim] << (8 - _BITS[precision]), bits)

    def decode(self, codes: np.ndarray, dim: int, precision: FewBits) -> np.ndarray:
        """The unit vectors that codes stand for, float32 (n, dim): their dot product with a unit query is a cosine.

        Numbers in ``binary`` are all of one size, so that two codes compare as by Hamming distance.
        """
        levels = self._levels(codes, dim, precision)
        if precision == "binary":
            return (levels * np.float32(2) - 1) * np.float32(dim**-0.5)
        return truncate(_means()[precision][levels] * self.scales[:dim], dim)

    def scores(self, queries: np.ndarray, codes: np.ndarray, dim: int, precision: FewBits) -> np.ndarray:
        """Cosines of float queries and codes (asymmetric), float32 (q, n), by the first ``dim`` numbers of the queries.

        Args:
            queries: float array (q, width) or (q, dim).
            codes: uint8 (n, bytes) of ``dim`` numbers in ``precision``.
            dim: numbers of the codes.
            precision: of the codes.

        Raises:
            ValueError: as for :meth:`cut`; queries of fewer numbers, zero or not finite.
        """
        cut = truncate(unit_vectors(queries), dim)
        found = np.empty((len(cut), len(codes)), np.float32)
        for start in range(0, len(codes), _BLOCK):
            found[:, start : start + _BLOCK] = cut @ self.decode(codes[start : start + _BLOCK], dim, precision).T
        return found

    def save(self, path: str | Path) -> None:
        """Write the codec as JSON; errors as :func:`mrl_text.files.write_atomically`."""
        content = {
            "format": _FORMAT,
            "scales": [float(scale) for scale in self.scales],
            "edges": [float(edge) / _GRID for edge in _edges()],
            "levels": {name: [float(mean) for mean in means] for name, means in _means().items()},
        }
        write_atomically(Path(path), json.dumps(content).encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged, or of another version.
        """
        damaged = f"{path} is no codec, or damaged: fit it again"
        try:
            content = json.loads(Path(path).read_bytes())
            known, scales = content["format"] == _FORMAT, np.array(content["scales"], np.float32)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(damaged) from error
        if not known:
            how = "fit it again" if content["format"] in range(_FORMAT) else "update mrl-text"
            raise ValueError(f"{path} has format {content['format']}, and {_FORMAT} is read here: {how}")
        if scales.ndim != 1 or not len(scales) or not (np.isfinite(scales) & (scales > 0)).all():
            raise ValueError(damaged)
        return cls(scales)

    def _levels(self, codes: np.ndarray, dim: int, precision: FewBits) -> np.ndarray:
        """Numbers of the levels, uint8 (n, dim)."""
        bits = _BITS[check_choice("precision", precision, FewBits)]
        length = bytes_per_vector(check_dim(dim, self.width), precision)
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != length:
            got = f"{codes.dtype} of shape {codes.shape}"
            raise ValueError(f"codes of {dim} numbers in {precision} are uint8 of shape (n, {length}); got {got}")
        if bits == 1:
            return np.unpackbits(codes, axis=1, count=dim)
        shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
        return ((codes[:, :, None] >> shifts) & np.uint8(2**bits - 1)).reshape(len(codes), -1)[:, :dim]


def saved_codec(place: str | Path) -> Codec | None:
    """The codec that was saved with a model or with coded vectors.

    Args:
        place: folder of either, or the hub id of a model, of which the file is fetched.

    Returns:
        None where none was saved; errors as :meth:`Codec.load`.
    """
    if Path(place).is_dir():
        file = Path(place) / CODEC_FILE
        return Codec.load(file) if file.is_file() else None
    from sentence_transformers.util import load_file_path

    fetched = load_file_path(str(place), CODEC_FILE)
    return Codec.load(fetched) if fetched else None


def store(
    vectors: np.ndarray,
    dim: int | None,
    precision: Precision,
    *,
    codec: Codec | None = None,
    ranges: np.ndarray | None = None,
    normalize: bool = True,
) -> np.ndarray:
    """Cut full vectors and store them in any precision.

    Args:
        vectors: float32 (n, width).
        dim: numbers to keep; None keeps all.
        precision: int4 and int2 are codes of a codec, all others sentence-transformers' own.
        codec: of vectors of that width; None is :meth:`Codec.plain`.
        ranges: for int8 and uint8, as for :func:`mrl_text.truncation.quantize`.
        normalize: unit length after the cut; codes stand for unit vectors in any case.

    Returns:
        As :meth:`Codec.encode` or :func:`mrl_text.truncation.quantize`.
    """
    if precision in CODED:
        return (codec or Codec.plain(vectors.shape[1])).encode(vectors, dim, precision)  # type: ignore[arg-type]
    return quantize(truncate(vectors, dim, normalize=normalize), precision, ranges=ranges)


def restore(
    stored: np.ndarray, dim: int, precision: Precision, *, codec: Codec | None = None, ranges: np.ndarray | None = None
) -> np.ndarray:
    """The float32 vectors (n, dim) that what :func:`store` made stands for, with the same codec or ranges.

    ValueError for int4 and int2 without a codec, int8 and uint8 without ranges.
    """
    if precision not in CODED:
        return dequantize(stored, precision, dim, ranges=ranges)
    if codec is None:
        raise ValueError(f"{precision} codes mean nothing without the codec they were made with")
    return codec.decode(stored, dim, precision)  # type: ignore[arg-type]


def is_trained(dim: int, precision: FewBits) -> bool:
    """Whether training compares such codes: those of fewer bytes keep so little that their gradient is noise."""
    return bytes_per_vector(dim, precision) >= _FEWEST_BYTES


def trained_precisions(
    dims: Sequence[int], precisions: Sequence[str], weights: Sequence[float] | None = None
) -> dict[FewBits, float]:
    """The codes among ``precisions`` -> weight relative to ``float32``, which has to be among them.

    Raises:
        ValueError: no float32, a precision twice or that is no code, not one weight above 0 for each, or no size of 8
            bytes or more.
    """
    if "float32" not in precisions or len(set(precisions)) < len(precisions):
        raise ValueError(f"precisions are float32, which all training needs, and codes, each once; got {precisions}")
    given = [1.0] * len(precisions) if weights is None else [float(one) for one in weights]
    if len(given) != len(precisions) or not all(0 < one < float("inf") for one in given):
        raise ValueError(f"expected {len(precisions)} weights above 0, one for each of {precisions}; got {given}")
    weight_of = dict(zip(precisions, given, strict=True))
    plain = weight_of.pop("float32")
    found: dict[FewBits, float] = {}
    for name, weight in weight_of.items():
        one: FewBits = check_choice("precisions", name, FewBits)  # type: ignore[arg-type]
        found[one] = weight / plain
        if not is_trained(max(dims), one):
            raise ValueError(
                f"precisions: {one} codes of {max(dims)} numbers have fewer than {_FEWEST_BYTES} bytes, too few to"
                f" train for: add a larger size to dims, or leave {one} out"
            )
    return found


def levels_of(precision: FewBits) -> tuple[np.ndarray, np.ndarray]:
    """The levels of a code, in standard deviations of its number.

    Returns:
        Edges between levels, float32 (levels - 1,), a number on an edge being below it, and what each level stands
        for, float32 (levels,); in ``binary`` all numbers count the same, whatever their deviations.
    """
    bits = _BITS[check_choice("precision", precision, FewBits)]
    edges = _edges()[2 ** (8 - bits) - 1 :: 2 ** (8 - bits)].astype(np.float32) / _GRID
    return edges, np.array([-1, 1], np.float32) if bits == 1 else _means()[precision]


@functools.cache
def _edges() -> np.ndarray:
    """The 255 edges between levels, in standard deviations / 1024; int16, ascending, the middle one zero."""
    return np.array([round(_GRID * _SPREAD * NormalDist().inv_cdf(k / 256)) for k in range(1, 256)], np.int16)


@functools.cache
def _level_of() -> tuple[np.ndarray, int]:
    """The level of each place of the grid from the lowest to the highest, uint8, and the highest."""
    edges = _edges()
    last = int(edges[-1]) + 1
    return np.searchsorted(edges, np.arange(-last, last + 1)).astype(np.uint8), last  # on an edge: below it


@functools.cache
def _means() -> dict[FewBits, np.ndarray]:
    """What each level stands for in standard deviations: the mean of the normal numbers in it."""
    normal, found = NormalDist(), dict[FewBits, np.ndarray]()
    for name in FEW_BITS[:-1]:
        edges = [-np.inf, *(_edges()[2 ** (8 - _BITS[name]) - 1 :: 2 ** (8 - _BITS[name])] / _GRID), np.inf]
        found[name] = np.array(
            [
                (normal.pdf(low) - normal.pdf(high)) / (normal.cdf(high) - normal.cdf(low))
                for low, high in pairwise(edges)
            ],
            np.float32,
        )
    return found


def _packed(levels: np.ndarray, bits: int) -> np.ndarray:
    """The top bits of each level side by side, the first number in the highest bits of a byte; zeros at the end."""
    if bits == 1:
        return np.packbits(levels >> 7, axis=1)
    a_byte = 8 // bits
    levels = np.pad(levels, ((0, 0), (0, -levels.shape[1] % a_byte)))
    packed = np.zeros((len(levels), levels.shape[1] // a_byte), np.uint8)
    for place in range(a_byte):
        packed |= levels[:, place::a_byte] >> (8 - bits) << np.uint8(8 - bits * (place + 1))
    return packed
