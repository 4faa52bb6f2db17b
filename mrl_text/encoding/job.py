"""What is to be encoded and how: everything that the result depends on, and how it is split into shards."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mrl_text.api.options import ApiOptions
from mrl_text.choices import AutoBackend, OnError, OnLong
from mrl_text.codes import Codec
from mrl_text.tables.corpus import CorpusFile, Text, id_prefixes
from mrl_text.truncation import Precision

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = "text"  # the column of the texts that were encoded

_LOOK_AT = 1000  # rows that tell the types of kept columns of files without types
_LONG = 10_000  # characters


@dataclass(frozen=True)
class Segment:
    """Rows of one file: those after the first ``skip``, ``take`` of them."""

    source: int
    skip: int
    take: int


@dataclass(frozen=True)
class Job:
    """An encoding, as a value that can be sent to another process."""

    sources: tuple[CorpusFile, ...]  # the files, in order
    model: str  # folder or hub id to load
    dims: tuple[int, ...]
    """Sizes to store; empty before :func:`mrl_text.encoding.shards.prepare` has looked at the model."""
    precisions: tuple[Precision, ...]  # of each size
    keep: tuple[str, ...]  # columns to store besides; ``text`` is the text that was encoded
    types: dict[str, pa.DataType]  # Arrow types of the kept columns but ``text``
    on_error: OnError  # what to do with rows without text
    on_long: OnLong  # what to do with texts longer than the model reads
    backend: AutoBackend | Literal["api"]  # what computes the model
    dtype: str  # what in
    device: str | None  # None is the best there is
    token_budget: int | None  # tokens per batch; None takes what suits the device
    threads: int  # of the processor; another number may change the last bits
    trust_remote_code: bool = False  # allow code that comes with the model to run
    api: ApiOptions | None = None  # where the model is behind one
    width: int = 0  # of the model; 0 before it was looked at
    ranges: dict[int, np.ndarray] = field(default_factory=dict)  # per size (2, dim), where a precision needs them
    codec: Codec | None = None  # likewise
    done: dict[Path, int] = field(default_factory=dict)
    """Rows of files that an earlier encoding read, in the order of that one."""

    def place(self, source: int, row: Text) -> str:
        """Where a row is, for messages."""
        return f"{self.sources[source].path.name}, row {row.number}"

    def row_id(self, source: int, row: Text) -> str:
        """Its id; else its number, in files after the first one behind the file's name."""
        return f"{self._prefixes[source]}{row.number}" if row.id is None else row.id

    @cached_property
    def _prefixes(self) -> list[str]:
        paths = list(dict.fromkeys([*self.done, *(source.path for source in self.sources)]))
        prefixes = dict(zip(paths, id_prefixes(paths), strict=True))
        return [prefixes[source.path] for source in self.sources]


def column_name(dim: int, precision: Precision) -> str:
    """Column, and file, of the vectors of a size and precision."""
    return f"embedding_{dim}" if precision == "float32" else f"embedding_{dim}_{precision}"


def split(
    sources: Sequence[CorpusFile], shard_rows: int, limit: int | None, done: Mapping[Path, int]
) -> list[list[Segment]]:
    """The rows of each shard: so many rows after each other, whichever files they are in, after those that are done.

    Files are read once to count their rows (of Parquet only the footer).
    """
    shards: list[list[Segment]] = []
    room, left = 0, limit
    for number, source in enumerate(sources):
        rows = source.table.count()
        rows = rows if left is None else min(rows, left)
        left = None if left is None else left - rows
        skip = done.get(source.path, 0)
        while skip < rows:
            if not room:
                shards.append([])
                room = shard_rows
            take = min(room, rows - skip)
            shards[-1].append(Segment(number, skip, take))
            skip, room = skip + take, room - take
    return shards


class Reader:
    """Reads segments, and goes on where it is if the next one is behind the last.

    Reading on is cheaper than from the start: a cluster's worker gets one of many shards after the other. Of Parquet
    the row groups between are passed over.

    Args:
        sources: the files.
        shorten: applied to a text of more than ten thousand characters as it is read, so that no more of it is held;
            None leaves texts as they are.
    """

    def __init__(self, sources: Sequence[CorpusFile], shorten: Callable[[str], str] | None = None) -> None:
        self._sources = sources
        self._shorten = shorten
        self._at: tuple[int, int] | None = None
        self._rows: Iterator[Text] = iter(())

    def read(self, segments: Sequence[Segment]) -> list[tuple[int, Text]]:
        """Rows with the number of their source; ValueError if a file has fewer rows than when they were counted."""
        found: list[tuple[int, Text]] = []
        for segment in segments:
            source = self._sources[segment.source]
            at, self._at = self._at, None  # nowhere, should reading fail
            gap = segment.skip - at[1] if at is not None and at[0] == segment.source else -1
            if gap < 0 or (gap and source.table.format == "parquet"):
                self._rows = source.texts(segment.skip)
            else:
                next(itertools.islice(self._rows, gap, gap), None)
            rows = list(map(self._shortened, itertools.islice(self._rows, segment.take)))
            if len(rows) < segment.take:
                raise ValueError(f"{source.path} has changed while it was read: it had more rows")
            self._at = (segment.source, segment.skip + segment.take)
            found += ((segment.source, row) for row in rows)
        return found

    def _shortened(self, row: Text) -> Text:
        if self._shorten is None or len(row.text) <= _LONG:
            return row
        return replace(row, text=self._shorten(row.text))


def column_types(sources: Sequence[CorpusFile], keep: Sequence[str]) -> dict[str, pa.DataType]:
    """Arrow types of kept columns, as the first file tells them.

    Parquet files say so. CSV holds text. In JSON lines the first thousand rows do: text, whole numbers, numbers or
    truth values; what is nested or mixed becomes JSON text.
    """
    import pyarrow as pa

    wanted = [name for name in keep if name != TEXT]
    if not wanted:
        return {}
    if sources[0].table.format == "parquet":
        schema = sources[0].table.schema
        return {name: schema.field(name).type for name in wanted}
    first = itertools.islice(sources[0].texts(), _LOOK_AT if sources[0].table.typed else 0)
    rows = [row.cells for row in first]
    return {name: _type_of([cells.get(name) for cells in rows]) if rows else pa.string() for name in wanted}


def _type_of(values: Sequence[Any]) -> pa.DataType:
    import pyarrow as pa

    try:
        found = pa.array(values).type
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.string()
    return found if found in (pa.bool_(), pa.int64(), pa.float64()) else pa.string()


def as_column(values: Sequence[Any], kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """An Arrow column, and the places of values that do not fit its type and are null in it."""
    import pyarrow as pa

    if kind == pa.string():
        return pa.array([_as_text(value) for value in values], kind), []
    try:
        return pa.array(values, kind), []
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        fitting = [_fits(value, kind) for value in values]
        misfits = [place for place, fits in enumerate(fitting) if not fits]
        return pa.array([value if fits else None for value, fits in zip(values, fitting, strict=True)], kind), misfits


def _as_text(value: Any) -> str | None:
    text = value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text and text.encode("utf-8", "replace").decode("utf-8")  # JSON can hold half a character


def _fits(value: Any, kind: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True
