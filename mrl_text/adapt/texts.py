"""What an adaptation is fitted on, read from a user's files."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from mrl_text.tables import SUFFIXES, Problems, checked, open_table, read_columns, texts
from mrl_text.tables.values import any_text

logger = logging.getLogger(__name__)

Found = TypeVar("Found", bound=Hashable)
PAIR_COLUMNS = ("anchor", "positive")


def read_texts(files: Sequence[str | Path], *, column: str | None = None) -> list[str]:
    """The texts of all files, each once, without blank, in file order; errors as for ``tables.texts.read_texts``."""
    if not files:
        raise ValueError("no file of texts was named")
    for file in files:
        open_table(file)
    return _each_once([text for file in files for text in texts.read_texts(file, column)], "texts")


def read_pairs(file: str | Path) -> list[tuple[str, str]]:
    """The pairs of a table with the columns ``anchor`` and ``positive``; rows with a blank cell are left out.

    Raises:
        FileNotFoundError, ValueError: as for :func:`mrl_text.tables.read_columns`, or fewer than two pairs.
    """
    table = open_table(file, [suffix for suffix in SUFFIXES if suffix != ".txt"])
    problems = Problems(table.path)
    columns = read_columns(table, PAIR_COLUMNS, problems, required=[PAIR_COLUMNS])
    anchors, positives = (checked(columns, name, any_text, problems, default="") for name in PAIR_COLUMNS)
    problems.raise_if_any()
    stripped = [(anchor.strip(), positive.strip()) for anchor, positive in zip(anchors, positives, strict=True)]
    pairs = [pair for pair in stripped if all(pair)]
    if len(pairs) < 2:
        raise ValueError(f"{file} has {len(pairs)} complete pair{'s'[: len(pairs) != 1]}: two is the least")
    if blank := len(stripped) - len(pairs):
        logger.info("%s: %d of %d pairs have a blank side and are left out", file, blank, len(stripped))
    return _each_once(pairs, "pairs")


def _each_once(found: list[Found], what: str) -> list[Found]:
    distinct = list(dict.fromkeys(found))
    if repeated := len(found) - len(distinct):
        logger.info("%d of %d %s repeat others and are taken once", repeated, len(found), what)
    return distinct


def read_vectors(file: str | Path) -> np.ndarray:
    """Embeddings (n, width) from ``.npy`` or from the one column of lists in a Parquet file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another type of file, no such column or several, or vectors of different widths.
    """
    path = check_file(file, (".npy", ".parquet"))
    if path.suffix.lower() == ".npy":
        return read_array(path)
    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {_one_line(error)}") from error
    lists = [name for name in table.column_names if _is_vector(table.schema.field(name).type)]
    if len(lists) != 1:
        found = f"{len(lists)} columns of float lists ({', '.join(lists)})" if lists else "no column of float lists"
        raise ValueError(f"{path} has {found}: it needs one, the embeddings")
    where = f"{path}: column {lists[0]!r} has"
    column = table[lists[0]].combine_chunks()
    if column.null_count:
        raise ValueError(f"{where} {column.null_count} row{'s'[: column.null_count > 1]} without an embedding")
    extremes = compute.min_max(compute.list_value_length(column))
    shortest, longest = (extremes[end].as_py() or 0 for end in ("min", "max"))
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
    """The path, or FileNotFoundError or ValueError where it is not there or of another type."""
    path = Path(file).expanduser()
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} is none of the types that can be read here: {', '.join(suffixes)}")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    return path


def _is_vector(kind: pa.DataType) -> bool:
    a_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(a_list and pa.types.is_floating(kind.value_type))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
