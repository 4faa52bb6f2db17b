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
    """A model, every text of which is encoded once."""

    label: str
    revision: str
    """What tells two versions apart."""
    dims: tuple[int, ...]
    """Trained sizes, ascending; empty if unknown."""
    embed: Callable[..., np.ndarray]
    """Texts and a role (``"query"``, ``"document"`` or None) to float32 (n, width)."""

    def __str__(self) -> str:
        return f"{self.label} {self.revision}"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: the vectors of a model, cut in one way; a control is drawn in grey."""

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
    """All that the questions may use."""

    model: Model
    base: Model | None
    """What the model was made from, the control; None if there is none."""
    tasks: Tasks
    dims: tuple[int, ...]
    """Sizes to measure, ascending; the last is the full width."""
    train: Sequence[str]
    """Texts to fit rotations and PCA on; never those of ``tasks``."""
    independent: Sequence[Model]
    """Models trained for one size each."""
    seeds: int
    """How often what is drawn at random is drawn."""
    search: Path | None
    """Result file of ``mrl-text index tune``, where given."""
    classification: Path | None
    """Result file of ``mrl-text classify``, where given."""

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
        """A rotation of the base's vectors, fitted in :data:`FIT_STEPS` steps on :meth:`train_vectors`."""
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
