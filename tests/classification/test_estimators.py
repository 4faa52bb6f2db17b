from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from mrl_text.classification import AdaptiveClassifier, NestedClassifier


@pytest.mark.slow
@parametrize_with_checks(
    [NestedClassifier(), NestedClassifier(tied=True), AdaptiveClassifier(cv=2), AdaptiveClassifier(cv=2, tied=True)]
)
def test_scikit_learn_conventions(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
