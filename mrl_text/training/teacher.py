"""A frozen model's vectors beside the texts, computed once and not in every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.loading import shared_folder
from mrl_text.training.columns import LABEL
from mrl_text.training.texts import VECTORS, text_columns
from mrl_text.truncation import truncate

Data = TypeVar("Data", Dataset, DatasetDict)


def add_teacher(
    data: Data,
    model: MatryoshkaEncoder | Sequence[MatryoshkaEncoder],
    *,
    batch_size: int = 64,
    columns: Sequence[str] | None = None,
    prompts: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None,
    cache: Path | None = None,
    names: Sequence[str] = (LABEL,),
) -> Data:
    """Add a column of vectors: unit vectors of the texts of each row, side by side, as a frozen model gives them.

    :class:`~mrl_text.losses.NestedLoss` reads them as a float tensor (n, columns x width): as ``label``, which every
    Trainer takes, or by their role, for which a run has :class:`VectorsCollator`. Every distinct text is encoded once.
    Vectors stay on disk, so that an interrupted run goes on where it was and the next one starts at once.

    Args:
        data: text columns; each part of a ``DatasetDict`` is done.
        model: the teacher, at full width. It is put into evaluation mode for the time being. Of several, the unit
            vectors stand side by side, scaled to unit length together: their cosine similarity is the mean of the
            models'.
        batch_size: texts of full length per forward pass, at most; of shorter ones more go together.
        columns: columns to encode; None takes all.
        prompts: column -> text put before its texts, as in training (``training_prompts``); a list has those of each
            model.
        cache: folder for the vectors of all models; None is the one that all commands share.
        names: of the column, and of others that share its memory.

    Returns:
        The data with the column, a list of columns x width float32 per row that is read as a torch tensor.

    Raises:
        ValueError: there is such a column already, or the model returned a number that is not finite.
    """
    models = [model] if isinstance(model, MatryoshkaEncoder) else list(model)
    each = [prompts] * len(models) if prompts is None or isinstance(prompts, Mapping) else list(prompts)

    def store_of(one: MatryoshkaEncoder) -> EmbeddingCache:
        return EmbeddingCache(lambda: one, cache or shared_folder(), batch_size)

    stores = list(map(store_of, models))

    def taught(part: Dataset) -> Dataset:
        if there := [name for name in names if name in part.column_names]:
            raise ValueError(f"the data has a column {there[0]!r} already: {', '.join(part.column_names)}")
        plain = part.with_format(None)
        vectors = []
        for index, name in enumerate(columns or text_columns(part)):
            role = "query" if index == 0 else "document"
            for store, given in zip(stores, each, strict=True):
                vectors.append(truncate(store.embed(plain[name][:], prompt=(given or {}).get(name, ""), role=role)))
        return with_numbers(plain, np.concatenate(vectors, axis=1) / np.float32(len(stores) ** 0.5), names)

    was_training = [one.training for one in models]
    for one in models:
        one.eval()
    try:
        if isinstance(data, DatasetDict):
            return DatasetDict({name: taught(part) for name, part in data.items()})
        return taught(data)
    finally:
        for one, training in zip(models, was_training, strict=True):
            one.train(training)


class VectorsCollator(SentenceTransformerDataCollator):
    """Hands on the vectors of the loss's frozen models beside the texts: role -> (n, columns x width)."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch as the parent makes it of texts and labels, and ``vectors`` where rows have any."""
        batch: dict[str, Any] = super().__call__(
            [{name: row[name] for name in row if name not in VECTORS} for row in features]
        )
        roles = [name for name in VECTORS[:2] if features and name in features[0]]
        if roles:
            batch["vectors"] = {role: torch.stack([torch.as_tensor(row[role]) for row in features]) for role in roles}
        return batch


def with_numbers(data: Dataset, vectors: np.ndarray, names: Sequence[str]) -> Dataset:
    """The data with float32 rows (n, width) in columns of these names, which share the memory, as torch tensors."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    columns = Dataset(pa.table(dict.fromkeys(names, values)))
    joined: Dataset = concatenate_datasets([data, columns], axis=1)
    return joined.with_format("torch")  # texts stay texts; vectors as lists take many times as long to read
