"""Cutting embeddings: slice, renormalise, quantise. Every other module calls this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np

from mrl_text.suggest import check_choice

if TYPE_CHECKING:
    import torch

    Embeddings = TypeVar("Embeddings", np.ndarray, torch.Tensor)
else:
    Embeddings = TypeVar("Embeddings")

Precision = Literal["float32", "float16", "int8", "uint8", "int4", "int2", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""Storage types of a vector, in sentence-transformers' words but for int4 and int2."""

_BITS = {"float32": 32, "float16": 16, "int8": 8, "uint8": 8, "int4": 4, "int2": 2, "binary": 1, "ubinary": 1}


def check_dim(dim: int, full: int | None, trained: Sequence[int] = ()) -> int:
    """Return ``dim`` as an int if it is a size that vectors of width ``full`` can be cut to.

    Args:
        dim: the wanted number of dimensions.
        full: the full width; None if the model does not tell.
        trained: trained sizes, named in the error.

    Raises:
        ValueError: ``dim`` is not a whole number, below 1, or above ``full``.
    """
    known = f"; trained sizes: {', '.join(map(str, trained))}" if trained else ""
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)):
        raise ValueError(f"dim must be a whole number, got {dim!r}{known}")
    if dim < 1 or (full is not None and dim > full):
        upper = f"from 1 to {full}, the model's width" if full is not None else "at least 1"
        raise ValueError(f"dim must be {upper}, got {dim}{known}")
    return int(dim)


def check_dims(dims: Sequence[int], full: int | None = None) -> tuple[int, ...]:
    """Return ``dims`` ascending without repeats; errors as :func:`check_dim`, or ValueError if there are none."""
    if not len(dims):
        raise ValueError("dims is empty: name at least one size, for example [64, 128, 256]")
    return tuple(sorted({check_dim(dim, full) for dim in dims}))


def halves(width: int, smallest: int = 16) -> tuple[int, ...]:
    """Sizes to try for a model that does not say what it was trained for: the width, half of it, a quarter, ...

    Args:
        width: of the model.
        smallest: the least size, unless the width itself is below.

    Returns:
        Sizes, ascending; the last is the width.
    """
    return tuple(sorted({width, *(size for power in range(32) if (size := width >> power) >= smallest)}))


def truncate(embeddings: Embeddings, dim: int | None = None, *, normalize: bool = True) -> Embeddings:
    """Keep the first ``dim`` numbers of each vector and make it unit length again (arXiv 2205.13147, section 3).

    Args:
        embeddings: float array or tensor, shape (n, width) or (width,).
        dim: numbers to keep; None keeps all.
        normalize: divide by the L2 norm after cutting. A zero vector stays zero.

    Returns:
        Same type, device and dtype, shape (n, dim) or (dim,). A numpy result is C-contiguous.

    Raises:
        ValueError: ``dim`` is no size of these vectors, or they are not floating point (already quantised, say).
    """
    if not (embeddings.dtype.kind == "f" if isinstance(embeddings, np.ndarray) else embeddings.is_floating_point()):
        raise ValueError(f"expected floating point vectors, got {embeddings.dtype}: truncate before quantising")
    if dim is not None:
        embeddings = embeddings[..., : check_dim(dim, embeddings.shape[-1])]
    if isinstance(embeddings, np.ndarray):
        if normalize:
            # accumulate in float32 or better: squares of float16 overflow
            wide = embeddings.astype(np.promote_types(embeddings.dtype, np.float32), copy=False)
            norms = np.linalg.norm(wide, axis=-1, keepdims=True)
            embeddings = (wide / np.where(norms == 0, 1, norms)).astype(embeddings.dtype, copy=False)
        return np.ascontiguousarray(embeddings)
    if normalize:
        import torch

        wide_tensor = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        norms_tensor = wide_tensor.norm(dim=-1, keepdim=True)
        ones = torch.ones_like(norms_tensor)
        embeddings = (wide_tensor / torch.where(norms_tensor == 0, ones, norms_tensor)).to(embeddings.dtype)
    return embeddings


def usable(embeddings: np.ndarray) -> np.ndarray:
    """Which vectors of a float array (n, width) have a direction: all numbers finite, not all zero; bool (n,)."""
    norms = np.linalg.norm(embeddings, axis=-1)
    return np.asarray(np.isfinite(norms) & (norms > 0))


def unit_vectors(
    embeddings: np.ndarray, width: int | None = None, *, word: str = "vector", why: str = ""
) -> np.ndarray:
    """Unit vectors of vectors that somebody gives.

    Args:
        embeddings: float array (n, width), of any length but zero.
        width: numbers that they must have; None takes any.
        word: what one of them is called in errors.
        why: ends the error about another shape.

    Returns:
        float32 (n, width), C-contiguous.

    Raises:
        ValueError: another shape or type, or a vector that is zero or not finite, with its position.
    """
    array = np.asarray(embeddings)
    if array.ndim != 2 or array.dtype.kind != "f" or width not in (None, array.shape[1]):
        wanted = f"(n, {'width' if width is None else width})"
        raise ValueError(f"expected float vectors of shape {wanted}, got {array.dtype} of shape {array.shape}{why}")
    array = array.astype(np.float32, copy=False)
    bad = ~usable(array)
    if bad.any():
        raise ValueError(f"the {word} at position {int(bad.argmax())} is zero or not finite: leave it out")
    return truncate(array)


def quantize(embeddings: np.ndarray, precision: Precision, *, ranges: np.ndarray | None = None) -> np.ndarray:
    """Store vectors in fewer bits, with sentence-transformers' own conventions.

    Args:
        embeddings: float32 array, shape (n, dim).
        precision: one of :data:`PRECISIONS`. ``binary`` and ``ubinary`` keep one sign bit per number, packed.
        ranges: for int8 and uint8, float array (2, dim) with the smallest and largest value of each dimension,
            measured on a corpus. None measures them on ``embeddings`` itself.

    Returns:
        Array (n, dim) of that dtype; for ``binary`` (int8) and ``ubinary`` (uint8) shape (n, ceil(dim / 8)).

    Raises:
        ValueError: unknown precision.
    """
    check_choice("precision", precision, Precision)
    if precision in ("int4", "int2"):
        raise ValueError(f"{precision} codes are made by mrl_text.codes.Codec, which keeps what they stand for")
    if precision in ("float32", "float16"):
        return embeddings.astype(precision, copy=False)
    if not len(embeddings):  # quantise one vector and keep none
        dim = embeddings.shape[-1]
        return quantize(np.zeros((1, dim), np.float32), precision, ranges=np.zeros((2, dim), np.float32))[:0]
    from sentence_transformers.util import quantize_embeddings

    return np.asarray(quantize_embeddings(embeddings, precision=precision, ranges=ranges))


def fixed_ranges(dim: int) -> np.ndarray:
    """Ranges of int8 and uint8 for unit vectors of ``dim`` numbers where there is no corpus to measure them on.

    The int8 code c stands for ``c * step``, with a step of 1/127 of six times the root mean square of a unit vector's
    numbers, ``6 / sqrt(dim)``, or of 1 where that is less; numbers beyond are clipped. Codes of all calls compare.
    """
    step = min(1.0, 6 / dim**0.5) / 127
    return np.repeat(np.array([[-128.5 * step], [126.5 * step]], np.float32), dim, axis=1)


def dequantize(stored: np.ndarray, precision: Precision, dim: int, *, ranges: np.ndarray | None = None) -> np.ndarray:
    """The float32 vectors that stored ones stand for, for comparing them as an index would.

    int8 and uint8 codes become the centre of their bucket, as scalar quantisation does in FAISS and in vector
    databases; binary becomes plus or minus one over the root of ``dim``, so that the dot product of two vectors is
    1 - 2 * (Hamming distance) / dim.

    Args:
        stored: what :func:`quantize` returned.
        precision: of ``stored``.
        dim: numbers per vector before packing.
        ranges: (2, dim) that the int8 or uint8 codes were made with.

    Returns:
        float32 array (n, dim).

    Raises:
        ValueError: unknown precision, or int8 and uint8 without ranges.
    """
    if precision in ("float32", "float16"):
        return stored.astype(np.float32)
    if precision in ("int8", "uint8"):
        if ranges is None:
            raise ValueError(f"{precision} codes mean nothing without the ranges they were made with")
        low, high = ranges.astype(np.float32)
        centre = stored.astype(np.float32) + (128.5 if precision == "int8" else 0.5)
        values = np.where(high > low, low + centre * ((high - low) / 255), low)
        return np.asarray(values, dtype=np.float32)
    check_choice("precision", precision, Precision)
    packed = (stored.astype(np.int16) + 128).astype(np.uint8) if precision == "binary" else stored
    bits = np.unpackbits(packed, axis=-1, count=dim).astype(np.float32)
    return np.asarray((2 * bits - 1) / np.float32(np.sqrt(dim)), dtype=np.float32)


def bytes_per_vector(dim: int, precision: Precision = "float32") -> int:
    """Bytes that one stored vector takes: ``dim`` numbers of that precision, rounded up to whole bytes."""
    return -(-dim * _BITS[precision] // 8)
