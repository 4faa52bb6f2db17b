"""Codes of one to eight bits for each number of a vector: every size and every precision is a part of one code.

A code keeps vectors small on disk and in memory; queries stay float32 and are compared with what the codes stand for.
docs/codes.md has the layout byte for byte and what it costs in quality.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np

from mrl_text.files import write_atomically
from mrl_text.suggest import check_choice
from mrl_text.truncation import check_dim, truncate, unit_vectors

FewBits = Literal["int8", "int4", "int2", "binary"]
FEW_BITS: tuple[FewBits, ...] = get_args(FewBits)  # the longest first; each is the top bits of those before

GROUP = 8
"""Numbers that are rotated together; sizes that a code can be cut to are multiples of it."""
_BITS: dict[FewBits, int] = {"int8": 8, "int4": 4, "int2": 2, "binary": 1}
_REACH = 2.0  # standard deviations on each side that the levels cover
_BLOCK = 8192  # vectors that are coded or compared together
_FORMAT = 1


@dataclass(frozen=True)
class Codec:
    """How vectors become codes, and what codes stand for.

    A vector is rotated, eight numbers at a time, by a Walsh-Hadamard matrix behind fixed signs. Few-bit quantisers
    rotate at random before they round (RaBitQ, arXiv 2405.12497); in groups of eight a prefix stays a prefix. Each
    number becomes one of 256 levels, evenly spaced over two standard deviations on either side of zero. The top four,
    two or one bits of that byte are the codes of fewer bits, of levels that are wider; ``binary`` is the sign. So one
    code of full width in ``int8`` holds all others: a smaller size is its first bytes, fewer bits their top bits
    (:meth:`cut`).

    What a code stands for has unit length: the length of the numbers is found from the code, and takes no byte.

    Args:
        width: numbers of the full vectors.
        scales: float32 (ceil(width / 8),), the standard deviation of the rotated numbers of each group.
        signs: int8 (ceil(width / 8) * 8,), plus and minus ones.
    """

    width: int
    scales: np.ndarray
    signs: np.ndarray

    @classmethod
    def plain(cls, width: int) -> Self:
        """The codec of unit vectors whose numbers are all of about one size; nothing is measured."""
        groups = -(-check_dim(width, None) // GROUP)
        signs = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), groups * GROUP)
        return cls(width, np.full(groups, width**-0.5, np.float32), signs)

    @classmethod
    def fit(cls, vectors: np.ndarray) -> Self:
        """The codec of a corpus, by the size of the numbers of each group in a sample of it.

        Args:
            vectors: float array (n, width), of any length but zero; some thousand are enough.

        Raises:
            ValueError: no vectors, or one that is zero or not finite.
        """
        sample = unit_vectors(vectors)
        if not len(sample):
            raise ValueError("a codec is fitted on vectors: give some thousand of the corpus")
        codec = cls.plain(sample.shape[1])
        squares = np.zeros(len(codec.scales))
        for start in range(0, len(sample), _BLOCK):
            rotated = codec.rotate(sample[start : start + _BLOCK])
            squares += np.square(rotated, dtype=np.float64).reshape(len(rotated), -1, GROUP).sum(axis=(0, 2))
        scales = np.sqrt(squares / (len(sample) * GROUP))
        least = scales.max() / 1000  # of a group that is always zero
        return cls(codec.width, np.maximum(scales, least).astype(np.float32), codec.signs)

    def rotate(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (n, dim) as codes hold them: float32 (n, dim rounded up to a multiple of eight), same lengths."""
        count, dim = vectors.shape
        padded = -(-dim // GROUP) * GROUP
        if padded > dim:
            vectors = np.pad(vectors, ((0, 0), (0, padded - dim)))
        signed = vectors * self.signs[:padded].astype(np.float32)
        return np.ascontiguousarray((signed.reshape(-1, GROUP) @ _HADAMARD).reshape(count, padded))

    def encode(self, vectors: np.ndarray, dim: int | None = None, precision: FewBits = "int8") -> np.ndarray:
        """The codes of vectors.

        Args:
            vectors: float array (n, width), of any length but zero.
            dim: numbers to keep; None keeps all.
            precision: bits for each.

        Returns:
            uint8 (n, :func:`code_bytes`).

        Raises:
            ValueError: another width, an unknown precision, or a vector that is zero or not finite.
        """
        dim = check_dim(self.width if dim is None else dim, self.width)
        bits = _BITS[check_choice("precision", precision, FewBits)]
        unit = unit_vectors(vectors, self.width)
        codes = np.empty((len(unit), code_bytes(dim, precision)), np.uint8)
        for start in range(0, len(unit), _BLOCK):
            rotated = self.rotate(unit[start : start + _BLOCK, :dim])
            steps = np.repeat(128 / _REACH / self.scales[: rotated.shape[1] // GROUP], GROUP)
            levels = np.clip(np.floor(rotated * steps) + 128, 0, 255).astype(np.uint8)
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
            to_dim: numbers to keep, a multiple of eight; None keeps all.
            to: bits to keep; None keeps all.

        Raises:
            ValueError: codes of another length, more numbers or bits than there are, or a size inside a group.
        """
        levels = self._levels(codes, dim, precision)
        to_dim, to = check_dim(dim if to_dim is None else to_dim, dim), to or precision
        if to_dim % GROUP and to_dim != dim:
            raise ValueError(f"a code is cut at multiples of {GROUP}, got {to_dim}: encode the vectors at that size")
        bits = _BITS[check_choice("precision", to, FewBits)]
        if bits > _BITS[precision]:
            raise ValueError(f"{precision} codes have no {to} codes in them: encode the vectors in {to}")
        kept = levels[:, : -(-to_dim // GROUP) * GROUP] >> (_BITS[precision] - bits) << (8 - bits)
        return _packed(kept, bits)

    def decode(self, codes: np.ndarray, dim: int, precision: FewBits) -> np.ndarray:
        """The unit vectors that codes stand for, float32 (n, dim): their dot product with a unit query is a cosine."""
        scales = np.repeat(self.scales[: -(-dim // GROUP)], GROUP)
        values = self._centres[precision][self._levels(codes, dim, precision)] * scales
        groups = values.reshape(-1, GROUP) @ _HADAMARD  # its own inverse
        return truncate(groups.reshape(values.shape) * self.signs[: values.shape[1]].astype(np.float32), dim)

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
            "width": self.width,
            "group": GROUP,
            "reach": _REACH,
            "scales": [float(scale) for scale in self.scales],
            "signs": [int(sign) for sign in self.signs],
        }
        write_atomically(Path(path), json.dumps(content).encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged, or of a later version.
        """
        damaged = f"{path} is no codec, or damaged: fit it again"
        try:
            content = json.loads(Path(path).read_bytes())
            known = content["format"] == _FORMAT
            scales, signs = np.array(content["scales"], np.float32), np.array(content["signs"], np.int8)
            codec = cls(int(content["width"]), scales, signs)
            whole = len(signs) == len(scales) * GROUP == -(-codec.width // GROUP) * GROUP
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(damaged) from error
        if not known:
            raise ValueError(f"{path} has format {content['format']}, and {_FORMAT} is read here: update mrl-text")
        if not whole or not (scales > 0).all() or not (np.abs(signs) == 1).all():
            raise ValueError(damaged)
        return codec

    def _levels(self, codes: np.ndarray, dim: int, precision: FewBits) -> np.ndarray:
        """Numbers of the levels, uint8 (n, dim rounded up)."""
        bits = _BITS[check_choice("precision", precision, FewBits)]
        length = code_bytes(check_dim(dim, self.width), precision)
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != length:
            got = f"{codes.dtype} of shape {codes.shape}"
            raise ValueError(f"codes of {dim} numbers in {precision} are uint8 of shape (n, {length}); got {got}")
        shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
        return ((codes[:, :, None] >> shifts) & np.uint8(2**bits - 1)).reshape(len(codes), -1)

    @cached_property
    def _centres(self) -> dict[FewBits, np.ndarray]:
        """The middle of each level, in standard deviations."""
        return {
            name: ((2 * np.arange(2**bits) + 1) / 2**bits - 1).astype(np.float32) * np.float32(_REACH)
            for name, bits in _BITS.items()
        }


def code_bytes(dim: int, precision: FewBits) -> int:
    """Bytes that the code of ``dim`` numbers takes; ``dim`` is rounded up to a multiple of eight."""
    return -(-dim // GROUP) * _BITS[check_choice("precision", precision, FewBits)]


_HADAMARD = np.float32(np.kron(np.kron(*[[[1, 1], [1, -1]]] * 2), [[1, 1], [1, -1]]) / np.sqrt(GROUP))
"""Walsh-Hadamard matrix (8, 8) in natural order: symmetric, and its own inverse."""


def _packed(levels: np.ndarray, bits: int) -> np.ndarray:
    """The top bits of each level side by side, the first number in the highest bits of a byte."""
    if bits == 1:
        return np.packbits(levels >> 7, axis=1)
    packed = np.zeros((len(levels), levels.shape[1] * bits // 8), np.uint8)
    for place in range(8 // bits):
        packed |= levels[:, place :: 8 // bits] >> (8 - bits) << np.uint8(8 - bits * (place + 1))
    return packed
