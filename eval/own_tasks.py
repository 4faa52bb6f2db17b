"""A user's own data as ordinary mteb tasks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from mrl_text.choices import LabelledAs

from .own_data import OwnData, read_own_data, task_name

_KINDS: dict[str, tuple[type[AbsTask], str, str]] = {
    "Retrieval": (AbsTaskRetrieval, "t2t", "ndcg_at_10"),
    "STS": (AbsTaskSTS, "t2t", "cosine_spearman"),
    "PairClassification": (AbsTaskPairClassification, "t2t", "max_ap"),
    "Classification": (AbsTaskClassification, "t2c", "accuracy"),
    "Clustering": (AbsTaskClustering, "t2c", "v_measure"),
}
"""mteb's name for the type of task -> its base class, the category and the main score."""

_MADE: WeakValueDictionary[int, type[AbsTask]] = WeakValueDictionary()


def own_task(path: str | Path, as_: LabelledAs | None = None) -> AbsTask:
    """Make an mteb task of a user's data; arguments and errors are those of :func:`read_own_data`.

    ``type(task)()`` is another task on the same rows with a random state of its own.
    """
    return task_of(read_own_data(path, as_))


def task_of(data: OwnData) -> AbsTask:
    """The mteb task of data that was read.

    A classifier is trained on all rows to train on, once, and every row to test on is a unit of the score. mteb's own
    eight examples per label, ten times, are a leaderboard's way to compare models on few labels.
    """
    if (made := _MADE.get(id(data))) is None:
        _MADE[id(data)] = made = _make(data)
    return made()


def _make(data: OwnData) -> type[AbsTask]:
    """A task class whose ``load_data`` hands out the rows; it keeps them."""
    base, category, main_score = _KINDS[data.kind]
    metadata = TaskMetadata(
        name=task_name(data.place),
        dataset={"path": str(data.place), "revision": data.revision},
        description=f"{data.kind} on the data in {data.place.name}.",
        type=data.kind,
        category=category,
        eval_splits=["test"],
        eval_langs=["und-Zyyy"],  # nobody said which language
        main_score=main_score,
        license="not specified",
        sample_creation="found",
        is_public=False,
    )
    tables = {name: Dataset.from_dict(dict(columns)) for name, columns in data.tables.items()}
    build = _search_data(data, tables) if data.kind == "Retrieval" else lambda: _plain(tables)

    def load_data(self: AbsTask, num_proc: int | None = None, **kwargs: Any) -> None:
        """Hand out the rows that were read when the class was made."""
        if not self.data_loaded:
            self.dataset = build()
            self.data_loaded = True

    namespace = {"__doc__": metadata.description, "__module__": __name__, "metadata": metadata, "load_data": load_data}
    return type(f"Own{data.kind}", (base,), {**namespace, **_options(data), "own_data": data})


def _options(data: OwnData) -> dict[str, Any]:
    if data.kind == "STS":
        scores = data.tables["test"]["score"]
        return {"min_score": min(scores), "max_score": max(scores)}
    if data.kind == "Classification":
        return {"samples_per_label": len(data.tables["train"]["label"]), "n_experiments": 1}
    if data.kind == "Clustering":
        return {
            "max_fraction_of_documents_to_embed": None,
            "input_column_name": "text",
            "label_column_name": "label",
        }
    return {}


def _plain(tables: dict[str, Dataset]) -> DatasetDict:
    return DatasetDict({name: table.with_format(None) for name, table in tables.items()})


def _search_data(data: OwnData, tables: dict[str, Dataset]) -> Callable[[], Any]:
    def build() -> Any:
        parts = RetrievalSplitData(**_plain(tables), relevant_docs=copy.deepcopy(data.relevant), top_ranked=None)
        return {"default": {"test": parts}}

    return build
