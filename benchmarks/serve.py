"""`mrl-text serve` under concurrent clients against encoding the same texts offline, in one run.

    python benchmarks/serve.py captions.parquet parasci.parquet --seconds 60 --clients 32

Clients are connections of one process that send one request after the other, without a pause, as fast as answers come.
Most requests hold one text, the others 2 to 32 (`--sizes`), and waits are printed for each size; a third asks for 64
numbers, a third for 128. Every answer is checked: as many vectors as texts, of the size asked for, of unit length, and
at a cosine of 0.999 or more to those computed offline (in bfloat16 what shares a batch changes the last digits); the
least is printed. Offline is `encode_stream` of the same model in the same number format over all texts: sorted by
length, in batches of the same budget of tokens, before and after the server ran; beside it `MatryoshkaEncoder.encode`
in batches of 32. Server and clients share the processor; the clients' part is printed.

`--rival` is the command of another server that speaks OpenAI's protocol, for the same requests in the same run, such as
infinity's from an environment of its own (`{port}` is a free port); requests then ask for full width only:

    python benchmarks/serve.py captions.parquet --model FOLDER --rival 'infinity_emb v2 --model-id FOLDER --device cpu
        --served-model-name served --url-prefix /v1 --port {port}'

`--queue still` measures with a queue whose clock stands still while texts wait, so that requests of one text can
overtake those of several for ever; `--queue both` measures one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

DIMS = (None, 64, 128)
SIZES = "1,1,1,1,1,1,2,4,8,16,32"  # texts per request


@dataclass
class Request:
    """One request as bytes, and the rows of the texts it holds."""

    rows: np.ndarray
    dim: int | None
    payload: bytes


@dataclass
class Tally:
    """What the clients saw."""

    texts: int = 0
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)  # of each request
    sizes: list[int] = field(default_factory=list)  # its texts
    worst: float = 1.0
    errors: list[str] = field(default_factory=list)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="Parquet files; every column of texts is used")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--max-batch-tokens", type=int, default=1536)
    parser.add_argument("--sizes", default=SIZES, help="texts of the requests, each as likely")
    parser.add_argument("--queue", default="fair", choices=["fair", "still", "both"])
    parser.add_argument("--rival", help="command of another server, with {port} in it; asked at /v1/embeddings")
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.server:
        _serve(arguments)
        return
    from mrl_text.library_logging import quiet_libraries

    quiet_libraries()
    from mrl_text.serving.embedder import Embedder

    embedder = Embedder(arguments.model, dtype=arguments.dtype)
    texts = _texts(arguments.data, arguments.texts)
    lengths = np.minimum(embedder.count(texts), embedder.max_tokens or sys.maxsize)
    print(f"{len(texts):,} texts of {np.mean(lengths):.0f} tokens (median {np.median(lengths):.0f}, {embedder.dtype})")
    vectors, before = _offline(embedder, texts, arguments.max_batch_tokens)
    plain = _plain(embedder, texts)
    failed = False
    queues = ["still", "fair"] if arguments.queue == "both" else [arguments.queue]
    for side in [*queues, *(["rival"] if arguments.rival else [])]:
        tally, used = _measure(arguments, side, embedder, texts, lengths, vectors)
        after = _offline(embedder, texts, arguments.max_batch_tokens)[1]
        print(f"\n{arguments.rival if side == 'rival' else f'queue: {side}'}")
        _report(tally, arguments, (before + after) / 2, plain, used)
        failed |= bool(tally.errors)
    if failed:
        sys.exit(1)


def _report(tally: Tally, arguments: argparse.Namespace, offline: float, plain: float, used: dict[str, float]) -> None:
    for error in tally.errors[:10]:
        print(f"ERROR {error}")
    served = tally.texts / arguments.seconds
    tail = np.percentile(tally.seconds, [50, 95, 99]) * 1e3
    print(
        f"{arguments.clients} clients, {arguments.seconds:g} s: {len(tally.seconds):,} requests, {tally.texts:,} texts,"
        f" {len(tally.errors)} errors; least cosine to offline {tally.worst:.6f}"
    )
    print(f"served                       {served:8.1f} texts/s  {tally.tokens / arguments.seconds:9.0f} tokens/s")
    print(f"offline, same batches        {offline:8.1f} texts/s  served is {served / offline:.2f} of it")
    print(f"offline, encode() at 32      {plain:8.1f} texts/s  served is {served / plain:.2f} of it")
    print("latency p50 {:.0f} ms, p95 {:.0f} ms, p99 {:.0f} ms".format(*tail))
    print("texts   requests   p50 ms   p99 ms   max ms")
    sizes, seconds = np.array(tally.sizes), np.array(tally.seconds)
    for size in np.unique(sizes):
        own = seconds[sizes == size] * 1e3
        print(f"{size:5} {len(own):10,} {np.median(own):8.0f} {np.percentile(own, 99):8.0f} {own.max():8.0f}")
    print(f"first answer {used['cold']:.1f} s after the start; the server's memory was {used['mb']:,.0f} MB at most")
    print(
        f"processor time: clients {used['clients']:.2f} cores, server {used['server']:.2f} cores of {os.cpu_count()}"
        + (f"; {used['compute']:.2f} batches in the model at a time" if "compute" in used else "")
    )


def _texts(files: list[Path], count: int) -> list[str]:
    """Distinct texts of all files, mixed."""
    import pandas as pd

    found: dict[str, None] = {}
    for file in files:
        frame = pd.read_parquet(file)
        for column in frame.columns:
            found.update(dict.fromkeys(text for text in frame[column] if isinstance(text, str) and text.strip()))
    texts = list(found)
    return [texts[row] for row in np.random.default_rng(0).permutation(len(texts))[:count]]


def _offline(embedder: Any, texts: list[str], budget: int) -> tuple[np.ndarray, float]:
    """Vectors, and texts per second."""
    started = time.perf_counter()
    found = embedder._encoder.encode_stream(texts, token_budget=budget, window=len(texts))
    vectors = np.concatenate(list(found))
    return vectors, len(texts) / (time.perf_counter() - started)


def _plain(embedder: Any, texts: list[str]) -> float:
    started = time.perf_counter()
    embedder._encoder.encode(texts, batch_size=32, show_progress_bar=False)
    return len(texts) / (time.perf_counter() - started)


def _serve(arguments: argparse.Namespace) -> None:
    from mrl_text.imports import pause_collection
    from mrl_text.library_logging import quiet_libraries

    pause_collection()  # as the command does
    quiet_libraries()
    from mrl_text.serving import ServerSettings, serve

    if arguments.queue == "still":
        from mrl_text.serving.queueing import FairQueue

        FairQueue.slowness = float("inf")  # type: ignore[assignment]  # no work moves its clock
    settings = ServerSettings(port=arguments.port, model_name="served", max_batch_tokens=arguments.max_batch_tokens)
    serve(arguments.model, settings, dtype=arguments.dtype)


def _measure(
    arguments: argparse.Namespace, side: str, embedder: Any, texts: list[str], lengths: np.ndarray, vectors: np.ndarray
) -> tuple[Tally, dict[str, float]]:
    """Start a server, load it, stop it."""
    import psutil

    port = _free_port()
    if side == "rival":
        command = [word.replace("{port}", str(port)) for word in shlex.split(arguments.rival)]
    else:
        options = ["--model", arguments.model, "--dtype", embedder.dtype, "--port", port, "--queue", side]
        options += ["--max-batch-tokens", arguments.max_batch_tokens]
        command = [str(word) for word in (sys.executable, __file__, *arguments.data, "--server", *options)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_answer(port, process, shlex.join(command))
        used = {"cold": time.perf_counter() - started}
        requests = _requests(texts, port, [int(size) for size in arguments.sizes.split(",")], cut=not arguments.rival)
        asyncio.run(_load(requests, vectors, lengths, port, arguments.clients, 1.0))  # unmeasured
        server = psutil.Process(process.pid)
        then, clock, started = _seconds(server), time.process_time(), time.perf_counter()
        inside = _metrics(port) if side != "rival" else {}
        tally = asyncio.run(_load(requests, vectors, lengths, port, arguments.clients, arguments.seconds))
        wall = time.perf_counter() - started  # the last answers come after the clients' time
        used |= {"clients": (time.process_time() - clock) / wall, "server": (_seconds(server) - then) / wall}
        used["mb"] = _peak(process.pid) / 1e6
        if inside:
            name = "mrl_text_compute_seconds_total"
            used["compute"] = (_metrics(port)[name] - inside[name]) / wall
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    if status and side != "rival":
        tally.errors.append(f"the server ended with status {status}")
    return tally, used


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_answer(port: int, process: subprocess.Popen[bytes], command: str) -> None:
    """Ask for one vector until it comes, for two minutes at most."""
    import httpx

    end = time.perf_counter() + 120
    while time.perf_counter() < end and process.poll() is None:
        try:
            content = {"input": ["one text"], "model": "served"}
            if httpx.post(f"http://127.0.0.1:{port}/v1/embeddings", json=content, timeout=30).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise SystemExit(f"no answer from {command}")


def _seconds(process: Any) -> float:
    """Processor time of a process and those it has started."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def _peak(process: int) -> int:
    """The most memory a process has held, bytes (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _metrics(port: int) -> dict[str, float]:
    import httpx

    lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def _requests(texts: list[str], port: int, sizes: list[int], cut: bool) -> list[Request]:
    """Requests that hold every text once, in random order; with ``cut``, two thirds of them for fewer numbers."""
    generator = np.random.default_rng(1)
    order, begin = generator.permutation(len(texts)), 0
    requests: list[Request] = []
    while begin < len(order):
        rows = order[begin : begin + generator.choice(sizes)]
        begin += len(rows)
        dim = DIMS[len(requests) % len(DIMS)] if cut else None
        content = {"input": [texts[row] for row in rows], "model": "served", "encoding_format": "base64"}
        body = json.dumps(content | ({"dimensions": dim} if dim else {})).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        requests.append(Request(rows, dim, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body))
    return requests


async def _load(
    requests: list[Request], vectors: np.ndarray, lengths: np.ndarray, port: int, clients: int, seconds: float
) -> Tally:
    """Run all clients at once; what is answered after the end does not count, but is checked."""
    tally, end, turn = Tally(), time.perf_counter() + seconds, iter(range(sys.maxsize))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < end:
            request = requests[next(turn) % len(requests)]
            writer.write(request.payload)
            try:
                status, body = await _answer(reader)
            except (OSError, asyncio.IncompleteReadError) as error:
                tally.errors.append(f"{type(error).__name__}: {error}")
                return
            finished = time.perf_counter()
            if problem := _check(request, status, body, vectors, tally):
                tally.errors.append(problem)
            elif finished <= end:
                tally.seconds.append(finished - started)
                tally.sizes.append(len(request.rows))
                tally.texts += len(request.rows)
                tally.tokens += int(lengths[request.rows].sum())
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return tally


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
    return int(head.split()[1]), await reader.readexactly(size)


def _check(request: Request, status: int, body: bytes, vectors: np.ndarray, tally: Tally) -> str | None:
    """What is wrong with an answer; None if nothing is."""
    if status != 200:
        return f"status {status}: {body[:200]!r}"
    data = json.loads(body)["data"]
    if [entry["index"] for entry in data] != list(range(len(request.rows))):
        return f"{len(data)} vectors for {len(request.rows)} texts, or in another order"
    rows = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in data]
    expected = vectors[request.rows, : request.dim]
    if any(len(row) != expected.shape[1] for row in rows):
        return f"a vector of {len(rows[0])} numbers where {expected.shape[1]} were asked for"
    found = np.stack(rows)
    if np.abs(np.linalg.norm(found, axis=1) - 1).max() > 1e-5:
        return "a vector that is not of unit length"
    cosine = float(np.min(np.sum(found * expected, axis=1) / np.linalg.norm(expected, axis=1)))
    tally.worst = min(tally.worst, cosine)
    return f"cosine {cosine:.5f} to the offline vector" if cosine < 0.999 else None


if __name__ == "__main__":
    main()
