from __future__ import annotations

import numpy as np
import pytest

from mrl_text.eval.statistics import bootstrap_mean, paired_bootstrap, smallest_dim


def test_the_interval_of_a_mean_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(0.3, 0.2, size=2000)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)
    assert interval.n == 2000


def test_the_interval_agrees_with_a_hand_written_bootstrap() -> None:
    rng = np.random.default_rng(2)
    values = rng.exponential(size=300)
    means = [values[rng.integers(0, 300, 300)].mean() for _ in range(5000)]
    interval = bootstrap_mean(values)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), rel=0.02)


def test_pairing_removes_what_the_items_have_in_common() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.uniform(size=500)
    control = {str(item): value for item, value in enumerate(difficulty)}
    scores = {item: value + 0.01 + rng.normal(0, 0.02) for item, value in control.items()}
    paired = paired_bootstrap(scores, control)
    assert paired.excludes_zero
    assert paired.mean == pytest.approx(0.01, abs=0.003)
    unpaired_width = np.hypot(*(bootstrap_mean(list(part.values())).high for part in (scores, control)))
    assert paired.high - paired.low < 0.1 * unpaired_width


def test_a_difference_of_nothing_includes_zero_and_other_items_are_refused() -> None:
    scores = {"a": 0.2, "b": 0.7}
    same = paired_bootstrap(scores, dict(reversed(scores.items())))
    assert (same.mean, same.low, same.high, same.excludes_zero) == (0, 0, 0, False)
    with pytest.raises(ValueError, match="same items"):
        paired_bootstrap(scores, {"a": 0.2, "c": 0.7})
    with pytest.raises(ValueError, match="no per-item scores"):
        bootstrap_mean([])


@pytest.mark.parametrize(
    ("scores", "keep", "expected"),
    [
        ({16: 0.5, 64: 0.9, 256: 1.0}, 0.9, 64),
        ({16: 0.5, 64: 0.9, 256: 1.0}, 0.91, 256),
        ({16: 0.5, 64: 0.9, 256: 1.0}, 0.5, 16),
        ({16: 0.99, 64: 0.90, 256: 1.0}, 0.95, 256),  # 16 only looks good by luck: 64 fails
        ({64: 1.1, 256: 1.0}, 0.99, 64),
        ({64: 0.0, 256: 0.0}, 0.99, None),
    ],
)
def test_the_smallest_size_keeps_the_share_from_there_on_up(
    scores: dict[int, float], keep: float, expected: int | None
) -> None:
    assert smallest_dim(scores, keep) == expected
