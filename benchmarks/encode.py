"""Streaming encoding against ``SentenceTransformer.encode`` at its defaults, each side in a process of its own.

    python benchmarks/encode.py DATA --texts 20000 --fastembed other-environment/bin/python
    python benchmarks/encode.py --profile
    python benchmarks/encode.py --memory 100000,1000000

The first prints texts a second of each backend that is installed, their ratio, cosines to the other side's float32
vectors, which share of the processor's measured peak of matrix products the real tokens come to in torch, and the peak
of each process's resident memory; with ``--fastembed`` that library, too, on the graph that ONNX Runtime has here. DATA
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
import shutil
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
_PEER = "sentence-transformers"
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
    parser.add_argument("--fastembed", metavar="PYTHON", help="interpreter of an environment that has fastembed")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--one-memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        backend, dtype, scratch = arguments.side
        _side(backend, dtype, Path(scratch), arguments.model, arguments.token_budget)
    elif arguments.one_memory:
        _encode_short_texts(int(arguments.one_memory[0]), Path(arguments.one_memory[1]))
    elif arguments.memory:
        _compare_memory([int(count) for count in arguments.memory.split(",")], arguments.model)
    elif arguments.profile:
        _profile(arguments.model)
    elif arguments.data:
        texts = mixed_texts(arguments.data, arguments.texts)
        _compare_speed(texts, arguments.model, arguments.token_budget, arguments.fastembed)
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


def _compare_speed(texts: list[str], name: str, token_budget: int | None, fastembed: str | None) -> None:
    import torch

    from mrl_text import MatryoshkaEncoder
    from mrl_text.backends.base import engine_of
    from mrl_text.dtypes import compute_dtype

    model = MatryoshkaEncoder(name)
    work, fast = _operations(model, texts), compute_dtype(model, "auto")
    print(f"{len(texts):,} texts, {torch.get_num_threads()} threads, {name}, device {model.device}")
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "texts.json").write_text(json.dumps(texts), encoding="utf-8")

        def measure(backend: str, dtype: str, plain: float | None = None) -> float | None:
            command = [sys.executable, __file__, "--side", backend, dtype, scratch, "--model", name]
            command += ["--token-budget", str(token_budget)] if token_budget else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:  # such as an engine that computes other vectors, which we refuse
                print(f"{backend:8} {dtype:21} left out: {done.stderr.splitlines()[-1]}", flush=True)
                return None
            return _shown(f"{backend:8} {dtype}", json.loads(done.stdout.splitlines()[-1]), Path(scratch), work, plain)

        plain = measure(_PEER, "float32") or sys.exit("there is nothing to compare with")
        before = _peak(torch, fast)
        took = [measure("torch", dtype, plain) for dtype in dict.fromkeys(["float32", fast])]
        peak = max(before, _peak(torch, fast))
        share = work / (took[-1] or float("inf")) / peak
        print(f"{fast} matrix product peak {peak / 1e9:.0f} GFLOP/s ({_GEMM}x{_GEMM}); torch at {share:.2f} of it")
        for backend in ("onnx", "openvino"):
            try:
                dtypes = engine_of(backend).dtypes()
            except ModuleNotFoundError as error:
                print(error)
                continue
            for dtype in dtypes:
                measure(backend, dtype, plain)
        if fastembed:
            _fastembed(fastembed, name, Path(scratch), work, plain)


def _shown(side: str, facts: dict[str, float], scratch: Path, work: float, plain: float | None) -> float:
    """Print what a side took; the first side's vectors are what the others' are compared with."""
    vectors, expected = np.load(scratch / "vectors.npy"), scratch / "expected.npy"
    if plain is None:
        np.save(expected, vectors)
    cosines = np.einsum("nd,nd->n", vectors.astype(np.float64), np.load(expected).astype(np.float64))
    seconds = facts["seconds"]
    print(
        f"{side:30} {len(vectors) / seconds:8.1f} texts/s  {(plain or seconds) / seconds:5.2f} x  cosine min"
        f" {cosines.min():.6f} mean {cosines.mean():.6f}  {work / seconds / 1e9:6.0f} GFLOP/s"
        f"  {facts['peak_mb']:6.0f} MB",
        flush=True,
    )
    return seconds


def _side(backend: str, dtype: str, scratch: Path, name: str, token_budget: int | None) -> None:
    """Encode the texts in this process; write the vectors and print seconds and the peak of memory."""
    from sentence_transformers import SentenceTransformer

    from mrl_text.loading import load
    from mrl_text.models import find_model

    texts = json.loads((scratch / "texts.json").read_text(encoding="utf-8"))
    if backend == _PEER:
        peer = SentenceTransformer(find_model(name).path)

        def encode(some: list[str]) -> np.ndarray:
            return np.asarray(peer.encode(some, normalize_embeddings=True, show_progress_bar=False))
    else:
        model = load(find_model(name), backend=backend, dtype=dtype)

        def encode(some: list[str]) -> np.ndarray:
            return np.concatenate(list(model.encode_stream(some, dtype=dtype, token_budget=token_budget)))

    encode(texts[:64])  # warm
    started = time.perf_counter()
    vectors = encode(texts)
    seconds = time.perf_counter() - started
    np.save(scratch / "vectors.npy", vectors)
    print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


_FASTEMBED = """
import json, resource, sys, time
import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
folder, scratch, threads = sys.argv[1:]
TextEmbedding.add_custom_model(
    model="benchmarked", pooling=PoolingType.MEAN, normalization=True, dim=1,
    sources=ModelSource(url="https://example.org/model"), model_file="model.onnx",
)
model = TextEmbedding("benchmarked", specific_model_path=folder, threads=int(threads))
texts = json.load(open(f"{scratch}/texts.json"))
list(model.embed(texts[:64]))
started = time.perf_counter()
vectors = np.stack(list(model.embed(texts)))
seconds = time.perf_counter() - started
np.save(f"{scratch}/vectors.npy", vectors)
print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def _fastembed(python: str, name: str, scratch: Path, work: float, plain: float) -> None:
    """fastembed, in an environment of its own, with the graph that our ONNX Runtime backend computes in float32."""
    import torch

    from mrl_text.loading import load
    from mrl_text.models import find_model

    source, folder = find_model(name), scratch / "fastembed"
    shutil.copytree(source.path, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "onnx"))
    ours = load(source, backend="onnx", dtype="float32")
    for file in Path(ours[0].model.folder).glob("model.onnx*"):
        shutil.copy(file, folder)
    settings = folder / "tokenizer_config.json"  # as many tokens as the others read
    told = json.loads(settings.read_text(encoding="utf-8")) | {"model_max_length": ours.max_seq_length}
    settings.write_text(json.dumps(told), encoding="utf-8")
    command = [python, "-c", _FASTEMBED, str(folder), str(scratch), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    _shown("fastembed float32", json.loads(done.stdout.splitlines()[-1]), scratch, work, plain)


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
        with computing_in(dtype, model):
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
