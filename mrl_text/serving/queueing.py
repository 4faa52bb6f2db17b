"""The queue: it decides which texts go into the next forward pass."""

from __future__ import annotations

import heapq
import math
import time
from asyncio import Future
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_WINDOW = 4  # how many batches of waiting texts are searched for texts of similar length
_FREE_PADDING = 32  # up to this many padding tokens cost less than another forward pass, ...
_PADDING = 1 / 16  # ... and this share of all others is too little to wait for texts of a better length
_SHARE = 8  # a request gets at least an eighth of the work for what follows its first text, ...
_REST = 1.25  # ... and all of them together four fifths
_SHORTEST = 8  # texts of fewer tokens are of one length


class Job:
    """The texts of one request on their way through the model; those of another ``kind`` need another pass."""

    __slots__ = ("dropped", "future", "kind", "left", "since", "texts", "tokens", "vectors", "waiting")

    def __init__(
        self, texts: Sequence[str], tokens: Sequence[int], kind: Any, width: int, future: Future[np.ndarray]
    ) -> None:
        self.texts, self.tokens, self.kind, self.future = texts, tokens, kind, future
        self.vectors = np.empty((len(texts), width), np.float32)
        self.left = len(texts)
        self.waiting = sum(tokens)
        self.dropped = False
        self.since = time.perf_counter()


class Item(NamedTuple):
    """One text of a job; ``start`` orders the queue, ``serial`` breaks ties."""

    start: float
    serial: int
    job: Job
    row: int

    @property
    def tokens(self) -> int:
        """How many tokens the model reads."""
        return self.job.tokens[self.row]


class FairQueue:
    """Texts of all requests, in an order in which no request waits for ever, and short ones do not wait for long ones.

    Fair queueing by start tags (Goyal, Vin, Cheng 1996) with a clock that the work drives, as in weighted fair
    queueing (Demers, Keshav, Shenker 1989). A text's start is the time on that clock when its request came plus the
    tokens of the same request before it, and the least start is next: a short request overtakes the rest of a long
    one. A computed token moves the clock on by 1 / c, where c is 8, or 5/4 of the number of requests with several texts
    if that is more. So what follows the first text of a request comes up at an eighth of the pace of the work, and that
    of all requests together at no more than four fifths: the rest is left for those that begin. The clock is never
    behind the start of what is computed.

    A batch is the first text and those of its length, in order, then the nearest in length as padding allows.

    The wait is bounded. Let a text have ``a`` tokens of its own request before it. After at most c * a computed tokens
    the clock has reached its start, and nothing that comes later goes before it. Of what waits then, M tokens, each
    batch takes texts that are before it; one that takes later ones as well has taken all those before it of one kind
    and length, of which there are L. It is computed before c * a + M + L * B tokens more are, with c and M the largest
    while it waits and B those of a batch.

    Not safe for threads: callers hold a lock.
    """

    def __init__(self, batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens  # most of a batch with its padding; a single longer text goes alone
        self.tokens = 0  # that wait
        self._heap: list[Item] = []
        self._now = 0.0
        self._serial = 0
        self._several = 0  # requests with several texts of which some wait

    def __bool__(self) -> bool:
        return self.tokens > 0

    @property
    def slowness(self) -> float:
        """Computed tokens for one of the clock."""
        return max(_SHARE, _REST * self._several)

    def add(self, job: Job) -> None:
        """Put all texts of a job into the queue."""
        start = self._now
        for row, tokens in enumerate(job.tokens):
            heapq.heappush(self._heap, Item(start, self._serial, job, row))
            start += tokens
            self._serial += 1
        self.tokens += job.waiting
        self._several += len(job.tokens) > 1

    def drop(self, job: Job) -> None:
        """Remove the remaining texts of a job whose client has left."""
        if not job.dropped:
            job.dropped = True
            self._forget(job, job.waiting)
            if not self.tokens:  # the heap holds nothing else
                self._heap.clear()

    def take(self) -> list[Item]:
        """The next batch: texts of one kind, sorted by length; empty if nothing waits."""
        window, aside = self._front()
        if not window:
            return []
        batch, rest = self._batch(window)
        for item in (*aside, *rest):
            heapq.heappush(self._heap, item)
        self._now = max(self._now, window[0].start) + sum(item.tokens for item in batch) / self.slowness
        for item in batch:
            self._forget(item.job, item.tokens)
        return batch

    def _forget(self, job: Job, tokens: int) -> None:
        """Count tokens of a job as no longer waiting."""
        if tokens:
            job.waiting -= tokens
            self.tokens -= tokens
            self._several -= len(job.tokens) > 1 and not job.waiting

    def _front(self) -> tuple[list[Item], list[Item]]:
        """Texts near the front of the kind of the very first, and those of other kinds between them, in order."""
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

    def _batch(self, window: list[Item]) -> tuple[list[Item], list[Item]]:
        """The first text and those that go with it, shortest first, and the others."""
        first = window[0].tokens

        def same(item: Item) -> bool:
            return length_class(item.tokens) == length_class(first)

        alike = sorted(window, key=lambda item: 0 if same(item) else abs(item.tokens - first))
        longest = real = count = 0
        for item in alike:
            longest, real = max(longest, item.tokens), real + item.tokens
            padded = (count + 1) * longest
            wasteful = not same(item) and padded - real > _FREE_PADDING + real * _PADDING
            if count and (padded > self.batch_tokens or wasteful):
                break
            count += 1
        return sorted(alike[:count], key=lambda item: item.tokens), alike[count:]


def length_class(tokens: int) -> int:
    """Texts of one class are of about one length: the longest has a fifth more tokens than the shortest."""
    return int(4 * math.log2(max(tokens, _SHORTEST)))
