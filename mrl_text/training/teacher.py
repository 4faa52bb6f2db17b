"""A frozen model's vectors beside the texts, computed once and not in every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, concatenate_datasets

from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.loading import shared_folder
from mrl_text.training.columns import LABEL
from mrl_text.training.texts import text_columns
from mrl_text.truncation import truncate

Data = TypeVar("Data", Dataset, DatasetDict)


def add_teacher(
    data: Data,
    model: MatryoshkaEncoder,
    *,
    batch_size: int = 64,
    columns: Sequence[str] | None = None,
    prompts: Mapping[str, str] | None = None,
    cache: Path | None = None,
) -> Data:
    """Add the column ``label``: unit vectors of the texts of each row, side by side, as a frozen model gives them.

    :class:`~mrl_text.losses.NestedLoss` reads them as a float tensor (n, columns x width). Every distinct text is
    encoded once. Vectors stay on disk, so that an interrupted run goes on where it was and the next one starts at
    once.

    Args:
        data: text columns; each part of a ``DatasetDict`` is done.
        model: the teacher, at full width. It is put into evaluation mode for the time being.
        batch_size: texts per forward pass.
        columns: columns to encode; None takes all.
        prompts: column -> text put before its texts, as in training (``training_prompts``).
        cache: folder for the vectors of all models; None is the one that all commands share.

    Returns:
        The data with ``label``, a list of columns x width float32 per row that is read as a torch tensor.

    Raises:
        ValueError: there is a ``label`` already, or the model returned a number that is not finite.
    """
    store = EmbeddingCache(lambda: model, cache or shared_folder(), batch_size)

    def taught(part: Dataset) -> Dataset:
        if LABEL in part.column_names:
            raise ValueError(f"the data has a column {LABEL!r} already: {', '.join(part.column_names)}")
        plain = part.with_format(None)
        vectors = []
        for index, name in enumerate(columns or text_columns(part)):
            role = "query" if index == 0 else "document"
            vectors.append(truncate(store.embed(plain[name][:], prompt=(prompts or {}).get(name, ""), role=role)))
        return _with_label(plain, np.concatenate(vectors, axis=1))

    was_training = model.training
    model.eval()
    try:
        if isinstance(data, DatasetDict):
            return DatasetDict({name: taught(part) for name, part in data.items()})
        return taught(data)
    finally:
        model.train(was_training)


def _with_label(data: Dataset, vectors: np.ndarray) -> Dataset:
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    labels = Dataset(pa.table({LABEL: values}))
    joined: Dataset = concatenate_datasets([data, labels], axis=1)
    return joined.with_format("torch")  # texts stay texts; the label as lists take many times as long to read
