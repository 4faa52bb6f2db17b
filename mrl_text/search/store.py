"""What every store of vectors can do, whichever engine is behind it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from mrl_text.choices import Code, Kind
from mrl_text.search.checks import check_names, check_rows
from mrl_text.search.columns import ColumnType
from mrl_text.search.hits import Found, StageCost
from mrl_text.search.plan import SearchPlan
from mrl_text.search.settings import StoreSettings
from mrl_text.search.urls import without_password

Value = str | int | float | bool

_FEW_ROWS = 10_000  # a database compares so many prefixes in milliseconds, without an index
_ROUNDING = 0.02  # of unit vectors in float16, far less


@dataclass(frozen=True)
class Range:
    """Values above (or at) one bound and below (or at) another; a bound that is None is open."""

    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True)
class Prefix:
    """Text that begins so; capitals and small letters differ."""

    text: str


@dataclass(frozen=True)
class Not:
    """Another value than that, or none of those; of ``None``: any value."""

    wanted: Value | Collection[Value | None] | Range | Prefix | None


@dataclass(frozen=True)
class AnyOf:
    """At least one of these filters holds."""

    filters: Collection[Where]


@dataclass(frozen=True)
class AllOf:
    """All of these filters hold: for several conditions on one column, and for several :class:`AnyOf`."""

    filters: Collection[Where]


Where = Mapping[str, Value | Collection[Value | None] | Range | Prefix | Not | None] | AnyOf | AllOf
"""Columns and what they must be, all of them: a value, one of several, in a range, text that begins so, not that, or
None: no value. A row without a value in a column meets no condition on it but None, whatever :class:`Not` excludes."""

Columns = Mapping[str, Sequence[Any]] | None
"""The user's own columns by name, a value for each row."""


@dataclass(frozen=True)
class Document:
    """A row of a store without its vector."""

    id: str
    text: str | None  # None where it was added without
    columns: dict[str, Any]  # the user's own, by name


@dataclass(frozen=True)
class Abilities:
    """What an engine is good for.

    One that works in this process, from files, can have its memory bounded and the steps of a search timed; comparing
    with all rows needs nothing that takes long to build.
    """

    in_process: bool = False
    precisions: tuple[Code, ...] = ("float16", "binary")  # of prefixes, that are worth trying
    kinds: tuple[Kind, ...] = ("hnsw",)  # of indexes for many rows, that are worth trying
    longest: int = 1000  # candidates that a search can take
    effort: int = 1000  # of a graph, at most


class StoreUnavailableError(ConnectionError):
    """A store did not answer within the time that is waited for it; what it had confirmed is kept."""


class Store(ABC):
    """Vectors by id, searched by a prefix and put in order by the rest.

    Full unit vectors go in; the store cuts them. What a method has returned from is durable, and can be found, after
    :meth:`flush`. A lost connection is tried again for a bounded time, then :class:`StoreUnavailableError` is raised.
    An engine gives what is abstract here; what it is handed was checked.
    """

    revision: str | None = None  # of the model; None where it is not known
    path: Path | None = None  # folder that is this store and nothing else; None in a database
    abilities: ClassVar[Abilities] = Abilities()
    reserved: ClassVar[tuple[str, ...]] = ()  # names that a column of the user's cannot have

    def __init__(self, url: str, settings: StoreSettings) -> None:
        self.url = url  # what opens it again
        self.settings = settings

    def __str__(self) -> str:
        return without_password(self.url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @property
    def width(self) -> int:
        """Numbers of the full vectors."""
        return self.settings.width

    @property
    def model(self) -> str | None:
        """Name or folder of the model that made the vectors; None where it was not told."""
        return self.settings.model

    @property
    def dims(self) -> tuple[int, ...]:
        """The sizes that the model may be cut to, ascending, the width among them."""
        return self.settings.dims

    @property
    def plan(self) -> SearchPlan | None:
        """How :meth:`search` searches; None compares with every full vector."""
        return self.settings.plan

    @classmethod
    @abstractmethod
    def open(cls, url: str) -> Self:
        """A store that is there; see :func:`mrl_text.search.open_store`."""

    @classmethod
    def create(
        cls,
        url: str,
        *,
        width: int,
        plan: SearchPlan | None = None,
        model: str | None = None,
        dims: Sequence[int] | None = None,
    ) -> Self:
        """A new, empty store; see :func:`mrl_text.search.create_store`."""
        settings = StoreSettings(width, plan, model, tuple(dims or ()))
        if plan is not None:
            cls.check_plan(plan, settings.width)
        return cls._make(url, settings)

    @classmethod
    @abstractmethod
    def check_place(cls, url: str) -> None:
        """Raise what making a new store would, as far as that is known before its rows are; nothing is made.

        FileExistsError where something else is there, OSError where nothing can be written.
        """

    @classmethod
    def check_plan(cls, plan: SearchPlan, width: int) -> None:
        """Raise ValueError for a plan that the engine cannot follow for vectors of that width, with what it can."""
        plan.check(width)

    @classmethod
    def check_columns(cls, names: Collection[str]) -> None:
        """Raise ValueError for a name that a column of the user's cannot have."""
        check_names(names, cls.reserved)

    @classmethod
    @abstractmethod
    def _make(cls, url: str, settings: StoreSettings) -> Self:
        """A new, empty store, with a plan that was checked; FileExistsError where there is one."""

    @staticmethod
    def starting_plan(rows: int, width: int, dims: Sequence[int]) -> SearchPlan:
        """A plan for so many rows that is safe to start with; ``mrl-text index tune`` finds a better one.

        A database gets a graph over the smallest of ``dims`` that is at least a third of the width; up to 10,000 rows
        it compares every prefix. A folder has its own rule.
        """
        dim = min((dim for dim in dims if 3 * dim >= width), default=width)
        final = dim if dim == width else None
        return SearchPlan(dim, "flat" if rows <= _FEW_ROWS else "hnsw", "float16", 200, final=final, effort=200)

    def add(
        self,
        ids: Sequence[str],
        embeddings: np.ndarray,
        texts: Sequence[str | None] | None = None,
        columns: Columns = None,
    ) -> None:
        """Add rows; a row whose id is there already is replaced.

        Args:
            ids: any strings, each once.
            embeddings: float array (n, width), any length but zero.
            texts: one for each row, None for a row without.
            columns: the user's own columns, a value for each row (text, whole number, float, boolean or None).

        Raises:
            ValueError: another width, numbers of rows that differ, an id twice, a vector that is zero or not finite.
            TypeError: an id or text that is not a string.
            StoreUnavailableError: no answer.
        """
        vectors, own = check_rows(ids, embeddings, texts, columns, self.width, self.reserved)
        if len(vectors):
            self._add(ids, vectors, texts, own)

    def check_writable(self, columns: Collection[str]) -> None:
        """Raise what adding rows with such columns would, as far as that is known before there are any.

        PermissionError, OSError where nothing can be written, ValueError for a column.
        """
        self.check_columns(columns)

    @abstractmethod
    def _add(
        self, ids: Sequence[str], vectors: np.ndarray, texts: Sequence[str | None] | None, own: dict[str, list[Any]]
    ) -> None:
        """Add one row or more: unit vectors float32 (n, width), columns as plain values."""

    def expect(self, rows: int) -> None:  # noqa: B027  # most engines have nothing to put off, and confirm at once
        """So many rows are about to come: an engine may put off its index until :meth:`flush`."""

    def confirm(self) -> None:  # noqa: B027
        """Make what was added durable, without building what only searching needs."""

    @abstractmethod
    def flush(self) -> None:
        """Make what was added durable and build what searching it needs; returns when both is done."""

    @abstractmethod
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

    @abstractmethod
    def exact(self, queries: np.ndarray, k: int = 10, *, where: Where | None = None) -> Found:
        """As :meth:`search`, by comparing with every full vector."""

    def explain(self, query: np.ndarray, k: int = 10) -> tuple[Found, list[StageCost]]:
        """Search for one query, step by step: what :meth:`search` gives, and what each step cost.

        ValueError for an engine that does not tell, or more than one query.
        """
        raise ValueError(f"{self} does not tell what the steps of a search cost: a folder does")

    def ram(self) -> int | None:
        """Bytes of the index that finds the candidates; None where the engine does not tell."""
        return None

    @abstractmethod
    def delete(self, ids: Collection[str]) -> int:
        """Take rows out; ids that are not there are ignored. Returns how many were; TypeError for a single string."""

    @abstractmethod
    def delete_where(self, where: Where) -> int:
        """Take out the rows that a filter lets through; returns how many.

        Errors as of :meth:`search`; ValueError, too, for a filter without conditions.
        """

    @abstractmethod
    def count(self) -> int:
        """Rows that can be found."""

    def is_empty(self) -> bool:
        """Whether no row can be found."""
        return not self.count()

    @abstractmethod
    def drop(self) -> None:
        """Take the store away for good, whatever it holds."""

    @abstractmethod
    def documents(self, ids: Sequence[str]) -> list[Document | None]:
        """Rows by id, None for one that is not there."""

    @abstractmethod
    def rows(self, where: Where | None = None) -> Iterator[tuple[list[Document], np.ndarray]]:
        """All rows, or those that a filter lets through, some at a time.

        Yields:
            Rows and their full unit vectors, float16 or float32 (n, width). Rows that others add or take out meanwhile
            may come or not.
        """

    @abstractmethod
    def column_types(self) -> dict[str, ColumnType]:
        """Types of the user's own columns by name: ``text``, ``int``, ``float`` or ``bool``."""

    def removed(self) -> int:
        """Rows that were taken out or replaced and still take up room, as far as the engine tells."""
        return 0

    def index_bytes(self) -> dict[str, int]:
        """Bytes by what they are for, as far as the engine tells."""
        return {}

    @classmethod
    def verify(cls, url: str) -> Iterator[str]:
        """Everything that is wrong with a store, in words; all of it is read. Errors as of :meth:`open`."""
        with contextlib.closing(cls.open(url)) as store:
            for documents, vectors in store.rows():
                lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
                for at in np.flatnonzero(~(np.abs(lengths - 1) < _ROUNDING)):
                    yield f"the vector of {documents[at].id!r} has the length {lengths[at]:.3f}, not 1"

    @abstractmethod
    def set_plan(self, plan: SearchPlan | None) -> None:
        """Search in another way from now on, and build what that needs; kept with the store, after :meth:`flush`.

        ValueError for a plan that the engine cannot follow, with what it can.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""
