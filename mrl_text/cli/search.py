"""The command ``mrl-text search``."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any

import typer

from mrl_text.cli.common import Device, StoreUrl, TrustRemoteCode, WhereOption, print_table

_SHOWN_TEXT = 160


def search(
    store: StoreUrl,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 10,
    where: WhereOption = None,
    explain: Annotated[bool, typer.Option(help="Show what each step cost; of an index in a folder.")] = False,
    exact: Annotated[bool, typer.Option(help="Compare with every document at full width.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model: Annotated[str | None, typer.Option(help="Encodes the query; default: what made the vectors.")] = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Search what mrl-text index build or push made."""
    if not query.strip():
        raise ValueError("the query is empty")
    if explain and exact:
        raise ValueError("--explain shows the steps of the plan: leave out --exact")
    from mrl_text.search.checks import check_results, is_unicode
    from mrl_text.search.conditions import parse_where
    from mrl_text.search.open import engine_of, open_store

    check_results(k)
    if not is_unicode(query):
        raise ValueError(
            f"the query {query[:40]!r} has bytes that are no UTF-8, or half of a surrogate pair: take them out"
        )
    conditions = parse_where(where or [])
    if explain and (conditions or not engine_of(store).abilities.in_process):
        raise ValueError("--explain measures the steps of an index in a folder, without --where: leave it out")
    with contextlib.closing(open_store(store)) as opened:
        from mrl_text.search.query_model import load_model

        vector = load_model(opened, model, device=device, trust_remote_code=trust_remote_code).encode_query(query)
        hits, costs = opened.explain(vector, k) if explain else (None, [])
        hits = hits or (opened.exact if exact else opened.search)(vector, k, where=conditions)
        ids = [name for name in hits.ids[0] if name is not None]
        documents = opened.documents(ids)
    if not ids:
        typer.echo(f"no row of {opened} meets the conditions", err=True)
    found: list[dict[str, Any]] = []
    for rank, (name, score, document) in enumerate(zip(ids, hits.scores[0], documents, strict=False), start=1):
        columns = {"columns": document.columns} if document and document.columns else {}
        text = document.text if document else None
        found.append({"rank": rank, "score": round(float(score), 4), "id": name, "text": text, **columns})
    steps = []
    for cost in costs:
        spent, read = round(1000 * cost.seconds, 3), round(cost.bytes_read / 1024, 1)
        step = {"step": cost.name, "dim": cost.dim, "candidates": cost.candidates}
        steps.append({**step, "milliseconds": spent, "kilobytes_read": read})
    if as_json:
        content = {"query": query, "results": found, **({"steps": steps} if steps else {})}
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{one['rank']:>3}  {one['score']:.4f}  {one['id']}  {_shortened(str(one['text'] or ''))}")
    if steps:
        print_table(steps)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_TEXT else f"{line[: _SHOWN_TEXT - 1]}…"
