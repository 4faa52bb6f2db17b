"""What a search gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Found:
    """What a search found, best first."""

    ids: np.ndarray  # object (n, k) of str; None where fewer rows were found
    scores: np.ndarray  # float32 (n, k), the cosine at the plan's last size; minus infinity where there is no row

    @classmethod
    def nothing(cls, count: int, k: int) -> Found:
        """For ``count`` queries no row, to be filled in."""
        return Found(np.full((count, k), None, dtype=object), np.full((count, k), -np.inf, dtype=np.float32))


@dataclass(frozen=True)
class Hits(Found):
    """What an index of ours found."""

    positions: np.ndarray  # int64 (n, k), rows in the order they were added; -1 where there is none


@dataclass(frozen=True)
class StageCost:
    """What one step of a search cost."""

    name: str  # shortlist or rerank
    dim: int  # numbers compared
    candidates: int  # vectors it was given; for a shortlist all rows, or those in the cells looked into (about)
    kept: int  # vectors it handed on
    seconds: float  # least of nine runs, beyond what the steps before it took
    bytes_read: int  # of vectors kept on disk; they come from memory where the system has them cached
