"""Requests: how many texts in each, what is tried again and what is not, and what the words of an error are."""

from __future__ import annotations

import logging
import threading
import time
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mrl_text.api.client import ApiClient, Batch, estimated_tokens
from mrl_text.api.options import KEY_VARIABLE, URL_VARIABLE, ApiOptions, result_name
from mrl_text.api.pace import LONGEST_WAIT, Pace, StoppedError, duration, pause
from tests.api.conftest import SECRET, Failure, Stub, until, vector

TEXTS = [f"text {number} " + "x" * (number % 7) for number in range(50)]


def asked(stub: Stub, texts: list[str] = TEXTS, **options: Any) -> tuple[dict[str, np.ndarray], set[str]]:
    """Vectors by text, and which texts were cut."""
    found: dict[str, np.ndarray] = {}
    cut: set[str] = set()

    def keep(batch: Batch, vectors: np.ndarray) -> None:
        found.update(zip((key.decode() for key in batch.keys), vectors, strict=True))
        cut.update(key.decode() for key in batch.keys if batch.cut)

    client = ApiClient("m", stub.options(**options))
    client.run(((text.encode(), text) for text in texts), keep)
    assert client.requests == len(stub.asked)
    assert client.tokens == len(stub.texts)
    return found, cut


def check(found: dict[str, np.ndarray], texts: list[str] = TEXTS) -> None:
    assert set(found) == set(texts)
    for text in texts:
        np.testing.assert_array_equal(found[text], vector(text))


@pytest.mark.parametrize("as_lists", [False, True])
def test_each_text_gets_its_vector_in_either_form(stub: Stub, as_lists: bool) -> None:
    stub.as_lists = as_lists
    check(asked(stub, request_texts=20)[0])
    assert sorted(map(len, stub.asked)) == [10, 20, 20]
    assert {body["encoding_format"] for body in stub.bodies} == {"base64"}
    assert stub.keys == {None}
    assert all(set(body) == {"model", "input", "encoding_format"} and body["model"] == "m" for body in stub.bodies)


def test_a_server_without_base64_is_asked_for_lists(stub: Stub) -> None:
    def refuse(body: dict[str, Any]) -> Failure | None:
        return (400, {}, {"error": {"message": "unknown field encoding_format"}}) if "encoding_format" in body else None

    stub.refuse = refuse
    check(asked(stub, request_texts=5)[0])


def test_requests_are_within_both_limits_and_as_large_as_they_may_be(stub: Stub) -> None:
    texts = ["a" * 30, "日" * 10, "b" * 31, "c" * 29, "d" * 200, "e", "f"]  # in bytes: 30 30 31 29 200 1 1
    check(asked(stub, texts, request_tokens=30, parallel=1)[0], texts)
    assert [len(one) for one in stub.asked] == [2, 2, 1, 2]
    assert [estimated_tokens(text) for text in texts] == [8, 8, 8, 8, 50, 1, 1]


def test_several_requests_are_under_way_at_once_and_no_more(stub: Stub) -> None:
    stub.gate = threading.Semaphore(0)
    thread = threading.Thread(target=asked, args=(stub,), kwargs={"request_texts": 5, "parallel": 3})
    thread.start()
    until(lambda: len(stub.bodies) == 3)
    time.sleep(0.05)
    assert len(stub.bodies) == 3
    stub.gate.release(100)
    thread.join()
    assert len(stub.bodies) == 10


def test_what_may_pass_is_tried_again(stub: Stub) -> None:
    stub.failures = [
        (429, {"retry-after": "0.05"}, {"error": {"message": "Rate limit reached on tokens per min: try again"}}),
        (429, {}, {"error": {"message": "you have exceeded the call rate limit"}}),
        (500, {}, "<html>broken</html>"),
        (0, {}, None),
        (503, {"retry-after-ms": "20"}, {}),
        (408, {}, {}),
    ]
    began = time.monotonic()
    check(asked(stub, parallel=2, request_texts=20)[0])
    assert time.monotonic() - began >= 0.05
    assert sorted(map(len, stub.asked)) == [10, 20, 20]  # none was made smaller
    assert len(stub.bodies) == 9


def test_it_gives_up_after_so_many_tries(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    stub.failures = [(502, {}, {"detail": "no worker"})] * 99
    with caplog.at_level(logging.INFO), pytest.raises(ConnectionError, match=r"in 4 tries.*502 \(no worker\).*again"):
        asked(stub, ["a"], max_retries=3)
    assert len(stub.bodies) == 4
    assert len(caplog.records) == 3


def test_nobody_there() -> None:
    client = ApiClient("m", ApiOptions(base_url="http://127.0.0.1:1/v1", max_retries=1))
    with pytest.raises(ConnectionError, match=r"in 2 tries; the last reason: .*refused"):
        client.run([(b"a", "a")], lambda batch, vectors: None)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, {"error": {"message": "bad model id"}}, r"answered 400 \(bad model id\).*check the model's name"),
        (401, {"error": "who?"}, rf"401 \(who\?\): export {KEY_VARIABLE}"),
        (404, {"error": {"message": "no model m"}}, r"404 \(no model m\): check the model's name, 'm', and --base-url"),
        (301, "moved", r"301 \(moved\).*--base-url"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "no credit left"),
        (429, {"error": {"message": "Request too large: Limit 9 tokens"}}, "refuses the text 'a'"),
        (400, {"error": {"message": "the input exceeds what I like"}}, "refuses the text 'a'"),
        (200, "<html>welcome</html>", "did not answer with 1 vectors of one width but with <html>welcome"),
        (200, {"data": []}, "did not answer with 1 vectors"),
        (200, {"data": [{"index": 0, "embedding": "%%%"}]}, "did not answer with 1 vectors"),
        (200, {"data": [{"index": 1, "embedding": [1.0]}]}, "did not answer with 1 vectors"),
    ],
)
def test_what_cannot_pass_is_an_error_at_once(stub: Stub, status: int, body: object, says: str) -> None:
    stub.failures = [(status, {"location": "/elsewhere"}, body)]
    with pytest.raises(ValueError, match=says):
        asked(stub, ["a"])
    assert len(stub.bodies) == 1


def test_too_many_texts_are_halved_once_and_for_all(stub: Stub) -> None:
    def refuse(body: dict[str, Any]) -> Failure | None:
        words = f"batch size {len(body['input'])} > maximum allowed batch size 8"
        return (422, {}, {"message": words}) if len(body["input"]) > 8 else None

    stub.refuse = refuse
    texts = [*TEXTS, *(f"more {text}" for text in TEXTS[:12])]
    check(asked(stub, texts, request_texts=50, parallel=1)[0], texts)
    sizes = [len(body["input"]) for body in stub.bodies]
    assert sizes == [50, 25, 25, 12, 13, 12, 13, 6, 6, 6, 7, 6, 6, 6, 7, 6, 6]


def test_one_text_that_is_too_long_is_found_and_cut(stub: Stub) -> None:
    def refuse(body: dict[str, Any]) -> Failure | None:
        long = any(len(text) > 400 for text in body["input"])
        return (400, {}, {"error": {"message": "maximum context length is 8192 tokens"}}) if long else None

    stub.refuse = refuse
    texts = [*TEXTS, "y" * 1000, *(f"z{text}" for text in TEXTS)]
    found, cut = asked(stub, texts, request_texts=64)
    assert cut == {"y" * 1000}
    [sent] = [text for text in stub.texts if text.startswith("y")]
    assert 320 < len(sent) <= 400  # by a fifth each time
    np.testing.assert_array_equal(found.pop("y" * 1000), vector(sent))
    check(found, [text for text in texts if not text.startswith("y")])
    assert len(stub.texts) == len(texts)  # each once


def test_what_is_under_way_is_kept_when_another_request_fails(stub: Stub) -> None:
    under_way = threading.Barrier(3, timeout=60)

    def refuse(body: dict[str, Any]) -> Failure | None:
        under_way.wait()
        return (400, {}, {"error": {"message": "no"}}) if "text 0 " in body["input"] else None

    stub.refuse = refuse
    stub.gate = threading.Semaphore(0)
    kept: list[bytes] = []
    client = ApiClient("m", stub.options(request_texts=10, parallel=3))
    threading.Timer(0.2, lambda: stub.gate.release(99)).start()
    with pytest.raises(ValueError, match="400"):
        client.run(((text.encode(), text) for text in TEXTS), lambda batch, vectors: kept.extend(batch.keys))
    assert sorted(kept) == sorted(text.encode() for text in stub.texts)
    assert len(kept) == 20


def test_the_server_sets_the_pace(stub: Stub) -> None:
    stub.headers = {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
    }
    began = time.monotonic()
    check(asked(stub, request_texts=10, parallel=1)[0])  # four of five wait a tenth of a second
    assert time.monotonic() - began >= 0.4


class Clock(threading.Event):
    """An event that is never set, and the time, which is what is waited."""

    now = 1000.0

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0
        return False


def test_the_pace_by_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, clock = Pace(), Clock()
    monkeypatch.setattr("mrl_text.api.pace.time", SimpleNamespace(monotonic=lambda: clock.now))

    def waited(tokens: int) -> float:
        before = clock.now
        pace.wait(tokens, clock)
        return clock.now - before

    def told(limit: str, left: str, reset: str) -> None:
        pace.heed(
            {"x-ratelimit-limit-tokens": limit, "x-ratelimit-remaining-tokens": left, "x-ratelimit-reset-tokens": reset}
        )

    assert waited(10**9) == 0  # nothing is known yet
    told("1000", "500", "0.5s")
    assert waited(400) == 0
    assert waited(200) == pytest.approx(0.1)  # a hundred are left, and a thousand come a second
    assert waited(5000) == pytest.approx(1)  # more than ever will be: when it is full
    told("1000", "soon", "1s")  # no number: what was known stays
    pace.hold(3)
    assert waited(1) == pytest.approx(4.001)  # longer than it is held: four thousand are owed
    told("1000", "0", "9h")
    with pytest.raises(ConnectionError, match="used up for 540 minutes"):
        waited(1000)
    pace, stop = Pace(), threading.Event()
    pace.hold(5)
    stop.set()
    with pytest.raises(StoppedError):
        pace.wait(1, stop)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("7", 7), ("1d", 86_400)],
        *[("", None), ("soon", None), ("5s ago", None), ("-1", None), ("nan", None)],
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration(text) == seconds


def test_pauses_grow_and_are_those_that_a_server_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.api.pace.FIRST_WAIT", 0.5)
    for attempt in range(12):
        longest = min(0.5 * 2**attempt, LONGEST_WAIT)
        drawn = [pause(attempt, {}) for _ in range(50)]
        assert longest / 2 <= min(drawn) < max(drawn) <= longest
    assert pause(3, {"retry-after": "7"}) == 7
    assert pause(3, {"retry-after": "7", "retry-after-ms": "1500"}) == 1.5
    assert 28 < pause(0, {"retry-after": formatdate(time.time() + 30, usegmt=True)}) <= 30
    assert pause(0, {"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0
    assert pause(0, {"retry-after": "soon"}) <= 0.5


def test_where_and_how_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ApiOptions().base_url == "https://api.openai.com/v1"
    monkeypatch.setenv(URL_VARIABLE, "http://host:8080/v1/")
    assert ApiOptions().base_url == "http://host:8080/v1"
    assert ApiOptions(base_url="https://other/v1").base_url == "https://other/v1"
    for bad in ("host/v1", "ftp://host", "http://", "http://host:port", "http://ho st"):
        with pytest.raises(ValueError, match=r"base_url .* is no address: give one like https://HOST/v1"):
            ApiOptions(base_url=bad)
    for bad in (f"https://me:{SECRET}@host/v1", f"https://host/v1?key={SECRET}", f"https://host/#{SECRET}"):
        with pytest.raises(ValueError, match="has a user, a query") as caught:
            ApiOptions(base_url=bad)
        assert "Geheim" not in str(caught.value)
    bad_numbers = {"request_texts": 0, "request_tokens": 0, "parallel": 0, "max_retries": -1, "timeout": float("nan")}
    for name, number in {**bad_numbers, "price_per_million": -1, "max_total_tokens": 0}.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            ApiOptions(**{name: number})  # type: ignore[arg-type]
    assert result_name("text-embedding-3-small") == "openai/text-embedding-3-small"
    assert result_name("BAAI/bge-m3:latest") == "openai/BAAI_bge-m3_latest"


def test_the_key(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"asks for a key, and {KEY_VARIABLE} is not set"):
        ApiClient("m", ApiOptions())
    monkeypatch.setenv(KEY_VARIABLE, f" {SECRET}\n")
    check(asked(stub)[0])
    assert stub.keys == {f"Bearer {SECRET}"}
    for bad in (f"{SECRET} {SECRET}", f"{SECRET}ä", f"{SECRET}\n{SECRET}"):
        monkeypatch.setenv(KEY_VARIABLE, bad)
        with pytest.raises(ValueError, match=f"{KEY_VARIABLE} holds a blank or a letter") as caught:
            ApiClient("m", ApiOptions())
        assert "Geheim" not in str(caught.value)
