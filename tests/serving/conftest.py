"""Real servers, each in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import context

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

KEY = "correct-horse-battery-staple"


class Running:
    """A server process.

    Args:
        log: file for what it writes to standard error.
    """

    def __init__(self, model: object, log: Path, **options: Any) -> None:
        from tests.serving.child import run

        self._log = log
        address, ready = context.Pipe(duplex=False)
        self.process = context.Process(target=run, args=(None if model is None else str(model), options, log, ready))
        self.process.start()
        ready.close()
        try:
            self.url: str = address.recv()
        except EOFError:
            raise AssertionError(f"it did not start: {self.log}") from None

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def stop(self) -> None:
        if self.process.is_alive():
            self.signal(signal.SIGTERM)
        self.wait()

    def wait(self, seconds: float = 60) -> int:
        """Its exit status."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it is still there"
        return self.process.exitcode


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """Start servers that end with the tests."""
    logs = tmp_path_factory.mktemp("logs")
    running: list[Running] = []

    def run(model: object, **options: Any) -> Running:
        running.append(Running(model, logs / f"{len(running)}.txt", **options))
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
