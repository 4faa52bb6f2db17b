"""Files of vectors: ``.npy``, Parquet and Arrow, mapped into memory where the format allows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from mrl_text.amounts import count
from mrl_text.tables.values import identifier, shown

VECTOR_SUFFIXES = (".npy", ".parquet", ".arrow", ".feather")


def read_vectors(file: str | Path, id_columns: Sequence[str] = ()) -> tuple[np.ndarray, list[str] | None]:
    """Vectors from ``.npy`` (n, width), or from the one column of float lists in a Parquet or Arrow file.

    Args:
        file: which; ``.npy``, and uncompressed Arrow in one batch, are not copied into memory.
        id_columns: the first of them that a Parquet or Arrow file has holds the ids.

    Returns:
        Float array (n, width), and the ids; None for ``.npy`` and where there is no such column.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another type of file, one that is damaged, no column of vectors or several, vectors of different
            widths, or an id that is missing or there twice.
    """
    path = check_file(file, VECTOR_SUFFIXES)
    if path.suffix.lower() == ".npy":
        return read_array(path), None
    schema = _opened(path, [])
    lists = [field.name for field in schema if _is_vector(field.type)]
    if len(lists) != 1:
        found = f"{len(lists)} columns of float lists ({', '.join(lists)})" if lists else "no column of float lists"
        raise ValueError(f"{path} has {found}: it needs one, the embeddings")
    named = [name for name in id_columns if name in schema.names][:1]
    table = _opened(path, [*lists, *named])
    return _numbers(path, lists[0], table), unique_ids(path, table[named[0]].to_pylist()) if named else None


def read_array(file: str | Path) -> np.ndarray:
    """A ``.npy`` file mapped into memory, without unpickling anything.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an array that numpy wrote.
    """
    path = check_file(file, (".npy",))
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a numpy array: {_one_line(error)}") from error


def check_file(file: str | Path, suffixes: Sequence[str]) -> Path:
    """The path, or FileNotFoundError or ValueError where it is not there or of another type."""
    path = Path(file).expanduser()
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} is none of the types that can be read here: {', '.join(suffixes)}")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    return path


def _opened(path: Path, columns: list[str]) -> Any:
    """The table of some columns, or the schema where none are named."""
    kind = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow"
    try:
        if kind == "Parquet":
            return parquet.read_table(path, columns=columns) if columns else parquet.read_schema(path)
        mapped = pa.memory_map(str(path))
        try:
            opened: Any = pa.ipc.open_file(mapped)
        except pa.ArrowInvalid:  # a stream, as the library datasets writes it
            mapped.seek(0)
            opened = pa.ipc.open_stream(mapped)
        return opened.read_all().select(columns) if columns else opened.schema
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as {kind}: {_one_line(error)}") from error


def _numbers(path: Path, name: str, table: pa.Table) -> np.ndarray:
    where = f"{path}: column {name!r} has"
    chunks = table[name]
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()  # which copies
    if column.null_count:
        raise ValueError(f"{where} {count(column.null_count, 'row')} without an embedding")
    extremes = compute.min_max(compute.list_value_length(column))
    shortest, longest = (extremes[end].as_py() or 0 for end in ("min", "max"))
    if shortest != longest:
        raise ValueError(f"{where} vectors of {shortest} to {longest} numbers")
    numbers = column.flatten().to_numpy(zero_copy_only=False)  # an empty cell is read as not a number
    return np.asarray(numbers).reshape(len(column), longest)


def unique_ids(path: Path, values: list[Any]) -> list[str]:
    """Ids as text, in order; ``ValueError`` that names the row where one is missing or there twice."""
    seen: dict[str, int] = {}
    for row, value in enumerate(values, start=1):
        try:
            name = identifier(value)
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: the id {error}") from None
        if (earlier := seen.setdefault(name, row)) != row:
            raise ValueError(f"{path}, row {row}: the id {shown(name)} is that of row {earlier}: each needs its own")
    return list(seen)


def _is_vector(kind: pa.DataType) -> bool:
    a_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(a_list and pa.types.is_floating(kind.value_type))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
