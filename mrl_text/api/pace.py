"""How fast an API may be asked, by what its answers say of it."""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first repeated request, and at most where the server names no time itself."""

PATIENCE = 600.0
"""Seconds that a server may ask to wait; for more it is better to run the command again later."""

_ROUNDING = 1e-6  # of a token: so little is not waited for
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class StoppedError(Exception):
    """A request was not sent: another one failed for good, or the user interrupted."""


class Pace:
    """When the next request may go out; shared by the threads that send them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._budgets = {"requests": _Budget(), "tokens": _Budget()}

    def wait(self, tokens: int, stop: threading.Event) -> None:
        """Wait until a request of so many tokens may be sent, and count it.

        Raises:
            StoppedError: ``stop`` is set.
            ConnectionError: the server asks to wait for longer than :data:`PATIENCE`.
        """
        while (seconds := self._seconds(tokens)) > 0:
            if seconds > PATIENCE:
                raise ConnectionError(
                    f"the API's limit is used up for {seconds / 60:,.0f} minutes: run the same command again then,"
                    " nothing that came is sent again"
                )
            if stop.wait(seconds):
                break
        if stop.is_set():
            raise StoppedError

    def heed(self, headers: Mapping[str, str]) -> None:
        """Take note of ``x-ratelimit-limit-*``, ``-remaining-*`` and ``-reset-*`` of requests and tokens."""
        with self._lock:
            for kind, budget in self._budgets.items():
                words = [headers.get(f"x-ratelimit-{what}-{kind}", "") for what in ("limit", "remaining", "reset")]
                limit, left, reset = _number(words[0]), _number(words[1]), duration(words[2])
                if limit is not None and left is not None and reset is not None:
                    budget.set(limit, left, reset)

    def hold(self, seconds: float) -> None:
        """Nobody sends anything for so long."""
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _seconds(self, tokens: int) -> float:
        with self._lock:
            now = time.monotonic()
            needs = {"requests": 1, "tokens": tokens}
            seconds = max(self._not_before - now, *(self._budgets[kind].wait(needs[kind], now) for kind in needs))
            if seconds <= 0:
                for kind, need in needs.items():
                    self._budgets[kind].take(need, now)
            return seconds


@dataclass
class _Budget:
    """What is left of a limit that fills up again evenly; unlimited until a server says otherwise."""

    limit: float = math.inf
    left: float = math.inf
    rate: float = 0.0  # a second
    at: float = 0.0  # when so much was left

    def set(self, limit: float, left: float, reset: float) -> None:
        """What a server says: of ``limit`` are ``left``, and all of them again in ``reset`` seconds."""
        self.limit, self.left, self.at = limit, left, time.monotonic()
        self.rate = (limit - left) / reset if reset > 0 and left < limit else math.inf

    def wait(self, need: float, now: float) -> float:
        """Seconds until there is enough; for more than the limit, until it is full."""
        missing = min(need, self.limit) - self._there(now)
        return missing / self.rate if missing > _ROUNDING and self.rate else 0.0

    def take(self, need: float, now: float) -> None:
        """Count what is sent."""
        self.left, self.at = self._there(now) - need, now

    def _there(self, now: float) -> float:
        if math.isinf(self.rate) or math.isinf(self.left):
            return self.limit
        return min(self.limit, self.left + self.rate * (now - self.at))


def pause(attempt: int, headers: Mapping[str, str]) -> float:
    """Seconds before a request is repeated: what the server asks for, else twice as long each time.

    The latter are shortened by a random part, so that clients that were refused together do not come back together.

    Args:
        attempt: how often it was repeated already.
        headers: of the answer, if there was one.
    """
    asked = duration(f"{milliseconds}ms") if (milliseconds := headers.get("retry-after-ms", "")) else None
    asked = _until(headers.get("retry-after", "")) if asked is None else asked
    return min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1) if asked is None else asked


def duration(text: str) -> float | None:
    """Seconds in a duration as OpenAI writes it (``6m0s``, ``20ms``) or a plain number of them; None for neither."""
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text.strip():
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return _number(text)


def _until(text: str) -> float | None:
    """Seconds of a ``Retry-After``: a number of them, or the date until which to wait."""
    if (seconds := duration(text)) is not None or not text:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None
