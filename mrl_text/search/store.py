"""What every store of vectors can do, whichever engine is behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mrl_text.search.hits import Found
from mrl_text.search.plan import SearchPlan

Value = str | int | float | bool


@dataclass(frozen=True)
class Range:
    """Values between two bounds; a bound that is None is open.

    Attributes:
        gt: above.
        gte: at or above.
        lt: below.
        lte: at or below.
    """

    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


Where = Mapping[str, Value | Collection[Value] | Range]
"""Columns and what they must be: a value, one of several, or in a range. All of them must hold; a row without the
column does not match."""


@dataclass(frozen=True)
class Document:
    """A row of a store without its vector.

    Attributes:
        id: any string.
        text: None where it was added without.
        columns: the user's own columns by name.
    """

    id: str
    text: str | None
    columns: dict[str, Any]


class StoreUnavailableError(ConnectionError):
    """A store did not answer within the time that is waited for it; what it had confirmed is kept."""


@runtime_checkable
class Store(Protocol):
    """Vectors by id, searched by a prefix and put in order by the rest.

    Full unit vectors go in; the store cuts them. What a method has returned from is durable, and can be found, after
    :meth:`flush`. A lost connection is tried again for a bounded time, then :class:`StoreUnavailableError` is raised.

    Attributes:
        url: what opens it again.
        width: numbers of the full vectors.
        model: name or folder of the model that made the vectors; None where it was not told.
        plan: how :meth:`search` searches; None compares with every full vector.
        dims: the sizes that the model may be cut to, ascending, the width among them.
    """

    url: str
    width: int
    model: str | None
    dims: tuple[int, ...]

    @property
    def plan(self) -> SearchPlan | None:
        """How :meth:`search` searches."""

    def add(
        self,
        ids: Sequence[str],
        embeddings: np.ndarray,
        texts: Sequence[str] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Add rows; a row whose id is there already is replaced.

        Args:
            ids: any strings, each once.
            embeddings: float array (n, width), any length but zero.
            texts: one for each row.
            columns: the user's own columns, a value for each row (text, whole number, float, boolean or None).

        Raises:
            ValueError: another width, numbers of rows that differ, an id twice, a vector that is zero or not finite.
            TypeError: an id or text that is not a string.
            StoreUnavailableError: no answer.
        """

    def flush(self) -> None:
        """Make what was added durable and build what searching it needs; returns when both is done."""

    def search(
        self, queries: np.ndarray, k: int = 10, *, where: Where | None = None, plan: SearchPlan | None = None
    ) -> Found:
        """The ``k`` best rows for each query.

        Args:
            queries: float array (n, width) or (width,).
            k: results wanted.
            where: rows to search.
            plan: another plan, as far as the store has what it needs.

        Returns:
            Ids (n, k), None where fewer were found, and cosines at the plan's last size, minus infinity there.

        Raises:
            ValueError: vectors of another width, zero or not finite, ``k`` below 1, a column that the store does not
                have, or a plan it is not built for.
            StoreUnavailableError: no answer.
        """

    def exact(self, queries: np.ndarray, k: int = 10, *, where: Where | None = None) -> Found:
        """As :meth:`search`, by comparing with every full vector."""

    def delete(self, ids: Collection[str]) -> int:
        """Take rows out; ids that are not there are passed over. Returns how many were."""

    def count(self) -> int:
        """Rows that can be found."""

    def documents(self, ids: Sequence[str]) -> list[Document | None]:
        """Rows by id, None for one that is not there."""

    def set_plan(self, plan: SearchPlan | None) -> None:
        """Search in another way from now on, and build what that needs; kept with the store.

        Raises:
            ValueError: a plan that the engine cannot follow, with what it can.
        """

    def close(self) -> None:
        """Let go of files and connections."""
