"""A store's rows in files: vectors, ids, texts and columns, as much at a time as memory holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from mrl_text.encoding.folder import SHARDS
from mrl_text.encoding.job import TEXT, column_name
from mrl_text.encoding.manifest import write_manifest
from mrl_text.files import check_writable, holds_files, replaced_folder
from mrl_text.search.columns import as_array
from mrl_text.search.store import Document, Store, Where
from mrl_text.truncation import Precision

_SHARD_ROWS = 8192
_DIGITS = 8  # of a unit vector's numbers: as many as tell one float16 from the next
_LINES = (".jsonl", ".ndjson")


def check_output(output: Path) -> None:
    """Refuse a place that cannot be written or holds something, before rows are read.

    Raises:
        FileExistsError: the file, or a folder with files, is there.
        ValueError: the ending of a file that is not written.
        OSError: nothing can be written there.
    """
    check_writable(output.absolute().parent, "choose another place")
    if output.is_file() or holds_files(output):
        raise FileExistsError(f"{output} is there already: choose another name")
    if output.suffix and output.suffix not in _LINES:
        known = ", ".join(_LINES)
        raise ValueError(f"{output}: expected a folder, for Parquet, or a file that ends with {known}")


def export(store: Store, output: Path, where: Where | None = None) -> int:
    """Write a store's rows, or those that a filter lets through; returns how many.

    A folder gets Parquet shards and a manifest as :func:`mrl_text.encoding.encode_files` makes them, so that a push of
    it fills a store with the same ids, vectors, texts and columns, and offers the same sizes. A file that ends with
    ``.jsonl`` gets a row a line: ``_id``, ``text``, the columns and ``embedding``. Interrupted, nothing is left.

    Raises:
        ValueError: no rows; or a column that is called as one of the output's own.
        OSError: as of :func:`check_output`, or the disk is full.
    """
    check_output(output)
    pages = store.rows(where)
    first = next(pages, None)
    if first is None:
        raise ValueError(f"nothing was written: {store} has no rows{' that meet the conditions' * bool(where)}")
    if output.suffix in _LINES:
        _check_names(store, ("_id", "text", "embedding"))
        return _write_lines(_joined(first, pages), output)
    _check_names(store, ("id", TEXT))
    return _write_folder(store, _joined(first, pages), output, "float16" if first[1].dtype == np.float16 else "float32")


def _joined(first: Any, pages: Iterator[Any]) -> Iterator[tuple[list[Document], np.ndarray]]:
    yield first
    yield from pages


def _check_names(store: Store, own: tuple[str, ...]) -> None:
    for name in store.column_types():
        if name in own or name.startswith("embedding_"):
            raise ValueError(f"a column of {store} is called {name!r}, as one that is written itself: rename it")


def _write_lines(pages: Iterator[tuple[list[Document], np.ndarray]], output: Path) -> int:
    partial, rows = output.with_name(f".{output.name}.partial"), 0
    try:
        with partial.open("w", encoding="utf-8") as stream:
            for documents, vectors in pages:
                numbers = np.round(vectors.astype(np.float64), _DIGITS).tolist()
                for document, vector in zip(documents, numbers, strict=True):
                    row = {"_id": document.id, "text": document.text, **document.columns, "embedding": vector}
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                rows += len(documents)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _write_folder(
    store: Store, pages: Iterator[tuple[list[Document], np.ndarray]], output: Path, precision: Precision
) -> int:
    vectors_in = column_name(store.width, precision)
    shards: list[dict[str, Any]] = []
    types = store.column_types()
    with replaced_folder(output, None, "export") as folder:
        (folder / SHARDS).mkdir()
        schema = pa.schema([])
        for documents, vectors in _shards(pages):
            numbers = pa.array(np.ascontiguousarray(vectors).reshape(-1))
            columns = {
                "id": pa.array([one.id for one in documents], pa.string()),
                vectors_in: pa.FixedSizeListArray.from_arrays(numbers, store.width),
                TEXT: pa.array([one.text for one in documents], pa.string()),
                **{name: as_array([one.columns[name] for one in documents], type_) for name, type_ in types.items()},
            }
            table = pa.table(columns)
            file = folder / SHARDS / f"{len(shards):05d}.parquet"
            parquet.write_table(table, file, compression="zstd", use_dictionary=False, write_statistics=False)
            shards.append({"file": file.name, "rows": len(table)})
            schema = table.schema
        rows = sum(int(shard["rows"]) for shard in shards)
        manifest = {
            "version": 1,
            "model": store.model,
            "revision": store.revision,
            "dims": [store.width],
            "precisions": [precision],
            "format": "parquet",
            "width": store.width,
            "columns": {one.name: precision if one.name == vectors_in else str(one.type) for one in schema},
            "ranges": {},
            "rows": rows,
            "problems": {"left out": 0, "cut": 0, "cell": 0},
            "shards": shards,
            "sizes": list(store.dims),
            "complete": True,
        }
        write_manifest(folder, manifest)
    return rows


def _shards(pages: Iterator[tuple[list[Document], np.ndarray]]) -> Iterator[tuple[list[Document], np.ndarray]]:
    """Pages joined to such of a shard's rows or a few more."""
    documents: list[Document] = []
    vectors: list[np.ndarray] = []
    for some, numbers in pages:
        documents += some
        vectors.append(numbers)
        if len(documents) >= _SHARD_ROWS:
            yield documents, np.concatenate(vectors)
            documents, vectors = [], []
    if documents:
        yield documents, np.concatenate(vectors)
