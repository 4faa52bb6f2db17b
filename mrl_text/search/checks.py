"""What goes into a store, looked at before anything is done with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mrl_text.truncation import unit_vectors

_MOST_RESULTS = 10_000_000  # of one search; places, scores and ids of so many take 200 MB
_FULL = ": full vectors go in, the index cuts them"


def check_rows(
    ids: Sequence[str],
    embeddings: np.ndarray,
    texts: Sequence[str | None] | None,
    columns: Mapping[str, Sequence[Any]] | None,
    width: int,
    reserved: Sequence[str] = (),
) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Unit vectors and columns of rows that can be stored; errors as of the checks of each part, below."""
    vectors = unit_vectors(embeddings, width, word="embedding", why=_FULL)
    check_ids(ids, len(vectors))
    if texts is not None:
        given = texts if isinstance(texts, str) else ["" if text is None else text for text in texts]
        check_texts(given, len(vectors), "texts")
    return vectors, check_columns(columns, len(vectors), reserved)


def check_queries(queries: np.ndarray, k: int, width: int) -> np.ndarray:
    """Unit vectors float32 (n, width) of queries (n, width) or (width,); errors as :func:`check_results` and
    :func:`mrl_text.truncation.unit_vectors`."""
    array = np.asarray(queries)
    array = array[None] if array.ndim == 1 else array
    check_results(k, len(array))
    return unit_vectors(array, width, word="query", why=_FULL)


def check_results(k: int, queries: int = 1) -> None:
    """Raise ValueError unless ``k`` is a whole number above 0, and so many results for each query fit into memory."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k must be a whole number, at least 1, got {k!r}")
    if k * max(1, queries) > _MOST_RESULTS:
        many = f" for {queries:,} queries" if queries > 1 else ""
        raise ValueError(f"k {k:,}{many} is more than {_MOST_RESULTS:,} results in one search: ask for fewer")


def check_strings(values: Sequence[str], count: int, word: str) -> None:
    """Raise ValueError unless there are so many, and TypeError for one that is not a string, with its position."""
    if isinstance(values, str) or len(values) != count:
        raise ValueError(f"{count} embeddings need as many {word}, got {len(values)}")
    for position, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{word} must be strings; at position {position} is {type(value).__name__}: {value!r:.60}")


def check_collection(ids: Any, word: str) -> None:
    """Raise TypeError for a single string where several are expected."""
    if isinstance(ids, str):
        raise TypeError(f"{word} takes a collection of ids, got the string {ids!r}")


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can write it; Python's strings, and JSON, may hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_texts(values: Sequence[str], count: int, word: str) -> None:
    """As :func:`check_strings`; ValueError for half of a surrogate pair in one, too (with its position)."""
    check_strings(values, count, word)
    for position, value in enumerate(values):
        _check_unicode(value, word, position)


def _check_unicode(text: str, word: str, position: int) -> None:
    if not is_unicode(text):
        raise ValueError(f"{word} at position {position} has half of a surrogate pair: {text[:40]!r}; take it out")


def check_ids(ids: Sequence[str], count: int) -> None:
    """As :func:`check_texts`; ValueError for one that comes twice, too."""
    check_texts(ids, count, "ids")
    if len(set(ids)) < len(ids):
        [(twice, _)] = Counter(ids).most_common(1)
        raise ValueError(f"the id {twice!r} comes twice: ids tell rows apart")


def check_names(names: Iterable[Any], reserved: Sequence[str] = ()) -> None:
    """Raise ValueError for a name of a column that is empty or reserved, TypeError for one that is not a string."""
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names of columns must be strings, got {name!r}")
        if not name or name in reserved:
            own = f": the store's own are {', '.join(reserved)}; rename it" if reserved else ""
            raise ValueError(f"a column cannot be called {name!r}{own}")


def check_columns(
    columns: Mapping[str, Sequence[Any]] | None, count: int, reserved: Sequence[str] = ()
) -> dict[str, list[Any]]:
    """The user's own columns as plain Python values: lists of str, int, float, bool or None by name.

    Args:
        columns: a sequence of ``count`` values by name; numpy's scalars are taken for what they hold.
        count: rows.
        reserved: names that the store uses itself.

    Raises:
        ValueError: a name that is empty or reserved, another number of values, values of several types in one column,
            a number that is not finite, or half of a surrogate pair in a text.
        TypeError: a name that is not a string, or a value of another type (with its position).
    """
    checked: dict[str, list[Any]] = {}
    check_names(columns or (), reserved)
    for name, values in (columns or {}).items():
        if isinstance(values, str) or len(values) != count:
            raise ValueError(f"{count} rows need as many values in column {name!r}, got {len(values)}")
        checked[name] = [_plain(value, name, position) for position, value in enumerate(values)]
        column_type(name, checked[name])
    return checked


def column_type(name: str, values: Sequence[Any]) -> type | None:
    """Type of a column's values: str, int, float or bool; None where all are None.

    Whole numbers among floats are floats; ValueError for other mixtures.
    """
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return float
    if len(types) > 1:
        names = " and ".join(sorted(one.__name__ for one in types))
        raise ValueError(f"column {name!r} has values of several types, {names}: make them one")
    return next(iter(types), None)


def _plain(value: Any, name: str, position: int) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is not None and not isinstance(value, (str, int, float, bool)):
        there = f"at position {position} is {type(value).__name__}: {value!r:.60}"
        raise TypeError(f"column {name!r} may have text, whole numbers, floats, booleans or None; {there}")
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"column {name!r} has {value} at position {position}: use None where there is no number")
    if isinstance(value, str):
        _check_unicode(value, f"column {name!r}", position)
    return value
