"""Search in an index that is served beside its model."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np

from mrl_text.models import ModelSource
from mrl_text.search import Range, Store, Where, open_store
from mrl_text.search.conditions import parse_where
from mrl_text.search.query_model import check_width, find_query_model
from mrl_text.search.results import Result, results
from mrl_text.serving.errors import ApiError, shown
from mrl_text.serving.schema import read_inputs
from mrl_text.suggest import did_you_mean

_NUMBERS = (int, float)
_VALUES = (str, int, float, bool)
_MOST_RESULTS = 10_000  # of one request, over all its queries
_DIGITS = 6  # of scores

Results = list[list[Result]]  # for each query, best first


class Index:
    """A store in a thread of its own, where it was opened: some stores' files and connections ask for that.

    Args:
        url: as for :func:`mrl_text.search.open_store`; errors, too.
    """

    def __init__(self, url: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mrl-text-index")
        try:
            self._store: Store = self._thread.submit(open_store, url).result()
        except BaseException:
            self._thread.shutdown()
            raise

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self._store.width

    def find_model(self, name: str | None, *, trust_remote_code: bool = False) -> ModelSource:
        """The model for its queries; see :func:`mrl_text.search.query_model.find_query_model`."""
        return self._thread.submit(find_query_model, self._store, name, trust_remote_code=trust_remote_code).result()

    def check_width(self, name: str, width: int) -> None:
        """Refuse a model of another width with ``ValueError``."""
        check_width(self._store, name, width)

    async def search(
        self, queries: np.ndarray, k: int, where: Where | None, *, exact: bool, documents: bool
    ) -> Results:
        """The ``k`` best rows for each query (n, width), with text and columns if ``documents``.

        Raises:
            ApiError: 400 for a condition that the store cannot check, or a vector that is zero or not finite; 503
                where the store does not answer.
        """
        arguments = (queries, k, where, exact, documents)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._search, *arguments)
        except ValueError as error:
            raise ApiError(400, str(error), param="filter" if where else "query") from None
        except ConnectionError:
            raise ApiError(503, "the index does not answer: try again later", code="index_unavailable") from None

    def close(self) -> None:
        """Let go of files and connections."""
        self._thread.submit(self._store.close)
        self._thread.shutdown()

    def _search(self, queries: np.ndarray, k: int, where: Where | None, exact: bool, documents: bool) -> Results:
        found = (self._store.exact if exact else self._store.search)(queries, k, where=where)
        return results(self._store, found, digits=_DIGITS, fetch=documents)


def read_query(given: Any, *, limit: int, width: int) -> list[str] | np.ndarray:
    """Queries of a request: texts, or vectors float32 (n, width).

    Raises:
        ApiError: 400 with the position of the first that is not allowed.
    """
    rows = [given] if isinstance(given, list) and given and type(given[0]) in _NUMBERS else given
    if not (isinstance(rows, list) and rows and isinstance(rows[0], list)):
        texts: Any = read_inputs(given, limit=limit, field="query")
        return list(texts)
    if len(rows) > limit:
        _bad("query", f"query has {len(rows)} entries, and at most {limit} are allowed: send several requests")
    for position, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != width or not all(type(number) in _NUMBERS for number in row):
            _bad("query", f"query[{position}] must be a text, or a vector of {width} numbers, the width of the index")
    try:
        return np.array(rows, np.float32)
    except OverflowError:
        _bad("query", "query has a whole number that is too large")


def read_filter(given: Any) -> Where | None:
    """What rows must be: an object of values, lists of values and ranges by column, or typed conditions.

    Raises:
        ApiError: 400 with what is not allowed.
    """
    if given is None:
        return None
    if isinstance(given, dict):
        return {name: _condition(name, wanted) for name, wanted in given.items()} or None
    conditions = given if isinstance(given, list) else [given]
    if not all(isinstance(condition, str) for condition in conditions):
        _bad("filter", f"filter must be an object of columns, or a list of conditions in text, got {shown(given)}")
    try:
        return parse_where(conditions)
    except ValueError as error:
        _bad("filter", str(error).replace("--where", "filter", 1))


def _condition(name: str, wanted: Any) -> Any:
    if isinstance(wanted, dict):
        bounds = list(Range.__dataclass_fields__)
        for bound, value in wanted.items():
            if bound not in bounds:
                _bad(
                    "filter", f"filter: {shown(name)} has an unknown bound {shown(bound)}{did_you_mean(bound, bounds)}"
                )
            if type(value) not in _NUMBERS:
                _bad("filter", f"filter: {bound} of {shown(name)} must be a number, got {shown(value)}")
        return Range(**wanted)
    values = wanted if isinstance(wanted, list) else [wanted]
    if not values or not all(type(value) in _VALUES for value in values):
        forms = 'a value, a list of values, or bounds such as {"gte": 2020}'
        _bad("filter", f"filter: {shown(name)} must be {forms}, got {shown(wanted)}")
    return wanted


def check_results(k: int, queries: int) -> None:
    """Refuse a number of results that no request may ask for."""
    if not 1 <= k <= _MOST_RESULTS // queries:
        many = f" for each of {queries} queries" if queries > 1 else ""
        _bad("k", f"k must be from 1 to {_MOST_RESULTS // queries}{many}, got {shown(k)}")


def _bad(field: str, message: str) -> NoReturn:
    raise ApiError(400, message, param=field)
