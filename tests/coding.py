"""What codes of few bits stand for, by hand, in float64: a reference of another make than ``mrl_text.codes``."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

BITS = {"int8": 8, "int4": 4, "int2": 2}


def stood_for(unit_vectors: np.ndarray, scales: np.ndarray, precision: str) -> np.ndarray:
    """The levels of each number (n, width) of unit vectors, before they are cut and made unit length again."""
    count = 2 ** BITS[precision]
    edges = np.round(1024 * 1.4553 * norm.ppf(np.arange(1, count) / count)) / 1024
    ends = np.concatenate([[-np.inf], edges, [np.inf]])
    means = -np.diff(norm.pdf(ends)) / np.diff(norm.cdf(ends))
    return means[np.searchsorted(edges, unit_vectors.astype(np.float64) / scales)] * scales
