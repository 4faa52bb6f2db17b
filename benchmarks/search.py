"""Adaptive search against exact full-width search and full-width HNSW, on real texts, in one run.

    python benchmarks/search_data.py MODEL ... -o DATA
    python benchmarks/search.py DATA [--growth] [--dims 32,64,128]

The plan is tuned on half of the queries (``--keep`` of the nDCG@10 of exact full-width search); everything printed is
measured on the other half, which tuning never sees, for one and two threads. Exact search is FAISS's ``IndexFlatIP``
over float32 in memory, the full-width graph ``IndexHNSWFlat`` (M 16, efConstruction 100, as the adaptive index), with
the least ``efSearch`` whose recall@10 reaches the adaptive one's, for the tuned plan and for longer searches. Adaptive
search is timed through ``AdaptiveIndex.search``, its ids included. ``--growth`` prints time and memory at 10k, 50k,
200k and 1 million vectors; beyond the real ones they are synthetic: sums of two real ones, one weighted by a half.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mrl_text.search import AdaptiveIndex, SearchPlan
from mrl_text.search.faiss.store import FaissStore
from mrl_text.search.measure import measure, threads
from mrl_text.search.sample_queries import Judged, recall
from mrl_text.search.tune import tune

K = 10
_NEIGHBOURS, _CONSTRUCTION = 16, 100
_EFFORTS = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dims", default="32,64,128", help="prefixes to tune over")
    parser.add_argument("--precisions", default="int8,int4", help="of shortlists to tune over")
    parser.add_argument("--keep", type=float, default=0.995, help="share of the exact nDCG@10 to tune for")
    parser.add_argument("--minutes", type=float, default=6, help="of tuning, after which no further graph is built")
    parser.add_argument("--plan", type=json.loads, help="JSON of a plan (as in --json) to measure instead of tuning")
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
    order = np.random.default_rng(1).permutation(len(queries))
    tuned_on, rows = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    if arguments.plan:
        index.set_plan(SearchPlan.from_json(arguments.plan))
        index.save()
    else:
        _tune(index, queries[tuned_on], judged.subset(tuned_on.tolist()), arguments)
    found = _compare(index, vectors, queries[rows], judged.subset(rows.tolist()), arguments.threads)
    if arguments.growth:
        found["growth"] = _growth(vectors, queries[rows], index.plan)  # type: ignore[arg-type]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def _tune(index: AdaptiveIndex, queries: np.ndarray, judged: Judged, arguments: argparse.Namespace) -> None:
    dims = [int(dim) for dim in arguments.dims.split(",")]
    options = {"keep": arguments.keep, "dims": dims, "minutes": arguments.minutes}
    started = time.perf_counter()
    tuned = tune(
        FaissStore(index), queries, judged, precisions=arguments.precisions.split(","), progress=True, **options
    )
    print(
        f"tuned on {len(queries)} queries in {time.perf_counter() - started:.0f} s to keep {arguments.keep:.1%}:"
        f" {tuned.chosen.plan.label}, effort {tuned.chosen.plan.effort}; {tuned.refused} cheaper ones refused"
    )


def _compare(index: AdaptiveIndex, vectors: np.ndarray, queries: np.ndarray, judged: Judged, counts: str) -> dict:
    exact, graph, seconds = _full_width(vectors)
    print(f"full-width HNSW built in {seconds:.0f} s")
    ids = np.array(list(index.ids), dtype=object)
    best = ids[exact.search(queries, K)[1]]
    full = judged.ndcg(best).mean()
    print(f"on {len(queries)} other queries: nDCG@10 of exact search {100 * full:.2f}")
    ram, whole = index.ram(), vectors.shape[0] * vectors.shape[1] * 4
    print(f"memory: adaptive {ram / 1e6:.1f} MB, full float32 {whole / 1e6:.1f} MB = {whole / ram:.1f} times")
    reached = {}
    for effort in _EFFORTS:
        graph.hnsw.efSearch = effort
        found = ids[graph.search(queries, K)[1]]
        reached[effort] = recall(found, best).mean(), judged.ndcg(found).mean() / full
    result: dict[str, Any] = {"ndcg": full, "ram": ram, "full_ram": whole, "rows": []}
    for count in map(int, counts.split(",")):
        with threads(count):
            alone = measure(lambda some: exact.search(some, K), queries)
            print(f"\n{count} thread(s), ms per query: one by one, and in a batch of {len(queries)}")
            print(f"exact full width: {1e3 * alone.single:.2f}, {1e3 * alone.batch:.3f}")
            print(
                "{:46} {:>6} {:>7} {:>7} {:>7} {:>6} {:>6}   full-width HNSW of that recall: ms, ms in a batch".format(
                    "adaptive", "nDCG %", "recall", "ms", "batch", "x", "x"
                )
            )
            for plan in _around(index.plan):  # type: ignore[arg-type]
                found = index.search(queries, K, plan=plan).ids
                keeps, near = judged.ndcg(found).mean() / full, recall(found, best).mean()
                ours = measure(lambda some, plan=plan: index.search(some, K, plan=plan), queries)
                graph.hnsw.efSearch = effort = next((one for one in _EFFORTS if reached[one][0] >= near), _EFFORTS[-1])
                theirs = measure(lambda some: graph.search(some, K), queries)
                label = f"{plan.label}, effort {plan.effort}"
                print(
                    f"{label:46} {100 * keeps:6.2f} {100 * near:7.2f} {1e3 * ours.single:7.3f} {1e3 * ours.batch:7.3f}"
                    f" {alone.single / ours.single:6.1f} {alone.batch / ours.batch:6.1f}"
                    f"   efSearch {effort}, {100 * reached[effort][0]:.2f}, nDCG {100 * reached[effort][1]:.2f} %:"
                    f" {1e3 * theirs.single:.3f} ({theirs.single / ours.single:.2f}x),"
                    f" {1e3 * theirs.batch:.3f} ({theirs.batch / ours.batch:.2f}x)",
                    flush=True,
                )
                row = {"threads": count, "plan": plan.to_json(), "keeps": keeps, "recall": near, "effort": effort}
                times = {"exact": alone, "adaptive": ours, "hnsw": theirs}
                result["rows"].append(row | {name: (one.single, one.batch) for name, one in times.items()})
    return result


def _around(plan: SearchPlan) -> list[SearchPlan]:
    """The tuned plan, and longer searches of the same shortlist."""
    if plan.kind == "flat":
        return [replace(plan, shortlist=plan.shortlist * more) for more in (1, 2, 4)]
    grid = [(1, 1), (1, 2), (2, 2), (2, 4)]
    return [replace(plan, effort=plan.effort * more, shortlist=plan.shortlist * longer) for more, longer in grid]


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
        ram, whole = index.ram(), vectors.nbytes
    print(
        f"{len(vectors):>10,} {1e3 * full:8.2f} {1e3 * ours:9.3f} {full / ours:6.1f} {100 * near:6.2f}%"
        f" {whole / 1e6:9.1f} {ram / 1e6:7.1f} {seconds:8.1f}{'  (partly synthetic)' if synthetic else ''}",
        flush=True,
    )
    return {"vectors": len(vectors), "exact": full, "adaptive": ours, "recall": near, "full_ram": whole, "ram": ram}


if __name__ == "__main__":
    main()
