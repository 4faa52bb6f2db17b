"""The model behind a server: counts tokens, encodes batches."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from mrl_text.choices import AutoBackend, AutoDtype
from mrl_text.dtypes import compute_dtype
from mrl_text.lanes import Lanes, Share, split
from mrl_text.loading import load
from mrl_text.long_texts import Shortener, own_tokenizer
from mrl_text.models import ModelSource, find_model
from mrl_text.streaming import compute
from mrl_text.suggest import check_choice
from mrl_text.token_batches import token_batches
from mrl_text.truncation import truncate


class Reading(NamedTuple):
    """How the model reads a text. Texts with different readings cannot share a forward pass."""

    prompt: str | None = None  # text put before every input
    task: str | None = None  # route through models that treat queries and documents differently


PLAIN = Reading()  # no prompt and no route


class Embedder:
    """Encodes batches that the caller has put together.

    All of it may be called from any thread. :attr:`share` is how many should compute at once, and how.

    Args:
        backend: what computes it, as for :func:`mrl_text.loading.load`.
        dtype: what it computes in; ``auto`` is bfloat16 where the device has it natively and the model has
            matrices to multiply, else float32.

    Raises:
        FileNotFoundError: no such model.
        ValueError: unknown dtype; a model that does not tell its width.
    """

    def __init__(
        self,
        model: str | ModelSource,
        *,
        backend: AutoBackend = "torch",
        dtype: AutoDtype = "auto",
        device: str | None = None,
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        check_choice("dtype", dtype, AutoDtype)
        source = find_model(model, trust_remote_code=trust_remote_code) if isinstance(model, str) else model
        self.name = name or source.name.removeprefix("local/")  # what clients call it
        self.names = {self.name}  # all that clients may call it
        if name is None:  # also what it was loaded by, and a hub id without its organisation
            self.names |= {self.name.rpartition("/")[2], *([model] if isinstance(model, str) else [])}
        self._encoder = load(source, dtype=dtype, device=device, backend=backend).eval()
        self.dtype = compute_dtype(self._encoder)
        self.backend = self._encoder.get_backend()
        self._encoder.warn_when_cut = False  # the server counts what it cuts
        self.share: Share = split(self._encoder.device)
        self._lanes = Lanes(self._encoder.device)
        self._tokenizing = threading.Lock()  # the model's tokenizer changes its padding, which one at a time may do
        width = self._encoder.width
        if width is None:
            raise ValueError(f"{self.name} does not tell how many numbers its vectors have, and cannot be served")
        self.width: int = width  # numbers per vector
        self.dims = self._encoder.matryoshka_dims
        self.max_tokens = self._encoder.max_tokens  # of a text that are read; None for no limit
        self._shorten = Shortener.of(self._encoder)
        tokenizer = self._encoder.tokenizer
        self._tokenize = _token_counter(tokenizer, self._shorten.tokenizer or own_tokenizer(tokenizer))

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(self._encoder.device)

    def reading(self, input_type: str | None = None, prompt_name: str | None = None) -> Reading:
        """How texts are read, by the rule of :meth:`mrl_text.MatryoshkaEncoder.prompt_for`
        (``input_type`` is its ``role``).

        Raises:
            ValueError: the model has no such prompt.
        """
        return Reading(self._encoder.prompt_for(input_type, prompt_name) or None, input_type)

    def shortened(self, texts: Sequence[str], reading: Reading = PLAIN) -> list[str]:
        """The texts without the most of what the model would not read of long ones: same tokens, same vectors."""
        return [self._shorten(text, reading.prompt) for text in texts]

    def count(self, texts: Sequence[str], reading: Reading = PLAIN) -> list[int]:
        """Tokens of each text with its prompt and special tokens, before any cut; at least 1."""
        return self._tokenize([reading.prompt + text for text in texts] if reading.prompt else list(texts))

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The texts of lists of token ids, without special tokens.

        Raises:
            ValueError: an id that the tokenizer does not know, with its position; a model without token ids.
        """
        tokenizer = self._encoder.tokenizer
        size = getattr(tokenizer, "vocab_size", None)
        if not isinstance(size, int):
            raise ValueError("this model does not take token ids: send text")
        for position, some in enumerate(ids):
            if not all(0 <= number < len(tokenizer) for number in some):
                raise ValueError(f"input[{position}] has ids outside of the model's {len(tokenizer)} tokens")
        return [tokenizer.decode(list(some), skip_special_tokens=True) for some in ids]

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> np.ndarray:
        """Encode one batch in one forward pass.

        Returns:
            float32 (n, width), unit rows.

        Raises:
            FloatingPointError: the model returned NaN or infinity.
        """
        with self._tokenizing:
            batches = token_batches(self._encoder, texts, sys.maxsize, reading.prompt, reading.task)
        computed = compute(self._encoder, len(texts), batches, self.dtype, reading.task, self._lanes)
        vectors: np.ndarray = truncate(computed.vectors, normalize=True)
        if not np.isfinite(vectors).all():
            raise FloatingPointError("the model gave vectors that are not finite")
        return vectors


def _token_counter(tokenizer: Any, own: Tokenizer | None) -> Callable[[list[str]], list[int]]:
    """Make a function that counts tokens: with a copy of the tokenizer, if there can be one.

    The model's tokenizer changes its padding while the model computes, which only one thread at a time may do.
    """
    if own is not None:
        special = not isinstance(tokenizer, Tokenizer)  # a static embedding reads no special tokens

        def count(texts: list[str]) -> list[int]:
            return [max(1, len(found)) for found in own.encode_batch_fast(texts, add_special_tokens=special)]

        return count
    lock = threading.Lock()
    encode = getattr(tokenizer, "encode", tokenizer.tokenize)  # the first adds special tokens

    def count_slowly(texts: list[str]) -> list[int]:
        with lock:
            return [max(1, len(encode(text))) for text in texts]

    return count_slowly
