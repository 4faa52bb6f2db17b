from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest

from mrl_text.choices import Cost
from mrl_text.classification.thresholds import Stages, find_path, optimise, paid


def made(n: int, seed: int, sizes: int = 3) -> Stages:
    """Heads that grow better, with confidences that are chances of being right."""
    generator = np.random.default_rng(seed)
    easy = generator.uniform(size=(n, 1))
    confidence = np.clip(easy * np.linspace(0.6, 1, sizes) + generator.uniform(0, 0.3, size=(n, sizes)), 0.05, 0.99)
    correct = generator.uniform(size=(n, sizes)) < confidence
    return Stages(tuple(4 * 2**k for k in range(sizes)), confidence, correct, correct.astype(np.float64))


def loop(stages: Stages, thresholds: np.ndarray, cost: Cost) -> tuple[float, float]:
    """Accuracy and size, input by input."""
    right, total = 0, 0.0
    for row in range(len(stages.correct)):
        spent = []
        for stage, dim in enumerate(stages.dims):
            last = stage == len(stages.dims) - 1
            if not last and np.isinf(thresholds[stage]):
                continue
            spent.append(dim)
            if last or stages.confidence[row, stage] >= thresholds[stage]:
                right += int(stages.correct[row, stage])
                break
        total += sum(spent) if cost == "sum" else spent[-1]
    return right / len(stages.correct), total / len(stages.correct)


@pytest.mark.parametrize("cost", get_args(Cost))
def test_outcome_is_what_a_loop_over_inputs_counts(cost: Cost) -> None:
    stages = made(60, 3, sizes=4)
    for thresholds in ([0.5, 0.7, 0.9], [np.inf, 0.6, np.inf], [0.0, 0.0, 0.0], [np.inf] * 3, [0.8, np.inf, 0.3]):
        found = stages.outcome(np.array(thresholds), cost)
        assert found == pytest.approx(loop(stages, np.array(thresholds), cost))


@pytest.mark.parametrize("cost", get_args(Cost))
@pytest.mark.parametrize("price", [3.0, 20.0, 200.0])
def test_thresholds_against_every_combination(cost: Cost, price: float) -> None:
    gaps = []
    for seed in range(12):
        stages = made(14, seed)

        def objective(thresholds: np.ndarray, stages: Stages = stages) -> float:
            accuracy, size = loop(stages, thresholds, cost)
            return size - price * accuracy

        candidates = [[*np.unique(stages.confidence[:, stage]), np.inf] for stage in range(2)]
        best = min(objective(np.array(pair)) for pair in itertools.product(*candidates))
        found = objective(optimise(stages, price, cost))
        assert found >= best - 1e-9
        gaps.append(found - best)
    assert np.mean(np.array(gaps) < 1e-9) >= 0.75  # a local search: exact mostly, near always
    assert max(gaps) <= 0.05 * price + 1


def test_a_dear_error_and_a_cheap_one_end_at_the_extremes() -> None:
    stages = made(300, 5)
    assert stages.outcome(optimise(stages, 1e-6, "largest"), "largest")[1] == stages.dims[0]
    perfect = Stages(stages.dims, stages.confidence, np.ones((300, 3), dtype=bool), np.ones((300, 3)))
    assert perfect.outcome(optimise(perfect, 1e9, "sum"), "sum") == (1.0, stages.dims[0])
    last_only = np.tile([0.0, 0.0, 1.0], (300, 1))
    needed = Stages(stages.dims, stages.confidence, last_only.astype(bool), last_only)
    assert np.isinf(optimise(needed, 1e9, "sum")).all()


def test_paid_counts_what_is_computed() -> None:
    some = np.array([0.5, np.inf, 0.5])
    assert paid((4, 8, 16, 32), some, "largest").tolist() == [4, 8, 16, 32]
    assert paid((4, 8, 16, 32), some, "sum").tolist() == [4, 4, 20, 52]


@pytest.mark.slow
@pytest.mark.parametrize("cost", get_args(Cost))
def test_the_path_goes_from_cheap_to_careful_and_keeps_its_word(cost: Cost) -> None:
    stages, others = made(4000, 6, sizes=4), made(4000, 7, sizes=4)
    path = find_path(stages, cost, 0)
    assert (np.diff(path.accuracy) >= 0).all()
    assert np.isinf(path.thresholds[-1]).all()
    full = others.correct[:, -1].mean()
    for place, promised in enumerate(path.accuracy):
        kept = others.outcome(path.thresholds[place], cost)[0] - full
        assert kept >= promised - 0.03  # four standard errors of 4,000 paired answers
    assert path.accuracy[path.choose(0.01)] >= -0.01
    sizes = [stages.outcome(path.thresholds[path.choose(keep)], cost)[1] for keep in (0.0, 0.01, 0.1)]
    assert sizes[0] >= sizes[1] >= sizes[2]
