"""The SQL of a store in PostgreSQL. Names go in as quoted identifiers and values as parameters, never as text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from psycopg import sql

from mrl_text.search.columns import ColumnType
from mrl_text.search.filters import Condition, Conditions, Either
from mrl_text.search.plan import SearchPlan
from mrl_text.search.store import Prefix, Range

Column = Literal["halfvec", "vector"]
OWN = ("id", "embedding", "text")
SYSTEM = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
TYPES: dict[ColumnType, str] = {"text": "text", "int": "bigint", "float": "double precision", "bool": "boolean"}
"""Types of PostgreSQL by the types of the user's columns."""
PREFIX = "mrl_text_"
"""Of the names of everything that is made beside the table of a store."""
_LONGEST_NAME = 63
_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_MOST_NEIGHBOURS = 100
_LONGEST_VIEW = 1_000  # ef_construction
_INDEX_DIMS = {"bit": 64_000, "halfvec": 4_000, "vector": 2_000}
_EMBEDDING, _QUERY, _NOTHING, _NONE = sql.SQL("embedding"), sql.SQL("q.v"), sql.SQL(""), sql.SQL("0")
Statement = tuple[sql.Composed, dict[str, Any]]


def quoted(*names: str) -> sql.Composable:
    """Names as an identifier in a statement with parameters, even none: psycopg reads ``%`` inside names too."""
    return sql.SQL(sql.Identifier(*names).as_string(None).replace("%", "%%"))


def listed(names: Iterable[str]) -> sql.Composed:
    """Names of columns, quoted, with commas between them."""
    return sql.SQL(", ").join(map(quoted, names))


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
    def regclass(self) -> str:
        """Its name as a value, for ``to_regclass``."""
        return str(sql.Identifier(*self.names).as_string(None))

    @property
    def meta(self) -> Table:
        """The table beside it that holds what is known about the stores of its schema."""
        return Table((*self.names[:-1], f"{PREFIX}stores"))

    def index_name(self, plan: SearchPlan) -> str:
        """Name of the index for a plan; tables of one schema share their names of indexes."""
        mark = hashlib.sha256(self.names[-1].encode()).hexdigest()[:8]
        graph = ""
        if plan.kind == "hnsw":
            graph = f"{plan.neighbours}_{plan.ef_construction}" if plan.ef_construction else str(plan.neighbours)
        return f"{PREFIX}{mark}_{plan.dim}_{plan.kind}{graph}_{self.stored(plan)}"

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
        if plan.precision not in ("float32", "float16", "binary"):
            raise ValueError(f"pgvector has no {plan.precision}: choose float32, float16 or binary")
        if plan.kind == "hnsw" and plan.neighbours > _MOST_NEIGHBOURS:
            raise ValueError(f"pgvector takes up to {_MOST_NEIGHBOURS} neighbours, the plan has {plan.neighbours}")
        if plan.kind == "hnsw" and not 2 * plan.neighbours <= plan.construction <= _LONGEST_VIEW:
            raise ValueError(
                f"pgvector takes an ef_construction from twice the neighbours, {2 * plan.neighbours}, to"
                f" {_LONGEST_VIEW:,}; the plan has {plan.construction:,}"
            )
        most = _INDEX_DIMS[self.stored(plan)]
        if plan.kind != "flat" and plan.dim > most:
            raise ValueError(
                f"an index of pgvector over {self.stored(plan)} takes up to {most:,} numbers, the plan has"
                f" {plan.dim:,}: choose a smaller dim, binary, or flat"
            )
        return plan

    def key(self, plan: SearchPlan, vector: sql.SQL = _EMBEDDING) -> sql.Composed:
        """What the shortlist compares of a vector. The index is over this very expression, or it is not used."""
        prefix = sql.SQL("subvector({}, 1, {})").format(vector, int(plan.dim))
        whole = sql.SQL("binary_quantize({})").format(prefix) if plan.precision == "binary" else prefix
        return sql.SQL("({}::{}({}))").format(whole, sql.SQL(self.stored(plan)), int(plan.dim))

    def distance(self, dim: int) -> sql.Composed:
        """Cosine distance of ``embedding`` to the query ``q.v`` at a size; 1 where there is none, as of zeros."""
        cut = "subvector(embedding, 1, {0}) <=> subvector(q.v, 1, {0})" if dim < self.width else "embedding <=> q.v"
        return sql.SQL(f"coalesce(nullif({cut}, 'NaN'::float8), 1)").format(int(dim))


def search(table: Table, plan: SearchPlan, k: int, conditions: Conditions, depth: int | None = None) -> Statement:
    """Shortlist by the prefix, then the steps of the plan: one statement, for any number of queries.

    Each step is a materialised expression, so that the planner cannot merge it with the next and lose the index. The
    conditions are those of :func:`mrl_text.search.filters.check_where`; with a depth they choose among so many
    rows that are nearest by the prefix. (An index that is read on under conditions until it has enough gives other rows
    than the nearest once it has seen as many as it may.)

    Returns:
        The statement, which wants the parameter ``queries`` too, and its other parameters. It gives rows of
        (number of the query from 1, id, cosine distance, length of its shortlist), nearest first.
    """
    steps = plan.steps(table.width, k) or [(plan.dim, k)]
    which, parameters = _where(conditions)
    nearer = sql.SQL("<~>" if plan.precision == "binary" else "<=>")
    order = sql.SQL("{} {} {}").format(table.key(plan), nearer, table.key(plan, _QUERY))
    orders = [order, *(table.distance(dim) for (dim, _), _ in pairwise(steps))]
    stage = sql.SQL("{} AS MATERIALIZED (SELECT id, embedding FROM {} {} ORDER BY {} LIMIT {})")
    stages, source = [], table.quoted
    if depth is not None:
        nearest = sql.SQL("(SELECT * FROM {} ORDER BY {} LIMIT {}) AS near")
        source = nearest.format(table.quoted, order, int(depth))
    for level, (order, (_, kept)) in enumerate(zip(orders, steps, strict=True)):
        name = sql.SQL(f"stage{level}")
        stages.append(stage.format(name, source, _NOTHING if level else which, order, int(kept)))
        source = name
    last = _nearest(table, steps[-1][0], source, _NOTHING, k, sql.SQL("(SELECT count(*) FROM stage0)"))
    return _for_each_query(plan.kind, sql.SQL("WITH {} {}").format(sql.SQL(", ").join(stages), last)), parameters


def exact(table: Table, dim: int, k: int, conditions: Conditions) -> Statement:
    """Compare with every row at a size; as :func:`search` otherwise."""
    which, parameters = _where(conditions)
    return _for_each_query("exact", _nearest(table, dim, table.quoted, which, k)), parameters


def page(table: Table, names: Iterable[str], rows: int, conditions: Conditions, after: str | None) -> Statement:
    """So many rows behind an id, None being before all, in the order of ids: id, text, embedding, columns by name."""
    which, parameters = _where(conditions)
    if after is not None:
        which = sql.SQL("{} {} id > %(after)s").format(which, sql.SQL("AND" if conditions else "WHERE"))
        parameters["after"] = after
    form = sql.SQL("SELECT {} FROM {} {} ORDER BY id LIMIT {}")
    return form.format(listed(["id", "text", "embedding", *names]), table.quoted, which, int(rows)), parameters


def delete(table: Table, conditions: Conditions) -> Statement:
    """Take out the rows that meet the conditions."""
    which, parameters = _where(conditions)
    return sql.SQL("DELETE FROM {} {}").format(table.quoted, which), parameters


def meeting(table: Table, conditions: Conditions) -> Statement:
    """How many rows meet conditions, as the planner guesses: its plan as JSON. Nothing is read."""
    which, parameters = _where(conditions)
    return sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} {}").format(table.quoted, which), parameters


def _nearest(
    table: Table, dim: int, source: sql.Composable, which: sql.Composable, k: int, given: sql.SQL = _NONE
) -> sql.Composed:
    return sql.SQL("SELECT id, {} AS distance, {} AS given FROM {} {} ORDER BY distance, id LIMIT {}").format(
        table.distance(dim), given, source, which, int(k)
    )


def _for_each_query(kind: str, one: sql.Composable) -> sql.Composed:
    """The kind tells statements apart that are alike but run under other settings: the server keeps their plans."""
    return sql.SQL(
        "/* {} */ SELECT q.n, found.id, found.distance, found.given"
        " FROM unnest(%(queries)b) WITH ORDINALITY AS q (v, n)"
        " CROSS JOIN LATERAL ({}) AS found ORDER BY q.n, found.distance, found.id"
    ).format(sql.SQL(kind), one)


def _where(conditions: Conditions) -> tuple[sql.Composable, dict[str, Any]]:
    """The clause and its parameters."""
    parameters: dict[str, Any] = {}
    clause = _all(conditions, parameters)
    return (sql.SQL("WHERE {}").format(clause) if conditions else _NOTHING), parameters


def _all(conditions: Conditions, parameters: dict[str, Any]) -> sql.Composed:
    """Conditions that must all hold; their values come to the parameters."""
    return sql.SQL(" AND ").join([_one(condition, parameters) for condition in conditions])


def _one(condition: Condition | Either, parameters: dict[str, Any]) -> sql.Composable:
    if isinstance(condition, Either):
        either = sql.SQL(" OR ").join([_all(part, parameters) for part in condition.alternatives])
        return sql.SQL("({})").format(either)
    column, wanted = quoted(condition.column), condition.wanted

    def compared(operator: str, value: Any) -> sql.Composed:
        place = f"c{len(parameters)}"
        parameters[place] = value
        return sql.SQL(operator).format(column, sql.Placeholder(place))

    there = sql.SQL("{} IS NOT NULL").format(column)
    if wanted is None:
        return there if condition.negated else sql.SQL("{} IS NULL").format(column)
    if isinstance(wanted, Range):
        bounds = ((operator, getattr(wanted, bound)) for bound, operator in _OPERATORS.items())
        limits = [compared(f"{{}} {operator} {{}}", value) for operator, value in bounds if value is not None]
        held: sql.Composable = sql.SQL(" AND ").join([there, *limits])
    elif isinstance(wanted, Prefix):
        held = compared("{} ^@ {}", wanted.text) if "\0" not in wanted.text else sql.SQL("FALSE")
    else:  # no text in PostgreSQL has a NUL
        held = compared("{} = ANY({})", [one for one in wanted if not isinstance(one, str) or "\0" not in one])
    return sql.SQL("({} AND NOT ({}))").format(there, held) if condition.negated else held
