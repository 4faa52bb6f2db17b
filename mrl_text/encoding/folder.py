"""Reading what ``mrl-text encode`` wrote, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.codes import CODEC_FILE, CODED, Codec, restore, store
from mrl_text.encoding.job import TEXT, column_name
from mrl_text.files import read_json
from mrl_text.suggest import did_you_mean
from mrl_text.tables.vectors import read_vectors, unique_ids
from mrl_text.truncation import PRECISIONS, Precision

MANIFEST = "manifest.json"
SHARDS = "shards"
IDS = "ids.parquet"  # ids and kept columns where vectors are .npy files
PROBLEMS = "problems.jsonl"  # what was left out or cut, a JSON object a line

_BATCH_ROWS = 8192
_FLOATS: tuple[Precision, ...] = ("float32", "float16")  # what a provider's vectors may be, the better first
_HOLDING: dict[str, tuple[Precision, ...]] = {
    "int4": ("int4",),
    "int2": ("int2", "int4"),
    "binary": ("int2", "int4"),
    "ubinary": ("int2", "int4"),
}
"""Precisions whose codes have those of another in them, the shortest first."""
_SAID = ("complete", "model", "width", "dims", "precisions", "format", "columns", "ranges", "rows", "shards")


@dataclass(frozen=True)
class EncodedBatch:
    """Some rows, in order."""

    ids: list[str]  # of the rows; not necessarily different ones
    vectors: np.ndarray  # (n, dim) in the precision asked for; few bits packed, (n, bytes), as of mrl_text.codes.store
    texts: list[str] | None  # what was encoded; None where it was not kept
    columns: dict[str, list[Any]]  # the other columns that were kept, by name


@dataclass(frozen=True)
class EncodedFolder:
    """A finished encoding."""

    path: Path  # the folder
    manifest: dict[str, Any]
    """What ``manifest.json`` says: model, revision, width, dims, precisions, dtype, columns, rows, sources."""

    @property
    def rows(self) -> int:
        """Rows there are."""
        return int(self.manifest["rows"])

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """Sizes that were stored, ascending."""
        return tuple(self.manifest["dims"])

    def ranges(self, dim: int) -> np.ndarray | None:
        """What int8 and uint8 codes of that size were made with, float32 (2, dim); None where there are none."""
        stored = self.manifest["ranges"].get(str(dim))
        return None if stored is None else np.array(stored, dtype=np.float32)

    @cached_property
    def codec(self) -> Codec | None:
        """What int4 and int2 codes were made with; None where there are none."""
        with readable(self.path / CODEC_FILE):
            return Codec.load(self.path / CODEC_FILE) if CODED & set(self.manifest["precisions"]) else None

    def decode(self, stored: np.ndarray, dim: int, precision: Precision) -> np.ndarray:
        """The float32 vectors (n, dim) that those of a batch of this folder stand for."""
        return restore(stored, dim, precision, codec=self.codec, ranges=self.ranges(dim))

    def batches(
        self, dim: int | None = None, precision: Precision = "float32", *, batch_rows: int = _BATCH_ROWS, start: int = 0
    ) -> Iterator[EncodedBatch]:
        """The rows in input order; memory does not grow with their number.

        Args:
            dim: one of the stored sizes; None takes the largest. int4 and int2 codes hold all smaller ones, too.
            precision: one of the stored ones; int4 codes hold int2 and bits, int2 codes hold bits, too.
            batch_rows: rows per batch, at most.
            start: rows to pass over, of which nothing but a part of one shard is read.

        Raises:
            ValueError: a size or precision that was not stored.
        """
        dim = self.dims[-1] if dim is None else dim
        held = self._holding(dim, precision)
        name = self._column(*(held or (dim, precision)))
        as_npy = self.manifest["format"] == "npy"
        found = (self._npy_batches if as_npy else self._parquet_batches)(name, batch_rows, start)
        return found if held is None else (replace(one, vectors=self._cut(one, held, dim, precision)) for one in found)

    def check_files(self) -> None:
        """Look at every file's outline, not its content; ValueError that names one that is missing or damaged."""
        from pyarrow import parquet

        shards = {self.path / SHARDS / shard["file"]: shard["rows"] for shard in self.manifest["shards"]}
        as_npy = self.manifest["format"] == "npy"
        for file, rows in ({self.path / IDS: self.rows} if as_npy else shards).items():
            with readable(file):
                if (found := parquet.read_metadata(file).num_rows) != rows:
                    raise ValueError(f"{found} rows of {rows}")
        _ = self.codec  # read, to find out whether it is whole
        names = [column_name(dim, one) for dim in self.dims for one in self.manifest["precisions"]] if as_npy else []
        for file in (self.path / f"{name}.npy" for name in names):
            with readable(file):
                if (found := len(np.load(file, mmap_mode="r"))) != self.rows:
                    raise ValueError(f"{found} rows of {self.rows}")

    def _holding(self, dim: int, precision: Precision) -> tuple[int, Precision] | None:
        """The smallest stored codes that such codes are a part of, where these were not stored themselves."""
        known, whole = self.manifest["precisions"], [one for one in self.dims if one >= dim > 0]
        longer = [one for one in _HOLDING.get(precision, ()) if one in known]
        if not whole or not longer or (dim in self.dims and precision in known):
            return None
        return whole[0], longer[0]

    def _cut(self, batch: EncodedBatch, held: tuple[int, Precision], dim: int, precision: Precision) -> np.ndarray:
        """Smaller codes out of codes. Bits are signs, whatever the others stand for."""
        if self.codec is not None and precision in CODED:
            return self.codec.cut(batch.vectors, *held, to_dim=dim, to=precision)  # type: ignore[arg-type]  # few bits
        return store(self.decode(batch.vectors, *held), dim, precision)

    def _column(self, dim: int, precision: Precision) -> str:
        if dim not in self.dims:
            raise ValueError(f"{self.path} holds no size {dim}; it holds {', '.join(map(str, self.dims))}")
        known = self.manifest["precisions"]
        if precision not in known:
            hint = did_you_mean(precision, known) if precision in PRECISIONS else did_you_mean(precision, PRECISIONS)
            raise ValueError(f"{self.path} holds no {precision} vectors but {', '.join(known)}{hint}")
        return column_name(dim, precision)

    def _parquet_batches(self, name: str, batch_rows: int, start: int) -> Iterator[EncodedBatch]:
        from pyarrow import parquet

        others = [column for column in self.manifest["columns"] if not column.startswith("embedding_")]
        for shard in self.manifest["shards"]:
            if start >= shard["rows"]:
                start -= shard["rows"]
                continue
            with parquet.ParquetFile(self.path / SHARDS / shard["file"]) as opened:
                for read in opened.iter_batches(batch_rows, columns=[*others, name]):
                    batch, start = read.slice(start), max(0, start - len(read))
                    if len(batch):
                        yield _batch(batch, vectors_of(batch.column(name)))

    def _npy_batches(self, name: str, batch_rows: int, start: int) -> Iterator[EncodedBatch]:
        from pyarrow import parquet

        stored = np.load(self.path / f"{name}.npy", mmap_mode="r")
        first = 0
        with parquet.ParquetFile(self.path / IDS) as opened:
            for read in opened.iter_batches(batch_rows):
                batch = read.slice(max(0, start - first))
                first += len(read)
                if len(batch):
                    yield _batch(batch, np.array(stored[first - len(batch) : first]))


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Name the file in what reading it raises."""
    try:
        yield
    except (OSError, ValueError, EOFError) as error:  # Arrow's errors are of the first two
        mend = "restore it, or encode again into another folder"
        reason = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        raise ValueError(f"{file} is {reason}: {mend}") from error


def vectors_of(column: Any) -> np.ndarray:
    """Array (n, numbers) of an Arrow fixed-size list column."""
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values).reshape(len(column), column.type.list_size)


def _batch(batch: Any, vectors: np.ndarray) -> EncodedBatch:
    cells = {name: batch.column(name).to_pylist() for name in batch.schema.names if not name.startswith("embedding_")}
    return EncodedBatch(cells.pop("id"), vectors, cells.pop(TEXT, None), cells)


def open_encoded(folder: str | Path) -> EncodedFolder:
    """Open a folder that :func:`mrl_text.encoding.encode_files` has finished.

    Raises:
        FileNotFoundError: no such folder, or nothing was encoded into it.
        ValueError: an encoding that was interrupted, one by a later version of this package, or a file of it that is
            missing or damaged.
    """
    path = Path(folder).expanduser()
    if not (path / MANIFEST).is_file():
        raise FileNotFoundError(f"no encoding at {folder}: expected {MANIFEST} there; mrl-text encode makes one")
    manifest = read_json(path / MANIFEST)
    known = manifest if isinstance(manifest, dict) else {}
    if (version := known.get("version")) != 1:
        raise ValueError(f"{folder} is of version {version}, and this package reads version 1: update mrl-text")
    if lacking := [name for name in _SAID if name not in known]:
        raise ValueError(f"{path / MANIFEST} is damaged (it lacks {lacking[0]!r}): encode again into another folder")
    if not manifest["complete"]:
        raise ValueError(f"the encoding in {folder} was interrupted: run the same mrl-text encode again to finish it")
    encoded = EncodedFolder(path, manifest)
    encoded.check_files()
    return encoded


def read_embeddings(place: str | Path, id_columns: Sequence[str] = ()) -> tuple[np.ndarray, list[str] | None]:
    """Vectors as :func:`mrl_text.tables.vectors.read_vectors` reads them, or those of a folder of ``mrl-text encode``.

    Args:
        place: file or folder. Of a folder, the largest size in float32 is read, or, where that is not there, float16.
        id_columns: as there; of a folder, any name asks for the ids of its rows.

    Returns:
        Float array (n, width), and the ids, or None.

    Raises:
        FileNotFoundError: there is nothing, or a folder that holds no encoding.
        ValueError: as of a file; of a folder, codes alone, or an id that is there twice.
    """
    path = Path(place).expanduser()
    if not path.is_dir():
        return read_vectors(place, id_columns)
    encoded = open_encoded(path)
    stored = encoded.manifest["precisions"]
    precision = next((one for one in _FLOATS if one in stored), None)
    if precision is None:
        raise ValueError(f"{place} holds codes alone ({', '.join(stored)}): encode with --precision float32, too")
    vectors, ids = np.empty((encoded.rows, encoded.dims[-1]), precision), list[str]()
    for batch in encoded.batches(precision=precision):
        vectors[len(ids) : len(ids) + len(batch.ids)] = batch.vectors
        ids += batch.ids
    return vectors, unique_ids(path, ids) if id_columns else None
