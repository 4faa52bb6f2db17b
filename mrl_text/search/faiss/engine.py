"""The search itself, inside FAISS: a prefix index, and refining by larger sizes that stay on disk.

FAISS (arXiv 2401.08281) nests the steps: the shortlist is an ``IndexPreTransform`` that cuts queries to the prefix, and
each further size an ``IndexRefine`` over float16 codes that are a view of a memory-mapped file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.search.plan import Code, SearchPlan, fits

try:
    import faiss
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError("searching needs FAISS: pip install 'mrl-text[search]'", name="faiss") from error

_METRIC = faiss.METRIC_INNER_PRODUCT
_CONSTRUCTION = 100  # efConstruction: FAISS's 40 costs recall, more costs minutes
_CODES = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}
_TRAINING_ROWS = 65_536
_ROTATION_SEED = 5
_LEVELS, _JITTER = 256, 1e-3
_WORTH_THREADS = 2**24
"""Bytes of codes above which one query is spread over threads; below, waking them takes longer than they save."""


def check_plan(plan: SearchPlan, width: int) -> SearchPlan:
    """This plan, if FAISS can follow it for vectors of that width.

    Raises:
        ValueError: a precision that FAISS has no graph for, or a size above ``width``.
    """
    if not fits(plan.kind, plan.precision):
        raise ValueError(f"{plan.precision} is for flat and ivf in FAISS: choose one of them, or int8 with hnsw")
    return plan.check(width)


def new_shortlist(plan: SearchPlan, width: int, count: int) -> Any:
    """An empty, untrained prefix index that takes full vectors.

    Args:
        plan: of which ``dim``, ``kind``, ``precision`` and ``neighbours`` decide.
        width: of the vectors.
        count: vectors that are to come; decides the number of cells.

    Returns:
        ``faiss.IndexPreTransform``: cut, make unit length, (rotate for binary,) compare.
    """
    index = faiss.IndexPreTransform(_prefix_index(plan, count))
    if plan.precision == "binary":
        rotation = faiss.RandomRotationMatrix(plan.dim, plan.dim)
        rotation.init(_ROTATION_SEED)
        index.prepend_transform(rotation)
    index.prepend_transform(faiss.NormalizationTransform(plan.dim))
    index.prepend_transform(faiss.RemapDimensionsTransform(width, plan.dim, False))
    return index


def cells(count: int, precision: Code = "float32") -> int:
    """Cells that ``count`` vectors are sorted into: 4 * sqrt(n), as FAISS advises, and at least 16 vectors in each.

    For ``int4`` an eighth of that: a cell costs a few microseconds whatever is in it, and comparing costs so little
    that larger cells pay.
    """
    advised = 4 * math.sqrt(count) / (8 if precision == "int4" else 1)
    return max(1, min(int(advised), count // 16))


def _prefix_index(plan: SearchPlan, count: int) -> Any:
    dim = plan.dim
    if plan.precision == "int4":  # to compare with all is to look into the one cell: only there can rows be left out
        found = 1 if plan.kind == "flat" else cells(count, plan.precision)
        scan = faiss.IndexIVFPQFastScan(faiss.IndexFlatIP(dim), dim, found, dim, 4, _METRIC)
        scan.by_residual = False  # the tables are the same for all cells then
        return _for_few(scan)
    if plan.kind == "flat":
        if plan.precision == "float32":
            return faiss.IndexFlatIP(dim)
        if plan.precision == "binary":
            return faiss.IndexRaBitQ(dim, _METRIC)
        return faiss.IndexScalarQuantizer(dim, _CODES[plan.precision], _METRIC)
    if plan.kind == "hnsw":
        if plan.precision == "float32":
            graph = faiss.IndexHNSWFlat(dim, plan.neighbours, _METRIC)
        else:
            graph = faiss.IndexHNSWSQ(dim, _CODES[plan.precision], plan.neighbours, _METRIC)
        graph.hnsw.efConstruction = _CONSTRUCTION
        return graph
    coarse = faiss.IndexFlatIP(dim)
    if plan.precision == "float32":
        inverted = faiss.IndexIVFFlat(coarse, dim, cells(count), _METRIC)
    elif plan.precision == "binary":
        inverted = faiss.IndexIVFRaBitQ(coarse, dim, cells(count), _METRIC)
    else:
        inverted = faiss.IndexIVFScalarQuantizer(coarse, dim, cells(count), _CODES[plan.precision], _METRIC, False)
    return _for_few(inverted)


def _for_few(index: Any) -> Any:
    """An inverted file that learns from all rows it is given, and does not warn on stderr where they are few."""
    index.cp.max_points_per_centroid = max(40, math.ceil(_TRAINING_ROWS / index.nlist))
    index.cp.min_points_per_centroid = 1
    if isinstance(index, faiss.IndexIVFPQFastScan):
        index.pq.cp.min_points_per_centroid = 1
    return index


def train_shortlist(index: Any, vectors: np.ndarray) -> None:
    """Let the index learn its ranges and cells from up to 65,536 rows, evenly spaced; a second call does nothing.

    Args:
        index: as :func:`new_shortlist` gave it.
        vectors: float array (n, width), maybe memory-mapped.
    """
    if not index.is_trained:
        step = max(1, math.ceil(len(vectors) / _TRAINING_ROWS))
        rows = np.ascontiguousarray(vectors[::step], dtype=np.float32)
        if isinstance(faiss.downcast_index(index.index), faiss.IndexIVFPQFastScan):
            # it wants 16 levels to differ in every number, whatever the rows are; this is far below what they resolve
            rows = np.resize(rows, (max(len(rows), _LEVELS), rows.shape[1]))
            rows = rows + np.random.default_rng(0).normal(0, _JITTER, rows.shape).astype(np.float32)
        index.train(rows)


def add_rows(index: Any, blocks: Iterable[np.ndarray]) -> None:
    """Add full vectors, float (n, width), block by block."""
    for block in blocks:
        index.add(np.ascontiguousarray(block, dtype=np.float32))


def read_shortlist(file: Path) -> Any:
    """The prefix index of a file."""
    return faiss.read_index(str(file))


def shortlist_content(index: Any) -> bytes:
    """What :func:`read_shortlist` wants to find in a file."""
    return bytes(faiss.serialize_index(index).data)


def shortlist_bytes(index: Any) -> dict[str, int]:
    """Memory of a prefix index by part: ``codes`` of the vectors, and ``graph`` or ``cells``.

    Args:
        index: as :func:`new_shortlist` gave it.

    Returns:
        Bytes of each part; transforms and other fixed costs are left out.
    """
    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexHNSW):
        codes = faiss.downcast_index(inner.storage)
        graph = inner.hnsw
        edges = graph.neighbors.size() * 4 + graph.offsets.size() * 8 + graph.levels.size() * 4
        return {"codes": codes.ntotal * codes.code_size, "graph": edges}
    if isinstance(inner, faiss.IndexIVF):
        return {"codes": inner.ntotal * inner.code_size, "cells": inner.ntotal * 8 + inner.nlist * inner.d * 4}
    return {"codes": inner.ntotal * inner.code_size}


class Engine:
    """A shortlist and the sizes that put its candidates in order, ready to search.

    Args:
        plan: how to search.
        width: of the vectors.
        shortlist: trained prefix index with all rows.
        sizes: size -> float16 array (n, size) of unit vectors, memory-mapped or not; one for each step of the plan.
    """

    def __init__(self, plan: SearchPlan, width: int, shortlist: Any, sizes: dict[int, np.ndarray]) -> None:
        self.plan = plan
        self.width = width
        self._levels: list[Any] = [shortlist]
        self._parameters: dict[tuple[int, ...], tuple[Any, list[Any]]] = {}
        self._kept: list[Any] = []  # FAISS holds bare pointers; what they point to lives here
        for dim, _ in plan.steps(width, 1):
            codes = self._codes(sizes[dim])
            index = codes
            if dim < width:
                index = faiss.IndexPreTransform(codes)
                index.prepend_transform(faiss.NormalizationTransform(dim))
                index.prepend_transform(faiss.RemapDimensionsTransform(width, dim, False))
            self._kept += [codes, index]
            self._levels.append(faiss.IndexRefine(self._levels[-1], index))

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, levels: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best rows for each query.

        Args:
            queries: float32 unit vectors (n, width), contiguous.
            k: results wanted.
            allowed: bool (rows,); None allows all.
            levels: take only the first so many steps after the shortlist; then as many results come back as that step
                hands over. None takes all.

        Returns:
            Scores float32 (n, k), largest first, and positions int64 (n, k), -1 where fewer rows were found. A score is
            the cosine at the last size; of a shortlist alone, what its codes make of it.
        """
        steps = self.plan.steps(self.width, k)
        if levels is not None and levels < len(steps):
            k, steps = steps[levels][1], steps[:levels]
        wanted = (*(given for _, given in steps), k)
        parameters = self._parameters.get(wanted) if allowed is None else self._refine_parameters(wanted, allowed)
        if parameters is None:
            parameters = self._parameters[wanted] = self._refine_parameters(wanted, None)
        alone = len(queries) == 1 and self._scanned() < _WORTH_THREADS
        with _one_thread() if alone else contextlib.nullcontext():
            scores, positions = self._levels[len(steps)].search(queries, k, params=parameters[0])
        scores[positions < 0] = -np.inf
        return scores, positions

    def _scanned(self) -> float:
        """Bytes of codes that a query is compared with, about."""
        index = faiss.downcast_index(self._levels[0].index)
        if isinstance(index, faiss.IndexHNSW):
            return 0.0
        looked_into = min(self.plan.effort / index.nlist, 1) if isinstance(index, faiss.IndexIVF) else 1
        return float(index.ntotal * index.code_size * looked_into)

    def _refine_parameters(self, wanted: Sequence[int], allowed: np.ndarray | None) -> tuple[Any, list[Any]]:
        """For the candidates of each step, and what must live as long as they do."""
        parameters, kept = self._base_parameters(wanted[0], allowed)
        for given, passed_on in pairwise(wanted):
            kept.append(parameters)
            factor = _factor(given, passed_on)
            parameters = faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=parameters)
        return parameters, kept

    def _base_parameters(self, wanted: int, allowed: np.ndarray | None) -> tuple[Any, list[Any]]:
        plan = self.plan
        if plan.kind == "hnsw":
            share = 1.0 if allowed is None else max(float(allowed.mean()), 1 / len(allowed))
            inner = faiss.SearchParametersHNSW(efSearch=int(max(plan.effort, wanted) / share))  # others fill the view
        elif plan.precision == "int4":
            inner = faiss.SearchParametersIVF(nprobe=plan.effort if plan.kind == "ivf" else 1)
        elif plan.kind == "ivf":
            binary = plan.precision == "binary"
            inner = (faiss.IVFRaBitQSearchParameters if binary else faiss.SearchParametersIVF)(nprobe=plan.effort)
        else:
            inner = faiss.RaBitQSearchParameters() if plan.precision == "binary" else faiss.SearchParameters()
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


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of OpenMP for what this thread calls."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
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
        blocks: position of a block's first row, its float32 unit vectors (m, dim), and, where the rows of a block are
            not consecutive, their positions int64 (m,).
        k: results wanted.

    Returns:
        Scores float32 (n, k), largest first, and positions int64 (n, k), -1 where there are fewer rows.
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
