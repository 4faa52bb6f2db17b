"""Which API, and how it is asked. Light to import: commands read it before anything else."""

from __future__ import annotations

import hashlib
import math
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

PREFIX = "openai:"
"""What a model's name begins with that is behind an API; the rest is what the API calls it."""

OPENAI_URL = "https://api.openai.com/v1"
URL_VARIABLE, KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"


@dataclass(frozen=True)
class ApiOptions:
    """Where an API is and how much is asked of it at once. The key is no part of it: see :func:`read_key`.

    Raises:
        ValueError: an address that is none or has a password or a query in it, or an impossible number.
    """

    base_url: str | None = None  # such as https://host/v1; None takes OPENAI_BASE_URL, else OpenAI's own
    request_texts: int = 2048  # texts in a request, at most: OpenAI's own limit
    request_tokens: int = (
        300_000  # likewise tokens, counted as of two bytes each, so that no text of short ones is over
    )
    parallel: int = 4  # requests under way at once
    max_retries: int = 8  # of a request, after a failure that may pass; their waits add up to a minute or two
    timeout: float = 60.0  # seconds without an answer after which a connection counts as lost
    price_per_million: float | None = None  # US dollars for a million tokens; None shows no cost
    max_total_tokens: int | None = None  # estimated tokens that may be sent in all; None sets no limit

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        for name in ("request_texts", "request_tokens", "parallel", "max_total_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries must be 0 or more, got {self.max_retries}")
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be above 0 seconds, and finite, got {self.timeout}")
        if self.price_per_million is not None and not 0 <= self.price_per_million < math.inf:
            raise ValueError(f"price_per_million must be 0 or more dollars, got {self.price_per_million}")

    def fingerprint(self, name: str) -> str:
        """32 hex digits of the address and the model's name: all that is known of what decides its vectors."""
        return hashlib.blake2b(f"{self.base_url}\0{name}".encode(), digest_size=16).hexdigest()


def is_api_name(name: str) -> bool:
    """Whether a model's name is that of one behind an API."""
    return name.startswith(PREFIX)


def api_name(name: str) -> str:
    """What the API calls the model ``openai:NAME``; ValueError where nothing is left."""
    if not (bare := name.removeprefix(PREFIX).strip()):
        raise ValueError(f"{name!r} names no model: write {PREFIX}NAME, such as {PREFIX}text-embedding-3-small")
    return bare


def result_name(bare: str) -> str:
    """The model in results and on disk, ``openai/NAME`` as in mteb's own; what no file name may hold is ``_``."""
    return f"openai/{re.sub(r'[^A-Za-z0-9._-]+', '_', bare)}"


def refusal(name: str) -> str:
    """What a command says that needs weights."""
    return (
        f"{name} is behind an API: it has vectors and no weights. mrl-text encode and eval take it; for anything else"
        " encode with it first, then use the vectors: mrl-text adapt --embeddings, mrl-text index push"
    )


def read_key(base_url: str) -> str | None:
    """The key from OPENAI_API_KEY; None where none is set and the address is not OpenAI's, which asks for one.

    Raises:
        ValueError: none for OpenAI, or one that no header can hold. The key itself is never shown.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key and base_url == OPENAI_URL:
        raise ValueError(f"{OPENAI_URL} asks for a key, and {KEY_VARIABLE} is not set: export {KEY_VARIABLE}=...")
    if not all("!" <= letter <= "~" for letter in key):
        raise ValueError(f"{KEY_VARIABLE} holds a blank or a letter that no key has: copy the key again")
    return key or None


def _checked_url(given: str | None) -> str:
    url = (given or os.environ.get(URL_VARIABLE, "").strip() or OPENAI_URL).rstrip("/")
    origin = "base_url" if given else URL_VARIABLE
    if "@" in url or "?" in url or "#" in url:  # not shown: a password may be in it
        raise ValueError(
            f"{origin} has a user, a query or a part behind #: give https://HOST/v1, a key in {KEY_VARIABLE}"
        )
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise ValueError(f"{origin} {url!r} is no address: give one like https://HOST/v1")
    return url
