"""Connections: how many there may be, and how long one may be open without a request."""

from __future__ import annotations

import asyncio
import math
import resource
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_MOST = 4096  # connections, where nothing else limits them
_FEWEST = 8
_OWN_FILES = 32  # that the process needs besides, and a quarter of all for connections that are on their way


class Door:
    """What the connections of a server have in common: their limits, and which of them wait for a request.

    Args:
        limit: connections that may be open. One more makes the one that waits longest for a request go.
        timeout: seconds from the start of a connection, or its last answer, to the end of a request's headers; likewise
            for a client to take at least a part of its answer.
        on_end: called for each connection that is ended for one of these reasons.
    """

    def __init__(self, limit: int, timeout: float, on_end: Callable[[], None]) -> None:
        self.limit, self.timeout, self.on_end = limit, timeout, on_end
        self.waiting: dict[Connection, None] = {}  # the longest first

    @property
    def requests(self) -> int:
        """Requests that may be under way; the other connections are for those who ask whether the server is well."""
        return self.limit - self.limit // 8

    @property
    def at_once(self) -> int:
        """Connections to accept in one go; some rounds of them are open before the first of them is looked at."""
        return max(1, self.limit // 64)


class Connection(H11Protocol):
    """uvicorn's protocol for one connection, which does not wait for headers for ever."""

    def __init__(self, door: Door, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = door
        self._expiry: asyncio.TimerHandle | None = None
        self._untaken = math.inf  # bytes of the answer when last looked at

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Let it in, and another one go where there are too many."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self._door.limit:
            longest = (one for one in self._door.waiting if not one.transport.get_write_buffer_size())
            next(longest, self).leave()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        if self._is_busy:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self._is_busy:  # with one that was sent before the answer to the last
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        super().connection_lost(exc)

    def leave(self) -> None:
        """End at once."""
        self._stop_waiting()
        self._door.on_end()
        self.transport.abort()

    @property
    def _is_busy(self) -> bool:
        """Whether the headers of a request are there that has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._stop_waiting()
        self._door.waiting[self] = None
        self._untaken = math.inf
        self._expiry = self.loop.call_later(self._door.timeout, self._expire)

    def _stop_waiting(self) -> None:
        self._door.waiting.pop(self, None)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _expire(self) -> None:
        untaken = self.transport.get_write_buffer_size()
        if 0 < untaken < self._untaken:  # a client that takes its answer slowly
            self._untaken = untaken
            self._expiry = self.loop.call_later(self._door.timeout, self._expire)
        else:
            self.leave()


def connection_limit(wanted: int | None) -> int:
    """Connections that may be open with the files that this process may open; None is as many as there is room for.

    Raises:
        ValueError: more than that, or hardly room for any.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = _MOST * 2 if files == resource.RLIM_INFINITY else files - files // 4 - _OWN_FILES
    if room < _FEWEST:
        raise ValueError(f"this process may open only {files} files: allow more, such as ulimit -n 1024")
    if wanted is not None and wanted > room and files != resource.RLIM_INFINITY:
        raise ValueError(
            f"max_connections is {wanted:,}, and the {files:,} files that this process may open leave room for"
            f" {room:,}: give at most that, or allow more files (ulimit -n)"
        )
    return min(room, _MOST) if wanted is None else wanted
