"""A stand-in for an API, which can be told to fail, and the project's own server."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from mrl_text.api.options import KEY_VARIABLE, URL_VARIABLE, ApiOptions
from tests.serving.conftest import Running, start

__all__ = ["start"]

SECRET = "sk-Geheim-0123456789"
WIDTH = 12


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


Failure = tuple[int, dict[str, str], object]
"""Status, headers and body of an answer; a status of 0 closes the connection without one."""


def vector(text: str) -> np.ndarray:
    """What the stand-in answers for a text."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
    return np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)


class Stub(ThreadingHTTPServer):
    """Answers ``POST /v1/embeddings``.

    ``failures`` are given first, one a request. ``refuse`` looks at each body and may give one, too.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[list[str]] = []  # the texts of each request that got vectors
        self.bodies: list[dict[str, Any]] = []  # of all requests
        self.keys: set[str | None] = set()
        self.failures: list[Failure] = []
        self.refuse: Callable[[dict[str, Any]], Failure | None] = lambda body: None
        self.headers: dict[str, str] = {}
        self.as_lists = False
        self.gate = threading.Semaphore(10**6)  # a request waits here for its answer
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def texts(self) -> list[str]:
        return [text for texts in self.asked for text in texts]

    def options(self, **more: Any) -> ApiOptions:
        return ApiOptions(base_url=self.url, **more)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def do_POST(self) -> None:
        stub = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with stub.lock:
            stub.bodies.append(body)
            stub.keys.add(self.headers["authorization"])
            failure = stub.failures.pop(0) if stub.failures else None
        failure = failure or stub.refuse(body)
        if self.path != "/v1/embeddings":
            failure = 404, {}, {"error": {"message": "no such page"}}
        if failure is not None:
            self._fail(*failure)
            return
        stub.gate.acquire()
        rows = [vector(text) for text in body["input"]]
        plain = stub.as_lists or body.get("encoding_format") != "base64"
        data = [
            {"index": place, "embedding": row.tolist() if plain else base64.b64encode(row.astype("<f4")).decode()}
            for place, row in enumerate(rows)
        ]
        with stub.lock:
            stub.asked.append(body["input"])
        self._say(200, stub.headers, {"data": data[::-1], "usage": {"total_tokens": len(rows)}})  # in any order

    def _fail(self, status: int, headers: dict[str, str], body: object) -> None:
        if status:
            self._say(status, headers, body)
        else:
            self.close_connection = True

    def _say(self, status: int, headers: dict[str, str], body: object) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Be quiet."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A stand-in that is at work."""
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.gate.release(100)
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_key_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sends anybody's key, or waits as long as one does for a server."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.setattr("mrl_text.api.pace.FIRST_WAIT", 0.001)


@pytest.fixture(scope="session")
def served(start: Callable[..., Running], tiny_bert: object) -> Running:
    """The project's own server with the tiny model behind a key."""
    return start(tiny_bert, model_name="tiny", api_key=SECRET, max_inputs=100)
