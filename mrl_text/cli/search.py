"""The command ``mrl-text search``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrl_text.cli.common import Device, command

if TYPE_CHECKING:
    from mrl_text.search import StageCost

_SHOWN_TEXT = 160
Results = list[dict[str, Any]]

StoreUrl = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="DIR, postgresql://USER@HOST/DATABASE?table=NAME, qdrant://HOST:6333/COLLECTION, qdrant:DIR#COLLECTION.",
    ),
]


@command
def search(
    store: StoreUrl,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 10,
    where: Annotated[
        list[str] | None, typer.Option(help="Rows to search: lang=en,de or 'year>=2020'; may be given several times.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="Show what each step cost; of an index in a folder.")] = False,
    exact: Annotated[bool, typer.Option(help="Compare with every document at full width.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model: Annotated[str | None, typer.Option(help="Encodes the query; default: what made the vectors.")] = None,
    device: Device = None,
) -> None:
    """Search what mrl-text index build or push made."""
    if not query.strip():
        raise ValueError("the query is empty")
    if explain and exact:
        raise ValueError("--explain shows the steps of the plan: leave out --exact")
    from mrl_text.search.conditions import parse_where
    from mrl_text.search.open import engine_of

    conditions = parse_where(where or [])
    if explain and (engine_of(store) != "faiss" or conditions):
        raise ValueError("--explain measures the steps of an index in a folder, without --where: leave it out")
    if explain:
        found, steps = _explained(Path(store), query, k, model, device)
    else:
        found, steps = _found(store, query, k, conditions, exact, model, device), []
    if as_json:
        content = {"query": query, "results": found, **({"steps": steps} if steps else {})}
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{one['rank']:>3}  {one['score']:.4f}  {one['id']}  {_shortened(str(one['text'] or ''))}")
    if steps:
        print_table(steps)


def _found(url: str, query: str, k: int, where: Any, exact: bool, model: str | None, device: str | None) -> Results:
    from mrl_text.quiet import quiet_libraries
    from mrl_text.search import open_store

    with contextlib.closing(open_store(url)) as store:
        quiet_libraries()
        from mrl_text.search.query_model import load_model

        vector = load_model(store, model, device=device).encode_query(query)
        hits = (store.exact if exact else store.search)(vector, k, where=where)
        ids = [name for name in hits.ids[0] if name is not None]
        documents = store.documents(ids)
    results = _results(ids, hits.scores[0], [one.text if one else None for one in documents])
    for result, document in zip(results, documents, strict=True):
        if document and document.columns:
            result["columns"] = document.columns
    return results


def _explained(folder: Path, query: str, k: int, model: str | None, device: str | None) -> tuple[Results, Results]:
    """Results, and what each step cost."""
    from mrl_text.quiet import quiet_libraries
    from mrl_text.search.faiss.store import FaissStore

    with contextlib.closing(FaissStore.open(str(folder))) as store:
        quiet_libraries()
        from mrl_text.search.query_model import load_model

        costs: list[StageCost]
        hits, costs = store.index.explain(load_model(store, model, device=device).encode_query(query), k)
        rows = hits.positions[0][hits.positions[0] >= 0]
        results = _results(hits.ids[0][: len(rows)], hits.scores[0], store.index.texts(rows))
    steps = [
        {
            "step": cost.name,
            "dim": cost.dim,
            "candidates": cost.candidates,
            "milliseconds": round(1000 * cost.seconds, 3),
            "kilobytes_read": round(cost.bytes_read / 1024, 1),
        }
        for cost in costs
    ]
    return results, steps


def _results(ids: Sequence[str], scores: Sequence[float], texts: Sequence[str | None]) -> Results:
    return [
        {"rank": rank, "score": round(float(score), 4), "id": name, "text": text}
        for rank, (score, name, text) in enumerate(zip(scores, ids, texts, strict=False), start=1)
    ]


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Columns as wide as their longest cell; the first and a column without a name to the left."""
    columns = list(rows[0])
    cells = [columns, *([str(row[name]) for name in columns] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    for row in cells:
        aligned = [
            cell.ljust(width) if name in (columns[0], "") else cell.rjust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        typer.echo("  ".join(aligned).rstrip())


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_TEXT else f"{line[: _SHOWN_TEXT - 1]}…"
