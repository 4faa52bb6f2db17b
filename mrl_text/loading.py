"""A model by its name: loaded, or with what it has embedded before. Every command comes through here."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mrl_text.choices import Dtype
from mrl_text.dtypes import compute_dtype
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.files import cache_dir, check_writable
from mrl_text.models import ModelSource, find_model, peek_width
from mrl_text.suggest import check_choice

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Backend = Literal["torch", "onnx", "openvino"]


def load(
    source: ModelSource,
    *,
    dtype: Dtype | Literal["auto"] = "float32",
    device: str | None = None,
    backend: Backend = "torch",
    **kwargs: Any,
) -> MatryoshkaEncoder:
    """Load a model at full width.

    Args:
        source: what :func:`mrl_text.models.find_model` found; code that comes with it runs only if that was allowed.
        dtype: type of the weights and so of what is computed, whatever the checkpoint was saved in
            (:mod:`mrl_text.dtypes`). ``auto`` is bfloat16 where the device has it natively and the model multiplies
            matrices, else float32.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None is the best there is.
        backend: what computes; ``onnx`` and ``openvino`` compute in float32.
        **kwargs: as for :class:`~mrl_text.MatryoshkaEncoder`.

    Returns:
        The model. A cut saved with it is undone: callers cut for themselves.

    Raises:
        FileNotFoundError: the model cannot be read or fetched.
        ValueError: an unknown type, a device that is not there, a model with code that was not allowed.
    """
    check_choice("dtype", dtype, ("auto", "float32", "bfloat16", "float16"))
    check_device(device)
    if backend == "torch":
        kwargs["model_kwargs"] = {"dtype": "float32" if dtype == "auto" else dtype, **kwargs.get("model_kwargs", {})}
    elif dtype not in ("auto", "float32"):
        raise ValueError(f"dtype {dtype!r} is for torch; {backend} computes in float32")
    try:
        model = MatryoshkaEncoder(
            source.path, device=device, backend=backend, trust_remote_code=source.trust_remote_code, **kwargs
        )
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(f"model {source.name} cannot be loaded: {reason}") from error
    except ValueError as error:
        if source.trust_remote_code or "trust_remote_code" not in str(error):
            raise
        where = f"in {source.path}" if source.is_local else f"at https://huggingface.co/{source.path}"
        raise ValueError(
            f"model {source.name} comes with code of its own, which would run here with your rights: read it {where},"
            " then allow it with --trust-remote-code (trust_remote_code=True)"
        ) from error
    if dtype == "auto" and backend == "torch":
        model.to(getattr(torch, compute_dtype(model, "auto")))
    model.truncate_dim = None
    return model


def check_device(device: str | None) -> None:
    """Refuse a device that is not there, before anything is read or computed.

    Raises:
        ValueError: an unknown name, or a device that this machine or this torch does not have.
    """
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"device {device!r} is not there; this machine has {', '.join(there)}") from error


def full_width(source: ModelSource) -> int:
    """Width of a model's vectors, told by its files; by the loaded model where they do not tell.

    Raises:
        FileNotFoundError: the model cannot be read or fetched.
        ValueError: a model with code that was not allowed, or one that reads no text and does not tell.
    """
    width = peek_width(source)
    width = load(source, device="cpu").width if width is None else width
    if width is None:
        raise ValueError(
            f"{source.name} does not tell how wide its vectors are: it reads no text, so it is no use here"
        )
    return width


def cached(
    source: ModelSource,
    *,
    dtype: Dtype | Literal["auto"] = "float32",
    device: str | None = None,
    layers: int | None = None,
    batch_size: int = 32,
    folder: Path | Literal["shared"] | None = "shared",
) -> EmbeddingCache:
    """Full-width embeddings of a model, each text encoded once; the model is loaded when a text is asked for.

    What is not told here is as for :func:`load`.

    Args:
        layers: transformer layers to keep (:meth:`mrl_text.MatryoshkaEncoder.truncate_layers`); None is all of them.
        batch_size: texts per forward pass.
        folder: of the embeddings of all models; None keeps them in memory, the default is the one that all commands
            share, ``embeddings`` in :func:`mrl_text.files.cache_dir`.

    Raises:
        ValueError: a device that is not there.
        OSError: the folder cannot be written.
    """
    check_device(device)
    place = shared_folder() if folder == "shared" else folder
    if place is not None:
        fix = "name another folder with MRL_TEXT_CACHE" if folder in ("shared", shared_folder()) else "name another one"
        check_writable(place, fix)

    def load_quietly() -> MatryoshkaEncoder:
        model = load(source, dtype=dtype, device=device)
        model.warn_when_cut = False  # a corpus's texts are as long as they are
        return model if layers is None else model.truncate_layers(layers)

    return EmbeddingCache(load_quietly, place, batch_size)


def shared_folder() -> Path:
    """Where the embeddings of all models are kept, for all commands."""
    return cache_dir() / "embeddings"


def encode(texts: str | Iterable[str], dim: int | None = None, model: str = DEFAULT_MODEL, **kwargs: Any) -> np.ndarray:
    """Encode texts to unit vectors of ``dim`` numbers, loading the model once per process.

    Args:
        texts: one text or any iterable of texts.
        dim: numbers per vector; None is the model's full width.
        model: local folder or hub id of any sentence-transformers model.
        **kwargs: as for :meth:`MatryoshkaEncoder.encode`.

    Returns:
        float32 array (n, dim) with unit rows; (dim,) for one text.

    Raises:
        ValueError, TypeError: as for :meth:`MatryoshkaEncoder.encode`.

    Example:
        >>> encode(["a text", "another"], dim=64).shape
        (2, 64)
    """
    embeddings: np.ndarray = remembered(model).encode(texts, dim=dim, **kwargs)
    return embeddings


def remembered(model: str) -> MatryoshkaEncoder:
    """The model of that name; the last two asked for stay in memory, until their files change."""
    source = find_model(model)
    if not source.is_local:
        return _load_once(source, 0)
    folder = Path(source.path).resolve()
    newest = max(file.stat().st_mtime_ns for file in (folder, *folder.rglob("*")))
    return _load_once(replace(source, path=str(folder)), newest)


@functools.lru_cache(maxsize=2)
def _load_once(source: ModelSource, newest: int) -> MatryoshkaEncoder:
    return load(source)
