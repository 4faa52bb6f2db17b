"""Records of CSV and TSV, each with the line it starts on."""

from __future__ import annotations

import csv
import itertools
from collections import deque
from collections.abc import Iterator

Record = list[str] | str
"""The cells of a record, or what is wrong with it."""

_LONGEST_CELL = 2**31 - 1  # the csv module stops at 128 KiB otherwise, and documents can be longer
_LONGEST_RECORD = 1000  # lines of one quoted record of TSV
_QUOTE = '"'


def csv_records(lines: Iterator[str], delimiter: str = ",") -> Iterator[tuple[int, Record]]:
    """Records as RFC 4180 has them: cells with commas, quotes or line breaks stand in quotes.

    ``lines`` come with their ends. Each record is the line it starts on, counted from 1, and its cells, none for a
    blank line. Quotes that do not match give a problem in place of the cells.
    """
    csv.field_size_limit(_LONGEST_CELL)  # of the whole process: readers that take turns cannot put it back
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lost = f"; with it lines {line} to {reader.line_num} are left out" if reader.line_num > line else ""
            yield line, f"its quotes do not match ({error}{lost}); inside quotes a quote is written twice"


def tsv_records(lines: Iterator[str]) -> Iterator[tuple[int, Record]]:
    """Records of tab-separated lines, in which a quote is a character like any other.

    A cell that stands in quotes as a whole loses them, since spreadsheets and pandas write such cells. A line that
    does not have the header's number of cells may be the beginning of a quoted cell with tabs or line breaks in it.
    The first of ``lines`` is the header; records are as in :func:`csv_records`.
    """
    ahead = _Ahead(lines)
    width = 0
    while (line := ahead.take()) is not None:
        number = ahead.taken
        if not line.strip("\r\n"):
            yield number, []
            continue
        cells = _split(line)
        width = width or len(cells)
        quoted = _quoted(line, width, ahead) if _may_go_on(cells, width, ahead) else None
        yield number, quoted or [_unquoted(cell) for cell in cells]


class _Ahead:
    """Lines that can be looked at before they are taken."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.taken = 0
        self._lines = lines
        self._waiting: deque[str] = deque()

    def take(self) -> str | None:
        if (line := self.peek(0)) is not None:
            self._waiting.popleft()
            self.taken += 1
        return line

    def peek(self, place: int) -> str | None:
        self._waiting.extend(itertools.islice(self._lines, max(0, place + 1 - len(self._waiting))))
        return self._waiting[place] if place < len(self._waiting) else None


def _split(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _unquoted(cell: str) -> str:
    inside = cell[1:-1]
    whole = len(cell) > 1 and cell[0] == cell[-1] == _QUOTE and _QUOTE not in inside.replace(2 * _QUOTE, "")
    return inside.replace(2 * _QUOTE, _QUOTE) if whole else cell


def _may_go_on(cells: list[str], width: int, ahead: _Ahead) -> bool:
    """Whether a quoted cell of this line could hold tabs, or go on in the next line."""
    if len(cells) != width:
        return any(cell.startswith(_QUOTE) for cell in cells)
    following = ahead.peek(0)
    opens = cells[-1].startswith(_QUOTE) and _unquoted(cells[-1]) == cells[-1]
    return opens and following is not None and len(_split(following)) != width


def _quoted(line: str, width: int, ahead: _Ahead) -> list[str] | None:
    """The record that begins with this line, read with quotes; None unless it then has the header's cells.

    Lines inside it that are whole records by themselves, no cell of which has a quote without its other half, show
    that the quote was only a character. So does a last line that could be a record if the first one could be, too.
    """
    count = 0

    def following() -> Iterator[str]:
        nonlocal count
        yield line
        while count < _LONGEST_RECORD and (more := ahead.peek(count)) is not None:
            count += 1
            yield more

    csv.field_size_limit(_LONGEST_CELL)
    try:
        cells = next(csv.reader(following(), delimiter="\t", strict=True))
    except (csv.Error, StopIteration):
        return None
    if len(cells) != width or (count and width > 1 and _hides_records(line, [*map(ahead.peek, range(count))], width)):
        return None
    for _ in range(count):
        ahead.take()
    return cells


def _hides_records(first: str, following: list[str | None], width: int) -> bool:
    *inner, last = (_split(line or "") for line in following)
    if len(_split(first)) == len(last) == width:
        return True
    return any(len(cells) == width and not any(cell.count(_QUOTE) % 2 for cell in cells) for cells in inner)
