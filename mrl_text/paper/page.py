"""The page: every sentence on it is made from the answers to the questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_text.figures import Panel, draw_panels
from mrl_text.files import write_atomically
from mrl_text.paper.experiment import Experiment
from mrl_text.paper.wording import listed


@dataclass(frozen=True)
class Section:
    """What the page says about a question."""

    paper: str
    """What was found for images, with its source."""
    ours: str
    """What was found for text."""
    verdict: str
    """One sentence: where text agrees, and where it differs."""
    notes: str
    """How it was measured."""
    table: str = ""
    """Markdown, where numbers stand beside each other; may be empty."""


@dataclass(frozen=True)
class Question:
    """A question of the paper."""

    name: str
    """Of its files and for ``--questions``."""
    title: str
    measure: Callable[[Experiment], dict[str, Any]]
    """Answers it in JSON values; raises :class:`~mrl_text.paper.experiment.Missing` where the data cannot."""
    panels: Callable[[dict[str, Any]], list[Panel]]
    """The figure of an answer; none where there is nothing to draw."""
    tell: Callable[[dict[str, Any]], Section]
    version: int = 1
    """Raised when what is measured changes, so that older answers are measured again."""


def write_page(
    folder: Path,
    questions: Iterable[Question],
    experiment: Experiment,
    results: Mapping[str, dict[str, Any]],
    missing: Mapping[str, str],
    *,
    dtype: str,
) -> Path:
    """Write ``README.md`` and the figures of all questions that have an answer; returns the page.

    ``questions`` come in the order of the page, each with its answer in ``results`` or with why there is none in
    ``missing``. The models computed in ``dtype``.
    """
    parts, left_out = [_introduction(experiment, dtype)], {}
    for question in questions:
        if question.name in results:
            parts.append(_section(folder, question, results[question.name]))
        else:
            left_out[question.title] = missing[question.name]
    left_out |= {f"Data, {name}": reason for name, reason in experiment.tasks.left_out.items()}
    if left_out:
        parts.append("## Left out\n\n" + "\n".join(f"- {name}: {reason}." for name, reason in left_out.items()))
    page = folder / "README.md"
    write_atomically(page, ("\n\n".join(parts) + "\n").encode())
    return page


def _introduction(experiment: Experiment, dtype: str) -> str:
    control = experiment.base
    base = f" Its control is {control.label}, cut to the same sizes." if control else " It names no base."
    train = f" Rotations are fitted on {len(experiment.train):,} other texts." if experiment.train else ""
    return (
        f"# The Matryoshka paper's questions, for text: {experiment.model.label}\n\n"
        "Kusupati et al. 2022 ([arXiv 2205.13147](https://arxiv.org/abs/2205.13147)) trained ResNet50 on ImageNet-1K"
        " and asked what nested sizes cost and buy. Here the same questions are put to text."
        f" Measured: {experiment.model.label} at {listed(experiment.dims)} numbers.{base} Data:"
        f" {listed(experiment.tasks.fingerprints)}.{train} The models computed in {dtype}. Scores are x100;"
        " brackets are 95 % intervals.\n\n"
        "`mrl-text paper` wrote this page from the JSON files beside it: do not edit it. The paper's numbers are from"
        " its abstract and from the plot data in the folder `Visualization` of the authors' code"
        " ([RAIVNLab/MRL](https://github.com/RAIVNLab/MRL)). They are of other data and models, so shapes compare and"
        " levels do not."
    )


def _section(folder: Path, question: Question, result: dict[str, Any]) -> str:
    section, panels = question.tell(result), question.panels(result)
    parts = [f"## {question.title}", f"**{section.verdict}**"]
    if panels:
        draw_panels(panels, folder / f"{question.name}.png")
        parts.append(f"![{question.title}, by size]({question.name}.png)")
    parts += [f"- *Images, the paper:* {section.paper}\n- *Text, here:* {section.ours}"]
    parts += [section.table] if section.table else []
    return "\n\n".join([*parts, section.notes])
