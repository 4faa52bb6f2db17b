"""Start a server, and end it well."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from mrl_text.choices import AutoBackend, AutoDtype
from mrl_text.lanes import computing_with, whole
from mrl_text.serving.app import Service, create_app
from mrl_text.serving.connections import Connection, Door, connection_limit
from mrl_text.serving.embedder import Embedder
from mrl_text.serving.retrieval import Index
from mrl_text.serving.settings import ServerSettings
from mrl_text.truncation import check_dims

logger = logging.getLogger(__name__)

_SWITCH_SECONDS = 0.0005
"""How long one thread may keep the interpreter from another. At Python's 5 ms each operator of a forward pass could
wait that long for the thread that reads requests."""

_BACKLOG = 2048  # connections that the system holds until they are accepted


def serve(
    model: str | None,
    settings: ServerSettings | None = None,
    *,
    index: str | None = None,
    backend: AutoBackend = "torch",
    dtype: AutoDtype = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a model until a signal comes. To be called from the main thread.

    The first SIGTERM or SIGINT stops new requests and lets running ones finish for at most ``settings.grace`` seconds;
    the rest then gets 503. A second one ends the process at once with status 128 plus its number.

    Args:
        model: folder, hub id or packaged model; None is the one that made the vectors of the index.
        settings: address, limits, access; None is the defaults.
        index: store to search at ``/search``, as for :func:`mrl_text.search.open_store`.
        backend: what computes it, as for :func:`mrl_text.loading.load`.
        dtype: what the model computes in; ``auto`` is bfloat16 where the device has it natively, else float32.
        device: as for :func:`mrl_text.loading.load`.
        trust_remote_code: allow code that comes with the model to run.
        on_ready: gets the server's address once it answers.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a size the model does not have, a model that cannot be served.
        OSError: the address is taken or not of this machine.
    """
    settings = settings or ServerSettings()
    connections = connection_limit(settings.max_connections)
    switch_seconds = sys.getswitchinterval()
    store: Index | None = None
    listener = _bind(settings)  # before the model is loaded: an address that is taken shows at once
    try:
        if not settings.is_local and settings.api_key is None:
            logger.warning("anyone who reaches %s can use this server: set an API key", settings.host)
        store = Index(index) if index is not None else None
        source = store.find_model(model, trust_remote_code=trust_remote_code) if store else model
        if source is None:
            raise ValueError("there is nothing to serve: name a model, or an index with --index")
        embedder = Embedder(
            source,
            backend=backend,
            dtype=dtype,
            device=device,
            name=settings.model_name,
            trust_remote_code=trust_remote_code,
        )
        if store is not None:
            store.check_width(embedder.name, embedder.width)
        if settings.dims is not None:
            check_dims(settings.dims, embedder.width)
        _warm_up(embedder, settings.batch_tokens(embedder.device))
        sys.setswitchinterval(_SWITCH_SECONDS)
        service = Service(embedder, settings, index=store, thread=False)
        how = f"{embedder.backend} in {embedder.dtype} on {embedder.device}"
        logger.info("%s, %d numbers, %s", embedder.name, embedder.width, how)
        door = Door(connections, settings.header_timeout, service.metrics.ended_connections.inc)
        protocol: Any = partial(Connection, door)
        config = uvicorn.Config(
            create_app(service, most=door.requests),
            http=protocol,
            backlog=door.at_once,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=int(settings.grace) + 5,
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{host}:{listener.getsockname()[1]}"
        _run(_Server(config, service, address, on_ready), service, listener)
    finally:
        sys.setswitchinterval(switch_seconds)
        listener.close()
        if store is not None:
            store.close()


def _run(server: _Server, service: Service, listener: socket.socket) -> None:
    """Answer requests in a second thread and compute in this one, and in as many beside it as there are other lanes.

    torch fills more of the processor from the main thread than from another: ``benchmarks/serve.py`` prints the cores
    that are used.
    """

    def answer() -> None:
        try:
            server.run([listener])
        finally:
            service.batcher.close(abort=True)  # also where the server could not start

    with _signals(server), ThreadPoolExecutor(1, thread_name_prefix="mrl-text-http") as threads:
        answering = threads.submit(answer)
        try:
            service.batcher.run()
        finally:  # a server that can no longer compute must end
            server.should_exit = True
            service.batcher.close(abort=True)
        answering.result()  # raises the error that ended it


@contextmanager
def _signals(server: _Server) -> Iterator[None]:
    """Let the server handle the signals to stop. Only the main thread may say so."""
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, server.handle_exit) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """uvicorn's server with an orderly end: status 0 after a signal, 503 for requests that are late."""

    should_exit: bool

    def __init__(
        self, config: uvicorn.Config, service: Service, address: str, on_ready: Callable[[str], None] | None
    ) -> None:
        super().__init__(config)
        self._service, self._address, self._on_ready = service, address, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # uvicorn has one number for those that wait and those accepted in one go
        if self.started and self._on_ready is not None:
            self._on_ready(self._address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace = self._service.settings.grace
        late = asyncio.get_running_loop().call_later(grace, lambda: self._service.batcher.close(abort=True))
        await super().shutdown(sockets)
        late.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)  # everything else would wait for what is under way
        self.should_exit = True


def _bind(settings: ServerSettings) -> socket.socket:
    """Make a socket that holds the address but does not listen yet. A client that connects too early is refused."""
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OSError(f"cannot listen on {where}: {error.strerror}; try --host 127.0.0.1") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {where}: {error.strerror}; try another --port, 0 for any") from None
    return listener


def _warm_up(embedder: Embedder, batch_tokens: int) -> None:
    """Compute one short text and one full batch, so that the first clients do not wait for what starts lazily."""
    text = "warm " * 30
    for given in {whole(), embedder.share}:
        with computing_with(given):
            embedder.encode(["a"])
            embedder.encode([text] * max(1, batch_tokens // embedder.count([text])[0]))
