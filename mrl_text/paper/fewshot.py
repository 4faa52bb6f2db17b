"""Few labelled texts per class, and many for some classes but few for most, by size."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrl_text.eval.statistics import bootstrap_mean
from mrl_text.paper.charts import Panel, Series
from mrl_text.paper.data import Labelled
from mrl_text.paper.measures import class_means, vectors_of_labelled
from mrl_text.paper.tables import direction, interval, listed, markdown, pick
from mrl_text.paper.world import Missing, Question, Section, Side, World

SHOTS = (1, 2, 5, 10, 20)
DRAWS = 10
_DRAWN = ("1 per class", "5 per class", "20 per class")
HEAD, MIDDLE, TAIL = "head third", "middle third", "tail third"


def measure(world: World) -> dict[str, Any]:
    """Nearest class mean from texts drawn at random, the same ones for every side and size.

    Raises:
        Missing: no labelled texts.
    """
    if not world.data.labelled:
        raise Missing("needs labelled texts")
    rows = []
    for task in world.data.labelled:
        draws = {
            **{f"{n} per class": [few(task.train_labels, n, seed) for seed in range(DRAWS)] for n in SHOTS},
            "long tail": [long_tail(task.train_labels, seed) for seed in range(DRAWS)],
        }
        accuracies = {side.name: _accuracies(side, task, draws, world.dims) for side in world.compared}
        rows += _rows(world, task.name, accuracies)
    return {"rows": rows, "model": world.model.label, "base": world.base is not None, "draws": DRAWS}


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


def thirds(labels: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Classes with most, fewer and fewest chosen texts."""
    classes, counts = np.unique(labels[chosen], return_counts=True)
    return dict(zip((HEAD, MIDDLE, TAIL), np.array_split(classes[np.argsort(-counts, kind="stable")], 3), strict=True))


Accuracies = dict[tuple[str, str, int], list[float]]
"""(what was drawn, part of the classes, size) -> accuracy of each draw."""


def _accuracies(side: Side, task: Labelled, draws: dict[str, list[np.ndarray]], dims: tuple[int, ...]) -> Accuracies:
    train, test = vectors_of_labelled(side.encoder, task)
    found: Accuracies = {}
    for dim in dims:
        cut_train, cut_test = side.cut(train, dim), side.cut(test, dim)
        for name, drawn in draws.items():
            for chosen in drawn:
                right = class_means(cut_train[chosen], task.train_labels[chosen], cut_test) == task.test_labels
                parts = (
                    thirds(task.train_labels, chosen) if name == "long tail" else {"all": np.unique(task.test_labels)}
                )
                for part, classes in parts.items():
                    members = np.isin(task.test_labels, classes)
                    found.setdefault((name, part, dim), []).append(float(right[members].mean()))
    return found


def _rows(world: World, task: str, accuracies: dict[str, Accuracies]) -> list[dict[str, Any]]:
    rows = []
    model = accuracies[world.model.label]
    for side in world.compared:
        for (drawn, part, dim), values in accuracies[side.name].items():
            gain = _interval(np.subtract(model[drawn, part, dim], values)) if side.control else None
            full = accuracies[side.name][drawn, part, world.width]
            kept = _interval(np.divide(values, np.maximum(full, 1e-9)))
            rows.append({
                "task": task, "side": side.name, "control": side.control, "drawn": drawn, "part": part, "dim": dim,
                **_interval(np.array(values)), "gain": gain, "kept": kept,
            })  # fmt: skip
    return rows


def _interval(values: np.ndarray) -> dict[str, float]:
    found = bootstrap_mean(values)
    return {"value": round(100 * found.mean, 3), "low": round(100 * found.low, 3), "high": round(100 * found.high, 3)}


def draw(result: dict[str, Any]) -> list[Panel]:
    """Per task: few-shot with the model, and the parts of the long tail with both sides."""
    panels = []
    for task in dict.fromkeys(row["task"] for row in result["rows"]):
        chosen = pick(result["rows"], task=task, side=result["model"])
        base = pick(result["rows"], task=task, control=True)
        shots = [row for row in chosen if row["drawn"] != "long tail"]
        lines = [_series(name, pick(shots, drawn=name)) for name in _DRAWN]
        lines += [_series(f"{name}, base cut", pick(base, drawn=name), True) for name in _DRAWN[::2] if base]
        panels.append(Panel(f"{task}: few-shot", "accuracy (x100)", lines))
        lines = [_series(part, pick(chosen, part=part)) for part in (HEAD, TAIL)]
        lines += [_series(f"{TAIL}, base cut", pick(base, part=TAIL), True)] if base else []
        panels.append(Panel(f"{task}: long tail", "accuracy (x100)", lines))
    return panels


def _series(name: str, rows: list[dict[str, Any]], control: bool = False) -> Series:
    return Series(name, [(row["dim"], row["value"], row["low"], row["high"]) for row in rows], control)


def tell(result: dict[str, Any]) -> Section:
    """What few labels cost at small sizes, and where the model beats its base in the tail."""
    model = pick(result["rows"], side=result["model"])
    dims = sorted({row["dim"] for row in model})
    tasks = listed(dict.fromkeys(row["task"] for row in model))
    body = []
    for drawn, part in dict.fromkeys((row["drawn"], row["part"]) for row in model):
        means = [np.mean([row["value"] for row in pick(model, drawn=drawn, part=part, dim=dim)]) for dim in dims]
        body.append([drawn if part == "all" else f"{drawn}, {part}", *(f"{mean:.1f}" for mean in means)])
    gains = [row for row in result["rows"] if row["gain"] is not None and row["part"] == TAIL]
    return Section(
        paper=(
            "Matryoshka vectors are up to 2 % more accurate in long-tail few-shot classification than ordinary ones"
            " (abstract), with the nearest class mean."
        ),
        ours=_ours(gains, dims),
        verdict=_verdict(gains, model, dims),
        notes=(
            f"Nearest class mean. Mean of {tasks}; {result['draws']} draws, the same for every side and size; intervals"
            " are over draws. In the long tail the r-th class has 1/r of the texts of the first."
        ),
        table=markdown([f"accuracy of {result['model']}", *dims], body),
    )


def _ours(gains: list[dict[str, Any]], dims: list[int]) -> str:
    if not gains:
        return "There is no base to compare with."
    shown = [
        f"{row['task']} at {row['dim']}: {interval(row['gain'], 1, sign=True)}"
        for row in gains
        if row["dim"] != dims[-1]
    ]
    return f"In the tail third, the model minus its base, points. {'; '.join(shown)}."


def _verdict(gains: list[dict[str, Any]], model: list[dict[str, Any]], dims: list[int]) -> str:
    words = []
    for task in dict.fromkeys(row["task"] for row in gains):
        own = pick(gains, task=task)
        ahead, behind = ([row["dim"] for row in own if direction(row["gain"]) == sign] for sign in (1, -1))
        agrees = "as for images, the tail gains" if ahead and not behind else "unlike for images, the tail"
        parts = [f"at {listed(ahead)}"] if ahead and not behind else [f"gains at {listed(ahead)}"] if ahead else []
        parts += [f"loses at {listed(behind)}"] if behind else []
        words.append(
            f"{task}: {agrees} {' and '.join(parts) or 'gains nowhere'}, against the base cut to the same size"
        )
    kept = {n: _kept(model, f"{n} per class", dims[0]) for n in (SHOTS[0], SHOTS[-1])}
    few_kept, many_kept = kept[SHOTS[0]], kept[SHOTS[-1]]
    comparison = "more than" if few_kept > many_kept + 1 else "less than" if few_kept < many_kept - 1 else "as much as"
    words.append(
        f"{dims[0]} numbers keep {few_kept:.0f} % of the full accuracy with one text per class, {comparison} the"
        f" {many_kept:.0f} % with {SHOTS[-1]}"
    )
    return ". ".join(words) + "."


def _kept(model: list[dict[str, Any]], drawn: str, dim: int) -> float:
    return float(np.mean([row["kept"]["value"] for row in pick(model, drawn=drawn, part="all", dim=dim)]))


QUESTION = Question("fewshot", "Few labels and a long tail", measure, draw, tell)
