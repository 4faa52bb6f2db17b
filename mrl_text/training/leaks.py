"""Evaluation texts that must not be trained on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.tables import SUFFIXES, Problems, good_rows, open_table
from mrl_text.tables.file_types import table_files, table_suffix
from mrl_text.training.texts import normalised, text_hash

logger = logging.getLogger(__name__)

_MIN_WORDS = 4
_MIN_CHARACTERS = 10  # where words are not set apart by blanks


def evaluation_hashes(check_against: Iterable[str], mirror: str | None = None) -> np.ndarray:
    """Hashes of every text of evaluation data, see :func:`mrl_text.training.texts.text_hash`.

    Of a task, the splits it is evaluated on; of files and folders, every cell. Texts of fewer than four words are
    left out (in scripts without blanks: of fewer than ten characters): ``yes`` or ``a dog`` in the training data
    says nothing. Data that cannot be reached is not checked, and a warning says so.

    Args:
        check_against: names of mteb tasks, files (:func:`mrl_text.tables.open_table`), folders of them.
        mirror: folder with copies of hub data sets; None asks the hub.

    Returns:
        uint64 (n,), sorted, without repeats.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: an unknown task (the nearest is named), or a file that cannot be read.
    """
    hashes: set[int] = set()
    for item in check_against:
        path = Path(item).expanduser()
        if path.exists() or table_suffix(path) in SUFFIXES or "/" in item:
            texts = _file_texts(path)
        else:
            texts = _task_texts(item, mirror)
        hashes.update(text_hash(text) for text in texts if _says_something(text))
    return np.sort(np.fromiter(hashes, dtype=np.uint64, count=len(hashes)))


def leaked_rows(hashes: np.ndarray, evaluation: np.ndarray) -> np.ndarray:
    """Rows with a text of the evaluation data.

    Args:
        hashes: of the training texts, uint64 (n, columns).
        evaluation: from :func:`evaluation_hashes`.

    Returns:
        bool (n,).
    """
    return np.asarray(np.isin(hashes, evaluation).any(axis=1))


def _says_something(text: str) -> bool:
    words = normalised(text).split()
    without_blanks = any(character >= "\u0e00" for character in text)  # Thai, Khmer, Chinese, Japanese...
    return len(words) >= _MIN_WORDS or (without_blanks and len("".join(words)) >= _MIN_CHARACTERS)


def _task_texts(name: str, mirror: str | None) -> Iterator[str]:
    from mrl_text.eval.tasks import TaskLoader  # eval stands on this package; a recipe names its tasks

    missing: dict[str, str] = {}
    try:
        loader = TaskLoader([name], mirror=mirror, keep_going=True)
        missing = dict(loader.left_out)
        for part in loader.names:
            task = loader.fresh(part)
            yield from _dataset_texts(task.dataset, set(task.eval_splits))
            loader.release(part)
    except OSError as error:
        missing[name] = str(error)
    for part, reason in missing.items():
        logger.warning(
            "NOT CHECKED: whether texts of %s are in the training data (%s); data.mirror=FOLDER names a copy that"
            " mrl-text mirror made, data.check_against=[] leaves the check out",
            *(part, " ".join(reason.split())[:300]),
        )


def _dataset_texts(data: Any, splits: set[str]) -> Iterator[str]:
    """Texts of what mteb loaded: data sets in dictionaries by subset, split and part of a retrieval task."""
    if isinstance(data, dict):
        if evaluated := splits & set(data):
            data = {name: data[name] for name in evaluated}
        for name, part in data.items():
            if name not in ("relevant_docs", "top_ranked"):
                yield from _dataset_texts(part, splits)
        return
    if data is None or not hasattr(data, "column_names"):
        return
    for row in data:
        yield from _strings(row)
        if row.get("title") and isinstance(row.get("text"), str):
            yield f"{row['title']} {row['text']}"  # as it is encoded


def _file_texts(path: Path) -> Iterator[str]:
    if not path.exists():
        raise FileNotFoundError(f"data.check_against: nothing at {path}")
    files = table_files(path, deep=True)
    if not files or table_suffix(files[0]) not in SUFFIXES:
        raise ValueError(f"data.check_against: {path} is no file or folder of {', '.join(SUFFIXES)}")
    problems = Problems(path)
    try:
        for table in map(open_table, files):
            yield from () if table.typed else table.columns  # a file without a header has texts there
            for row in good_rows(table, problems):
                yield from _strings(row.cells)
        problems.raise_if_any()
    except ValueError as error:
        raise ValueError(f"data.check_against: {error}") from None


def _strings(value: Any) -> Iterator[str]:
    """Every string inside lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
