"""A model by its name: loaded, or with what it has embedded before. Every command comes through here."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from mrl_text.api.options import refusal
from mrl_text.choices import AutoBackend, AutoDtype, Backend, Dtype
from mrl_text.dtypes import compute_dtype
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.files import cache_dir, check_writable
from mrl_text.models import ModelSource, find_model, peek_width
from mrl_text.suggest import check_choice

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def load(
    source: ModelSource,
    *,
    dtype: Dtype | AutoDtype = "float32",
    device: str | None = None,
    backend: AutoBackend = "torch",
    layers: int | None = None,
    **kwargs: Any,
) -> MatryoshkaEncoder:
    """Load a model at full width.

    Args:
        source: what :func:`mrl_text.models.find_model` found; code that comes with it runs only if that was allowed.
        dtype: type of the weights and so of what is computed, whatever the checkpoint was saved in
            (:mod:`mrl_text.dtypes`). ``auto`` is bfloat16 where the device has it natively and the model multiplies
            matrices, else float32. ``int8`` is for the other backends.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None is the best there is.
        backend: what computes the model's transformer (:mod:`mrl_text.backends`); ``auto`` is the fastest of those that
            are installed, by a trial that is kept. Others than torch are for inference on the processor.
        layers: transformer layers to keep (:meth:`mrl_text.MatryoshkaEncoder.truncate_layers`); None is all of them.
        **kwargs: as for :class:`~mrl_text.MatryoshkaEncoder`.

    Returns:
        The model. A cut saved with it is undone: callers cut for themselves.

    Raises:
        FileNotFoundError: the model cannot be read or fetched.
        ModuleNotFoundError: the backend is not installed.
        ValueError: an unknown type or one that the backend has not, a device that is not there, a model with code that
            was not allowed, one that the backend cannot take, or one behind an API.
    """
    if source.api is not None:
        raise ValueError(refusal(source.reference))
    check_computing(backend, dtype, device)
    if backend == "auto":
        chosen = choose_backend(source, dtype=dtype, device=device)
        return load(source, dtype=dtype, device=device, backend=chosen, layers=layers, **kwargs)
    if backend == "torch":
        model = _load(source, "float32" if dtype == "auto" else dtype, device, kwargs)
        if dtype == "auto":
            model.to(getattr(torch, compute_dtype(model, "auto")))
        return _cut(model, layers)
    from mrl_text.backends import check_backend, compile_model

    computed = check_backend(backend, dtype, device)
    model = _load(source, "float32", "cpu", kwargs)
    model.eval()
    compile_model(_cut(model, layers), backend, computed, source.name)
    return model


def choose_backend(source: ModelSource, *, dtype: Dtype | AutoDtype = "float32", device: str | None = None) -> Backend:
    """The fastest backend for a model on this machine, by a trial that is kept (:func:`mrl_text.backends.fastest`).

    Args:
        source, dtype, device: as for :func:`load`; on a GPU it is torch, untried.

    Raises:
        ValueError, FileNotFoundError: as for :func:`load`.
    """
    from sentence_transformers.util import get_device_name

    from mrl_text.backends import fastest

    if torch.device(device or get_device_name()).type != "cpu":
        return "torch"
    return fastest(source, dtype, lambda backend: load(source, dtype=dtype, device="cpu", backend=backend))


def check_computing(backend: AutoBackend, dtype: str, device: str | None = None) -> None:
    """Refuse what cannot compute here, or not like that, before anything is read; arguments as for :func:`load`.

    Raises:
        ModuleNotFoundError: the backend is not installed.
        ValueError: an unknown word, a type that the backend has not, a device that is not there or not for it.
    """
    check_choice("backend", backend, AutoBackend)
    check_choice("dtype", dtype, ("auto", *get_args(Dtype)))
    check_device(device)
    if backend == "torch" and dtype == "int8":
        raise ValueError("torch does not compute in int8 here: choose another backend (--backend openvino or onnx)")
    if backend in ("onnx", "openvino"):
        from mrl_text.backends import check_backend

        check_backend(backend, dtype, device)


def _cut(model: MatryoshkaEncoder, layers: int | None) -> MatryoshkaEncoder:
    return model if layers is None else model.truncate_layers(layers)


def _load(source: ModelSource, dtype: str, device: str | None, kwargs: dict[str, Any]) -> MatryoshkaEncoder:
    kwargs["model_kwargs"] = {"dtype": dtype, **kwargs.get("model_kwargs", {})}
    try:
        model = MatryoshkaEncoder(source.path, device=device, trust_remote_code=source.trust_remote_code, **kwargs)
    except (ImportError, torch.OutOfMemoryError):  # an own code's package, which the error names; no memory
        raise
    except Exception as error:  # of a damaged file each of the many readers raises what it likes
        if "trust_remote_code" in str(error) and not source.trust_remote_code:
            where = f"in {source.path}" if source.is_local else f"at https://huggingface.co/{source.path}"
            raise ValueError(
                f"model {source.name} comes with code of its own, which would run here with your rights: read it"
                f" {where}, then allow it with --trust-remote-code (trust_remote_code=True)"
            ) from error
        reason = _damaged_file(source) or " ".join(str(error).split()).partition(". ")[0][:200]
        fix = "copy or save the folder again, whole" if source.is_local else "check the name, the network and HF_TOKEN"
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise kind(f"model {source.name} cannot be loaded from {source.path}; {fix} ({reason})") from error
    _check_sound(model, source)
    tokenizer: Any = getattr(model[0], "tokenizer", None)
    if getattr(tokenizer, "pad_token", "") is None:  # of many decoders; what is masked may be any token
        tokenizer.pad_token = tokenizer.eos_token
    model.truncate_dim = None
    return model


def _damaged_file(source: ModelSource) -> str | None:
    """The first file of a local model that is cut off or no JSON; None where all are whole."""
    for file in sorted(Path(source.path).rglob("*")) if source.is_local else ():
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            whole = file.suffix != ".safetensors" or tensors_are_whole(file)
        except (OSError, ValueError):
            whole = False
        if not whole:
            return f"{file} is damaged"
    return None


def tensors_are_whole(file: Path) -> bool:
    """Whether a safetensors file is as long as its head says; see the format's description at huggingface.co."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length < os.fstat(stream.fileno()).st_size:
            return False
        head = json.loads(stream.read(length))
    ends = [entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__"]
    return file.stat().st_size == 8 + length + max(ends, default=0)


def _check_sound(model: MatryoshkaEncoder, source: ModelSource) -> None:
    """Refuse with ``ValueError`` a model that loads and computes nonsense, or breaks at its first long text."""
    if broken := not_finite(model):
        raise ValueError(f"model {source.name}: {broken}: its weights are damaged, fetch or copy them again")
    tokenizer: Any = getattr(model[0], "tokenizer", None)
    words: set[str] | None = set(tokenizer.get_vocab()) if hasattr(tokenizer, "get_vocab") else None
    if words is not None and words <= set(getattr(tokenizer, "all_special_tokens", ())):
        raise ValueError(
            f"model {source.name} has no vocabulary, so that all texts would look alike: put its tokenizer files"
            f" (tokenizer.json, or vocab.txt and the like) into {source.path}"
        )
    check_length(model, model.max_tokens, source.name)


def not_finite(model: torch.nn.Module) -> str | None:
    """Say which weights of a model hold NaN or infinity; None where all are numbers."""
    state = ((name, value) for name, value in model.state_dict().items() if value.is_floating_point() and value.numel())
    bad = [name for name, value in state if not torch.isfinite(torch.stack(value.aminmax())).all()]
    return f"{bad[0]}{f' and {len(bad) - 1} more' if bad[1:] else ''} holds NaN or infinity" if bad else None


def check_length(model: MatryoshkaEncoder, tokens: int | None, name: str) -> None:
    """Refuse with ``ValueError`` more tokens per text than the model has learned positions for."""
    for path, table in model.named_modules():
        if isinstance(table, torch.nn.Embedding) and path.endswith(
            ("position_embeddings", "position_embedding", "wpe")
        ):
            positions = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
            if tokens is not None and tokens > positions:
                raise ValueError(
                    f"max_seq_length={tokens}, but model {name} has {positions} positions: give at most {positions}"
                )


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

    A model behind an API is asked for the vector of one word, once.

    Raises:
        FileNotFoundError: the model cannot be read or fetched.
        ValueError: a model with code that was not allowed, or one that reads no text and does not tell; what an API
            refuses.
        ConnectionError: the API does not answer.
    """
    if source.api is not None:
        from mrl_text.api.cache import PROBE

        return int(cached(source).embed([PROBE]).shape[1])
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
    dtype: Dtype | AutoDtype = "float32",
    device: str | None = None,
    backend: AutoBackend = "torch",
    layers: int | None = None,
    batch_size: int = 32,
    folder: Path | Literal["shared"] | None = "shared",
) -> EmbeddingCache:
    """Full-width embeddings of a model, each text encoded once; the model is loaded when a text is asked for.

    What is not told here is as for :func:`load`. This is where a model behind an API comes in
    (:class:`mrl_text.api.cache.ApiCache`): all but ``source`` and ``folder`` is for models that are computed here.

    Args:
        batch_size: texts of full length per forward pass, at most; of shorter ones more go together.
        folder: of the embeddings of all models; None keeps them in memory, the default is the one that all commands
            share, ``embeddings`` in :func:`mrl_text.files.cache_dir`.

    Raises:
        ValueError: a device that is not there; no key for an API that asks for one.
        OSError: the folder cannot be written.
    """
    check_device(device)
    place = shared_folder() if folder == "shared" else folder
    if place is not None:
        fix = "name another folder with MRL_TEXT_CACHE" if folder in ("shared", shared_folder()) else "name another one"
        check_writable(place, fix)

    if source.api is not None:
        from mrl_text.api.cache import ApiCache

        return ApiCache(source.path, source.api, place)

    def load_quietly() -> MatryoshkaEncoder:
        model = load(source, dtype=dtype, device=device, backend=backend, layers=layers)
        model.warn_when_cut = False  # a corpus's texts are as long as they are
        return model

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
