"""From a URL to a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrl_text.search.plan import SearchPlan
from mrl_text.search.store import Store

_FORMS = (
    "a folder (FAISS), postgresql://USER@HOST/DATABASE?table=NAME, qdrant://HOST:6333/COLLECTION (qdrants:// for TLS),"
    " or qdrant:FOLDER#COLLECTION (embedded)"
)


def open_store(url: str | Path) -> Store:
    """A store that is there.

    Args:
        url: a folder (FAISS), ``postgresql://USER@HOST/DATABASE?table=NAME``, ``qdrant://HOST:6333/COLLECTION``
            (``qdrants://`` for TLS), or ``qdrant:FOLDER#COLLECTION`` (embedded).

    Returns:
        The store, as it was left.

    Raises:
        FileNotFoundError: there is none.
        ModuleNotFoundError: the extra for it is not installed.
        ValueError: a URL of another form.
        StoreUnavailableError: no answer.
    """
    match engine_of(url):
        case "faiss":
            from mrl_text.search.faiss.store import FaissStore

            return FaissStore.open(str(url))
        case "postgresql":
            from mrl_text.search.postgres.store import PostgresStore

            return PostgresStore.open(str(url))
        case _:
            from mrl_text.search.qdrant.store import QdrantStore

            return QdrantStore.open(str(url))


def create_store(
    url: str | Path,
    *,
    width: int,
    plan: SearchPlan | None = None,
    model: str | None = None,
    dims: Sequence[int] | None = None,
) -> Store:
    """A new, empty store.

    Args:
        url: as for :func:`open_store`.
        width: numbers of the full vectors.
        plan: how to search; None compares with every full vector until ``set_plan`` is called.
        model: name or folder of the model that makes the vectors, for whoever searches by text.
        dims: sizes the model may be cut to; None is the width alone.

    Returns:
        The store.

    Raises:
        FileExistsError: there is one already.
        ModuleNotFoundError: the extra for it is not installed.
        ValueError: a URL of another form, or a plan that the engine cannot follow.
        StoreUnavailableError: no answer.
    """
    match engine_of(url):
        case "faiss":
            from mrl_text.search.faiss.store import FaissStore

            return FaissStore.create(str(url), width=width, plan=plan, model=model, dims=dims)
        case "postgresql":
            from mrl_text.search.postgres.store import PostgresStore

            return PostgresStore.create(str(url), width=width, plan=plan, model=model, dims=dims)
        case _:
            from mrl_text.search.qdrant.store import QdrantStore

            return QdrantStore.create(str(url), width=width, plan=plan, model=model, dims=dims)


def engine_of(url: str | Path) -> str:
    """Which engine a URL is for: ``faiss``, ``postgresql`` or ``qdrant``.

    Raises:
        ValueError: a URL of another form.
    """
    text = str(url)
    head, colon, rest = text.partition(":")
    if head in ("postgresql", "postgres") and rest.startswith("//"):
        return "postgresql"
    if head in ("qdrant", "qdrants") and colon:
        return "qdrant"
    if "://" in text:
        from mrl_text.search.push_journal import without_password

        raise ValueError(f"{without_password(text)!r} is not a store: expected {_FORMS}")
    return "faiss"
