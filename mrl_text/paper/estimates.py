"""Scores with intervals, in which every difference between sizes and sides is paired, and their form in JSON."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from mrl_text.eval.statistics import Estimate, Units, bootstrap, mean_estimate
from mrl_text.paper.experiment import Side
from mrl_text.paper.tasks import Labelled, Pairs, Retrieval, Tasks, correct, linear_probe

PROBE = "linear probe accuracy"
_RESAMPLES = 500

Key = TypeVar("Key", bound=Hashable)
Estimates = dict[tuple[str, str, int], Estimate]
"""(task, metric, size) -> score with its bootstrap replicates."""


def resampled(task: str, units: Mapping[Key, Units]) -> dict[Key, Estimate]:
    """Bootstrap scores of the same units; the draws depend on the task alone, so that sides and sizes pair."""
    return dict(zip(units, bootstrap(list(units.values()), task, resamples=_RESAMPLES), strict=True))


def scored(side: Side, tasks: Tasks, dims: Iterable[int], *, probes: bool = False) -> Estimates:
    """Score similarity, retrieval and classification at every size; paraphrases are left alone.

    Classification is scored by its nearest neighbour and, with ``probes``, by a linear probe besides.
    """
    sizes, found = list(dims), Estimates()
    chosen: list[Pairs | Retrieval | Labelled] = [*tasks.similar, *tasks.searches, *tasks.labelled]
    for task in chosen:
        measured = {task.metric: task.score(side, sizes)}
        if probes and isinstance(task, Labelled):
            predicted = task.predict(side, sizes, linear_probe)
            measured[PROBE] = {dim: correct(labels, task.test_labels) for dim, labels in predicted.items()}
        for metric, by_dim in measured.items():
            found |= {(task.name, metric, dim): one for dim, one in resampled(task.name, by_dim).items()}
    return found


def averaged(several: Sequence[Estimates]) -> Estimates:
    """Mean over seeds, score by score."""
    return {key: mean_estimate([one[key] for one in several]) for key in several[0]}


def over_tasks(found: Estimates) -> dict[int, Estimate]:
    """Size -> mean over tasks and metrics; every one counts the same."""
    dims = dict.fromkeys(dim for _, _, dim in found)
    return {dim: mean_estimate([one for key, one in found.items() if key[2] == dim]) for dim in dims}


def as_json(estimate: Estimate) -> dict[str, float | None]:
    """Value and 95 % interval x100, the interval null where there is none; 0 / 0 counts as 0."""
    if math.isnan(estimate.value):
        return {"value": 0.0, "low": None, "high": None}
    interval = estimate.interval()
    bounds = (None, None) if interval is None else (interval.low, interval.high)
    rounded = [None if one is None else round(100 * one, 3) for one in (estimate.value, *bounds)]
    return dict(zip(("value", "low", "high"), rounded, strict=True))


def as_rows(side: Side, found: Estimates) -> list[dict[str, Any]]:
    """Estimates as rows of an answer."""
    return [
        {**side.named(task), "metric": metric, "dim": dim, **as_json(one)} for (task, metric, dim), one in found.items()
    ]
