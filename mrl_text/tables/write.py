"""Rows to a file that is whole or not there, maybe compressed, or to standard output."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from mrl_text.tables.file_types import table_suffix

ROW_SUFFIXES: dict[str, Literal["csv", "jsonl"]] = {".csv": "csv", ".jsonl": "jsonl"}
"""Ending of a file of rows -> what :func:`write_rows` writes into it."""

Kind = TypeVar("Kind")


def output_kind(path: Path, kinds: Mapping[str, Kind], what: str) -> Kind:
    """What the ending of a file stands for; ValueError for one that is none of ``kinds``; ``what`` is written there."""
    if (suffix := table_suffix(path)) not in kinds:
        raise ValueError(f"{path}: {what} are written to {', '.join(kinds)}, and .gz or .zst may follow")
    return kinds[suffix]


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Open a file for text; it takes its name when the block ends, and an error leaves what was there.

    Args:
        path: ``.gz`` and ``.zst`` are compressed; None is standard output.

    Raises:
        ValueError: it is a folder.
        OSError: it cannot be written.
    """
    if path is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:  # whoever reads it has enough, such as head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(128 + 13) from None  # as a shell calls it
        return
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the path of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _opened(partial, path.suffix.lower()) as binary, io.TextIOWrapper(binary, "utf-8", newline="") as text:
            yield text
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_rows(rows: Iterable[Mapping[str, Any]], kind: Literal["csv", "jsonl"], stream: TextIO) -> int:
    """Write rows of the same columns as CSV under a header, or as JSON lines; gives how many there were.

    In CSV a list or an object is JSON text, and so are truth values; what JSON does not know, such as a date, is text.
    """
    table = csv.writer(stream, lineterminator="\n")
    count = 0
    for count, row in enumerate(rows, start=1):
        if kind == "jsonl":
            stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            continue
        if count == 1:
            table.writerow(row)
        table.writerow(map(_cell, row.values()))
    return count


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, bool | list | dict) else value


def _opened(path: Path, suffix: str) -> Any:
    if suffix == ".gz":
        return gzip.open(path, "wb")
    if suffix == ".zst":
        import pyarrow as pa

        return pa.output_stream(str(path), compression="zstd")
    return path.open("wb")
