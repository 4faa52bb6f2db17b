"""Adaptive search against exact full-width search and full-width HNSW, on real texts, in one run.

    python benchmarks/search_data.py MODEL ... -o DATA
    python benchmarks/search.py DATA [--growth] [--dims 32,64,128]

The plan is tuned on half of the queries (nDCG@10 at least 99 % of exact full-width search's); everything printed is
measured on the other half, which tuning never sees, for one and two threads. Exact search is FAISS's ``IndexFlatIP``
over float32 in memory, the full-width graph ``IndexHNSWFlat`` (M 16, efConstruction 100, as the adaptive index), with
the least ``efSearch`` whose recall@10 reaches the adaptive one's. Adaptive search is timed through
``AdaptiveIndex.search``, its ids included. ``--growth`` prints time and memory at 10k, 50k, 200k and 1 million vectors;
beyond the real ones they are synthetic: sums of two real vectors, one weighted by a half.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mrl_text.retrieval import AdaptiveIndex, SearchPlan
from mrl_text.retrieval.judged import Judged, recall
from mrl_text.retrieval.timing import Timing, measure, threads
from mrl_text.retrieval.trials import shortlist_ram
from mrl_text.retrieval.tune import tune

K = 10
_NEIGHBOURS, _CONSTRUCTION = 16, 100
_EFFORTS = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dims", default="32,64,128", help="prefixes to tune over")
    parser.add_argument("--keep", type=float, default=0.99)
    parser.add_argument("--minutes", type=float, default=6, help="of tuning, after which no further graph is built")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--json", type=Path, help="write what was measured")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    vectors = np.load(arguments.data / "vectors.npy", mmap_mode="r")
    queries = np.load(arguments.data / "queries.npy").astype(np.float32)
    ids = json.loads((arguments.data / "ids.json").read_text())
    qrels = json.loads((arguments.data / "qrels.json").read_text())
    answered = [row for row, name in enumerate(ids["queries"]) if qrels.get(name)]
    names = [ids["queries"][row] for row in answered]
    queries, judged = queries[answered], Judged(names, names, {name: qrels[name] for name in names})
    print(f"{len(vectors):,} vectors of {vectors.shape[1]}, {len(queries):,} judged queries")
    index = AdaptiveIndex.create(width=vectors.shape[1])
    for start in range(0, len(vectors), 65_536):
        index.add(ids["corpus"][start : start + 65_536], vectors[start : start + 65_536].astype(np.float32))
    dims = [int(dim) for dim in arguments.dims.split(",")]
    order = np.random.default_rng(1).permutation(len(queries))
    tuned_on, rows = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    sample = judged.subset(tuned_on.tolist())
    tuned = tune(
        index, queries[tuned_on], sample, keep=arguments.keep, dims=dims, minutes=arguments.minutes, progress=True
    )
    print(f"tuned on {len(tuned_on)} queries: {tuned.chosen.plan.label}, effort {tuned.chosen.plan.effort}")
    found = _compare(index, vectors, queries[rows], judged.subset(rows.tolist()), arguments.threads)
    if arguments.growth:
        found["growth"] = _growth(vectors, queries[rows], index.plan)  # type: ignore[arg-type]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def _compare(index: AdaptiveIndex, vectors: np.ndarray, queries: np.ndarray, judged: Judged, counts: str) -> dict:
    exact, graph, _ = _full_width(vectors)
    ids = np.array(list(index.ids), dtype=object)
    best = ids[exact.search(queries, K)[1]]
    full, adaptive = judged.ndcg(best).mean(), index.search(queries, K).ids
    share, near = judged.ndcg(adaptive).mean() / full, recall(adaptive, best).mean()
    print(f"nDCG@10 on {len(queries)} other queries: exact {100 * full:.2f}, adaptive keeps {100 * share:.2f} %")
    print(f"recall@10 of the exact results: {100 * near:.2f} %")
    for effort in _EFFORTS:
        graph.hnsw.efSearch = effort
        reached = recall(ids[graph.search(queries, K)[1]], best).mean()
        if reached >= near:
            break
    print(f"full-width HNSW: efSearch {effort}, recall@10 {100 * reached:.2f} %")
    ram, whole = shortlist_ram(index), vectors.shape[0] * vectors.shape[1] * 4
    print(f"memory: adaptive {ram / 1e6:.1f} MB, full float32 {whole / 1e6:.1f} MB = {whole / ram:.2f} times")
    result: dict[str, Any] = {"plan": index.plan.to_json() if index.plan else None, "keeps": share, "recall": near}
    result |= {"ndcg": full, "ram": ram, "full_ram": whole, "hnsw_effort": effort, "hnsw_recall": reached, "times": {}}
    for count in map(int, counts.split(",")):
        with threads(count):
            times = {
                "exact full width": measure(lambda some: exact.search(some, K), queries),
                "full-width HNSW": measure(lambda some: graph.search(some, K), queries),
                "adaptive": measure(lambda some: index.search(some, K), queries),
            }
        _print_times(f"{count} thread{'s' if count > 1 else ''}", times)
        result["times"][count] = {name: (one.single, one.batch) for name, one in times.items()}
    return result


def _print_times(title: str, times: dict[str, Timing]) -> None:
    print(f"\n{title:20} {'one by one':>12} {'ratio':>7} {'in a batch':>12} {'ratio':>7}   (ms per query)")
    ours = times["adaptive"]
    for name, one in times.items():
        print(
            f"{name:20} {1e3 * one.single:12.3f} {one.single / ours.single:7.1f} {1e3 * one.batch:12.3f}"
            f" {one.batch / ours.batch:7.1f}"
        )


def _full_width(vectors: np.ndarray, graph: bool = True) -> tuple[Any, Any, float]:
    """FAISS's exact index and its graph over float32, and the seconds to build the graph."""
    width = vectors.shape[1]
    exact = faiss.IndexFlatIP(width)
    for start in range(0, len(vectors), 65_536):
        exact.add(vectors[start : start + 65_536].astype(np.float32))
    walk = faiss.IndexHNSWFlat(width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    walk.hnsw.efConstruction = _CONSTRUCTION
    started = time.perf_counter()
    if graph:
        for start in range(0, len(vectors), 65_536):
            walk.add(vectors[start : start + 65_536].astype(np.float32))
    return exact, walk, time.perf_counter() - started


def _growth(vectors: np.ndarray, queries: np.ndarray, plan: SearchPlan) -> list[dict[str, float]]:
    """Time per query, one by one and one thread, and memory, by the number of vectors."""
    print(f"\n{plan.label}; ms per query one by one, one thread; memory in MB")
    heads = ("exact", "adaptive", "ratio", "recall", "exact MB", "MB", "build s")
    print("{:>10} {:>8} {:>9} {:>6} {:>7} {:>9} {:>7} {:>8}".format("vectors", *heads))
    random, table = np.random.default_rng(0), []
    order = random.permutation(len(vectors))
    for count in (10_000, 50_000, 200_000, 1_000_000):
        if count <= len(vectors):
            some = np.asarray(vectors[np.sort(order[:count])], dtype=np.float32)
        else:
            some = np.empty((count, vectors.shape[1]), dtype=np.float32)
            some[: len(vectors)] = vectors
            for start in range(len(vectors), count, 65_536):
                left, right = random.integers(0, len(vectors), (2, min(65_536, count - start)))
                mixed = vectors[left].astype(np.float32) + 0.5 * vectors[right].astype(np.float32)
                some[start : start + len(mixed)] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        table.append(_grown(some, queries, plan, synthetic=count > len(vectors)))
    return table


def _grown(vectors: np.ndarray, queries: np.ndarray, plan: SearchPlan, synthetic: bool) -> dict[str, float]:
    exact = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    best = exact.search(queries, K)[1]
    with AdaptiveIndex.create(width=vectors.shape[1]) as index:
        for start in range(0, len(vectors), 65_536):
            stop = min(start + 65_536, len(vectors))
            index.add([str(row) for row in range(start, stop)], vectors[start:stop])
        started = time.perf_counter()
        index.set_plan(plan)
        seconds = time.perf_counter() - started
        near = recall(index.search(queries, K).positions, best).mean()
        with threads(1):
            full = measure(lambda some: exact.search(some, K), queries[:50]).single
            ours = measure(lambda some: index.search(some, K), queries[:50]).single
        ram, whole = shortlist_ram(index), vectors.nbytes
    print(
        f"{len(vectors):>10,} {1e3 * full:8.2f} {1e3 * ours:9.3f} {full / ours:6.1f} {100 * near:6.2f}%"
        f" {whole / 1e6:9.1f} {ram / 1e6:7.1f} {seconds:8.1f}{'  (partly synthetic)' if synthetic else ''}",
        flush=True,
    )
    return {"vectors": len(vectors), "exact": full, "adaptive": ours, "recall": near, "full_ram": whole, "ram": ram}


if __name__ == "__main__":
    main()
