"""Every text is encoded once, at full width; the vectors outlive the process."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from mrl_text.files import write_atomically

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder

logger = logging.getLogger(__name__)

_SHARD_TEXTS = 4096
_KEY_BYTES = 16


class EmbeddingCache:
    """Full-width embeddings of one model, keyed by text and prompt, on disk or in memory.

    New texts are encoded longest first, in shards of 4,096; each shard is a file of its own, written whole or not
    at all and named after its checksum, so a run that is killed repeats at most one shard, and a damaged file is
    noticed and encoded again. Shards are memory-mapped: what is not used costs no memory.

    Args:
        load_model: returns the model; called on the first use of :attr:`model` or :meth:`embed`.
        folder: where shards are kept; None keeps them in memory only. One folder belongs to one model revision.
        batch_size: texts per forward pass.
    """

    def __init__(self, load_model: Callable[[], MatryoshkaEncoder], folder: Path | None, batch_size: int = 32) -> None:
        self._load_model = load_model
        self._model: MatryoshkaEncoder | None = None
        self._folder = folder
        self._batch_size = batch_size
        self._rows: dict[bytes, tuple[int, int]] = {}
        self._shards: list[np.ndarray] = []
        self.encoded = 0
        """Texts that went through the model in this process."""
        self._opened = folder is None

    @property
    def model(self) -> MatryoshkaEncoder:
        """The model, loaded on first use."""
        if self._model is None:
            self._model = self._load_model()
        return self._model

    def embed(self, texts: Sequence[str], *, prompt: str | None = None, role: str | None = None) -> np.ndarray:
        """Full-width embeddings as the model computes them, not renormalised.

        Args:
            texts: any number of texts, repeats allowed.
            prompt: text put before each; None leaves it to the model.
            role: ``"query"``, ``"document"`` or None, as in ``encode_query`` and ``encode_document``.

        Returns:
            float32 array (n, width), rows in the order of ``texts``.

        Raises:
            ValueError: the model returned a number that is not finite, or vectors of another width than before; the
                text is named.
        """
        self._open()
        prefix = f"{role if self._depends_on_role() else None}\0{prompt}\0"
        keys = [hashlib.blake2b((prefix + text).encode(), digest_size=_KEY_BYTES).digest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}
        if missing:
            self._encode(missing, prompt, role)
        if not keys:
            return np.zeros((0, self._width() or 0), dtype=np.float32)
        where = np.array([self._rows[key] for key in keys])
        vectors = np.empty((len(keys), self._shards[where[0, 0]]["vector"].shape[1]), dtype=np.float32)
        for shard in np.unique(where[:, 0]):
            chosen = where[:, 0] == shard
            vectors[chosen] = self._shards[shard]["vector"][where[chosen, 1]]
        return vectors

    def forget(self) -> None:
        """Drop what is held in memory only; a cache with a folder keeps everything."""
        if self._folder is None:
            self._rows, self._shards = {}, []

    def _open(self) -> None:
        """Read the keys on disk, not before they are needed: there may be gigabytes to check."""
        if self._opened or self._folder is None:
            return
        self._opened = True
        for file in sorted(self._folder.glob("*.npy")):
            if _checksum(file) == file.stem:
                self._add(np.load(file, mmap_mode="r"))
            else:
                logger.warning("the embedding cache file %s is damaged; its texts are encoded again", file)
                file.unlink(missing_ok=True)

    def _width(self) -> int | None:
        return int(self._shards[0]["vector"].shape[1]) if self._shards else self.model.width

    def _depends_on_role(self) -> bool:
        from sentence_transformers.base.modules import Router

        return any(isinstance(module, Router) for module in self.model.children()) or bool(
            any(self.model.prompts.get(name) for name in ("query", "document"))
        )

    def _encode(self, missing: dict[bytes, str], prompt: str | None, role: str | None) -> None:
        encode = {"query": self.model.encode_query, "document": self.model.encode_document}.get(
            role or "", self.model.encode
        )
        ordered = sorted(missing.items(), key=lambda item: -len(item[1]))
        with tqdm(total=len(ordered), desc="Encoding", unit="text", leave=False, dynamic_ncols=True) as bar:
            for start in range(0, len(ordered), _SHARD_TEXTS):
                part = ordered[start : start + _SHARD_TEXTS]
                vectors = self._encode_part(encode, [text for _, text in part], prompt, bar)
                self._add(self._kept([key for key, _ in part], vectors))
        self.encoded += len(ordered)

    def _encode_part(
        self, encode: Callable[..., np.ndarray], texts: list[str], prompt: str | None, bar: tqdm
    ) -> np.ndarray:
        steps: list[np.ndarray] = []
        for start in range(0, len(texts), 16 * self._batch_size):  # often enough for the bar to move
            some = texts[start : start + 16 * self._batch_size]
            step = encode(
                some, prompt=prompt, batch_size=self._batch_size, show_progress_bar=False, normalize_embeddings=False
            )
            width = steps[0].shape[1] if steps else self._width() or step.shape[1]
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

    def _kept(self, keys: Sequence[bytes], vectors: np.ndarray) -> np.ndarray:
        """The vectors with their keys as one structured array, from the file that now holds it if there is a folder."""
        shard = np.empty(len(keys), dtype=[("key", f"V{_KEY_BYTES}"), ("vector", "<f4", vectors.shape[1])])
        shard["key"] = np.frombuffer(b"".join(keys), dtype=f"V{_KEY_BYTES}")
        shard["vector"] = vectors
        if self._folder is None:
            return shard
        stream = io.BytesIO()
        np.save(stream, shard)
        content = stream.getvalue()
        file = self._folder / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.npy"
        write_atomically(file, content)
        return np.asarray(np.load(file, mmap_mode="r"))

    def _add(self, shard: np.ndarray) -> None:
        number = len(self._shards)
        self._rows.update({key.tobytes(): (number, row) for row, key in enumerate(shard["key"])})
        self._shards.append(shard)


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
