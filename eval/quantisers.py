"""FAISS's own quantisers, as controls beside the codes of few bits: product quantisation and RaBitQ."""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import faiss
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError(
        "the controls pq and rabitq need FAISS: pip install 'mrl-text[search]'", name=error.name
    ) from error

_CENTROIDS = 256
"""Of each part of a vector in product quantisation: 8 bits."""
_FACTORS = "<f4"


class Quantiser:
    """A quantiser as ``faiss.index_factory`` makes it, and the vectors that its codes stand for.

    The dot product of a float query and such a vector is what a search of that index by inner product returns: queries
    are not quantised (``qb`` of RaBitQ is 0).

    Args:
        word: of the factory, such as ``PQ32``, ``RaBitQ`` or ``RaBitQ4``.
        sample: float32 (n, dim), to fit on. Product quantisation learns 256 centroids of each part; of fewer vectors
            each is a centroid.
    """

    def __init__(self, word: str, sample: np.ndarray) -> None:
        self._index: Any = faiss.index_factory(sample.shape[1], word, faiss.METRIC_INNER_PRODUCT)
        self._bits = int(word.removeprefix("RaBitQ") or 1) if word.startswith("RaBitQ") else 0
        if self._bits:
            self._index.qb = 0
        else:
            self._index.do_polysemous_training = False  # which numbers centroids anew, for another search, and is slow
            self._index.pq.cp.min_points_per_centroid = 1  # a warning is of no use here
            sample = np.resize(sample, (max(len(sample), _CENTROIDS), sample.shape[1]))
        self._index.train(sample)

    def decode(self, vectors: np.ndarray) -> np.ndarray:
        """The vectors that the codes of float32 vectors (n, dim) stand for, float32 (n, dim), of any length."""
        codes = self._index.sa_encode(np.ascontiguousarray(vectors))
        found: np.ndarray = self._index.sa_decode(codes) if self._bits < 2 else self._all_bits(codes)
        return found

    def beside(self, vectors: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """What is added to the dot product of any query with a decoded vector, float32 (n, 1).

        RaBitQ stores with each code how far it is off in the direction of the centre of all vectors.
        """
        if not self._bits:
            return np.zeros((len(vectors), 1), np.float32)
        return np.asarray((vectors - decoded) @ faiss.vector_to_array(self._index.center)[:, None])

    def _all_bits(self, codes: np.ndarray) -> np.ndarray:
        """Decode RaBitQ of several bits, of which FAISS itself decodes the first.

        A code is the signs, three float32 factors, the other bits of each number, and two factors, the last of which
        is the size of a level (FAISS 1.15, ``RaBitQuantizer``; bits from the lowest of a byte on).
        """
        dim, more = self._index.d, self._bits - 1
        signs = np.unpackbits(codes[:, : -(-dim // 8)], axis=1, count=dim, bitorder="little")
        others = np.unpackbits(codes[:, -(-dim // 8) + 12 : -8], axis=1, count=dim * more, bitorder="little")
        levels = np.concatenate([others.reshape(len(codes), dim, more), signs[:, :, None]], axis=2)
        middle = 2**more - 0.5
        values = levels @ (2 ** np.arange(self._bits)).astype(np.float32) - np.float32(middle)
        sizes = np.ascontiguousarray(codes[:, -4:]).view(_FACTORS)
        return np.asarray(values * sizes + faiss.vector_to_array(self._index.center), np.float32)
