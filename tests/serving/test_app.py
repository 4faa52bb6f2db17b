"""Answers that need a model which waits or fails when told to."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from mrl_text.lanes import Share
from mrl_text.serving import serve
from mrl_text.serving.app import Service, create_app
from mrl_text.serving.embedder import Reading
from mrl_text.serving.settings import ServerSettings


class Told:
    """An embedder of width 2 that waits while it is held, fails at "bad" and makes a vector too many at "odd"."""

    share = Share(1, 1)

    name, width, dims, max_tokens, device, dtype = "told", 2, (2,), None, "cpu", "float32"
    backend, names = "torch", {"told"}

    def __init__(self) -> None:
        self.free, self.busy = threading.Event(), threading.Event()
        self.free.set()

    def reading(self, input_type: str | None, prompt_name: str | None) -> Reading:
        return Reading()

    def shortened(self, texts: list[str], reading: Reading) -> list[str]:
        return texts

    def count(self, texts: Sequence[str], reading: Reading | None = None) -> list[int]:
        return [len(text) for text in texts]

    def encode(self, texts: Sequence[str], reading: Reading | None = None) -> np.ndarray:
        self.busy.set()
        assert self.free.wait(20)
        if "bad" in texts:
            raise RuntimeError("secret of the model")
        return np.array([[3, 4]] * (len(texts) + ("odd" in texts)), np.float32) / 5


def run(
    told: Told, scenario: Callable[[httpx.AsyncClient, Service], Coroutine[Any, Any, None]], **options: Any
) -> None:
    async def within() -> None:
        service = Service(told, ServerSettings(**options))  # type: ignore[arg-type]
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            await scenario(client, service)
        service.batcher.close()
        service.batcher.join(10)

    asyncio.run(within())


def post(client: httpx.AsyncClient, *texts: str) -> Coroutine[Any, Any, httpx.Response]:
    return client.post("/v1/embeddings", json={"input": list(texts), "model": "told"})


def test_too_much_at_once_gets_429():
    told = Told()
    told.free.clear()

    async def scenario(client: httpx.AsyncClient, service: Service) -> None:
        first = asyncio.create_task(post(client, *["abcd"] * 100))  # into an empty queue, so it may
        await asyncio.to_thread(told.busy.wait, 20)
        refused = await post(client, "a")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        told.free.set()
        assert (await first).status_code == 200
        assert (await post(client, "a")).json()["data"][0]["embedding"] == [np.float32(0.6), np.float32(0.8)]
        metrics = (await client.get("/metrics")).text
        assert 'mrl_text_requests_total{path="/v1/embeddings",status="429"} 1.0' in metrics
        assert "mrl_text_tokens_total 401.0" in metrics

    run(told, scenario, max_queue=100, max_batch_tokens=40)


def test_a_model_that_fails_gives_500_and_tells_only_the_log(caplog):
    async def scenario(client: httpx.AsyncClient, service: Service) -> None:
        failed = await post(client, "good", "bad")
        assert failed.status_code == 500
        assert failed.json()["error"]["type"] == "server_error"
        assert "secret" not in failed.text and "Traceback" not in failed.text
        assert (await post(client, "good")).status_code == 200

    run(Told(), scenario)
    assert "secret of the model" in caplog.text


def test_a_stopping_server_gives_503():
    async def scenario(client: httpx.AsyncClient, service: Service) -> None:
        service.batcher.close()
        refused = await post(client, "good")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"

    run(Told(), scenario)


def test_a_request_that_takes_too_long_leaves_the_queue():
    told = Told()
    told.free.clear()

    async def scenario(client: httpx.AsyncClient, service: Service) -> None:
        late = await post(client, *["abcd"] * 100)
        assert late.status_code == 504
        assert service.batcher.queued_tokens == 0
        told.free.set()

    run(told, scenario, timeout=0.2, max_batch_tokens=40)


def test_a_server_that_cannot_compute_any_more_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mrl_text.serving.run.Embedder", lambda *_, **__: Told())
    before = signal.getsignal(signal.SIGINT)
    addresses: list[str] = []
    answers: list[httpx.Response] = []

    def ask(address: str) -> None:
        addresses.append(address)
        body = {"input": "odd", "model": "told"}
        client = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{address}/v1/embeddings", json=body, timeout=20))
        )
        client.start()
        clients.append(client)

    clients: list[threading.Thread] = []
    with pytest.raises(ValueError, match="zip"):
        serve("told", ServerSettings(port=0), on_ready=ask)
    clients[0].join(20)
    assert answers[0].status_code == 503
    assert not any(thread.name.startswith("mrl-text-http") for thread in threading.enumerate())
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(addresses[0].rpartition(":")[2])), timeout=5)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_start_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mrl_text.serving.run.Embedder", lambda *_, **__: Told())

    def nobody_reads(_: str) -> None:
        raise BrokenPipeError("nobody reads the address")

    with pytest.raises(BrokenPipeError):
        serve("told", ServerSettings(port=0), on_ready=nobody_reads)


def test_blanks_around_a_token_do_not_count():
    async def scenario(client: httpx.AsyncClient, service: Service) -> None:
        assert (await client.get("/v1/models", headers={"authorization": "Bearer key"})).status_code == 200
        assert (await client.get("/v1/models", headers={"authorization": "Bearer other"})).status_code == 401

    run(Told(), scenario, api_key=" key ")
