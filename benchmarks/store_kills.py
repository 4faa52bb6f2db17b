"""Kill a push at random moments (SIGKILL), let it go on, and compare the store with that of an undisturbed push.

    mrl-text encode corpus.jsonl -o ENCODED --model MODEL --keep text,lang
    python benchmarks/store_kills.py ENCODED --kills 10

Compared are ids, vectors (bytes as stored), texts, columns, count and plan. PostgreSQL is a real server that the script
starts, Qdrant the client's local mode, in ``/dev/shm`` where that is. The position is noted after every batch here.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from killing import finish, kill
from stores import server_url

from mrl_text.search import Store, open_store
from mrl_text.search.push import Journal

_NAMES = {"postgres": "PostgreSQL", "faiss": "FAISS", "qdrant": "Qdrant (local)"}


def main() -> None:
    """Print a line per kill and the verdict; exit code 1 if a store differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoded", type=Path, help="folder of mrl-text encode, full width, with text and columns")
    parser.add_argument("--kills", type=int, default=10, help="on each store")
    parser.add_argument("--stores", default="postgres,qdrant,faiss")
    parser.add_argument("--batch-rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failures = sum(_kill_on(name, options) for name in options.stores.split(","))
    sys.exit(bool(failures))


def _kill_on(name: str, options: argparse.Namespace) -> int:
    """Kill pushes into one kind of store; returns how many ended differently."""
    moments = random.Random(options.seed)
    failures = 0
    with server_url(name) as url:
        started = time.monotonic()
        whole = _place(url, "whole")
        finish(_command(whole, options))
        seconds = time.monotonic() - started
        expected, rows = _digest(whole)
        print(f"{_NAMES[name]}: undisturbed {seconds:.1f} s, {rows:,} rows", flush=True)
        for number in range(options.kills):
            alive, attempt = False, 0
            while not alive:  # what was over before it could be killed shows nothing
                place, after = _place(url, f"{number}_{attempt}"), moments.uniform(0, seconds)
                alive, attempt = kill(_command(place, options), after), attempt + 1
            noted = _journal(name, options.encoded, place).rows
            finish(_command(place, options))
            same = _digest(place)[0] == expected
            failures += not same
            verdict = "identical" if same else "DIFFERENT"
            print(f"killed after {after:5.1f} s, {noted:,} rows noted: {verdict}", flush=True)
    print(f"{_NAMES[name]}: {options.kills - failures} of {options.kills} as if undisturbed\n", flush=True)
    return failures


def _command(url: str, options: argparse.Namespace) -> list[str]:
    call = f"push({url!r}, {str(options.encoded)!r}, batch_rows={options.batch_rows}, checkpoint_seconds=0)"
    return [sys.executable, "-c", f"from mrl_text.search.push import push; {call}"]


def _place(url: str, name: str) -> str:
    """Another store of the same server, or another folder."""
    return url.replace("#", f"_{name}#") if "#" in url else f"{url}_{name}"


def _journal(name: str, encoded: Path, url: str) -> Journal:
    return Journal(encoded, Path(url).resolve() if name == "faiss" else url)


def _digest(url: str) -> tuple[str, int]:
    """Hash of all that a store holds, in the order of ids, and its number of rows."""
    store = open_store(url)
    try:
        content = hashlib.sha256()
        for row in sorted(_rows(store)):
            content.update(repr(row).encode())
        count = store.count()
        content.update(repr((count, store.plan, store.width, store.dims, store.model)).encode())
        return content.hexdigest(), count
    finally:
        store.close()


def _rows(store: Store) -> Iterator[tuple[Any, ...]]:
    """Id, vector, text and columns of every row, read below the interface, which gives no vectors."""
    vectors = dict(_vectors(store))
    names = list(vectors)
    for first in range(0, len(names), 1000):
        for document in store.documents(names[first : first + 1000]):
            if document is None:
                raise RuntimeError("a row has a vector and cannot be found")
            yield document.id, vectors[document.id], document.text, sorted(document.columns.items())


def _vectors(store: Any) -> Iterable[tuple[str, str]]:
    if (index := getattr(store, "index", None)) is not None:
        names = list(index.ids)
        yield from (
            (name, row.tobytes().hex()) for name, row in zip(names, index.vectors(index.find(names)), strict=True)
        )
    elif store.url.startswith("qdrant"):
        from mrl_text.search.qdrant.requests import ID

        offset = None
        while True:
            page = {"limit": 1000, "offset": offset, "with_payload": True, "with_vectors": True}
            points, offset = store._client.scroll(store._collection, **page)
            yield from ((point.payload[ID], repr(sorted(point.vector.items()))) for point in points)
            if offset is None:
                return
    else:
        import psycopg

        address, _, table = store.url.rpartition("&table=")
        with psycopg.connect(address) as link:
            yield from link.execute(f"SELECT id, embedding::text FROM {table}")


if __name__ == "__main__":
    main()
