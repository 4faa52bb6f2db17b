"""Retrieval on the documentation of this Python environment, as an ordinary mteb task."""

from __future__ import annotations

import hashlib
from typing import Any

from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from mrl_text.docstrings import HELD_OUT_PACKAGES, Docstring, load_docstrings


class DocstringRetrieval(AbsTaskRetrieval):
    """Given the summary line of a docstring, find the rest of it among the held-out packages' documentation.

    One relevant document per query. The packages are never trained on
    (:data:`mrl_text.docstrings.HELD_OUT_PACKAGES`). The texts depend on the installed versions, so the
    data set revision is a hash of them: scores are compared within one environment only.
    """

    metadata = TaskMetadata(
        name="DocstringRetrieval",
        dataset={"path": "mrl-text/docstrings", "revision": "environment"},
        description="Find the body of a Python docstring from its summary line.",
        type="Retrieval",
        category="t2t",
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=("2000-01-01", "2026-12-31"),
        domains=["Programming", "Written"],
        task_subtypes=["Code retrieval"],
        license="not specified",
        annotations_creators="derived",
        dialect=[],
        sample_creation="found",
        prompt={"query": "Given a one-line summary, retrieve the documentation it summarises"},
    )

    k_values = (1, 3, 5, 10, 20, 100)  # with one answer per query, ranks beyond 100 cost time and say nothing

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pairs: list[Docstring] = load_docstrings(HELD_OUT_PACKAGES)
        digest = hashlib.sha256("\0".join(text for pair in self._pairs for text in pair).encode()).hexdigest()
        dataset = {**self.metadata.dataset, "revision": digest[:16]}
        self.metadata = self.metadata.model_copy(update={"dataset": dataset})

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Build corpus, queries and judgements from the installed packages."""
        ids = [pair.id for pair in self._pairs]
        self.dataset = {
            "default": {
                "test": RetrievalSplitData(
                    corpus=Dataset.from_dict({"id": ids, "text": [pair.positive for pair in self._pairs]}),
                    queries=Dataset.from_dict({"id": ids, "text": [pair.anchor for pair in self._pairs]}),
                    relevant_docs={name: {name: 1} for name in ids},
                    top_ranked=None,
                )
            }
        }
        self.data_loaded = True
