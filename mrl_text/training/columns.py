"""What columns a loss needs of its data, and how numbers beside texts are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from mrl_text.tables.values import class_name, number, shown

LABEL = "label"  # column of what is beside the texts: scores, classes, a teacher's vectors; all others hold text
LABEL_NAMES = ("label", "labels", "score", "scores")  # as sentence-transformers' collator calls it

Label = Literal["score", "similarity", "binary", "class", "scores", "margins", "vector"]
"""``score``: a number, of which the order counts. ``similarity``: one from -1 to 1. ``binary``: 0 or 1. ``class``: a
word or a whole number. ``scores``: a list, one for each text but the anchor. ``margins``: the same, or by how much the
positive's score is above each negative's, of a single one as a plain number. ``vector``: a list as long as vectors."""

Rows = Literal["negatives", "compared", "alone", "classes"]
"""What the rows of a batch are to each other. ``negatives``: wrong answers, so that no text may come twice.
``compared``: rows to compare, where texts may repeat. ``alone``: nothing. ``classes``: rows of several classes."""

_WORDS: dict[Label, str] = {
    "score": "a score",
    "similarity": "a similarity from -1 to 1",
    "binary": "a label of 0 or 1",
    "class": "a class",
    "scores": "a list of scores, one for each text but the first",
    "margins": "a list of scores, one for each text but the first, or of how far each negative is below the positive",
    "vector": "a list of numbers, a vector",
}
_TEXTS = ("anchor", "positive", "negative")


class Needs(NamedTuple):
    """What columns a source must have: texts first, and at the end, for some losses, one of numbers."""

    texts: int = 2  # at least
    most: int | None = None  # at most; None sets no limit
    label: Label | None = None
    rows: Rows = "negatives"

    def problem(self, texts: int) -> str | None:
        """What is wrong with so many columns of texts; None where they are right."""
        if self.texts <= texts <= (self.most or texts):
            return None
        beside = f" and, in the last one, {_WORDS[self.label]}" if self.label else ""
        return f"needs {_counted(self.texts, self.most)}{beside}: columns: {self.example}"

    @property
    def example(self) -> str:
        """Columns as a recipe may name them."""
        return f"[{', '.join([*_TEXTS[: self.texts], *([LABEL] if self.label else [])])}]"

    @property
    def lists(self) -> bool:
        """Whether the last column holds lists of numbers."""
        return self.label in ("scores", "margins", "vector")

    def lengths(self, texts: int, width: int | None) -> tuple[int, ...]:
        """How long the lists may be beside so many texts, for a model of this width; nothing where all will do."""
        known = {"scores": (texts - 1,), "margins": (texts - 1, texts - 2), "vector": (width,) if width else ()}
        return known.get(self.label or "", ())

    @property
    def symmetric(self) -> bool:
        """Whether its texts are neither queries nor documents."""
        return self.label in ("score", "similarity", "binary", "class")

    def split(self, columns: Sequence[str]) -> tuple[list[str], str | None]:
        """Columns of texts, and the one of numbers."""
        return (list(columns[:-1]), columns[-1]) if self.label and columns else (list(columns), None)

    def default(self, present: Sequence[str]) -> list[str] | None:
        """Columns to use where a source names none, by their names; None where some of them are not there."""
        texts = [name for name in _TEXTS[:2] if name in present]
        texts = [*texts, *(name for name in present if name.startswith("negative"))][: self.most]
        label = [name for name in LABEL_NAMES if self.label and name in present][:1]
        complete = [*_TEXTS[: self.texts]] == texts[: self.texts] and bool(label) == bool(self.label)
        return [*texts, *label] if complete else None

    def read(self, name: str, value: object, *, typed: bool) -> Any:
        """A cell of the last column, ``name``, as the loss takes it; None where it is blank.

        Args:
            name: of the column, for the error.
            value: the cell; where files have no types, lists are written as in JSON.
            typed: whether the file has types.

        Raises:
            ValueError: it is something else.
        """
        try:
            return self._read(value, typed)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None

    def _read(self, value: object, typed: bool) -> Any:
        if value is None or value == "":
            return None
        if self.label == "class":
            return class_name(value)
        if self.lists:
            return _numbers(value, typed=typed)
        found = number(int(value) if isinstance(value, bool) and self.label == "binary" else value, typed=typed)
        if self.label == "binary" and found not in (0, 1):
            raise ValueError(f"is {shown(value)}, not 0 or 1")
        if self.label == "similarity" and abs(found) > 1:
            raise ValueError(f"is {shown(value)}, not from -1 to 1: scale it, or let CoSENTLoss go by the order alone")
        return int(found) if self.label == "binary" else found


def _numbers(value: object, *, typed: bool) -> list[float]:
    if isinstance(value, str) and not typed and value.lstrip().startswith("["):
        try:
            value, typed = json.loads(value), True
        except ValueError:
            raise ValueError(f"is {shown(value)}, not a list of numbers") from None
    return [number(one, typed=typed) for one in (value if isinstance(value, list) else [value])]


PAIRS = Needs()


def _counted(least: int, most: int | None) -> str:
    words = ["no", "one", "two", "three"]
    if least == most:
        return f"{words[least]} column{'s'[: least != 1]} of texts"
    more = "or more" if most is None else f"to {words[most]}"
    return f"{words[least]} {more} columns of texts"
