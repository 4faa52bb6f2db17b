"""The rows of an index: vectors, ids, texts, the user's own columns, and which of them were taken out."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from mrl_text.search.checks import check_collection
from mrl_text.search.columns import ColumnType, as_array, empty_array, field_name, merge_types
from mrl_text.search.faiss.folder import ROW_TYPE, IndexFolder
from mrl_text.truncation import truncate

_FEW, _FEW_ROWS = 0.05, 1000  # where a filter leaves a smaller share, or fewer, comparing with each of them is faster
_BLOCK = 16_384
_MOST_PARTS = 32  # files of texts; with more, they are joined to one
_ONE_BY_ONE = 32  # for fewer strings, setting up a vectorised lookup costs more than it saves


def vector_files(width: int, sizes: Collection[int], mark: str = "") -> dict[str, int]:
    """Files of vectors with their sizes: the full vectors, and smaller sizes in files of their own."""
    smaller = {f"size-{dim}{mark}.f16": dim for dim in sorted(sizes) if dim < width}
    return {f"vectors{mark}.f16": width, **smaller}


class Rows:
    """Rows by position, in the order they were added; those added since the last save included.

    Attributes:
        width: numbers of a full vector.
        count: rows, removed ones included.
        live: bool (count,), False for removed rows; None while nothing was removed.
        sizes: smaller sizes that are kept in files of their own, beside the full vectors.
        column_types: types of the user's own columns by name.
    """

    def __init__(self, folder: IndexFolder) -> None:
        self.folder = folder
        self.width: int = folder.manifest["width"]
        self.count = folder.count
        self.live: np.ndarray | None = None
        self._mark = folder.full.removeprefix("vectors").removesuffix(".f16")
        self.sizes: tuple[int, ...] = tuple(sorted(set(folder.manifest["vectors"].values()) - {self.width}))
        self._pending_ids: list[str] = []
        self._pending_texts: list[str | None] = []
        self.column_types: dict[str, ColumnType] = dict(folder.manifest.get("columns", {}))
        self._pending_columns: dict[str, list[Any]] = {}
        self._lookup: IdLookup | None = None
        self._changed = False
        self._ends: np.ndarray | None = None
        if removed := folder.manifest["files"].get("removed"):
            self.live = np.ones(self.count, dtype=bool)
            self.live[np.load(folder.checked(removed))] = False

    def __len__(self) -> int:
        return self.count if self.live is None else int(self.live.sum())

    @property
    def files(self) -> dict[str, int]:
        """Files of vectors with their sizes."""
        return vector_files(self.width, self.sizes, self._mark)

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory of the lookup of ids, once it was needed, and of the marks of removed rows."""
        ids = {"ids": self._lookup.nbytes} if self._lookup is not None else {}
        return {**ids, **({"removed": self.live.nbytes} if self.live is not None else {})}

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Positions int64 (n,) of ids; -1 for one that is not there or was removed."""
        if self._lookup is None:
            self._lookup = IdLookup(self.ids)
            positions = np.arange(self.count) if self.live is None else np.flatnonzero(self.live)
            self._lookup.add(self.ids(positions), positions)
        return self._lookup.find(ids)

    def differ(
        self,
        positions: np.ndarray,
        vectors: np.ndarray,
        texts: Sequence[str | None] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> np.ndarray:
        """Which of some rows are not what is stored at these positions (-1: nowhere), bool (n,)."""
        other = positions < 0
        if other.all():
            return other
        there = np.flatnonzero(~other)
        at = positions[there]
        other[there] = (self.mapped(self.width)[at] != vectors[there].astype(ROW_TYPE)).any(axis=1)
        stored = self._values_by_name(at)
        pairs = [(texts, self.texts(at)), *((columns.get(name), values) for name, values in stored.items())]
        pairs += [(columns[name], [None] * len(at)) for name in columns.keys() - stored.keys()]
        for given, known in pairs:
            mine = [None] * len(at) if given is None else [given[row] for row in there.tolist()]
            other[there] |= [one != value for one, value in zip(mine, known, strict=True)]
        return other

    def append(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        texts: Sequence[str | None] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Add rows whose ids are not there: float unit vectors (n, width), float16 ones as they are."""
        self.column_types = merge_types(self.column_types, columns or {})
        for name, dim in self.files.items():
            cut = vectors if dim == self.width else truncate(vectors.astype(np.float32), dim)
            self.folder.write_rows(name, cut, self.count)
        if self._lookup is not None:
            self._lookup.add(ids, np.arange(self.count, self.count + len(ids)))
        for name in self.column_types:
            values = self._pending_columns.setdefault(name, [None] * len(self._pending_ids))
            values += (columns or {}).get(name, [None] * len(ids))
        self._pending_ids += ids
        self._pending_texts += texts if texts is not None else [None] * len(ids)
        self.count += len(ids)
        if self.live is not None:
            self.live = np.concatenate([self.live, np.ones(len(ids), dtype=bool)])

    def remove(self, positions: np.ndarray) -> None:
        """Mark rows as removed."""
        if not len(positions):
            return
        if self.live is None:
            self.live = np.ones(self.count, dtype=bool)
        self.live[positions] = False
        self._changed = True
        if self._lookup is not None:
            self._lookup.remove(positions)

    def allowed(self, among: Collection[str] | np.ndarray | None) -> np.ndarray | None:
        """Rows that a search may return, bool (count,), of ids or a mask of rows, bool (count,); None for all.

        Raises:
            TypeError: a single string instead of a collection of them.
            ValueError: a mask of another length.
        """
        if among is None:
            return self.live
        if isinstance(among, np.ndarray) and among.dtype == bool:
            if among.shape != (self.count,):
                raise ValueError(f"a mask of rows must have shape ({self.count},), got {among.shape}")
            return among if self.live is None else among & self.live
        check_collection(among, "among")
        positions = self.find(list(among))
        allowed = np.zeros(self.count, dtype=bool)
        allowed[positions[positions >= 0]] = True
        return allowed

    def positions(self, among: Collection[str] | np.ndarray | None) -> np.ndarray:
        """Positions int64 (n,), ascending, of the rows that :meth:`allowed` allows."""
        allowed = self.allowed(among)
        return np.arange(self.count) if allowed is None else np.flatnonzero(allowed)

    def few(self, allowed: np.ndarray | None) -> bool:
        """Whether so few rows are allowed that comparing with each of them is the best search."""
        return allowed is not None and bool(allowed.sum() <= max(_FEW * self.count, _FEW_ROWS))

    def mapped(self, dim: int) -> np.ndarray:
        """All vectors of a size that has a file: float16 (count, dim), memory-mapped, read-only."""
        name = next(name for name, size in self.files.items() if size == dim)
        return self.folder.rows(name, dim, self.count)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All full vectors in order, read from disk: first position, float16 (m, width)."""
        return self.folder.blocks(self.folder.full, self.width, self.count, block=_BLOCK)

    def blocks_to_compare(
        self, dim: int, allowed: np.ndarray | None
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        """Vectors of a size for :func:`mrl_text.search.faiss.engine.exact_search`, only of rows that are allowed.

        Full vectors are taken as stored, as a rerank takes them; smaller sizes are cut and made unit length.
        """
        cut = partial(truncate, dim=dim, normalize=dim < self.width)
        if allowed is not None and self.few(allowed):
            positions, rows = np.flatnonzero(allowed), self.mapped(self.width)
            for start in range(0, len(positions), _BLOCK):
                some = positions[start : start + _BLOCK]
                yield start, cut(rows[some].astype(np.float32)), some
            return
        for first, block in self.blocks():
            if allowed is None:
                yield first, cut(block.astype(np.float32)), None
            else:
                kept = np.flatnonzero(allowed[first : first + len(block)])
                yield first, cut(block[kept].astype(np.float32)), kept + first

    def keep_sizes(self, sizes: Collection[int]) -> None:
        """Keep files of these smaller sizes from now on, and bring them up to the number of rows."""
        self.sizes = tuple(sorted(set(sizes) - {self.width}))
        for name, dim in self.files.items():
            file = self.folder.path / name
            there = min(self.count, file.stat().st_size // (2 * dim)) if file.exists() else 0
            if dim < self.width:
                for first, block in self.folder.blocks(self.folder.full, self.width, self.count - there, first=there):
                    self.folder.write_rows(name, truncate(block.astype(np.float32), dim), first)

    def ids(self, positions: np.ndarray) -> list[str]:
        """Ids of rows by position."""
        return self._column("id", positions, self._pending_ids)

    def texts(self, positions: np.ndarray) -> list[str | None]:
        """Texts of rows by position; None for a row without."""
        return self._column("text", positions, self._pending_texts)

    def column(self, name: str) -> pa.ChunkedArray:
        """One of the user's columns, removed rows included, or KeyError; memory-mapped where saved."""
        type_, field = self.column_types[name], field_name(name)
        chunks: list[pa.Array] = []
        for segment in self.folder.manifest["segments"]:
            table = self.folder.texts(segment)
            there = field in table.column_names
            chunks += table.column(field).chunks if there else [empty_array(segment["rows"], type_)]
        return pa.chunked_array([*chunks, as_array(self._pending_column(name), type_)])

    def columns(self, positions: np.ndarray) -> list[dict[str, Any]]:
        """The user's columns of rows by position: a value by name, None for a row without."""
        values = self._values_by_name(positions)
        return [{name: values[name][row] for name in values} for row in range(len(positions))]

    def live_positions(self, start: int, stop: int) -> np.ndarray:
        """Positions int64 from ``start`` to before ``stop``, without removed rows."""
        positions = np.arange(start, stop)
        return positions if self.live is None else positions[self.live[start:stop]]

    def copy_to(self, folder: IndexFolder) -> None:
        """Write all rows but removed ones into a folder without rows; they count from its next commit on."""
        count = 0
        for first, block in self.blocks():
            kept = block[self.live_positions(first, first + len(block)) - first]
            for name, dim in folder.manifest["vectors"].items():
                folder.write_rows(name, kept if dim == self.width else truncate(kept.astype(np.float32), dim), count)
            count += len(kept)
        segments = [folder.write_texts(self._tables(self.live), self._schema, 0)] if count else []
        folder.manifest |= {"count": count, "segments": segments, "columns": dict(self.column_types)}

    def write(self, *, join: bool = False) -> dict[str, Any]:
        """Write what was added and removed since the last save; returns what the manifest must say of it.

        Texts come into a file of their own; with many, or on demand, all are joined to one.
        """
        manifest = self.folder.manifest
        segments, files = list(manifest["segments"]), dict(manifest["files"])
        parts = len(segments) + bool(self._pending_ids)
        if parts > (1 if join else _MOST_PARTS):
            segments = [self.folder.write_texts(self._tables(None), self._schema, 0)]
        elif self._pending_ids:
            segments.append(self.folder.write_texts([self._pending_table()], self._schema, self.folder.count))
        if self._changed and self.live is not None:
            stream = io.BytesIO()
            np.save(stream, np.flatnonzero(~self.live))
            name = f"removed-{int(manifest['generation']) + 1:06d}.npy"
            files["removed"] = self.folder.write(name, stream.getvalue())
        state = {"count": self.count, "segments": segments, "files": files, "vectors": self.files}
        return {**state, "columns": self.column_types}

    def written(self) -> None:
        """To be called once the manifest says what :meth:`write` returned."""
        self._pending_ids, self._pending_texts, self._pending_columns, self._changed = [], [], {}, False
        self._ends = None

    @property
    def _schema(self) -> pa.Schema:
        """Of a table of rows with every column."""
        own = [(field_name(name), empty_array(0, type_).type) for name, type_ in self.column_types.items()]
        return pa.schema([("id", pa.large_string()), ("text", pa.large_string()), *own])

    def _tables(self, live: np.ndarray | None) -> Iterator[pa.Table]:
        """Ids, texts and columns of all rows, or of those that are live, in order, some at a time."""
        schema, first = self._schema, 0
        saved = map(self.folder.texts, self.folder.manifest["segments"])
        for table in (*saved, *([self._pending_table()] if self._pending_ids else [])):
            for start in range(0, len(table), _BLOCK):
                part = table.slice(start, _BLOCK)
                there = set(part.column_names)  # a file saved before a column was first given lacks it
                values = [part[f.name] if f.name in there else pa.nulls(len(part), f.type) for f in schema]
                whole = pa.table(values, schema=schema)
                kept = None if live is None else live[first + start : first + start + len(part)]
                yield whole if kept is None else whole.filter(pa.array(kept))
            first += len(table)

    def _pending_table(self) -> pa.Table:
        own = [as_array(self._pending_column(name), type_) for name, type_ in self.column_types.items()]
        return pa.table([self._pending_ids, self._pending_texts, *own], schema=self._schema)

    def _values_by_name(self, positions: np.ndarray) -> dict[str, list[Any]]:
        return {n: self._column(field_name(n), positions, self._pending_column(n)) for n in self.column_types}

    def _pending_column(self, name: str) -> list[Any]:
        return self._pending_columns.get(name) or [None] * len(self._pending_ids)

    def _column(self, name: str, positions: np.ndarray, pending: Sequence[Any]) -> list[Any]:
        segments = self.folder.manifest["segments"]
        if self._ends is None or len(self._ends) != len(segments):
            self._ends = np.cumsum([segment["rows"] for segment in segments], dtype=np.int64)
        number = np.searchsorted(self._ends, positions, side="right")
        if len(positions) and number[0] == number[-1] and (number == number[0]).all():  # as after a build, or one query
            return self._values(name, int(number[0]), positions, pending)
        values = np.empty(len(positions), dtype=object)
        for one in np.unique(number):
            here = np.flatnonzero(number == one)
            values[here] = self._values(name, int(one), positions[here], pending)
        return list(values)

    def _values(self, name: str, segment: int, positions: np.ndarray, pending: Sequence[Any]) -> list[Any]:
        assert self._ends is not None
        first = int(self._ends[segment - 1]) if segment else 0
        if segment == len(self._ends):
            return [pending[position - first] for position in positions.tolist()]
        table = self.folder.texts(self.folder.manifest["segments"][segment])
        if name not in table.column_names:  # saved before the column was first given
            return [None] * len(positions)
        column = table.column(name)
        if len(positions) <= _ONE_BY_ONE:
            return [column[position - first].as_py() for position in positions.tolist()]
        values: list[Any] = column.take(positions - first).to_pylist()
        return values


class IdLookup:
    """Sorted 64-bit hashes of ids, which are any strings, and the positions of their rows: 16 bytes a row.

    A hash that matches is not yet an id that matches, so what is found is compared with the id of its row.

    Args:
        id_at: ids of rows by position: int64 (n,) to a list of n strings.
    """

    def __init__(self, id_at: Callable[[np.ndarray], list[str]]) -> None:
        self._id_at = id_at
        self._keys = np.zeros(0, dtype=np.uint64)
        self._positions = np.zeros(0, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Memory of the lookup."""
        return int(self._keys.nbytes + self._positions.nbytes)

    def add(self, ids: Sequence[str], positions: np.ndarray) -> None:
        """Learn rows whose ids are not known yet: positions int64, one for each id."""
        keys = _hashes(ids)
        order = np.argsort(keys, kind="stable")
        places = np.searchsorted(self._keys, keys[order])
        self._keys = np.insert(self._keys, places, keys[order])
        self._positions = np.insert(self._positions, places, positions[order])

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Positions int64 (n,), -1 for an id that is not there."""
        found = np.full(len(ids), -1, dtype=np.int64)
        if not len(self._keys) or not len(ids):
            return found
        keys = _hashes(ids)
        place = np.searchsorted(self._keys, keys)
        open_ = np.arange(len(ids))
        while len(open_):  # again only where two ids share a hash
            open_ = open_[place[open_] < len(self._keys)]
            open_ = open_[self._keys[place[open_]] == keys[open_]]
            if not len(open_):
                break
            positions = self._positions[place[open_]]
            same = np.array([ids[at] == there for at, there in zip(open_, self._id_at(positions), strict=True)])
            found[open_[same]] = positions[same]
            open_ = open_[~same]
            place[open_] += 1
        return found

    def remove(self, positions: np.ndarray) -> None:
        """Forget rows by position."""
        keep = ~np.isin(self._positions, positions)
        self._keys, self._positions = self._keys[keep], self._positions[keep]


def _hashes(ids: Sequence[str]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest() for one in ids)
    return np.frombuffer(digests, dtype=np.uint64)
