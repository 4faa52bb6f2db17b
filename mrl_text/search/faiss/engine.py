"""The search itself, inside FAISS: a prefix index, and refining by larger sizes that stay on disk.

FAISS (arXiv 2401.08281) nests the steps: the shortlist is an ``IndexPreTransform`` that cuts queries to the prefix, and
each further size an ``IndexRefine`` over float16 codes that are a view of a memory-mapped file.
"""

from __future__ import annotations

import contextlib
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import faiss
import numpy as np

from mrl_text.search.hits import StageCost
from mrl_text.search.plan import SearchPlan, fast, rabitq_bits

_METRIC = faiss.METRIC_INNER_PRODUCT
_REPEATS = 9
_WORTH_THREADS = 2**24
"""Bytes of codes above which one query is spread over threads; below, waking them takes longer than they save."""
_AROUND, _STEPS = 4, 4
_ALL = 0
"""The effort of comparing with every row that is allowed."""


class Engine:
    """A shortlist and the sizes that put its candidates in order, ready to search.

    Args:
        plan: how to search vectors of ``width`` numbers.
        width: likewise.
        shortlist: trained prefix index with all rows.
        sizes: size -> float16 array (n, size) of unit vectors, memory-mapped or not; one for each step of the plan.
    """

    def __init__(self, plan: SearchPlan, width: int, shortlist: Any, sizes: dict[int, np.ndarray]) -> None:
        self.plan = plan
        self.width = width
        self._parameters: dict[tuple[int, ...], tuple[Any, list[Any]]] = {}
        self._kept: list[Any] = []  # FAISS holds bare pointers; what they point to lives here
        self._sizes: list[Any] = []
        for dim, _ in plan.steps(width, 1):
            codes = self._codes(sizes[dim])
            index = codes
            if dim < width:
                index = faiss.IndexPreTransform(codes)
                index.prepend_transform(faiss.NormalizationTransform(dim))
                index.prepend_transform(faiss.RemapDimensionsTransform(width, dim, False))
            self._kept.append(codes)
            self._sizes.append(index)
        self._levels = self._refined(shortlist)
        self._compared = self._refined(_without_graph(shortlist)) if plan.kind == "hnsw" else self._levels

    def _refined(self, shortlist: Any) -> list[Any]:
        """A shortlist, and each further size on top of what is before it."""
        levels = [shortlist]
        for index in self._sizes:
            levels.append(faiss.IndexRefine(levels[-1], index))
        return levels

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, levels: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best rows for each query.

        Args:
            queries: float32 unit vectors (n, width), contiguous.
            k: results wanted.
            allowed: bool (rows,); None allows all.
            levels: take only so many steps after the shortlist, and as many results as they hand over; None takes all.

        Returns:
            Scores float32 (n, k), largest first, and positions int64 (n, k), -1 where fewer rows were found. A score is
            the cosine at the last size; of a shortlist alone, what its codes make of it.
        """
        steps = self.plan.steps(self.width, k)
        if levels is not None and levels < len(steps):
            k, steps = steps[levels][1], steps[:levels]
        wanted = (*(given for _, given in steps), k)
        if allowed is None:
            if wanted not in self._parameters:
                self._parameters[wanted] = self._refine_parameters(wanted, self._effort(wanted[0]), None)
            return self._run(self._levels, queries, wanted, self._parameters[wanted][0])
        found = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        efforts = self._efforts(queries, wanted, allowed)
        for effort in np.unique(efforts):
            some = efforts == effort
            parameters = self._refine_parameters(wanted, int(effort), allowed)
            chain = self._compared if effort == _ALL else self._levels
            found[0][some], found[1][some] = self._run(chain, queries[some], wanted, parameters[0])
        return found

    def _run(
        self, levels: list[Any], queries: np.ndarray, wanted: Sequence[int], parameters: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        alone = len(queries) == 1 and self._scanned < _WORTH_THREADS
        with faiss_threads(1) if alone else contextlib.nullcontext():
            scores, positions = levels[len(wanted) - 1].search(queries, wanted[-1], params=parameters)
        scores[positions < 0] = -np.inf
        return scores, positions

    def _effort(self, wanted: int) -> int:
        """How far a search without a filter looks."""
        return max(self.plan.effort, wanted) if self.plan.kind == "hnsw" else self.plan.effort

    def _efforts(self, queries: np.ndarray, wanted: Sequence[int], allowed: np.ndarray) -> np.ndarray:
        """How far to look for each query under a filter, int64 (n,).

        Other rows fill the view and the cells: where a tenth of the rows around a query are allowed, ten times as many
        are looked at. It is the rows around it that tell, not the share of all: a filter may leave out a query's topic,
        or leave nothing else. Where fewer than the results wanted are near, or to walk so far takes longer, the codes
        of all rows that are allowed are compared.
        """
        efforts = np.full(len(queries), _ALL)
        if self.plan.kind == "flat":
            return efforts
        effort, graph = self._effort(wanted[0]), self.plan.kind == "hnsw"
        depth = max(wanted[0], _AROUND * wanted[-1])
        parameters = self._refine_parameters([depth], effort, None)
        _, around = self._run(self._levels, queries, [depth], parameters[0])
        near = (allowed[around] & (around >= 0)).sum(axis=1)
        steps = np.ceil(_STEPS * np.log2(depth / np.maximum(near, 1)))  # so that many queries share a search
        further = np.ceil(effort * 2 ** (steps / _STEPS)).astype(np.int64)
        # a row in view has its neighbours compared, and these one by one
        most = allowed.sum() / (2 * self.plan.neighbours) if graph else faiss.extract_index_ivf(self._levels[0]).nlist
        walked = (near >= wanted[-1]) & (further < most)
        efforts[walked] = further[walked]
        return efforts

    def costs(self, query: np.ndarray, k: int, rows: int, allowed: np.ndarray | None) -> list[StageCost]:
        """What each step of such a search costs for one query (1, width), ``rows`` of which can be found."""
        costs: list[StageCost] = []
        spent = 0.0
        steps = [(self.plan.dim, rows), *self.plan.steps(self.width, k)]
        for level, (dim, candidates) in enumerate(steps):
            seconds = least_seconds(partial(self.search, query, k, allowed=allowed, levels=level))
            given, kept = min(candidates, rows), min(steps[level + 1][1] if level + 1 < len(steps) else k, rows)
            name, read = ("rerank", given * dim * 2) if level else ("shortlist", 0)
            costs.append(StageCost(name, dim, given, kept, max(0.0, seconds - spent), read))
            spent = max(spent, seconds)
        return costs

    @cached_property
    def _scanned(self) -> float:
        """Bytes of codes that a query is compared with, about."""
        index = faiss.downcast_index(self._levels[0].index)
        if isinstance(index, faiss.IndexHNSW):
            return 0.0
        looked_into = min(self.plan.effort / index.nlist, 1) if isinstance(index, faiss.IndexIVF) else 1
        return float(index.ntotal * index.code_size * looked_into)

    def _refine_parameters(
        self, wanted: Sequence[int], effort: int, allowed: np.ndarray | None
    ) -> tuple[Any, list[Any]]:
        """For the candidates of each step, and what must live as long as they do."""
        parameters, kept = self._base_parameters(effort, allowed)
        for given, passed_on in pairwise(wanted):
            kept.append(parameters)
            factor = _factor(given, passed_on)
            parameters = faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=parameters)
        return parameters, kept

    def _base_parameters(self, effort: int, allowed: np.ndarray | None) -> tuple[Any, list[Any]]:
        plan = self.plan
        own = rabitq_bits(plan.precision) and not fast(plan.precision)  # FAISS has parameters of its own for these
        if plan.kind == "hnsw" and effort != _ALL:
            inner = faiss.SearchParametersHNSW(efSearch=effort)
        elif plan.in_cells:
            cells = faiss.extract_index_ivf(self._levels[0]).nlist
            probes = cells if effort == _ALL else min(effort, cells)
            inner = (faiss.IVFRaBitQSearchParameters if own else faiss.SearchParametersIVF)(nprobe=probes)
        else:
            inner = faiss.RaBitQSearchParameters() if own else faiss.SearchParameters()
        keep: list[Any] = [inner]
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            inner.sel = selector
            keep += [bits, selector]
        return faiss.SearchParametersPreTransform(index_params=inner), keep

    def _codes(self, rows: np.ndarray) -> Any:
        """The rows as an index whose codes are those bytes: nothing is copied."""
        codes = faiss.IndexScalarQuantizer(rows.shape[1], faiss.ScalarQuantizer.QT_fp16, _METRIC)
        codes.is_trained = True
        raw = rows.reshape(-1).view(np.uint8)
        no_owner = codes.codes.owner
        if len(raw):
            codes.codes = faiss.MaybeOwnedVectorUInt8.create_view(faiss.swig_ptr(raw), raw.nbytes, no_owner)
        codes.ntotal = len(rows)
        self._kept.append(raw)
        return codes


def _without_graph(shortlist: Any) -> Any:
    """The same prefix index without its graph: it compares with every code. Both share the codes."""
    graph = faiss.downcast_index(shortlist.index)
    compared = faiss.IndexPreTransform(faiss.downcast_index(graph.storage))
    for step in reversed(range(shortlist.chain.size())):
        compared.prepend_transform(shortlist.chain.at(step))
    return compared


def least_seconds(run: Callable[[], object]) -> float:
    """Time of a call: the least of nine."""
    return min(timeit.repeat(run, number=1, repeat=_REPEATS))


@contextlib.contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """So many threads of OpenMP for what this thread calls."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _factor(given: int, passed_on: int) -> float:
    """The float32 by which FAISS multiplies ``passed_on``, and rounds down, to ask for at least ``given``."""
    factor = np.float32(given / passed_on)
    while int(np.float32(passed_on) * factor) < given:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)


def exact_search(
    queries: np.ndarray, blocks: Iterable[tuple[int, np.ndarray, np.ndarray | None]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compare every query with every row, block by block.

    Args:
        queries: float32 unit vectors (n, dim), contiguous.
        blocks: position of a block's first row, its float32 unit vectors (m, dim), and, where its rows are not
            consecutive, their positions int64 (m,).
        k: results wanted.

    Returns:
        As :meth:`Engine.search`.
    """
    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    for first, rows, positions in blocks:
        if not len(rows):
            continue
        scores, found = faiss.knn(queries, rows, min(k, len(rows)), metric=_METRIC)
        best.add_result(scores, positions[found] if positions is not None else found + first)
    best.finalize()
    best.D[best.I < 0] = -np.inf
    return best.D, best.I
