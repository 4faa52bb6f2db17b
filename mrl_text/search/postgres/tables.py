"""What is asked of a PostgreSQL server about the table of a store, and told to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from mrl_text.search.columns import ColumnType
from mrl_text.search.plan import SearchPlan, cells
from mrl_text.search.postgres import sql as statements
from mrl_text.search.postgres.sql import Table

LOCK = 0x6D726C74
"""Number of the lock for creating stores and building their indexes."""
_MOST_EFFORT = 1_000  # hnsw.ef_search
_MOST_LISTS = 32_768
_ITERATIVE = (0, 8)
_GRAPH_MEMORY = 1 << 30


def read_facts(link: psycopg.Connection[Any], table: Table) -> dict[str, Any] | None:
    """What is known about a store; None where there is none."""
    there = link.execute(
        "SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL", [table.regclass, table.meta_regclass]
    ).fetchone()
    if there is None or not there[0]:
        return None
    row = link.execute(statements.read_facts(table), {"name": table.names[-1]}).fetchone()
    return row[0] if row else None


def create(link: psycopg.Connection[Any], table: Table, facts: dict[str, Any]) -> None:
    """The table and what is known about it, both or neither; again is fine, as ``made`` of the facts tells its own.

    Raises:
        FileExistsError: there is a table of that name that somebody else made.
    """
    with link.transaction():
        link.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])  # two at once would both begin the table of facts
        taken = link.execute("SELECT to_regclass(%s) IS NOT NULL", [table.regclass]).fetchone()
        if taken and taken[0]:
            known = read_facts(link, table)
            if known is not None and known == facts:  # committed, and the answer was lost
                return
            raise FileExistsError(
                f"there is a table {'.'.join(table.names)!r} already: open it, or choose another name"
            )
        link.execute(statements.create_meta(table), {})
        link.execute(statements.create_table(table), {})
        link.execute(statements.write_facts(table), {"name": table.names[-1], "facts": Jsonb(facts)})


def columns(link: psycopg.Connection[Any], table: Table) -> dict[str, str]:
    """PostgreSQL's types of the columns that are not the store's, by name, in the order of the table."""
    rows = link.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table.regclass],
    )
    return {name: type_ for name, type_ in rows if name not in statements.OWN}


def own_types(there: Mapping[str, str]) -> dict[str, ColumnType]:
    """The user's columns among them, with our types; those of other types were added by others and are left alone."""
    ours = {type_: name for name, type_ in statements.TYPES.items()}
    return {name: ours[type_] for name, type_ in there.items() if type_ in ours}


def column_types(link: psycopg.Connection[Any], table: Table) -> dict[str, ColumnType]:
    """Types of the user's own columns by name."""
    return own_types(columns(link, table))


def own_indexes(link: psycopg.Connection[Any], table: Table) -> list[str]:
    """Names of the indexes that were made for plans."""
    return [name for name, role, _ in _index_rows(link, table) if role == "shortlist"]


def _index_rows(link: psycopg.Connection[Any], table: Table) -> list[tuple[str, str, int]]:
    """Name, role and bytes of each index of the table; the role is the name for those of others."""
    rows = link.execute(
        "SELECT c.relname, i.indisprimary, pg_relation_size(c.oid) FROM pg_index AS i"
        " JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass(%s)",
        [table.regclass],
    )
    return [
        (name, "ids" if primary else "shortlist" if name.startswith(statements.PREFIX) else name, int(size))
        for name, primary, size in rows
    ]


def sizes(link: psycopg.Connection[Any], table: Table) -> dict[str, int]:
    """Bytes of the table and of its indexes by role."""
    row = link.execute("SELECT pg_table_size(to_regclass(%s))", [table.regclass]).fetchone()
    sizes = {"table": int(row[0]) if row and row[0] is not None else 0}
    for _, role, size in _index_rows(link, table):
        sizes[role] = sizes.get(role, 0) + size
    return sizes


def count(link: psycopg.Connection[Any], table: Table) -> int:
    """Rows of the table."""
    row = link.execute(sql.SQL("SELECT count(*) FROM {}").format(table.quoted), {}).fetchone()
    return int(row[0]) if row else 0


def grant_memory(link: psycopg.Connection[Any], wanted: int) -> None:
    """Memory for building an index in this transaction; a graph that does not fit is built many times slower."""
    row = link.execute("SELECT setting::bigint FROM pg_settings WHERE name = 'maintenance_work_mem'").fetchone()
    kilobytes = min(wanted, _GRAPH_MEMORY) // 1024
    if row and kilobytes > row[0]:
        link.execute("SELECT set_config('maintenance_work_mem', %s, true)", [f"{kilobytes}kB"])


def graph_bytes(table: Table, plan: SearchPlan, rows: int) -> int:
    """Memory that pgvector needs for building a graph, generously: codes, edges with their distances, its own notes."""
    code = {"bit": plan.dim // 8, "halfvec": 2 * plan.dim, "vector": 4 * plan.dim}[table.stored(plan)]
    return rows * (code + 48 * plan.neighbours + 256) + (64 << 20)


def lists(rows: int) -> int:
    """Cells of ``ivf``; as many as our own index has, so that ``effort`` means the same."""
    return min(cells(rows), _MOST_LISTS)


def apply(link: psycopg.Connection[Any], chosen: dict[str, str]) -> None:
    """Use settings for this transaction."""
    calls = sql.SQL(", ").join([sql.SQL("set_config({}, {}, true)").format(*pair) for pair in chosen.items()])
    link.execute(sql.SQL("SELECT {}").format(calls), prepare=False)


def settings(plan: SearchPlan, wanted: int, version: tuple[int, ...]) -> dict[str, str]:
    """How the server looks for a shortlist of so many rows; reading on until enough meet the conditions needs 0.8."""
    chosen = {"jit": "off"}  # compiling takes longer than the search
    if plan.kind == "flat":
        return {**chosen, "enable_indexscan": "off"}
    if plan.kind == "hnsw":
        chosen["hnsw.ef_search"] = str(min(_MOST_EFFORT, max(plan.effort, wanted)))
    else:
        chosen["ivfflat.probes"] = str(min(_MOST_LISTS, plan.effort))
    if version >= _ITERATIVE:
        chosen[f"{'hnsw' if plan.kind == 'hnsw' else 'ivfflat'}.iterative_scan"] = "relaxed_order"
    return chosen
