"""Which engine is the fastest for a model on this machine, found by trying and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable
from typing import Any, get_args

import torch
from sentence_transformers import SentenceTransformer

from mrl_text.choices import Backend
from mrl_text.dtypes import fastest_dtype
from mrl_text.files import cache_dir, peek_json, write_atomically
from mrl_text.models import ModelSource
from mrl_text.versions import installed_version

logger = logging.getLogger(__name__)

_LENGTHS = (16, 64, 256)  # words of the texts tried
_WORDS = 2048  # of a batch
_ROUNDS = 5  # of which the quickest counts
_GAIN = 1.05  # how much quicker than torch another engine must be: a trial tells no finer
_PACKAGES = ("torch", "onnxruntime", "openvino")


def fastest(source: ModelSource, dtype: str, load: Callable[[Backend], SentenceTransformer]) -> Backend:
    """The backend that computes a model's vectors in the least time: torch unless another is 5 % quicker.

    Texts of 16, 64 and 256 words are tried in turns, each five times; the best times count. What came out is kept in
    ``trials.json`` of :func:`mrl_text.files.cache_dir` for this model, type, kind of processor, number of threads and
    versions, and not tried again.

    Args:
        source: of the model, which the outcome is kept for.
        dtype: likewise, as the user gave it.
        load: gives the model as a backend computes it; those that raise ``ModuleNotFoundError`` or ``ValueError``
            cannot and are left out.

    Raises:
        ValueError: none can.
    """
    file, key = cache_dir() / "trials.json", _key(source, dtype)
    kept: dict[str, Any] = peek_json(file) or {}
    if key not in kept:
        seconds = _try(load)
        kept = {**(peek_json(file) or {}), key: {"model": source.name, "dtype": dtype, "seconds": seconds}}
        write_atomically(file, (json.dumps(kept, indent=1) + "\n").encode())
    seconds = kept[key]["seconds"]
    best: Backend = min(seconds, key=seconds.__getitem__)
    if "torch" in seconds and seconds["torch"] < _GAIN * seconds[best]:
        best = "torch"
    shown = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    logger.info("%s computes with %s (tried: %s, kept in %s)", source.name, best, shown, file)
    return best


def _try(load: Callable[[Backend], SentenceTransformer]) -> dict[Backend, float]:
    """Seconds of each backend that can, for one batch of each length."""
    models: dict[Backend, SentenceTransformer] = {}
    reasons = []
    for backend in get_args(Backend):
        try:
            models[backend] = load(backend)
        except (ModuleNotFoundError, ValueError) as error:
            reasons.append(str(error))
            logger.info("%s is not tried: %s", backend, error)
    if not models:
        raise ValueError(f"no backend can: {'; '.join(reasons)}")
    seconds = dict.fromkeys(models, 0.0)
    for length in _LENGTHS:
        texts = [" ".join(["word"] * length)] * (_WORDS // length)
        best = dict.fromkeys(models, float("inf"))
        for _ in range(_ROUNDS + 1):  # the first one warms up, and is never the best
            for backend, model in models.items():
                features = model.preprocess(texts)
                start = time.perf_counter()
                with torch.inference_mode():
                    model(features)
                best[backend] = min(best[backend], time.perf_counter() - start)
        for backend, value in best.items():
            seconds[backend] += value
    return seconds


def _key(source: ModelSource, dtype: str) -> str:
    versions = [installed_version(name) for name in _PACKAGES]
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    allowed = torch.backends.cpu.get_cpu_capability(), fastest_dtype("cpu")
    machine = platform.machine(), allowed, sorted(capabilities.items()), torch.get_num_threads()
    described = json.dumps([source.reference, source.revision, dtype, versions, machine], default=str)
    return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()
