"""What searches under filters find, and how long they take, in the engines people run, on real texts, in one run.

    python benchmarks/filters.py MODEL train/*.parquet --asked trivia --rows 50000 --queries 100

Rows are the distinct texts of Parquet files with an anchor and a positive, as many of each file; queries are anchors of
one, and not among the rows. A filter leaves a share of the rows: texts of the queries' own file (on topic; where that
has too few, others besides), of the other files (off topic), or any. For every plan, filter and share it prints
recall@10 against exact search under the same filter (float32, computed here), and the median time of a query, one by
one on one connection and one thread, beside that of the store's own exact search under the filter.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from stores import K, server_url

from mrl_text import MatryoshkaEncoder
from mrl_text.search import SearchPlan, Store, create_store
from mrl_text.search.measure import threads
from mrl_text.search.sample_queries import recall

_BATCH = 2000
_TOPICS = ("on", "off", "any")
Columns = dict[str, np.ndarray]


def main() -> None:
    """Print a line for each store, plan, filter and share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pairs", type=Path, nargs="+", help="Parquet with anchor and positive")
    parser.add_argument("--asked", default="trivia", help="the file whose anchors are the queries")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--shares", default="0.005,0.015,0.1,0.5")
    parser.add_argument("--dim", type=int, default=128, help="prefix of the shortlists")
    parser.add_argument("--shortlist", type=int, default=100)
    parser.add_argument("--stores", default="faiss,postgres")
    parser.add_argument("--cache", type=Path, help="file for the vectors (.npz), read where it is there")
    arguments = parser.parse_args()
    vectors, queries, own = _data(arguments)
    columns = _columns(own, [float(share) for share in arguments.shares.split(",")])
    print(f"{len(vectors):,} vectors of {vectors.shape[1]}, {own.sum():,} on topic; {len(queries)} queries")
    print(f"{'search':44} {'filter':6} {'rows':>7} {'recall@10':>9} {'ms':>8} {'exact ms':>8}")
    with threads(1):
        for name in arguments.stores.split(","):
            with server_url(name) as url:
                store = _filled(url, vectors, columns)
                for plan in _plans(name, vectors.shape[1], arguments):
                    store.set_plan(plan)
                    store.flush()
                    for column, allowed in {"none": np.ones(len(vectors), dtype=bool), **columns}.items():
                        _measure(name, store, plan, queries, vectors, column, allowed)
                store.close()


def _data(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of rows and queries, and which rows are on topic."""
    if arguments.cache and arguments.cache.exists():
        found = np.load(arguments.cache)
        return found["vectors"].astype(np.float32), found["queries"].astype(np.float32), found["own"]
    random = np.random.default_rng(0)
    texts: list[str] = []
    own: list[bool] = []
    asked: list[str] = []
    for file in arguments.pairs:
        table = pd.read_parquet(file)
        here = list(dict.fromkeys(itertools.chain(table["positive"], table["anchor"])))
        here = [here[row] for row in random.permutation(len(here))]
        if file.stem == arguments.asked:
            asked, here = here[: arguments.queries], here[arguments.queries :]
        here = here[: arguments.rows // len(arguments.pairs)]
        texts += here
        own += [file.stem == arguments.asked] * len(here)
    model = MatryoshkaEncoder(arguments.model)
    vectors, queries = model.encode_document(texts, show_progress_bar=True), model.encode_query(asked)
    if arguments.cache:
        np.savez(arguments.cache, vectors=vectors.astype(np.float16), queries=queries, own=own)
    return vectors, queries, np.array(own)


def _columns(own: np.ndarray, shares: list[float]) -> Columns:
    """The rows that each filter leaves, bool (rows,), by the name of its column."""
    random = np.random.default_rng(1).random(len(own))
    orders = {"on": np.argsort(random - own), "off": np.argsort(random + own), "any": np.argsort(random)}
    columns = {}
    for share, topic in itertools.product(shares, _TOPICS):
        columns[f"{topic} {share}"] = np.zeros(len(own), dtype=bool)
        columns[f"{topic} {share}"][orders[topic][: int(share * len(own))]] = True
    return columns


def _plans(name: str, width: int, arguments: argparse.Namespace) -> list[SearchPlan]:
    graph = SearchPlan(arguments.dim, "hnsw", "float16", arguments.shortlist, effort=2 * arguments.shortlist)
    full = SearchPlan(width, "hnsw", "float16", K, final=width, effort=120)
    cells = SearchPlan(arguments.dim, "ivf", "float16", arguments.shortlist, effort=64)
    if name == "faiss":
        return [graph, full, cells, SearchPlan(arguments.dim, "ivf", "int4", 2 * arguments.shortlist, effort=32)]
    return [graph, full, cells] if name == "postgres" else [graph]


def _filled(url: str, vectors: np.ndarray, columns: Columns) -> Store:
    store = create_store(url, width=vectors.shape[1])
    for first in range(0, len(vectors), _BATCH):
        some = slice(first, first + _BATCH)
        kept = {name: values[some].tolist() for name, values in columns.items()}
        store.add([str(row) for row in range(len(vectors))[some]], vectors[some], None, kept)
    store.flush()
    return store


def _measure(
    name: str,
    store: Store,
    plan: SearchPlan,
    queries: np.ndarray,
    vectors: np.ndarray,
    column: str,
    allowed: np.ndarray,
) -> None:
    rows = np.flatnonzero(allowed)
    best = rows[np.argsort(-(queries @ vectors[rows].T), axis=1)[:, :K]].astype(str).astype(object)
    where = None if column == "none" else {column: True}
    found, spent = _one_by_one(lambda query: store.search(query, K, where=where).ids, queries)
    _, exactly = _one_by_one(lambda query: store.exact(query, K, where=where).ids, queries[:20])
    label = f"{name} {plan.label}, effort {plan.effort}"
    share, topic = recall(found, best).mean(), column.partition(" ")[0]
    times = f"{1e3 * spent:8.2f} {1e3 * exactly:8.2f}"
    print(f"{label:44} {topic:6} {len(rows):7,} {100 * share:8.2f}% {times}", flush=True)


def _one_by_one(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, float]:
    found, spent = [], []
    search(queries[:1])
    for query in queries:
        started = time.perf_counter()
        found.append(search(query[None]))
        spent.append(time.perf_counter() - started)
    return np.concatenate(found), statistics.median(spent)


if __name__ == "__main__":
    main()
