"""Which classes survive truncation, and whether groups of classes do where classes do not."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrl_text.figures import Panel
from mrl_text.paper.estimates import as_json, resampled
from mrl_text.paper.experiment import Experiment, Missing, Side
from mrl_text.paper.page import Question, Section
from mrl_text.paper.tasks import Labelled, correct, nearest
from mrl_text.paper.wording import bounds, by_size, distinct, interval, listed, pick, series
from mrl_text.truncation import truncate

LEVELS = CLASS, SUPER, CHANCE = "class", "superclass", "random groups of classes"
_FEWEST = 10
_SHOWN = 5
_SHUFFLES = 20


def measure(experiment: Experiment) -> dict[str, Any]:
    """Accuracy of classes, of their groups, and of random groups of the same sizes, by size."""
    tasks = [task for task in experiment.tasks.labelled if len(task.classes) >= _FEWEST]
    if not tasks:
        raise Missing(f"needs labelled texts of {_FEWEST} classes or more")
    rows, classes, groups = [], {}, {}
    for task in tasks:
        group_of = superclasses(truncate(task.embed(experiment.compared[0])[0]), task.train_labels)
        groups[task.name] = [
            [task.classes[one] for one in np.flatnonzero(group_of == group)] for group in range(group_of.max() + 1)
        ]
        for side in experiment.compared:
            predicted = task.predict(side, experiment.dims, nearest)
            rows += _rows(side, task, predicted, group_of)
            if not side.control:
                classes[task.name] = _survival(task, predicted[experiment.dims[0]], predicted[experiment.width])
    return {"rows": rows, "classes": classes, "groups": groups, "model": experiment.model.label}


def superclasses(vectors: np.ndarray, labels: np.ndarray, count: int | None = None) -> np.ndarray:
    """Group classes by the cosine of their means, average linkage (scikit-learn's ``AgglomerativeClustering``).

    Args:
        vectors: unit vectors of training texts (n, width).
        labels: int64 (n,), 0 to the number of classes.
        count: groups; None is the root of the number of classes, rounded.

    Returns:
        Group of each class, int64 (classes,).
    """
    from sklearn.cluster import AgglomerativeClustering

    classes = int(labels.max()) + 1
    means = np.stack([vectors[labels == one].mean(axis=0) for one in range(classes)])
    wanted = count or max(2, round(classes**0.5))
    found = AgglomerativeClustering(wanted, metric="cosine", linkage="average").fit_predict(means)
    return np.asarray(found, dtype=np.int64)


def _rows(side: Side, task: Labelled, predicted: dict[int, np.ndarray], group_of: np.ndarray) -> list[dict[str, Any]]:
    units = {}
    for dim, found in predicted.items():
        units[CLASS, dim] = correct(found, task.test_labels)
        units[SUPER, dim] = correct(group_of[found], group_of[task.test_labels])
    drawn, full = resampled(task.name, units), max(predicted)
    values = {
        (level, dim): as_json(one) | {"kept": as_json(one / drawn[level, full])} for (level, dim), one in drawn.items()
    }
    shuffles = [np.random.default_rng(seed).permutation(group_of) for seed in range(_SHUFFLES)]
    for dim, found in predicted.items():
        chance = np.mean([shuffled[found] == shuffled[task.test_labels] for shuffled in shuffles])
        values[CHANCE, dim] = {"value": round(100 * float(chance), 3), "low": None, "high": None, "kept": None}
    return [{**side.named(task.name), "level": level, "dim": dim, **one} for (level, dim), one in values.items()]


def _survival(task: Labelled, small: np.ndarray, full: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy of every class with the labels found at the smallest and the full size, the largest loss first."""
    from sklearn.metrics import recall_score

    numbers, counts = np.unique(task.test_labels, return_counts=True)
    shares = [recall_score(task.test_labels, found, labels=numbers, average=None) for found in (small, full)]
    rows = [
        {"class": task.classes[number], "small": round(100 * low, 1), "full": round(100 * high, 1), "texts": count}
        for number, count, low, high in zip(numbers, counts.tolist(), *map(np.ndarray.tolist, shares), strict=True)
    ]
    return sorted(rows, key=lambda row: (row["small"] - row["full"], row["class"]))


def draw(result: dict[str, Any]) -> list[Panel]:
    """One panel per task: accuracy of classes, superclasses and random groups of the model."""
    panels = []
    for task, groups in result["groups"].items():
        chosen = pick(result["rows"], task=task, side=result["model"])
        lines = [series(level, pick(chosen, level=level), control=level == CHANCE) for level in LEVELS]
        panels.append(Panel(f"{task}: {len(groups)} groups", "1-NN accuracy (x100)", lines))
    return panels


def tell(result: dict[str, Any]) -> Section:
    """What classes and groups keep at the smallest size, and which classes fall most."""
    model, groups = pick(result["rows"], side=result["model"]), result["groups"]
    dims = sorted(distinct(model, "dim"))
    lines = {f"{task}: {level}": pick(model, task=task, level=level) for task in groups for level in LEVELS}
    ours, verdicts = zip(*(_words(task, groups[task], pick(model, task=task), dims) for task in groups), strict=True)
    return Section(
        paper=(
            "Small sizes confuse classes within the same superclass (the authors' notes on their Grad-CAM figure: rock"
            " python against boa constrictor); superclass accuracy falls far less than class accuracy."
        ),
        ours=" ".join(ours),
        verdict=". ".join(verdicts) + ".",
        notes=(
            "1-NN on training texts. Groups come from clustering the class means of the model's full width, so they"
            " favour what the full width sees. Random groups of the same sizes show how much of a group's accuracy is"
            " owed to there being fewer groups than classes."
        ),
        table="\n\n".join([by_size("accuracy", lines), _classes(result, dims)]),
    )


def _words(task: str, groups: list[list[str]], rows: list[dict[str, Any]], dims: list[int]) -> tuple[str, str]:
    """What the smallest size keeps of the accuracy over classes and groups of a task, and what that says."""
    kept = {level: pick(rows, level=level, dim=dims[0])[0]["kept"] for level in (CLASS, SUPER)}
    small, full = (pick(rows, level=CHANCE, dim=dim)[0]["value"] for dim in (dims[0], dims[-1]))
    chance = 100 * small / max(full, 1e-9)
    ours = (
        f"{task}: {dims[0]} numbers keep {interval(kept[CLASS])} % of the accuracy over {sum(map(len, groups))} classes"
        f" and {interval(kept[SUPER])} % over {len(groups)} superclasses."
    )
    numbers = (
        f"{dims[0]} numbers keep {kept[SUPER]['value']:.0f} % of superclass and {kept[CLASS]['value']:.0f} % of class"
        " accuracy"
    )
    if bounds(kept[SUPER])[0] <= bounds(kept[CLASS])[1]:
        return ours, f"{task}: unlike for images, superclasses survive no better than classes; {numbers}"
    if bounds(kept[SUPER])[0] > chance:
        return ours, f"{task}: as for images, superclasses survive; {numbers}, {chance:.0f} % of random groups"
    return ours, f"{task}: text differs; {numbers}, but random groups of classes keep {chance:.0f} %, too"


def _classes(result: dict[str, Any], dims: list[int]) -> str:
    parts = []
    for task, classes in result["classes"].items():
        fallen, kept = classes[:_SHOWN], [row for row in classes[::-1] if row["full"] > 0][:_SHOWN]
        fall, survive = (
            listed(f"`{row['class']}` {row['full']:.0f} → {row['small']:.0f}" for row in some)
            for some in (fallen, kept)
        )
        parts.append(f"{task}, accuracy at {dims[-1]} → {dims[0]}. Fall most: {fall}. Survive best: {survive}.")
    return "\n\n".join(parts)


QUESTION = Question("superclasses", "Classes and superclasses that survive", measure, draw, tell)
