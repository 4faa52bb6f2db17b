"""Adaptive search against full-width HNSW in Qdrant's own engine: recall@10 and time per query, in one run.

    pip install qdrant-edge-py
    python benchmarks/search_data.py MODEL ... -o DATA
    python benchmarks/qdrant_engine.py DATA --rows 50000 --queries 500

qdrant-edge-py is Qdrant's engine inside a Python process: the graphs, quantisation and prefetch of a server without
REST. Collections and searches are those that ``QdrantStore`` asks a server for, translated to its classes. One search
thread, queries one by one; recall is against exact search of the full float32 vectors.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge

from mrl_text.search import SearchPlan
from mrl_text.search.qdrant import requests
from mrl_text.truncation import truncate

K = 10
_BLOCK = 500
_REPEATS = 3
_DATATYPES = {"float16": edge.VectorStorageDatatype.Float16, "float32": edge.VectorStorageDatatype.Float32}


def main() -> None:
    """Print a line per search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=500)
    arguments = parser.parse_args()
    vectors, queries = (
        truncate(np.load(arguments.data / f"{name}.npy", mmap_mode="r")[:count].astype(np.float32))
        for name, count in (("vectors", arguments.rows), ("queries", arguments.queries))
    )
    width = vectors.shape[1]
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :K]
    print(f"{len(vectors):,} vectors of {width}, {len(queries)} queries, one by one, one thread; build in seconds")
    print(f"{'search':44} {'recall@10':>9} {'ms':>7} {'build':>6}")
    plans: list[tuple[SearchPlan, tuple[dict[str, int], ...]]] = [
        (SearchPlan(width, "hnsw"), tuple({"effort": effort} for effort in (32, 64, 128, 256))),
        *(
            (SearchPlan(dim, "hnsw", precision), tuple({"shortlist": n, "effort": n} for n in (50, 100, 200, 400)))
            for dim, precision in ((128, "float32"), (128, "int8"), (64, "float32"))
        ),
    ]
    for plan, variants in plans:
        _measure(plan, variants, vectors, queries, exact)


def _measure(
    plan: SearchPlan, variants: tuple[dict[str, int], ...], vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray
) -> None:
    width = vectors.shape[1]
    layout = requests.vectors_config(plan, width)
    config = edge.EdgeConfig(
        vectors={name: _parameters(one) for name, one in layout.items()},
        max_search_threads=1,
        optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1000),
    )
    with tempfile.TemporaryDirectory() as folder:
        shard = edge.EdgeShard.create(f"{folder}/shard", config)
        for start in range(0, len(vectors), _BLOCK):
            block = vectors[start : start + _BLOCK]
            cut = {name: truncate(block, requests.vector_dim(name)).tolist() for name in layout}
            points = [
                edge.Point(start + row, {name: cut[name][row] for name in layout}, {}) for row in range(len(block))
            ]
            shard.update(edge.UpdateOperation.upsert_points(points))
        started = time.perf_counter()
        shard.optimize()
        seconds = time.perf_counter() - started
        for variant in variants:
            chosen = replace(plan, **variant)
            calls = [_stage(requests.search_request(query, K, chosen)) for query in queries]
            spent, found = [], []
            for _ in range(_REPEATS):
                started = time.perf_counter()
                found = [shard.query(call) for call in calls]
                spent.append((time.perf_counter() - started) / len(calls))
            shared = [len({int(hit.id) for hit in hits} & set(best)) for hits, best in zip(found, exact, strict=True)]
            label = f"{chosen.label}, effort {chosen.effort}"
            print(f"{label:44} {10 * np.mean(shared):8.2f}% {1e3 * min(spent):7.3f} {seconds:6.0f}", flush=True)
        shard.close()


def _parameters(one: Any) -> Any:
    graph = edge.HnswIndexConfig(
        m=one.hnsw_config.m, ef_construct=100, full_scan_threshold=10_000, max_indexing_threads=1
    )
    return edge.EdgeVectorParams(
        size=one.size,
        distance=edge.Distance.Cosine,
        on_disk=one.on_disk,
        datatype=_DATATYPES[one.datatype.value],
        quantization_config=_quantization(one.quantization_config),
        hnsw_config=graph,
    )


def _quantization(one: Any) -> Any:
    if one is None:
        return None
    if hasattr(one, "scalar"):
        return edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, always_ram=True)
    return edge.BinaryQuantizationConfig(always_ram=True)


def _stage(request: Any, *, top: bool = True) -> Any:
    options = {
        "limit": request.limit,
        "query": edge.Query.Nearest(request.query, request.using),
        "prefetches": [_stage(request.prefetch, top=False)] if request.prefetch else None,
        "params": _search_parameters(request.params),
    }
    return edge.QueryRequest(**options, with_payload=False) if top else edge.Prefetch(**options)


def _search_parameters(one: Any) -> Any:
    if one is None:
        return None
    codes = one.quantization and edge.QuantizationSearchParams(rescore=one.quantization.rescore)
    return edge.SearchParams(hnsw_ef=one.hnsw_ef, exact=bool(one.exact), quantization=codes)


if __name__ == "__main__":
    main()
