"""Typing errors and other wordings: does a small size suffer more than the full one?"""

from __future__ import annotations

import hashlib
import random
import string
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from mrl_text.amounts import count
from mrl_text.eval.statistics import Estimate, Units
from mrl_text.figures import Panel
from mrl_text.paper.estimates import as_json, resampled
from mrl_text.paper.experiment import Experiment, Missing, Side
from mrl_text.paper.page import Question, Section
from mrl_text.paper.tasks import Change, Labelled, Retrieval, Tasks
from mrl_text.paper.wording import by_size, direction, distinct, grouped, interval, listed, pick, series

EDITS = (1, 2, 4)
_TEXTS = 600
"""Test texts of a classification task that are misspelt: each is encoded once per number of edits."""
CLEAN, PARAPHRASE = "clean", "paraphrase"


def misspell(text: str, edits: int, seed: int = 0) -> str:
    """A text with typing errors: letters swapped with the next, left out, typed twice or replaced.

    Spaces and what is no letter are left alone; a text with fewer letters than ``edits`` gets fewer errors. Text and
    ``seed`` decide the errors, on every machine the same.
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


def measure(experiment: Experiment) -> dict[str, Any]:
    """Score queries and test texts with and without errors, and paraphrases looked for among all."""
    tasks = experiment.tasks
    if not (tasks.searches or tasks.labelled or tasks.paraphrases):
        raise Missing("needs retrieval, labelled texts or pairs with a label")
    found = {side: _kept(_scores(side, tasks, experiment.dims), experiment.width) for side in experiment.compared}
    model = next(iter(found.values()))
    rows = [row for side, own in found.items() for row in _rows(side, own, model)]
    return {"rows": rows, "model": experiment.model.label}


Scores = dict[str, dict[tuple[str, int], Units]]
"""Task -> (what was done to its texts, size) -> score."""


def _scores(side: Side, tasks: Tasks, dims: tuple[int, ...]) -> Scores:
    changes: dict[str, Change] = {CLEAN: str, **{_errors(edits): partial(misspell, edits=edits) for edits in EDITS}}
    found: Scores = {}
    changed: list[Retrieval | Labelled] = [*tasks.searches, *map(_some_tested, tasks.labelled)]
    for task in changed:
        found[task.name] = {
            (case, dim): units
            for case, change in changes.items()
            for dim, units in task.score(side, dims, change).items()
        }
    for pairs in tasks.paraphrases:
        found[pairs.name] = {(PARAPHRASE, dim): units for dim, units in pairs.find_paraphrases(side, dims).items()}
    return found


def _some_tested(task: Labelled) -> Labelled:
    chosen = np.sort(np.random.default_rng(0).permutation(len(task.test))[:_TEXTS])
    return replace(task, test=[task.test[place] for place in chosen], test_labels=task.test_labels[chosen])


def _errors(edits: int) -> str:
    return count(edits, "error")


Kept = dict[tuple[str, str, int], tuple[Estimate, Estimate, Estimate | None]]
"""(task, case, size) -> score, what it keeps, and by how much that is more than what the full size keeps."""


def _kept(scores: Scores, width: int) -> Kept:
    """A text with errors keeps a share of the clean score at its size, a paraphrase one of the full size's."""
    found: Kept = {}
    for task, units in scores.items():
        drawn = resampled(task, units)
        for (case, dim), one in drawn.items():
            if case == PARAPHRASE:
                found[task, case, dim] = one, one / drawn[case, width], None
            elif case != CLEAN:
                kept = one / drawn[CLEAN, dim]
                found[task, case, dim] = one, kept, kept - drawn[case, width] / drawn[CLEAN, width]
    return found


def _rows(side: Side, own: Kept, model: Kept) -> list[dict[str, Any]]:
    """Rows of an answer; those of the control say by how much more the model keeps at the same size."""
    return [
        {
            **side.named(task),
            "case": case,
            "dim": dim,
            **as_json(score),
            "kept": as_json(kept),
            "more": as_json(more) if more is not None else None,
            "gain": as_json(model[task, case, dim][1] - kept) if side.control else None,
        }
        for (task, case, dim), (score, kept, more) in own.items()
    ]


def draw(result: dict[str, Any]) -> list[Panel]:
    """What is kept, by size: one panel per task."""
    panels = []
    for task, chosen in grouped(result["rows"], "task").items():
        lines = [
            series(f"{case}, base cut" if control else case, rows, "kept", control=control)
            for (case, _, control), rows in grouped(chosen, "case", "side", "control").items()
            if not control or case in (_errors(EDITS[-1]), PARAPHRASE)
        ]
        whole = "full size" if PARAPHRASE in distinct(chosen, "case") else "clean score"
        panels.append(Panel(task, f"% of the {whole} kept", lines))
    return panels


def tell(result: dict[str, Any]) -> Section:
    """Whether small sizes lose a larger share of their score than the full one."""
    model = pick(result["rows"], side=result["model"])
    dims = sorted({row["dim"] for row in model})
    lines = {f"{task}, {case}": rows for (task, case), rows in grouped(model, "task", "case").items()}
    worst = [row for row in model if row["case"] == _errors(EDITS[-1]) and row["dim"] == dims[0]]
    shown = [f"{row['task']} {interval(row['more'], 1, sign=True)}" for row in worst]
    return Section(
        paper=(
            "Matryoshka vectors are as robust as the original ones (abstract; tested there on other image collections:"
            " ImageNetV2, A, R and Sketch)."
        ),
        ours=f"Kept with {EDITS[-1]} typing errors at {dims[0]} numbers, minus what the full size keeps, points of the"
        f" clean score: {'; '.join(shown)}."
        if worst
        else "No task with typing errors could be built.",
        verdict=_verdict(result["rows"], dims),
        notes=(
            f"Errors: letters swapped, left out, doubled or replaced; queries of retrieval, and {_TEXTS} test texts of"
            " a classification task at most (1-NN against clean training texts). One draw of the errors; intervals are"
            " over items. Paraphrase: the partner of each true pair must be nearest among all second texts."
        ),
        table=by_size("% kept", lines, "kept"),
    )


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
        words.append(
            f"But small sizes suffer more from typing errors than the full one: with confidence in {len(lost)} of"
            f" {len(compared)} cases, at {listed(sorted(distinct(lost, 'dim')))}"
        )
    elif compared:
        words.append("No small size loses a larger share to typing errors than the full one with confidence")
    return ". ".join(words) + "." if words else "Nothing to compare."


QUESTION = Question("robustness", "Typing errors and paraphrase", measure, draw, tell)
