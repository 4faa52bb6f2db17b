"""Vectors of a model behind an API, kept as those of any other: what came is never asked for again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from mrl_text.api.client import BYTES_PER_TOKEN, ApiClient, Batch, estimated_tokens
from mrl_text.api.options import ApiOptions
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.progress import progress_bar
from mrl_text.streaming import EncodedWindow
from mrl_text.vector_file import KEY_BYTES, VectorMemory

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder

logger = logging.getLogger(__name__)

PROBE = "width"
"""The one text that is sent to learn how wide vectors are."""


class _Described:
    """What is asked of a model whose vectors are known: it has no prompts and compares by cosine."""

    prompts: dict[str, str]
    similarity_fn_name, has_routes, width = "cosine", False, None

    def __init__(self) -> None:
        self.prompts = {}

    def prompt_for(self, role: str | None = None, prompt: str | None = None) -> str | None:
        """The prompt that was given, if one was."""
        return prompt


class ApiCache(EmbeddingCache):
    """Full-width vectors of a model behind an API; each answer is kept as it comes.

    A blank text is not sent, since OpenAI refuses it: its vector is zero, as mteb has it for OpenAI's models. A text
    that the API calls too long is sent again without its end until it is taken.

    Args:
        name: what the API calls the model.
        options: where it is, and how much is asked at once.
        folder: as for :class:`~mrl_text.embedding_cache.EmbeddingCache`.

    Raises:
        ValueError: no key where one is needed.
    """

    def __init__(self, name: str, options: ApiOptions, folder: Path | None) -> None:
        super().__init__(lambda: cast("MatryoshkaEncoder", _Described()), folder)
        self.client = ApiClient(name, options)
        self._planned = 0  # tokens, estimated, of all that was sent or is about to be
        self._announced = False

    def announce(self, texts: Iterable[str]) -> None:
        """Say how many texts, tokens and dollars are ahead, once for all that :meth:`embed` will be asked.

        From then on :meth:`embed` itself says nothing and shows no bar.

        Raises:
            ValueError: more tokens than ``max_total_tokens``.
        """
        store, seen, tokens = self._store(), set(), 0
        for text in texts:
            [key] = self._keys([text], "", None)
            if key not in store.rows and key not in seen and text.strip():
                seen.add(key)
                tokens += estimated_tokens(text)
        self._announce(len(seen), tokens)
        self._announced = True

    def window(self, texts: list[str]) -> EncodedWindow:
        """Vectors of texts, and which of them are of a part of the text."""
        vectors, rows = self.embed(texts), self._store().rows
        cut = [_mark(key) in rows for key in self._keys(texts, "", None)]
        return EncodedWindow(vectors, np.array(cut, dtype=bool))

    def report(self) -> None:
        """Say what was asked, as the API counts it."""
        if self.client.requests:
            cost = self._cost(self.client.tokens)
            logger.info(
                "%s: %d requests, %d tokens%s", self.client.name, self.client.requests, self.client.tokens, cost
            )

    def _fingerprint(self) -> str:
        return self.client.options.fingerprint(self.client.name)

    def _applied(self, vectors: np.ndarray) -> np.ndarray:
        return vectors

    def _encode(self, store: VectorMemory, missing: dict[bytes, str], prompt: str, route: str | None) -> None:
        sent = {key: prompt + text for key, text in missing.items() if (prompt + text).strip()}
        probe = list(missing.values()) == [PROBE]
        quiet = self._announced or probe
        if sent and not quiet:
            self._announce(len(sent), sum(map(estimated_tokens, sent.values())))
        cut: list[bytes] = []
        with progress_bar(total=len(sent), desc="Encoding", unit="text", leave=False, disable=quiet) as bar:
            self.client.run(sent.items(), _keeping(store, sent, cut, bar.update))
        self.encoded += len(sent)
        if cut:
            logger.info("%s: %d of %d texts were too long and are cut", self.client.name, len(cut), len(sent))
        if blank := [key for key in missing if key not in sent]:
            width = store.width or self.embed([PROBE]).shape[1]
            store.append(blank, np.zeros((len(blank), width), np.float32))
            logger.info("%s: %d blank texts were not sent, their vectors are zero", self.client.name, len(blank))
        if sent and not quiet:
            self.report()

    def _announce(self, count: int, tokens: int) -> None:
        logger.info(
            "%s at %s: %d texts to send, about %d tokens (a token for %d bytes)%s",
            self.client.name, self.client.options.base_url, count, tokens, BYTES_PER_TOKEN, self._cost(tokens),
        )  # fmt: skip
        self._planned += tokens
        limit = self.client.options.max_total_tokens
        if limit is not None and self._planned > limit:
            raise ValueError(
                f"{self._planned:,} tokens, estimated, are more than the {limit:,} of --max-total-tokens: raise it, or"
                " take fewer texts"
            )

    def _cost(self, tokens: int) -> str:
        price = self.client.options.price_per_million
        if price is None:
            return ""
        cost = tokens / 1e6 * price
        shown = f"{cost:,.2f} US dollars" if cost >= 0.01 or not cost else "less than a cent"
        return f", {shown} at {price:g} a million"


def _keeping(
    store: VectorMemory, sent: dict[bytes, str], cut: list[bytes], tell: Callable[[int], object]
) -> Callable[[Batch, np.ndarray], None]:
    """What is done with each answer: look at it, write it, move the bar."""

    def keep(batch: Batch, vectors: np.ndarray) -> None:
        first = sent[batch.keys[0]][:80]
        if store.width is not None and vectors.shape[1] != store.width:
            raise ValueError(
                f"the API returned vectors of {vectors.shape[1]} numbers where {store.width} were expected, for the"
                f" text {first!r} and those after it"
            )
        if not np.isfinite(vectors).all():
            bad = batch.keys[int(np.argmin(np.isfinite(vectors).all(axis=1)))]
            raise ValueError(f"the API returned NaN or infinity for the text {sent[bad][:80]!r}")
        marks = list(map(_mark, batch.keys)) if batch.cut else []
        store.append([*batch.keys, *marks], np.concatenate([vectors, vectors]) if marks else vectors)
        cut.extend(marks)
        tell(len(batch.keys))

    return keep


def _mark(key: bytes) -> bytes:
    """The key whose presence says that a vector is of a part of its text."""
    return hashlib.blake2b(b"cut\0" + key, digest_size=KEY_BYTES).digest()
