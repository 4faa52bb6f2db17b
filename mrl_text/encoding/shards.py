"""From rows to the bytes of a shard: the same bytes wherever and whenever it is encoded."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from mrl_text.codes import CODED, Codec, store
from mrl_text.encoding.encoders import Encoder
from mrl_text.encoding.job import TEXT, Job, Reader, Segment, as_column, column_name
from mrl_text.streaming import EncodedWindow, windows
from mrl_text.tables.corpus import Text
from mrl_text.truncation import check_dims, truncate, usable

METADATA = b"mrl_text"  # key of our part of a shard's metadata: problems and how many rows were read

Rows = list[tuple[int, Text]]  # rows with the number of the file they are from


def open_reader(job: Job, encoder: Encoder) -> Reader:
    """A reader of a job's texts, whole where they are kept, else no longer than the model reads."""
    return Reader(job.sources, None if TEXT in job.keep else encoder.shorten)


def prepare(job: Job, encoder: Encoder, shards: Sequence[Sequence[Segment]]) -> Job:
    """Settle what takes the model: sizes, what it computes in, ranges of int8 and uint8, the codec of int4 and int2.

    Ranges are the extremes in the first window of all texts, 4,096 at most. The codec is that of the model, else fitted
    to the same texts. ValueError: impossible sizes or dtype, or no vector to take ranges from.
    """
    width, computed = encoder.facts(job)
    dims = check_dims(job.dims or (width,), width)
    job = dataclasses.replace(job, dims=dims, width=width, **computed)
    wanted = set(job.precisions)
    if CODED & wanted and encoder.codec is not None:
        job = dataclasses.replace(job, codec=encoder.codec)
    if not {"int8", "uint8"} & wanted and not (CODED & wanted and job.codec is None):
        return job
    reader = open_reader(job, encoder)
    rows = (row for segments in shards for _, row in reader.read(segments))
    texts = next(windows(row.text for row in rows if row.problem is None), None)
    if texts is None:
        return job
    sample = next(iter(encoder.encode([texts], job))).vectors
    sample = sample[usable(sample)]
    if not len(sample):
        which = ", ".join(sorted(wanted - {"float32", "float16", "binary", "ubinary"}))
        raise ValueError(f"{which} cannot be fitted: none of the first {len(texts)} texts got a usable vector")
    if CODED & wanted and job.codec is None:
        job = dataclasses.replace(job, codec=Codec.fit(sample))
    cut = {dim: truncate(sample, dim) for dim in dims if {"int8", "uint8"} & wanted}
    return dataclasses.replace(job, ranges={dim: np.stack([v.min(0), v.max(0)]) for dim, v in cut.items()})


def encode_shards(encoder: Encoder, shards: Iterable[tuple[int, Rows]], job: Job) -> Iterator[tuple[int, bytes]]:
    """Encode shards one after the other; windows do not reach across them, tokenising does.

    A row that the job does not allow is a ValueError with its place.

    Yields:
        Number and Parquet file of each shard, in order. The bytes depend on its rows and the job alone.
    """
    waiting: deque[tuple[int, Rows, int]] = deque()

    def lists() -> Iterator[list[str]]:
        for number, rows in shards:
            texts = list(windows(row.text for _, row in rows if row.problem is None))
            _refuse(rows, job)
            waiting.append((number, rows, len(texts)))
            yield from texts

    parts: list[EncodedWindow] = []

    def finished() -> Iterator[tuple[int, bytes]]:
        while waiting and len(parts) >= waiting[0][2]:
            number, rows, count = waiting.popleft()
            yield number, _shard(rows, parts[:count], job)
            del parts[:count]

    for window in encoder.encode(lists(), job):
        parts.append(window)
        yield from finished()
    yield from finished()  # those at the end without any text


def _refuse(rows: Rows, job: Job) -> None:
    if job.on_error == "fail":
        for source, row in rows:
            if row.problem is not None:
                raise ValueError(
                    f"{job.place(source, row)} {row.problem}; mend it, or leave such rows out with --on-error skip"
                )


def _shard(rows: Rows, parts: Sequence[EncodedWindow], job: Job) -> bytes:
    """Sort out the rows, cut and round the vectors, and write the Parquet file."""
    problems: list[dict[str, Any]] = []

    def note(source: int, row: Text, kind: str, problem: str) -> None:
        place = {"file": str(job.sources[source].path), "row": row.number}
        problems.append({**place, "kind": kind, "problem": problem})

    vectors = np.concatenate([part.vectors for part in parts]) if parts else np.zeros((0, job.width), np.float32)
    cut = np.concatenate([part.cut for part in parts]) if parts else np.zeros(0, dtype=bool)
    directed = usable(vectors)
    kept: Rows = []
    places: list[int] = []
    place = -1
    for source, row in rows:
        if row.problem is not None:
            note(source, row, "left out", row.problem)
            continue
        place += 1
        if not directed[place]:
            note(source, row, "left out", "got a vector from the model that is zero or not finite")
            _refuse([(source, dataclasses.replace(row, problem="got a vector that is zero or not finite"))], job)
            continue
        if cut[place]:
            if job.on_long == "fail":
                raise ValueError(f"{job.place(source, row)} is longer than the model reads; take --on-long cut or skip")
            if job.on_long == "skip":
                note(source, row, "left out", "is longer than the model reads")
                continue
            note(source, row, "cut", "is longer than the model reads and was cut")
        kept.append((source, row))
        places.append(place)
    columns = _columns(kept, vectors[places], job, note)
    facts = json.dumps({"problems": problems, "rows_read": len(rows)}, ensure_ascii=False)
    table = pa.table(columns).replace_schema_metadata({METADATA: facts})
    stream = io.BytesIO()
    parquet.write_table(table, stream, compression="zstd", use_dictionary=False, write_statistics=False)
    return stream.getvalue()


def _columns(kept: Rows, vectors: np.ndarray, job: Job, note: Any) -> dict[str, pa.Array]:
    columns = {"id": pa.array([job.row_id(source, row) for source, row in kept], pa.string())}
    for dim in job.dims:
        for precision in job.precisions:
            stored = store(vectors, dim, precision, codec=job.codec, ranges=job.ranges.get(dim))
            values = pa.array(np.ascontiguousarray(stored).reshape(-1))
            columns[column_name(dim, precision)] = pa.FixedSizeListArray.from_arrays(values, stored.shape[1])
    if TEXT in job.keep:
        columns[TEXT] = pa.array([row.text for _, row in kept], pa.string())
    for name, kind in job.types.items():
        columns[name], misfits = as_column([row.cells.get(name) for _, row in kept], kind)
        for misfit in misfits:
            source, row = kept[misfit]
            note(source, row, "cell", f"has in {name} {row.cells.get(name)!r:.60}, no {kind}: stored as null")
    return columns
