"""The prefix index that finds candidates: built by FAISS, held in memory, kept in a file of its own."""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np

from mrl_text.search.faiss.folder import IndexFolder
from mrl_text.search.faiss.stored_rows import Rows
from mrl_text.search.plan import SHARING, SearchPlan, cells, misfit, rabitq_bits

_METRIC = faiss.METRIC_INNER_PRODUCT
_CODES = {"float32": "Flat", "float16": "SQfp16", "int8": "SQ8", "binary": "RaBitQ"}  # others: FAISS's own words
_TRAINING_ROWS = 65_536
_ROTATION_SEED = 5
_LEVELS, _JITTER = 256, 1e-3
_OUTGROWN = 4
"""Ranges and cells are learned anew when there are so many times the rows that they were learned from."""
_KEY = "shortlist"


class Shortlist:
    """The prefix index of a folder: read from it, grown with the rows, built anew where it must be.

    Attributes:
        index: ``faiss.IndexPreTransform`` with all rows; None where it has to be built.
    """

    def __init__(self, folder: IndexFolder) -> None:
        self._folder = folder
        self._learned_from = int(folder.manifest.get("learned_from", 0))
        saved = folder.manifest["files"].get(_KEY)
        self.index: Any = None
        if saved:
            file = folder.checked(saved)
            try:
                self.index = faiss.read_index(str(file))
            except RuntimeError as error:
                raise OSError(f"{file} cannot be read: {error}") from error
        self._saved, self._grew = self.index, False

    def add(self, plan: SearchPlan, vectors: np.ndarray, rows: int) -> None:
        """Take in further rows, after which there are so many; dropped where it was learned from too few."""
        if self.index is None:
            return
        if (plan.in_cells or plan.coarse) and rows >= _OUTGROWN * self._learned_from:
            self.index = None
        else:
            self.index.add(vectors)
            self._grew = True

    def built(self, plan: SearchPlan, rows: Rows) -> Any:
        """The prefix index for that plan, built from all rows if it is not there."""
        if self.index is None:
            index = _new_shortlist(plan, rows.width, rows.count)
            _train(index, rows.mapped(rows.width))
            for _, block in rows.blocks():
                index.add(block.astype(np.float32))
            self.index, self._learned_from = index, rows.count
        return self.index

    def nbytes(self) -> dict[str, int]:
        """Memory by part: ``codes`` of the vectors, and ``graph`` or ``cells``; without transforms and fixed costs."""
        if self.index is None:
            return {}
        inner = faiss.downcast_index(self.index.index)
        if isinstance(inner, faiss.IndexHNSW):
            codes, graph = faiss.downcast_index(inner.storage), inner.hnsw
            edges = graph.neighbors.size() * 4 + graph.offsets.size() * 8 + graph.levels.size() * 4
            return {"codes": codes.ntotal * codes.code_size, "graph": edges}
        held = {"codes": inner.ntotal * inner.code_size}
        if isinstance(inner, faiss.IndexIVF):
            held["cells"] = inner.ntotal * 8 + inner.nlist * inner.d * 4
        return held

    def write(self, files: dict[str, Any]) -> dict[str, Any]:
        """Write what changed and enter it into the manifest's files; returns what else the manifest must say."""
        if self.index is None:
            files.pop(_KEY, None)
        elif self.index is not self._saved or self._grew:
            name = f"shortlist-{int(self._folder.manifest['generation']) + 1:06d}.faiss"
            files[_KEY] = self._folder.write(name, bytes(faiss.serialize_index(self.index).data))
        return {"learned_from": self._learned_from}

    def written(self) -> None:
        """To be called once the manifest says what :meth:`write` entered."""
        self._saved, self._grew = self.index, False


def check_plan(plan: SearchPlan, width: int) -> SearchPlan:
    """This plan, if FAISS can follow it for vectors of that width; ValueError if not."""
    if reason := misfit(plan):
        raise ValueError(reason)
    return plan.check(width)


def _new_shortlist(plan: SearchPlan, width: int, count: int) -> Any:
    """An empty ``IndexPreTransform`` for so many full vectors: cut, make unit length, (rotate for RaBitQ,) compare."""
    index = faiss.IndexPreTransform(_prefix_index(plan, count))
    if rabitq_bits(plan.precision):
        rotation = faiss.RandomRotationMatrix(plan.dim, plan.dim)
        rotation.init(_ROTATION_SEED)
        index.prepend_transform(rotation)
    index.prepend_transform(faiss.NormalizationTransform(plan.dim))
    index.prepend_transform(faiss.RemapDimensionsTransform(width, plan.dim, False))
    return index


def _prefix_index(plan: SearchPlan, count: int) -> Any:
    found = cells(count, plan.precision)
    if plan.kind == "flat":
        found = 1  # to compare with all is to look into the one cell
    place = f"IVF{found}," if plan.in_cells else f"HNSW{plan.neighbours}," if plan.kind == "hnsw" else ""
    shared = SHARING.get(plan.precision)
    codes = f"PQ{plan.dim // shared}x4fs" if shared else _CODES.get(plan.precision, plan.precision)
    index = faiss.index_factory(plan.dim, place + codes, _METRIC)
    if plan.kind == "hnsw":
        index.hnsw.efConstruction = plan.construction
    if plan.in_cells:
        if plan.precision in ("float16", "int8"):
            index.by_residual = False
        elif shared:  # what is left of a vector in its cell needs fewer bits, and of one cell nothing is taken away
            index.by_residual = found > 1
        # learn from all rows that are given, and do not warn on stderr where they are few
        index.cp.max_points_per_centroid = max(40, math.ceil(_TRAINING_ROWS / found))
        index.cp.min_points_per_centroid = 1
        if shared:
            index.pq.cp.min_points_per_centroid = 1
    return index


def _train(index: Any, vectors: np.ndarray) -> None:
    """Let the index learn its ranges and cells from up to 65,536 full vectors (n, width), evenly spaced."""
    if not index.is_trained:
        step = max(1, math.ceil(len(vectors) / _TRAINING_ROWS))
        rows = np.ascontiguousarray(vectors[::step], dtype=np.float32)
        if isinstance(faiss.downcast_index(index.index), faiss.IndexIVFPQFastScan):
            # it wants 16 levels to differ in all numbers, whatever the rows are; this is far below what they resolve
            rows = np.resize(rows, (max(len(rows), _LEVELS), rows.shape[1]))
            rows = rows + np.random.default_rng(0).normal(0, _JITTER, rows.shape).astype(np.float32)
        index.train(rows)
        inverted = faiss.try_extract_index_ivf(index)
        if inverted is not None and inverted.nlist == 1:  # what is left of vectors in one cell is farther from a sphere
            inverted.quantizer.reset()
            inverted.quantizer.add(np.zeros((1, inverted.d), np.float32))
