"""The commands ``mrl-text index info``, ``compact``, ``delete``, ``verify`` and ``export``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mrl_text.amounts import count
from mrl_text.cli import inputs
from mrl_text.cli.common import AsJson, FilledStore, WhereOption, print_table

_MB = 2**20


def info(store: FilledStore, as_json: AsJson = False) -> None:
    """Show what a store is and holds: rows, model, sizes, plan, columns, bytes."""
    from mrl_text.search.open import open_store
    from mrl_text.search.upkeep import describe

    with contextlib.closing(open_store(store)) as opened:
        found, label = describe(opened), opened.plan.label if opened.plan else "compares every full vector"
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    columns = ", ".join(f"{name} ({type_})" for name, type_ in found["columns"].items())
    shown: dict[str, Any] = {
        **{name: found[name] for name in ("store", "model", "revision", "width")},
        "rows": f"{found['rows']:,}",
        "removed": f"{found['removed']:,}, which still take up room: mrl-text index compact"
        if found["removed"]
        else "",
        "sizes": ", ".join(map(str, found["dims"])),
        "plan": label,
        "columns": columns,
        **{f"bytes, {name}": f"{size:,}" for name, size in found["bytes"].items()},
    }
    print_table([{"": name, " ": value} for name, value in shown.items() if value not in (None, "")])


def compact(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder of the index.", callback=inputs.store)],
) -> None:
    """Write an index in a folder anew without the rows that were removed or replaced."""
    from mrl_text.search.open import engine_of
    from mrl_text.search.urls import without_password

    if not engine_of(folder).abilities.in_process:
        raise ValueError(
            f"{without_password(folder)} clears up itself (PostgreSQL by VACUUM, Qdrant by its optimizer): compact is"
            " for an index in a folder"
        )
    from mrl_text.search import AdaptiveIndex

    with AdaptiveIndex.load(folder) as index:
        removed, before = index.removed, index.memory()["disk"]
        index.compact()
        after = index.memory()["disk"]
    typer.echo(f"{folder}: {before:,} bytes before, {after:,} now; {count(removed, 'removed row')} left out")


def delete(
    store: FilledStore,
    id_: Annotated[list[str] | None, typer.Option("--id", help="A row; may be given several times.")] = None,
    ids_file: Annotated[
        Path | None, typer.Option(help="Rows: .txt with an id a line, or a table with ids.", callback=inputs.table)
    ] = None,
    where: WhereOption = None,
) -> None:
    """Take rows out of a store, for good and without asking."""
    if bool(where) == (id_ is not None or ids_file is not None):
        raise ValueError("say which rows: --id and --ids-file, or --where")
    from mrl_text.search.conditions import parse_where
    from mrl_text.search.open import open_store
    from mrl_text.search.upkeep import delete_ids, read_ids
    from mrl_text.search.urls import without_password

    conditions = parse_where(where or [])
    ids = [*(id_ or []), *(read_ids(ids_file) if ids_file else [])]
    with contextlib.closing(open_store(store)) as opened:
        if conditions is not None:
            taken, missing = opened.delete_where(conditions), ""
            opened.flush()
        else:
            given, taken = delete_ids(opened, ids)
            missing = f", {count(given - taken, 'id')} not there" if given > taken else ""
        left = opened.count()
    if not taken:
        what = "meets the conditions" if where else "has such an id"
        typer.echo(f"no row of {without_password(store)} {what}: nothing was deleted", err=True)
        return
    typer.echo(f"{without_password(store)}: {count(taken, 'row')} deleted{missing}, {left:,} there now")


def verify(store: FilledStore) -> None:
    """Read all of a store and print everything that is wrong: files that changed, vectors that are none."""
    from mrl_text.search.open import engine_of
    from mrl_text.search.urls import without_password

    faults = 0
    for fault in engine_of(store).verify(store):
        typer.echo(fault)
        faults += 1
    if faults:
        raise ValueError(
            f"{without_password(store)} has {count(faults, 'fault')}, see above: restore it, or fill it anew"
        )
    typer.echo(f"{without_password(store)}: all was read, and nothing is wrong")


def export(
    store: FilledStore,
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="A new folder, for Parquet that can be pushed; or a .jsonl file.")
    ],
    where: WhereOption = None,
) -> None:
    """Write ids, texts, columns and vectors to files."""
    from mrl_text.search.conditions import parse_where
    from mrl_text.search.export import check_output
    from mrl_text.search.export import export as run_export
    from mrl_text.search.open import open_store

    conditions = parse_where(where or [])
    check_output(output)
    with contextlib.closing(open_store(store)) as opened:
        rows = run_export(opened, output, conditions)
    again = "" if output.suffix else f"; to fill another store with it: mrl-text index push STORE {output}"
    typer.echo(f"{output}: {count(rows, 'row')}{again}")
