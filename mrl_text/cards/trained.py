"""The card that sentence-transformers writes of a trained model, without the training texts."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformerModelCardData


class ModelCard(SentenceTransformerModelCardData):
    """The parent's card without training sentences as examples: what users train on is theirs to show."""

    def set_widget_examples(self, dataset: Any) -> None:
        """Leave the examples empty."""

    def compute_dataset_metrics(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's facts about a data set, without its first rows."""
        facts = super().compute_dataset_metrics(*args, **kwargs)
        for name in ("examples", "examples_table", "_example_columns"):
            facts.pop(name, None)
        return facts
