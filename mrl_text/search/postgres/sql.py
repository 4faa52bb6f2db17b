"""The SQL of a store in PostgreSQL. Names go in as quoted identifiers and values as parameters, never as text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from psycopg import sql

from mrl_text.search.columns import ColumnType
from mrl_text.search.filters import Conditions
from mrl_text.search.plan import SearchPlan
from mrl_text.search.store import Range

Column = Literal["halfvec", "vector"]
STAGING = ("pg_temp", "mrl_text_new")
OWN = ("id", "embedding", "text")
SYSTEM = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
TYPES: dict[ColumnType, str] = {"text": "text", "int": "bigint", "float": "double precision", "bool": "boolean"}
"""Types of PostgreSQL by the types of the user's columns."""
PREFIX = "mrl_text_"
"""Of the names of everything that is made beside the table of a store."""
_LONGEST_NAME = 63
_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_MOST_NEIGHBOURS = 100
_INDEX_DIMS = {"bit": 64_000, "halfvec": 4_000, "vector": 2_000}
_CONSTRUCTION = 100  # as for FAISS
Statement = tuple[sql.Composed, dict[str, Any]]


def quoted(*names: str) -> sql.Composable:
    """Names as an identifier in a statement with parameters, even none: psycopg reads ``%`` inside names too."""
    return sql.SQL(sql.Identifier(*names).as_string(None).replace("%", "%%"))


def check_name(name: str, word: str) -> str:
    """A name that PostgreSQL takes as it is.

    Raises:
        ValueError: empty, beyond 63 bytes (PostgreSQL would cut it), or with a NUL.
    """
    if not name or "\0" in name or len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise ValueError(
            f"the {word} {name!r:.80} must have 1 to {_LONGEST_NAME} bytes and no NUL: choose another name"
        )
    return name


@dataclass(frozen=True)
class Table:
    """A table, and how it holds vectors.

    Attributes:
        names: its name, after that of its schema where one was given.
        column: type of the column of vectors.
        width: numbers of a vector.
    """

    names: tuple[str, ...]
    column: Column = "halfvec"
    width: int = 0

    @property
    def quoted(self) -> sql.Composable:
        """Its name, to be put into a statement."""
        return quoted(*self.names)

    @property
    def meta(self) -> sql.Composable:
        """Name of the table beside it that holds what is known about it."""
        return quoted(*self._meta)

    @property
    def regclass(self) -> str:
        """Its name as a value, for ``to_regclass``."""
        return str(sql.Identifier(*self.names).as_string(None))

    @property
    def meta_regclass(self) -> str:
        """The name of :attr:`meta` as a value."""
        return str(sql.Identifier(*self._meta).as_string(None))

    @property
    def _meta(self) -> tuple[str, ...]:
        return (*self.names[:-1], f"{PREFIX}stores")

    def index_name(self, plan: SearchPlan) -> str:
        """Name of the index for a plan; tables of one schema share their names of indexes."""
        mark = hashlib.sha256(self.names[-1].encode()).hexdigest()[:8]
        edges = plan.neighbours if plan.kind == "hnsw" else ""
        return f"{PREFIX}{mark}_{plan.dim}_{plan.kind}{edges}_{self.stored(plan)}"

    def stored(self, plan: SearchPlan) -> str:
        """Type that the index of a plan holds prefixes in: halfvec is enough for what came from a halfvec."""
        if plan.precision == "binary":
            return "bit"
        return "halfvec" if self.column == "halfvec" or plan.precision == "float16" else "vector"

    def check(self, plan: SearchPlan) -> SearchPlan:
        """This plan, if pgvector can follow it.

        Raises:
            ValueError: a precision that it does not have, or more numbers or neighbours than an index takes.
        """
        plan.check(self.width)
        if plan.precision in ("int8", "int4"):
            raise ValueError(f"pgvector has no {plan.precision}: choose float32, float16 or binary")
        if plan.kind == "hnsw" and plan.neighbours > _MOST_NEIGHBOURS:
            raise ValueError(f"pgvector takes up to {_MOST_NEIGHBOURS} neighbours, the plan has {plan.neighbours}")
        most = _INDEX_DIMS[self.stored(plan)]
        if plan.kind != "flat" and plan.dim > most:
            raise ValueError(
                f"an index of pgvector over {self.stored(plan)} takes up to {most:,} numbers, the plan has"
                f" {plan.dim:,}: choose a smaller dim, binary, or flat"
            )
        return plan

    def key(self, plan: SearchPlan, vector: sql.Composable) -> sql.Composed:
        """What the shortlist compares of a vector. The index is over this very expression, or it is not used."""
        prefix = sql.SQL("subvector({}, 1, {})").format(vector, number(plan.dim))
        whole = sql.SQL("binary_quantize({})").format(prefix) if plan.precision == "binary" else prefix
        return sql.SQL("({}::{}({}))").format(whole, sql.SQL(self.stored(plan)), number(plan.dim))

    def distance(self, dim: int) -> sql.Composed:
        """Cosine distance of ``embedding`` to the query ``q.v`` at a size; 1 where a prefix is zero."""
        if dim == self.width:
            return sql.SQL("({0} <=> {1})").format(sql.SQL("embedding"), sql.SQL("q.v"))
        return sql.SQL(
            "coalesce(nullif(subvector(embedding, 1, {0}) <=> subvector(q.v, 1, {0}), 'NaN'::float8), 1)"
        ).format(number(dim))


def number(value: int) -> sql.SQL:
    """A whole number as it is: statements that define something take no parameters."""
    return sql.SQL(str(int(value)))


def create_table(table: Table) -> sql.Composed:
    """Ids sort by their bytes, whatever the database's language is."""
    return sql.SQL('CREATE TABLE {} (id text COLLATE "C" PRIMARY KEY, embedding {}({}) NOT NULL, text text)').format(
        table.quoted, sql.SQL(table.column), number(table.width)
    )


def create_meta(table: Table) -> sql.Composed:
    """One table in each schema for what is known about the stores in it."""
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, facts jsonb NOT NULL)").format(table.meta)


def write_facts(table: Table) -> sql.Composed:
    """Wants ``name`` and ``facts``; what a table of that name left behind is replaced."""
    return sql.SQL(
        "INSERT INTO {} (name, facts) VALUES (%(name)s, %(facts)s)"
        " ON CONFLICT (name) DO UPDATE SET facts = EXCLUDED.facts"
    ).format(table.meta)


def read_facts(table: Table) -> sql.Composed:
    """Wants ``name``."""
    return sql.SQL("SELECT facts FROM {} WHERE name = %(name)s").format(table.meta)


def write_plan(table: Table) -> sql.Composed:
    """Wants ``name`` and ``plan``."""
    return sql.SQL("UPDATE {} SET facts = jsonb_set(facts, '{{plan}}', %(plan)s) WHERE name = %(name)s").format(
        table.meta
    )


def add_column(table: Table, name: str, type_: ColumnType) -> sql.Composed:
    """A column of the user's."""
    return sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}").format(
        table.quoted,
        quoted(check_name(name, "column")),
        sql.SQL(TYPES[type_]),
    )


def lock(table: Table) -> sql.Composed:
    """What adding rows will hold anyway."""
    return sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(table.quoted)


def create_staging(table: Table, columns: Sequence[str]) -> sql.Composed:
    """An empty table of the session's own with these columns, gone at the end of the transaction.

    Unlike ``LIKE``, the form takes over no ``NOT NULL`` of columns that others added.
    """
    names = sql.SQL(", ").join([quoted(name) for name in columns])
    return sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
        quoted(STAGING[1]), names, table.quoted
    )


def copy(columns: Sequence[str]) -> sql.Composed:
    """Rows of ids, vectors, texts and the user's columns into the staging table; to be run without parameters."""
    names = sql.SQL(", ").join([sql.Identifier(name) for name in (*OWN, *columns)])
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(*STAGING), names)


def documents(table: Table, columns: Sequence[str]) -> sql.Composed:
    """Wants ``ids``."""
    names = sql.SQL(", ").join([quoted(name) for name in ("id", "text", *columns)])
    return sql.SQL("SELECT {} FROM {} WHERE id = ANY(%(ids)s)").format(names, table.quoted)


def create_index(table: Table, plan: SearchPlan, lists: int) -> sql.Composed:
    """The index that a plan's shortlist is found by.

    Args:
        table: to be indexed.
        plan: ``hnsw`` or ``ivf``.
        lists: cells of ``ivf``.
    """
    stored = table.stored(plan)
    method, options = (
        "hnsw",
        f"m = {int(plan.neighbours)}, ef_construction = {max(_CONSTRUCTION, 2 * plan.neighbours)}",
    )
    if plan.kind == "ivf":
        method, options = "ivfflat", f"lists = {int(lists)}"
    return sql.SQL("CREATE INDEX {} ON {} USING {} ({} {}) WITH ({})").format(
        quoted(table.index_name(plan)),
        table.quoted,
        sql.SQL(method),
        table.key(plan, sql.SQL("embedding")),
        sql.SQL("bit_hamming_ops" if stored == "bit" else f"{stored}_cosine_ops"),
        sql.SQL(options),
    )


def search(table: Table, plan: SearchPlan, k: int, conditions: Conditions) -> Statement:
    """Shortlist by the prefix, then the steps of the plan: one statement, for any number of queries.

    Each step is a materialised expression, so that the planner cannot merge it with the next and lose the index.

    Args:
        table: to be searched.
        plan: how.
        k: results wanted.
        conditions: as :func:`mrl_text.search.filters.check_where` gives them.

    Returns:
        The statement, which wants the parameter ``queries`` too, and its other parameters. It gives rows of
        (number of the query from 1, id, cosine distance), nearest first.
    """
    steps = plan.steps(table.width, k) or [(plan.dim, k)]
    which, parameters = _where(conditions)
    order = sql.SQL("{} {} {}").format(
        table.key(plan, sql.SQL("embedding")),
        sql.SQL("<~>" if plan.precision == "binary" else "<=>"),
        table.key(plan, sql.SQL("q.v")),
    )
    stages = [_stage(0, table.quoted, which, order, steps[0][1])]
    for level, ((dim, _), (_, kept)) in enumerate(pairwise(steps), 1):
        stages.append(_stage(level, number_of(level - 1), sql.SQL(""), table.distance(dim), kept))
    last = _nearest(table, steps[-1][0], number_of(len(stages) - 1), sql.SQL(""), k)
    return _for_each_query(plan.kind, sql.SQL("WITH {} {}").format(sql.SQL(", ").join(stages), last)), parameters


def exact(table: Table, dim: int, k: int, conditions: Conditions) -> Statement:
    """Compare with every row at a size; as :func:`search` otherwise."""
    which, parameters = _where(conditions)
    return _for_each_query("exact", _nearest(table, dim, table.quoted, which, k)), parameters


def upsert(table: Table, columns: Sequence[str]) -> sql.Composed:
    """Rows of the staging table into the other; a row whose id is there is replaced, in all columns."""
    names = sql.SQL(", ").join(quoted(name) for name in columns)
    replaced = sql.SQL(", ").join(
        sql.SQL("{0} = EXCLUDED.{0}").format(quoted(name)) for name in columns if name != "id"
    )
    return sql.SQL("INSERT INTO {0} ({1}) SELECT {1} FROM {2} ON CONFLICT (id) DO UPDATE SET {3}").format(
        table.quoted, names, quoted(*STAGING), replaced
    )


def number_of(level: int) -> sql.SQL:
    """Name of a step in a statement."""
    return sql.SQL(f"stage{int(level)}")


def _stage(level: int, source: sql.Composable, which: sql.Composable, order: sql.Composable, kept: int) -> sql.Composed:
    return sql.SQL("{} AS MATERIALIZED (SELECT id, embedding FROM {} {} ORDER BY {} LIMIT {})").format(
        number_of(level), source, which, order, number(kept)
    )


def _nearest(table: Table, dim: int, source: sql.Composable, which: sql.Composable, k: int) -> sql.Composed:
    return sql.SQL("SELECT id, {} AS distance FROM {} {} ORDER BY distance, id LIMIT {}").format(
        table.distance(dim), source, which, number(k)
    )


def _for_each_query(kind: str, one: sql.Composable) -> sql.Composed:
    """The kind tells statements apart that are alike but run under other settings: the server keeps their plans."""
    return sql.SQL(
        "/* {} */ SELECT q.n, found.id, found.distance FROM unnest(%(queries)b) WITH ORDINALITY AS q (v, n)"
        " CROSS JOIN LATERAL ({}) AS found ORDER BY q.n, found.distance, found.id"
    ).format(sql.SQL(kind), one)


def _where(conditions: Conditions) -> tuple[sql.Composable, dict[str, Any]]:
    """The clause and its parameters."""
    parts: list[sql.Composable] = []
    parameters: dict[str, Any] = {}
    for position, (name, condition) in enumerate(conditions.items()):
        if not isinstance(condition, Range):
            parts.append(sql.SQL("{} = ANY({})").format(quoted(name), sql.Placeholder(f"c{position}")))
            parameters[f"c{position}"] = list(condition)
            continue
        parts.append(sql.SQL("{} IS NOT NULL").format(quoted(name)))
        for bound, operator in _OPERATORS.items():
            if (value := getattr(condition, bound)) is not None:
                parameter = f"c{position}{bound}"
                parts.append(sql.SQL("{} {} {}").format(quoted(name), sql.SQL(operator), sql.Placeholder(parameter)))
                parameters[parameter] = value
    return (sql.SQL("WHERE {}").format(sql.SQL(" AND ").join(parts)) if parts else sql.SQL("")), parameters
