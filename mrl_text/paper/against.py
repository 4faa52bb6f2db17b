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
from mrl_text.paper.page import Question, Section
from mrl_text.paper.tasks import Labelled
from mrl_text.paper.wording import by_size, direction, distinct, grouped, interval, listed, panels_of_tasks, pick
from mrl_text.truncation import truncate

NESTED, SINGLE, PCA, RANDOM = "one rotation for all sizes", "a rotation per size", "PCA", "random dimensions"


def measure(experiment: Experiment) -> dict[str, Any]:
    """Score every side at every size; the rotation for all sizes and those for one are fitted on the same texts."""
    sizes, base = experiment.dims, experiment.base
    rows, gains = [], []
    for side in experiment.compared:
        rows += as_rows(side, _scored(experiment, side))
    if base is not None and experiment.train:
        nested, single = _rotated(experiment, base)
        rows += as_rows(Side(NESTED, base), nested) + as_rows(Side(SINGLE, base), single)
        for_all, alone = over_tasks(nested), over_tasks(single)
        gains = [{"dim": dim, **as_json(for_all[dim] - alone[dim])} for dim in sizes[:-1]]
        pca = Side(PCA, base, fit_adaptation(experiment.train_vectors(), method="pca").transform, control=True)
        rows += as_rows(pca, _scored(experiment, pca))
    drawn = [Side(RANDOM, base or experiment.model, _random(seed), True) for seed in range(experiment.seeds)]
    rows += as_rows(drawn[0], averaged([_scored(experiment, side) for side in drawn]))
    for model in experiment.independent:
        side = Side(f"{model.label}, trained for its size", model)
        rows += as_rows(side, scored(side, experiment.tasks, sorted({*model.dims} & {*sizes}), probes=True))
    return {
        "rows": rows,
        "gains": gains,
        "texts": len(experiment.train),
        "model": experiment.model.label,
        "seeds": experiment.seeds,
    }


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
    random, images = pick(result["rows"], side=RANDOM, metric=Labelled.metric), published.NEAREST_NEIGHBOUR["random"]
    dims = sorted(distinct(random, "dim"))
    if len(dims) > 1 and dims[0] in images:
        small, full = (np.sum([row["value"] for row in pick(random, dim=dim)]) for dim in (dims[0], dims[-1]))
        text_kept, images_kept = 100 * small / max(full, 1e-9), 100 * images[dims[0]] / images[published.SIZES[-1]]
        words.append(
            f"{dims[0]} random numbers keep {text_kept:.0f} % of the 1-NN accuracy for text, {images_kept:.0f} % for"
            " images:"
            + (" ordinary text vectors are far easier to cut" if text_kept > images_kept + 10 else " much the same")
        )
    return ". ".join(words) + "." if words else "Not comparable with what was given."


def _table(result: dict[str, Any]) -> str:
    """1-NN accuracy by size, text beside images."""
    chosen = pick(result["rows"], metric=Labelled.metric)
    if not chosen:
        return ""
    lines = {f"text: {side}": rows for side, rows in grouped(chosen, "side").items()}
    names = {"MRL": "MRL", "independent": "trained for the size", "SVD": "SVD", "random": "random dimensions"}
    for side, name in names.items():
        scores = published.NEAREST_NEIGHBOUR[side]
        lines[f"images: {name}"] = [{"dim": dim, "value": score} for dim, score in scores.items()]
    head = f"1-NN accuracy; text is the mean of {listed(distinct(chosen, 'task'))}"
    return by_size(head, lines, dims=sorted(distinct(chosen, "dim")))


QUESTION = Question("against", "Against models of one size, PCA and random dimensions", measure, draw, tell)
