"""Evaluated models, size by size: mean difference over tasks with its paired bootstrap interval.

    mrl-text eval MODEL OTHER --tasks STSBenchmark,SciFact -o evaluation
    python benchmarks/compare.py MODEL OTHER... --results evaluation --tasks STSBenchmark,SciFact

Names are as in the evaluation's tables; a control is named by its label, such as ``MODEL base``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mrl_text.eval.grid import Cell, Line
from mrl_text.eval.leaderboard import load_results
from mrl_text.eval.results import Results


def main() -> None:
    """Print one block per other model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("others", nargs="+")
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="output folders of mrl-text eval")
    parser.add_argument("--tasks", help="comma-separated; default all")
    arguments = parser.parse_args()
    results = load_results(arguments.results)
    tasks = arguments.tasks.split(",") if arguments.tasks else list(results.tasks)
    line = _line(results, arguments.model)
    for other in arguments.others:
        _print(results, line, _line(results, other), tasks)


def _line(results: Results, label: str) -> Line:
    by_label = {name: line for line, name in results.labels.items()}
    if label not in by_label:
        raise SystemExit(f"no {label!r}; the results have {', '.join(map(repr, by_label))}")
    return by_label[label]


def _print(results: Results, line: Line, other: Line, tasks: list[str]) -> None:
    print(f"{results.labels[line]} - {results.labels[other]}, mean of {', '.join(tasks)} (x100)")
    for cell in sorted(set(results.cells(line)) & set(results.cells(other)), key=lambda one: -one.dim):
        if cell.precision != "float32":
            continue
        ours, theirs = _estimate(results, line, cell, tasks), _estimate(results, other, cell, tasks)
        interval = (ours - theirs).interval()
        between = f" [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]" if interval else ""
        print(
            f"{cell.dim:5d}  {100 * ours.value:6.2f}  {100 * theirs.value:6.2f}"
            f"  {100 * (ours.value - theirs.value):+6.2f}{between}"
        )


def _estimate(results: Results, line: Line, cell: Cell, tasks: list[str]):
    found = results.estimate(line, cell, tasks)
    if found is None:
        raise SystemExit(f"{results.labels[line]} was not evaluated at {cell.dim} on all of {', '.join(tasks)}")
    return found


if __name__ == "__main__":
    main()
