"""Trying again when a server does not answer, for a bounded time."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mrl_text.search.store import StoreUnavailableError

T = TypeVar("T")
logger = logging.getLogger(__name__)

WAIT = 30.0  # seconds in which a lost connection is tried again, unless the URL says otherwise
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


def retrying(action: Callable[[], T], *, transient: tuple[type[Exception], ...], seconds: float = 30, what: str) -> T:
    """What ``action`` returns, tried again while it fails for a reason that may pass; it must be safe to repeat.

    Waits double from a tenth of a second up to five, each shortened by a random part so that clients that lost one
    server do not come back together.

    Args:
        action: called without arguments; the time of its last call is not bounded here.
        transient: errors after which it is called again; any other is raised as it is.
        seconds: time after the first failure in which it is called again; ValueError for less than 0.
        what: the server, as a person knows it, and what to check: ``"PostgreSQL at db:5432 (is it running?)"``.

    Raises:
        StoreUnavailableError: it still failed when the time was over; names ``what`` and the last reason.
    """
    if seconds < 0:
        raise ValueError(f"seconds must be 0 or more, got {seconds}")
    wait, until = _FIRST_WAIT, None
    while True:
        try:
            return action()
        except transient as error:
            now = time.monotonic()
            until = now + seconds if until is None else until
            if now >= until:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise StoreUnavailableError(
                    f"no answer from {what} for {seconds:g} seconds; the last reason: {reason}"
                ) from error
            pause = min(wait * random.uniform(0.5, 1), until - now)
            logger.warning("%s did not answer (%s): trying again", what, type(error).__name__)
            time.sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT)


def wait_seconds(text: str | None) -> float:
    """What ``wait`` in a URL says, or :data:`WAIT`; ValueError for no number of seconds."""
    try:
        seconds = WAIT if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise ValueError(f"wait={text} in the URL must be a number of seconds, 0 or more")
    return seconds


@contextlib.contextmanager
def closed_on_error(connection: Any) -> Iterator[None]:
    """Close a connection if what it is handed to fails."""
    try:
        yield
    except BaseException:
        connection.close()
        raise
