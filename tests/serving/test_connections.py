"""Connections that send nothing, next to nothing, or are too many. Raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from mrl_text.serving import ServerSettings
from mrl_text.serving.connections import Connection, Door, connection_limit
from tests.serving.conftest import Running

ANSWER = b"x" * 2**25
"""More than the buffers of both sides hold."""


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, without reading a body; below /wait only when the client has gone."""
    if scope["path"] == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = ANSWER if scope["path"] == "/long" else b"well"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(limit: int, timeout: float) -> Iterator[int]:
    """A server in a thread; gives its port."""
    door = Door(limit, timeout, lambda: None)
    protocol: Any = partial(Connection, door)
    config = uvicorn.Config(_app, http=protocol, backlog=door.at_once, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        listener.listen(1024)
        yield listener.getsockname()[1]
        server.should_exit = server.force_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(limit=1000, timeout=1) as found:
        yield found


def connect(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(sent)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended it; waits for that."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65_536):
            pass
    return True


def receive_until(connection: socket.socket, word: bytes, times: int = 1) -> None:
    found = b""
    while found.count(word) < times:
        part = connection.recv(1000)
        assert part, f"the end after {found!r}"
        found += part


def trickle(connection: socket.socket, byte: bytes) -> int:
    """Send a byte at a time until the other side has gone; gives how many."""
    for count in range(400):
        try:
            connection.sendall(byte)
        except OSError:
            return count
        time.sleep(0.05)
    raise AssertionError("it took one byte after the other")


def health(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/health")
    answer = connection.getresponse().read()
    connection.close()
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half of the headers"])
def test_unfinished_headers_are_not_waited_for(port: int, sent: bytes) -> None:
    with connect(port, sent) as connection:
        assert is_closed(connection)


def test_a_byte_at_a_time_does_not_help(port: int) -> None:
    with connect(port, b"GET / HTTP/1.1\r\nX: ") as connection:
        assert trickle(connection, b"x") < 100


def test_nor_does_it_in_a_body_that_nobody_reads(port: int) -> None:
    with connect(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n") as connection:
        receive_until(connection, b"well")
        assert trickle(connection, b"x") < 100


def test_a_request_under_way_is_not_timed(port: int) -> None:
    with connect(port, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        connection.settimeout(1.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_several_requests_on_one_connection(port: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(port, request + request) as connection:  # both at once
        receive_until(connection, b"well", 2)
        for _ in range(4):  # together longer than one may wait
            time.sleep(0.3)
            connection.sendall(request)
            receive_until(connection, b"well")


def test_who_takes_an_answer_slowly_gets_it(port: int) -> None:
    with connect(port, b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        found = 0
        while found < len(ANSWER):
            part = connection.recv(2**21, socket.MSG_WAITALL)
            assert part, f"the end after {found:,} bytes"
            found += len(part)
            time.sleep(0.1)


def test_who_does_not_take_it_goes() -> None:
    with (
        serving(limit=1000, timeout=0.2) as port,
        connect(port, b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n") as connection,
    ):
        time.sleep(2)
        found = 0
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(2**20):
                found += len(part)
        assert found < len(ANSWER)


def test_the_longest_wait_gives_way_to_new_ones() -> None:
    with serving(limit=16, timeout=30) as port:
        busy = connect(port, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        idle = [connect(port) for _ in range(60)]
        assert health(port) == b"well"
        assert all(is_closed(connection) for connection in idle[:40])
        for connection in (busy, idle[-1]):  # the last is still there, and so is who waits for an answer
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
        for connection in (busy, *idle):
            connection.close()


def test_the_limit_follows_from_the_files_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, limit in ((1024, 736), (256, 160), (64, 16), (10**6, 4096), (resource.RLIM_INFINITY, 4096)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert connection_limit(None) == limit
        assert connection_limit(10) == 10
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    with pytest.raises(ValueError, match=r"max_connections is 161, and the 256 files .* leave room for 160"):
        connection_limit(161)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    with pytest.raises(ValueError, match="may open only 40 files: allow more, such as ulimit -n 1024"):
        connection_limit(None)
    with pytest.raises(ValueError, match=r"max_connections must be above 0, got 0"):
        ServerSettings(max_connections=0)


def test_health_answers_with_few_files_and_many_connections(start: Callable[..., Running], tiny_bert: Path) -> None:
    server = start(tiny_bert, model_name="tiny", files=128, header_timeout=30)
    half = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n"
    idle = [connect(server.port, half) for _ in range(500)]
    for _ in range(3):
        assert health(server.port) == b'{"status":"ok"}'
    ended = httpx.get(f"{server.url}/metrics").text.partition("\nmrl_text_ended_connections_total ")[2]
    assert float(ended.split()[0]) >= 500 - 64
    for connection in idle:
        connection.close()
    assert "out of system resource" not in server.log and "Traceback" not in server.log


def test_requests_under_way_are_limited_and_health_is_not() -> None:
    from mrl_text.serving.guard import Guard
    from mrl_text.serving.metrics import Metrics

    release = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/health":
            await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(guard: Guard, path: str) -> int:
        found: list[int] = []

        async def send(message: Any) -> None:
            found.extend([message["status"]] if "status" in message else [])

        scope = {"type": "http", "path": path, "headers": [], "method": "GET"}
        await guard(scope, None, send)  # type: ignore[arg-type]
        return found[0]

    async def run() -> None:
        guard = Guard(app, api_key=None, metrics=Metrics(lambda: 0), most=2)
        under_way = [asyncio.create_task(ask(guard, "/v1/models")) for _ in range(2)]
        await asyncio.sleep(0)
        assert await ask(guard, "/v1/models") == 503
        assert await ask(guard, "/health") == 200
        release.set()
        assert await asyncio.gather(*under_way) == [200, 200]
        assert await ask(guard, "/v1/models") == 200

    asyncio.run(run())
