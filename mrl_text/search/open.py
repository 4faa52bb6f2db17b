"""From a URL to a store."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from mrl_text.search.plan import SearchPlan
from mrl_text.search.store import Store

_POSTGRES, _QDRANT = ("postgres", "PostgresStore"), ("qdrant", "QdrantStore")
_ENGINES = {"postgresql": _POSTGRES, "postgres": _POSTGRES, "qdrant": _QDRANT, "qdrants": _QDRANT}
_FORMS = (
    "a folder (FAISS), postgresql://USER@HOST/DATABASE?table=NAME, qdrant://HOST:6333/COLLECTION (qdrants:// for TLS),"
    " or qdrant:FOLDER#COLLECTION (embedded)"
)
_SECRET = ("password", "sslpassword", "api_key", "token")


def open_store(url: str | Path) -> Store:
    """A store that is there, as it was left.

    Args:
        url: a folder (FAISS), ``postgresql://USER@HOST/DATABASE?table=NAME``, ``qdrant://HOST:6333/COLLECTION``
            (``qdrants://`` for TLS), or ``qdrant:FOLDER#COLLECTION`` (embedded).

    Raises:
        FileNotFoundError: there is none.
        ModuleNotFoundError: the extra for it is not installed.
        ValueError: a URL of another form.
        StoreUnavailableError: no answer.
    """
    return engine_of(url).open(str(url))


def create_store(
    url: str | Path,
    *,
    width: int,
    plan: SearchPlan | None = None,
    model: str | None = None,
    dims: Sequence[int] | None = None,
) -> Store:
    """A new, empty store; errors as of :func:`open_store`.

    Args:
        url: as for :func:`open_store`.
        width: numbers of the full vectors.
        plan: how to search; None compares with every full vector until ``set_plan`` is called.
        model: name or folder of the model that makes the vectors, for whoever searches by text.
        dims: sizes the model may be cut to; None is the width alone.

    Raises:
        FileExistsError: there is one already.
        ValueError: a plan that the engine cannot follow.
    """
    return engine_of(url).create(str(url), width=width, plan=plan, model=model, dims=dims)


def engine_of(url: str | Path) -> type[Store]:
    """The class of the store that a URL is for; nothing is opened. Errors as of :func:`open_store`."""
    text = str(url)
    scheme, colon, rest = text.partition(":")
    server = rest.startswith("//")
    room, name = _ENGINES.get(scheme, ("", "")) if colon else ("", "")
    if not room or (room == "postgres" and not server):
        if "://" in text:
            raise ValueError(f"{without_password(text)!r} is not a store: expected {_FORMS}")
        room, name = "faiss", "FaissStore"
    return cast("type[Store]", getattr(import_module(f"mrl_text.search.{room}.store"), name))


def without_password(url: str | Path) -> str:
    """A store's URL as it may be shown and written down.

    Example:
        >>> without_password("postgresql://me:secret@db/texts?table=t&password=secret")
        'postgresql://me@db/texts?table=t'
    """
    text = str(url)
    if "://" not in text:
        return text
    parts = urlsplit(text)
    user, at, host = parts.netloc.rpartition("@")
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in _SECRET]
    return urlunsplit(parts._replace(netloc=user.partition(":")[0] + at + host, query=urlencode(query)))
