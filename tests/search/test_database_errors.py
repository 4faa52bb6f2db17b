"""Errors that stay are raised at once, with what to do; those that may pass are waited for. Neither is misnamed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("pgvector")
pytest.importorskip("qdrant_client")

from mrl_text.search import StoreUnavailableError, create_store, open_store  # noqa: E402

VECTORS = np.eye(4, dtype=np.float32)
URL = "postgresql://me@db/texts?table=t&wait=60"


FOR_GOOD = {
    'failed: FATAL:  password authentication failed for user "me"': "check user and password, PGPASSWORD and ~/.pgpass",
    "failed: fe_sendauth: no password supplied": "check user and password",
    'failed: FATAL:  role "timeout" does not exist': "check user and password",
    'failed: FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "me", no encryption': "check user",
    'failed: FATAL:  database "recovery" does not exist': "check host, database and the parameters of the URL",
    'failed: FATAL:  permission denied for database "texts"': "check host, database",
    "failed: received invalid response to SSL negotiation: H": "check the port, 5432 unless",
    "failed: expected authentication request from server, but received H": "check the port",
    "failed: server does not support SSL, but SSL was required": "check sslmode and sslrootcert",
    "failed: SSL error: certificate verify failed": "check sslmode and sslrootcert",
    'failed: root certificate file "/x/root.crt" does not exist': "check sslmode and sslrootcert",
    "failed: session is read-only": "name a server that can be written to",
    'definition of service "texts" not found': "check host, database and the parameters",
}
PASSING = [
    "failed: Connection refused Is the server running on that host and accepting TCP/IP connections?",
    "failed: timeout expired",
    "failed: Connection timed out",
    "failed: No route to host",
    "failed: Network is unreachable",
    "failed: Connection reset by peer",
    "failed: server closed the connection unexpectedly",
    "failed: could not receive data from server: Connection reset by peer",
    "failed: No such file or directory Is the server running locally and accepting connections on that socket?",
    "failed: SSL SYSCALL error: EOF detected",
    "failed: FATAL:  the database system is starting up",
    "failed: FATAL:  the database system is shutting down",
    "failed: FATAL:  the database system is in recovery mode",
    "failed: FATAL:  the database system is not yet accepting connections",
    "failed: FATAL:  sorry, too many clients already",
    "failed: FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    "failed: FATAL:  terminating connection due to administrator command",
]


def failing(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def connect(**_: Any) -> None:
        raise psycopg.OperationalError(f'connection failed: connection to server at "db", port 5432 {reason}')

    monkeypatch.setattr(psycopg, "connect", connect)


@pytest.mark.parametrize("reason", FOR_GOOD)
def test_a_connection_that_cannot_be_made_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], reason: str
) -> None:
    failing(monkeypatch, reason)
    with pytest.raises(ValueError, match="PostgreSQL at db, port 5432, database texts refused: ") as caught:
        open_store(URL)
    assert " ".join(reason.split()) in str(caught.value) and FOR_GOOD[reason] in str(caught.value)
    assert not waits


@pytest.mark.parametrize("reason", PASSING)
def test_a_connection_that_may_be_made_in_a_moment_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    failing(monkeypatch, reason)
    with pytest.raises(StoreUnavailableError, match=r"is it running, and reachable from here\?\) for 60 seconds"):
        open_store(URL)
    assert sum(waits) == pytest.approx(60)
    assert "_LostError" not in caplog.text and " ".join(reason.split()) in caplog.messages[0]


def test_a_host_that_is_not_known_is_named_after_a_moment(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    failing(monkeypatch, 'could not translate host name "db" to address: Name or service not known')
    with pytest.raises(StoreUnavailableError, match=r"for 3 seconds; .*Name or service not known; check the name of"):
        open_store(URL)
    assert sum(waits) == pytest.approx(3)


@pytest.fixture
def other_server() -> Iterator[int]:
    """The port of a server that speaks neither PostgreSQL's language nor HTTP."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                link = listener.accept()[0]
            except OSError:
                return
            with link, contextlib.suppress(OSError):
                link.recv(100)
                link.sendall(b"220 this is SMTP\r\n\r\n")
                link.shutdown(socket.SHUT_WR)
                while link.recv(1000):
                    pass

    threading.Thread(target=answer, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_the_port_of_something_else(waits: list[float], other_server: int) -> None:
    with pytest.raises(ValueError, match=r"refused: .*check the port, 5432 unless changed"):
        open_store(f"postgresql://me@127.0.0.1:{other_server}/texts?table=t&wait=60")
    with pytest.raises(ValueError, match="does not answer like Qdrant: is that its REST port"):
        open_store(f"qdrant://127.0.0.1:{other_server}/docs?wait=60")
    with pytest.raises(ValueError, match=r"makes no TLS connection .*qdrants:// is for TLS and qdrant:// for none"):
        open_store(f"qdrants://127.0.0.1:{other_server}/docs?wait=60")
    assert not waits


def test_a_host_that_is_not_known_to_qdrant(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StoreUnavailableError, match=r"for 3 seconds; .*Name or service not known; check the name of"):
        open_store("qdrant://nowhere.example/docs?wait=60")


def test_a_server_that_is_read_only(postgres_server: Any, table_url: Callable[..., str], waits: list[float]) -> None:
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as link:
        link.execute("CREATE DATABASE fixed")
        link.execute("ALTER DATABASE fixed SET default_transaction_read_only = on")
    url = table_url(database="fixed", wait=60)
    with pytest.raises(PermissionError, match="takes nothing new here: cannot execute CREATE EXTENSION in a read-only"):
        create_store(url, width=4)
    with pytest.raises(ValueError, match="session is read-only; name a server that can be written to"):
        create_store(f"{url}&target_session_attrs=read-write", width=4)
    assert not waits


def test_a_user_without_rights(postgres_server: Any, table_url: Callable[..., str], waits: list[float]) -> None:
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as link:
        link.execute("CREATE ROLE reader LOGIN")
        link.execute("CREATE EXTENSION IF NOT EXISTS vector")
    url = table_url(wait=60)
    with pytest.raises(PermissionError, match="permission denied for schema public; have its owner GRANT the right"):
        create_store(url.replace("postgres:@", "reader:@"), width=4)
    create_store(url, width=4).close()
    with pytest.raises(PermissionError, match=r"permission denied for table .*GRANT the right"):
        open_store(url.replace("postgres:@", "reader:@"))
    assert not waits
