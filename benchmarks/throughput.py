"""Training throughput: `mrl-text train` against SentenceTransformerTrainer with MatryoshkaLoss, both sides in one run.

Same model, data, batches, learning rate, schedule and sizes; each side in a process of its own, one after the other.
Ours is what a recipe gives that leaves the rest to its defaults: bfloat16 where the device computes it natively, the
fused loss, texts sorted into pieces of like length. The other side is at its defaults.

    python benchmarks/throughput.py captions.parquet parasci.parquet
    python benchmarks/throughput.py captions.parquet parasci.parquet --ablate    # what each ingredient gives
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DIMS = [32, 64, 128, 256, 384]
SIDES = {
    "plain": "sentence-transformers at its defaults",
    "bf16": "  with our choice of number format",
    "fused": "  and the fused loss in our trainer",
    "ours": "  and sorted pieces: mrl-text train",
}


def main() -> None:
    """Measure and print examples per second, their ratio and both losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="Parquet files with the columns anchor and positive")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60, help="steps that count")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--ablate", action="store_true", help="add the ingredients one by one")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        _run_side(arguments)
        return
    measured = {}
    for side in SIDES if arguments.ablate else ("plain", "ours"):
        measured[side] = _start_side(side)
        one, plain = measured[side], measured["plain"]
        label = SIDES[side] if arguments.ablate or side == "plain" else "mrl-text train"
        print(
            f"{label:40} {one['rate']:7.1f} examples/s  {one['rate'] / plain['rate']:5.2f} x  {one['peak_mb']:6.0f} MB"
            f"  ({one['format']})",
            flush=True,
        )
    _compare_losses(measured["plain"]["losses"], measured["ours"]["losses"])


def _compare_losses(plain: list[float], ours: list[float]) -> None:
    """Both losses, mean of ten steps; dropout draws differ, so they agree within noise and not exactly."""
    print("steps      sentence-transformers  mrl-text  difference")
    for start in range(0, len(plain), 10):
        left, right = (sum(part) / len(part) for part in (plain[start : start + 10], ours[start : start + 10]))
        steps = f"{start + 1}-{min(start + 10, len(plain))}"
        print(f"{steps:9}  {left:21.4f}  {right:8.4f}  {right - left:+.4f} ({100 * (right - left) / left:+.2f} %)")


def _start_side(side: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run_side(arguments: argparse.Namespace) -> None:
    """Train, and print rate, losses, peak memory and number format as JSON."""
    from mrl_text.dtypes import training_precision

    steps = arguments.warm_up + arguments.steps
    shared = {
        "max_steps": steps,
        "per_device_train_batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "warmup_steps": 0.1,
        "batch_sampler": "batch_sampler",
        "seed": 42,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        if arguments.side in ("plain", "bf16"):
            formats = training_precision() if arguments.side == "bf16" else {}
            _train_plain(arguments, folder, shared | formats)
        else:
            formats = training_precision()
            _train_ours(arguments, folder, shared)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    logged = [line for line in lines if "loss" in line]
    seconds = logged[-1]["time"] - logged[arguments.warm_up - 1]["time"]  # written to a tenth of a second
    result = {
        "rate": arguments.batch_size * arguments.steps / seconds,
        "losses": [line["loss"] for line in logged],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "format": next((name for name in ("bf16", "fp16") if formats.get(name)), "float32"),
    }
    print(json.dumps(result))


def _train_plain(arguments: argparse.Namespace, folder: Path, training: dict[str, Any]) -> None:
    from datasets import DatasetDict, load_dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    from mrl_text.models import find_model
    from mrl_text.training.callbacks import MetricsLog

    folder.mkdir()
    model = SentenceTransformer(find_model(arguments.model).path)
    parts = {str(file): load_dataset("parquet", data_files=str(file), split="train") for file in arguments.data}
    data = DatasetDict({name: part.select_columns(["anchor", "positive"]) for name, part in parts.items()})
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(folder), report_to="none", **training),
        train_dataset=data if len(data) > 1 else next(iter(data.values())),
        loss=MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), DIMS),
        callbacks=[MetricsLog(folder / "metrics.jsonl")],
    ).train()


def _train_ours(arguments: argparse.Namespace, folder: Path, training: dict[str, Any]) -> None:
    from sentence_transformers.base.losses.merged_forward import embed_columns

    from mrl_text.losses import nested
    from mrl_text.training import train
    from mrl_text.training.recipe import Recipe

    if arguments.side == "fused":
        nested.embed_by_length = embed_columns
    recipe = Recipe.model_validate(
        {
            "model": {"name": arguments.model},
            "data": {"train": [{"source": str(file), "columns": ["anchor", "positive"]} for file in arguments.data]},
            "loss": {"dims": DIMS},
            "training": training,
        }
    )
    train(recipe, folder)


if __name__ == "__main__":
    main()
