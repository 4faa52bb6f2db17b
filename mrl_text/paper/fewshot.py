"""Few labelled texts per class, and many for some classes but few for most, by size."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from mrl_text.eval.statistics import bootstrap_mean
from mrl_text.figures import Panel
from mrl_text.paper.experiment import Experiment, Missing, Side
from mrl_text.paper.page import Question, Section
from mrl_text.paper.tasks import Labelled
from mrl_text.paper.wording import by_size, direction, distinct, grouped, interval, listed, pick, series

SHOTS = (1, 2, 5, 10, 20)
DRAWS = 10
_DRAWN = ("1 per class", "5 per class", "20 per class")
LONG_TAIL = "long tail"
HEAD, MIDDLE, TAIL = "head third", "middle third", "tail third"


def measure(experiment: Experiment) -> dict[str, Any]:
    """Nearest class mean from texts drawn at random, the same ones for every side and size."""
    if not experiment.tasks.labelled:
        raise Missing("needs labelled texts")
    rows = []
    for task in experiment.tasks.labelled:
        draws = {
            **{f"{n} per class": [few(task.train_labels, n, seed) for seed in range(DRAWS)] for n in SHOTS},
            LONG_TAIL: [long_tail(task.train_labels, seed) for seed in range(DRAWS)],
        }
        found = {side: _accuracies(side, task, draws, experiment.dims) for side in experiment.compared}
        model = next(iter(found.values()))
        rows += [row for side, own in found.items() for row in _rows(task.name, side, own, model, experiment.width)]
    return {"rows": rows, "model": experiment.model.label, "base": experiment.base is not None, "draws": DRAWS}


def few(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of ``count`` texts of every class (all, where it has fewer), drawn at random, int64."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate([order[labels[order] == one][:count] for one in np.unique(labels)])


def long_tail(labels: np.ndarray, seed: int) -> np.ndarray:
    """Positions of texts, int64: the r-th class in a random order keeps 1/r of the largest class, 1 at least."""
    generator = np.random.default_rng(seed)
    order, classes = generator.permutation(len(labels)), generator.permutation(np.unique(labels))
    most = int(np.bincount(labels).max())
    counts = {int(one): max(1, round(most / rank)) for rank, one in enumerate(classes, start=1)}
    return np.concatenate([order[labels[order] == one][:count] for one, count in counts.items()])


def thirds(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Classes with most, fewer and fewest texts."""
    classes, counts = np.unique(labels, return_counts=True)
    return dict(zip((HEAD, MIDDLE, TAIL), np.array_split(classes[np.argsort(-counts, kind="stable")], 3), strict=True))


def class_means(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Label of the nearest class mean, int64 (n,), by scikit-learn's ``NearestCentroid``."""
    from sklearn.neighbors import NearestCentroid

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")  # it also measures spreads, which one text per class has not
        return np.asarray(NearestCentroid().fit(train, labels).predict(test))


Accuracies = dict[tuple[str, str, int], np.ndarray]
"""(what was drawn, part of the classes, size) -> accuracy of each draw, float64 (draws,)."""


def _accuracies(side: Side, task: Labelled, draws: dict[str, list[np.ndarray]], dims: tuple[int, ...]) -> Accuracies:
    train, test = task.embed(side)
    found: dict[tuple[str, str, int], list[float]] = {}
    for dim in dims:
        small_train, small_test = side.cut(train, dim), side.cut(test, dim)
        for name, drawn in draws.items():
            for chosen in drawn:
                labels = task.train_labels[chosen]
                right = class_means(small_train[chosen], labels, small_test) == task.test_labels
                parts = thirds(labels) if name == LONG_TAIL else {"all": np.unique(task.test_labels)}
                for part, classes in parts.items():
                    accuracy = right[np.isin(task.test_labels, classes)].mean()
                    found.setdefault((name, part, dim), []).append(float(accuracy))
    return {key: np.array(values) for key, values in found.items()}


def _rows(task: str, side: Side, own: Accuracies, model: Accuracies, width: int) -> list[dict[str, Any]]:
    """Accuracy, what it keeps of the full size's, and by how much the model is ahead of its control."""
    return [
        {
            **side.named(task),
            "drawn": drawn,
            "part": part,
            "dim": dim,
            **_interval(values),
            "gain": _interval(model[drawn, part, dim] - values) if side.control else None,
            "kept": _interval(values / np.maximum(own[drawn, part, width], 1e-9)),
        }
        for (drawn, part, dim), values in own.items()
    ]


def _interval(values: np.ndarray) -> dict[str, float]:
    found = bootstrap_mean(values)
    return {"value": round(100 * found.mean, 3), "low": round(100 * found.low, 3), "high": round(100 * found.high, 3)}


def draw(result: dict[str, Any]) -> list[Panel]:
    """Per task: few-shot with the model, and the parts of the long tail with both sides."""
    panels = []
    for task, rows in grouped(result["rows"], "task").items():
        model, base = pick(rows, side=result["model"]), pick(rows, control=True)
        drawn = [series(name, pick(model, drawn=name)) for name in _DRAWN]
        parts = [series(part, pick(model, part=part)) for part in (HEAD, TAIL)]
        if base:
            drawn += [series(f"{name}, base cut", pick(base, drawn=name), control=True) for name in _DRAWN[::2]]
            parts.append(series(f"{TAIL}, base cut", pick(base, part=TAIL), control=True))
        panels += [
            Panel(f"{task}: {name}", "accuracy (x100)", some)
            for name, some in zip(("few-shot", LONG_TAIL), (drawn, parts), strict=True)
        ]
    return panels


def tell(result: dict[str, Any]) -> Section:
    """What few labels cost at small sizes, and where the model beats its base in the tail."""
    model = pick(result["rows"], side=result["model"])
    dims = sorted({row["dim"] for row in model})
    lines = {
        drawn if part == "all" else f"{drawn}, {part}": rows
        for (drawn, part), rows in grouped(model, "drawn", "part").items()
    }
    gains = [row for row in result["rows"] if row["gain"] is not None and row["part"] == TAIL]
    small = [row for row in gains if row["dim"] != dims[-1]]
    shown = "; ".join(f"{row['task']} at {row['dim']}: {interval(row['gain'], 1, sign=True)}" for row in small)
    return Section(
        paper=(
            "Matryoshka vectors are up to 2 % more accurate in long-tail few-shot classification than ordinary ones"
            " (abstract), with the nearest class mean."
        ),
        ours=f"In the tail third, the model minus its base, points. {shown}."
        if gains
        else "There is no base to compare with.",
        verdict=_verdict(gains, model, dims),
        notes=(
            f"Nearest class mean. Mean of {listed(distinct(model, 'task'))}; {result['draws']} draws, the same for"
            " every side and size; intervals are over draws. In the long tail the r-th class has 1/r of the texts of"
            " the first."
        ),
        table=by_size(f"accuracy of {result['model']}", lines),
    )


def _verdict(gains: list[dict[str, Any]], model: list[dict[str, Any]], dims: list[int]) -> str:
    words = []
    for task, own in grouped(gains, "task").items():
        ahead, behind = ([row["dim"] for row in own if direction(row["gain"]) == sign] for sign in (1, -1))
        said = "as for images, the tail gains" if ahead and not behind else "unlike for images, the tail"
        parts = [f"at {listed(ahead)}"] if ahead and not behind else [f"gains at {listed(ahead)}"] if ahead else []
        parts += [f"loses at {listed(behind)}"] if behind else []
        words.append(f"{task}: {said} {' and '.join(parts) or 'gains nowhere'}, against the base cut to the same size")
    few_kept, many_kept = (
        np.mean([row["kept"]["value"] for row in pick(model, drawn=f"{n} per class", part="all", dim=dims[0])])
        for n in (SHOTS[0], SHOTS[-1])
    )
    comparison = "more than" if few_kept > many_kept + 1 else "less than" if few_kept < many_kept - 1 else "as much as"
    words.append(
        f"{dims[0]} numbers keep {few_kept:.0f} % of the full accuracy with one text per class, {comparison} the"
        f" {many_kept:.0f} % with {SHOTS[-1]}"
    )
    return ". ".join(words) + "."


QUESTION = Question("fewshot", "Few labels and a long tail", measure, draw, tell)
