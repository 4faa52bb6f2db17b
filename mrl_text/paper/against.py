"""Matryoshka vectors against vectors made for one size alone, PCA and random dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrl_text.adapt import Adaptation
from mrl_text.adapt import fit as fit_adaptation
from mrl_text.figures import Panel
from mrl_text.paper import published
from mrl_text.paper.estimates import Estimates, as_json, as_rows, averaged, over_tasks, scored
from mrl_text.paper.experiment import FIT_STEPS, Cut, Experiment, Model, Side
from mrl_text.paper.question import Question, Section
from mrl_text.paper.tasks import Labelled
from mrl_text.paper.wording import by_size, direction, distinct, interval, listed, panels_of_tasks, pick
from mrl_text.truncation import truncate

NESTED, SINGLE, PCA, RANDOM = "one rotation for all sizes", "a rotation per size", "PCA", "random dimensions"


def measure(experiment: Experiment) -> dict[str, Any]:
    """Score every side at every size; the rotation for all sizes and those for one are fitted on the same texts."""
    sizes, base = experiment.dims, experiment.base
    rows, gains = [], []
    for side in experiment.compared:
        rows += as_rows(side.name, _scored(experiment, side), control=side.control)
    if base is not None and experiment.train:
        nested, single = _rotated(experiment, base)
        rows += as_rows(NESTED, nested) + as_rows(SINGLE, single)
        for_all, alone = over_tasks(nested), over_tasks(single)
        gains = [{"dim": dim, **as_json(for_all[dim] - alone[dim])} for dim in sizes[:-1]]
        pca = fit_adaptation(experiment.train_vectors(), method="pca")
        rows += as_rows(PCA, _scored(experiment, Side(PCA, base, pca.transform)), control=True)
    drawn = [Side(RANDOM, base or experiment.model, _random(seed)) for seed in range(experiment.seeds)]
    rows += as_rows(RANDOM, averaged([_scored(experiment, side) for side in drawn]), control=True)
    for model in experiment.independent:
        own = scored(Side(model.label, model), experiment.tasks, sorted({*model.dims} & {*sizes}), probes=True)
        rows += as_rows(f"{model.label}, trained for its size", own)
    return {"rows": rows, "gains": gains, "texts": len(experiment.train), "model": experiment.model.label,
            "seeds": experiment.seeds}  # fmt: skip


def _scored(experiment: Experiment, side: Side) -> Estimates:
    return scored(side, experiment.tasks, experiment.dims, probes=True)


def _rotated(experiment: Experiment, base: Model) -> tuple[Estimates, Estimates]:
    """One rotation for all sizes, and one for each size alone, mean over seeds."""
    nested, single = [], []
    for seed in range(experiment.seeds):
        whole = experiment.fit(experiment.dims, seed=seed)
        nested.append(_scored(experiment, Side(NESTED, base, whole.transform)))
        each = {dim: experiment.fit([dim, experiment.width], seed=seed) for dim in experiment.dims[:-1]}
        single.append(_scored(experiment, Side(SINGLE, base, _each(each))))
    return averaged(nested), averaged(single)


def _each(fitted: dict[int, Adaptation]) -> Cut:
    def cut(vectors: np.ndarray, dim: int) -> np.ndarray:
        return fitted[dim].transform(vectors, dim) if dim in fitted else truncate(vectors, dim)

    return cut


def _random(seed: int) -> Cut:
    def cut(vectors: np.ndarray, dim: int) -> np.ndarray:
        chosen = np.random.default_rng(seed).permutation(vectors.shape[1])[:dim]
        return truncate(vectors[:, chosen])

    return cut


def draw(result: dict[str, Any]) -> list[Panel]:
    """One panel per task and metric."""
    return panels_of_tasks(result["rows"])


def tell(result: dict[str, Any]) -> Section:
    """Nested against independent; what is kept at small sizes by every side, images beside text."""
    return Section(
        paper=(
            "Matryoshka vectors are at least as accurate as models trained for one size alone: 1-nearest-neighbour"
            f" accuracy {_images('MRL', 16)} against {_images('independent', 16)} at 16 numbers and"
            f" {_images('MRL', 128)} against {_images('independent', 128)} at 128. An ordinary model cut by SVD or to"
            f" random dimensions collapses: {_images('SVD', 16)} and {_images('random', 16)} at 16 (1-NN plot data)."
        ),
        ours=_ours(result),
        verdict=_verdict(result),
        notes=(
            f"The rotations stand for trained models: the encoder is frozen, and {FIT_STEPS} steps on"
            f" {result['texts']:,} texts decide what the first numbers say, for all sizes together or for one size"
            f" alone, over {result['seeds']} seeds. PCA is fitted on the same texts, uncentred. Random dimensions are"
            " the mean of as many draws. Intervals are of the items of the tasks. The linear probe is"
            " linear discriminant analysis."
        ),
        table=_table(result),
    )


def _images(side: str, dim: int) -> str:
    return f"{published.NEAREST_NEIGHBOUR[side][dim]:.1f}"


def _ours(result: dict[str, Any]) -> str:
    gains = result["gains"]
    if not gains:
        return "No texts to fit on were given, so only cuts are compared."
    shown = "; ".join(f"{gain['dim']}: {interval(gain, 2, sign=True)}" for gain in gains)
    return f"One rotation for all sizes minus a rotation fitted for the size alone, points over all tasks. {shown}."


def _verdict(result: dict[str, Any]) -> str:
    gains = result["gains"]
    lost = [gain["dim"] for gain in gains if direction(gain) < 0]
    won = [gain["dim"] for gain in gains if direction(gain) > 0]
    words = []
    if gains and lost:
        worst = min(gains, key=lambda gain: gain["value"])
        words.append(
            f"Text differs at {listed(lost)}: fitting all sizes at once costs up to {-worst['value']:.2f} points there"
            + (f", and gains at {listed(won)}" if won else "")
        )
    elif gains:
        words.append(
            f"As for images, nesting costs nothing{f' and gains at {listed(won)}' if won else ''}: no size loses with"
            " confidence"
        )
    if kept := _kept(result, RANDOM):
        dim, share = min(kept.items())
        images = _kept_images("random", dim)
        if images is not None:
            words.append(
                f"{dim} random numbers keep {share:.0f} % of the 1-NN accuracy for text, {images:.0f} % for images:"
                + (" ordinary text vectors are far easier to cut" if share > images + 10 else " much the same")
            )
    return ". ".join(words) + "." if words else "Not comparable with what was given."


def _kept(result: dict[str, Any], side: str) -> dict[int, float]:
    """Size -> share of the full width's 1-NN accuracy, in percent, mean over tasks."""
    chosen = pick(result["rows"], side=side, metric=Labelled.metric)
    by_dim = {row["dim"]: np.mean([one["value"] for one in chosen if one["dim"] == row["dim"]]) for row in chosen}
    full = by_dim.get(max(by_dim, default=0), 0)
    return {dim: float(100 * one / full) for dim, one in by_dim.items()} if full else {}


def _kept_images(side: str, dim: int) -> float | None:
    table = published.NEAREST_NEIGHBOUR[side]
    return 100 * table[dim] / table[published.SIZES[-1]] if dim in table else None


def _table(result: dict[str, Any]) -> str:
    """1-NN accuracy by size, text beside images."""
    chosen = pick(result["rows"], metric=Labelled.metric)
    if not chosen:
        return ""
    lines = {f"text: {side}": pick(chosen, side=side) for side in distinct(chosen, "side")}
    names = {"MRL": "MRL", "independent": "trained for the size", "SVD": "SVD", "random": "random dimensions"}
    for side, name in names.items():
        scores = published.NEAREST_NEIGHBOUR[side]
        lines[f"images: {name}"] = [{"dim": dim, "value": score} for dim, score in scores.items()]
    head = f"1-NN accuracy; text is the mean of {listed(distinct(chosen, 'task'))}"
    return by_size(head, lines, dims=sorted(distinct(chosen, "dim")))


QUESTION = Question("against", "Against models of one size, PCA and random dimensions", measure, draw, tell)
