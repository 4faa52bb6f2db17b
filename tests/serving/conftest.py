"""A real server in a process of its own, and one in a thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

KEY = "correct-horse-battery-staple"

_PROGRAM = """
import logging, sys
logging.basicConfig(stream=sys.stderr, level=logging.INFO)
from mrl_text.serving import ServerSettings, serve
model, options = sys.argv[1], eval(sys.argv[2])
dtype = options.pop("dtype", "float32")
serve(model, ServerSettings(port=0, **options), dtype=dtype, on_ready=lambda address: print(address, flush=True))
"""


class Running:
    """A server process; ``log`` is what it wrote to standard error."""

    def __init__(self, model: object, **options: Any) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(model), repr(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), self.log

    def _read(self) -> None:
        assert self.process.stderr is not None
        self._lines.extend(self.process.stderr)

    @property
    def log(self) -> str:
        return "".join(self._lines)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.wait()

    def wait(self) -> int:
        """Its exit status."""
        status = self.process.wait(60)
        self._reader.join(10)
        return status


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Running]]:
    """Start servers that end with the tests."""
    running: list[Running] = []

    def run(model: object, **options: Any) -> Running:
        running.append(Running(model, **options))
        return running[-1]

    yield run
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def server(start: Callable[..., Running], tiny_bert: Path) -> Running:
    """The tiny model, open, with small limits."""
    return start(tiny_bert, model_name="tiny", max_inputs=100, max_request_bytes=200_000)


@pytest.fixture(scope="session")
def slow(start: Callable[..., Running], tiny_bert: Path) -> Running:
    """The tiny model in many small batches; takes token ids."""
    return start(tiny_bert, model_name="tiny", max_batch_tokens=128, token_ids=True)


@pytest.fixture(scope="session")
def guarded(start: Callable[..., Running], tiny_bert: Path) -> Running:
    """The tiny model behind a token."""
    return start(tiny_bert, model_name="tiny", api_key=KEY)
