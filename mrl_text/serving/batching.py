"""Some threads compute for all requests."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from mrl_text.lanes import Share, computing_with, whole
from mrl_text.serving.embedder import Embedder, Reading
from mrl_text.serving.queueing import FairQueue, Item, Job

logger = logging.getLogger(__name__)


class Overloaded(Exception):
    """The queue is too full: the client should try again in ``retry_after`` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """The server is stopping."""


class Batcher:
    """Merges the texts of concurrent requests into batches, which as many threads compute as the encoder has lanes.

    While batches are computed the next ones gather by themselves; only an idle thread waits, ``max_wait_ms`` after the
    first text, for others to share its batch. A batch beside which nothing waits or is computed has all processors.

    Args:
        batch_tokens: padded tokens per forward pass.
        max_wait_ms: patience of an idle server, milliseconds.
        max_queue: tokens that may wait.
        observe: called after each batch, in the thread, with texts, padded tokens, tokens, seconds, and the
            longest wait of one of them before, seconds.
        thread: compute in threads of its own; otherwise the caller calls :meth:`run`, and is one of them.
    """

    def __init__(
        self,
        encoder: Embedder,
        *,
        batch_tokens: int,
        max_wait_ms: float,
        max_queue: int,
        observe: Callable[[int, int, int, float, float], None] | None = None,
        thread: bool = True,
    ) -> None:
        self._encoder, self._observe = encoder, observe
        self._wait, self._max_queue = max_wait_ms / 1000, max_queue
        self._queue = FairQueue(batch_tokens)
        self._changed = threading.Condition()
        self._jobs: set[Job] = set()
        self._closing = False
        self._rate = 0.0  # tokens per second of one batch, a running mean
        self._share, self._whole = encoder.share, whole()
        self._busy = 0  # batches that are computed
        self._thread = threading.Thread(target=self.run, name="mrl-text-compute", daemon=True) if thread else None
        if self._thread is not None:
            self._thread.start()

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait."""
        return self._queue.tokens

    def check_room(self, tokens: int = 0) -> None:
        """Refuse what does not fit into the queue.

        Raises:
            Overloaded: no room for so many tokens. Into an empty queue everything fits.
            Closed: the server is stopping.
        """
        if self._closing:
            raise Closed
        waiting = self._queue.tokens
        if waiting and waiting + tokens > self._max_queue:
            rate = self._rate * self._share.lanes
            raise Overloaded(int(min(60, max(1, waiting / rate if rate else 1))))

    async def embed(self, texts: Sequence[str], tokens: Sequence[int], reading: Reading) -> np.ndarray:
        """Encode the texts of one request together with those of others.

        ``tokens`` is how many the model reads of each. Cancelling removes from the queue what is not yet computed.

        Returns:
            float32 (n, width), unit rows, in the order of the texts.

        Raises:
            Overloaded, Closed: as for :meth:`check_room`.
            Exception: what the model raised for these texts.
        """
        loop = asyncio.get_running_loop()
        job = Job(texts, tokens, reading, self._encoder.width, loop.create_future())
        with self._changed:
            self.check_room(job.waiting)
            self._jobs.add(job)
            self._queue.add(job)
            self._changed.notify()
        try:
            return await job.future
        finally:
            with self._changed:
                self._jobs.discard(job)
                self._queue.drop(job)

    def close(self, *, abort: bool = False) -> None:
        """Take no more requests and end once the queue is empty; ``abort`` drops what waits, with :class:`Closed`."""
        with self._changed:
            self._closing = True
            if abort:
                for job in self._jobs:
                    self._queue.drop(job)
                    self._settle([(job, Closed())])
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its own thread to end after :meth:`close`, at most ``timeout`` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def run(self) -> None:
        """Compute until the queue is closed and empty."""
        others = [
            threading.Thread(target=self._work, name=f"mrl-text-compute-{number}", daemon=True)
            for number in range(1, self._share.lanes)
        ]
        for one in others:
            one.start()
        self._work()
        for one in others:
            one.join()

    def _work(self) -> None:
        while found := self._next_batch():
            batch, given = found
            try:
                with computing_with(given):
                    self._compute(batch)
            finally:
                with self._changed:
                    self._busy -= 1

    def _next_batch(self) -> tuple[list[Item], Share] | None:
        """Wait for the next texts to compute, and what with. None when closed and done."""
        with self._changed:
            if not self._queue:
                self._changed.wait_for(lambda: bool(self._queue) or self._closing)
                full = self._queue.batch_tokens
                self._changed.wait_for(lambda: self._queue.tokens >= full or self._closing, timeout=self._wait)
            while not self._queue and not self._closing:  # the only request was cancelled while we waited
                self._changed.wait()
            batch = self._queue.take()
            if not batch:
                return None
            self._busy += 1
            if self._queue:  # another thread that waits can go on with the rest
                self._changed.notify()
            return batch, self._share if self._queue or self._busy > 1 else self._whole

    def _compute(self, batch: list[Item]) -> None:
        started = time.perf_counter()
        try:
            vectors = self._encoder.encode([item.job.texts[item.row] for item in batch], batch[0].job.kind)
        except Exception as error:
            self._failed(batch, error)
            return
        seconds = time.perf_counter() - started
        tokens = sum(item.tokens for item in batch)
        if self._observe:
            waited = started - min(item.job.since for item in batch)
            self._observe(len(batch), len(batch) * max(item.tokens for item in batch), tokens, seconds, waited)
        done: list[tuple[Job, Exception | None]] = []
        with self._changed:  # the rest of a request may be computed beside this
            self._rate = tokens / seconds if not self._rate else 0.9 * self._rate + 0.1 * tokens / seconds
            for item, vector in zip(batch, vectors, strict=True):
                item.job.vectors[item.row] = vector
                item.job.left -= 1
                if not item.job.left:
                    done.append((item.job, None))
        self._settle(done)

    def _failed(self, batch: list[Item], error: Exception) -> None:
        """Find out whose text the model cannot take, so that the others get their vectors."""
        jobs = {item.job for item in batch}
        if len(jobs) > 1:
            for job in jobs:
                self._compute([item for item in batch if item.job is job])
            return
        job = batch[0].job
        logger.error("encoding a batch of %d texts failed", len(batch), exc_info=error)
        with self._changed:
            self._queue.drop(job)
        self._settle([(job, error)])

    @staticmethod
    def _settle(done: list[tuple[Job, Exception | None]]) -> None:
        """Hand results over to the loops that wait for them."""
        for job, error in done:
            try:
                job.future.get_loop().call_soon_threadsafe(_resolve, job, error)
            except RuntimeError:  # the loop is closed, so no one waits any more
                logger.debug("nobody waits for %d vectors any more", len(job.texts))


def _resolve(job: Job, error: Exception | None) -> None:
    if job.future.done():
        return
    if error is None:
        job.future.set_result(job.vectors)
    else:
        job.future.set_exception(error)
