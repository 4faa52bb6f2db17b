"""Prefix-aware search in the engines people run: FAISS in a folder, PostgreSQL with pgvector, Qdrant."""

from __future__ import annotations

from mrl_text.stores.base import Document, Range, Store, StoreUnavailableError, Where
from mrl_text.stores.open import create_store, open_store

__all__ = ["Document", "Range", "Store", "StoreUnavailableError", "Where", "create_store", "open_store"]
