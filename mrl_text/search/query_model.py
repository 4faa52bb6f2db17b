"""The model for the queries of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrl_text.loading import load
from mrl_text.models import find_model
from mrl_text.search.build import load_model as load_index_model
from mrl_text.search.push_journal import without_password
from mrl_text.search.store import Store

if TYPE_CHECKING:
    from mrl_text.dtypes import Dtype
    from mrl_text.encoder import MatryoshkaEncoder


def load_model(
    store: Store,
    name: str | None = None,
    *,
    device: str | None = None,
    dtype: Dtype = "float32",
    trust_remote_code: bool = False,
) -> MatryoshkaEncoder:
    """The model that made the vectors of a store.

    Args:
        store: knows what it was filled with.
        name: another folder or id of that model; None takes the store's.
        device: where to encode; None is the best there is.
        dtype: what the model computes in.
        trust_remote_code: allow code that comes with the model to run.

    Returns:
        The model.

    Raises:
        FileNotFoundError: the model is not where it was.
        ValueError: the store names none, or the model's vectors have another width.
    """
    index = getattr(store, "index", None)
    if name is None and index is not None and store.model is not None:
        return load_index_model(index, device, dtype, trust_remote_code)  # knows the model's revision as well
    chosen = name or store.model
    if chosen is None:
        raise ValueError(f"{without_password(store.url)} names no model to encode queries with: give --model")
    model = load(find_model(chosen, trust_remote_code=trust_remote_code), dtype=dtype, device=device)
    if model.width is not None and model.width != store.width:
        raise ValueError(
            f"{chosen} gives vectors of width {model.width}, {without_password(store.url)} holds {store.width}:"
            " give the model it was filled with, --model"
        )
    return model
