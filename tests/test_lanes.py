"""Batches side by side: every one once, in order, with the share of threads that was promised, and ended by errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from mrl_text import MatryoshkaEncoder
from mrl_text.lanes import Lanes, Share, computing_with, share, split, whole

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_shares() -> None:
    assert whole() == share() == Share(1, 3)
    assert split(CPU) == Share(3, 1)
    assert split(torch.device("meta")) == Share(1, 3)
    torch.set_num_threads(40)
    assert split(CPU) == Share(16, 2)


def test_results_are_in_order_and_each_lane_has_its_share() -> None:
    together = threading.Barrier(3)

    def work(item: int) -> tuple[int, Share, int, int]:
        if item < 3:
            together.wait(20)  # three are computed at once, or this fails
        time.sleep(0.001 * (item % 3))
        return item, share(), torch.get_num_threads(), threading.get_ident()

    with Lanes(CPU) as lanes:
        found = lanes.map(work, range(20), nullcontext)
        assert torch.get_num_threads() == 3
        again = lanes.map(lambda item: threading.get_ident(), range(20), nullcontext)
    assert [one[0] for one in found] == list(range(20))
    assert {one[1:3] for one in found} == {(Share(3, 1), 1)}
    assert {one[3] for one in found} >= set(again) and threading.get_ident() not in again
    assert torch.get_num_threads() == 3 and share() == whole()


def test_one_item_has_all_threads_and_none_is_fine() -> None:
    with Lanes(CPU) as lanes:
        assert lanes.map(lambda item: (share(), threading.get_ident()), [1], nullcontext) == [
            (Share(1, 3), threading.get_ident())
        ]
        assert lanes.map(lambda item: item, [], nullcontext) == []


def test_an_error_ends_the_others_and_is_raised() -> None:
    done = []

    def work(item: int) -> None:
        if item == 1:
            raise ValueError("this one")
        time.sleep(0.05)
        done.append(item)

    with Lanes(CPU) as lanes, pytest.raises(ValueError, match="this one"):
        lanes.map(work, range(1000), nullcontext)
    assert len(done) < 20


def test_every_lane_is_inside_a_context_of_its_own() -> None:
    inside: set[int] = set()

    @contextmanager
    def context() -> Iterator[None]:
        inside.add(threading.get_ident())
        yield
        inside.remove(threading.get_ident())

    with Lanes(CPU) as lanes:
        assert all(lanes.map(lambda item: threading.get_ident() in inside, range(10), context))
    assert not inside


def test_computing_with_a_share_ends() -> None:
    with computing_with(Share(2, 1)):
        assert share() == Share(2, 1) and torch.get_num_threads() == 1
    assert share() == Share(1, 3)


def test_a_stream_has_the_vectors_of_encode(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    texts = ["the cat sits " * (1 + number % 9) + str(number) for number in range(200)]
    streamed = np.concatenate(list(model.encode_stream(texts, token_budget=60)))
    np.testing.assert_allclose(streamed, model.encode(texts), atol=1e-6)
    assert torch.get_num_threads() == 3
