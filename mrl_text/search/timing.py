"""Time per query, measured so that two plans can be compared."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from threadpoolctl import threadpool_limits

REPEATS = 5
_SINGLE_QUERIES = 50
_BUDGET = 1.0  # seconds of each of the two measurements; slow searches are repeated less


@dataclass(frozen=True)
class Timing:
    """Seconds per query.

    Attributes:
        single: queries one after the other, as a server meets them.
        batch: all queries in one call.
    """

    single: float
    batch: float


def measure(search: Callable[[np.ndarray], object], queries: np.ndarray) -> Timing:
    """Median time per query of up to five repeats, after one that is not counted.

    Args:
        search: takes float32 queries (n, width).
        queries: float32 (n, width); the first 50 are searched one by one, all of them as a batch.

    Returns:
        Seconds per query.
    """
    alone = [queries[row : row + 1] for row in range(min(_SINGLE_QUERIES, len(queries)))]

    def one_by_one() -> None:
        for query in alone:
            search(query)

    return Timing(_median(one_by_one) / len(alone), _median(lambda: search(queries)) / len(queries))


def _median(work: Callable[[], object]) -> float:
    work()  # reads what is to be read from the disk
    spent: list[float] = []
    while len(spent) < REPEATS and sum(spent) < _BUDGET:
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let FAISS and the libraries of linear algebra use that many threads, and what they used before afterwards.

    Raises:
        ValueError: fewer than one.
    """
    if count < 1:
        raise ValueError(f"threads must be at least 1, got {count}")
    with threadpool_limits(count), _faiss_threads(count) if find_spec("faiss") else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _faiss_threads(count: int) -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
