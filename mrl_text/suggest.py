"""Errors that name the nearest right word."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any, TypeVar, get_args

Choice = TypeVar("Choice")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, else a list of what is known."""
    candidates = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in candidates}
    same = [lowered[word.lower()]] if word.lower() in lowered else []
    close = same or difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if not close:
        close = [lowered[hit] for hit in difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)]
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = ", ".join(candidates[:12]) + (", ..." if len(candidates) > 12 else "")
    return f"; known: {shown}"


def check_choice(name: str, value: Choice, known: Any) -> Choice:
    """Return ``value`` if it is one of the choices.

    Args:
        name: of the option, for the error.
        value: what was given.
        known: a ``Literal`` type, or the choices themselves.

    Raises:
        ValueError: it is none of them; the nearest one is named.
    """
    choices = get_args(known) or tuple(known)
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown{did_you_mean(str(value), map(str, choices))}")
    return value


def check_columns(place: object, names: Iterable[str], known: Collection[str], fix: str = "") -> None:
    """Raise ``ValueError`` for the first of the columns that a file or folder does not have; the nearest one is named.

    Args:
        place: the file or folder, for the error.
        names: columns that are wanted.
        known: those there are.
        fix: what to do about it besides.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"{place} has no column {name!r}{did_you_mean(name, known)}{fix and f': {fix}'}")
