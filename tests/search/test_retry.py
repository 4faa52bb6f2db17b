from __future__ import annotations

import logging

import pytest

from mrl_text.search import StoreUnavailableError
from mrl_text.search.retry import PassingError, retrying


def test_an_action_is_repeated_until_it_works(waits: list[float], caplog: pytest.LogCaptureFixture) -> None:
    failures = [PassingError("a"), PassingError("b"), PassingError("it is\nbusy")]

    def action() -> int:
        if failures:
            raise failures.pop()
        return 7

    with caplog.at_level(logging.WARNING):
        assert retrying(action, what="db:5432") == 7
    assert len(waits) == 3
    for wait, most in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert most / 2 <= wait <= most
    assert caplog.messages[0] == "db:5432 did not answer (it is busy): trying again, for 30 seconds at most"


def test_it_gives_up_when_the_time_is_over_and_says_what_to_check(waits: list[float]) -> None:
    def action() -> None:
        raise PassingError("refused\nby the host") from OSError("111")

    with pytest.raises(
        StoreUnavailableError, match=r"no answer from db:5432 for 12 seconds; the last reason: refused by the host$"
    ) as error:
        retrying(action, seconds=12, what="db:5432")
    assert isinstance(error.value.__cause__, OSError)
    assert sum(waits) == pytest.approx(12)
    assert max(waits) <= 5


@pytest.mark.parametrize(
    "reason",
    [
        'could not translate host name "nowhere.example" to address: Name or service not known',
        "[Errno -3] Temporary failure in name resolution",
        "[Errno 8] nodename nor servname provided, or not known",
    ],
)
def test_a_name_of_a_host_that_is_not_known_is_tried_for_a_moment(waits: list[float], reason: str) -> None:
    def action() -> None:
        raise PassingError(reason)

    with pytest.raises(StoreUnavailableError, match=r"for 3 seconds; .*; check the name of the host$"):
        retrying(action, seconds=60, what="it")
    assert sum(waits) == pytest.approx(3)


def test_other_errors_are_not_repeated(waits: list[float]) -> None:
    def action() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        retrying(action, what="it")
    with pytest.raises(ValueError, match="seconds"):
        retrying(action, seconds=-1, what="it")
    assert not waits


def test_no_time_is_one_try(waits: list[float]) -> None:
    tries = []

    def action() -> None:
        tries.append(1)
        raise PassingError("")

    with pytest.raises(StoreUnavailableError, match="it gave no reason"):
        retrying(action, seconds=0, what="it")
    assert len(tries) == 1
