"""What the questions are put to: models, data and settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.adapt import Adaptation
from mrl_text.adapt import fit as fit_adaptation
from mrl_text.paper.tasks import Tasks
from mrl_text.truncation import truncate

logger = logging.getLogger(__name__)

FIT_STEPS = 300
"""Of each rotation that is fitted to answer a question: all of one question get the same, and a fit takes seconds."""


class Missing(Exception):  # no error: the question is left out and the page says why
    """A question cannot be asked of this data; the text says what it needs."""


Cut = Callable[[np.ndarray, int], np.ndarray]
"""Vectors (n, width) and a size to unit vectors (n, size)."""


@dataclass(frozen=True)
class Model:
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
    """One side of a comparison: the vectors of a model, made small in one way.

    Attributes:
        name: in figures and tables.
        model: whose full-width vectors are cut.
        cut: how.
        control: drawn in grey.
    """

    name: str
    model: Model
    cut: Cut = truncate
    control: bool = False

    def embed(self, texts: Sequence[str], role: str | None = None) -> np.ndarray:
        """Full-width vectors, float32 (n, width)."""
        return self.model.embed(texts, role=role)

    def named(self, task: str) -> dict[str, Any]:
        """What every row of an answer begins with."""
        return {"side": self.name, "control": self.control, "task": task}


@dataclass(frozen=True)
class Experiment:
    """All that the questions may use.

    Attributes:
        model: the Matryoshka model.
        base: what it was made from, the control; None if there is none.
        tasks: to measure on.
        dims: sizes to measure, ascending; the last is the full width.
        train: texts to fit rotations and PCA on; never those of ``tasks``.
        independent: models trained for one size each.
        seeds: how often what is drawn at random is drawn.
        search: result file of ``mrl-text index tune``, where given.
        classification: result file of ``mrl-text classify``, where given.
    """

    model: Model
    base: Model | None
    tasks: Tasks
    dims: tuple[int, ...]
    train: Sequence[str]
    independent: Sequence[Model]
    seeds: int
    search: Path | None
    classification: Path | None

    @property
    def width(self) -> int:
        """The full size."""
        return self.dims[-1]

    @property
    def compared(self) -> list[Side]:
        """The model and its control."""
        control = [Side(f"{self.base.label}, cut", self.base, control=True)] if self.base is not None else []
        return [Side(self.model.label, self.model), *control]

    def fit(self, dims: Sequence[int], *, weights: Sequence[float] | None = None, seed: int = 0) -> Adaptation:
        """A rotation of the base's vectors, fitted on the training texts in :data:`FIT_STEPS` steps.

        Raises:
            Missing: no base or no training texts.
        """
        logger.info("fitting a rotation for %s (seed %d)", ", ".join(map(str, dims)), seed)
        return fit_adaptation(self.train_vectors(), dims=dims, weights=weights, steps=FIT_STEPS, seed=seed)

    def train_vectors(self) -> np.ndarray:
        """Vectors of the training texts by the base, float32 (n, width).

        Raises:
            Missing: no base or no training texts.
        """
        if self.base is None or not self.train:
            raise Missing("needs the model's base and texts to fit on (--train)")
        return self.base.embed(self.train, role="document")
