"""Nobody waits for ever: a queue in front of an encoder that takes 0.2 ms a token, on a clock of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_text.serving.embedder import Reading
from mrl_text.serving.queueing import FairQueue, Job, length_class

PLAIN, QUERY = Reading(), Reading("query: ", "query")
SECONDS = 0.0002
"""For a token, padding included."""

Draw = Callable[[], list[int]]
"""Tokens of the texts of a client's next request."""


def job(lengths: list[int], kind: Reading = PLAIN) -> Job:
    return Job([""] * len(lengths), lengths, kind, 2, None)  # type: ignore[arg-type]


def answered(queue: FairQueue, clients: list[Draw], seconds: float) -> Iterator[tuple[int, Job, float]]:
    """Client, request and its seconds, of clients that ask again as soon as they are answered."""
    clock, running, asked = 0.0, {}, list(range(len(clients)))
    while clock < seconds:
        batch = queue.take()
        for client in asked:  # too late for this batch
            one = job(clients[client]())
            running[one] = (client, clock)
            queue.add(one)
        asked = []
        clock += SECONDS * len(batch) * max((item.tokens for item in batch), default=0)
        for item in batch:
            item.job.left -= 1
            if not item.job.left:
                client, since = running.pop(item.job)
                asked.append(client)
                yield client, item.job, clock - since
    for one, (client, since) in running.items():
        yield client, one, clock - since  # at least


def test_two_texts_among_forty_clients_that_never_pause() -> None:
    clients: list[Draw] = [lambda: [240]] * 40 + [lambda: [240, 240]]
    found = defaultdict(list)
    for client, _, seconds in answered(FairQueue(1536), clients, 60):
        found[client == 40].append(seconds)
    assert len(found[True]) > 20 and max(found[True]) < 3
    assert max(found[False]) < 3


def test_a_mixture_of_one_to_32_texts() -> None:
    generator = np.random.default_rng(0)

    def draw() -> list[int]:
        count = generator.choice([1, 1, 1, 1, 2, 4, 8, 16, 32])
        return generator.integers(10, 256, count).tolist()

    found = defaultdict(list)
    for _, one, seconds in answered(FairQueue(1536), [draw] * 40, 400):
        found[len(one.texts)].append(seconds)
    middle = {count: float(np.median(found[count])) for count in sorted(found)}
    worst = {count: max(found[count]) for count in sorted(found)}
    padded = 133 * 1.2 * SECONDS  # a text
    assert list(middle.values()) == sorted(middle.values())  # shorter is earlier
    assert middle[1] < 40 * 64 / 9 * padded / 2  # half of what all wait for in the order of coming
    assert worst[32] < 1.5 * 40 * 32 * padded  # a fortieth of the work would be 1


def test_many_long_requests_leave_room_for_a_short_one() -> None:
    clients: list[Draw] = [lambda: [100] * 64] * 20 + [lambda: [100]]
    short = [seconds for client, _, seconds in answered(FairQueue(1536), clients, 120) if client == 20]
    assert max(short) < 1  # and 25 s in the order of coming


def test_a_long_request_gets_an_eighth_of_the_work() -> None:
    clients: list[Draw] = [lambda: [240]] * 40 + [lambda: [240] * 100]
    long = [seconds for client, _, seconds in answered(FairQueue(1536), clients, 200) if client == 40]
    assert max(long) < 8 * 100 * 240 * SECONDS + 3


LENGTHS = st.one_of(st.integers(1, 12), st.integers(1, 300))
REQUESTS = st.lists(
    st.tuples(st.lists(LENGTHS, min_size=1, max_size=12), st.sampled_from([PLAIN, QUERY]), st.integers(0, 30)),
    min_size=1,
    max_size=5,
)
LOOPS = st.lists(
    st.tuples(st.lists(LENGTHS, min_size=1, max_size=3), st.sampled_from([PLAIN, PLAIN, QUERY])), max_size=14
)


@settings(max_examples=80, deadline=None)
@given(watched=REQUESTS, loops=LOOPS, budget=st.sampled_from([32, 200, 1000]))
def test_the_wait_of_every_text_is_bounded(watched: Any, loops: Any, budget: int) -> None:
    """Loops come again for ever, so a text that could be overtaken for ever would be."""
    queue = FairQueue(budget)
    everything = [(length, kind) for lengths, kind, *_ in (*watched, *loops) for length in lengths]
    kinds_and_lengths = len({(length_class(length), kind) for length, kind in everything})
    batch_tokens = max(budget, *(length for length, _ in everything))
    waiting: dict[tuple[Job, int], dict[str, float]] = {}
    asked = [job(lengths, kind) for lengths, kind in loops]
    loops_running = {one: (lengths, kind) for one, (lengths, kind) in zip(asked, loops, strict=True)}
    computed, turn, to_come = 0, 0, len(watched)
    while waiting or to_come or turn < 5:
        for lengths, kind, when in watched:
            if when == turn:
                one = job(lengths, kind)
                asked.append(one)
                to_come -= 1
                for row in range(len(lengths)):
                    waiting[one, row] = {"came": computed, "before": sum(lengths[:row]), "c": 0, "M": 0}
        for one in asked:
            queue.add(one)
        asked = []
        for seen in waiting.values():
            seen["c"], seen["M"] = max(seen["c"], queue.slowness), max(seen["M"], queue.tokens)
        batch = queue.take()
        for item in batch:
            if seen := waiting.pop((item.job, item.row), {}):
                bound = seen["c"] * seen["before"] + seen["M"] + kinds_and_lengths * batch_tokens
                assert computed - seen["came"] <= bound
            item.job.left -= 1
            if not item.job.left and item.job in loops_running:
                lengths, kind = loops_running.pop(item.job)
                asked.append(job(lengths, kind))
                loops_running[asked[-1]] = (lengths, kind)
        computed += sum(item.tokens for item in batch)
        turn += 1
        assert turn < 20_000, "a text is never computed"


def test_a_dropped_request_no_longer_slows_others_down() -> None:
    queue = FairQueue(100)
    some = [job([10, 10]) for _ in range(20)]
    for one in some:
        queue.add(one)
    assert queue.slowness == 25
    for one in some[:10]:
        queue.drop(one)
    assert queue.slowness == 12.5
    while queue.take():
        pass
    assert queue.slowness == 8


def test_lengths_of_a_class_differ_by_a_fifth() -> None:
    for tokens in range(8, 600):
        assert length_class(tokens) <= length_class(tokens + 1)
        assert length_class(int(tokens * 1.2) + 1) > length_class(tokens)
