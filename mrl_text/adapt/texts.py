"""What an adaptation is fitted on, read from a user's files."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeVar

from mrl_text.amounts import count
from mrl_text.tables import SUFFIXES, Problems, checked, open_table, read_columns, texts
from mrl_text.tables.values import any_text

logger = logging.getLogger(__name__)

Found = TypeVar("Found", bound=Hashable)
PAIR_COLUMNS = ("anchor", "positive")


def read_texts(files: Sequence[str | Path], *, column: str | None = None) -> list[str]:
    """The texts of all files, each once, without blank, in file order; errors as for ``tables.texts.read_texts``."""
    if not files:
        raise ValueError("no file of texts was named")
    for file in files:
        open_table(file)
    return _each_once([text for file in files for text in texts.read_texts(file, column)], "texts")


def read_pairs(file: str | Path) -> list[tuple[str, str]]:
    """The pairs of a table with the columns ``anchor`` and ``positive``; rows with a blank cell are left out.

    Raises:
        FileNotFoundError, ValueError: as for :func:`mrl_text.tables.read_columns`, or fewer than two pairs.
    """
    table = open_table(file, [suffix for suffix in SUFFIXES if suffix != ".txt"])
    problems = Problems(table.path)
    columns = read_columns(table, PAIR_COLUMNS, problems, required=[PAIR_COLUMNS])
    anchors, positives = (checked(columns, name, any_text, problems, default="") for name in PAIR_COLUMNS)
    problems.raise_if_any()
    stripped = [(anchor.strip(), positive.strip()) for anchor, positive in zip(anchors, positives, strict=True)]
    pairs = [pair for pair in stripped if all(pair)]
    if len(pairs) < 2:
        raise ValueError(f"{file} has {count(len(pairs), 'complete pair')}: two is the least")
    if blank := len(stripped) - len(pairs):
        logger.info("%s: %d of %d pairs have a blank side and are left out", file, blank, len(stripped))
    return _each_once(pairs, "pairs")


def _each_once(found: list[Found], what: str) -> list[Found]:
    distinct = list(dict.fromkeys(found))
    if repeated := len(found) - len(distinct):
        logger.info("%d of %d %s repeat others and are taken once", repeated, len(found), what)
    return distinct
