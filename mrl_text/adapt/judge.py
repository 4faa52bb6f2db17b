"""What few bytes keep of adapted vectors, judged on texts held out of the fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from mrl_text.adapt.adaptation import Adaptation
from mrl_text.codes import FEW_BITS, Codec
from mrl_text.truncation import Precision, bytes_per_vector, truncate, unit_vectors

NEAREST = 10


class Kept(TypedDict):
    """The best code of so many bytes at most, and what it keeps."""

    bytes: int
    dim: int
    precision: Precision
    before: float  # of the :data:`NEAREST` texts at full width, the share found in the best code of the model as it was
    after: float  # the share found now


def kept_by_bytes(vectors: np.ndarray, adaptation: Adaptation) -> list[Kept]:
    """Judge an adaptation on texts that it was not fitted on: who is near whom at full width, and by few bytes?

    A quarter of them ask, in float32, and the others are coded at every size and precision.

    Args:
        vectors: float array (n, width) of held-out texts.
        adaptation: of these vectors, with its codec.

    Returns:
        From few bytes up the codes that no other beats with as many bytes or fewer; up to one byte a number.
    """
    unit = unit_vectors(vectors)
    asking = len(unit) // 4
    true = _nearest(unit[:asking] @ unit[asking:].T)
    plain = _kept(unit, asking, Codec.fit(unit[asking:]), true, adaptation.dims)
    turned = truncate(unit @ adaptation.matrix)
    found = _kept(turned, asking, adaptation.codec or Codec.fit(turned), true, adaptation.dims)
    rows: list[Kept] = []
    for size, dim, precision in sorted((bytes_per_vector(*cell), *cell) for cell in found):
        after = found[dim, precision]
        before = max(share for cell, share in plain.items() if bytes_per_vector(*cell) <= size)
        if size <= len(adaptation.matrix) and after > max((row["after"] for row in rows), default=0.0):
            rows = [row for row in rows if row["bytes"] < size]
            rows.append({"bytes": size, "dim": dim, "precision": precision, "before": before, "after": after})
    return rows


def _kept(
    vectors: np.ndarray, asking: int, codec: Codec, true: np.ndarray, dims: Sequence[int]
) -> dict[tuple[int, Precision], float]:
    queries, documents = vectors[:asking], vectors[asking:]
    longest = codec.encode(documents)
    shares: dict[tuple[int, Precision], float] = {}
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
