"""Streaming encoding against ``SentenceTransformer.encode`` at its defaults, both sides in one process.

    python benchmarks/encode.py DATA --texts 20000
    python benchmarks/encode.py --profile
    python benchmarks/encode.py --memory 100000,1000000

The first prints texts a second of each backend that is installed, their ratio, cosines to the other side's float32
vectors, and which share of the processor's measured peak of matrix products the real tokens come to in torch. DATA
holds ``train/medical-qa.parquet``, ``train/captions.parquet`` and ``mteb-mirror/mteb/scifact``; answers, captions and
abstracts are shuffled together. The second prints where torch spends the time of a forward pass, for texts of 16, 64
and 256 tokens, and how fast the processor multiplies matrices of the model's own shapes. The third encodes so many
short made-up texts to Parquet with a static model, each number in a process of its own, and prints the peak of
resident memory.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_GEMM = 2048  # large enough for the peak, small enough for the caches of a server
_BLOCK = 100_000
_BATCH_TOKENS = 4096
_PARTS = {
    "matrix products": ("mm", "linear"),
    "attention": ("scaled_dot_product", "softmax"),
    "copies": ("copy_", "clone", "cat"),
    "activation": ("gelu", "silu"),
    "norms": ("norm",),
    "sums": ("aten::add",),
}


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder with the texts")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--token-budget", type=int, help="default: what suits the device")
    parser.add_argument("--profile", action="store_true", help="where the time of a forward pass goes")
    parser.add_argument("--memory", metavar="N,N", help="numbers of texts to measure memory with")
    parser.add_argument("--one-memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_memory:
        _encode_short_texts(int(arguments.one_memory[0]), Path(arguments.one_memory[1]))
    elif arguments.memory:
        _compare_memory([int(count) for count in arguments.memory.split(",")], arguments.model)
    elif arguments.profile:
        _profile(arguments.model)
    elif arguments.data:
        _compare_speed(mixed_texts(arguments.data, arguments.texts), arguments.model, arguments.token_budget)
    else:
        parser.error("name DATA, --profile or --memory")


def mixed_texts(data: Path, count: int) -> list[str]:
    """Answers, captions and abstracts, shuffled with a fixed seed; the first ``count``."""
    import pandas as pd

    answers = pd.read_parquet(data / "train/medical-qa.parquet")["positive"].tolist()
    captions = pd.read_parquet(data / "train/captions.parquet")["anchor"].tolist()
    abstracts = pd.read_parquet(data / "mteb-mirror/mteb/scifact/corpus.parquet")
    texts: list[str] = [*answers, *captions, *(abstracts["title"] + " " + abstracts["text"])]
    random.Random(0).shuffle(texts)
    return texts[:count]


def _compare_speed(texts: list[str], name: str, token_budget: int | None) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    from mrl_text import MatryoshkaEncoder
    from mrl_text.backends.base import engine_of
    from mrl_text.dtypes import compute_dtype
    from mrl_text.loading import load
    from mrl_text.models import find_model

    peer = SentenceTransformer(find_model(name).path)
    ours = MatryoshkaEncoder(name)
    fast = compute_dtype(ours, "auto")
    peer.encode(texts[:64])  # both sides warm
    _stream(ours, texts[:64], fast, token_budget)
    before = _peak(torch, fast)
    print(f"{len(texts):,} texts, {torch.get_num_threads()} threads, {name}, device {ours.device}")
    started = time.perf_counter()
    expected = peer.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    plain = time.perf_counter() - started
    print(f"SentenceTransformer.encode            {len(texts) / plain:8.1f} texts/s", flush=True)
    work = _operations(ours, texts)

    def measure(backend: str, model: Any, dtype: str) -> float:
        started = time.perf_counter()
        vectors = _stream(model, texts, dtype, token_budget)
        seconds = time.perf_counter() - started
        cosines = np.einsum("nd,nd->n", vectors.astype(np.float64), expected.astype(np.float64))
        print(
            f"encode_stream, {backend:8} {dtype:13} {len(texts) / seconds:8.1f} texts/s  {plain / seconds:5.2f} x"
            f"  cosine min {cosines.min():.6f} mean {cosines.mean():.6f}  {work / seconds / 1e9:6.0f} GFLOP/s",
            flush=True,
        )
        return seconds

    for dtype in dict.fromkeys(["float32", fast]):
        seconds = measure("torch", ours, dtype)
    peak = max(before, _peak(torch, fast))
    share = work / seconds / peak
    print(f"{fast} matrix product peak {peak / 1e9:.0f} GFLOP/s ({_GEMM}x{_GEMM}); torch at {share:.2f} of it")
    for backend in ("onnx", "openvino"):
        try:
            dtypes = engine_of(backend).dtypes()
        except ModuleNotFoundError as error:
            print(error)
            continue
        for dtype in dtypes:
            model = load(find_model(name), backend=backend, dtype=dtype)
            _stream(model, texts[:64], dtype, token_budget)
            measure(backend, model, dtype)


def _stream(model: Any, texts: list[str], dtype: str, token_budget: int | None) -> np.ndarray:
    return np.concatenate(list(model.encode_stream(texts, dtype=dtype, token_budget=token_budget)))


def _operations(model: Any, texts: list[str]) -> float:
    """Floating point operations of the tokens there are, padding left out: matrix products and attention."""
    config = model[0].model.config
    matrices = sum(
        parameter.numel()
        for name, parameter in model[0].model.named_parameters()
        if parameter.ndim == 2 and "embeddings" not in name and "pooler" not in name
    )
    tokens = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
    lengths = np.array([len(ids) for ids in tokens], dtype=np.float64)
    attention = 4 * config.num_hidden_layers * config.hidden_size
    return float(2 * matrices * lengths.sum() + attention * (lengths**2).sum())


def _peak(torch: Any, dtype: str) -> float:
    """Best of thirty products of square matrices, operations a second."""
    return _best_product(torch, *(torch.randn(_GEMM, _GEMM).to(getattr(torch, dtype)) for _ in range(2)))


def _best_product(torch: Any, first: Any, second: Any) -> float:
    best = float("inf")
    for _ in range(30):
        started = time.perf_counter()
        torch.nn.functional.linear(first, second)
        best = min(best, time.perf_counter() - started)
    return 2 * len(first) * second.numel() / best


def _profile(name: str) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    from mrl_text import MatryoshkaEncoder
    from mrl_text.dtypes import compute_dtype, computing_in

    model = MatryoshkaEncoder(name, device="cpu").eval()
    dtype = compute_dtype(model, "auto")
    for tokens in (16, 64, 256):
        features = model.preprocess([" ".join(["word"] * (tokens - 2))] * (_BATCH_TOKENS // tokens))
        with torch.inference_mode(), computing_in(dtype, model):
            for _ in range(2):
                model(dict(features))  # warm
            started = time.perf_counter()
            model(dict(features))
            seconds = time.perf_counter() - started
            with profile(activities=[ProfilerActivity.CPU]) as measured:
                model(dict(features))
        spent: dict[str, float] = dict.fromkeys([*_PARTS, "rest"], 0.0)
        for event in measured.key_averages():
            part = next((part for part, words in _PARTS.items() if any(word in event.key for word in words)), "rest")
            spent[part] += event.self_cpu_time_total
        shares = ", ".join(f"{part} {100 * time_ / sum(spent.values()):.0f} %" for part, time_ in spent.items())
        print(f"{tokens:>4} tokens, {dtype}: {_BATCH_TOKENS / seconds:,.0f} tokens/s; {shares}", flush=True)
    config = model[0].model.config
    wide, inner = config.hidden_size, config.intermediate_size
    for rows, columns in ((wide, wide), (wide, inner), (inner, wide), (_GEMM, _GEMM)):
        first, second = (
            torch.randn(size).to(getattr(torch, dtype)) for size in ((_BATCH_TOKENS, rows), (columns, rows))
        )
        speed = _best_product(torch, first, second) / 1e9
        print(f"{_BATCH_TOKENS} x {rows} by {rows} x {columns}: {speed:.0f} GFLOP/s", flush=True)


def _compare_memory(counts: list[int], name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        _static_model(name).save(f"{scratch}/model")
        peaks = []
        for count in counts:
            command = [sys.executable, __file__, "--one-memory", str(count), scratch]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            facts = json.loads(done.stdout)
            peaks.append(facts["peak_mb"])
            print(f"{count:>10,} texts: peak {facts['peak_mb']:7.0f} MB, {count / facts['seconds']:8.0f} texts/s")
        print(f"largest over smallest: {max(peaks) / min(peaks):.3f}")


def _static_model(name: str) -> Any:
    """A model that averages vectors of words: random ones, which are as large as trained ones."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from mrl_text.models import find_model

    tokenizer = SentenceTransformer(find_model(name).path).tokenizer
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=256)])


def _encode_short_texts(count: int, scratch: Path) -> None:
    from mrl_text.encoding import encode_files

    corpus = scratch / f"corpus-{count}.txt"
    words = "river house music train bread garden winter letter stone bridge market window child story light".split()
    draw = random.Random(0)
    with corpus.open("w", encoding="utf-8") as stream:
        for start in range(0, count, _BLOCK):
            block = min(_BLOCK, count - start)
            stream.writelines(" ".join(draw.choices(words, k=10)) + f" {start + row}\n" for row in range(block))
    started = time.perf_counter()
    report = encode_files([corpus], scratch / f"out-{count}", model=str(scratch / "model"), dims=[64, 256])
    assert report.rows == count, report
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": peak, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
