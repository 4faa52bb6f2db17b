"""Every text is encoded once, at full width; the vectors outlive the process and serve every command."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from mrl_text.linear_layers import split_linear
from mrl_text.progress import progress_bar
from mrl_text.streaming import bounded_budget, encode_windows
from mrl_text.vector_file import KEY_BYTES, VectorFile, VectorMemory

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder

_BLOCK_TEXTS = 4096
_WINDOW_TEXTS = 512  # often enough for the bar to move
_ABOUT_THE_FILE = ("_name_or_path", "architectures", "transformers_version", "matryoshka_dimensions", "is_matryoshka")


class EmbeddingCache:
    """Full-width embeddings of one model by what the model reads: text, prompt and, where it has routes, role.

    New texts are encoded longest first and written every 4,096, so that a run that is killed repeats no more. Several
    processes may share a folder; see :class:`~mrl_text.vector_file.VectorFile`.
    Each model has a folder named after its :func:`fingerprint`; where ``folder`` is None all stay in memory. Of a model
    with a rotation, or another linear layer behind it, the vectors before that are kept, and the layer is applied to
    them: what was encoded before ``mrl-text adapt`` is not encoded again afterwards.

    Args:
        batch_size: as for :func:`mrl_text.streaming.bounded_budget`.
    """

    def __init__(self, load_model: Callable[[], MatryoshkaEncoder], folder: Path | None, batch_size: int = 32) -> None:
        self._load_model = load_model
        self._model: MatryoshkaEncoder | None = None
        self._folder = folder
        self._batch_size = batch_size
        self._opened: VectorMemory | None = None
        self.encoded = 0  # texts that went through the model in this process

    @property
    def model(self) -> MatryoshkaEncoder:
        """The model, loaded on first use."""
        if self._model is None:
            self._model = self._load_model()
        return self._model

    @cached_property
    def _parts(self) -> tuple[MatryoshkaEncoder, Callable[[np.ndarray], np.ndarray] | None]:
        """What reads texts, and what is applied to its vectors."""
        return split_linear(self.model)

    def embed(self, texts: Sequence[str], *, prompt: str | None = None, role: str | None = None) -> np.ndarray:
        """Full-width embeddings as the model computes them, not renormalised.

        Args:
            prompt: text put before each; None leaves it to the model.
            role: ``"query"``, ``"document"`` or None, as in ``encode_query`` and ``encode_document``.

        Returns:
            float32 array (n, width), rows in the order of ``texts``.

        Raises:
            ValueError: the model returned a number that is not finite, or vectors of another width than before; the
                text is named.
        """
        store = self._store()
        prompt = self.model.prompt_for(role, prompt=prompt) or ""
        route = role if self.model.has_routes else None
        keys = self._keys(texts, prompt, route)
        # again, should somebody delete the file in the meantime
        while missing := {key: text for key, text in zip(keys, texts, strict=True) if key not in store.rows}:
            self._encode(store, missing, prompt, route)
        if not keys:
            return np.zeros((0, self.model.width or store.width or 0), dtype=np.float32)
        return self._applied(store.get(keys))

    def forget(self) -> None:
        """Drop what is held in memory only; a cache with a folder keeps everything."""
        if self._folder is None:
            self._opened = None

    @staticmethod
    def _keys(texts: Sequence[str], prompt: str, route: str | None) -> list[bytes]:
        prefix = f"{route}\0{prompt}\0".encode()
        return [
            hashlib.blake2b(prefix + text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
            for text in texts
        ]

    def _fingerprint(self) -> str:
        """The name of the model's folder."""
        return fingerprint(self._parts[0])

    def _applied(self, vectors: np.ndarray) -> np.ndarray:
        """The model's vectors from those that are kept."""
        linear = self._parts[1]
        return vectors if linear is None else linear(vectors)

    def _store(self) -> VectorMemory:
        """What is known, read not before it is needed: there may be gigabytes to check."""
        if self._opened is None:
            self._opened = VectorMemory()
            if self._folder is not None:
                self._opened = VectorFile(self._folder / self._fingerprint() / "vectors.bin")
            self._opened.refresh()
        return self._opened

    def _encode(self, store: VectorMemory, missing: dict[bytes, str], prompt: str, route: str | None) -> None:
        ordered = sorted(missing.items(), key=lambda item: -len(item[1]))
        with progress_bar(total=len(ordered), desc="Encoding", unit="text", leave=False) as bar:
            for start in range(0, len(ordered), _BLOCK_TEXTS):
                part = ordered[start : start + _BLOCK_TEXTS]
                vectors = self._encode_part(store, [text for _, text in part], prompt, route, bar)
                store.append([key for key, _ in part], vectors)
        self.encoded += len(ordered)

    def _encode_part(
        self, store: VectorMemory, texts: list[str], prompt: str, route: str | None, bar: tqdm
    ) -> np.ndarray:
        steps: list[np.ndarray] = []
        lists = [texts[start : start + _WINDOW_TEXTS] for start in range(0, len(texts), _WINDOW_TEXTS)]
        model = self._parts[0]
        budget = bounded_budget(model, self._batch_size)
        windows = encode_windows(model, lists, token_budget=budget, prompt=prompt or None, task=route)
        for some, window in zip(lists, windows, strict=True):
            step = window.vectors
            width = steps[0].shape[1] if steps else store.width or model.width or step.shape[1]
            if step.shape[1] != width:
                raise ValueError(
                    f"the model returned vectors of {step.shape[1]} numbers where {width} were expected, for the text"
                    f" {some[0][:80]!r} and those after it"
                )
            steps.append(step)
            bar.update(len(some))
        vectors = np.concatenate(steps)
        if not np.isfinite(vectors).all():
            bad = texts[int(np.argmin(np.isfinite(vectors).all(axis=1)))]
            raise ValueError(f"the model returned NaN or infinity for the text {bad[:80]!r}")
        return vectors


def fingerprint(model: MatryoshkaEncoder) -> str:
    """What decides a model's vectors as 32 hex digits: weights and their type, modules, settings, tokenizer, own code.

    Prompts are not in it: they are part of what is read.
    """
    described = f"{model}\0{model.max_seq_length}\0{settings_of(model.config)}{_tokenizer_settings(model.tokenizer)}"
    return network_hash(described, model.state_dict(), model)


def settings_of(config: Any) -> str:
    """A transformers configuration as JSON, without what is about the file; None has no settings."""
    settings = {} if config is None else config.to_dict()
    about = {name: value for name, value in settings.items() if name not in _ABOUT_THE_FILE}
    return json.dumps(about, sort_keys=True, default=str)


def network_hash(described: str, weights: Mapping[str, torch.Tensor], network: torch.nn.Module) -> str:
    """32 hex digits of a description, weights with their types, and the code that came with the network."""
    digest = hashlib.blake2b(described.encode(), digest_size=16)
    for name, value in sorted(weights.items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    for folder in sorted({folder for module in network.modules() if (folder := _own_code(module))}):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _own_code(module: torch.nn.Module) -> Path | None:
    """The folder of a class that came with the model; None for those of installed packages."""
    name = type(module).__module__
    return Path(inspect.getfile(sys.modules[name])).parent if name.startswith("transformers_modules") else None


def _tokenizer_settings(tokenizer: object) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        return type(tokenizer).__name__
    settings = json.loads(backend.to_str())
    return json.dumps({key: value for key, value in settings.items() if key not in ("truncation", "padding")})  # of now
