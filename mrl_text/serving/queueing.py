"""The queue: it decides which texts go into the next forward pass."""

from __future__ import annotations

import heapq
from asyncio import Future
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_WINDOW = 4  # how many batches of waiting texts are searched for texts of similar length
_FREE_PADDING = 64  # up to this many padding tokens cost less than another forward pass


class Job:
    """The texts of one request on their way through the model; those of another ``kind`` need another pass."""

    __slots__ = ("dropped", "future", "kind", "left", "texts", "tokens", "vectors", "waiting")

    def __init__(
        self, texts: Sequence[str], tokens: Sequence[int], kind: Any, width: int, future: Future[np.ndarray]
    ) -> None:
        self.texts, self.tokens, self.kind, self.future = texts, tokens, kind, future
        self.vectors = np.empty((len(texts), width), np.float32)
        self.left = len(texts)
        self.waiting = sum(tokens)
        self.dropped = False


class Item(NamedTuple):
    """One text of a job; ``start`` orders the queue, ``serial`` breaks ties."""

    start: int
    serial: int
    job: Job
    row: int

    @property
    def tokens(self) -> int:
        """How many tokens the model reads."""
        return self.job.tokens[self.row]


class FairQueue:
    """Texts of all requests, in an order in which a long request does not hold up short ones.

    Start-time fair queueing (Goyal, Vin, Cheng 1996): a text's place is the number of tokens of the same request
    before it, counted from the place being served when the request came. So every request moves on at the same
    pace, and a short one overtakes the rest of a long one. A batch is the first text and those of like length near
    the front. Not safe for threads: callers hold a lock.
    """

    def __init__(self, batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens  # most of a batch with its padding; a single longer text goes alone
        self.tokens = 0  # that wait
        self._heap: list[Item] = []
        self._now = 0
        self._serial = 0

    def __bool__(self) -> bool:
        return self.tokens > 0

    def add(self, job: Job) -> None:
        """Put all texts of a job into the queue."""
        start = self._now
        for row, tokens in enumerate(job.tokens):
            heapq.heappush(self._heap, Item(start, self._serial, job, row))
            start += tokens
            self._serial += 1
        self.tokens += job.waiting

    def drop(self, job: Job) -> None:
        """Remove the remaining texts of a job whose client has left."""
        if not job.dropped:
            job.dropped = True
            self.tokens -= job.waiting
            job.waiting = 0
            if not self.tokens:  # the heap holds nothing else
                self._heap.clear()

    def take(self) -> list[Item]:
        """The next batch: texts of one kind, sorted by length; empty if nothing waits."""
        window, aside = self._front()
        if not window:
            return []
        first = window[0]
        self._now = max(self._now, first.start)
        window.sort(key=lambda item: item.tokens)
        low, high = self._spread(window, window.index(first))
        for item in (*aside, *window[:low], *window[high:]):
            heapq.heappush(self._heap, item)
        batch = window[low:high]
        for item in batch:
            item.job.waiting -= item.tokens
            self.tokens -= item.tokens
        return batch

    def _front(self) -> tuple[list[Item], list[Item]]:
        """Texts near the front of the kind of the very first, and those of other kinds between them."""
        window: list[Item] = []
        aside: list[Item] = []
        seen = 0
        while self._heap and seen < _WINDOW * self.batch_tokens:
            item = heapq.heappop(self._heap)
            if item.job.dropped:
                continue
            seen += item.tokens
            (aside if window and item.job.kind != window[0].job.kind else window).append(item)
        return window, aside

    def _spread(self, window: list[Item], at: int) -> tuple[int, int]:
        """Bounds of the batch around position ``at`` of texts sorted by length: the nearest in length first."""
        lengths = [item.tokens for item in window]
        low, high, real = at, at + 1, lengths[at]
        while low > 0 or high < len(lengths):
            shorter = lengths[at] - lengths[low - 1] if low > 0 else None
            longer = lengths[high] - lengths[at] if high < len(lengths) else None
            down = longer is None or (shorter is not None and shorter <= longer)
            real += lengths[low - 1] if down else lengths[high]
            padded = (high - low + 1) * max(lengths[high - 1], 0 if down else lengths[high])
            if padded > self.batch_tokens or padded - real > _FREE_PADDING + real / 3:
                break
            low, high = (low - 1, high) if down else (low, high + 1)
        return low, high
