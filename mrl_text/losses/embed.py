"""The columns of a batch through the model, with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.losses.merged_forward import embed_columns, merge_feature_batches
from torch import Tensor, nn

_ROWS_PER_PIECE = 64
"""Fewer rows than this per forward pass leave a processor's matrix units idle."""


def embed_by_length(model: nn.Module, columns: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Embed all columns of a batch: one ``sentence_embedding`` (n, width) per column, in the batch's order.

    On a processor the rows of all columns are sorted by length and cut into pieces, each padded to its own longest
    text only. The embeddings are those of a forward pass per column (up to dropout's draws and rounding); which
    texts are in the batch does not change. On other devices, and where columns are not plain token matrices (static
    embeddings, routers, flattened batches), each column is one forward pass, merged as sentence-transformers does.
    """
    columns = list(columns)
    mask = columns[0].get("attention_mask")
    merged = None
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.device.type == "cpu":
        merged = merge_feature_batches(columns) if len(columns) > 1 else dict(columns[0])
    if merged is None or not _only_token_matrices(merged):
        return list(embed_columns(model, columns))
    embeddings = _in_pieces(model, merged)
    return list(embeddings.reshape(len(columns), -1, *embeddings.shape[1:]).unbind(0))


def _only_token_matrices(features: dict[str, Any]) -> bool:
    shape = features["attention_mask"].shape
    tensors = [value for value in features.values() if isinstance(value, Tensor)]
    return all(value.shape == shape for value in tensors) and bool(features["attention_mask"][:, 0].all())


def _in_pieces(model: nn.Module, features: dict[str, Any]) -> Tensor:
    lengths = features["attention_mask"].sum(dim=1)
    order = lengths.argsort(stable=True)
    pieces = max(1, len(order) // _ROWS_PER_PIECE)
    embeddings = []
    for rows in order.tensor_split(pieces):
        longest = int(lengths[rows[-1]])
        piece = {name: one[rows, :longest] if isinstance(one, Tensor) else one for name, one in features.items()}
        embeddings.append(model(piece)["sentence_embedding"])
    return torch.cat(embeddings)[order.argsort()]
