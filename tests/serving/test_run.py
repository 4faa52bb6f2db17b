"""A server's life: start, stop by signal, clients that go, too much work, settings."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from mrl_text.cli import app
from mrl_text.serving import ServerSettings, read_api_key
from tests.conftest import WORDS
from tests.serving.conftest import Running

LONG = [" ".join(WORDS * 2)] * 1000
"""Seconds of work for the tiny model on one core, in many batches."""

SLOW = {"model_name": "tiny", "max_batch_tokens": 128}


def post(server: Running, texts: list[str], timeout: float = 60) -> httpx.Response:
    body = {"input": texts, "model": "tiny", "encoding_format": "base64"}
    return httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=timeout)


def in_background(server: Running, texts: list[str]) -> tuple[threading.Thread, list[httpx.Response]]:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(post(server, texts)))
    thread.start()
    until(lambda: metric(server, "mrl_text_queued_tokens") > 0)
    return thread, answers


def metric(server: Running, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def test_a_signal_lets_requests_finish(start, tiny_bert):
    server = start(tiny_bert, **SLOW)
    thread, answers = in_background(server, LONG)
    server.signal(signal.SIGTERM)
    until(lambda: not reachable(server))
    assert thread.is_alive()  # the door is closed, and the request still under way
    thread.join(60)
    assert answers[0].status_code == 200
    assert len(answers[0].json()["data"]) == len(LONG)
    assert server.wait() == 0
    assert "Traceback" not in server.log


def test_what_is_late_gets_503(start, tiny_bert):
    server = start(tiny_bert, **SLOW, grace=0.2)
    thread, answers = in_background(server, LONG)
    server.signal(signal.SIGINT)
    thread.join(30)
    assert answers[0].status_code == 503
    assert "stopping" in answers[0].json()["error"]["message"]
    assert server.wait() == 0


def test_a_second_signal_ends_it_at_once(start, tiny_bert):
    server = start(tiny_bert, **SLOW)
    body = json.dumps({"input": LONG, "model": "tiny"})
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
    until(lambda: metric(server, "mrl_text_batch_texts_count") > 0)
    server.signal(signal.SIGTERM)
    until(lambda: not reachable(server))
    server.signal(signal.SIGTERM)
    assert server.wait(10) == 128 + signal.SIGTERM
    connection.close()


def reachable(server: Running) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_client_that_goes_takes_its_work_along(slow):
    server = slow
    before = metric(server, "mrl_text_batch_texts_sum")
    with pytest.raises(httpx.ReadTimeout):
        post(server, LONG, timeout=0.3)
    until(lambda: metric(server, "mrl_text_queued_tokens") == 0)
    computed = metric(server, "mrl_text_batch_texts_sum")
    assert computed - before < len(LONG)
    assert post(server, ["the cat"]).status_code == 200
    assert metric(server, "mrl_text_batch_texts_sum") <= computed + 1 + 128  # one batch may have been under way
    assert 'status="499"' in httpx.get(f"{server.url}/metrics").text
    assert "Traceback" not in server.log


def test_a_short_request_does_not_wait_for_a_long_one(slow):
    thread, _ = in_background(slow, LONG)
    assert post(slow, ["the cat"]).status_code == 200
    assert thread.is_alive()
    thread.join(60)


def test_time_limits(start, tiny_bert):
    server = start(tiny_bert, model_name="tiny", max_batch_tokens=64, timeout=0.5)
    assert post(server, LONG * 2).status_code == 504
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = (
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        connection.sendall(head)  # and no more
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert post(server, ["the cat"]).status_code == 200


@pytest.mark.slow
def test_the_command(tiny_bert: Path, tmp_path: Path):
    (tmp_path / "key").write_text("a-long-random-token\n")
    options = ["--port", "0", "--api-key-file", str(tmp_path / "key"), "--host", "0.0.0.0", "--dims", "8,16"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from mrl_text.__main__ import main; main()", "serve", str(tiny_bert), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        assert httpx.get(f"{url}/v1/models").status_code == 401
        known = {"authorization": "Bearer a-long-random-token"}
        name = httpx.get(f"{url}/v1/models", headers=known).json()["data"][0]["id"]
        body = {"input": "the cat", "model": name, "dimensions": 4}
        refused = httpx.post(f"{url}/v1/embeddings", json=body, headers=known)
        assert "8, 16, 32" in refused.json()["error"]["message"]
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert "anyone" not in process.stderr.read()  # a token is set


def test_an_open_door_is_warned_about(tiny_bert, caplog):
    from mrl_text.serving import serve

    with pytest.raises(ValueError, match="from 1 to 32"):  # so that it does not start
        serve(str(tiny_bert), ServerSettings(port=0, host="0.0.0.0", dims=(64,)))
    assert "anyone who reaches 0.0.0.0" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "99999"], "port must be"),
        (["--dims", "0,8"], "dim must be"),
        (["--dims", "8,64"], "from 1 to 32"),
        (["--dims", "a"], "whole numbers"),
        (["--timeout", "0"], "timeout"),
        (["--grace", "inf"], "finite"),
        (["--host", "203.0.113.7"], "cannot listen"),
        (["--host", "no such host"], "cannot listen"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "is not set"),
        (["--api-key-file", "no-such-file"], "no file"),
    ],
)
def test_bad_options(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str):
    monkeypatch.setattr("mrl_text.library_logging.quiet_libraries", lambda: None)
    result = CliRunner().invoke(app, ["serve", str(tiny_bert), "--port", "0", *options])
    assert result.exit_code == 2
    assert message in result.output


def test_an_address_that_is_taken(tiny_bert: Path):
    from mrl_text.serving import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}.*--port"):
            serve(str(tiny_bert), ServerSettings(port=port))


def test_where_the_token_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MRL_TEXT_API_KEY", raising=False)
    assert read_api_key() is None
    monkeypatch.setenv("MRL_TEXT_API_KEY", " one ")
    monkeypatch.setenv("OTHER", "two")
    (tmp_path / "key").write_text("three\n")
    assert (read_api_key(), read_api_key("OTHER"), read_api_key(file=tmp_path / "key")) == ("one", "two", "three")
    with pytest.raises(ValueError, match="name one"):
        read_api_key("OTHER", tmp_path / "key")
    for empty in ("", "  "):
        monkeypatch.setenv("OTHER", empty)
        with pytest.raises(ValueError, match="empty"):
            read_api_key("OTHER")
    assert "secret" not in repr(ServerSettings(api_key="secret"))
    with pytest.raises(ValueError, match="the model's name is empty"):
        ServerSettings(model_name=" ")
