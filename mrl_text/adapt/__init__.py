"""A frozen model made Matryoshka: a matrix behind it, fitted on embeddings in minutes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_text.adapt.adaptation import Adaptation, load_adaptation
    from mrl_text.adapt.fitting import fit
    from mrl_text.adapt.model import apply
    from mrl_text.adapt.run import adapt, adapt_vectors

_HOMES = {
    "Adaptation": "adaptation",
    "adapt": "run",
    "adapt_vectors": "run",
    "apply": "model",
    "fit": "fitting",
    "load_adaptation": "adaptation",
}
__all__ = ["Adaptation", "adapt", "adapt_vectors", "apply", "fit", "load_adaptation"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"mrl_text.adapt.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
