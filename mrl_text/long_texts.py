"""Long texts: what a model would not read of them is left out before they are tokenised."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from sentence_transformers.base.modules import Transformer
from tokenizers import Encoding, Tokenizer
from tokenizers.models import BPE, Unigram

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CHARACTERS = 8  # for each token that is read: of most texts more than enough
_GROWTH = 4
_SEARCHED = 1000  # characters that are searched for a place to cut
_WORDS = 4  # in front of a cut, that may be split in another way than with what follows
_PLACES = (re.compile(r"[^\W_](?=[\W_])"), re.compile(r"\D"))  # ends of words; else anywhere but inside of a number
_KEPT = 1000  # characters of one token, or of what no token holds: no vocabulary has a token that long
_SPARE = 16  # tokens beyond those read


class Shortener:
    """Leaves out of long texts what a tokenizer would read and a model would not.

    What comes back has the same first ``limit`` tokens as the whole text, and more than ``limit`` if the whole has
    more. No token is guessed: a text is cut

    - behind enough tokens of whole words, since tokenizers split texts into words first and each word by itself;
    - where there are no words (Japanese, Gemma's and Llama's tokenizers), between two characters that stand next to
      each other in no token of the vocabulary: the tokens of both sides are independent then;
    - otherwise by its tokens: the whole text is tokenised once, and a shorter one that gives the same replaces it. If
      there is none, the text stays as it is.

    May be called from any thread.

    Args:
        tokenizer: of :func:`own_tokenizer`; None leaves all texts as they are.
        limit: tokens that the model reads.
    """

    def __init__(self, tokenizer: Tokenizer | None, limit: int) -> None:
        self.tokenizer = tokenizer  # None where texts stay as they are
        self._enough = limit + 1  # one more says that the text is cut
        model, before = (
            (tokenizer.model, f"{tokenizer.pre_tokenizer}{tokenizer.normalizer}") if tokenizer else (None, "")
        )
        self._has_seams = isinstance(model, Unigram) or (isinstance(model, BPE) and not model.end_of_word_suffix)
        self._has_seams &= "ByteLevel" not in before  # its characters are not those of the text

    @classmethod
    def of(cls, model: SentenceTransformer) -> Self:
        """For a model's texts; one that leaves them as they are where it is not certain what the model reads."""
        first: Any = model[0]
        limit = model.max_seq_length
        plain = (
            isinstance(first, Transformer)
            and list(model.modalities) == ["text"]
            and isinstance(limit, int)
            and getattr(model.tokenizer, "truncation_side", None) == "right"
            and not any(getattr(first, name, None) for name in ("processing_kwargs", "query_expansion"))
        )
        if not plain:
            return cls(None, 0)
        own = [getattr(first, name, None) or 0 for name in ("query_length", "document_length")]
        return cls(own_tokenizer(model.tokenizer), max(limit, *own))

    def __call__(self, text: str, prompt: str | None = None) -> str:
        """The text, or a shorter one of the same first tokens behind the prompt."""
        if self.tokenizer is None or len(text) <= _CHARACTERS * self._enough:
            return text
        prompt = prompt or ""
        found = self._shortened(prompt + text, len(prompt))
        return found[len(prompt) :] if found.startswith(prompt) else text

    def _shortened(self, text: str, least: int) -> str:
        size = max(least + _SEARCHED, _CHARACTERS * self._enough)
        while size < len(text):
            place = _place(text, size)
            if place and (cut := self._certain(text, place)):
                return text[:cut]
            size *= _GROWTH
        return self._by_tokens(text, least) if len(text) > _CHARACTERS * _GROWTH**2 * self._enough else text

    def _certain(self, text: str, place: int) -> int | None:
        """A place at or before this one in front of which are enough tokens, whatever follows."""
        found = self._encode(text[:place])
        if len(found) < self._enough:
            return None
        words: Any = found.word_ids  # ascending
        if bisect_right(words, words[-1] - _WORDS) >= self._enough:
            return place
        seams = range(min(place, len(text) - 1), max(0, place - _SEARCHED), -1) if self._has_seams else ()
        seam = next((at for at in seams if self._is_seam(text[at - 1], text[at])), None)
        return seam if seam and len(self._encode(text[:seam])) >= self._enough else None

    def _is_seam(self, before: str, after: str) -> bool:
        """Whether no token of the vocabulary has these two characters next to each other."""
        if not before.isalnum() or not (after.isalnum() or after.isspace()):
            return False  # it might belong to the character before it
        normalizer = self.tokenizer.normalizer if self.tokenizer else None
        pair = normalizer.normalize_str(before + after) if normalizer else before + after
        pair = pair.removeprefix("▁")  # which is put before every text
        return len(pair) == 2 and not {pair, pair.replace(" ", "▁")} & self._pairs

    @cached_property
    def _pairs(self) -> frozenset[str]:
        vocabulary = self.tokenizer.get_vocab() if self.tokenizer else ()
        return frozenset(before + after for token in vocabulary for before, after in pairwise(token))

    def _by_tokens(self, text: str, least: int) -> str:
        """A text without the inside of what is one token or none, and without what follows the tokens that are read."""
        whole = self._encode(text)
        last = min(len(whole), self._enough + _SPARE + least)
        edges = {0, *(edge for at in range(last) for edge in whole.token_to_chars(at) or ())}
        edges |= {len(text)} if last == len(whole) else set()
        shorter = "".join(text[start : min(end, start + _KEPT)] for start, end in pairwise(sorted(edges)))
        same = self._encode(shorter).ids[: self._enough] == whole.ids[: self._enough]
        return shorter if same else text

    def _encode(self, text: str) -> Encoding:
        assert self.tokenizer is not None
        return self.tokenizer.encode(text, add_special_tokens=False)


def own_tokenizer(tokenizer: Any) -> Tokenizer | None:
    """A copy of a model's tokenizer that neither pads nor cuts, for any thread; None for one written in Python."""
    backend = tokenizer if isinstance(tokenizer, Tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return None
    own = Tokenizer.from_str(backend.to_str())
    own.no_padding()
    own.no_truncation()
    return own


def _place(text: str, size: int) -> int | None:
    """Where to cut a text soon after ``size`` characters."""
    found = (pattern.search(text, size, size + _SEARCHED) for pattern in _PLACES)
    return next((match.end() for match in found if match), None)
