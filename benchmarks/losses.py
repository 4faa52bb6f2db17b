"""Time and memory of the fused nested loss against sentence-transformers' MatryoshkaLoss, on given embeddings.

Forward and backward in float32 down to the embeddings; the model is left out. Each side runs in a process of its own,
one after the other. Extra memory is the rise of the process's peak resident memory over what it held before its first
call (Linux only); it includes the gradients of the embeddings, which both sides make. Time is the median of the calls
after it.

With ``--precisions`` the other side is the same fused loss with candidates as codes besides (in Python's reading of
``loss.precisions``), and ratios are what that costs.

    python benchmarks/losses.py
    python benchmarks/losses.py --batches 64,1024 --repeats 20 --negatives 1
    python benchmarks/losses.py --width 384 --dims 16,32,64,128,256,384 --precisions float32,binary
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIDES = ("fused", "published", "coded")


class Preset(nn.Module):
    """A model whose embeddings are given."""

    def __init__(self, embeddings: Sequence[Tensor]) -> None:
        super().__init__()
        self.embeddings = embeddings

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings."""
        return self.embeddings[0].shape[1]

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Column i of the batch has the embeddings i."""
        return {"sentence_embedding": self.embeddings[features["column"]]}


def main() -> None:
    """Print one row per batch size, or, with --side, measure one side and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=_numbers, default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--dims", type=_numbers, default=[32, 64, 128, 256, 512, 768])
    parser.add_argument("--negatives", type=int, default=0, help="columns of hard negatives")
    parser.add_argument("--precisions", type=lambda text: text.split(","), help="such as float32,int2,binary")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(_measure(arguments.side, arguments.batches[0], arguments)))
        return
    print(
        f"width {arguments.width}, dims {arguments.dims}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if arguments.precisions:
        print(
            f"{'batch':>8}{'fused, ms':>12}{'coded, ms':>12}{'ratio':>8}{'fused, MB':>12}{'coded, MB':>12}{'ratio':>8}"
        )
        for batch in arguments.batches:
            print(_cost_of_codes(batch, arguments), flush=True)
        return
    print(f"{'':8}{'time, ms':>24}{'':>8}{'extra memory, MB':>24}")
    print(f"{'batch':>8}{'fused':>12}{'published':>12}{'ratio':>8}{'fused':>12}{'published':>12}{'ratio':>8}", end="")
    print(f"{'loss differs':>16}{'gradient differs':>18}")
    for batch in arguments.batches:
        print(_row(batch, arguments), flush=True)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _row(batch: int, arguments: argparse.Namespace) -> str:
    fused = _in_own_process("fused", batch)
    needed, free = _published_needs(batch, arguments), _available()
    if needed > 0.8 * free:
        row = f"{batch:8}{fused['ms']:12.1f}{'-':>12}{'-':>8}{fused['mb']:12.1f}{'-':>12}{'-':>8}"
        return f"{row}  published left out: needs about {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB"
    published = _in_own_process("published", batch)
    time_ratio, memory_ratio = published["ms"] / fused["ms"], published["mb"] / max(fused["mb"], 1e-3)
    loss = abs(fused["loss"] - published["loss"]) / published["loss"]
    gradient = max(abs(one - other) for one, other in zip(fused["sample"], published["sample"], strict=True))
    gradient /= max(abs(value) for value in published["sample"])
    row = f"{batch:8}{fused['ms']:12.1f}{published['ms']:12.1f}{time_ratio:7.2f}x"
    row += f"{fused['mb']:12.1f}{published['mb']:12.1f}{memory_ratio:7.2f}x"
    return f"{row}{loss:16.1e}{gradient:18.1e}"


def _cost_of_codes(batch: int, arguments: argparse.Namespace) -> str:
    """Times are taken in turns, as the cost is small beside what a machine's mood changes."""
    sides = {side: _prepared(side, batch, arguments)[0] for side in ("fused", "coded")}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(1 + (arguments.repeats if batch >= 1024 else 10 * arguments.repeats)):
        for side, step in sides.items():
            start = time.perf_counter()
            step()
            times[side].append(1000 * (time.perf_counter() - start))
    fused, coded = (statistics.median(each[1:]) for each in times.values())
    fused_mb, coded_mb = (_in_own_process(side, batch)["mb"] for side in sides)
    row = f"{batch:8}{fused:12.1f}{coded:12.1f}{coded / fused:7.2f}x"
    return f"{row}{fused_mb:12.1f}{coded_mb:12.1f}{coded_mb / fused_mb:7.2f}x"


def _in_own_process(side: str, batch: int) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--batches", str(batch)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _measure(side: str, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    step, _ = _prepared(side, 32, arguments)
    step()  # what is loaded and set up once is not the loss's
    step, columns = _prepared(side, batch, arguments)
    before = _reset_peak()
    loss = step()
    extra = _status("VmHWM") - before
    sample = columns[0].grad[:: max(1, batch // 64), ::7].flatten().tolist()
    times = []
    for _ in range(arguments.repeats if batch >= 1024 else 10 * arguments.repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"ms": 1000 * statistics.median(times), "mb": extra / 1e6, "loss": loss, "sample": sample}


def _prepared(side: str, batch: int, arguments: argparse.Namespace) -> tuple[Callable[[], float], list[Tensor]]:
    """One forward and backward pass over embeddings whose columns resemble each other as pairs do."""
    generator = torch.Generator().manual_seed(0)
    anchor = torch.randn(batch, arguments.width, generator=generator)
    noise = [torch.randn(batch, arguments.width, generator=generator) for _ in range(1 + arguments.negatives)]
    columns = [anchor] + [0.5 * anchor + one for one in noise]
    for column in columns:
        column.requires_grad_()
    model = Preset(columns)
    loss = _loss(side, model, arguments)
    features = [{"column": index} for index in range(len(columns))]

    def step() -> float:
        for column in columns:
            column.grad = None
        value = loss(features, None)
        total = torch.stack(list(value.values())).sum() if isinstance(value, dict) else value  # as the Trainer does
        total.backward()
        return float(total.detach())

    return step, columns


def _loss(side: str, model: nn.Module, arguments: argparse.Namespace) -> nn.Module:
    dims = arguments.dims
    if side != "published":
        from mrl_text.losses import nested_infonce

        codes = {"precisions": arguments.precisions} if side == "coded" else {}
        return nested_infonce(model, dims, **codes)
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    loss: nn.Module = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), list(dims))
    return loss


def _published_needs(batch: int, arguments: argparse.Namespace) -> int:
    """A score matrix per size is kept for the backward pass; four more come and go."""
    return 4 * batch * batch * (1 + arguments.negatives) * (len(arguments.dims) + 4)


def _available() -> int:
    """Bytes that can still be used: of the machine, or of the container where that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _reset_peak() -> int:
    """Give freed memory back, forget the peak so far and return the resident bytes now."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    main()
