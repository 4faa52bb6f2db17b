"""What few bytes keep of adapted vectors, judged on texts held out of the fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from mrl_text.adapt.adaptation import Adaptation
from mrl_text.codes import FEW_BITS, Codec
from mrl_text.truncation import Precision, bytes_per_vector, truncate, unit_vectors

NEAREST = 10

Shares = dict[tuple[int, Precision], float]
"""Size and precision of a code -> share of the nearest that it finds."""


class Kept(TypedDict):
    """The best code of the adapted vectors in so many bytes, and what it keeps."""

    bytes: int  # that a code may take, at most
    dim: int
    precision: Precision
    before: float  # of the :data:`NEAREST` texts at full width, the share found in the best code of the model as it was
    after: float  # the share found by this code


def kept_by_bytes(vectors: np.ndarray, adaptation: Adaptation) -> list[Kept]:
    """Judge an adaptation on texts that it was not fitted on: who is near whom at full width, and by few bytes?

    Some of them ask (:func:`asking`), in float32, and the others are coded at every size and precision.

    Args:
        vectors: float array (n, width) of held-out texts.
        adaptation: of these vectors, with its codec.

    Returns:
        For every number of bytes that some code takes, up to one byte a number, the best code in no more; the numbers
        depend on width and sizes alone, so that methods compare row by row.
    """
    unit = unit_vectors(vectors)
    first = asking(len(unit))
    true = _nearest(unit[:first] @ unit[first:].T)
    plain = _kept(unit, first, Codec.fit(unit[first:]), true, adaptation.dims)
    turned = truncate(unit @ adaptation.matrix)
    found = _kept(turned, first, adaptation.codec or Codec.fit(turned), true, adaptation.dims)
    budgets = {bytes_per_vector(*cell) for cell in found} & {*range(len(adaptation.matrix) + 1)}
    return [_best(size, plain, found) for size in sorted(budgets)]


def asking(texts: int) -> int:
    """How many of the held-out texts ask; the others are searched."""
    return texts // 4


def _best(size: int, plain: Shares, found: Shares) -> Kept:
    """The code that finds most in so many bytes, of equals the one that takes fewest."""
    within = {
        cell: (share, -bytes_per_vector(*cell)) for cell, share in found.items() if bytes_per_vector(*cell) <= size
    }
    dim, precision = max(within, key=within.__getitem__)
    before = max(share for cell, share in plain.items() if bytes_per_vector(*cell) <= size)
    return {"bytes": size, "dim": dim, "precision": precision, "before": before, "after": found[dim, precision]}


def _kept(vectors: np.ndarray, first: int, codec: Codec, true: np.ndarray, dims: Sequence[int]) -> Shares:
    queries, documents = vectors[:first], vectors[first:]
    longest = codec.encode(documents)
    shares: Shares = {}
    for dim in dims:
        shares[dim, "float32"] = _share(true, truncate(queries, dim) @ truncate(documents, dim).T)
        for precision in FEW_BITS:
            codes = codec.cut(longest, codec.width, "int8", to_dim=dim, to=precision)
            shares[dim, precision] = _share(true, codec.scores(queries, codes, dim, precision))
    return shares


def _nearest(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]


def _share(true: np.ndarray, scores: np.ndarray) -> float:
    found = _nearest(scores)
    return float((true[:, :, None] == found[:, None, :]).any(axis=2).mean())
