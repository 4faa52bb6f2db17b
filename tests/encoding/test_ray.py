"""The engine ray on a real cluster of two workers, one of which is killed."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import mrl_text.encoding.run as run_module
from mrl_text.encoding import encode_files

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")

OPTIONS: dict[str, Any] = {
    "dims": [8, 32],
    "precisions": ["float32", "int8"],
    "keep": ["text", "lang"],
    "shard_rows": 20,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")
    patch.setenv("RAY_worker_niceness", "0")  # 15 otherwise: beside other tests its workers would wait for minutes
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a processor for each of the two
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()
    torch.set_num_threads(threads)
    patch.undo()


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def workers() -> list[psutil.Process]:
    """Processes of actors of Ray Data that this process's cluster started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_identical_to_local_though_a_worker_is_killed(
    cluster: None, corpus: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_bert.parent)  # the workers have another working directory
    encode_files([corpus], tmp_path / "local", model=tiny_bert.name, **OPTIONS)
    write = run_module.write_atomically
    killed: list[int] = []

    def write_and_kill(path: Path, content: bytes) -> None:
        write(path, content)
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            if len(running := workers()) == 2:
                running[0].kill()
                killed.append(running[0].pid)
            time.sleep(0.05)  # the first may be at work before the second is there

    monkeypatch.setattr(run_module, "write_atomically", write_and_kill)
    report = encode_files([corpus], tmp_path / "ray", model=tiny_bert.name, engine="ray", **OPTIONS)
    assert len(killed) == 1
    assert report.rows == 297
    assert files(tmp_path / "ray") == files(tmp_path / "local")


@pytest.mark.parametrize(("environment", "address"), [(None, "local"), ("10.0.0.1:6379", None)])
def test_joins_the_cluster_that_the_environment_names_and_no_other(
    monkeypatch: pytest.MonkeyPatch, environment: str | None, address: str | None
) -> None:
    from mrl_text.encoding import ray_engine

    found: list[Any] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address=None, **_: found.append(address))
    ray_engine._start()
    assert found == [address]  # None is Ray's own look into RAY_ADDRESS


def test_problems_of_the_data_are_told(cluster: None, corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"corpus.jsonl, row 18 is blank"):
        encode_files([corpus], tmp_path / "out", model=str(tiny_bert), engine="ray", on_error="fail", shard_rows=400)
    with pytest.raises(ValueError, match="dim must be from 1 to 32"):
        encode_files([corpus], tmp_path / "wide", model=str(tiny_bert), engine="ray", dims=[64])


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_address_that_nobody_answers_at_is_told_at_once_and_given_up_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mrl_text.encoding import ray_engine

    with listener() as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        ray_engine.reach_cluster()
        assert not caplog.messages
    monkeypatch.setattr(ray_engine, "_ANSWERED_WITHIN", 0.3)
    with pytest.raises(ConnectionError, match=rf"at RAY_ADDRESS=127.0.0.1:{port} .*refused.*ray start --head"):
        ray_engine.reach_cluster()
    assert caplog.messages == [f"127.0.0.1:{port} does not answer (Connection refused): trying for 0.3 s"]


def test_a_cluster_that_comes_up_meanwhile_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl_text.encoding import ray_engine

    with listener() as port:
        pass
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    opened: list[socket.socket] = []
    monkeypatch.setattr(
        ray_engine.time, "sleep", lambda _: opened.append(socket.create_server(("127.0.0.1", port), reuse_port=True))
    )
    ray_engine.reach_cluster()
    [server] = opened
    server.close()


@pytest.mark.parametrize("address", ["head", "head:port", "http://head:8265", ":6379", "[::1", "ray://head:10001"])
def test_what_is_no_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, corpus: Path, tiny_bert: Path, tmp_path: Path, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=r"HOST:PORT.*, such as head:6379"):
        encode_files([corpus], tmp_path / "out", model=str(tiny_bert), engine="ray")
