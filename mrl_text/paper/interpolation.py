"""Sizes that nobody trained for: does quality run smoothly between those that were?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mrl_text.figures import Panel
from mrl_text.paper import published
from mrl_text.paper.estimates import as_rows, scored
from mrl_text.paper.experiment import Experiment, Missing
from mrl_text.paper.page import Question, Section
from mrl_text.paper.wording import bounds, grouped, listed, panels_of_tasks, pick

STEP = 8
"""Numbers between two sizes that are measured."""


def measure(experiment: Experiment) -> dict[str, Any]:
    """Score the model and its base at every eighth size."""
    if len(experiment.dims) < 2:
        raise Missing("needs a model with at least two sizes")
    finest = max(STEP, STEP * math.ceil(experiment.width / STEP / 64))  # 64 sizes at most: wide models take wider steps
    sizes = sorted({*range(finest, experiment.width + 1, finest), *experiment.dims})
    found = [row for side in experiment.compared for row in as_rows(side, scored(side, experiment.tasks, sizes))]
    return {"rows": found, "trained": list(experiment.dims), "model": experiment.model.label, "step": finest}


def shortfalls(curve: Mapping[int, float], trained: list[int]) -> dict[int, float]:
    """Untrained size -> score minus the straight line over log2(size) between its trained neighbours.

    Of ``trained`` those sizes count that ``curve`` has. Sizes outside their range are left out.
    """
    known = sorted(set(trained) & set(curve))
    found = {}
    for dim in sorted(set(curve) - set(known)):
        below, above = [one for one in known if one < dim], [one for one in known if one > dim]
        if below and above:
            low, high = below[-1], above[0]
            share = math.log2(dim / low) / math.log2(high / low)
            found[dim] = curve[dim] - (curve[low] + share * (curve[high] - curve[low]))
    return found


def draw(result: dict[str, Any]) -> list[Panel]:
    """One panel per task."""
    return panels_of_tasks(result["rows"], markers=False)


def tell(result: dict[str, Any]) -> Section:
    """The worst untrained size against the line between its trained neighbours, images beside text."""
    nearest = published.NEAREST_NEIGHBOUR["MRL"]
    images = shortfalls({**nearest, **published.UNTRAINED}, list(nearest))
    worst_image = min(images, key=lambda dim: images[dim])
    found, broken = {}, []
    for (task, metric), rows in grouped(pick(result["rows"], side=result["model"]), "task", "metric").items():
        own = {row["dim"]: row for row in rows}
        below = shortfalls({dim: row["value"] for dim, row in own.items()}, result["trained"])
        if below:
            worst = min(below, key=lambda dim: below[dim])
            found[task] = (metric, worst, below[worst])
        broken += [f"{task} at {dim}" for dim, gap in below.items() if bounds(own[dim])[1] < own[dim]["value"] - gap]
    verdict = (
        f"Text differs: below that line with confidence are {listed(broken)}."
        if broken
        else "As for images, quality runs smoothly between the trained sizes: no size is below that line by more than"
        " its interval."
    )
    return Section(
        paper=(
            "Sizes that were not trained interpolate: 1-nearest-neighbour accuracy 65.9 at 12, between 62.2 at 8 and"
            f" 67.9 at 16; the worst untrained size is {images[worst_image]:+z.2f} points ({worst_image}) from the"
            " straight line between its trained neighbours over log2 of the size (interpolation plot data)."
        ),
        ours="Worst untrained size against the same line: "
        + "; ".join(f"{task} ({metric}) {short:+z.2f} at {dim}" for task, (metric, dim, short) in found.items())
        + ".",
        verdict=verdict,
        notes=(
            f"Every {result['step']} numbers; trained for {listed(result['trained'])}. The shaded band is the 95 %"
            " interval over items."
        ),
    )


QUESTION = Question("interpolation", "Sizes between the trained ones", measure, draw, tell)
