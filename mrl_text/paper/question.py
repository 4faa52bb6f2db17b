"""A question of the paper, and what the page says about its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrl_text.figures import Panel
from mrl_text.paper.experiment import Experiment


@dataclass(frozen=True)
class Section:
    """What the page says about a question.

    Attributes:
        paper: what was found for images, with its source.
        ours: what was found for text.
        verdict: one sentence: where text agrees, and where it differs.
        notes: how it was measured.
        table: Markdown, where numbers stand beside each other; may be empty.
    """

    paper: str
    ours: str
    verdict: str
    notes: str
    table: str = ""


@dataclass(frozen=True)
class Question:
    """A question of the paper.

    Attributes:
        name: of its files and for ``--questions``.
        title: heading on the page.
        measure: answers it: JSON values.
        panels: the figure of an answer; none where there is nothing to draw.
        tell: the words of an answer.
        version: raised when what is measured changes, so that older answers are measured again.
    """

    name: str
    title: str
    measure: Callable[[Experiment], dict[str, Any]]
    panels: Callable[[dict[str, Any]], list[Panel]]
    tell: Callable[[dict[str, Any]], Section]
    version: int = 1
