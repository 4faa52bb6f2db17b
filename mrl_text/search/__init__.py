"""Search by a prefix, order by the rest: in a folder (FAISS, extra ``search``), PostgreSQL with pgvector, Qdrant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mrl_text.search.hits import Hits, StageCost
from mrl_text.search.open import create_store, open_store
from mrl_text.search.plan import SearchPlan
from mrl_text.search.store import (
    AllOf,
    AnyOf,
    Document,
    Not,
    Prefix,
    Range,
    Store,
    StoreUnavailableError,
    Where,
)

if TYPE_CHECKING:
    from mrl_text.search.faiss.index import AdaptiveIndex

__all__ = [
    "AdaptiveIndex",
    "AllOf",
    "AnyOf",
    "Document",
    "Hits",
    "Not",
    "Prefix",
    "Range",
    "SearchPlan",
    "StageCost",
    "Store",
    "StoreUnavailableError",
    "Where",
    "create_store",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name == "AdaptiveIndex":  # needs FAISS, which stores in databases do not
        from mrl_text.search.faiss.index import AdaptiveIndex

        return AdaptiveIndex
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
