"""The one reader of users' files: JSON lines, JSON, CSV, TSV, Parquet and text, row by row."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mrl_text.tables.delimited import csv_records, tsv_records
from mrl_text.tables.file_types import FORMATS, SUFFIXES, table_suffix

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = "text"
"""The column of a file without columns."""

BLANK = "is blank"
"""The problem of a line with nothing in it, which most readers pass over."""

_BATCH_ROWS = 1024  # of Parquet, at most
_BATCH_BYTES = 2**24  # of Parquet, about; fewer rows where these are long
_BLOCK = 2**20
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet: save it as CSV",
    b"PAR1": "Parquet: give it the ending .parquet",
    b"\x1f\x8b": "compressed with gzip: give it the ending .gz as well",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard: give it the ending .zst as well",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
}


@dataclass(frozen=True)
class Row:
    """One row of a file."""

    number: int
    """Counted from 1. In JSON lines and .txt every line counts; in CSV and TSV records do."""
    line: int
    """The line the row starts on, counted from 1; of Parquet and of one JSON document the number of the row."""
    cells: dict[str, Any] = field(default_factory=dict)
    """Column -> value; empty where there is a problem. A JSON object has the columns it names."""
    problem: str | None = None
    """Why the row cannot be read, None for a good one."""

    @property
    def blank(self) -> bool:
        """Whether there is nothing in it."""
        return self.problem == BLANK


@dataclass(frozen=True)
class Table:
    """A file of rows, as :func:`open_table` makes it. What cannot be read at all raises ``ValueError`` everywhere."""

    path: Path
    """Absolute."""
    format: str
    """``jsonl``, ``csv``, ``tsv``, ``parquet`` or ``txt``."""

    @property
    def unit(self) -> str:
        """What :attr:`Row.line` counts: ``line`` or ``row``."""
        return "row" if self.format == "parquet" or self._is_document else "line"

    @property
    def typed(self) -> bool:
        """Whether values have types, as in JSON and Parquet; elsewhere all are text."""
        return self.format in ("jsonl", "parquet")

    @cached_property
    def columns(self) -> list[str]:
        """Every column of the file, in order; of JSON those of all rows, for which the file is read once.

        A column that is named twice, or JSON of which no row names one, is a ``ValueError``.
        """
        if self.format == "txt":
            return [TEXT]
        if self.format == "parquet":
            return self._once(list(self.schema.names))
        if self.format == "jsonl":
            names = dict.fromkeys(name for row in self.rows() for name in row.cells)
            if not names:
                bad = next((f", {self.unit} {row.line}: {row.problem}" for row in self.rows() if row.problem), "")
                raise ValueError(f"{self.path}{bad or ' has no row that names a column'}; a row is one JSON object")
            return list(names)
        line, header = next(self._records(), (1, cast(list[str] | str, [])))
        if problem := header if isinstance(header, str) else _undecodable("".join(header)):
            raise ValueError(f"{self.path}, line {line}: {problem}")
        return self._once(cast(list[str], header))

    @property
    def schema(self) -> pa.Schema:
        """Of Parquet, the types of the columns."""
        with _parquet(self.path) as opened:
            return opened.schema_arrow

    def rows(self, skip: int = 0, *, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """The rows after the first ``skip``, in the order of the file; memory does not grow with their number.

        A row that cannot be taken apart comes with its ``problem``. So does a blank line (:data:`BLANK`) of JSON lines
        and .txt; in CSV and TSV a blank line is a row only where there is one column. A JSON document is read whole.

        Args:
            skip: rows to pass over.
            columns: of Parquet, columns to read; None reads all.

        Raises:
            ValueError: what follows cannot be read at all, as in damaged Parquet or a damaged compressed file.
        """
        if self.format == "parquet":
            return _parquet_rows(self.path, skip, [name for name in self.columns if columns is None or name in columns])
        if self.format in ("csv", "tsv"):
            return self._delimited_rows(skip)
        if self._is_document:
            return self._document_rows(skip)
        return self._line_rows(skip, _json if self.format == "jsonl" else _plain)

    def count(self) -> int:
        """Rows that :meth:`rows` gives; the file is read once, of Parquet only the footer."""
        if self.format == "parquet":
            return int(_parquet(self.path).metadata.num_rows)
        if self.format in ("csv", "tsv") or self._is_document:
            return sum(1 for _ in self.rows())
        lines, last = 0, b"\n"
        with reading(self.path), open_binary(self.path) as stream:
            while block := stream.read(_BLOCK):
                lines, last = lines + block.count(b"\n"), block[-1:]
        return lines + (last != b"\n")

    def stamp(self) -> dict[str, int]:
        """Size and time of the last change, to tell whether the file is still the one that was read."""
        status = self.path.stat()
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}

    @cached_property
    def _is_document(self) -> bool:
        """Whether the file is one JSON array or object over several lines."""
        if self.format != "jsonl":
            return False
        first = next((line for line in self._lines() if line.strip()), "").strip()
        return first.startswith("[") or first == "{"

    def _once(self, names: list[str]) -> list[str]:
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{self.path} names the column {twice!r:.60} twice: keep one")
        return names

    def _lines(self) -> Iterator[str]:
        """Lines with their ends; bytes that are not UTF-8 become lone surrogates, which :func:`_decoded` finds."""
        newline = "" if self.format == "csv" else "\n"  # a carriage return alone ends a line of CSV only
        with reading(self.path), open_binary(self.path) as stream:
            binary = cast(BinaryIO, stream)
            yield from io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline=newline)

    def _line_rows(self, skip: int, parse: Callable[[str], dict[str, Any] | str]) -> Iterator[Row]:
        for number, line in enumerate(itertools.islice(self._lines(), skip, None), start=skip + 1):
            text = line.strip()
            cells = (BLANK if not text else None) or _undecodable(text) or parse(text)
            yield _row(number, cells)

    def _document_rows(self, skip: int) -> Iterator[Row]:
        content = "".join(self._lines())
        if problem := _undecodable(content):
            raise ValueError(f"{self.path} {problem}")
        try:
            found = _JSON.decode(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path} is not valid JSON: {error}") from None
        items = found if isinstance(found, list) else [found]
        for number, item in enumerate(items[skip:], start=skip + 1):
            yield _row(number, item if isinstance(item, dict) else _not_an_object(item))

    def _records(self) -> Iterator[tuple[int, list[str] | str]]:
        """Header and records; blank lines before the header are passed over."""
        records = (tsv_records if self.format == "tsv" else csv_records)(self._lines())
        return itertools.dropwhile(lambda found: not found[1], records)

    def _delimited_rows(self, skip: int) -> Iterator[Row]:
        names = self.columns
        records = self._records()
        next(records, None)
        kept = ((line, record) for line, record in records if record or len(names) == 1)
        for number, (line, record) in enumerate(itertools.islice(kept, skip, None), start=skip + 1):
            if isinstance(record, str):
                yield Row(number, line, problem=record)
            elif not record:
                yield Row(number, line, problem=BLANK)
            elif len(record) != len(names):
                yield Row(number, line, problem=f"has {len(record)} cells where the header has {len(names)}")
            elif problem := _undecodable("".join(record)):
                yield Row(number, line, problem=problem)
            else:
                yield Row(number, line, dict(zip(names, record, strict=True)))


def open_table(path: str | Path, suffixes: Sequence[str] = SUFFIXES) -> Table:
    """A file that can be read; only its beginning is looked at.

    Args:
        path: JSON lines, JSON, CSV, TSV, Parquet or .txt (a text a line), in UTF-8; maybe compressed.
        suffixes: the endings of :data:`SUFFIXES` that are allowed here.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a type of file that cannot be read, an empty one, or one that is not what its ending says.
    """
    file = Path(path).expanduser().absolute()
    suffix = table_suffix(file)
    if file.is_dir():
        texts = "; of a folder of texts make a file, docs/files.md shows how" if any(file.glob("*.txt")) else ""
        raise ValueError(f"{path} is a folder: give the path of a file{texts}")
    if suffix not in suffixes:
        raise ValueError(f"{path} is none of the types that can be read: {', '.join(suffixes)}")
    if not file.is_file():
        raise FileNotFoundError(f"no data file at {path}")
    with reading(file), open_binary(file) as stream:
        head = stream.read(4)
        blank = not head
        if suffix != ".parquet":
            if kind := next((kind for magic, kind in _FOREIGN.items() if head.startswith(magic)), None):
                raise ValueError(f"{path} is {kind}")
            blank = not head.removeprefix(b"\xef\xbb\xbf").strip()
            while blank and (block := stream.read(_BLOCK)):
                blank = not block.strip()
            while blank and (block := stream.read(_BLOCK)):
                blank = not block.strip()
    if blank:
        raise ValueError(f"{path} is empty: it needs at least one row")
    return Table(file, FORMATS[suffix])


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what libraries raise about a damaged file into one ``ValueError`` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        if isinstance(error, EOFError | OSError) or type(error).__module__ in ("zlib", "pyarrow.lib"):
            raise ValueError(f"{path} cannot be read: {_one_line(error)}") from error
        raise


def open_binary(path: Path) -> Any:
    """The bytes of a file, of one that ends in .gz or .zst those inside."""
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.open(path, "rb")
    if name.endswith(".zst"):
        import pyarrow as pa

        return pa.input_stream(str(path), compression="zstd")
    return path.open("rb")


def _undecodable(text: str) -> str | None:
    """The problem of a text with bytes that are not UTF-8."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        before = text[max(0, error.start - 20) : error.start]
        return f"is not UTF-8 (byte 0x{byte:02x} behind {before!r}): save it as UTF-8"
    return None


def _row(number: int, cells: dict[str, Any] | str) -> Row:
    """A row of a file in which every row is one line, from its cells or its problem."""
    return Row(number, number, problem=cells) if isinstance(cells, str) else Row(number, number, cells)


def _plain(line: str) -> dict[str, Any] | str:
    return {TEXT: line}


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; ValueError where a name comes twice, of which a plain reader would drop the first value in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r:.60} is named twice")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_named_once)


def _json(line: str) -> dict[str, Any] | str:
    try:
        value = _JSON.decode(line)
    except json.JSONDecodeError as error:
        return f"is not valid JSON ({error.msg}, column {error.colno})"
    except (ValueError, RecursionError) as error:
        return f"is not valid JSON ({error})"
    return value if isinstance(value, dict) else _not_an_object(value)


def _not_an_object(value: Any) -> str:
    return f"is {value!r:.60}, not a JSON object"


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {_one_line(error)}") from error


def _parquet_rows(path: Path, skip: int, columns: list[str]) -> Iterator[Row]:
    import pyarrow as pa

    opened = _parquet(path)
    footer = opened.metadata
    ends = list(itertools.accumulate(footer.row_group(one).num_rows for one in range(footer.num_row_groups)))
    first = next((group for group, end in enumerate(ends) if end > skip), len(ends))
    number = ends[first - 1] if first else 0
    rows = min((_rows_at_once(footer.row_group(one), columns) for one in range(first, len(ends))), default=1)
    try:
        for batch in opened.iter_batches(rows, row_groups=list(range(first, len(ends))), columns=columns):
            passed = min(max(0, skip - number), len(batch))
            number += passed
            for cells in batch.slice(passed).to_pylist():
                number += 1
                yield Row(number, number, cells)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read after row {number}: {_one_line(error)}") from error
    finally:
        opened.close()


def _rows_at_once(group: Any, columns: list[str]) -> int:
    """Rows of a group of Parquet to read together."""
    parts = (group.column(one) for one in range(group.num_columns))
    size: int = sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in columns)
    rows: int = group.num_rows
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(1, size)))


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200]
