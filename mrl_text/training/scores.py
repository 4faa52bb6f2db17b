"""Scores of a cross-encoder for the pairs of each row, computed once and not in every step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from datasets import Dataset

from mrl_text.embedding_cache import fingerprint
from mrl_text.files import cache_dir
from mrl_text.models import ModelSource, read_model_json
from mrl_text.progress import progress_bar
from mrl_text.training.columns import LABEL
from mrl_text.training.teacher import with_numbers
from mrl_text.training.texts import text_columns
from mrl_text.vector_file import KEY_BYTES, VectorFile

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from mrl_text.encoder import MatryoshkaEncoder

_BLOCK_PAIRS = 4096


def check_cross_encoder(source: ModelSource) -> None:
    """Refuse, by its small files alone, a model that does not score pairs of texts by one number each.

    Raises:
        ValueError: it embeds texts, or tells classes apart.
    """
    config, saved = (
        read_model_json(source, file) or {} for file in ("config.json", "config_sentence_transformers.json")
    )
    classifies = any(str(one).endswith("ForSequenceClassification") for one in config.get("architectures") or ())
    if not classifies and saved.get("model_type") != "CrossEncoder":
        raise ValueError(
            f"loss.cross_encoder: {source.path} is no cross-encoder: name one, which scores pairs of texts"
        )
    classes = len(config.get("id2label") or (0, 1))  # as transformers takes it where none are named
    if classifies and classes != 1:
        raise ValueError(
            f"loss.cross_encoder: {source.path} tells {classes} classes apart: name one that gives one score"
        )


def add_scores(data: Dataset, source: ModelSource, *, batch_size: int = 32, cache: Path | None = None) -> Dataset:
    """Add the column ``label``: for each row the scores of the anchor with the positive and with every negative.

    Scores are the model's logits, whatever activation it was saved with. Every distinct pair is scored once; scores
    stay on disk, so that an interrupted run goes on where it was and the next one starts at once.

    Args:
        data: columns anchor, positive, negative... of texts.
        source: the cross-encoder. It reads texts without the prompts of training, and as much of them as it can.
        batch_size: pairs per forward pass.
        cache: folder for the scores of all models; None is ``scores`` under the cache directory.

    Returns:
        The data with ``label``, a list of float32 per row, one for each column but the first.

    Raises:
        ValueError: there is a ``label`` already, the model cannot be loaded, or a score is not finite.
    """
    if LABEL in data.column_names:
        raise ValueError(f"the data has a column {LABEL!r} already: {', '.join(data.column_names)}")
    model = _load(source)
    store = VectorFile((cache or cache_dir() / "scores") / fingerprint(cast("MatryoshkaEncoder", model)) / "scores.bin")
    store.refresh()
    plain = data.with_format(None)
    anchors, *others = (plain[name][:] for name in text_columns(data))
    columns = []
    for texts in others:
        pairs = list(zip(anchors, texts, strict=True))
        keys = [_key(*pair) for pair in pairs]
        while missing := {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in store.rows}:
            _score(store, missing, model, batch_size)
        columns.append(store.get(keys))
    return with_numbers(plain, np.concatenate(columns, axis=1), [LABEL])


def _load(source: ModelSource) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    options: dict[str, Any] = {"trust_remote_code": source.trust_remote_code, "model_kwargs": {"dtype": "float32"}}
    try:
        return CrossEncoder(source.path, **options).eval()
    except ImportError:  # an own code's package, which the error names
        raise
    except Exception as error:  # of a damaged file each of the many readers raises what it likes
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cross-encoder {source.name} cannot be loaded from {source.path} ({reason})") from error


def _key(anchor: str, text: str) -> bytes:
    pair = f"{len(anchor)}\0{anchor}{text}"
    return hashlib.blake2b(pair.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def _score(store: VectorFile, missing: dict[bytes, tuple[str, str]], model: CrossEncoder, batch_size: int) -> None:
    """Score pairs, longest first, and write them block by block."""
    ordered = sorted(missing.items(), key=lambda item: -sum(map(len, item[1])))
    with progress_bar(total=len(ordered), desc="Scoring", unit="pair", leave=False) as bar:
        for start in range(0, len(ordered), _BLOCK_PAIRS):
            part = ordered[start : start + _BLOCK_PAIRS]
            scores = []
            for first in range(0, len(part), 16 * batch_size):  # often enough for the bar to move
                scores.append(_predict(model, [pair for _, pair in part[first : first + 16 * batch_size]], batch_size))
                bar.update(len(scores[-1]))
            store.append([key for key, _ in part], np.concatenate(scores)[:, None])


def _predict(model: CrossEncoder, pairs: Sequence[tuple[str, str]], batch_size: int) -> np.ndarray:
    how: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False}
    scores = np.asarray(model.predict(list(pairs), activation_fn=torch.nn.Identity(), **how), dtype=np.float32)
    if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
        raise ValueError(f"the cross-encoder gave no finite score to a pair such as {pairs[0][0][:80]!r}")
    return scores
