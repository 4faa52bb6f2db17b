"""Rows to files, read back by other readers."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from mrl_text.tables.write import ROW_SUFFIXES, open_output, output_kind, write_rows

ROWS = [
    {"id": 1, "text": 'a "cat", or\ntwo', "tags": ["a", 1], "seen": datetime.date(2024, 2, 29), "ok": True, "n": None},
    {"id": 2, "text": "ein Käfer", "tags": {}, "seen": None, "ok": False, "n": 0.5},
]


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_rows_come_back(tmp_path: Path, compression: str) -> None:
    def read(name: str) -> str:
        content = (tmp_path / "new" / name).read_bytes()
        if compression == ".zst":
            return pa.input_stream(pa.py_buffer(content), compression="zstd").read().decode()
        return (gzip.decompress(content) if compression else content).decode()

    for kind in ("csv", "jsonl"):
        file = tmp_path / "new" / f"rows.{kind}{compression}"
        with open_output(file) as stream:
            assert write_rows(ROWS, output_kind(file, ROW_SUFFIXES, "rows"), stream) == 2
    found = list(csv.reader(io.StringIO(read(f"rows.csv{compression}"))))
    assert found == [
        ["id", "text", "tags", "seen", "ok", "n"],
        ["1", 'a "cat", or\ntwo', '["a", 1]', "2024-02-29", "true", ""],
        ["2", "ein Käfer", "{}", "", "false", "0.5"],
    ]
    assert [json.loads(line) for line in read(f"rows.jsonl{compression}").splitlines()] == [
        {**ROWS[0], "seen": "2024-02-29"},
        ROWS[1],
    ]


def test_what_was_there_stays_until_all_is_written(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("older")
    with pytest.raises(KeyboardInterrupt), open_output(file) as stream:
        stream.write("half")
        raise KeyboardInterrupt
    assert [one.read_text() for one in tmp_path.iterdir()] == ["older"]


def test_an_output_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows.xml: rows are written to .csv, .jsonl, and .gz or .zst may follow"):
        output_kind(tmp_path / "rows.xml", ROW_SUFFIXES, "rows")
    with pytest.raises(ValueError, match="is a folder"), open_output(tmp_path):
        pass


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    program = "\n".join(
        (
            "from mrl_text.tables.write import open_output",
            "with open_output(None) as stream:",
            "    while True: stream.write('row\\n')",
        )
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"row\n"
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""
