"""Order, fairness, back-pressure, cancelling and failures of the batcher, with an encoder that is watched."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mrl_text.lanes import Share, share
from mrl_text.serving.batching import Batcher, Closed, Overloaded
from mrl_text.serving.embedder import Reading
from mrl_text.serving.queueing import FairQueue, Job

PLAIN = Reading()


class Watched:
    """Encodes a number to itself; can be held, and fails at "bad"."""

    width = 2

    def __init__(self, lanes: int = 1) -> None:
        self.share = Share(lanes, 1)
        self.batches: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()

    def encode(self, texts: Sequence[str], reading: Reading) -> np.ndarray:
        self.batches.append(list(texts))
        assert self.free.wait(20)
        if "bad" in texts:
            raise RuntimeError("the model cannot take this")
        return np.array([[float(text), len(texts)] for text in texts], np.float32)


def batcher(encoder: Watched, **options: Any) -> Batcher:
    return Batcher(encoder, **{"batch_tokens": 40, "max_wait_ms": 1, "max_queue": 10_000, **options})


def job(lengths: list[int], kind: Reading = PLAIN) -> Job:
    return Job([str(length) for length in lengths], lengths, kind, 2, None)  # type: ignore[arg-type]


def drain(queue: FairQueue) -> list[list[Any]]:
    batches = []
    while batch := queue.take():
        batches.append(batch)
    return batches


def test_every_text_is_taken_once_within_the_budget():
    generator = np.random.default_rng(0)
    queue = FairQueue(100)
    jobs = [job(generator.integers(1, 60, generator.integers(1, 30)).tolist()) for _ in range(20)]
    for one in jobs:
        queue.add(one)
    assert queue.tokens == sum(sum(one.tokens) for one in jobs)
    batches = drain(queue)
    taken = sorted((id(item.job), item.row) for batch in batches for item in batch)
    assert taken == sorted((id(one), row) for one in jobs for row in range(len(one.tokens)))
    assert all(len(batch) * max(item.tokens for item in batch) <= 100 for batch in batches)
    assert queue.tokens == 0 and not queue


def test_a_text_longer_than_the_budget_goes_alone():
    queue = FairQueue(10)
    queue.add(job([5, 500, 5]))
    assert [500] in [[item.tokens for item in batch] for batch in drain(queue)]


def test_texts_of_like_length_share_a_batch():
    queue = FairQueue(1000)
    queue.add(job([10, 300, 11, 290, 12, 310]))
    batches = sorted(sorted(item.tokens for item in batch) for batch in drain(queue))
    assert batches == [[10, 11, 12], [290, 300, 310]]


def test_a_short_request_overtakes_a_long_one():
    queue = FairQueue(100)
    queue.add(job([10] * 1000))
    for _ in range(3):
        queue.take()
    late = job([10, 10])
    queue.add(late)
    assert late in {item.job for item in queue.take()}


def test_requests_with_other_prompts_never_share_a_batch_and_none_starves():
    queue = FairQueue(100)
    query = Reading("query: ", "query")
    for _ in range(10):
        queue.add(job([10] * 7))
        queue.add(job([10] * 7, query))
    batches = drain(queue)
    assert all(len({item.job.kind for item in batch}) == 1 for batch in batches)
    assert sum(map(len, batches)) == 140
    assert {batch[0].job.kind for batch in batches[:6]} == {PLAIN, query}


def test_merged_requests_get_their_own_vectors():
    encoder = Watched()
    encoder.free.clear()
    work = batcher(encoder)

    async def run() -> list[np.ndarray]:
        first = asyncio.create_task(work.embed(["0"], [4], PLAIN))
        while not encoder.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(work.embed([str(n), str(n + 100)], [4, 4], PLAIN)) for n in range(1, 5)]
        await asyncio.sleep(0.01)
        encoder.free.set()
        return await asyncio.gather(first, *others)

    found = asyncio.run(run())
    assert [row[:, 0].tolist() for row in found] == [[0.0], *([float(n), float(n + 100)] for n in range(1, 5))]
    assert len(encoder.batches) == 2  # one alone, then all that came meanwhile
    work.close()
    work.join(10)


def test_what_a_client_no_longer_waits_for_is_not_computed():
    encoder = Watched()
    encoder.free.clear()
    work = batcher(encoder)

    async def run() -> None:
        first = asyncio.create_task(work.embed(["0"], [4], PLAIN))
        while not encoder.batches:
            await asyncio.sleep(0.001)
        gone = asyncio.create_task(work.embed(["1"] * 500, [4] * 500, PLAIN))
        await asyncio.sleep(0.01)
        assert work.queued_tokens == 2000
        gone.cancel()
        await asyncio.sleep(0.01)
        assert work.queued_tokens == 0
        encoder.free.set()
        assert (await work.embed(["2"], [4], PLAIN))[0, 0] == 2
        await first

    asyncio.run(run())
    assert not any("1" in batch for batch in encoder.batches)
    work.close()
    work.join(10)


def test_a_full_queue_refuses_and_says_when_to_come_back():
    encoder = Watched()
    encoder.free.clear()
    work = batcher(encoder, max_queue=100)

    async def run() -> None:
        huge = asyncio.create_task(work.embed(["0"] * 50, [4] * 50, PLAIN))  # into an empty queue, so it may
        while not encoder.batches:
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded) as refused:
            await work.embed(["1"], [4], PLAIN)
        assert 1 <= refused.value.retry_after <= 60
        encoder.free.set()
        await huge
        assert (await work.embed(["1"], [4], PLAIN))[0, 0] == 1

    asyncio.run(run())
    work.close()
    work.join(10)


def test_one_bad_request_does_not_take_others_with_it(caplog: pytest.LogCaptureFixture):
    encoder = Watched()
    encoder.free.clear()
    work = batcher(encoder)

    async def run() -> list[Any]:
        first = asyncio.create_task(work.embed(["0"], [4], PLAIN))
        while not encoder.batches:
            await asyncio.sleep(0.001)
        tasks = [asyncio.create_task(work.embed([text], [4], PLAIN)) for text in ("1", "bad", "3")]
        await asyncio.sleep(0.01)
        encoder.free.set()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    _, one, bad, three = asyncio.run(run())
    assert (one[0, 0], three[0, 0]) == (1, 3)
    assert isinstance(bad, RuntimeError)
    assert "cannot take this" in caplog.text
    work.close()
    work.join(10)


def test_closing_finishes_or_gives_up_what_waits():
    for abort in (False, True):
        encoder = Watched()
        encoder.free.clear()
        work = batcher(encoder, batch_tokens=4)

        async def run(work: Batcher = work, encoder: Watched = encoder, abort: bool = abort) -> list[Any]:
            tasks = [asyncio.create_task(work.embed([str(n)], [4], PLAIN)) for n in range(3)]
            while not encoder.batches:
                await asyncio.sleep(0.001)
            work.close(abort=abort)
            with pytest.raises(Closed):
                await work.embed(["9"], [4], PLAIN)
            encoder.free.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

        found = asyncio.run(run())
        if abort:
            assert all(isinstance(one, Closed) for one in found)
        else:
            assert [one[0, 0] for one in found] == [0, 1, 2]
        work.join(10)
        assert not work._thread.is_alive()


def test_as_many_batches_at_once_as_there_are_lanes():
    encoder = Watched(lanes=2)
    shares, both = [], threading.Barrier(2)

    def encode(texts: Sequence[str], reading: Reading) -> np.ndarray:
        shares.append(share())
        if len(texts) > 1:
            both.wait(20)  # two are computed at once, or this fails
        return np.array([[float(text), len(texts)] for text in texts], np.float32)

    encoder.encode = encode  # type: ignore[method-assign]
    batching = batcher(encoder)

    async def ask() -> None:
        texts = [str(number) for number in range(16)]
        found = await batching.embed(texts, [5] * 16, PLAIN)  # two batches of eight
        assert found[:, 0].tolist() == list(range(16))
        assert set(found[:, 1]) == {8}
        shares.clear()
        await batching.embed(["1"], [5], PLAIN)

    asyncio.run(ask())
    batching.close()
    batching.join(10)
    assert [one.lanes for one in shares] == [1]  # alone, with all threads
