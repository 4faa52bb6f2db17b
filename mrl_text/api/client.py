"""Requests to an OpenAI-compatible ``/embeddings``: several at once, paced, repeated when they fail for a while."""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import textwrap
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import requests

from mrl_text.api.options import KEY_VARIABLE, ApiOptions, read_key
from mrl_text.api.pace import Pace, StoppedError, pause

logger = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4
"""Of UTF-8: what OpenAI says of English, and what is estimated where no tokenizer is known."""

_LEAST_BYTES_PER_TOKEN = 2  # so that a request is within the limit whatever the language
_LONGEST_REASON = 240
_SHORTER = 0.8  # of a text that is too long is sent next
_SHORTEST = 100  # characters below which a text is not shortened
_TOO_MUCH = re.compile(r"too (long|many|large|big)|longer|less than|maximum|at most|exceed", re.IGNORECASE)
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)  # for the tokens of a minute, however long one waits
_ANYTHING = re.compile("")
_OF_TOKENS = re.compile(r"token|context|length|long|payload", re.IGNORECASE)  # else of the number of texts
_UNKNOWN_HOST = re.compile(r"name resolution|name or service not known|nodename nor|getaddrinfo|resolve", re.IGNORECASE)
_PASSING = (408, 409, 425, 429)  # and all from 500


class TooMuchError(Exception):
    """A request that has to be made smaller.

    Attributes:
        counted: whether the number of texts is too large, as far as the words of the server tell.
    """

    def __init__(self, reason: str, counted: bool) -> None:
        super().__init__(reason)
        self.counted = counted


@dataclass(frozen=True)
class Batch:
    """The texts of one request."""

    keys: tuple[bytes, ...]  # whatever tells the caller which texts they are
    texts: tuple[str, ...]
    cut: bool = False  # whether the one text is shortened

    @property
    def tokens(self) -> int:
        """How many there are, estimated."""
        return sum(map(estimated_tokens, self.texts))

    def smaller(self) -> list[Batch]:
        """What to ask instead: two halves, or the one text without its end; nothing where that is short already."""
        if (half := len(self.texts) // 2) > 0:
            return [Batch(self.keys[:half], self.texts[:half]), Batch(self.keys[half:], self.texts[half:])]
        [text] = self.texts
        if len(text) <= _SHORTEST:
            return []
        return [Batch(self.keys, (text[: int(_SHORTER * len(text))],), cut=True)]


def estimated_tokens(text: str) -> int:
    """Bytes in UTF-8 divided by :data:`BYTES_PER_TOKEN`, rounded up."""
    return -(-_bytes(text) // BYTES_PER_TOKEN)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class ApiClient:
    """One model of an API.

    Args:
        name: what the API calls it.
        options: where it is, and how much is asked at once.

    Raises:
        ValueError: no key where one is needed, or one that no header can hold.
    """

    def __init__(self, name: str, options: ApiOptions) -> None:
        self.name, self.options = name, options
        self.requests = 0  # that were answered with vectors
        self.tokens = 0  # of these, as the API counts
        self._key = read_key(str(options.base_url))
        self._url = f"{options.base_url}/embeddings"
        self._texts = options.request_texts
        self._as_base64 = True
        self._pace = Pace()
        self._threads = ThreadPoolExecutor(options.parallel, "embeddings")
        self._sessions = threading.local()  # a session is for one thread
        self._lock = threading.Lock()

    def run(self, texts: Iterable[tuple[bytes, str]], keep: Callable[[Batch, np.ndarray], None]) -> None:
        """Ask for vectors of texts and hand each answer over as it comes, in the calling thread.

        What is under way when something fails, or the user interrupts, is waited for and handed over, too: it is paid.

        Args:
            texts: with their keys.
            keep: takes a batch and its vectors, float32 (n, width).

        Raises:
            ValueError: the API refuses the request, the model or the key, or answers with something else.
            ConnectionError: it gave no answer in all tries.
        """
        batches, smaller, stop = self._packed(iter(texts)), deque[Batch](), threading.Event()
        running: dict[Future[np.ndarray], Batch] = {}
        try:
            while True:
                while len(running) < self.options.parallel:
                    batch = smaller.popleft() if smaller else next(batches, None)
                    if batch is None:
                        break
                    running[self._threads.submit(self._answer, batch, stop)] = batch
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    batch = running.pop(done)
                    try:
                        vectors = done.result()
                    except TooMuchError as error:
                        smaller.extend(self._smaller(batch, error))
                    else:
                        keep(batch, vectors)
        except BaseException:
            stop.set()
            for done, batch in running.items():
                with contextlib.suppress(Exception):
                    keep(batch, done.result())
            raise

    def _packed(self, texts: Iterator[tuple[bytes, str]]) -> Iterator[Batch]:
        """Requests as large as the API takes; what it turns out to take may change meanwhile."""
        room = self.options.request_tokens * _LEAST_BYTES_PER_TOKEN
        ahead: list[tuple[bytes, str]] = []
        while ahead := [*ahead, *islice(texts, max(0, self._texts - len(ahead)))]:
            size = count = 0
            for _, text in ahead[: self._texts]:
                size += _bytes(text)
                if count and size > room:
                    break
                count += 1
            keys, chosen = zip(*ahead[:count], strict=True)
            ahead = ahead[count:]
            yield Batch(keys, chosen)

    def _smaller(self, batch: Batch, error: TooMuchError) -> list[Batch]:
        alone = len(batch.texts) == 1
        found = [] if alone and error.counted else batch.smaller()
        if not found:
            text = batch.texts[0][:80]
            raise ValueError(f"{self.options.base_url} refuses the text {text!r}: {error}; leave it out or mend it")
        if error.counted:
            self._texts = min(self._texts, len(batch.texts) // 2)
        return found

    def _answer(self, batch: Batch, stop: threading.Event) -> np.ndarray:
        """The vectors of a batch, in as many tries as it takes."""
        tokens, reason = batch.tokens, ""
        for attempt in range(self.options.max_retries + 1):
            self._pace.wait(tokens, stop)
            headers: Mapping[str, str] = {}
            as_base64 = self._as_base64
            try:
                answer = self._post(batch.texts, as_base64)
            except requests.exceptions.SSLError as error:
                raise ConnectionError(f"{self.options.base_url} cannot be trusted: {self._why(error)}") from None
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                reason = self._why(error)
                if _UNKNOWN_HOST.search(reason) and attempt:
                    raise ConnectionError(
                        f"{self.options.base_url}: no such host ({reason}); check --base-url"
                    ) from None
            else:
                self._pace.heed(answer.headers)
                if answer.status_code == 200:
                    return self._vectors(answer, len(batch.texts))
                headers, reason = answer.headers, self._refused(answer, as_base64)
            if attempt < self.options.max_retries:
                seconds = pause(attempt, headers)
                logger.info("%s: %s; tried again in %.1f s", self.name, reason, seconds)
                if "retry-after" in headers or "retry-after-ms" in headers:
                    self._pace.hold(seconds)  # for all requests, not for this one alone
                elif stop.wait(seconds):
                    raise StoppedError
        raise ConnectionError(
            f"{self.options.base_url} gave no vectors in {self.options.max_retries + 1} tries; the last reason:"
            f" {reason}. Run the same command again: nothing that came is sent again"
        )

    def _post(self, texts: tuple[str, ...], as_base64: bool) -> requests.Response:
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
        body: dict[str, Any] = {"model": self.name, "input": list(texts)}
        if as_base64:
            body["encoding_format"] = "base64"
        return self._sessions.session.post(
            self._url, json=body, auth=self._sign, timeout=self.options.timeout, allow_redirects=False
        )

    def _sign(self, request: Any) -> Any:
        """Put the key into a request; as ``auth``, so that no .netrc puts another one in its place."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _refused(self, answer: requests.Response, as_base64: bool) -> str:
        """Why a request failed, where another try may help; raises where it cannot."""
        status, reason = answer.status_code, self._reason(answer)
        said = f"{self.options.base_url} answered {status} ({reason})"
        if status == 429 and "insufficient_quota" in answer.text:
            raise ValueError(f"{said}: the account has no credit left, see its billing page")
        if status in (400, 422) and as_base64 and "encoding_format" in answer.text:
            self._as_base64 = False
            return "it knows no encoding_format"
        too_much = {400: _TOO_MUCH, 413: _ANYTHING, 422: _TOO_MUCH, 429: _TOO_LARGE}.get(status)
        if too_much and too_much.search(reason):
            raise TooMuchError(reason, not _OF_TOKENS.search(reason))
        if status not in _PASSING and status < 500:
            self._refuse(status, said)
        return f"it answered {status} ({reason})"

    def _refuse(self, status: int, said: str) -> NoReturn:
        if status in (401, 403):
            held = f"check {KEY_VARIABLE}" if self._key else f"export {KEY_VARIABLE}=..."
            raise ValueError(f"{said}: {held}")
        if status == 404 or 300 <= status < 400:
            raise ValueError(f"{said}: check the model's name, {self.name!r}, and --base-url, which often ends in /v1")
        raise ValueError(f"{said}: it does not take this request; check the model's name and --base-url")

    def _reason(self, answer: requests.Response) -> str:
        """What the server says, as far as it says it in words."""
        try:
            body = answer.json()
        except ValueError:
            return self._shown(re.sub(r"<[^>]*>", " ", answer.text) or answer.reason or "no reason")
        error = body.get("error", body) if isinstance(body, dict) else body
        message = error.get("message") or error.get("detail") or error if isinstance(error, dict) else error
        return self._shown(str(message))

    def _why(self, error: Exception) -> str:
        """What became of a connection, without the objects that it went through."""
        if isinstance(error, requests.Timeout):
            return f"no answer in {self.options.timeout:g} seconds"
        return self._shown(str(error).rpartition(": ")[2].strip("()'\" "))

    def _shown(self, text: str) -> str:
        """Words of others: short, and without the key, which some servers repeat."""
        text = text.replace(self._key, "...") if self._key else text
        return textwrap.shorten(text, _LONGEST_REASON, placeholder=" ...") or "no reason"

    def _vectors(self, answer: requests.Response, count: int) -> np.ndarray:
        """float32 (count, width), in the order of the texts."""
        try:
            body = answer.json()
            rows = {entry["index"]: _decoded(entry["embedding"]) for entry in body["data"]}
            vectors = np.stack([rows[place] for place in range(count)])
            if vectors.ndim != 2 or len(body["data"]) != count or not vectors.shape[1]:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self._url} did not answer with {count} vectors of one width but with {self._shown(answer.text)}:"
                " check --base-url"
            ) from None
        usage = body.get("usage")
        used = usage.get("total_tokens") if isinstance(usage, dict) else None
        with self._lock:
            self.requests += 1
            self.tokens += used if isinstance(used, int) else 0
        return vectors


def _decoded(embedding: Any) -> np.ndarray:
    """float32 (width,) of a list of numbers, or of base64 of little-endian float32."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    return np.array(embedding, dtype=np.float32)
