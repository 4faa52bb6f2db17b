"""Batches side by side, each computed by its share of the processor's threads.

Two batches that one core each computes are done sooner than the same two one after the other by both: cores need not
wait for each other between the steps of a forward pass. ``benchmarks/encode.py`` measures it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MOST = 16
"""Lanes, at most: of more, Python itself would take a noticeable part of each forward pass from the others."""

_here = threading.local()


class Share(NamedTuple):
    """What part of the processor computes a batch."""

    lanes: int  # batches at once, of which this is one
    threads: int  # of each


def whole() -> Share:
    """One batch at a time, by all threads that torch has."""
    return Share(1, torch.get_num_threads())


def split(device: torch.device) -> Share:
    """As many batches at once as suit a device, up to :data:`MOST`; one on everything but a processor."""
    threads = torch.get_num_threads()
    lanes = min(threads, MOST) if device.type == "cpu" else 1
    return Share(lanes, threads // lanes)


def share() -> Share:
    """What computes in the thread that asks."""
    found: Share | None = getattr(_here, "share", None)
    return found or whole()


@contextmanager
def computing_with(given: Share) -> Iterator[None]:
    """Compute in this thread with a share, and afterwards with all threads again.

    For threads of our own: torch lets threads that have not computed yet begin with the number that was set last.
    """
    before = torch.get_num_threads()
    _here.share = given
    torch.set_num_threads(given.threads)
    try:
        yield
    finally:
        del _here.share
        torch.set_num_threads(before)


class Lanes:
    """Threads that take one item after the other.

    Args:
        device: what computes; only a processor has more than one lane.
    """

    def __init__(self, device: torch.device) -> None:
        self._share = split(device)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *args: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def map(
        self,
        function: Callable[[_Item], _Result],
        items: Sequence[_Item],
        context: Callable[[], AbstractContextManager[Any]],
    ) -> list[_Result]:
        """The results in the order of the items; each lane works inside a ``context`` of its own.

        A single item is computed by all threads. The first error ends the others after what they are at.
        """
        results: dict[int, _Result] = {}
        todo, lock = iter(enumerate(items)), threading.Lock()
        stop = threading.Event()

        def work() -> None:
            try:
                with context():
                    while not stop.is_set():
                        with lock:
                            found = next(todo, None)
                        if found is None:
                            return
                        results[found[0]] = function(found[1])
            except BaseException:
                stop.set()
                raise

        if self._share.lanes == 1 or len(items) <= 1:
            work()
        else:
            lanes = [self._threads().submit(work) for _ in range(min(self._share.lanes, len(items)))]
            try:
                for lane in lanes:
                    lane.result()
            except BaseException:
                stop.set()
                raise
        return [results[place] for place in range(len(items))]

    def _threads(self) -> ThreadPoolExecutor:
        """The pool, each thread of which has its share from the start, and the caller all threads as before."""
        if self._pool is None:
            count = self._share.lanes
            before = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(count, "lane", initializer=_begin, initargs=(self._share,))
            together = threading.Barrier(count)
            begun: list[Future[int]] = [self._pool.submit(together.wait) for _ in range(count)]
            for one in begun:
                one.result()
            torch.set_num_threads(before)  # what was set last is what other threads begin with
        return self._pool


def _begin(given: Share) -> None:
    _here.share = given
    torch.get_num_threads()  # a thread's first question or product gives it the number that was set last of all
    torch.set_num_threads(given.threads)
