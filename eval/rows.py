"""Columns of a user's files, with the line every row starts on, and all that is wrong with them in one error."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import parquet

from mrl_text.suggest import did_you_mean

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""What :func:`read_table` reads."""

_SHOWN_PROBLEMS = 5
_LONGEST_FIELD = 2**31 - 1  # the csv module stops at 128 KiB otherwise, and documents can be longer

T = TypeVar("T")


class Problems:
    """What is wrong with the rows of some files, reported together so that a user mends them together.

    Args:
        about: the file or folder, for the error.
    """

    def __init__(self, about: Path) -> None:
        self._about = about
        self._found: list[tuple[int, int, str]] = []
        self._files: list[Path] = []

    @property
    def count(self) -> int:
        """How many were noted so far."""
        return len(self._found)

    def follow(self, file: Path) -> None:
        """Show the problems of this file after those of the files before."""
        self._files.append(file)

    def add(self, table: Table, line: int, text: str) -> None:
        """Note a problem of the row that starts on ``line``."""
        place = f"{table.file.name}, {table.unit} {line}"
        self._found.append((self._files.index(table.file), line, f"{place}: {text}"))

    def raise_if_any(self) -> None:
        """Raise what was noted.

        Raises:
            ValueError: at least one problem; the first five are shown in the order of files and lines.
        """
        if not self._found:
            return
        shown = [text for _, _, text in sorted(self._found, key=lambda found: found[:2])[:_SHOWN_PROBLEMS]]
        if more := len(self._found) - len(shown):
            shown.append(f"... and {more} more")
        count = "1 problem" if len(self._found) == 1 else f"{len(self._found)} problems"
        raise ValueError(f"{self._about} has {count} to fix: {'; '.join(shown)}")


@dataclass
class Table:
    """Columns of one file, rows in the order of the file.

    Attributes:
        file: where it came from.
        columns: every column of the file.
        lines: the line each row starts on, counted from 1; in Parquet the number of the row.
        values: the columns that were asked for and are there; None where a row lacks the field.
        unit: ``"line"`` or ``"row"``, what ``lines`` counts.
        typed: whether values have types, as in JSON and Parquet; in CSV all are text.
    """

    file: Path
    columns: list[str]
    lines: list[int]
    values: dict[str, list[Any]]
    unit: str = "line"
    typed: bool = True


def read_bytes(file: Path) -> bytes:
    """The whole file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is of no type that can be read, or empty.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{file} is none of the types that can be read: {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileNotFoundError(f"no data file at {file}")
    content = file.read_bytes()
    if not content.removeprefix(codecs.BOM_UTF8).strip():
        raise ValueError(f"{file} is empty: it needs at least one row")
    return content


def read_table(file: Path, content: bytes, wanted: Collection[str], problems: Problems) -> Table:
    """Read the wanted columns; rows that cannot be taken apart are noted and left out.

    Args:
        file: tells the type and is named in errors; it is not opened.
        content: what is in it.
        wanted: columns to keep, where the file has them.
        problems: where malformed rows are noted.

    Raises:
        ValueError: not UTF-8, not Parquet, an array instead of lines of JSON, a column named twice, or no row.
    """
    problems.follow(file)
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        table = _read_parquet(file, content, wanted)
    elif suffix in (".csv", ".tsv"):
        table = _read_delimited(file, content, "\t" if suffix == ".tsv" else ",", wanted, problems)
    else:
        table = _read_json_lines(file, content, wanted, problems)
    if not table.lines:
        problems.raise_if_any()
        raise ValueError(f"{file} has no rows under its columns {_listed(table.columns)}: it needs at least one")
    return table


def require(table: Table, *layouts: Sequence[str]) -> None:
    """Check that the table has all columns of one of the layouts.

    Raises:
        ValueError: it has not; what was found and the nearest fix are named.
    """
    gaps = [[name for name in layout if name not in table.columns] for layout in layouts]
    if not all(gaps):
        return
    missing = {name for gap in gaps for name in gap}
    others = (column for column in table.columns if not any(column in layout for layout in layouts))
    hints = [(column, did_you_mean(column, missing)) for column in others]
    fixes = [f"for {shown(column)}{hint.removeprefix(';')}" for column, hint in hints if "did you mean" in hint]
    if not fixes:  # with no column of a layout there, it is another kind of file and nothing is near
        near = [gap for gap, layout in zip(gaps, layouts, strict=True) if len(gap) < len(layout)]
        fixes = [f"add {' and '.join(gap)}" for gap in near if len(gap) == min(map(len, near))]
    accepted = " or ".join(f"({', '.join(layout)})" for layout in layouts)
    advice = f": {', or '.join(fixes)}" if fixes else ""
    raise ValueError(f"{table.file} has the columns {_listed(table.columns)}; it needs {accepted}{advice}")


def checked(
    table: Table, name: str, convert: Callable[[Any], T], problems: Problems, default: T | None = None
) -> list[T]:
    """Convert a column; a value for which ``convert`` raises ``ValueError`` is noted and left out.

    Args:
        table: where the column is.
        name: the column.
        convert: from a value of the file to what is wanted.
        problems: where values that cannot be converted are noted.
        default: what a missing value means; None notes it, too.

    Returns:
        The converted values. Shorter than the table where something was noted, so rows of several columns may be
        put together only after :meth:`Problems.raise_if_any`.
    """
    done = []
    for line, value in zip(table.lines, table.values.get(name, [None] * len(table.lines)), strict=True):
        try:
            if value is not None:
                done.append(convert(value))
            elif default is not None:
                done.append(default)
            else:
                raise ValueError("is missing")
        except ValueError as error:
            problems.add(table, line, f"{name} {error}")
    return done


def text(value: object) -> str:
    """A string that is not blank."""
    if not any_text(value).strip():
        raise ValueError("is empty")
    return str(value)


def any_text(value: object) -> str:
    """A string, blank or not, that can be written as UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"is {shown(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"is {shown(value)}, which holds half a character (a lone surrogate)") from None
    return value


def identifier(value: object) -> str:
    """A name of a row: a string, or a whole number as its digits."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value)


def class_name(value: object) -> str:
    """A label: a string without the blanks around it, a whole number as its digits, or ``true`` and ``false``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return text(value).strip()


def number(value: object, *, typed: bool) -> float:
    """A finite number, written out where values have no types."""
    allowed = (int, float, Decimal) if typed else (str,)
    if not isinstance(value, allowed) or isinstance(value, bool) or "_" in str(value):  # float() reads "1_0"
        raise ValueError(f"is {shown(value)}, not a number")
    if not str(value).strip():
        raise ValueError("is empty")
    try:
        converted = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"is {shown(value)}, not a number") from None
    if not math.isfinite(converted):
        raise ValueError(f"is {shown(value)}, not a finite number")
    return converted


def shown(value: object) -> str:
    """A value for an error, cut where it is long."""
    complete = repr(value)
    return complete if len(complete) <= 60 else f"{complete[:60]}..."


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in columns)


def _decode(file: Path, content: bytes) -> str:
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file} is not UTF-8: byte {error.start + 1} of the file, in line {line}, is 0x{content[error.start]:02x};"
            " save it as UTF-8"
        ) from None


def _columns(table: Table) -> Table:
    if twice := sorted({shown(name) for name in table.columns if table.columns.count(name) > 1}):
        raise ValueError(f"{table.file} names the column {', '.join(twice)} twice: keep one")
    return table


def _read_delimited(file: Path, content: bytes, delimiter: str, wanted: Collection[str], problems: Problems) -> Table:
    lines = io.StringIO(_decode(file, content), newline="")
    table = Table(file, [], [], {}, typed=False)
    with _long_fields():
        before = problems.count
        records = _records(csv.reader(lines, delimiter=delimiter, strict=True), table, problems)
        _, table.columns = next(records, (1, []))
        if problems.count > before:  # of the header itself: what follows it would be taken for one
            problems.raise_if_any()
        _columns(table)
        places = [(place, name) for place, name in enumerate(table.columns) if name in wanted]
        kept: list[list[str]] = [[] for _ in places]
        for line, row in records:
            if len(row) != len(table.columns):
                problems.add(table, line, f"has {len(row)} columns where the header has {len(table.columns)}")
                continue
            table.lines.append(line)
            for column, (place, _) in zip(kept, places, strict=True):
                column.append(row[place])
    table.values = {name: column for (_, name), column in zip(places, kept, strict=True)}
    return table


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(reader: Any, table: Table, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line they start on: a quoted cell may go over several. Blank lines are skipped."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(table, line, f"its quotes do not match ({error}); inside quotes a quote is written twice")
            continue
        if row:
            yield line, row


def _read_json_lines(file: Path, content: bytes, wanted: Collection[str], problems: Problems) -> Table:
    decoded = _decode(file, content)
    if decoded.lstrip().startswith("["):
        raise ValueError(f"{file} holds a JSON array: write one object per line instead")
    columns: dict[str, None] = {}
    table = Table(file, [], [], {name: [] for name in wanted})
    for line, raw in enumerate(decoded.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            problems.add(table, line, f"is not valid JSON ({reason})")
            continue
        if not isinstance(row, dict):
            problems.add(table, line, f"is {shown(row)}, not a JSON object")
            continue
        columns.update(dict.fromkeys(row))
        table.lines.append(line)
        for name in wanted:
            table.values[name].append(row.get(name))
    table.columns = list(columns)
    table.values = {name: column for name, column in table.values.items() if name in columns}
    return table


def _read_parquet(file: Path, content: bytes, wanted: Collection[str]) -> Table:
    try:
        opened = parquet.ParquetFile(pa.BufferReader(content))
        table = _columns(Table(file, list(opened.schema_arrow.names), [], {}, unit="row"))
        data = opened.read(columns=[name for name in table.columns if name in wanted])
        table.values = {name: data.column(name).to_pylist() for name in data.column_names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None
    table.lines = list(range(1, opened.metadata.num_rows + 1))
    return table
