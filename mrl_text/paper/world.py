"""What a question is given, and what it gives back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.adapt import Adaptation
from mrl_text.adapt import fit as fit_adaptation
from mrl_text.paper.charts import Panel
from mrl_text.paper.data import Data
from mrl_text.truncation import truncate

logger = logging.getLogger(__name__)

FIT_STEPS = 300
"""Of each rotation that is fitted to answer a question: all of one question get the same, and a fit takes seconds."""


class Missing(Exception):  # no error: the question is left out and the page says why
    """A question cannot be asked of this data; the text says what it needs."""


@dataclass
class Encoder:
    """A model, every text of which is encoded once.

    Attributes:
        label: short name.
        revision: what tells two versions apart.
        dims: trained sizes, ascending; empty if unknown.
        embed: texts and a role (``"query"``, ``"document"`` or None) to float32 (n, width).
    """

    label: str
    revision: str
    dims: tuple[int, ...]
    embed: Callable[..., np.ndarray]


@dataclass(frozen=True)
class Side:
    """One way to have small vectors.

    Attributes:
        name: in figures and tables.
        encoder: whose full-width vectors are cut.
        cut: vectors (n, width) and a size to unit vectors (n, size).
        control: drawn in grey.
    """

    name: str
    encoder: Encoder
    cut: Callable[[np.ndarray, int], np.ndarray] = truncate
    control: bool = False


@dataclass
class World:
    """All that the questions may use.

    Attributes:
        model: the Matryoshka model.
        base: what it was made from, the control; None if there is none.
        independent: models trained for one size each.
        data: to measure on.
        train: texts to fit rotations and PCA on; never those of ``data``.
        dims: sizes to measure, ascending; the last is the full width.
        seeds: how often what is drawn at random is drawn.
        search: result file of a search figure, where given.
        classification: result file of an adaptive classifier, where given.
    """

    model: Encoder
    base: Encoder | None
    data: Data
    dims: tuple[int, ...]
    train: list[str] = field(default_factory=list)
    independent: list[Encoder] = field(default_factory=list)
    seeds: int = 3
    search: Path | None = None
    classification: Path | None = None
    _train_vectors: np.ndarray | None = field(default=None, repr=False)

    @property
    def width(self) -> int:
        """The full size."""
        return self.dims[-1]

    @property
    def compared(self) -> list[Side]:
        """The model and its control."""
        sides = [Side(self.model.label, self.model)]
        if self.base is not None:
            sides.append(Side(f"{self.base.label}, cut", self.base, control=True))
        return sides

    def fit(self, dims: Sequence[int], *, weights: Sequence[float] | None = None, seed: int = 0) -> Adaptation:
        """A rotation of the base's vectors, fitted on the training texts in :data:`FIT_STEPS` steps.

        Raises:
            Missing: no base or no training texts.
        """
        vectors = self.train_vectors()
        logger.info("fitting a rotation for %s (seed %d)", ", ".join(map(str, dims)), seed)
        return fit_adaptation(vectors, dims=dims, weights=weights, steps=FIT_STEPS, seed=seed)

    def train_vectors(self) -> np.ndarray:
        """Vectors of the training texts by the base, float32 (n, width).

        Raises:
            Missing: no base or no training texts.
        """
        if self.base is None or not self.train:
            raise Missing("needs the model's base and texts to fit on (--train)")
        if self._train_vectors is None:
            self._train_vectors = self.base.embed(self.train, role="document")
        return self._train_vectors


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
    measure: Callable[[World], dict[str, Any]]
    panels: Callable[[dict[str, Any]], list[Panel]]
    tell: Callable[[dict[str, Any]], Section]
    version: int = 1
