"""When two texts count as the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from datasets import Dataset

from mrl_text.training.columns import LABEL

VECTORS = ("teacher", "guide", "base")
"""Columns of frozen models' vectors: of the loss's teacher, of its guide, and of the base for whatever else needs them.
All other columns hold text."""


def normalised(text: str) -> str:
    """A text without what spelling alone changes: case and the amount of white space."""
    return " ".join(text.casefold().split())


def text_hash(text: str) -> int:
    """64 bits that tell normalised texts apart: among a hundred million texts, 3 in 10,000 odds of one mix-up."""
    return int.from_bytes(hashlib.blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=8).digest())


def text_hashes(texts: Iterable[str]) -> np.ndarray:
    """:func:`text_hash` of each text, uint64 (n,)."""
    return np.fromiter((text_hash(text) for text in texts), dtype=np.uint64)


def text_columns(data: Dataset) -> list[str]:
    """Names of the columns that hold text, in their order."""
    return [name for name in data.column_names if name not in (LABEL, "dataset_name", *VECTORS)]


def row_hashes(data: Dataset) -> np.ndarray:
    """:func:`text_hash` of every text of a data set, uint64 (n, text columns)."""
    plain = data.with_format(None)
    columns = [text_hashes(plain[name][:]) for name in text_columns(data)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(data), 0), dtype=np.uint64)
