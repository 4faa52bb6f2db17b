"""Rows of a corpus of any size, read one after the other."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrl_text.suggest import did_you_mean

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
"""Files that hold a corpus."""

_ID_COLUMNS = ("_id", "id", "doc_id", "docid")
_TITLE, _TEXT = "title", "text"  # BEIR's columns
_BLOCK = 2**20
_BATCH_ROWS = 1024  # of Parquet
_LONGEST_CELL = 2**31 - 1  # the csv module stops at 128 KiB otherwise, and documents can be longer


@dataclass(frozen=True)
class Row:
    """One row of a corpus.

    Attributes:
        number: counted from 1; in JSON lines and .txt the line.
        id: as the file has it; None where it has none.
        text: what is encoded; empty where there is a problem.
        problem: why the row cannot be indexed, None for a good one.
        cells: the columns that were asked for besides, by name; a cell that is not there is None.
    """

    number: int
    id: str | None
    text: str
    problem: str | None = None
    cells: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A file of a corpus and where in it ids and texts are.

    Attributes:
        path: absolute.
        text_columns: joined by a blank where there are several; empty for .txt.
        id_column: None numbers the rows.
        keep: columns that rows bring along in ``cells``.
    """

    path: Path
    text_columns: tuple[str, ...]
    id_column: str | None
    keep: tuple[str, ...] = ()

    def stamp(self) -> dict[str, int]:
        """Size and time of the last change, to tell whether the file is still the one that was read."""
        status = self.path.stat()
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}

    def count(self) -> int:
        """Rows of the file; of CSV and TSV lines, which are more where cells go over several."""
        suffix = self.path.suffix.lower()
        if suffix == ".parquet":
            from pyarrow import parquet

            return int(parquet.read_metadata(self.path).num_rows)
        lines, last = 0, b"\n"
        with self.path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                lines, last = lines + block.count(b"\n"), block[-1:]
        return lines + (last != b"\n") - (suffix in (".csv", ".tsv"))

    def rows(self, skip: int = 0, *, blanks: bool = False) -> Iterator[Row]:
        """The rows after the first ``skip``, blank lines left out but counted.

        A blank line of CSV is a row where there is one column only. A row that cannot be taken apart or has no text
        comes with its ``problem``.

        Args:
            skip: rows to pass over.
            blanks: a blank line comes as a row with a problem, too.

        Raises:
            ValueError: what follows cannot be read at all: damaged Parquet, CSV that is not UTF-8.
        """
        columns = dict.fromkeys([*self.text_columns, *filter(None, [self.id_column]), *self.keep])
        for number, cells in _records(self.path, skip, list(columns)):
            if cells is None and blanks:
                yield Row(number, None, "", "is blank")
            elif cells is not None:
                yield self._row(number, cells)

    def _row(self, number: int, cells: dict[str, Any] | str) -> Row:
        if isinstance(cells, str):
            return Row(number, None, "", cells)
        parts = [cells.get(name) for name in self.text_columns]
        if wrong := [part for part in parts if not isinstance(part, str | None)]:
            return Row(number, None, "", f"holds {wrong[0]!r:.60}, not text")
        text = " ".join(part for part in parts if part).strip()
        if not text:
            return Row(number, None, "", "has no text")
        name = cells.get(self.id_column) if self.id_column else None
        if not isinstance(name, str | int | None) or isinstance(name, bool):
            return Row(number, None, "", f"has the id {name!r:.60}, neither text nor a whole number")
        try:
            (text + str(name)).encode()
        except UnicodeEncodeError:
            return Row(number, None, "", "holds half a character (a lone surrogate)")
        kept = {column: cells.get(column) for column in self.keep}
        return Row(number, None if name in (None, "") else str(name), text, None, kept)


def open_source(
    path: str | Path, text_columns: Sequence[str] = (), id_column: str | None = None, keep: Sequence[str] = ()
) -> Source:
    """Find out where in a file ids and texts are; only its beginning is read.

    Args:
        path: JSON lines, CSV, TSV, Parquet or .txt (a text a line).
        text_columns: what to encode; none takes ``text`` and, before it, ``title`` where there is one (BEIR).
        id_column: None takes the first of ``_id``, ``id``, ``doc_id``, ``docid`` there is, else numbers the rows.
        keep: columns that rows bring along.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a type of file that cannot be read, an empty or broken one, or no such column.
    """
    file = Path(path).expanduser().absolute()
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} is none of the types of corpus that can be read: {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileNotFoundError(f"no corpus file at {path}")
    if not file.stat().st_size:
        raise ValueError(f"{path} is empty: it needs at least one row")
    if suffix == ".txt":
        if text_columns or id_column or keep:
            raise ValueError(f"{path} holds a text a line: it has no columns to choose")
        return Source(file, (_TEXT,), None)
    known = _columns(file)
    for name in (*text_columns, *([id_column] if id_column else []), *keep):
        if name not in known:
            raise ValueError(f"{path} has no column {name!r}{did_you_mean(name, known)}")
    if not text_columns:
        if _TEXT not in known:
            raise ValueError(
                f"{path} has no column 'text' but {', '.join(map(repr, known))}: say which to encode with --text-column"
            )
        text_columns = [name for name in (_TITLE, _TEXT) if name in known]
    id_column = id_column or next((name for name in _ID_COLUMNS if name in known), None)
    return Source(file, tuple(text_columns), id_column, tuple(keep))


def _columns(file: Path) -> list[str]:
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return list(_parquet(file).schema_arrow.names)
    if suffix in (".csv", ".tsv"):
        with _text(file) as stream:
            names = next(_csv(stream, file), [])
        if len(set(names)) < len(names):
            raise ValueError(f"{file} names a column twice: {', '.join(names)}")
        return names
    first = next((cells for _, cells in _records(file, 0, []) if cells is not None), "holds blank lines only")
    if isinstance(first, str):
        raise ValueError(f"{file}: the first row {first}; it takes one JSON object a line")
    return list(first)


def _records(file: Path, skip: int, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str | None]]:
    """Number and cells of each row after ``skip``; a problem as a string, None for a blank line."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return _parquet_records(file, skip, columns)
    if suffix in (".csv", ".tsv"):
        return _csv_records(file, skip)
    return _line_records(file, skip, _plain if suffix == ".txt" else _json)


def _line_records(
    file: Path, skip: int, parse: Callable[[str], dict[str, Any] | str]
) -> Iterator[tuple[int, dict[str, Any] | str | None]]:
    with file.open("rb") as stream:
        for number, line in enumerate(itertools.islice(stream, skip, None), start=skip + 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield number, f"is not UTF-8 ({error.reason} at byte {error.start + 1} of the line)"
                continue
            yield number, parse(text) if text else None


def _plain(line: str) -> dict[str, Any] | str:
    return {_TEXT: line}


def _json(line: str) -> dict[str, Any] | str:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is not valid JSON ({error})"
    return cells if isinstance(cells, dict) else f"is {line[:60]}, not a JSON object"


def _text(file: Path) -> Any:
    return file.open(encoding="utf-8-sig", newline="")


def _csv(stream: Any, file: Path) -> Iterator[list[str]]:
    """Header and records of a delimited file; blank lines left out, unless they are the only column's empty cells."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
    try:
        names = next(filter(None, reader), [])
        yield names
        yield from reader if len(names) == 1 else filter(None, reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read after line {reader.line_num}: {error}") from error


def _csv_records(file: Path, skip: int) -> Iterator[tuple[int, dict[str, Any] | str | None]]:
    with _text(file) as stream:
        records = _csv(stream, file)
        names = next(records, [])
        for number, cells in enumerate(itertools.islice(records, skip, None), start=skip + 1):
            if not cells:
                yield number, None
            elif len(cells) == len(names):
                yield number, dict(zip(names, cells, strict=True))
            else:
                yield number, f"has {len(cells)} cells where the header has {len(names)}"


def _parquet_records(
    file: Path, skip: int, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any] | str | None]]:
    import pyarrow as pa

    opened = _parquet(file)
    groups = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
    ends = list(itertools.accumulate(groups))
    first = next((group for group, end in enumerate(ends) if end > skip), len(groups))
    number = ends[first - 1] if first else 0
    left = list(range(first, len(groups)))
    try:
        for batch in opened.iter_batches(_BATCH_ROWS, row_groups=left, columns=list(columns)):
            passed = min(max(0, skip - number), len(batch))
            number += passed
            for cells in batch.slice(passed).to_pylist():
                number += 1
                yield number, cells
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read after row {number}: {' '.join(str(error).split())[:200]}") from error


def _parquet(file: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error
