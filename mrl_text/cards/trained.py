"""The card that sentence-transformers writes of a trained model, without the training texts."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformerModelCardData


class ModelCard(SentenceTransformerModelCardData):
    """The parent's card without training sentences as examples, which are theirs to show who train on them, and
    without vectors and scores that a run computed: lists of one length, which the parent takes for sound."""

    def set_widget_examples(self, dataset: Any) -> None:
        """Leave the examples empty."""

    def compute_dataset_metrics(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The parent's facts about a data set, without its first rows and what was computed."""
        features = getattr(dataset, "features", None) or {}
        if computed := [name for name, kind in features.items() if getattr(kind, "length", -1) > 0]:
            dataset = dataset.remove_columns(computed)
        facts = super().compute_dataset_metrics(dataset, *args, **kwargs)
        for name in ("examples", "examples_table", "_example_columns"):
            facts.pop(name, None)
        return facts
