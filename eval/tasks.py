"""From names, benchmarks and files to mteb tasks, from the hub, from a mirror or from the user."""

from __future__ import annotations

import copy
import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mteb
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from mrl_text.choices import LabelledAs
from mrl_text.docstrings import HELD_OUT_PACKAGES, Docstring, load_docstrings
from mrl_text.suggest import did_you_mean

from .availability import unavailable
from .mirror import check_mirror
from .own_data import OwnData, read_all
from .own_tasks import task_of

logger = logging.getLogger(__name__)


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


OWN_TASKS: dict[str, type[AbsTask]] = {"DocstringRetrieval": DocstringRetrieval}
"""Tasks that mteb does not have."""


class TaskLoader:
    """Finds tasks, checks that they can run, loads the data of each once and hands out fresh copies.

    A fresh copy per evaluation matters: mteb's classification and clustering tasks draw samples from a random
    state in the task object. With one object for all sizes every size would see another sample, and differences
    between sizes would be noise.

    Args:
        names: task names as in mteb, or from :data:`OWN_TASKS`. A collection of tasks stands for its parts.
        benchmark: name of an mteb benchmark, whose tasks are added with its own languages and splits.
        data: the user's own files and folders, see :func:`mrl_text.eval.own_data.read_own_data`.
        read: data of the user that was read already.
        as_: what files with ``text,label`` are, classification (None) or clustering.
        languages: keep only subsets of ``names`` in these languages (``eng``, ``deu-Latn``).
        subsets: keep only these subsets of ``names``, by the data set's own names.
        splits: evaluate these splits of ``names`` instead of their own.
        mirror: folder with copies of hub data sets, ``MIRROR/<organisation>/<name>``; None loads from the hub.
        keep_going: leave out what cannot run, with a warning each, instead of stopping.

    ``names`` are then the tasks that can run, ``left_out`` says why each other cannot.

    Raises:
        ValueError: an unknown task or benchmark (the nearest is named), one that is not about text, a malformed file.
        FileNotFoundError: data that is not there; all tasks that cannot run are named with the reason.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        *,
        benchmark: str | None = None,
        data: Sequence[str | Path] = (),
        read: Sequence[OwnData] = (),
        as_: LabelledAs | None = None,
        languages: Sequence[str] | None = None,
        subsets: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
        mirror: str | Path | None = None,
        keep_going: bool = False,
    ) -> None:
        self._mirror = Path(mirror).expanduser() if mirror is not None else None
        if self._mirror is not None and not self._mirror.is_dir():
            raise FileNotFoundError(f"no mirror folder at {self._mirror}")
        self._loaded: dict[str, AbsTask] = {}
        self._own: set[str] = set()
        self._fingerprints: dict[str, str] = {}
        self._make: dict[str, Callable[[], AbsTask]] = {}
        for found in (*read_all(data, as_), *read):
            self._add_own(task_of(found))
        for name in names:
            if name in OWN_TASKS:
                self._add_own(OWN_TASKS[name]())
            else:
                self._add(_mteb_task(name, languages, subsets, splits))
        for task in _benchmark(benchmark) if benchmark is not None else ():
            self._add(task)
        if not self._make:
            raise ValueError("no task given: name at least one, for example STSBenchmark or DocstringRetrieval")
        self._prototypes = prototypes = {name: make() for name, make in self._make.items()}
        if not_text := [name for name, task in prototypes.items() if task.metadata.modalities != ["text"]]:
            raise ValueError(f"{', '.join(not_text)}: only tasks on text can be evaluated")
        self.left_out = self._unavailable(prototypes)
        if self.left_out and not keep_going:
            raise FileNotFoundError(f"cannot run here: {_by_reason(self.left_out)}. --keep-going evaluates the rest")
        self.names = tuple(name for name in prototypes if name not in self.left_out)
        if not self.names:
            raise FileNotFoundError(f"none of the tasks can run here: {_by_reason(self.left_out)}")
        if self.left_out:
            counts = len(self.left_out), len(self._make)
            logger.warning("%d of %d tasks cannot run here: %s", *counts, _by_reason(self.left_out))

    def fresh(self, name: str) -> AbsTask:
        """A new task object with its own random state, sharing the data of earlier ones.

        Raises:
            ValueError: a reranking task whose data does not say which documents to rank: evaluating it would
                silently become retrieval from the whole corpus.
        """
        task = self._make[name]()
        loaded = self._loaded.get(name)
        if loaded is None:
            loaded = self._make[name]()
            loaded.load_data()
            if isinstance(loaded, AbsTaskRetrieval):  # older tasks keep their parts elsewhere until they are evaluated
                loaded.convert_v1_dataset_format_to_v2(num_proc=None)
                _check_candidates(loaded)
            else:
                loaded.dataset = _copied(loaded.dataset, _PlainColumns.of)
            self._loaded[name] = loaded
        task.dataset = _copied(loaded.dataset)
        task.data_loaded = True
        return task

    def release(self, name: str) -> None:
        """Forget the data of a task."""
        self._loaded.pop(name, None)

    def fingerprint(self, name: str) -> str:
        """What tells two versions of what is evaluated apart: data revision, splits, subsets, a mirror's files."""
        if name in self._fingerprints:
            return self._fingerprints[name]
        task = self.prototype(name)
        dataset = task.metadata.dataset
        selection = f"{dataset['revision']}\0{sorted(task.eval_splits)}\0{sorted(task.hf_subsets)}"
        digest = hashlib.blake2b(selection.encode(), digest_size=16)
        if self._mirror is not None and name not in self._own:
            folder = Path(dataset["path"])
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                with file.open("rb") as stream:  # not its time of change: a copy of the mirror holds the same data
                    content = hashlib.file_digest(stream, "blake2b").hexdigest()
                digest.update(f"{file.relative_to(folder)}\0{content}\0".encode())
        self._fingerprints[name] = digest.hexdigest()
        return self._fingerprints[name]

    def prototype(self, name: str) -> AbsTask:
        """A task object to look at: without data, not to be evaluated."""
        return self._prototypes[name]

    def _add_own(self, task: AbsTask) -> None:
        name = task.metadata.name
        if name in self._make:
            raise ValueError(f"two tasks are named {name}: rename one of the files, or evaluate one at a time")
        self._own.add(name)
        self._make[name] = type(task)

    def _add(self, task: AbsTask) -> None:
        if task.is_aggregate:
            logger.info("%s stands for its %d parts", task.metadata.name, len(task.metadata.tasks))
            for part in task.metadata.tasks:
                self._add(part)
            return
        if task.metadata.name in self._own:
            raise ValueError(f"two tasks are named {task.metadata.name}: rename the file")
        subsets, splits = list(task.hf_subsets), list(task.eval_splits)
        make = functools.partial(mteb.get_task, task.metadata.name, hf_subsets=subsets, eval_splits=splits)
        self._make[task.metadata.name] = self._redirected(make)

    def _redirected(self, make: Callable[[], AbsTask]) -> Callable[[], AbsTask]:
        mirror = self._mirror
        if mirror is None:
            return make

        def local() -> AbsTask:
            task = make()
            dataset = {**task.metadata.dataset, "path": str(mirror / task.metadata.dataset["path"])}
            task.metadata = task.metadata.model_copy(update={"dataset": dataset})
            return task

        return local

    def _unavailable(self, prototypes: dict[str, AbsTask]) -> dict[str, str]:
        foreign = [task for name, task in prototypes.items() if name not in self._own]
        if self._mirror is None:
            return unavailable(foreign)
        missing = {}
        for task in foreign:
            try:
                check_mirror(self._mirror, task.metadata.dataset)
            except (FileNotFoundError, ValueError) as error:
                missing[task.metadata.name] = str(error)
        return missing


def _by_reason(left_out: Mapping[str, str]) -> str:
    grouped: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        grouped.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in grouped.items())


def find_tasks(names: Sequence[str], benchmark: str | None = None) -> list[AbsTask]:
    """mteb's tasks of these names and of a benchmark, collections replaced by their parts, without data.

    Raises:
        ValueError: none, or an unknown name; the nearest is named.
    """
    found = [_mteb_task(name, None, None, None) for name in names]
    found += _benchmark(benchmark) if benchmark is not None else []
    if not found:
        raise ValueError("no task given: name at least one, for example STSBenchmark")
    return [part for task in found for part in (task.metadata.tasks if task.is_aggregate else [task])]


def _mteb_task(
    name: str, languages: Sequence[str] | None, subsets: Sequence[str] | None, splits: Sequence[str] | None
) -> AbsTask:
    try:
        known = mteb.get_task(name)
    except KeyError:
        raise ValueError(f"no task named {name!r}{did_you_mean(name, _known_tasks())}") from None
    if known.is_aggregate or not (languages or subsets or splits):
        return known
    for what, wanted, there in (("split", splits, known.metadata.eval_splits), ("subset", subsets, known.hf_subsets)):
        if unknown := [one for one in wanted or () if one not in there]:
            to_do = " to evaluate" if what == "split" else ""
            raise ValueError(f"{name} has no {what} {unknown[0]!r}{to_do}: there are {', '.join(there)}")
    try:
        return mteb.get_task(name, languages=languages, hf_subsets=subsets, eval_splits=splits)
    except ValueError:
        known_languages = ", ".join(sorted(known.metadata.languages)[:10])
        raise ValueError(f"{name} has nothing in {', '.join(languages or ())}; it is in {known_languages}") from None


@functools.cache  # mteb makes each of them, which takes seconds
def _known_tasks() -> list[str]:
    return [*OWN_TASKS, *(task.metadata.name for task in mteb.get_tasks(exclude_superseded=False))]


def _benchmark(name: str) -> list[AbsTask]:
    try:
        return list(mteb.get_benchmark(name).tasks)
    except KeyError:
        names = [benchmark.name for benchmark in mteb.get_benchmarks()]
        raise ValueError(f"no benchmark named {name!r}{did_you_mean(name, names)}") from None


def _check_candidates(task: AbsTaskRetrieval) -> None:
    if task.metadata.type not in ("Reranking", "InstructionReranking"):
        return
    for subset, splits in task.dataset.items():
        for split in set(splits) & set(task.eval_splits):
            if not splits[split]["top_ranked"]:
                raise ValueError(
                    f"{task.metadata.name} ({subset}, {split}) is a reranking task, but its data does not say which"
                    " documents to rank, and it would become retrieval from the whole corpus: copy the complete"
                    " repository, with its top_ranked configuration (mrl-text mirror does)"
                )


class _PlainColumns(Dataset):
    """A data set whose columns are lists, as before datasets 4, instead of objects that read row by row.

    scikit-learn's metrics turn the label column into an array many times over; reading 3,000 labels one by one for
    each of them takes ten times as long as the classifier.
    """

    @classmethod
    def of(cls, dataset: Any) -> Any:
        """The same rows, not copied; anything but a data set of plain Python values stays as it is."""
        if not isinstance(dataset, Dataset) or dataset.format["type"] is not None:
            return dataset
        plain: _PlainColumns = copy.copy(dataset)
        plain.__class__ = cls
        return plain

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        return value[:] if isinstance(key, str) else value

    def select(self, *args: Any, **kwargs: Any) -> Any:
        # a fingerprint of the rows is for a cache that nothing here uses, and takes as long as a classifier
        kwargs.setdefault("new_fingerprint", generate_random_fingerprint())
        return self.of(super().select(*args, **kwargs))


def _copied(dataset: Any, part: Callable[[Any], Any] = lambda part: part) -> Any:
    """Copy of the containers, not of the data, so that what one evaluation filters another still has."""
    if not isinstance(dataset, dict):
        return part(dataset)
    copied = copy.copy(dataset)
    for key, value in dataset.items():
        copied[key] = _copied(value, part)
    return copied
