"""The quick start, shortened, on a machine whose network is cut."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

NO_NETWORK = """
import socket, sys

def refuse(self, address, *rest):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        open({log!r}, "a").write(f"{{address}}\\n")
        raise OSError(f"network cut: {{address}}")
    return connect(self, address, *rest)

connect, socket.socket.connect = socket.socket.connect, refuse
socket.getaddrinfo = lambda *a, **k: (open({log!r}, "a").write(f"lookup {{a}}\\n"), (_ for _ in ()).throw(OSError()))[1]
import mrl_text.docstrings
mrl_text.docstrings.HELD_OUT_PACKAGES = ("http", "logging")  # less to encode
from mrl_text.cli import app
app(sys.argv[1:])
"""


@pytest.mark.model
def test_the_quick_start_runs_without_network_and_a_second_run_only_reads(tmp_path: Path) -> None:
    log = tmp_path / "network.log"
    script = tmp_path / "cut.py"
    script.write_text(NO_NETWORK.format(log=str(log)))
    data = ["data.train=[{source: docstrings, packages: [pandas], limit_per_package: 200}]"]
    data += ["data.validation=[{source: docstrings, packages: [sentence_transformers], limit_per_package: 20}]"]
    small = [*data, "training.max_steps=3", "training.per_device_train_batch_size=8", "eval.dims=[32,384]"]
    command = [sys.executable, str(script), "quickstart", *small, "--output", str(tmp_path / "run")]

    def run() -> subprocess.CompletedProcess[str]:
        # a user's machine: nothing says offline, and nothing is cached yet
        environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
        environment |= {"MRL_TEXT_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    first = run()
    assert first.returncode == 0, first.stderr[-2000:]
    assert not log.exists(), log.read_text()
    table = pd.read_csv(tmp_path / "run" / "eval" / "scores.csv")
    assert set(table["role"]) == {"model", "control"}
    assert set(table["dim"]) == {32, 384}
    base = table[table["role"] == "control"].set_index("dim")["score"]
    assert 0.4 < base[384] < 0.9  # real texts, real model: not a random ranking
    assert base[32] < base[384] - 0.1
    assert (tmp_path / "run" / "eval" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 3
    for score in (base[32], base[384]):
        printed = [float(number) for number in re.findall(r"\d+\.\d\d", first.stdout)]
        assert min(abs(number - 100 * score) for number in printed) < 0.0051  # a tie may be rounded either way
    assert first.stdout.count("->") == 3  # the three searches
    assert "Warning" not in first.stderr

    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*.json")}
    second = run()
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*.json")} == files
