"""Encoding of texts that come one after the other, in memory that does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mrl_text.dtypes import compute_dtype, computing_in
from mrl_text.lanes import Lanes
from mrl_text.long_texts import Shortener
from mrl_text.token_batches import TokenBatch, token_batches

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

WINDOW = 4096  # texts that are sorted by length together

TOKEN_BUDGET = {"cpu": 1024}  # tokens of a batch by type of device: what suits the caches of a processor's core

OTHER_TOKEN_BUDGET = 32_768  # tokens of a batch on a GPU

_WINDOW_CHARACTERS = 2**22  # tokens take a hundred times the memory of their characters

LONG = 16  # characters for each token that the model reads: a longer text is shortened first, which is quicker


@dataclass(frozen=True)
class EncodedWindow:
    """Vectors of a window."""

    vectors: np.ndarray  # float32 (n, width), as the model's last module gives them, in the order of the texts
    cut: np.ndarray  # (n,) whether the text was longer than the model reads


def windows(texts: Iterable[str], size: int = WINDOW) -> Iterator[list[str]]:
    """Lists of at most ``size`` texts and four million characters; one longer text is a window of its own.

    Raises:
        TypeError: something that is not a text, with its position.
    """
    window: list[str] = []
    characters = 0
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"expected a text at position {position}, got {type(text).__name__}: {text!r:.60}")
        if window and characters + len(text) > _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
        window.append(text)
        characters += len(text)
        if len(window) == size:
            yield window
            window, characters = [], 0
    if window:
        yield window


def suited_budget(model: SentenceTransformer) -> int:
    """Tokens of a batch that suit the model's device."""
    return TOKEN_BUDGET.get(model.device.type, OTHER_TOKEN_BUDGET)


def bounded_budget(model: SentenceTransformer, batch_size: int) -> int:
    """The same, and no more than ``batch_size`` texts of full length have: what bounds the memory of a pass."""
    limit = model.max_seq_length
    return min(suited_budget(model), batch_size * limit) if isinstance(limit, int) else suited_budget(model)


def encode_windows(
    model: SentenceTransformer,
    lists: Iterable[list[str]],
    *,
    dtype: str | None = None,
    token_budget: int | None = None,
    prompt: str | None = None,
    task: str | None = None,
) -> Iterator[EncodedWindow]:
    """Encode lists of texts one by one; the next one is tokenised while one is computed.

    A list's vectors depend on that list alone, so that work can be split between lists and give the same bits.

    Args:
        lists: windows, such as :func:`windows` makes; taken one ahead of what has been yielded.
        dtype: see :func:`mrl_text.dtypes.compute_dtype`.
        token_budget: tokens per batch, padding included; None takes what suits the device.

    Raises:
        ValueError: an impossible ``dtype`` or ``token_budget``.
    """
    budget = suited_budget(model) if token_budget is None else token_budget
    if budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    chosen = compute_dtype(model, dtype)
    shorten, limit = Shortener.of(model), model.max_seq_length
    long = LONG * limit if isinstance(limit, int) else math.inf
    on_gpu = model.device.type == "cuda"
    model.eval()
    with ThreadPoolExecutor(1, "tokeniser") as thread, Lanes(model.device) as lanes:

        def tokenise(texts: list[str]) -> list[TokenBatch]:
            texts = [shorten(text, prompt) if len(text) > long else text for text in texts]
            batches = token_batches(model, texts, budget, prompt, task)
            return [replace(one, features=_pinned(one.features)) for one in batches] if on_gpu else batches

        def prepare() -> Any:
            """Take a list here and tokenise it there: only the tokeniser runs beside the caller's own code."""
            texts = next(source, None)
            return texts and (len(texts), thread.submit(tokenise, texts))

        source = filter(None, iter(lists))
        ahead = prepare()
        while ahead:
            count, batches = ahead
            ahead = prepare()
            yield compute(model, count, batches.result(), chosen, task, lanes)


def _pinned(features: dict[str, Any]) -> dict[str, Any]:
    """Tensors in memory that a GPU reads by itself, so that the next batch travels while one is computed."""
    return {name: one.pin_memory() if isinstance(one, torch.Tensor) else one for name, one in features.items()}


def _on_device(features: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: one.to(device, non_blocking=True) if isinstance(one, torch.Tensor) else one
        for name, one in features.items()
    }


def compute(
    model: SentenceTransformer, count: int, batches: list[TokenBatch], dtype: str, task: str | None, lanes: Lanes
) -> EncodedWindow:
    """Compute the ``count`` texts of a window, which ``batches`` hold between them.

    Args:
        dtype: as :func:`mrl_text.dtypes.compute_dtype` gave it.
        task: ``query``, ``document`` or None, as for the model's ``encode``.
        lanes: on the model's device.
    """
    options = {} if task is None else {"task": task}

    def forward(batch: TokenBatch) -> torch.Tensor:
        vectors: torch.Tensor = model(_on_device(batch.features, model.device), **options)["sentence_embedding"]
        return vectors

    # entered window by window: a context that stays open at a yield would reach into the caller's code
    computed = lanes.map(forward, batches, lambda: computing_in(dtype, model))
    joined = torch.cat(computed).float().cpu().numpy()
    rows = np.concatenate([batch.rows for batch in batches])
    vectors = np.empty_like(joined)
    vectors[rows] = joined
    cut = np.empty(count, dtype=bool)
    cut[rows] = np.concatenate([batch.cut for batch in batches])
    return EncodedWindow(vectors, cut)
