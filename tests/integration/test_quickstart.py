"""The quick start, shortened, on a machine whose network is cut."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from mrl_text.eval.grid import Cell
from mrl_text.quickstart import comparison
from tests.processes import Started

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
def test_the_quick_start_runs_without_network_and_a_second_run_only_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "network.log"
    script = tmp_path / "cut.py"
    script.write_text(NO_NETWORK.format(log=str(log)))
    data = ["data.train=[{source: docstrings, packages: [pandas], limit_per_package: 200}]"]
    data += ["data.validation=[{source: docstrings, packages: [sentence_transformers], limit_per_package: 20}]"]
    small = [*data, "training.max_steps=3", "training.per_device_train_batch_size=8", "eval.dims=[32,384]"]
    command = [sys.executable, str(script), "quickstart", *small, "--output", str(tmp_path / "run")]

    cache = {"MRL_TEXT_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
    # a user's machine: nothing says offline, and nothing is cached yet
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name} | cache
    first = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
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
    own = table[table["role"] == "model"].set_index(["dim", "precision"])["score"]
    assert {precision for _, precision in own.index} == {"float32", "int4", "int2", "binary"}
    for score in (base[384], own[384, "float32"], own[32, "binary"]):
        printed = [float(number) for number in re.findall(r"\d+\.\d\d", first.stdout)]
        assert min(abs(number - 100 * score) for number in printed) < 0.0051  # a tie may be rounded either way
    assert first.stdout.count("->") == 3  # the three searches
    assert "Warning" not in first.stderr

    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*.json")}
    monkeypatch.chdir(tmp_path)
    second = Started(script.read_text(), *command[2:], **cache)
    assert second.stdout.read() == first.stdout
    assert second.wait() == 0, second.errors
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*.json")} == files


def test_the_table_compares_the_trained_model_in_few_bytes_with_the_whole_base() -> None:
    full, binary, tiny = Cell(64), Cell(64, "binary"), Cell(16, "binary")
    scores = {full: 0.5, Cell(64, "int4"): 0.49, binary: 0.41, tiny: 0.1}
    result: Any = SimpleNamespace(
        lines=["trained", "base"],
        curve=lambda line: {64: 0.4, 2: 0.05} if line == "base" else {64: 0.5},
        pareto=lambda: {("trained", cell) for cell in (full, binary, tiny)} | {("other", Cell(64, "int4"))},
        estimate=lambda line, cell: SimpleNamespace(value=scores[cell]),
        compare=lambda task, line, cell, other, dim: SimpleNamespace(
            mean=scores[cell] - 0.4, low=scores[cell] - 0.42, high=scores[cell] - 0.38, n=1234
        ),
    )
    lines = comparison(result).splitlines()
    assert "1,234 docstrings" in lines[0] and "40.00 in 256 bytes, 64 x float32" in lines[1]
    assert [line.split() for line in lines[4:7]] == [
        ["256", "64", "x", "float32", "50.00", "+10.00", "[+8.00,", "+12.00]", "40.00"],
        ["8", "64", "x", "binary", "41.00", "+1.00", "[-1.00,", "+3.00]", "5.00"],
        ["2", "16", "x", "binary", "10.00", "-30.00", "[-32.00,", "-28.00]", "too", "few"],
    ]
    assert lines[-1] == (
        "Trained in 8 bytes (64 x binary) against the base in its 256: +1.00 [-1.00, +3.00] with 32x fewer bytes."
    )
