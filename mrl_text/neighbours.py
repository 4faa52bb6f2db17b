"""Batches of texts that are near each other: what a text must be told apart from, at every size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

GROUP_SIZE = 60  # texts per group on average
MEMBERS = 24  # texts of one group in a batch, at most


def neighbour_groups(embeddings: np.ndarray, *, group_size: int = GROUP_SIZE, seed: int = 0) -> np.ndarray:
    """Cut texts into groups of near neighbours, by k-means on a part of them (scikit-learn's ``MiniBatchKMeans``).

    Args:
        embeddings: unit vectors (n, width), float32.

    Returns:
        Group of each text, int32 (n,).

    Raises:
        ValueError: no text, or a group size below 1.
    """
    if not len(embeddings) or group_size < 1:
        raise ValueError(f"expected texts and a group size of at least 1, got {len(embeddings)} and {group_size}")
    count = max(1, len(embeddings) // group_size)
    if count == 1:
        return np.zeros(len(embeddings), dtype=np.int32)
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, init="random", n_init=1, batch_size=4096, max_iter=8, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where texts repeat, which is fine here
        found: np.ndarray = means.fit_predict(np.ascontiguousarray(embeddings, dtype=np.float32))
    return found.astype(np.int32)


def neighbour_batches(
    groups: np.ndarray, batch_size: int, generator: np.random.Generator, *, members: int = MEMBERS
) -> Iterator[np.ndarray]:
    """One epoch: every text once, in batches that hold up to ``members`` texts of a group together.

    Args:
        groups: group of each text (n,).
        generator: decides the order; one state gives one epoch.

    Yields:
        Positions of a batch's texts, int64.
    """
    shuffled = generator.permutation(len(groups))
    by_group = shuffled[np.argsort(groups[shuffled], kind="stable")]
    _, sizes = np.unique(groups, return_counts=True)
    place = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each text inside its group
    starts = np.flatnonzero(place % members == 0)
    pieces = np.split(by_group, starts[1:])
    order = np.concatenate([pieces[index] for index in generator.permutation(len(pieces))])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
