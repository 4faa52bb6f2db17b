"""From ids, which are any strings, to the rows that have them: 16 bytes a row instead of a dictionary of strings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np


class IdLookup:
    """Sorted 64-bit hashes of ids and the positions of their rows.

    A hash that matches is not yet an id that matches, so what is found is compared with the id of its row.

    Args:
        id_at: ids of rows by position: int64 (n,) to a list of n strings.
    """

    def __init__(self, id_at: Callable[[np.ndarray], list[str]]) -> None:
        self._id_at = id_at
        self._keys = np.zeros(0, dtype=np.uint64)
        self._positions = np.zeros(0, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Memory of the lookup."""
        return int(self._keys.nbytes + self._positions.nbytes)

    def add(self, ids: Sequence[str], positions: np.ndarray) -> None:
        """Learn rows whose ids are not known yet: positions int64, one for each id."""
        keys = _hashes(ids)
        order = np.argsort(keys, kind="stable")
        places = np.searchsorted(self._keys, keys[order])
        self._keys = np.insert(self._keys, places, keys[order])
        self._positions = np.insert(self._positions, places, positions[order])

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Positions int64 (n,), -1 for an id that is not there."""
        found = np.full(len(ids), -1, dtype=np.int64)
        if not len(self._keys) or not len(ids):
            return found
        keys = _hashes(ids)
        place = np.searchsorted(self._keys, keys)
        open_ = np.arange(len(ids))
        while len(open_):  # again only where two ids share a hash
            open_ = open_[place[open_] < len(self._keys)]
            open_ = open_[self._keys[place[open_]] == keys[open_]]
            if not len(open_):
                break
            positions = self._positions[place[open_]]
            same = np.array([ids[at] == there for at, there in zip(open_, self._id_at(positions), strict=True)])
            found[open_[same]] = positions[same]
            open_ = open_[~same]
            place[open_] += 1
        return found

    def remove(self, positions: np.ndarray) -> None:
        """Forget rows by position."""
        keep = ~np.isin(self._positions, positions)
        self._keys, self._positions = self._keys[keep], self._positions[keep]


def _hashes(ids: Sequence[str]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest() for one in ids)
    return np.frombuffer(digests, dtype=np.uint64)
