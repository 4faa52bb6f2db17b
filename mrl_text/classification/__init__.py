"""Classification at the size an input needs: nested linear heads, and a cascade that stops when it is sure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_text.classification.adaptive import AdaptiveClassifier, oracle
    from mrl_text.classification.nested import NestedClassifier
    from mrl_text.classification.run import classify, label_texts
    from mrl_text.classification.storage import load_classifier, save_classifier

_HOMES = {
    "AdaptiveClassifier": "adaptive",
    "NestedClassifier": "nested",
    "classify": "run",
    "label_texts": "run",
    "load_classifier": "storage",
    "oracle": "adaptive",
    "save_classifier": "storage",
}
__all__ = [
    "AdaptiveClassifier",
    "NestedClassifier",
    "classify",
    "label_texts",
    "load_classifier",
    "oracle",
    "save_classifier",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"mrl_text.classification.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
