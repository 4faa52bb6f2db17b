"""A connection to PostgreSQL that comes back when it was lost."""

from __future__ import annotations

import contextlib
import math
import os
import re
import textwrap
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

import psycopg
from pgvector.psycopg import register_vector
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from mrl_text.search.postgres.sql import PREFIX, check_name
from mrl_text.search.retry import PassingError, closed_on_error, retrying, wait_seconds
from mrl_text.search.urls import SECRETS, split_url, without_password

T = TypeVar("T")
Link: TypeAlias = psycopg.Connection[Any]

_PASSING = {"40001", "40P01", "53300", "57P01", "57P02", "57P03"}
"""SQLSTATEs after which the same again may work: conflicts, too many connections, a server that stops or starts."""
_MAY_PASS = re.compile(
    r"refused|reset by|broken pipe|abort|timed? ?out|unreachable|no route|failed: no such file|unexpectedly"
    r"|EOF detected|host name|name resolution|name or service not known|could not (send|receive)"
    r"|starting up|shutting down|not (yet )?accepting|recovery|too many|reserved for|terminating",
    re.IGNORECASE,
)
"""What is said of a connection that could not be made, and may be in a moment: the server is away, busy or starts."""
_ADVICE = (
    (
        r"port number|invalid response|SSL negotiation|authentication request",
        "check the port, 5432 unless changed",
    ),
    (r"password|authentication|role|pg_hba", "check user and password, PGPASSWORD and ~/.pgpass"),
    (r"ssl|certificate|tls", "check sslmode and sslrootcert in the URL"),
    (r"read-only|standby", "name a server that can be written to, or leave target_session_attrs out of the URL"),
    ("", "check host, database and the parameters of the URL"),
)
"""What to do about a connection that cannot be made: the first that fits."""
_UNWRITABLE = re.compile(r"[\x00-\x20@/]|%(?![0-9a-fA-F]{2})")
"""What user and password cannot have in a URL as it is."""
_OURS = ("table", "wait", "type")
_OLDEST = (0, 7)
_LONGEST_REASON = 240
_NOTICING = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
"""Options of a connection that notices a dead host."""
_EXTENSION = "vector"


_MEANINGS: tuple[tuple[tuple[type[psycopg.Error], ...], type[Exception], str], ...] = (
    (
        (errors.InsufficientPrivilege,),
        PermissionError,
        "PostgreSQL does not allow this user to do that: {}; have its owner GRANT the right, or be another user",
    ),
    (
        (errors.ReadOnlySqlTransaction,),
        PermissionError,
        "PostgreSQL takes nothing new here: {}; name a server, and a user, that is not read-only",
    ),
    (
        (errors.UndefinedTable, errors.InvalidSchemaName),
        FileNotFoundError,
        "a table or the schema of the store is not there: {}",
    ),
    ((errors.DiskFull, errors.OutOfMemory), OSError, "PostgreSQL is short of room: {}"),
    (
        (errors.IntegrityError, errors.RaiseException, errors.GeneratedAlways, errors.StringDataRightTruncation),
        ValueError,
        "a rule of the table refuses this, and nothing of it was done: {}; change rows or rule, and run it again",
    ),
    (
        (errors.ProtocolViolation, errors.ObjectNotInPrerequisiteState, errors.ProgrammingError, errors.DataError),
        ValueError,
        "PostgreSQL cannot do this: {}; where the table was changed, undo that, or fill a new one",
    ),
    ((psycopg.Error,), OSError, "PostgreSQL gave up: {}"),  # as at a statement that takes longer than is allowed
)
"""What errors of the server are in the library: the first that fits."""


class Connection:
    """One connection, opened when it is needed and again when it was lost; one thread uses it at a time.

    Args:
        url: ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE?table=NAME``. ``table`` may be ``SCHEMA.TABLE``. ``wait``
            is how many seconds to try again for when there is no answer, ``type`` what a new table holds full vectors
            in. Everything else goes to libpq.
        install: create the extension in the database if it is not there.

    Raises:
        ValueError: no table, or something that libpq does not know.
    """

    def __init__(self, url: str, *, install: bool = False) -> None:
        scheme, credentials, place, query = split_url(url)
        if _UNWRITABLE.search(credentials):
            raise ValueError(
                f"user or password in the URL of {without_password(url)} have a character that a URL cannot hold as it"
                " is: write them percent-encoded, as Python's urllib.parse.quote(password, safe='') does, or leave the"
                " password to PGPASSWORD or ~/.pgpass"
            )
        pieces = [piece.partition("=") for piece in query.split("&") if piece]
        ours = {name: unquote(value) for name, _, value in pieces if name in _OURS}
        rest = "&".join("".join(piece) for piece in pieces if piece[0] not in _OURS)
        self.names = _table_names(ours.get("table", ""))
        self.seconds = wait_seconds(ours.get("wait"))
        self.type = ours.get("type")
        given = _libpq(f"{scheme}://{credentials}{'@' if credentials else ''}{place}{'?' if rest else ''}{rest}")
        patience = {"connect_timeout": max(2, min(10, math.ceil(self.seconds)))}
        self._options = {"application_name": "mrl-text", **_NOTICING, **patience, **given}  # what the user set stays
        host = given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST") or "the local socket"
        port = str(given.get("port") or os.environ.get("PGPORT") or 5432)
        database = given.get("dbname") or "its default"
        if not all(one.isdecimal() and int(one) < 2**16 for one in port.split(",") if one):
            raise ValueError(
                "the port in the URL is no number up to 65535: expected"
                " postgresql://USER:PASSWORD@HOST:PORT/DATABASE?table=NAME"
            )
        self._what = f"PostgreSQL at {host}, port {port}, database {database}"
        self._connection: Link | None = None
        self._lock = threading.Lock()
        self._install = install
        self.pgvector: tuple[int, ...] = ()

    def run(self, work: Callable[[Link], T]) -> T:
        """What ``work`` returns for a connection in autocommit mode; called again when the connection was lost.

        Args:
            work: safe to repeat.

        Raises:
            StoreUnavailableError: no answer within the time that is waited.
            PermissionError: not allowed to that user.
            FileNotFoundError: a table or schema that is not there, or a database without pgvector.
            ValueError: the server refuses the connection, or has no pgvector of use; or the table does not take it.
            OSError: its disk is full, or it gave up on a statement.
        """
        with self._lock:
            what = f"{self._what} (is it running, and reachable from here?)"
            return retrying(lambda: self._attempt(work), seconds=self.seconds, what=what)

    def close(self) -> None:
        """Let go of the connection; another :meth:`run` opens it again."""
        with self._lock:
            self._drop()

    def _attempt(self, work: Callable[[Link], T]) -> T:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            return work(self._connection)
        except psycopg.Error as error:
            away = error.sqlstate is None and isinstance(error, psycopg.OperationalError)  # in the middle of a talk
            if away or error.sqlstate in _PASSING or (self._connection is not None and self._connection.closed):
                self._drop()
                raise PassingError(str(error)) from error
            raise _translated(error) from error
        except BaseException:
            if self._connection is not None and self._connection.info.transaction_status != TransactionStatus.IDLE:
                self._drop()  # interrupted in the middle
            raise

    def _connect(self) -> Link:
        try:
            connection = psycopg.connect(**self._options, autocommit=True)
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            plain = re.sub(r'"[^"]*"', "", reason)  # names may be any word
            if _MAY_PASS.search(plain):
                raise PassingError(reason) from error
            advice = next(advice for about, advice in _ADVICE if re.search(about, plain, re.IGNORECASE))
            raise ValueError(f"{self._what} refused: {reason}; {advice}") from error
        with closed_on_error(connection):
            self.pgvector = _extension(connection, install=self._install)
            try:
                register_vector(connection)
            except psycopg.ProgrammingError as error:
                raise ValueError(
                    "pgvector is in a schema of the database that is not searched: append"
                    " &options=-csearch_path%3Dpublic,SCHEMA to the URL, or let an administrator run"
                    " ALTER EXTENSION vector SET SCHEMA public"
                ) from error
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def _table_names(text: str) -> tuple[str, ...]:
    """Schema, if one was given, and table."""
    *schema, name = text.split(".")
    if not text or len(schema) > 1:
        raise ValueError(f"the table {text!r} is no name: end the URL with ?table=NAME or ?table=SCHEMA.NAME")
    if name.startswith(PREFIX):
        raise ValueError(f"the table cannot be called {name!r}: names that begin with {PREFIX} are the library's own")
    return tuple(check_name(one, "name") for one in (*schema, name))


def _libpq(url: str) -> dict[str, Any]:
    """What libpq reads in a URL. Its own words are shown as far as they cannot quote a part of a password."""
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError as error:
        words = " ".join(str(error).split())
    if "invalid URI query parameter" not in words or any(f"{name}=" in url for name in SECRETS):
        words = words.partition(': "')[0].partition(' "')[0]
    raise ValueError(f"not a URL that PostgreSQL's libpq takes: {words}")


def _extension(connection: Link, *, install: bool) -> tuple[int, ...]:
    """Version of pgvector in the database, where it is, or may be put, and is not too old."""
    if install:
        _create_extension(connection)
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = %s", [_EXTENSION]).fetchone()
    if row is None:
        raise FileNotFoundError("the database has no pgvector, and so no store: create one first")
    found = tuple(map(int, re.findall(r"\d+", row[0])))
    if found < _OLDEST:
        raise ValueError(
            f"pgvector {'.'.join(map(str, found))} is too old, {'.'.join(map(str, _OLDEST))} or later is needed:"
            " install it on the server, then run ALTER EXTENSION vector UPDATE"
        )
    return found


def _create_extension(connection: Link) -> None:
    try:
        connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(_EXTENSION)))
    except psycopg.errors.UniqueViolation:  # somebody else was faster
        pass
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        package = f"postgresql-{connection.info.server_version // 10_000}-pgvector"
        raise ValueError(
            f"the PostgreSQL server has no pgvector: install it there (Debian: apt-get install {package})"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ValueError(
            "the database has no pgvector and this user may not create it: let an administrator run"
            " CREATE EXTENSION vector"
        ) from error


def _translated(error: psycopg.Error) -> Exception:
    """An error of the server in the library's words, and in its own."""
    own = error.diag.message_primary, error.diag.message_detail
    reason = textwrap.shorten(
        "; ".join(filter(None, own)) or str(error), _LONGEST_REASON
    )  # a detail may be a whole row
    kind, words = next((kind, words) for given, kind, words in _MEANINGS if isinstance(error, given))
    return kind(words.format(reason))
