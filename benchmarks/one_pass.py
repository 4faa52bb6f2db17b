"""What a grid of sizes and precisions costs: one pass, full width alone, and mteb once per cell.

Every side runs from nothing, one after the other, each in a process of its own so that its peak memory is its own:
no cached embeddings, results or models. mteb's side truncates with sentence-transformers and quantises with mteb's
CompressionWrapper, queries and documents alike; it has no int2.

    python benchmarks/one_pass.py --mirror DIR

``--mteb-cells 4`` measures mteb on that many cells spread over the grid and multiplies, since the whole grid takes
hours.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DIMS = (16, 32, 64, 128, 256, 384)
PRECISIONS = ("float32", "float16", "int8", "int4", "int2", "binary")


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--tasks", default="SciFact,STSBenchmark,Banking77Classification")
    parser.add_argument("--dims", default=",".join(map(str, DIMS)))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--mirror", type=Path, help="folder with local copies of hub data sets")
    parser.add_argument("--mteb-cells", type=int, help="cells to run through plain mteb; default all, 0 none")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        _run_side(arguments)
        return
    dims, precisions = [int(dim) for dim in arguments.dims.split(",")], arguments.precisions.split(",")
    cells = [(dim, precision) for dim in dims for precision in precisions]
    known = [cell for cell in cells if cell[1] != "int2"]
    wanted = len(known) if arguments.mteb_cells is None else arguments.mteb_cells
    chosen = [known[round(step * (len(known) - 1) / max(wanted - 1, 1))] for step in range(wanted)]
    _side("warm", arguments)  # so that the first side measured does not pay for reading the disk
    full, grid = _side("full", arguments), _side("grid", arguments)
    plain = [_side(f"mteb:{dim}:{precision}", arguments) for dim, precision in chosen]
    count = len(cells)
    print(f"tasks {arguments.tasks}; {len(dims)} sizes x {len(precisions)} precisions = {count} cells")
    print(f"full width in float32 alone  {full['seconds']:8.1f} s  {full['peak_mb']:7.0f} MB")
    print(
        f"{count} cells, one pass          {grid['seconds']:8.1f} s  {grid['peak_mb']:7.0f} MB"
        f"   {grid['seconds'] / full['seconds']:.2f} x the time, {grid['peak_mb'] / full['peak_mb']:.2f} x the memory"
    )
    if plain:
        seconds = sum(one["seconds"] for one in plain) * count / len(plain)
        how = "" if len(plain) == count else f" (measured on {len(plain)}, times {count / len(plain):.3g})"
        print(f"{count} cells, mteb per cell     {seconds:8.1f} s   {seconds / grid['seconds']:.1f} x one pass{how}")
        _compare(grid["scores"], plain, chosen)


def _compare(ours: dict[str, float], plain: list[dict], chosen: list[tuple[int, str]]) -> None:
    """Scores side by side: float32 is the same computation; other precisions are rounded differently."""
    for (dim, precision), one in zip(chosen, plain, strict=True):
        for task, score in one["scores"].items():
            own = ours[f"{task} {dim} {precision}"]
            print(f"  {task:26} {dim:4d} {precision:8} one pass {100 * own:6.2f}   mteb {100 * score:6.2f}")


def _side(name: str, arguments: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--side", name]
    for option in ("model", "tasks", "dims", "precisions", "mirror"):
        if getattr(arguments, option) is not None:
            command += [f"--{option}", str(getattr(arguments, option))]
    with tempfile.TemporaryFile("w+") as answer:
        subprocess.run(command, stdout=answer, check=True)
        answer.seek(0)
        return json.loads(answer.read().splitlines()[-1])


def _run_side(arguments: argparse.Namespace) -> None:
    from mrl_text.library_logging import quiet_libraries

    quiet_libraries()
    tasks, dims = arguments.tasks.split(","), [int(dim) for dim in arguments.dims.split(",")]
    started = time.monotonic()
    if arguments.side.startswith("mteb:"):
        _, dim, precision = arguments.side.split(":")
        scores = _plain_mteb(arguments, tasks, int(dim), precision)
    elif arguments.side == "grid":
        scores = _one_pass(arguments, tasks, dims, arguments.precisions.split(","))
    elif arguments.side == "full":
        scores = _one_pass(arguments, tasks, [max(dims)], ["float32"])
    else:
        scores = _one_pass(arguments, tasks[1:2], [max(dims)], ["float32"])
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "scores": scores}))


def _one_pass(arguments: argparse.Namespace, tasks: list[str], dims: list[int], precisions: list) -> dict[str, float]:
    from mrl_text.eval import sweep

    with tempfile.TemporaryDirectory() as folder:
        table = sweep(
            [arguments.model],
            tasks,
            output=folder,
            cache=Path(folder) / "embeddings",  # of its own: nothing is left from another side
            dims=dims,
            precisions=precisions,
            controls=[],
            mirror=arguments.mirror,
        ).scores
    return {f"{row.task} {row.dim} {row.precision}": row.score for row in table.itertuples()}


def _plain_mteb(arguments: argparse.Namespace, tasks: list[str], dim: int, precision: str) -> dict[str, float]:
    import mteb
    from mteb.models import CompressionWrapper, SentenceTransformerEncoderWrapper
    from mteb.types import OutputDType
    from sentence_transformers import SentenceTransformer

    from mrl_text.models import find_model

    scores = {}
    model = SentenceTransformerEncoderWrapper(SentenceTransformer(find_model(arguments.model).path, truncate_dim=dim))
    if precision != "float32":
        model = CompressionWrapper(model, OutputDType(precision))
    for name in tasks:
        task = mteb.get_task(name)
        if arguments.mirror:
            local = {**task.metadata.dataset, "path": str(arguments.mirror / task.metadata.dataset["path"])}
            task.metadata = task.metadata.model_copy(update={"dataset": local})
        result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
        scores[name] = result.task_results[0].get_score()
    return scores


if __name__ == "__main__":
    main()
