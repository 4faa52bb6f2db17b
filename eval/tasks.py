"""From task names to mteb tasks, from the hub or from a mirror."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mteb
from mteb.abstasks import AbsTask, AbsTaskRetrieval

from mrl_text.suggest import did_you_mean

from .docstring_task import DocstringRetrieval

logger = logging.getLogger(__name__)

OWN_TASKS: dict[str, type[AbsTask]] = {"DocstringRetrieval": DocstringRetrieval}
"""Tasks that mteb does not have."""


class TaskLoader:
    """Finds tasks by name, checks them, loads the data of each once and hands out fresh copies.

    A fresh copy per evaluation matters: mteb's classification and clustering tasks draw samples from a random
    state in the task object. With one object for all sizes every size would see another sample, and differences
    between sizes would be noise.

    Args:
        names: task names as in mteb, or from :data:`OWN_TASKS`.
        mirror: folder with copies of hub data sets, ``MIRROR/<organisation>/<name>``; None loads from the hub.

    Raises:
        ValueError: an unknown task (the nearest is named), or one that is not about text.
        FileNotFoundError: the mirror lacks a task's data; all that are missing are named.
    """

    def __init__(self, names: Sequence[str], mirror: str | Path | None = None) -> None:
        if not names:
            raise ValueError("no task given: name at least one, for example STSBenchmark or DocstringRetrieval")
        self.names = tuple(dict.fromkeys(names))
        self._mirror = Path(mirror).expanduser() if mirror is not None else None
        self._loaded: dict[str, AbsTask] = {}
        prototypes = {name: self._create(name) for name in self.names}
        self._metadata = {name: task.metadata for name, task in prototypes.items()}
        if aggregates := [name for name, task in prototypes.items() if task.is_aggregate]:
            parts = ", ".join(part.metadata.name for part in self._metadata[aggregates[0]].tasks)
            raise ValueError(f"{aggregates[0]} is a collection of tasks: name them instead ({parts})")
        if not_text := [name for name, metadata in self._metadata.items() if metadata.modalities != ["text"]]:
            raise ValueError(f"{', '.join(not_text)}: only tasks on text can be evaluated")
        self._check_mirror()

    def fresh(self, name: str) -> AbsTask:
        """A new task object with its own random state, sharing the data of earlier ones."""
        task = self._create(name)
        loaded = self._loaded.get(name)
        if loaded is None:
            task.load_data()
            if isinstance(task, AbsTaskRetrieval):  # older tasks keep their parts elsewhere until they are evaluated
                task.convert_v1_dataset_format_to_v2(num_proc=None)
            self._loaded[name] = task
            loaded = task
            task = self._create(name)
        task.dataset = _shallow(loaded.dataset)
        task.data_loaded = True
        return task

    def release(self, name: str) -> None:
        """Forget the data of a task."""
        self._loaded.pop(name, None)

    def fingerprint(self, name: str) -> str:
        """What tells two versions of a task's data apart: its revision and, in a mirror, its files."""
        dataset = self._metadata[name].dataset
        digest = hashlib.blake2b(str(dataset["revision"]).encode(), digest_size=16)
        if self._mirror is not None and name not in OWN_TASKS:
            folder = Path(dataset["path"])
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                status = file.stat()
                digest.update(f"{file.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return digest.hexdigest()

    def metadata(self, name: str) -> Any:
        """mteb's ``TaskMetadata`` of a task."""
        return self._metadata[name]

    def _create(self, name: str) -> AbsTask:
        if name in OWN_TASKS:
            return OWN_TASKS[name]()
        try:
            task = mteb.get_task(name)
        except KeyError:
            known = [*OWN_TASKS, *(item.metadata.name for item in mteb.get_tasks(exclude_superseded=False))]
            raise ValueError(f"no task named {name!r}{did_you_mean(name, known)}") from None
        if self._mirror is not None:
            dataset = {**task.metadata.dataset, "path": str(self._mirror / task.metadata.dataset["path"])}
            task.metadata = task.metadata.model_copy(update={"dataset": dataset})
        return task

    def _check_mirror(self) -> None:
        if self._mirror is None:
            return
        if not self._mirror.is_dir():
            raise FileNotFoundError(f"no mirror folder at {self._mirror}")
        paths = {name: self._metadata[name].dataset["path"] for name in self.names if name not in OWN_TASKS}
        missing = [f"{name} ({path})" for name, path in paths.items() if not Path(path).is_dir()]
        if missing:
            raise FileNotFoundError(f"the mirror has no data for {', '.join(missing)}")


def _shallow(dataset: Any) -> Any:
    """Copy of the containers, not of the data, so that what one evaluation filters another still has."""
    if isinstance(dataset, dict):
        copied = copy.copy(dataset)
        for key, value in dataset.items():
            copied[key] = _shallow(value)
        return copied
    return dataset
