"""The prefix index that finds candidates: built by FAISS, held in memory, kept in a file of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mrl_text.search.faiss.folder import IndexFolder
from mrl_text.search.faiss.stored_rows import Rows
from mrl_text.search.plan import SearchPlan, cells, fits

_METRIC = faiss.METRIC_INNER_PRODUCT
_CONSTRUCTION = 100  # efConstruction: FAISS's 40 costs recall, more costs minutes
_CODES = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}
_TRAINING_ROWS = 65_536
_ROTATION_SEED = 5
_LEVELS, _JITTER = 256, 1e-3
_OUTGROWN = 4
"""Ranges and cells are learned anew when there are so many times the rows that they were learned from."""
_KEY = "shortlist"


class Shortlist:
    """The prefix index of a folder: read from it, grown with the rows, built anew where it must be.

    Args:
        folder: of the index.

    Attributes:
        index: ``faiss.IndexPreTransform`` with all rows; None where it has to be built.
    """

    def __init__(self, folder: IndexFolder) -> None:
        self._folder = folder
        self._learned_from = int(folder.manifest.get("learned_from", 0))
        saved = folder.manifest["files"].get(_KEY)
        self.index: Any = read_shortlist(folder.path / saved["name"]) if saved else None
        self._saved, self._grew = self.index, False

    def add(self, plan: SearchPlan, vectors: np.ndarray, rows: int) -> None:
        """Take in further rows, after which there are so many; dropped where it was learned from too few."""
        if self.index is None:
            return
        learns = plan.kind == "ivf" or plan.precision in ("int8", "int4", "binary")
        if learns and rows >= _OUTGROWN * self._learned_from:
            self.index = None
        else:
            add_rows(self.index, [vectors])
            self._grew = True

    def built(self, plan: SearchPlan, rows: Rows) -> Any:
        """The prefix index for that plan, built from all rows if it is not there."""
        if self.index is None:
            index = new_shortlist(plan, rows.width, rows.count)
            train_shortlist(index, rows.mapped(rows.width))
            add_rows(index, (block for _, block in rows.blocks()))
            self.index, self._learned_from = index, rows.count
        return self.index

    def nbytes(self) -> dict[str, int]:
        """Memory by part, as :func:`shortlist_bytes`."""
        return shortlist_bytes(self.index) if self.index is not None else {}

    def write(self, files: dict[str, Any]) -> dict[str, Any]:
        """Write what changed and enter it into the manifest's files; returns what else the manifest must say."""
        if self.index is None:
            files.pop(_KEY, None)
        elif self.index is not self._saved or self._grew:
            name = f"shortlist-{int(self._folder.manifest['generation']) + 1:06d}.faiss"
            files[_KEY] = self._folder.write(name, shortlist_content(self.index))
        return {"learned_from": self._learned_from}

    def written(self) -> None:
        """To be called once the manifest says what :meth:`write` entered."""
        self._saved, self._grew = self.index, False


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
