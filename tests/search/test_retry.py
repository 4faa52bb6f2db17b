from __future__ import annotations

import pytest

from mrl_text.search import StoreUnavailableError, retry
from mrl_text.search.retry import retrying


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that were made; the clock goes on by them, and by nothing else."""
    made: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", made.append)
    monkeypatch.setattr(retry.time, "monotonic", lambda: sum(made))
    return made


def test_an_action_is_repeated_until_it_works(waits: list[float]) -> None:
    failures = [OSError("a"), OSError("b"), OSError("c")]

    def action() -> int:
        if failures:
            raise failures.pop()
        return 7

    assert retrying(action, transient=(OSError,), what="it") == 7
    assert len(waits) == 3
    for wait, most in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert most / 2 <= wait <= most


def test_it_gives_up_when_the_time_is_over_and_says_what_to_check(waits: list[float]) -> None:
    def action() -> None:
        raise OSError("refused\nby the host")

    with pytest.raises(
        StoreUnavailableError, match=r"no answer from db:5432 for 12 seconds.*refused by the host"
    ) as error:
        retrying(action, transient=(OSError,), seconds=12, what="db:5432")
    assert isinstance(error.value.__cause__, OSError)
    assert sum(waits) == pytest.approx(12)
    assert max(waits) <= 5


def test_other_errors_are_not_repeated(waits: list[float]) -> None:
    def action() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        retrying(action, transient=(OSError,), what="it")
    with pytest.raises(ValueError, match="seconds"):
        retrying(action, transient=(OSError,), seconds=-1, what="it")
    assert not waits


def test_no_time_is_one_try(waits: list[float]) -> None:
    tries = []

    def action() -> None:
        tries.append(1)
        raise OSError

    with pytest.raises(StoreUnavailableError, match="OSError"):
        retrying(action, transient=(OSError,), seconds=0, what="it")
    assert len(tries) == 1
