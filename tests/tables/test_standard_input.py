"""Standard input becomes a file whose name and time depend on what came alone."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mrl_text.tables import open_table
from mrl_text.tables.standard_input import remove, spool

ROWS = b'{"id": "a", "text": "a cat"}\n{"id": "b", "text": "a dog"}\n'


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def as_parquet() -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pa.table({"text": ["a cat", "a dog"]}), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        (ROWS, ".jsonl"),
        (b"\xef\xbb\xbf \n" + ROWS, ".jsonl"),
        (json.dumps([{"text": "a cat"}, {"text": "a dog"}], indent=1).encode(), ".jsonl"),
        (b"a cat\na dog\n", ".txt"),
        (gzip.compress(ROWS, mtime=0), ".jsonl.gz"),
        (zstd(b"a cat\na dog\n"), ".txt.zst"),
        (as_parquet(), ".parquet"),
    ],
)
def test_the_first_bytes_tell_what_it_is(content: bytes, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    file = spool(io.BytesIO(content))
    assert file.name == f"stdin{ending}"
    assert caplog.messages == [f"standard input is read as {ending}"]
    assert file.read_bytes() == content
    texts = [row.cells["text"] for row in open_table(file).rows() if not row.blank]
    assert texts == ["a cat", "a dog"]
    stamp = open_table(file).stamp()
    remove(file)
    assert not file.parent.exists()
    again = spool(io.BytesIO(content))
    assert (again, open_table(again).stamp()) == (file, stamp)
    assert spool(io.BytesIO(content + b" ")) != file


def test_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="standard input is empty"):
        spool(io.BytesIO())
    assert spool(io.BytesIO(b"\x1f\x8bcut")).name == "stdin.txt.gz"  # reading it tells what is wrong
