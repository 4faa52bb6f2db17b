"""PostgreSQL with pgvector, as a store."""

from __future__ import annotations

import contextlib
import itertools
import math
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast, get_args

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb

from mrl_text.search.checks import check_collection, check_queries, check_strings, is_unicode
from mrl_text.search.columns import ColumnType
from mrl_text.search.filters import check_where, selective
from mrl_text.search.hits import Found
from mrl_text.search.plan import SearchPlan
from mrl_text.search.postgres import sql as statements
from mrl_text.search.postgres import tables
from mrl_text.search.postgres.connection import Connection, Link
from mrl_text.search.postgres.pages import read_page
from mrl_text.search.postgres.sql import Column, Statement, Table, quoted
from mrl_text.search.retry import closed_on_error
from mrl_text.search.settings import StoreSettings
from mrl_text.search.store import Document, Store, Where

_FORMAT = 1
_WIDEST = 16_000
_LONGEST_ID = 2_600  # bytes; a row of a B-tree holds no more
_QUERIES = 256
_FARTHER = 2  # times the rows among which as many as the shortlist takes meet conditions, if they lie anywhere
_WALK = 40  # rows that are read in a row while one is found through an index


class PostgresStore(Store):
    """A table in PostgreSQL as a :class:`~mrl_text.search.Store`.

    One table has ids, full vectors, texts and a column for each of the user's own; an HNSW index over a prefix of the
    vectors (an expression, nothing is stored twice but the prefix) finds the shortlist. What a method has returned from
    is committed. Any number of processes may read and write. What is known about
    it is in the table ``mrl_text_stores``.
    """

    reserved = (*statements.OWN, *statements.SYSTEM)

    def __init__(self, url: str, connection: Connection, settings: StoreSettings, column: Column) -> None:
        super().__init__(url, settings)
        self._connection = connection
        self._table = Table(connection.names, column, self.width)

    @classmethod
    def open(cls, url: str) -> PostgresStore:
        """A store that is there; URL and errors as :class:`Connection` and :func:`~mrl_text.search.open_store`.

        Raises:
            ValueError: besides, a connection that is refused, a store of a later version, or one whose owner has
                changed what is known about it.
        """
        connection = Connection(url)
        with closed_on_error(connection):
            table = Table(connection.names)
            facts, name = connection.run(lambda link: tables.read_facts(link, table)), ".".join(connection.names)
            if facts is None:
                raise FileNotFoundError(f"there is no store {name!r} in the database: create it first")
            where = f"what {table.meta.names[-1]} says of the table {name!r}"
            if (found := facts.get("format")) != _FORMAT:
                raise ValueError(
                    f"{where} has format {found!r}, this version reads {_FORMAT}: upgrade mrl-text, or restore it"
                )
            if facts.get("column") not in get_args(Column):
                raise ValueError(f"{where} is damaged (its column is no vector): restore it, or fill a new store")
            return cls(url, connection, StoreSettings.from_json(facts, where), facts["column"])

    @classmethod
    def check_place(cls, url: str) -> None:
        """A table is made and taken back; only the extension stays, where there was none."""
        connection = Connection(url, install=True)
        with contextlib.closing(connection):
            table = Table(connection.names, _column(connection), 1)
            connection.run(lambda link: tables.create(link, table, {"made": None}, trial=True))

    @classmethod
    def check_columns(cls, names: Collection[str]) -> None:
        """Up to 63 bytes, and no NUL."""
        super().check_columns(names)
        for name in names:
            statements.check_name(name, "column")

    @classmethod
    def check_plan(cls, plan: SearchPlan, width: int) -> None:
        """Neither int8 nor int4, and an index takes so many numbers and neighbours."""
        Table((), width=width).check(plan)

    @classmethod
    def _make(cls, url: str, settings: StoreSettings) -> PostgresStore:
        """Up to 16,000 numbers; ``type`` in the URL says in what (halfvec, float16, or vector, float32)."""
        if settings.width > _WIDEST:
            raise ValueError(f"pgvector takes vectors of up to {_WIDEST:,} numbers, got {settings.width:,}")
        connection = Connection(url, install=True)
        table = Table(connection.names, column := _column(connection), settings.width)
        if settings.plan is not None:
            table.check(settings.plan)
        facts = {"format": _FORMAT, "column": column, **settings.to_json(), "made": uuid.uuid4().hex}
        with closed_on_error(connection):
            connection.run(lambda link: tables.create(link, table, facts))
        return cls(url, connection, settings, column)

    def check_writable(self, columns: Collection[str]) -> None:
        """No row is added, as all are: with the rights and in the columns of the table."""
        super().check_writable(columns)
        self._connection.run(lambda link: tables.check_addable(link, self._table, columns))

    def _add(
        self, ids: Sequence[str], vectors: np.ndarray, texts: Sequence[str | None] | None, own: dict[str, list[Any]]
    ) -> None:
        """All or none. A column that is new is added to the table.

        Where the index is there it grows with every row; many rows are faster to add before it is built.

        Raises:
            ValueError: what PostgreSQL cannot hold: NUL in a text, an id beyond 2,600 bytes; or what the table's owner
                does not let in.
        """
        given = [None] * len(ids) if texts is None else texts
        for name, values in {"ids": ids, "texts": given, **own}.items():
            for position, value in enumerate(values):
                if isinstance(value, str) and "\0" in value:
                    raise ValueError(
                        f"{name} at position {position} has a NUL character, which PostgreSQL cannot hold:"
                        f" {value[:40]!r}; take it out"
                    )
        for position, one in enumerate(ids):
            if len(one.encode()) > _LONGEST_ID:
                raise ValueError(f"the id at position {position} has more than {_LONGEST_ID:,} bytes: {one[:40]!r}...")
        self._connection.run(lambda link: tables.add(link, self._table, ids, vectors, given, own))

    def flush(self) -> None:
        """Build the index of the plan if it is not there, and let the planner know what the columns hold."""
        self._connection.run(lambda link: self._build(link, keep=True))

    def search(
        self, queries: np.ndarray, k: int = 10, *, where: Where | None = None, plan: SearchPlan | None = None
    ) -> Found:
        """The ``k`` best rows for each query, one statement for up to 256 queries.

        Under conditions the nearest rows are looked through. Where few of these meet them, or few of all, all that meet
        them are compared. A plan on another prefix than that of the index reads the whole table.
        """
        vectors = check_queries(queries, k, self.width)
        chosen = self._table.check(plan) if plan is not None else self.plan
        if chosen is None:
            return self.exact(vectors, k, where=where)
        return self._connection.run(lambda link: self._search(link, vectors, k, where, chosen))

    def exact(self, queries: np.ndarray, k: int = 10, *, where: Where | None = None) -> Found:
        """The ``k`` best rows by comparing with every full vector; no index is used."""
        vectors = check_queries(queries, k, self.width)
        return self._connection.run(lambda link: self._search(link, vectors, k, where, None))

    def delete(self, ids: Collection[str]) -> int:
        """Take rows out."""
        check_collection(ids, "delete")
        statement = sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(self._table.quoted)
        return int(self._connection.run(lambda link: link.execute(statement, [_storable(ids)]).rowcount))

    def delete_where(self, where: Where) -> int:
        """Take out the rows that a filter lets through, in one statement."""

        def run(link: Link) -> int:
            conditions = selective(check_where(where, tables.own_types(tables.columns(link, self._table))))
            return int(link.execute(*statements.delete(self._table, conditions)).rowcount)

        return self._connection.run(run)

    def rows(self, where: Where | None = None) -> Iterator[tuple[list[Document], np.ndarray]]:
        """Rows in the order of their ids, as bytes sort; a page at a time, so that no transaction stays open."""
        after: str | None = None
        while documents := (page := self._connection.run(partial(read_page, self._table, where, after)))[0]:
            yield page
            after = documents[-1].id

    def column_types(self) -> dict[str, ColumnType]:
        """Types of the user's own columns by name."""
        return self._connection.run(lambda link: tables.own_types(tables.columns(link, self._table)))

    def count(self) -> int:
        """Rows that can be found; the server counts them one by one."""
        return self._connection.run(lambda link: tables.count(link, self._table))

    def is_empty(self) -> bool:
        """Whether no row can be found; the server looks for one."""
        statement = sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(self._table.quoted)
        return bool(self._connection.run(lambda link: tables.value(link, statement)))

    def drop(self) -> None:
        """Drop the table, on which nothing may depend, and forget what is known about it."""
        self._connection.run(lambda link: tables.drop(link, self._table))

    def documents(self, ids: Sequence[str]) -> list[Document | None]:
        """Rows by id."""
        check_strings(ids, len(ids), "ids")
        found = self._connection.run(lambda link: tables.documents(link, self._table, _storable(ids)))
        return [found.get(one) for one in ids]

    def set_plan(self, plan: SearchPlan | None) -> None:
        """Search in another way from now on.

        Where there are rows, the index is built here and the one before is dropped, in one transaction: searches go on
        meanwhile by the index before, writers wait.

        Raises:
            ValueError: ``int8`` or ``int4``, or a prefix that is too wide for an index.
        """
        if plan is not None:
            self._table.check(plan)
        self._connection.run(lambda link: self._build(link, plan))

    def ram(self) -> int | None:
        """Bytes of the index that finds the candidates, on the server."""
        return self.index_bytes().get("shortlist", 0)

    def index_bytes(self) -> dict[str, int]:
        """Bytes on the server.

        Returns:
            ``table`` with long values that are stored apart, ``ids`` (their index), ``shortlist`` where the plan has an
            index, and the indexes of others by name.
        """
        return self._connection.run(lambda link: tables.sizes(link, self._table))

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def __enter__(self) -> PostgresStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self, link: Link, plan: SearchPlan | None = None, *, keep: bool = False) -> None:
        """Bring the index in line with a plan and write the plan down, or with the one that is written down."""
        table = self._table
        with link.transaction():
            link.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [tables.LOCK, table.names[-1]])
            if keep:
                facts = tables.read_facts(link, table) or {}
                plan = SearchPlan.from_json(facts["plan"]) if facts.get("plan") else None
            else:
                form = sql.SQL("UPDATE {} SET facts = jsonb_set(facts, '{{plan}}', %s) WHERE name = %s")
                values = [Jsonb(plan.to_json() if plan else None), table.names[-1]]
                link.execute(form.format(table.meta.quoted), values)
            there = [name for name, role, _ in tables.indexes(link, table) if role == "shortlist"]
            wanted = table.index_name(plan) if plan is not None and plan.kind != "flat" else None
            if wanted is not None and wanted not in there and (rows := tables.count(link, table)):
                assert plan is not None
                tables.create_index(link, table, plan, rows)
            link.execute(sql.SQL("ANALYZE {}").format(table.quoted), {})
            for name in there:  # last, as it holds off searches until the end of the transaction
                if name != wanted:
                    link.execute(sql.SQL("DROP INDEX {}").format(quoted(*table.names[:-1], name)), {})
        self.settings = replace(self.settings, plan=plan)

    def _search(self, link: Link, vectors: np.ndarray, k: int, where: Where | None, plan: SearchPlan | None) -> Found:
        """By a plan, or by comparing with every full vector."""
        with link.transaction():
            conditions = check_where(where, tables.own_types(tables.columns(link, self._table))) if where else ()
            found, few = Found.nothing(len(vectors), k), np.arange(len(vectors))
            depth, wanted, last = None, 0, self.width
            if plan is not None:
                steps = plan.steps(self.width, k) or [(plan.dim, k)]
                wanted, last = steps[0][1], steps[-1][0]
                if plan.kind == "flat" and plan.single and plan.precision != "binary":
                    plan = None  # the same rows, without a shortlist to write down
            if plan is not None and conditions and plan.kind != "flat":
                rows, share = tables.selectivity(link, self._table, conditions)
                depth = math.ceil(_FARTHER * wanted / share)
                if rows < _FARTHER * _WALK * wanted:
                    plan = None
            if plan is not None:
                tables.apply(link, tables.settings(plan, wanted, self._connection.pgvector, depth))
                found, given = self._run(link, vectors, k, statements.search(self._table, plan, k, conditions, depth))
                few = np.flatnonzero(given < (k if depth is None else wanted))
                if plan.kind == "flat" or not len(few):
                    return found
            tables.apply(link, {"enable_indexscan": "off", "jit": "off"})
            rest, _ = self._run(link, vectors[few], k, statements.exact(self._table, last, k, conditions))
            found.ids[few], found.scores[few] = rest.ids, rest.scores
            return found

    def _run(self, link: Link, vectors: np.ndarray, k: int, statement: Statement) -> tuple[Found, np.ndarray]:
        """What a statement finds, and what it tells of the shortlist of each query, int64 (n,)."""
        found, given = Found.nothing(len(vectors), k), np.zeros(len(vectors), np.int64)
        text, parameters = statement
        for first in range(0, len(vectors), _QUERIES):
            queries = list(tables.as_stored(vectors[first : first + _QUERIES], self._table.column))
            # with conditions a plan made for their values beats one made for any
            rows = link.execute(text, {**parameters, "queries": queries}, prepare=False if parameters else None)
            for number, nearest in itertools.groupby(rows, key=lambda row: row[0]):
                for place, (_, id_, distance, candidates) in enumerate(nearest):
                    found.ids[first + number - 1, place] = id_
                    found.scores[first + number - 1, place] = 1 - distance
                    given[first + number - 1] = candidates
        return found, given


def _column(connection: Connection) -> Column:
    """What a URL says that a new table holds vectors in."""
    column: Any = connection.type or "halfvec"
    if column not in get_args(Column):
        raise ValueError(f"vectors of type {column!r} are unknown: choose halfvec (float16) or vector (float32)")
    return cast(Column, column)


def _storable(ids: Iterable[str]) -> list[str]:
    """Those that PostgreSQL can hold, each once: no NUL, and nothing that UTF-8 cannot write."""
    return [one for one in dict.fromkeys(ids) if "\0" not in one and is_unicode(one)]
