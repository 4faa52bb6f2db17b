"""Time and memory of a training step with lower layers frozen and their activations known, against the whole model.

A step is forward pass, nested loss, backward pass and AdamW over pairs of random tokens, in float32. The sides:

    whole        every parameter is trained
    N, computed  the embeddings and N lower layers are frozen and run in each step, without gradients
    N, known     the same, their activations read from disk (float16)
    N, LoRA      the same, and adapters in the upper layers are trained in place of their weights (with --lora RANK)

Each side runs in a process of its own, round after round, so that all meet the same machine. Time is the median of all
steps, memory the rise of the process's own resident memory (Linux only; pages of the file of activations, which the
system drops when it needs room, do not count) over what it held with the model loaded. ``first`` is the time of a step
over texts not seen before, which computes and keeps their activations.

    python benchmarks/frozen_layers.py --model FOLDER
    python benchmarks/frozen_layers.py --model FOLDER --freeze 6,9 --batch 64 --tokens 24 --lora 16

With --pairs, a Parquet file of sentence1, sentence2 and score such as STSBenchmark's, it prints instead what rounded
activations cost the untrained model: Spearman correlation (x100) at three sizes, and how far it is from that of the
whole model.

    python benchmarks/frozen_layers.py --model FOLDER --pairs mirror/mteb/stsbenchmark-sts/validation.parquet
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pyarrow import parquet
from scipy.stats import spearmanr
from torch import Tensor

from mrl_text.truncation import truncate


def main() -> None:
    """Print one row per side, or, with --side, measure one side and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--freeze", help="numbers of frozen layers, comma-separated; default: half, and all but two")
    parser.add_argument("--lora", type=int, help="rank; peft has to be installed")
    parser.add_argument("--batch", type=int, default=64, help="pairs")
    parser.add_argument("--tokens", type=int, default=24, help="of the longest text; the shortest has half as many")
    parser.add_argument("--batches", type=int, default=4, help="different batches, which take turns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=Path, help="file of sentence1, sentence2 and score")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(_measure(arguments)))
        return
    if arguments.pairs:
        _print_rounding(arguments)
        return
    if arguments.lora:
        from mrl_text.training.adapters import adapter_config

        adapter_config({"r": arguments.lora})  # now, if peft is missing
    how_frozen = ("computed", "known", "LoRA") if arguments.lora else ("computed", "known")
    sides = [(0, "whole"), *((layers, how) for layers in _numbers(arguments) for how in how_frozen)]
    measured: dict[tuple[int, str], list[dict[str, Any]]] = {side: [] for side in sides}
    for turn in range(arguments.rounds):
        for side in sides:
            print(f"round {turn + 1} of {arguments.rounds}: {side[0]} frozen, {side[1]}", file=sys.stderr, flush=True)
            measured[side].append(_in_own_process(*side))
    print(f"{arguments.batch} pairs of up to {arguments.tokens} tokens, {torch.get_num_threads()} threads", end=", ")
    print(f"torch {torch.__version__}\n{'frozen':>16}{'ms a step':>12}{'ratio':>8}{'first':>10}{'MB':>10}{'ratio':>8}")
    whole = _together(measured[0, "whole"])
    for (layers, how), results in measured.items():
        found = _together(results)
        name = how if not layers else f"{layers}, {how}"
        row = f"{name:>16}{found['ms']:12.0f}{whole['ms'] / found['ms']:7.2f}x{found['first']:10.0f}"
        print(f"{row}{found['mb']:10.0f}{whole['mb'] / found['mb']:7.2f}x")


def _numbers(arguments: argparse.Namespace) -> list[int]:
    if arguments.freeze:
        return [int(part) for part in arguments.freeze.split(",")]
    from mrl_text.layers import peek_layers
    from mrl_text.models import find_model

    layers = peek_layers(find_model(arguments.model)) or 0
    return sorted({layers // 2, layers - 2})


def _in_own_process(layers: int, how: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--side", f"{layers},{how}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _together(results: list[dict[str, Any]]) -> dict[str, float]:
    ms = statistics.median(one for result in results for one in result["ms"])
    first = statistics.median(one for result in results for one in result["first"])
    return {"ms": ms, "first": first, "mb": statistics.median(result["mb"] for result in results)}


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    from mrl_text.loading import load
    from mrl_text.losses import nested_infonce
    from mrl_text.models import find_model
    from mrl_text.training.activations import Activations
    from mrl_text.training.adapters import attach_adapters
    from mrl_text.training.frozen_layers import FrozenLayers

    layers, how = arguments.side.split(",")
    model = load(find_model(arguments.model), device="cpu").train()
    batches = _batches(len(model.tokenizer), arguments)
    running: Any = nullcontext()
    with TemporaryDirectory() as folder:
        if how == "LoRA":
            attach_adapters(model, {"r": arguments.lora}, seed=0, above=int(layers))
        if int(layers):
            frozen = FrozenLayers(model, int(layers))
            file = Path(folder) / "activations.bin"
            running = frozen.running(Activations(file, frozen.width, torch.float16) if how != "computed" else None)
        loss = nested_infonce(model, [model.width // 8, model.width // 2, model.width])
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-6)

        def step(columns: list[dict[str, Tensor]]) -> float:
            start = time.perf_counter()
            value = loss([dict(column) for column in columns], None)
            torch.stack(list(value.values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            return 1000 * (time.perf_counter() - start)

        with running, _Peak() as peak:
            first = [step(columns) for columns in batches]
            times = [step(columns) for columns in [*batches, *batches]]
    return {"ms": times, "first": first[1:] or first, "mb": peak.rise / 1e6}


def _print_rounding(arguments: argparse.Namespace) -> None:
    from mrl_text.loading import load
    from mrl_text.models import find_model
    from mrl_text.training.activations import Activations
    from mrl_text.training.frozen_layers import FrozenLayers

    pairs = parquet.read_table(arguments.pairs)
    model = load(find_model(arguments.model), device="cpu")
    dims = [model.width // 12, model.width // 3, model.width]

    def correlations() -> np.ndarray:
        left, right = (model.encode(pairs[name].to_pylist()) for name in ("sentence1", "sentence2"))
        cut = [(truncate(left, dim) * truncate(right, dim)).sum(axis=1) for dim in dims]
        return np.array([100 * spearmanr(one, pairs["score"].to_numpy())[0] for one in cut])

    whole = correlations()
    print(f"{'':20}" + "".join(f"{dim:>10}" for dim in dims))
    print(f"{'whole':20}" + "".join(f"{value:10.3f}" for value in whole))
    for layers in _numbers(arguments):
        frozen = FrozenLayers(model, layers)
        for dtype in (torch.float16, torch.bfloat16):
            with frozen.running(Activations(None, frozen.width, dtype)):
                differences = correlations() - whole
            name = f"{layers}, {str(dtype).removeprefix('torch.')}"
            print(f"{name:20}" + "".join(f"{value:+10.4f}" for value in differences), flush=True)


def _batches(vocabulary: int, arguments: argparse.Namespace) -> list[list[dict[str, Tensor]]]:
    """Batches of two columns: token ids and masks (pairs, tokens), lengths spread evenly."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(arguments.tokens // 2, arguments.tokens, arguments.batch).round().long()
    mask = (torch.arange(arguments.tokens) < lengths[:, None]).long()

    def column() -> dict[str, Tensor]:
        ids = torch.randint(vocabulary // 2, vocabulary, mask.shape, generator=generator)
        return {"input_ids": ids * mask + (1 - mask), "attention_mask": mask}  # 1 is MPNet's padding

    return [[column(), column()] for _ in range(arguments.batches)]


class _Peak:
    """The rise of the process's own resident memory while it lasts, looked at every 5 ms."""

    def __enter__(self) -> _Peak:
        self._before, self.rise, self._over = _own_memory(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.rise = max(self.rise, _own_memory() - self._before)


def _own_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
