"""A frozen model made Matryoshka: a matrix behind it, fitted on embeddings in minutes."""

from __future__ import annotations

from mrl_text.adapt.adaptation import Adaptation, apply, load_adaptation
from mrl_text.adapt.fitting import fit
from mrl_text.adapt.run import adapt, adapt_vectors

__all__ = ["Adaptation", "adapt", "adapt_vectors", "apply", "fit", "load_adaptation"]
