"""When is a head sure? Four rules for stopping the cascade, on training texts alone.

    python benchmarks/cascade_rules.py MODEL --banking BANKING77_FOLDER --tags stackoverflow-clustering.csv

Heads and thresholds are fitted on two thirds of a data set's training texts and tested on the other third, for several
splits; the texts that ``benchmarks/classification.py`` tests on are not touched (of the tags, those of its first seed).
Printed is the mean largest size at which a rule loses so many points against the full width: read off the mean of all
splits' curves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mrl_text.classification.adaptive import AdaptiveClassifier
from mrl_text.classification.run import embed_texts
from mrl_text.classification.thresholds import Stages, confidence, find_path
from mrl_text.library_logging import quiet_libraries

LOST = (0.4, 0.3, 0.2, 0.1)


def _margin(probabilities: np.ndarray) -> np.ndarray:
    best = np.sort(probabilities, axis=-1)[..., -2:]
    return np.asarray(best[..., 1] - best[..., 0])


def _certainty(probabilities: np.ndarray) -> np.ndarray:
    spread = -(probabilities * np.log(probabilities + 1e-12)).sum(axis=-1)
    return np.asarray(1 - spread / np.log(probabilities.shape[-1]))


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "largest probability": lambda probabilities: probabilities.max(axis=-1),
    "best against second": confidence,
    "difference of the two": _margin,
    "entropy": _certainty,
}


class _Recorded(AdaptiveClassifier):
    """Keeps the probabilities that stages are made of."""

    probabilities: np.ndarray

    def _stages(self, probabilities: np.ndarray, labels: np.ndarray) -> Stages:
        self.probabilities = probabilities
        self.made = super()._stages(probabilities, labels)
        return self.made


def main() -> None:
    """Print a line per rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--banking", type=Path, help="folder with train.parquet")
    parser.add_argument("--tags", type=Path, help="CSV with text,label")
    parser.add_argument("--splits", type=int, default=8)
    arguments = parser.parse_args()
    quiet_libraries()
    if arguments.tags:
        table = pd.read_csv(arguments.tags).drop_duplicates("text")
        known = np.random.default_rng(0).permutation(len(table))[: len(table) * 2 // 3]
        _compare("Stack Overflow tags", arguments, table["text"].to_numpy()[known], table["label"].to_numpy()[known])
    if arguments.banking:
        table = pd.read_parquet(arguments.banking / "train.parquet")
        _compare("Banking77", arguments, table["text"].to_numpy(), table["label"].to_numpy())


def _compare(name: str, arguments: argparse.Namespace, texts: np.ndarray, labels: np.ndarray) -> None:
    vectors = embed_texts(arguments.model, texts.tolist())
    curves: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
    for split in range(arguments.splits):
        rows = np.random.default_rng(100 + split).permutation(len(texts))
        fitted, tested = np.split(rows, [len(rows) * 2 // 3])
        classifier = _Recorded(random_state=split).fit(vectors[fitted], labels[fitted])
        inside, held_out = classifier.made, classifier.probabilities
        outside = classifier.stages(vectors[tested], labels[tested])
        for rule, sure in RULES.items():
            path = find_path(replace(inside, confidence=sure(held_out)), "largest", split)
            stages = replace(outside, confidence=sure(classifier.probabilities))
            points = [stages.outcome(thresholds, "largest") for thresholds in path.thresholds]
            full = outside.correct[:, -1].mean()
            curves[rule].append(np.array([[100 * (right - full), size] for right, size in points]))
    print(f"\n{name}, {arguments.splits} splits: mean largest size at so many points lost")
    print(f"{'':24}" + "".join(f"{lost:8.1f}" for lost in LOST))
    for rule, found in curves.items():
        gained, sizes = np.mean(found, axis=0).T
        order = np.argsort(sizes)
        best = np.maximum.accumulate(gained[order])
        print(f"{rule:24}" + "".join(f"{np.interp(-lost, best, sizes[order]):8.0f}" for lost in LOST), flush=True)


if __name__ == "__main__":
    main()
