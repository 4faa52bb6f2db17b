"""Adaptive search against exact search, graphs of full-width vectors and other engines' few bits, in one run.

    python benchmarks/search_data.py MODEL ... -o DATA
    python benchmarks/search.py DATA [--growth] [--dims 64,128,256] [--others none]

The plan is tuned on half of the queries (``--keep`` of the nDCG@10 of exact full-width search); everything printed is
measured on the other half, which tuning never sees, for one and two threads. "Before" is the best plan of 128 numbers
in int4, tuned on the same half. Each rival (``benchmarks/search_rivals.py``) gets the least effort that keeps as much
on that half, and the most there is where none does. All have M 16 and efConstruction 100. Those "float16 from disk"
put their candidates in order as the adaptive index does. Memory is what an engine writes of its index. What is not
installed is left out and said. Adaptive search is timed through ``AdaptiveIndex.search``, its ids included.
``--growth`` prints time and memory at 10k, 50k, 200k and 1 million vectors; beyond the real ones they are synthetic:
sums of two real ones, one weighted by a half.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from search_rivals import K, Rival, missing, pinned, rivals

from mrl_text.choices import Code
from mrl_text.search import AdaptiveIndex, SearchPlan
from mrl_text.search.faiss.store import FaissStore
from mrl_text.search.measure import Tuning, measure, threads
from mrl_text.search.measure import seconds as seconds_per_query
from mrl_text.search.sample_queries import Judged, recall
from mrl_text.search.tune import tune
from mrl_text.truncation import usable

_BEFORE = 128  # numbers in int4


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dims", default="64,128,256", help="prefixes to tune over, the full width besides")
    parser.add_argument("--precisions", default="int4,int2,int1", help="of shortlists to tune over")
    parser.add_argument("--keep", type=float, default=0.995, help="share of the exact nDCG@10 to tune for")
    parser.add_argument("--minutes", type=float, default=6, help="of tuning, after which no further graph is built")
    parser.add_argument("--max-ram", type=float, help="millions of bytes that the shortlist may take")
    parser.add_argument("--plan", type=json.loads, help="JSON of a plan (as in --json) to measure instead of tuning")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--others", help="words of the names of rivals to compare, comma-separated; default: all")
    parser.add_argument("--rows", type=int, help="vectors to take, for a quick look; default: all")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--json", type=Path, help="write what was measured")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    data = Data.read(arguments.data, arguments.rows)
    print(f"{len(data.vectors):,} vectors of {data.vectors.shape[1]}, {len(data.queries):,} judged queries")
    index = AdaptiveIndex.create(width=data.vectors.shape[1])
    for start in range(0, len(data.vectors), 65_536):
        block = data.vectors[start : start + 65_536].astype(np.float32)
        index.add(data.names[start : start + 65_536].tolist(), block)
    order = np.random.default_rng(1).permutation(len(data.queries))
    tuned_on, rest = data.some(order[: len(order) // 2]), data.some(order[len(order) // 2 :])
    found = _compare(index, tuned_on, rest, arguments)
    if arguments.growth:
        found["growth"] = _growth(data.vectors, rest.queries, SearchPlan.from_json(found["plan"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


@dataclass(frozen=True)
class Data:
    """What ``benchmarks/search_data.py`` wrote."""

    vectors: np.ndarray  # float16 (n, width), of unit length
    names: np.ndarray  # ids of these
    queries: np.ndarray  # float32
    judged: Judged  # the same queries

    @classmethod
    def read(cls, folder: Path, rows: int | None) -> Data:
        """The vectors, or the first of them, and the queries that have an answer among them."""
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")[:rows]
        good = np.concatenate([usable(vectors[row : row + 65_536]) for row in range(0, len(vectors), 65_536)])
        if not good.all():
            print(f"{(~good).sum()} vectors are zero, and left out")
            vectors = vectors[good]
        queries = np.load(folder / "queries.npy").astype(np.float32)
        ids = json.loads((folder / "ids.json").read_text())
        corpus = [name for name, kept in zip(ids["corpus"][:rows], good, strict=True) if kept]
        there = set(corpus)
        qrels = {
            query: {name: grade for name, grade in found.items() if name in there}
            for query, found in json.loads((folder / "qrels.json").read_text()).items()
        }
        answered = [row for row, name in enumerate(ids["queries"]) if qrels.get(name)]
        names = [ids["queries"][row] for row in answered]
        judged = Judged(names, names, {name: qrels[name] for name in names})
        return cls(vectors, np.array(corpus, dtype=object), queries[answered], judged)

    def ndcg(self, hits: np.ndarray) -> float:
        """nDCG@10 of positions of rows (n, 10)."""
        return float(self.judged.ndcg(self.names[hits]).mean())

    def some(self, rows: np.ndarray) -> Data:
        """The same with some of the queries."""
        chosen = np.sort(rows)
        return replace(self, queries=self.queries[chosen], judged=self.judged.subset(chosen.tolist()))


def _compare(index: AdaptiveIndex, tuned_on: Data, rest: Data, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, as JSON values, and printed."""
    exact = _exact(rest.vectors)
    target, full = (one.ndcg(exact.search(one.queries, K)[1]) for one in (tuned_on, rest))
    best = exact.search(rest.queries, K)[1]
    print(f"on {len(rest.queries)} other queries: nDCG@10 of exact search {100 * full:.2f}")
    if absent := missing():
        print(f"not installed, and left out: {', '.join(absent)}")
    plain = Rival("exact, float32", rest.vectors.shape[0] * rest.vectors.shape[1] * 4, 0.0, partial(_searched, exact))
    rows: list[dict[str, Any]] = []
    words = arguments.others.split(",") if arguments.others is not None else [""]
    others = rivals(rest.vectors, lambda name: any(word in name for word in words))
    for rival in itertools.chain([plain], _adaptive(index, tuned_on, arguments), others):  # one in memory at a time
        kept = (tuned_on.ndcg(rival.search(tuned_on.queries, effort, 1)) / target for effort in rival.efforts)
        enough = (effort for effort, share in zip(rival.efforts, kept, strict=True) if share >= arguments.keep - 1e-9)
        effort = next(enough, rival.efforts[-1])
        hits = rival.search(rest.queries, effort, 1)
        row = {
            "name": rival.name,
            "effort": effort,
            "ndcg": rest.ndcg(hits) / full,
            "recall": float(recall(hits, best).mean()),
            "ram": rival.ram,
            "build": rival.seconds,
        }
        for count in map(int, arguments.threads.split(",")):
            with threads(count), pinned(count):
                spent = measure(partial(_at, rival, effort, count), rest.queries)
            row[f"seconds {count}"] = spent.single, spent.batch
        rows.append(row)
        _print_row(row, rows, len(rest.queries))
    plan = index.plan.to_json() if index.plan else None
    return {"ndcg": full, "plan": plan, "rows": rows}


def _at(rival: Rival, effort: int, count: int, queries: np.ndarray) -> np.ndarray:
    return rival.search(queries, effort, count)


def _print_row(row: dict[str, Any], rows: list[dict[str, Any]], queries: int) -> None:
    """A line for each number of threads; how many times the time and memory of our plan, which is the second row."""
    ours = rows[min(1, len(rows) - 1)]
    if len(rows) == 1:
        print(f"ms per query one by one and in a batch of {queries}; x: times of the plan chosen here")
        heads = ("nDCG %", "recall", "MB", "x", "threads", "ms", "x", "batch", "x", "build s")
        print("{:52} {:>6} {:>6} {:>7} {:>5} {:>7} {:>7} {:>5} {:>7} {:>5} {:>7}".format("", *heads))
    for key in (key for key in row if key.startswith("seconds")):
        (single, batch), (our_single, our_batch) = row[key], ours[key]
        label = f"{row['name']}, effort {row['effort']}" if row["effort"] else row["name"]
        print(
            f"{label:52} {100 * row['ndcg']:6.2f} {100 * row['recall']:6.2f} {row['ram'] / 1e6:7.1f}"
            f" {row['ram'] / ours['ram']:5.2f} {key.split()[1]:>7} {1e3 * single:7.3f} {single / our_single:5.2f}"
            f" {1e3 * batch:7.3f} {batch / our_batch:5.2f} {row['build']:7.1f}",
            flush=True,
        )


def _exact(vectors: np.ndarray) -> Any:
    exact = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), 65_536):
        exact.add(vectors[start : start + 65_536].astype(np.float32))
    return exact


def _searched(index: Any, queries: np.ndarray, _: int, __: int) -> np.ndarray:
    found: np.ndarray = index.search(queries, K)[1]
    return found


def _adaptive(index: AdaptiveIndex, tuned_on: Data, arguments: argparse.Namespace) -> Iterator[Rival]:
    """The plan of today, longer searches of it, and the plan of before; the index is left with the first."""

    def rival(plan: SearchPlan, name: str) -> Rival:
        def search(queries: np.ndarray, _: int, __: int) -> np.ndarray:
            return index.search(queries, K, plan=plan).positions

        return Rival(f"{name}{plan.label}{_effort(plan)}", index.ram(), seconds, search)

    started = time.perf_counter()
    if arguments.plan:
        index.set_plan(SearchPlan.from_json(arguments.plan))
        index.save()
    else:
        dims = [int(dim) for dim in arguments.dims.split(",")]
        precisions: list[Code] = arguments.precisions.split(",")
        most = int(1e6 * arguments.max_ram) if arguments.max_ram else None
        _tune(index, tuned_on, arguments, dims=dims, precisions=precisions, max_ram=most)
    seconds, chosen = time.perf_counter() - started, index.plan
    assert chosen is not None
    for plan in _around(chosen):
        yield rival(plan, "")
    started = time.perf_counter()
    tuned = _tune(index, tuned_on, arguments, dims=[_BEFORE], kinds=["flat", "ivf"], precisions=["int4"])
    small = [one for one in tuned.trials if one.plan.dim == _BEFORE and one.retention and one.timing]
    held = [one for one in small if min(one.retention or [0]) >= arguments.keep]
    if held:
        index.set_plan(min(held, key=seconds_per_query).plan)
        seconds = time.perf_counter() - started
        yield rival(index.plan or chosen, "before: ")
    else:
        print(f"before: no plan of {_BEFORE} numbers in int4 keeps as much on both halves")
    index.set_plan(chosen)


def _effort(plan: SearchPlan) -> str:
    return "" if plan.kind == "flat" else f", effort {plan.effort}"


def _tune(index: AdaptiveIndex, data: Data, arguments: argparse.Namespace, **options: Any) -> Tuning:
    started = time.perf_counter()
    options |= {"keep": arguments.keep, "minutes": arguments.minutes, "progress": True}
    tuned = tune(FaissStore(index), data.queries, data.judged, **options)
    print(
        f"tuned on {len(data.queries)} queries in {time.perf_counter() - started:.0f} s to keep {arguments.keep:.1%}:"
        f" {tuned.chosen.plan.label}{_effort(tuned.chosen.plan)}; {tuned.refused} cheaper ones refused"
        f"{'' if tuned.confirmed else '; NOT CONFIRMED on the other half'}"
    )
    return tuned


def _around(plan: SearchPlan) -> list[SearchPlan]:
    """The tuned plan, and longer searches of the same shortlist."""
    if plan.kind == "flat":
        return [replace(plan, shortlist=plan.shortlist * more) for more in (1, 2, 4)]
    grid = [(1, 1), (1, 2), (2, 2), (2, 4)]
    return [replace(plan, effort=plan.effort * more, shortlist=plan.shortlist * longer) for more, longer in grid]


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
