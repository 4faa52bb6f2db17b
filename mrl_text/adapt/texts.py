"""What an adaptation is fitted on, read from a user's files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mrl_text.suggest import did_you_mean

logger = logging.getLogger(__name__)

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Files of texts that can be read: one text a line, or a table of which every text column is taken."""
PAIR_COLUMNS = ("anchor", "positive")
_JSON_BLOCK = 64 * 2**20  # the reader refuses a row that is larger than its block


def read_texts(files: Sequence[str | Path], *, column: str | None = None) -> list[str]:
    """The texts of all files, each once, without blank ones, in the order of the files.

    Args:
        files: ``.txt`` (one text a line), CSV, TSV, JSON lines or Parquet.
        column: of the tables, the column to take; None takes every column that holds text.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: a type of file that cannot be read, a broken one, or one without text.
    """
    if not files:
        raise ValueError("no file of texts was named")
    paths = [check_file(file, SUFFIXES) for file in files]
    kept: dict[str, None] = {}
    for path in paths:
        found = [text.strip() for text in _texts(path, column)]
        if not any(found):
            raise ValueError(f"{path} holds no text")
        kept.update(dict.fromkeys(filter(None, found)))
    return list(kept)


def read_pairs(file: str | Path) -> list[tuple[str, str]]:
    """The pairs of a table with the columns ``anchor`` and ``positive``; rows with a blank cell are left out.

    Raises:
        FileNotFoundError, ValueError: as for :func:`read_texts`.
    """
    path = check_file(file, SUFFIXES[1:])
    table = _table(path)
    anchors, positives = ([text.strip() for text in _column(table, name, path)] for name in PAIR_COLUMNS)
    pairs = [pair for pair in zip(anchors, positives, strict=True) if all(pair)]
    if len(pairs) < 2:
        raise ValueError(f"{path} has {len(pairs)} complete pair{'s'[: len(pairs) != 1]}: two is the least")
    return list(dict.fromkeys(pairs))


def read_vectors(file: str | Path) -> np.ndarray:
    """Embeddings (n, width) from ``.npy`` or from the one column of lists in a Parquet file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another type of file, no such column or several, or vectors of different widths.
    """
    path = check_file(file, (".npy", ".parquet"))
    if path.suffix.lower() == ".npy":
        return read_array(path)
    table = _table(path)
    lists = [name for name in table.column_names if _is_vector(table.schema.field(name).type)]
    if len(lists) != 1:
        found = f"{len(lists)} columns of float lists ({', '.join(lists)})" if lists else "no column of float lists"
        raise ValueError(f"{path} has {found}: it needs one, the embeddings")
    where = f"{path}: column {lists[0]!r} has"
    column = table[lists[0]].combine_chunks()
    if column.null_count:
        raise ValueError(f"{where} {column.null_count} row{'s'[: column.null_count > 1]} without an embedding")
    if pa.types.is_fixed_size_list(column.type):
        shortest = longest = column.type.list_size
    else:
        widths = np.diff(column.offsets.to_numpy())
        shortest, longest = (int(widths.min()), int(widths.max())) if len(widths) else (0, 0)
    if shortest != longest:
        raise ValueError(f"{where} vectors of {shortest} to {longest} numbers")
    numbers = column.flatten().to_numpy(zero_copy_only=False)  # an empty cell is read as not a number
    return np.asarray(numbers).reshape(len(column), longest)


def read_array(file: str | Path) -> np.ndarray:
    """A ``.npy`` file, without unpickling anything.

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
    """The path of a file that is there and of a known type.

    Raises:
        FileNotFoundError, ValueError: it is not.
    """
    path = Path(file).expanduser()
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} is none of the types that can be read here: {', '.join(suffixes)}")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    return path


def _texts(path: Path, column: str | None) -> list[str]:
    if path.suffix.lower() == ".txt":
        try:
            return path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: {_one_line(error)}") from error
    table = _table(path)
    if column is not None:
        return _column(table, column, path)
    columns = [name for name in table.column_names if _is_text(table.schema.field(name).type)]
    return [text for name in columns for text in _column(table, name, path)]


def _column(table: pa.Table, name: str, path: Path) -> list[str]:
    if name not in table.column_names:
        raise ValueError(f"{path} has no column {name!r}{did_you_mean(name, table.column_names)}")
    kind = table.schema.field(name).type
    if not _is_text(kind):
        raise ValueError(f"{path}: column {name!r} holds {kind}, not text")
    return [text or "" for text in table[name].to_pylist()]


def _table(path: Path) -> pa.Table:
    from pyarrow import csv, json, parquet

    suffix = path.suffix.lower()
    readers: dict[str, Callable[[], Any]] = {
        ".parquet": lambda: parquet.read_table(path),
        ".jsonl": lambda: json.read_json(path, json.ReadOptions(block_size=_JSON_BLOCK)),
        ".json": lambda: json.read_json(path, json.ReadOptions(block_size=_JSON_BLOCK)),
    }

    def delimited() -> Any:
        parse = csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
        return csv.read_csv(path, csv.ReadOptions(block_size=_JSON_BLOCK), parse)

    try:
        return readers.get(suffix, delimited)()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as {suffix}: {_one_line(error)}") from error


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_vector(kind: pa.DataType) -> bool:
    a_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(a_list and pa.types.is_floating(kind.value_type))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
