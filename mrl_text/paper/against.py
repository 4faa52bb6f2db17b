"""Matryoshka vectors against vectors made for one size alone, PCA and random dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrl_text.adapt import Adaptation
from mrl_text.adapt import fit as fit_adaptation
from mrl_text.paper import published
from mrl_text.paper.charts import Panel
from mrl_text.paper.measures import NEAREST, Estimates, averaged, estimates, over_tasks, rows, score, value
from mrl_text.paper.tables import direction, interval, listed, markdown, number, panels, pick
from mrl_text.paper.world import FIT_STEPS, Question, Section, Side, World
from mrl_text.truncation import truncate

NESTED, SINGLE, PCA, RANDOM = "one rotation for all sizes", "a rotation per size", "PCA", "random dimensions"


def measure(world: World) -> dict[str, Any]:
    """Score every side at every size; the rotation for all sizes and those for one are fitted on the same texts."""
    sizes = world.dims
    found = [rows(side.name, _scored(side, world, sizes), control=side.control) for side in world.compared]
    gains: list[dict[str, Any]] = []
    if world.base is not None and world.train:
        nested, single = _fitted(world)
        found += [rows(NESTED, nested), rows(SINGLE, single)]
        by_size = over_tasks(nested), over_tasks(single)
        gains = [{"dim": dim, **value(by_size[0][dim] - by_size[1][dim])} for dim in sizes[:-1]]
        pca = fit_adaptation(world.train_vectors(), method="pca")
        found.append(rows(PCA, _scored(Side(PCA, world.base, pca.transform), world, sizes), control=True))
    side = world.base or world.model
    drawn = [_scored(Side(RANDOM, side, _random(seed)), world, sizes) for seed in range(world.seeds)]
    found.append(rows(RANDOM, averaged(drawn), control=True))
    for one in world.independent:
        own = [dim for dim in one.dims if dim in sizes]
        found.append(rows(f"{one.label}, trained for its size", _scored(Side(one.label, one), world, own)))
    return {"rows": [row for some in found for row in some], "gains": gains, "texts": len(world.train),
            "model": world.model.label, "seeds": world.seeds}  # fmt: skip


def _scored(side: Side, world: World, dims: tuple[int, ...] | list[int]) -> Estimates:
    return estimates(score(side, world.data, dims, probes=True))


def _fitted(world: World) -> tuple[Estimates, Estimates]:
    """One rotation for all sizes, and one for each size alone, over seeds."""
    assert world.base is not None
    nested, single = [], []
    for seed in range(world.seeds):
        whole = world.fit(world.dims, seed=seed)
        nested.append(_scored(Side(NESTED, world.base, whole.transform), world, world.dims))
        each = {dim: world.fit([dim, world.width], seed=seed) for dim in world.dims[:-1]}
        single.append(_scored(Side(SINGLE, world.base, _each(each)), world, world.dims))
    return averaged(nested), averaged(single)


def _each(fitted: dict[int, Adaptation]) -> Any:
    def cut(vectors: np.ndarray, dim: int) -> np.ndarray:
        return fitted[dim].transform(vectors, dim) if dim in fitted else truncate(vectors, dim)

    return cut


def _random(seed: int) -> Any:
    def cut(vectors: np.ndarray, dim: int) -> np.ndarray:
        chosen = np.random.default_rng(seed).permutation(vectors.shape[1])[:dim]
        return truncate(vectors[:, chosen])

    return cut


def draw(result: dict[str, Any]) -> list[Panel]:
    """One panel per task and metric."""
    return panels(result["rows"])


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
    kept = {side: _kept(result, side) for side in dict.fromkeys(row["side"] for row in result["rows"])}
    if kept.get(RANDOM):
        dim, share = min(kept[RANDOM].items())
        images = _kept_images("random", dim)
        if images is not None and share is not None:
            words.append(
                f"{dim} random numbers keep {share:.0f} % of the 1-NN accuracy for text, {images:.0f} % for images:"
                + (" ordinary text vectors are far easier to cut" if share > images + 10 else " much the same")
            )
    return ". ".join(words) + "." if words else "Not comparable with what was given."


def _kept(result: dict[str, Any], side: str) -> dict[int, float]:
    """Size -> share of the full width's 1-NN accuracy, in percent, mean over tasks."""
    chosen = pick(result["rows"], side=side, metric=NEAREST)
    by_dim = {row["dim"]: np.mean([one["value"] for one in chosen if one["dim"] == row["dim"]]) for row in chosen}
    full = by_dim.get(max(by_dim, default=0), 0)
    return {dim: float(100 * one / full) for dim, one in by_dim.items()} if full else {}


def _kept_images(side: str, dim: int) -> float | None:
    table = published.NEAREST_NEIGHBOUR[side]
    return 100 * table[dim] / table[published.SIZES[-1]] if dim in table else None


def _table(result: dict[str, Any]) -> str:
    """1-NN accuracy by size, text beside images."""
    chosen = pick(result["rows"], metric=NEAREST)
    dims = sorted({row["dim"] for row in chosen})
    if not dims:
        return ""
    body = []
    for side in dict.fromkeys(row["side"] for row in chosen):
        means = [[one["value"] for one in chosen if one["side"] == side and one["dim"] == dim] for dim in dims]
        body.append([f"text: {side}", *(number(float(np.mean(some)) if some else None) for some in means)])
    names = {"MRL": "images: MRL", "independent": "images: trained for the size", "SVD": "images: SVD",
             "random": "images: random dimensions"}  # fmt: skip
    for side, name in names.items():
        body.append([name, *(number(published.NEAREST_NEIGHBOUR[side].get(dim)) for dim in dims)])
    tasks = listed(dict.fromkeys(row["task"] for row in chosen))
    head = f"1-NN accuracy; text is the mean of {tasks}"
    return markdown([head, *dims], body)


QUESTION = Question("against", "Against models of one size, PCA and random dimensions", measure, draw, tell)
