"""kill -9 in the middle, again and again: the result is that of an undisturbed run."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch

from mrl_text.encoding import encode_files, open_encoded
from tests.processes import Started

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from mrl_text.encoding import encode_files
encode_files([sys.argv[1]], sys.argv[2], model=sys.argv[3], dims=[8, 32], precisions=["float32", "int8"],
             keep=["text"], shard_rows=16)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_killed_twice(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    options = {"dims": [8, 32], "precisions": ["float32", "int8"], "keep": ["text"], "shard_rows": 16}
    encode_files([corpus], tmp_path / "whole", model=str(tiny_bert), **options)  # type: ignore[arg-type]
    shards = tmp_path / "out/shards"
    for enough in (2, 7):
        threads = str(torch.get_num_threads())
        process = Started(SCRIPT, corpus, tmp_path / "out", tiny_bert, OMP_NUM_THREADS=threads)
        while process.poll() is None and len(list(shards.glob("0*.parquet"))) < enough:
            time.sleep(0.001)
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
        finished = {file.name: file.stat().st_mtime_ns for file in shards.glob("0*.parquet")}
        assert len(finished) >= enough
    report = encode_files([corpus], tmp_path / "out", model=str(tiny_bert), **options)  # type: ignore[arg-type]
    assert report.encoded <= 300 - 16 * 7
    assert all((shards / name).stat().st_mtime_ns == stamp for name, stamp in finished.items())
    for shard in open_encoded(tmp_path / "whole").manifest["shards"]:
        expected = (tmp_path / "whole/shards" / shard["file"]).read_bytes()
        assert (shards / shard["file"]).read_bytes() == expected
    for name in ("manifest.json", "problems.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
