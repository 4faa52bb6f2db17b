"""From a URL to a store."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from mrl_text.search.plan import SearchPlan
from mrl_text.search.store import Store
from mrl_text.search.urls import without_password

_POSTGRES, _QDRANT = ("postgres", "PostgresStore"), ("qdrant", "QdrantStore")
_ENGINES = {"postgresql": _POSTGRES, "postgres": _POSTGRES, "qdrant": _QDRANT, "qdrants": _QDRANT}
_FORMS = (
    "a folder (FAISS), postgresql://USER@HOST/DATABASE?table=NAME, qdrant://HOST:6333/COLLECTION (qdrants:// for TLS),"
    " or qdrant:FOLDER#COLLECTION (embedded)"
)
_KEYWORDS = re.compile(r"(?:^|\s)(host|hostaddr|port|dbname|user|password)\s*=")


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
    room, name = _ENGINES.get(scheme, ("", "")) if colon else ("", "")
    if "://" not in text:
        keywords = _KEYWORDS.findall(text)
        if room == "postgres" or len(keywords) > 1 or "password" in keywords:
            raise ValueError(f"a database is named by a URL with ://, not by keywords: expected {_FORMS}")
    elif not room or not rest.startswith("//"):
        raise ValueError(f"{without_password(text)!r} is not a store: expected {_FORMS}")
    if not room:
        room, name = "faiss", "FaissStore"
    return cast("type[Store]", getattr(import_module(f"mrl_text.search.{room}.store"), name))
