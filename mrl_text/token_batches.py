"""Texts to batches of tokens: of nearly equal length, of bounded size, built by the model's own tokeniser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sentence_transformers.base.modules import Transformer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CHARACTERS_PER_TOKEN = 4  # of models whose tokens cannot be counted beforehand; only batches depend on it
_UNPADDED = {"common": {"return_tensors": None}, "text": {"padding": False}}
BOOKKEEPING = ("modality", "prompt_length")  # sentence-transformers' own keys beside the tokens of each text


@dataclass(frozen=True)
class TokenBatch:
    """Some texts of a window, ready for the model."""

    rows: np.ndarray  # (n,) places in the window
    features: dict[str, Any]  # what the model's first module takes
    cut: np.ndarray  # (n,) whether the text is longer than the model reads


def token_batches(
    model: SentenceTransformer, texts: Sequence[str], token_budget: int, prompt: str | None, task: str | None
) -> list[TokenBatch]:
    """Split a window into batches of ``token_budget`` tokens with padding, longest texts first.

    A transformer with a fast tokeniser has its tokens counted; for every other model the length in characters stands
    in, as in sentence-transformers' own ``encode``.
    """
    if _counts_tokens(model):
        return _counted(model, texts, token_budget, prompt, task)
    lengths = np.array([1 + len(text) // _CHARACTERS_PER_TOKEN for text in texts])
    limit = model.max_seq_length if isinstance(model.max_seq_length, int) else None  # infinite for static models
    batches = []
    for rows in _split(lengths if limit is None else lengths.clip(max=limit), token_budget):
        features = model.preprocess([texts[row] for row in rows], prompt=prompt, **_named(task))
        mask = features.get("attention_mask")
        known = limit is not None and mask is not None and mask.ndim == 2
        cut = mask.sum(dim=1).numpy() >= limit if known else np.zeros(len(rows), dtype=bool)
        batches.append(TokenBatch(rows, features, cut))
    return batches


def _counts_tokens(model: SentenceTransformer) -> bool:
    first = model[0]
    return (
        isinstance(first, Transformer)
        and list(model.modalities) == ["text"]
        and not getattr(first, "can_flatten_inputs", False)  # then sentence-transformers packs without padding
        and getattr(first, "query_expansion", None) is None
        and bool(getattr(model.tokenizer, "is_fast", False))
    )


def _counted(
    model: SentenceTransformer, texts: Sequence[str], token_budget: int, prompt: str | None, task: str | None
) -> list[TokenBatch]:
    tokens = model.preprocess(list(texts), prompt=prompt, processing_kwargs=_UNPADDED, **_named(task))
    common = {name: tokens[name] for name in BOOKKEEPING if name in tokens}
    columns = {name: values for name, values in tokens.items() if name not in common}
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    cut = np.array([bool(encoding.overflowing) for encoding in tokens.encodings])
    batches = []
    for rows in _split(lengths, token_budget):
        batch = {name: [values[row] for row in rows] for name, values in columns.items()}
        features = dict(model.tokenizer.pad(batch, return_tensors="pt"))
        batches.append(TokenBatch(rows, {**features, **common}, cut[rows]))
    return batches


def _named(task: str | None) -> dict[str, str]:
    return {} if task is None else {"task": task}


def _split(lengths: np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """Places of texts of nearly equal length, the longest first; equal ones stay in order."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        width = max(1, int(lengths[order[start]]))
        stop = start + max(1, token_budget // width)
        yield order[start:stop]
        start = stop
