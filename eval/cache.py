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
    """Full-width embeddings of one model, keyed by text and prompt, in memory and on disk.

    New texts are encoded longest first, in shards of 4,096; each shard is a file of its own, written whole or not
    at all and named after its checksum, so a run that is killed repeats at most one shard, and a damaged file is
    noticed and encoded again.

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
        self._rows: dict[bytes, int] = {}
        self._blocks: list[np.ndarray] = []
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
            ValueError: the model returned a number that is not finite; the text is named.
        """
        if not self._opened and self._folder is not None:  # not before it is needed: there may be gigabytes
            self._opened = True
            for file in sorted(self._folder.glob("*.npz")):
                self._read_shard(file)
        prefix = f"{role if self._depends_on_role() else None}\0{prompt}\0"
        keys = [hashlib.blake2b((prefix + text).encode(), digest_size=_KEY_BYTES).digest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}
        if missing:
            self._encode(missing, prompt, role)
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        if not keys:
            return np.zeros((0, self.model.width or 0), dtype=np.float32)
        return self._blocks[0][[self._rows[key] for key in keys]]

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
                self._add([key for key, _ in part], vectors)
                self._write_shard([key for key, _ in part], vectors)
        self.encoded += len(ordered)

    def _encode_part(
        self, encode: Callable[..., np.ndarray], texts: list[str], prompt: str | None, bar: tqdm
    ) -> np.ndarray:
        steps = []
        for start in range(0, len(texts), 16 * self._batch_size):  # often enough for the bar to move
            some = texts[start : start + 16 * self._batch_size]
            steps.append(
                encode(
                    some,
                    prompt=prompt,
                    batch_size=self._batch_size,
                    show_progress_bar=False,
                    normalize_embeddings=False,
                )
            )
            bar.update(len(some))
        vectors = np.concatenate(steps)
        if not np.isfinite(vectors).all():
            bad = texts[int(np.argmin(np.isfinite(vectors).all(axis=1)))]
            raise ValueError(f"the model returned NaN or infinity for the text {bad[:80]!r}")
        return vectors

    def _add(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        start = sum(len(block) for block in self._blocks)
        self._rows.update({key: start + offset for offset, key in enumerate(keys)})
        self._blocks.append(vectors)

    def _write_shard(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        if self._folder is None:
            return
        stream = io.BytesIO()
        np.savez(stream, keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES), vectors=vectors)
        content = stream.getvalue()
        write_atomically(self._folder / f"{_checksum(content)}.npz", content)

    def _read_shard(self, file: Path) -> None:
        content = file.read_bytes()
        if _checksum(content) != file.stem:
            logger.warning("the embedding cache file %s is damaged; its texts are encoded again", file)
            file.unlink()
            return
        with np.load(io.BytesIO(content)) as shard:
            self._add([row.tobytes() for row in shard["keys"]], shard["vectors"])


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
