"""What the questions are asked about: pairs, searches and labelled texts, from mteb tasks and a user's own files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mrl_text.eval.tasks import TaskLoader

logger = logging.getLogger(__name__)

MIRROR_TASKS = ("STSBenchmark", "SciFact", "Banking77Classification")
"""Tasks of mteb that are taken from a mirror unless others are named: one of each kind."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts with gold, float64 (n,): a similarity, or 1 for a paraphrase and 0 for none."""

    name: str
    left: list[str]
    right: list[str]
    gold: np.ndarray


@dataclass(frozen=True)
class Search:
    """Queries, documents, and for each query the positions of the documents that answer it with their grades."""

    name: str
    queries: list[str]
    documents: list[str]
    relevant: list[dict[int, float]]


@dataclass(frozen=True)
class Labelled:
    """Texts to train on and to test with labels, int64, that count through ``classes``."""

    name: str
    train: list[str]
    train_labels: np.ndarray
    test: list[str]
    test_labels: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """All there is, by kind.

    Attributes:
        similar: pairs with a graded similarity.
        paraphrases: pairs that say the same or do not.
        searches: retrieval tasks.
        labelled: classification tasks.
        fingerprints: of each task, what tells two versions of it apart.
        left_out: task -> why it cannot be used.
    """

    similar: list[Pairs] = field(default_factory=list)
    paraphrases: list[Pairs] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    labelled: list[Labelled] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def read_data(mirror: str | Path | None, data: Sequence[str | Path], tasks: Sequence[str] | None = None) -> Data:
    """Read the tasks of a mirror and a user's own files with the readers of ``mrl-text eval``.

    Args:
        mirror: folder with copies of hub data sets; None for none.
        data: own files and folders, see :func:`mrl_text.eval.own_data.own_task`.
        tasks: names of mteb tasks; None is :data:`MIRROR_TASKS` where there is a mirror. Tasks that the mirror lacks
            are left out.

    Raises:
        FileNotFoundError, ValueError: no data at all, a missing mirror, or a malformed file.
    """
    from mrl_text.eval.tasks import TaskLoader

    names = list(tasks) if tasks is not None else list(MIRROR_TASKS) if mirror is not None else []
    if not names and not data:
        raise ValueError("no data given: name a mirror of mteb data sets (--mirror) or files of your own (--data)")
    loader = TaskLoader(names, data=data, mirror=mirror, keep_going=True)
    found = Data(left_out=dict(loader.left_out))
    for name in loader.names:
        _read_task(loader, name, found)
        loader.release(name)
    return found


def _read_task(loader: TaskLoader, name: str, found: Data) -> None:
    task = loader.fresh(name)
    kind, split = task.metadata.type, task.eval_splits[0]
    parts = task.dataset.get(task.hf_subsets[0], task.dataset)
    if kind == "STS":
        left, right = task.column_names
        found.similar.append(_pairs(name, parts[split], left, right, "score"))
    elif kind == "PairClassification":
        found.paraphrases.append(_pairs(name, parts[split], "sentence1", "sentence2", "labels"))
    elif kind == "Retrieval":
        found.searches.append(_search(name, parts[split]))
    elif kind == "Classification":
        found.labelled.append(_labelled(name, parts, split, task.input_column_name, task.label_column_name))
    else:
        found.left_out[name] = f"no question is about {kind}"
        return
    found.fingerprints[name] = loader.fingerprint(name)


def _pairs(name: str, rows: Any, left: str, right: str, gold: str) -> Pairs:
    return Pairs(name, list(rows[left]), list(rows[right]), np.asarray(rows[gold], dtype=np.float64))


def _search(name: str, split: Any) -> Search:
    documents = [f"{row.get('title') or ''} {row['text']}".strip() for row in split["corpus"]]
    place = {row["id"]: position for position, row in enumerate(split["corpus"])}
    judged = {
        query: {place[document]: float(grade) for document, grade in grades.items() if grade > 0 and document in place}
        for query, grades in split["relevant_docs"].items()
    }
    kept = [row for row in split["queries"] if judged.get(row["id"])]
    return Search(name, [row["text"] for row in kept], documents, [judged[row["id"]] for row in kept])


def _labelled(name: str, parts: Any, split: str, text: str, label: str) -> Labelled:
    train, test = parts["train"], parts[split]
    labels = [np.asarray(rows[label]) for rows in (train, test)]
    known = np.unique(np.concatenate(labels))
    named = dict(zip(labels[0].tolist(), train["label_text"], strict=True)) if "label_text" in train.features else {}
    classes = tuple(str(named.get(one, one)) for one in known.tolist())
    numbers = [np.searchsorted(known, one).astype(np.int64) for one in labels]
    return Labelled(name, list(train[text]), numbers[0], list(test[text]), numbers[1], classes)
