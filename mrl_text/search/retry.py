"""Trying again when a server does not answer, for a bounded time."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mrl_text.search.store import StoreUnavailableError

T = TypeVar("T")
logger = logging.getLogger(__name__)

WAIT = 30.0  # seconds in which a lost connection is tried again, unless the URL says otherwise
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
_LONGEST_REASON = 240
_NAME_SECONDS = 3.0
_UNKNOWN_HOST = re.compile(
    r"host name|name resolution|name or service not known|nodename nor|getaddrinfo", re.IGNORECASE
)


class PassingError(Exception):
    """A failure after which the same may work; who asks a server raises it, and any other error at once.

    Attributes:
        seconds: how long it is tried again at most. The name of a host that is not known is a mistake more often than
            a moment without name server.
    """

    def __init__(self, reason: str) -> None:
        unknown = _UNKNOWN_HOST.search(reason) is not None
        reason = textwrap.shorten(reason, _LONGEST_REASON) or "it gave no reason"
        super().__init__(f"{reason}; check the name of the host" if unknown else reason)
        self.seconds = _NAME_SECONDS if unknown else math.inf


def retrying(action: Callable[[], T], *, seconds: float = WAIT, what: str) -> T:
    """What ``action`` returns, tried again while it fails for a reason that may pass; it must be safe to repeat.

    Waits double from a tenth of a second up to five, each shortened by a random part so that clients that lost one
    server do not come back together.

    Args:
        action: called without arguments; the time of its last call is not bounded here. It is called again after a
            :class:`PassingError`; any other error is raised as it is.
        seconds: time after the first failure in which it is called again; ValueError for less than 0.
        what: the server, as a person knows it, and what to check: ``"PostgreSQL at db:5432 (is it running?)"``.

    Raises:
        StoreUnavailableError: it still failed when the time was over; names ``what`` and the last reason.
    """
    if seconds < 0:
        raise ValueError(f"seconds must be 0 or more, got {seconds}")
    wait = _FIRST_WAIT
    began: float | None = None
    while True:
        try:
            return action()
        except PassingError as error:
            now = time.monotonic()
            began = now if began is None else began
            patience = min(seconds, error.seconds)
            if now >= began + patience:
                raise StoreUnavailableError(
                    f"no answer from {what} for {patience:g} seconds; the last reason: {error}"
                ) from error.__cause__
            pause = min(wait * random.uniform(0.5, 1), began + patience - now)
            logger.warning("%s did not answer (%s): trying again, for %g seconds at most", what, error, patience)
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
