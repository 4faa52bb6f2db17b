"""What is asked of a PostgreSQL server about the table of a store, and told to it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from pgvector import HalfVector, Vector
from psycopg import Rollback, sql
from psycopg.types.json import Jsonb

from mrl_text.search.columns import ColumnType, as_type, merge_types
from mrl_text.search.filters import Conditions
from mrl_text.search.plan import SearchPlan, cells
from mrl_text.search.postgres.connection import Link
from mrl_text.search.postgres.sql import OWN, PREFIX, TYPES, Column, Table, check_name, listed, meeting, quoted
from mrl_text.search.store import Document

LOCK = 0x6D726C74
"""Number of the lock for creating stores and building their indexes."""
_MOST_EFFORT = 1_000  # hnsw.ef_search
_MOST_LISTS = 32_768
_ITERATIVE = (0, 8)
_MOST_TUPLES, _MOST_MEMORY = 2**31 - 1, 100  # of a walk that goes on: beyond, what it gives is not the nearest
_GRAPH_MEMORY = 1 << 30


def value(link: Link, statement: Any, *parameters: Any) -> Any:
    """The first value of the first row that a statement gives; None where it gives none."""
    row = link.execute(statement, parameters).fetchone()
    return row[0] if row else None


def read_facts(link: Link, table: Table) -> dict[str, Any] | None:
    """What is known about a store; None where there is none."""
    both = "SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL"
    if not value(link, both, table.regclass, table.meta.regclass):
        return None
    statement = sql.SQL("SELECT facts FROM {} WHERE name = %s").format(table.meta.quoted)
    facts = value(link, statement, table.names[-1])
    return facts if isinstance(facts, dict) or facts is None else {}


def create(link: Link, table: Table, facts: dict[str, Any], *, trial: bool = False) -> None:
    """The table and what is known about it, both or neither; again is fine, as ``made`` of the facts tells its own.

    ``trial`` takes all of it back at the end.

    Raises:
        FileExistsError: there is a table of that name that somebody else made.
    """
    with link.transaction():
        link.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])  # two at once would both begin the table of facts
        if read_facts(link, table) == facts:  # committed, and the answer was lost
            return
        check_free(link, table)
        form = "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, facts jsonb NOT NULL)"
        link.execute(sql.SQL(form).format(table.meta.quoted), {})
        # ids sort by their bytes, whatever the database's language is
        form = 'CREATE TABLE {} (id text COLLATE "C" PRIMARY KEY, embedding {}({}) NOT NULL, text text)'
        link.execute(sql.SQL(form).format(table.quoted, sql.SQL(table.column), table.width), {})
        form = "INSERT INTO {} (name, facts) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET facts = EXCLUDED.facts"
        link.execute(sql.SQL(form).format(table.meta.quoted), [table.names[-1], Jsonb(facts)])
        if trial:
            raise Rollback


def drop(link: Link, table: Table) -> None:
    """The table and what is known about it, away, both or neither."""
    with link.transaction():
        link.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table.quoted), {})
        link.execute(sql.SQL("DELETE FROM {} WHERE name = %s").format(table.meta.quoted), [table.names[-1]])


def check_free(link: Link, table: Table) -> None:
    """Raise FileExistsError where there is a table of that name."""
    if value(link, "SELECT to_regclass(%s) IS NOT NULL", table.regclass):
        name = ".".join(table.names)
        raise FileExistsError(f"there is a table {name!r} already: open it, or choose another name")


def columns(link: Link, table: Table) -> dict[str, str]:
    """PostgreSQL's types of the columns that are not the store's, by name, in the order of the table."""
    rows = link.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table.regclass],
    )
    return {name: type_ for name, type_ in rows if name not in OWN}


def own_types(there: Mapping[str, str]) -> dict[str, ColumnType]:
    """The user's columns among them, with our types; those of other types were added by others and are left alone."""
    ours = {type_: name for name, type_ in TYPES.items()}
    return {name: ours[type_] for name, type_ in there.items() if type_ in ours}


def as_stored(vectors: np.ndarray, column: Column) -> Any:
    """Rows as pgvector takes them."""
    return map(HalfVector, vectors.astype(np.float16)) if column == "halfvec" else map(Vector, vectors)


def add(
    link: Link, table: Table, ids: Sequence[str], vectors: np.ndarray, texts: Sequence[str | None], own: dict[str, Any]
) -> None:
    """Put rows into the table, all or none, and new columns of the user's; a row whose id is there is replaced."""
    staging = ("pg_temp", "mrl_text_new")
    with link.transaction():
        merged = _add_columns(link, table, own)
        # before anything else of the table is held: whoever builds an index waits for that, and we for its end
        link.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(table.quoted), {})
        names = [name for name in own if name in merged]
        filled = [*OWN, *names]
        # of the session's own; unlike ``LIKE``, the form takes over no ``NOT NULL`` of columns that others added
        form = "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA"
        link.execute(sql.SQL(form).format(quoted(staging[1]), listed(filled), table.quoted), {})
        into = sql.SQL(", ").join(map(sql.Identifier, filled))  # a COPY has no parameters
        form = "COPY {} ({}) FROM STDIN (FORMAT BINARY)"
        with link.cursor().copy(sql.SQL(form).format(sql.Identifier(*staging), into)) as copy:
            copy.set_types(["text", table.column, "text", *(TYPES[merged[name]] for name in names)])
            values = [as_type(own[name], merged[name]) for name in names]
            for row in zip(ids, as_stored(vectors, table.column), texts, *values, strict=True):
                copy.write_row(row)
        # what is not given gets its default: null, unless the table's owner chose another, or has it generated
        renewed = [sql.SQL("{0} = EXCLUDED.{0}").format(quoted(name)) for name in filled[1:]]
        renewed += [sql.SQL("{} = DEFAULT").format(quoted(name)) for name in merged if name not in names]
        form = "INSERT INTO {0} AS had ({1}) SELECT {1} FROM {2} ON CONFLICT (id) DO UPDATE SET {3}"
        parts = table.quoted, listed(filled), quoted(*staging), sql.SQL(", ").join(renewed)
        if len(names) == len(merged):  # a row that is there just so stays: its old version would take up room
            form += " WHERE ({4}) IS DISTINCT FROM ({5})"
            parts = (
                *parts,
                *(sql.SQL(", ").join([quoted(which, one) for one in filled[1:]]) for which in ("had", "excluded")),
            )
        link.execute(sql.SQL(form).format(*parts), {})


def _add_columns(link: Link, table: Table, own: dict[str, Any]) -> dict[str, ColumnType]:
    """Types of all columns, once those that are new are there."""
    there = columns(link, table)
    known = own_types(there)
    merged = merge_types(known, own)
    for name, type_ in merged.items():
        if name not in known:
            _check_free_column(name, there)
            column, held = quoted(check_name(name, "column")), sql.SQL(TYPES[type_])
            form = "ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}"
            link.execute(sql.SQL(form).format(table.quoted, column, held), {})
    return merged


def check_addable(link: Link, table: Table, names: Collection[str]) -> None:
    """Raise what adding rows with columns of these names would; no row is added."""
    there = columns(link, table)
    new = [name for name in names if name not in own_types(there)]
    for name in new:
        _check_free_column(name, there)
    if new and not value(
        link, "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%s)", table.regclass
    ):
        raise PermissionError(
            f"only its owner can give the table the column {new[0]!r}: have it added, or leave it out with --keep"
        )
    add(link, table, [], np.empty((0, table.width), np.float32), [], {})


def _check_free_column(name: str, there: Mapping[str, str]) -> None:
    if name in there:
        raise ValueError(f"column {name!r} is {there[name]} in PostgreSQL, which is not filled: rename yours")


def indexes(link: Link, table: Table) -> list[tuple[str, str, int]]:
    """Name, role and bytes of each index of the table; the role is the name for those of others."""
    rows = link.execute(
        "SELECT c.relname, i.indisprimary, pg_relation_size(c.oid) FROM pg_index AS i"
        " JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass(%s)",
        [table.regclass],
    )
    return [
        (name, "ids" if primary else "shortlist" if name.startswith(PREFIX) else name, int(size))
        for name, primary, size in rows
    ]


def sizes(link: Link, table: Table) -> dict[str, int]:
    """Bytes of the table and of its indexes by role."""
    found = {"table": int(value(link, "SELECT pg_table_size(to_regclass(%s))", table.regclass) or 0)}
    for _, role, size in indexes(link, table):
        found[role] = found.get(role, 0) + size
    return found


def count(link: Link, table: Table) -> int:
    """Rows of the table."""
    return int(value(link, sql.SQL("SELECT count(*) FROM {}").format(table.quoted)))


def documents(link: Link, table: Table, ids: list[str]) -> dict[str, Document]:
    """Rows by id."""
    names = list(own_types(columns(link, table)))
    form = sql.SQL("SELECT {} FROM {} WHERE id = ANY(%s)")
    rows = link.execute(form.format(listed(["id", "text", *names]), table.quoted), [ids])
    return {id_: Document(id_, text, dict(zip(names, own, strict=True))) for id_, text, *own in rows}


def create_index(link: Link, table: Table, plan: SearchPlan, rows: int) -> None:
    """The index that the shortlist of a plan (``hnsw`` or ``ivf``) is found by, with memory to build it in."""
    stored = table.stored(plan)
    # codes, edges with their distances, pgvector's own notes; a graph that does not fit is built many times slower
    code = {"bit": plan.dim // 8, "halfvec": 2 * plan.dim, "vector": 4 * plan.dim}[stored]
    lists = min(cells(rows), _MOST_LISTS)
    wanted = min(rows * (code + 48 * plan.neighbours + 256) + (64 << 20), _GRAPH_MEMORY) // 1024
    if plan.kind == "ivf":  # a bound for each cell and each of the rows it is learned from, or it is not built
        wanted = (min(rows, max(50 * lists, 10_000)) * (4 * lists + code + 64) + (64 << 20)) // 1024
    if wanted > value(link, "SELECT setting::bigint FROM pg_settings WHERE name = 'maintenance_work_mem'"):
        apply(link, {"maintenance_work_mem": f"{wanted}kB"})
    method, options = "hnsw", f"m = {plan.neighbours:d}, ef_construction = {plan.construction:d}"
    if plan.kind == "ivf":  # as many cells as our own index has, so that ``effort`` means the same
        method, options = "ivfflat", f"lists = {lists}"
    statement = sql.SQL("CREATE INDEX {} ON {} USING {} ({} {}) WITH ({})").format(
        quoted(table.index_name(plan)),
        table.quoted,
        sql.SQL(method),
        table.key(plan),
        sql.SQL("bit_hamming_ops" if stored == "bit" else f"{stored}_cosine_ops"),
        sql.SQL(options),
    )
    link.execute(statement, {})


def apply(link: Link, chosen: dict[str, str]) -> None:
    """Use settings for this transaction."""
    calls = sql.SQL(", ").join([sql.SQL("set_config({}, {}, true)").format(*pair) for pair in chosen.items()])
    link.execute(sql.SQL("SELECT {}").format(calls), prepare=False)


def selectivity(link: Link, table: Table, conditions: Conditions) -> tuple[float, float]:
    """Rows that meet conditions, and their share of all, as the planner guesses from what ANALYZE saw."""
    statement, parameters = meeting(table, conditions)
    row = link.execute(statement, parameters, prepare=False).fetchone()
    assert row is not None
    rows = max(1.0, float(row[0][0]["Plan"]["Plan Rows"]))  # it says 0 of what no row can meet
    form = "SELECT greatest(reltuples, 1) FROM pg_class WHERE oid = to_regclass(%s)"
    return rows, min(1.0, rows / float(value(link, form, table.regclass)))


def settings(plan: SearchPlan, wanted: int, version: tuple[int, ...], depth: int | None = None) -> dict[str, str]:
    """How the server finds a shortlist of so many rows, among ``depth`` under conditions; reading on needs 0.8."""
    chosen = {"jit": "off"}  # compiling takes longer than the search
    if plan.kind == "flat":
        return {**chosen, "enable_indexscan": "off"}
    further = max(1.0, (depth or wanted) / wanted)
    if plan.kind == "ivf":
        return {**chosen, "ivfflat.probes": str(min(_MOST_LISTS, math.ceil(plan.effort * further)))}
    chosen["hnsw.ef_search"] = str(min(_MOST_EFFORT, max(plan.effort, wanted, 2 * (depth or 0))))
    if version < _ITERATIVE:
        return chosen
    chosen |= {"hnsw.iterative_scan": "relaxed_order", "hnsw.max_scan_tuples": str(_MOST_TUPLES)}
    return {**chosen, "hnsw.scan_mem_multiplier": str(_MOST_MEMORY)}
