"""Other engines over the same vectors, each as what it holds in memory and a search: for ``benchmarks/search.py``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import faiss
import numpy as np

K = 10
NEIGHBOURS, CONSTRUCTION = 16, 100  # of every graph, ours among them
_BLOCK = 65_536
_VIEWS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_CANDIDATES = (10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960)

Search = Callable[..., np.ndarray]
"""Takes float32 unit queries (n, width), an effort and threads; gives positions of rows (n, 10), or of as many
candidates as a fourth argument says, where it takes one."""


@dataclass(frozen=True)
class Rival:
    """One way to search."""

    name: str
    ram: int  # bytes that have to be in memory
    seconds: float  # to build
    search: Search
    efforts: tuple[int, ...] = (0,)  # from little to much; one where there is nothing to choose


@contextlib.contextmanager
def pinned(count: int) -> Iterator[None]:
    """Run every thread of this process on so many processors: some engines take all that they see."""
    before = sorted(os.sched_getaffinity(0))

    def pin(processors: list[int]) -> None:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setaffinity(int(thread.name), processors)

    pin(before[:count])
    try:
        yield
    finally:
        pin(before)


def rivals(vectors: np.ndarray, wanted: Callable[[str], bool]) -> Iterator[Rival]:
    """Build those whose name is wanted, one after the other; each may be forgotten before the next."""
    for name, code in {"float32": "Flat", "float16": "SQfp16", "int8": "SQ8"}.items():
        if wanted(called := f"FAISS HNSW {name}"):
            yield _graph(vectors, code, called, faiss.METRIC_INNER_PRODUCT)
    for code in ("RaBitQ", "RaBitQ2", "RaBitQ4"):
        if wanted(called := f"FAISS HNSW {code}"):  # for L2 alone, which puts unit vectors in the same order
            graph = _graph(vectors, code, called, faiss.METRIC_L2)
            yield graph
            yield _reranked(graph, vectors)
    if find_spec("usearch") and wanted(called := "USearch HNSW int8"):
        yield _usearch(vectors, called)
    for bits in (2, 4):
        if find_spec("turbovec") and wanted(called := f"turbovec {bits} bits"):
            alone = _turbovec(vectors, called, bits)
            yield alone
            yield _reranked(alone, vectors)


def missing() -> list[str]:
    """Packages that are compared if they are installed, and are not."""
    return [name for name in ("usearch", "turbovec") if find_spec(name) is None]


def _graph(vectors: np.ndarray, code: str, name: str, metric: int) -> Rival:
    started = time.perf_counter()
    index = faiss.index_factory(vectors.shape[1], f"HNSW{NEIGHBOURS},{code}", metric)
    index.hnsw.efConstruction = CONSTRUCTION
    if not index.is_trained:
        index.train(_floats(vectors[:: max(1, len(vectors) // _BLOCK)]))
    for start in range(0, len(vectors), _BLOCK):
        index.add(_floats(vectors[start : start + _BLOCK]))
    seconds = time.perf_counter() - started

    def search(queries: np.ndarray, effort: int, _: int, candidates: int = K) -> np.ndarray:
        index.hnsw.efSearch = max(effort, candidates)
        found: np.ndarray = index.search(queries, candidates)[1]
        return found

    return Rival(name, len(faiss.serialize_index(index)), seconds, search, _VIEWS)


def _reranked(rival: Rival, vectors: np.ndarray) -> Rival:
    """The same with as many candidates as its effort, put in order by the float16 vectors on disk."""

    def search(queries: np.ndarray, effort: int, threads: int) -> np.ndarray:
        found = rival.search(queries, effort, threads, max(effort, K))
        best = np.empty((len(queries), K), np.int64)
        for row, candidates in enumerate(found):
            there = candidates[candidates >= 0]
            scores = _floats(vectors[there]) @ queries[row]
            best[row] = there[np.argsort(-scores)[:K]]
        return best

    return Rival(f"{rival.name}, float16 from disk", rival.ram, rival.seconds, search, _CANDIDATES)


def _usearch(vectors: np.ndarray, name: str) -> Rival:
    from usearch.index import Index

    started = time.perf_counter()
    options = {"metric": "cos", "dtype": "i8", "connectivity": NEIGHBOURS, "expansion_add": CONSTRUCTION}
    index = Index(ndim=vectors.shape[1], **options)
    for start in range(0, len(vectors), _BLOCK):
        block = _floats(vectors[start : start + _BLOCK])
        index.add(np.arange(start, start + len(block)), block)

    def search(queries: np.ndarray, effort: int, threads: int) -> np.ndarray:
        index.expansion_search = effort
        keys: np.ndarray = index.search(queries, K, threads=threads).keys
        return keys.reshape(len(queries), K).astype(np.int64)

    seconds = time.perf_counter() - started
    return Rival(name, index.serialized_length, seconds, search, _VIEWS)


def _turbovec(vectors: np.ndarray, name: str, bits: int) -> Rival:
    from turbovec import TurboQuantIndex

    started = time.perf_counter()
    index = TurboQuantIndex(dim=vectors.shape[1], bit_width=bits)
    index.calibrate(_floats(vectors[np.sort(np.random.default_rng(0).permutation(len(vectors))[:4096])]))
    for start in range(0, len(vectors), _BLOCK):
        index.add(_floats(vectors[start : start + _BLOCK]))
    index.prepare()

    def search(queries: np.ndarray, _: int, __: int, candidates: int = K) -> np.ndarray:
        return np.asarray(index.search(queries, candidates)[1]).reshape(len(queries), -1).astype(np.int64)

    return Rival(name, len(index.to_bytes()), time.perf_counter() - started, search)


def _floats(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)
