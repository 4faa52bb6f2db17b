"""Adaptive classification on two data sets: accuracy at each size, the cascade, and the oracle, over seeds.

python benchmarks/classification.py MODEL --banking BANKING77_FOLDER --tags stackoverflow-clustering.csv

Banking77 has a test split; a seed draws nine tenths of its training texts and the folds that thresholds are learned on.
Of the tags a seed draws two thirds to fit on and the rest to test. No test text is seen before heads and thresholds
stand; "a third, on test texts" is the last place on the path whose mean size on the unlabelled test texts is at most a
third of the width. Intervals are Student's, over seeds: they say what other draws would give.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from mrl_text.classification.adaptive import AdaptiveClassifier, Point, oracle
from mrl_text.classification.figure import Curve, draw_curves
from mrl_text.classification.run import embed_texts
from mrl_text.library_logging import quiet_libraries

KINDS = {False: "separate heads", True: "tied heads"}
Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def main() -> None:
    """Encode once, then fit and test with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--banking", type=Path, help="folder with train.parquet and test.parquet")
    parser.add_argument("--tags", type=Path, help="CSV with text,label")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", default="0.999,0.998", help="shares of the accuracy, comma-separated")
    parser.add_argument("--dims", default="", help="sizes, comma-separated")
    parser.add_argument("--cost", default="largest")
    parser.add_argument("--kinds", default="separate,tied")
    parser.add_argument("--output", type=Path, default=Path("classification"))
    arguments = parser.parse_args()
    quiet_libraries()
    dims = [int(dim) for dim in arguments.dims.split(",")] if arguments.dims else None
    keeps = [float(keep) for keep in arguments.keep.split(",")]
    for name, file in (("Banking77", arguments.banking), ("Stack Overflow tags", arguments.tags)):
        if file is None:
            continue
        curves = []
        for tied, kind in KINDS.items():
            if kind.split()[0] in arguments.kinds:
                splits = _splits(arguments.model, file, arguments.seeds)
                print(f"\n{name}, {kind}, cost {arguments.cost}, {arguments.seeds} seeds")
                curves += _measure(splits, kind, tied, keeps, arguments.cost, dims)
        draw_curves(curves, arguments.output / f"{name.split()[0].lower()}.png", title=name)


def _splits(model: str, file: Path, seeds: int) -> Iterator[tuple[int, Split]]:
    if file.is_dir():
        train, test = (pd.read_parquet(file / f"{part}.parquet") for part in ("train", "test"))
        vectors, unseen = (embed_texts(model, part["text"].tolist()) for part in (train, test))
        for seed in range(seeds):
            rows = np.random.default_rng(seed).permutation(len(train))[: len(train) * 9 // 10]
            yield seed, (vectors[rows], train["label"].to_numpy()[rows], unseen, test["label"].to_numpy())
        return
    table = pd.read_csv(file).drop_duplicates("text")
    vectors, labels = embed_texts(model, table["text"].tolist()), table["label"].to_numpy()
    for seed in range(seeds):
        rows, rest = np.split(np.random.default_rng(seed).permutation(len(table)), [len(table) * 2 // 3])
        yield seed, (vectors[rows], labels[rows], vectors[rest], labels[rest])


def _measure(
    splits: Iterator[tuple[int, Split]], kind: str, tied: bool, keeps: list[float], cost: str, sizes: list[int] | None
) -> list[Curve]:
    singles, paths, chosen, bounds, dims = [], [], [], [], ()
    for seed, (vectors, classes, unseen, truth) in splits:
        classifier = AdaptiveClassifier(sizes, tied=tied, cost=cost, random_state=seed).fit(vectors, classes)  # type: ignore[arg-type]
        dims = classifier.dims_
        singles.append(classifier.stages(unseen, truth).correct.mean(axis=0))
        paths.append(classifier.curve(unseen, truth))
        third = vectors.shape[1] / 3
        knobs = [*({"keep": keep} for keep in keeps), {"expected_dims": third}]
        within = [point for point in paths[-1] if point.largest <= third]  # sizes, which no label is needed for
        chosen.append([*(classifier.choose(**knob).evaluate(unseen, truth) for knob in knobs), within[-1]])
        bounds.append(oracle(classifier, unseen, truth))
        found = ", ".join(f"{point.accuracy - singles[-1][-1]:+.4f} at {point.largest:.0f}" for point in chosen[-1])
        print(f"  seed {seed}: {found}", flush=True)
    scores = np.array(singles)
    for stage, dim in enumerate(dims):
        print(f"{dim:8d} numbers  {_interval(100 * scores[:, stage])}")
    labels = [*(f"keep {keep}" for keep in keeps), "a third, on held-out texts", "a third, on test texts"]
    for label, points in zip(labels, zip(*chosen, strict=True), strict=True):
        lost = [100 * (point.accuracy - full) for point, full in zip(points, scores[:, -1], strict=True)]
        print(f"{label}: {_costs(points)}   less {dims[-1]}: {_interval(lost)} points")
    print(f"oracle: {_costs(bounds)}")
    single = [Point(float(score), float(dim), float(dim)) for score, dim in zip(scores.mean(axis=0), dims, strict=True)]
    return [
        Curve(kind, single, "single"),
        Curve(f"cascade, {kind}", [_mean(list(points)) for points in zip(*paths, strict=True)], "cascade"),
        Curve(f"oracle, {kind}", [_mean(bounds)], "oracle"),
    ]


def _costs(points: Sequence[Point]) -> str:
    sizes = f"largest {_interval([p.largest for p in points])}   sum {_interval([p.paid for p in points])}"
    return f"{_interval([100 * p.accuracy for p in points])}   {sizes}"


def _mean(points: list[Point]) -> Point:
    return Point(*(float(np.mean([getattr(p, name) for p in points])) for name in ("accuracy", "largest", "paid")))


def _interval(values: list[float] | np.ndarray) -> str:
    """Mean with Student's 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0
    return f"{np.mean(values):7.2f} [{np.mean(values) - half:.2f}, {np.mean(values) + half:.2f}]"


if __name__ == "__main__":
    main()
