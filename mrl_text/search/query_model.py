"""The model for the queries of a store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mrl_text.choices import AutoBackend, Dtype
from mrl_text.models import ModelSource, find_model
from mrl_text.search.store import Store

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder

logger = logging.getLogger(__name__)


def load_model(
    store: Store,
    name: str | None = None,
    *,
    device: str | None = None,
    backend: AutoBackend = "torch",
    dtype: Dtype = "float32",
    trust_remote_code: bool = False,
) -> MatryoshkaEncoder:
    """The model that made the vectors of a store; warns if it has changed since.

    Args:
        store: knows what it was filled with.
        name: another folder or id of that model; None takes the store's.
        device: where to encode; None is the best there is.
        backend: what computes it, as for :func:`mrl_text.loading.load`.
        dtype: what the model computes in.
        trust_remote_code: allow code that comes with the model to run.

    Raises:
        FileNotFoundError: the model is not where it was.
        ValueError: the store holds no rows, or names no model, or the model's vectors have another width.
    """
    found = find_query_model(store, name, trust_remote_code=trust_remote_code)
    from mrl_text.loading import load

    model = load(found, dtype=dtype, device=device, backend=backend)
    check_width(store, name or str(store.model), model.width)
    return model


def find_query_model(store: Store, name: str | None = None, *, trust_remote_code: bool = False) -> ModelSource:
    """As :func:`load_model`, without loading it."""
    chosen, shown = name or store.model, str(store)
    if store.is_empty():
        raise ValueError(f"{shown} holds no rows: fill it with mrl-text index push")
    if chosen is None:
        raise ValueError(f"{shown} names no model to encode queries with: give one (--model; serve MODEL)")
    found = find_model(chosen, trust_remote_code=trust_remote_code)
    if name is None and found.is_local and store.revision not in (None, found.revision):
        logger.warning("%s has changed since %s was filled: results may be poor", found.path, shown)
    return found


def check_width(store: Store, name: str, width: int | None) -> None:
    """Refuse a model whose vectors are known to be of another width with ``ValueError``."""
    if width is not None and width != store.width:
        raise ValueError(
            f"{name} gives vectors of width {width}, {store} holds {store.width}: give the model"
            " it was filled with (--model; serve MODEL)"
        )
