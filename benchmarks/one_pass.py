"""What evaluating several sizes costs: one pass against full width alone, and against mteb once per size.

All sides run one after the other in this process, each from nothing: no cached embeddings, results or models.

    python benchmarks/one_pass.py --mirror DIR
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mteb
from sentence_transformers import SentenceTransformer

from mrl_text.eval import sweep
from mrl_text.eval.tasks import TaskLoader
from mrl_text.models import find_model
from mrl_text.quiet import quiet_libraries


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--tasks", default="STSBenchmark,SciFact")
    parser.add_argument("--dims", default="16,32,64,128,256,384")
    parser.add_argument("--mirror", type=Path, help="folder with local copies of hub data sets")
    arguments = parser.parse_args()
    quiet_libraries()
    tasks, dims = arguments.tasks.split(","), [int(dim) for dim in arguments.dims.split(",")]

    def one_pass(sizes: list[int]) -> dict[tuple[str, int], float]:
        with tempfile.TemporaryDirectory() as folder:
            table = sweep([arguments.model], tasks, output=folder, dims=sizes, mirror=arguments.mirror).scores
        return {(row.task, row.dim): row.score for row in table.itertuples()}

    def mteb_loop() -> dict[tuple[str, int], float]:
        path, loader, scores = find_model(arguments.model).path, TaskLoader(tasks, arguments.mirror), {}
        for dim in dims:
            model = SentenceTransformer(path, truncate_dim=dim)
            for name in tasks:
                result = mteb.evaluate(
                    model, loader.fresh(name), cache=None, co2_tracker=False, show_progress_bar=False
                ).task_results[0]
                scores[name, dim] = result.get_score()
                loader.release(name)  # each evaluation loads its own data, as a plain loop would
        return scores

    with tempfile.TemporaryDirectory() as folder:  # so that the first side measured does not pay for imports
        sweep([arguments.model], tasks[:1], output=folder, dims=dims[:1], mirror=arguments.mirror)
    full_seconds, _ = _timed(lambda: one_pass([max(dims)]))
    pass_seconds, ours = _timed(lambda: one_pass(dims))
    loop_seconds, theirs = _timed(mteb_loop)
    difference = max(abs(ours[key] - theirs[key]) for key in ours)
    print(f"tasks {', '.join(tasks)}; sizes {', '.join(map(str, dims))}")
    print(f"full width alone, one pass  {full_seconds:8.1f} s")
    print(
        f"{len(dims)} sizes, one pass           {pass_seconds:8.1f} s   {pass_seconds / full_seconds:.2f} x full width"
    )
    print(f"{len(dims)} sizes, mteb per size      {loop_seconds:8.1f} s   {loop_seconds / pass_seconds:.2f} x one pass")
    print(f"largest difference of a main score between the two: {100 * difference:.3f} points")


def _timed(function: Callable[[], dict[tuple[str, int], float]]) -> tuple[float, dict[tuple[str, int], float]]:
    started = time.monotonic()
    scores = function()
    return time.monotonic() - started, scores


if __name__ == "__main__":
    main()
