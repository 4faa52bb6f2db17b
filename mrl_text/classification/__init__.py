"""Classification at the size an input needs: nested linear heads, and a cascade that stops when it is sure."""

from __future__ import annotations

from mrl_text.classification.adaptive import AdaptiveClassifier, oracle
from mrl_text.classification.nested import NestedClassifier
from mrl_text.classification.run import classify, label_texts
from mrl_text.classification.storage import load_classifier, save_classifier

__all__ = ["AdaptiveClassifier", "NestedClassifier", "classify", "label_texts", "load_classifier", "oracle"]
__all__ += ["save_classifier"]
