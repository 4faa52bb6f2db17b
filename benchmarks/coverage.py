"""How often the 95 % intervals hold the truth, on simulated data whose truth is known.

Scores of items are drawn from distributions like those of real tasks; the truth is the score of an endless sample. The
last rows are about pairs: the difference and the retention of two correlated lines.

    python benchmarks/coverage.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from mrl_text.eval.statistics import Estimate, Units, bootstrap, mean_estimate

Draw = Callable[[np.random.Generator, int], list[Units]]


def main() -> None:
    """Print one row per kind of score: units, coverage of the score, of the difference and of the retention."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{arguments.trials} trials; share of intervals (nominal 95 %) that hold the truth")
    print(f"{'kind of score':44}{'units':>7}{'score':>9}{'difference':>12}{'retention':>11}")
    for name, draw, sizes in KINDS:
        truth = [one.score() for one in draw(np.random.default_rng(10_000), 400_000)]
        for n in sizes:
            print(f"{name:44}{n:7d}" + _row(_coverage(draw, n, truth, arguments.trials, arguments.seed)), flush=True)
    print(f"{'mean of two tasks (queries, experiments)':44}{'300+10':>7}" + _row(_two_tasks(arguments)))


def _row(coverage: tuple[float, float, float]) -> str:
    return f"{coverage[0]:8.1%} {coverage[1]:11.1%} {coverage[2]:10.1%}"


def _coverage(draw: Draw, n: int, truth: list[float], trials: int, seed: int) -> tuple[float, float, float]:
    hits = np.zeros(3)
    for trial in range(trials):
        full, cut = bootstrap(draw(np.random.default_rng((seed, n, trial)), n), f"trial {trial}")
        hits += _holds(full, cut, truth)
    return tuple(hits / trials)


def _holds(full: Estimate, cut: Estimate, truth: list[float]) -> list[bool]:
    pairs = [(cut, truth[1]), (cut - full, truth[1] - truth[0]), (cut / full, truth[1] / truth[0])]
    intervals = [(estimate.interval(), value) for estimate, value in pairs]
    return [interval is not None and interval.low <= value <= interval.high for interval, value in intervals]


def _two_tasks(arguments: argparse.Namespace) -> tuple[float, float, float]:
    draws = [(_queries, 300), (_experiments, 10)]
    truths = [[one.score() for one in draw(np.random.default_rng(10_000), 400_000)] for draw, _ in draws]
    truth = [float(np.mean(values)) for values in zip(*truths, strict=True)]
    hits = np.zeros(3)
    for trial in range(arguments.trials):
        generator = np.random.default_rng((arguments.seed, trial))
        tasks = [bootstrap(draw(generator, n), f"trial {trial} {n}") for draw, n in draws]
        full, cut = (mean_estimate(pair) for pair in zip(*tasks, strict=True))
        hits += _holds(full, cut, truth)
    return tuple(hits / arguments.trials)


def _ids(n: int) -> np.ndarray:
    return np.arange(n).astype(np.str_)


def _queries(generator: np.random.Generator, n: int) -> list[Units]:
    """nDCG of queries: often 0 or 1, sometimes between; the smaller size loses a few."""
    full = np.where(generator.random(n) < 0.3, 0.0, np.minimum(1, generator.beta(2, 1, n) + 0.2))
    lost = generator.random(n) < 0.15
    cut = np.where(lost, full * generator.random(n), full)
    return [Units(_ids(n), {"value": value}, "mean") for value in (full, cut)]


def _hits(generator: np.random.Generator, n: int) -> list[Units]:
    """Right or wrong, as in recall at 1."""
    full = (generator.random(n) < 0.7).astype(float)
    flipped = generator.random(n) < 0.1
    cut = np.where(flipped, (generator.random(n) < 0.5).astype(float), full)
    return [Units(_ids(n), {"value": value}, "mean") for value in (full, cut)]


def _experiments(generator: np.random.Generator, n: int) -> list[Units]:
    """Accuracies of classifiers trained on different samples, shared by both sizes."""
    shared = generator.normal(0, 0.012, n)
    full, cut = (mean + shared + generator.normal(0, 0.008, n) for mean in (0.80, 0.77))
    return [Units(_ids(n), {"value": value}, "mean") for value in (full, cut)]


def _pairs(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    quality = generator.normal(size=n)
    full = quality + 0.55 * generator.normal(size=n)
    return quality, full, full + 0.25 * generator.normal(size=n)


def _spearman(generator: np.random.Generator, n: int) -> list[Units]:
    """Human judgements in steps of a fifth against similarities."""
    quality, full, cut = _pairs(generator, n)
    gold = np.clip(np.round(5 * (quality + 2.5)) / 5, 0, 5)
    return [Units(_ids(n), {"value": value, "gold": gold}, "spearman") for value in (full, cut)]


def _average_precision(generator: np.random.Generator, n: int) -> list[Units]:
    """Pairs of which a third are alike."""
    quality, full, cut = _pairs(generator, n)
    gold = (quality > 0.43).astype(float)
    return [Units(_ids(n), {"value": value, "gold": gold}, "ap") for value in (full, cut)]


KINDS: list[tuple[str, Draw, list[int]]] = [
    ("queries, nDCG", _queries, [50, 300, 1000]),
    ("queries, hit or miss", _hits, [100, 300]),
    ("experiments, accuracy", _experiments, [5, 10]),
    ("pairs, Spearman", _spearman, [250, 1379]),
    ("pairs, Spearman through pseudo-values", _spearman, [4000]),
    ("pairs, average precision", _average_precision, [300, 1500]),
    ("pairs, average precision, pseudo-values", _average_precision, [4000]),
]


if __name__ == "__main__":
    main()
