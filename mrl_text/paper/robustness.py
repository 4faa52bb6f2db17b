"""Typing errors and other wordings: does a small size suffer more than the full one?"""

from __future__ import annotations

import hashlib
import random
import string
from typing import Any

import numpy as np

from mrl_text.eval.statistics import Estimate, Units, bootstrap
from mrl_text.paper.charts import Panel, Series
from mrl_text.paper.data import Labelled, Search
from mrl_text.paper.measures import RESAMPLES, correct, means, ndcg, nearest, value, vectors_of_search
from mrl_text.paper.tables import direction, interval, listed, markdown, pick
from mrl_text.paper.world import Missing, Question, Section, Side, World

EDITS = (1, 2, 4)
_TEXTS = 600
"""Test texts of a classification task that are misspelt: each is encoded once per number of edits."""
_PAIRS = 1000
PARAPHRASE = "paraphrase"


def misspell(text: str, edits: int, seed: int = 0) -> str:
    """A text with typing errors: letters swapped with the next, left out, typed twice or replaced.

    Args:
        text: any text; spaces and what is no letter are left alone.
        edits: how many errors; fewer where the text has fewer letters.
        seed: with the text it decides the errors, on every machine the same.
    """
    digest = hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest()
    draw = random.Random(int.from_bytes(digest, "little"))
    letters = [place for place, letter in enumerate(text) if letter.isalpha()]
    characters: list[str] = list(text)
    for place in sorted(draw.sample(letters, min(edits, len(letters))), reverse=True):
        kind = draw.choice(("swap", "drop", "double", "replace"))
        if kind == "swap" and place + 1 < len(characters) and characters[place + 1].isalpha():
            characters[place : place + 2] = characters[place + 1], characters[place]
        elif kind == "drop" and len(text) > 1:
            characters[place] = ""
        elif kind == "double":
            characters[place] *= 2
        else:
            others = [letter for letter in string.ascii_lowercase if letter != characters[place].lower()]
            characters[place] = draw.choice(others)
    return "".join(characters)


def measure(world: World) -> dict[str, Any]:
    """Score queries and test texts with and without errors, and paraphrases looked for among all.

    Raises:
        Missing: neither a retrieval task, nor labelled texts, nor paraphrases.
    """
    data = world.data
    if not (data.searches or data.labelled or data.paraphrases):
        raise Missing("needs retrieval, labelled texts or pairs with a label")
    found = {side.name: _kept_of(side, world) for side in world.compared}
    rows = [row for side in world.compared for row in _rows(side, found[side.name], found[world.model.label])]
    return {"rows": rows, "model": world.model.label}


Cases = dict[tuple[str, int], Units]
"""(what was done to the texts, size) -> score."""


def _searched(side: Side, task: Search, dims: tuple[int, ...]) -> Cases:
    queries, documents = vectors_of_search(side.encoder, task)
    asked = {"clean": queries} | {
        _errors(edits): side.encoder.embed([misspell(text, edits) for text in task.queries], role="query")
        for edits in EDITS
    }
    found: Cases = {}
    for dim in dims:
        small = side.cut(documents, dim)
        for name, vectors in asked.items():
            found[name, dim] = means(ndcg(side.cut(vectors, dim), small, task.relevant))
    return found


def _classified(side: Side, task: Labelled, dims: tuple[int, ...]) -> Cases:
    chosen = np.sort(np.random.default_rng(0).permutation(len(task.test))[:_TEXTS])
    texts, labels = [task.test[place] for place in chosen], task.test_labels[chosen]
    train = side.encoder.embed(task.train)
    tested = {"clean": side.encoder.embed(texts)} | {
        _errors(edits): side.encoder.embed([misspell(text, edits) for text in texts]) for edits in EDITS
    }
    found: Cases = {}
    for dim in dims:
        small = side.cut(train, dim)
        for name, vectors in tested.items():
            found[name, dim] = correct(nearest(small, task.train_labels, side.cut(vectors, dim)), labels)
    return found


def _found(side: Side, left: list[str], right: list[str], gold: np.ndarray, dims: tuple[int, ...]) -> Cases:
    """Of each true pair, whether the second text is the nearest to the first among all second texts."""
    true = np.flatnonzero(gold > 0)[:_PAIRS]
    asked, among = side.encoder.embed([left[place] for place in true]), side.encoder.embed(right)
    return {
        (PARAPHRASE, dim): correct((side.cut(asked, dim) @ side.cut(among, dim).T).argmax(axis=1), true) for dim in dims
    }


def _errors(edits: int) -> str:
    return f"{edits} error{'s'[: edits > 1]}"


Kept = dict[tuple[str, str, int], tuple[Estimate, Estimate, Estimate | None]]
"""(task, case, size) -> score, what it keeps, and by how much that is more than what the full size keeps."""


def _kept_of(side: Side, world: World) -> Kept:
    data, found = world.data, Kept()
    tasks = {
        **{task.name: _searched(side, task, world.dims) for task in data.searches},
        **{task.name: _classified(side, task, world.dims) for task in data.labelled},
        **{pairs.name: _found(side, pairs.left, pairs.right, pairs.gold, world.dims) for pairs in data.paraphrases},
    }
    for task, units in tasks.items():
        drawn = dict(zip(units, bootstrap(list(units.values()), task, resamples=RESAMPLES), strict=True))
        for (case, dim), one in drawn.items():
            if ("clean", dim) in drawn:
                kept = one / drawn["clean", dim]
                found[task, case, dim] = one, kept, kept - drawn[case, world.width] / drawn["clean", world.width]
            else:
                found[task, case, dim] = one, one / drawn[case, world.width], None
    return found


def _rows(side: Side, found: Kept, model: Kept) -> list[dict[str, Any]]:
    """Tidy rows; those of the control say by how much more the model keeps at the same size."""
    return [
        {
            "task": task,
            "side": side.name,
            "control": side.control,
            "case": case,
            "dim": dim,
            **value(score),
            "kept": value(kept),
            "more": value(more) if more is not None else None,
            "gain": value(model[task, case, dim][1] - kept) if side.control else None,
        }
        for (task, case, dim), (score, kept, more) in found.items()
        if case != "clean"
    ]


def draw(result: dict[str, Any]) -> list[Panel]:
    """What is kept, by size: one panel per task."""
    panels = []
    for task in dict.fromkeys(row["task"] for row in result["rows"]):
        chosen = pick(result["rows"], task=task)
        series = [
            Series(
                case if not control else f"{case}, base cut",
                [_kept(row) for row in pick(chosen, case=case, side=side)],
                control,
            )
            for case, side, control in dict.fromkeys((row["case"], row["side"], row["control"]) for row in chosen)
            if not control or case in (_errors(EDITS[-1]), PARAPHRASE)
        ]
        paraphrase = any(row["case"] == PARAPHRASE for row in chosen)
        label = "% of the full size kept" if paraphrase else "% of the clean score kept"
        panels.append(Panel(task, label, series))
    return panels


def _kept(row: dict[str, Any]) -> tuple[float, float, float | None, float | None]:
    kept = row["kept"]
    return row["dim"], kept["value"], kept["low"], kept["high"]


def tell(result: dict[str, Any]) -> Section:
    """Whether small sizes lose a larger share of their score than the full one."""
    model = pick(result["rows"], side=result["model"])
    dims = sorted({row["dim"] for row in model})
    cases = dict.fromkeys((row["task"], row["case"]) for row in model)
    body = [
        [f"{task}, {case}", *(f"{pick(model, task=task, case=case, dim=dim)[0]['kept']['value']:.1f}" for dim in dims)]
        for task, case in cases
    ]
    worst = [row for row in model if row["case"] == _errors(EDITS[-1]) and row["dim"] == dims[0]]
    return Section(
        paper=(
            "Matryoshka vectors are as robust as the original ones (abstract; tested there on other image collections:"
            " ImageNetV2, A, R and Sketch)."
        ),
        ours=f"Kept with {EDITS[-1]} typing errors at {dims[0]} numbers, minus what the full size keeps, points of the"
        f" clean score: {'; '.join(_words(row) for row in worst)}."
        if worst
        else "No task with typing errors could be built.",
        verdict=_verdict(result["rows"], dims),
        notes=(
            f"Errors: letters swapped, left out, doubled or replaced; queries of retrieval, and {_TEXTS} test texts of"
            " a classification task at most (1-NN against clean training texts). One draw of the errors; intervals are"
            " over items. Paraphrase: the partner of each true pair must be nearest among all second texts."
        ),
        table=markdown(["% kept", *dims], body),
    )


def _words(row: dict[str, Any]) -> str:
    return f"{row['task']} {interval(row['more'], 1, sign=True)}"


def _verdict(rows: list[dict[str, Any]], dims: list[int]) -> str:
    """The model against its base at the same size, which is the paper's question; then small sizes against the full."""
    words = []
    gains = [row for row in rows if row["gain"] is not None and row["dim"] != dims[-1]]
    ahead, behind = ([row for row in gains if direction(row["gain"]) == sign] for sign in (1, -1))
    if gains:
        agrees = "Text differs" if len(behind) > len(ahead) else "As for images, it is as robust as the ordinary model"
        words.append(
            f"{agrees}: of {len(gains)} cases, cut to the same size, the model keeps more than its base with confidence"
            f" in {len(ahead)} and less in {len(behind)}"
        )
    compared = [row for row in rows if not row["control"] and row["more"] is not None and row["dim"] != dims[-1]]
    lost = [row for row in compared if direction(row["more"]) < 0]
    if lost:
        sizes = sorted({row["dim"] for row in lost})
        words.append(
            f"But small sizes suffer more from typing errors than the full one: with confidence in {len(lost)} of"
            f" {len(compared)} cases, at {listed(sizes)}"
        )
    elif compared:
        words.append("No small size loses a larger share to typing errors than the full one with confidence")
    return ". ".join(words) + "." if words else "Nothing to compare."


QUESTION = Question("robustness", "Typing errors and paraphrase", measure, draw, tell)
