"""Reaching Qdrant: addresses, the client, and what its failures mean."""

from __future__ import annotations

import json
import os
import sqlite3
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import ValidationError
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from mrl_text.search.retry import WAIT, PassingError, retrying, wait_seconds
from mrl_text.search.urls import SECRETS, split_url, without_password

KEY = "QDRANT_API_KEY"
"""Variable of the environment with the key of a server."""

META = "meta.json"
"""What the embedded mode knows of its collections, in its folder."""

_TIMEOUT = 60  # seconds for one answer: an upload waits until the server has applied it
_PORT = 6333
_NOT_QDRANT = "{} does not answer like Qdrant: is that its REST port?"
_MAY_PASS = {408, 429, 500, 502, 503, 504}
_IMPOSSIBLE = {"InvalidURL", "UnsupportedProtocol", "LocalProtocolError"}  # of the client's own library, httpx


@dataclass(frozen=True)
class Address:
    """Where a collection is.

    Attributes:
        collection: its name.
        server: ``http://HOST:PORT`` or ``https://...``, with a prefix if there is one; None for the embedded mode.
        folder: of the embedded mode; None for a server.
        wait: seconds after a first failure in which a request is sent again.
    """

    collection: str
    server: str | None = None
    folder: Path | None = None
    wait: float = WAIT

    @classmethod
    def parse(cls, url: str) -> Address:
        """The address that a URL names.

        Args:
            url: ``qdrant://HOST:PORT/COLLECTION``, ``qdrants://`` for TLS, ``?wait=SECONDS`` behind it for how long to
                try again where there is no answer; ``qdrant:FOLDER#COLLECTION``.

        Raises:
            ValueError: another form, a key inside the URL, or a ``wait`` that is no time.
        """
        forms = f"qdrant://HOST:{_PORT}/COLLECTION (qdrants:// for TLS) or qdrant:FOLDER#COLLECTION"
        shown = repr(without_password(url))
        scheme, _, rest = url.partition(":")
        if rest.startswith("//") and scheme in ("qdrant", "qdrants"):
            _, credentials, place, query = split_url(url)
            options = dict(parse_qsl(query, keep_blank_values=True))
            if credentials or not options.keys().isdisjoint(SECRETS):
                raise ValueError(f"a key does not belong into a URL: put it into the environment, {KEY}")
            try:
                parts = urlsplit(f"//{place}")
                port = parts.port or _PORT
            except ValueError:
                raise ValueError(f"{shown} is not an address: expected {forms}") from None
            prefix, _, collection = parts.path.rpartition("/")
            wait = options.pop("wait", None)
            if not parts.hostname or not collection or options or parts.fragment:
                raise ValueError(f"{shown} names no collection: expected {forms}")
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            http = "https" if scheme == "qdrants" else "http"
            return cls(unquote(collection), server=f"{http}://{host}:{port}{prefix}", wait=wait_seconds(wait))
        folder, _, collection = rest.rpartition("#")
        if scheme != "qdrant" or not folder or not collection:
            raise ValueError(f"{shown} names no collection: expected {forms}")
        return cls(collection, folder=Path(folder).expanduser())

    def __str__(self) -> str:
        return f"Qdrant at {self.server}" if self.server else f"Qdrant in {self.folder}"


class Client:
    """Qdrant's client for one collection; it asks again while the server does not answer.

    Args:
        address: of the collection. Nothing is asked of a server yet.

    Raises:
        ValueError: another client has the folder open, or it is damaged.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        if address.folder is None:
            key = os.environ.get(KEY) or None
            self._client = QdrantClient(url=address.server, api_key=key, timeout=_TIMEOUT, check_compatibility=False)
            return
        try:
            self._client = QdrantClient(path=str(address.folder))
        except Exception as error:  # JSON, SQLite and pickles are read, and fail in many ways
            if "already accessed" in str(error):
                raise ValueError(
                    f"{address.folder} is open in another process or store, and the embedded Qdrant allows one: close"
                    " that, or run a server"
                ) from None
            if isinstance(error, OSError):
                meta = address.folder / META
                if meta.is_file() and not meta.stat().st_size:  # begun on a full disk
                    meta.unlink()
                raise _failing(address, error) from error
            damaged = f"{address} cannot be opened ({error}): it is damaged, restore it or fill another folder"
            raise ValueError(damaged) from error

    def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What a method of ``QdrantClient`` returns for the collection and further arguments.

        Raises:
            StoreUnavailableError: no answer until the ``wait`` of the address was over.
            FileNotFoundError: the server knows no such collection.
            FileExistsError: it is there already.
            PermissionError: the key does not suffice.
            ValueError: the server refuses for another reason.
            OSError: the disk of the embedded mode is full, or fails.
        """
        action = partial(getattr(self._client, method), self.address.collection, *arguments, **options)
        what = f"{self.address} (is it running and reachable?)"
        return retrying(partial(_once, action, self.address), seconds=self.address.wait, what=what)

    def close(self) -> None:
        """Let go of the connection, or of the folder."""
        self._client.close()


def _once(action: Callable[[], Any], address: Address) -> Any:
    try:
        return action()
    except ResourceExhaustedResponse as error:  # 429 that says when to come back
        time.sleep(max(0.0, min(float(error.retry_after_s), address.wait)))
        raise PassingError(f"429, too many requests: {error}") from error
    except QdrantException as error:
        raise PassingError(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        if address.folder is None or isinstance(error, FileNotFoundError):
            raise
        raise _failing(address, error) from error
    except json.JSONDecodeError as error:
        raise ValueError(_NOT_QDRANT.format(address.server)) from error
    except ResponseHandlingException as error:
        raise _unanswered(error.source, address) from error
    except UnexpectedResponse as error:
        status, reason = error.status_code, f"{error.status_code}, {_reason(error)}"
        if status in _MAY_PASS:
            raise PassingError(reason) from error
        if status in (401, 403):
            raise PermissionError(
                f"{address} refuses access ({reason}): set {KEY} to a key that may do this"
            ) from error
        if status == 404:
            raise FileNotFoundError(f"{address} has no collection {address.collection!r} ({reason})") from error
        if status == 409:
            raise FileExistsError(f"{address} has a collection {address.collection!r} already ({reason})") from error
        raise ValueError(f"{address} refused a request: {reason}") from error


def _unanswered(error: BaseException, address: Address) -> Exception:
    """What it means that a request got no answer: an error for good, or a :class:`PassingError`."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    reason = str(error) or type(error).__name__
    if isinstance(error, ValidationError) or "illegal" in reason:  # no HTTP at all
        return ValueError(_NOT_QDRANT.format(address.server))
    if any(isinstance(one, ssl.SSLError) for one in chain) or "[SSL" in reason:
        return ValueError(
            f"{address} makes no TLS connection ({reason}): qdrants:// is for TLS and qdrant:// for none; check the"
            " port, too, and the server's certificate"
        )
    if any(type(one).__name__ in _IMPOSSIBLE for one in chain):
        return ValueError(f"{address} cannot be asked ({reason}): check host and port in the URL")
    return PassingError(reason)


def _failing(address: Address, error: Exception) -> OSError:
    again = "make room there, and run the same again; what was confirmed before is kept"
    return OSError(f"{address} cannot be written or read ({error}): {again}")


def _reason(error: Any) -> str:
    """What a server gave as the reason, in one line."""
    try:
        text = str(json.loads(error.content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        text = error.content.decode("utf-8", "replace") or error.reason_phrase
    return " ".join(text.split())[:300]
