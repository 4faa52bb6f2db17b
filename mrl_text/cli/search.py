"""The command ``mrl-text search``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrl_text.amounts import count
from mrl_text.choices import RunFormat
from mrl_text.cli import inputs
from mrl_text.cli.common import AsJson, Device, FilledStore, TrustRemoteCode, WhereOption, output_option, print_table

if TYPE_CHECKING:
    from mrl_text.search import StageCost

_SHOWN_TEXT = 160


def search(
    context: typer.Context,
    store: FilledStore,
    query: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="Instead of QUERY, a file: JSON lines, CSV, TSV or Parquet with text (and _id), or .txt; - is stdin.",
            callback=inputs.table,
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 10,
    where: WhereOption = None,
    explain: Annotated[bool, typer.Option(help="Show what each step cost; of an index in a folder.")] = False,
    exact: Annotated[bool, typer.Option(help="Compare with every document at full width.")] = False,
    as_json: AsJson = False,
    output: Annotated[Path | None, output_option("Of --queries: .jsonl, .csv or .trec, maybe .gz or .zst.")] = None,
    form: Annotated[
        RunFormat | None, typer.Option("--format", help="Of --queries; default: as --output ends, or jsonl.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Encodes the query; default: what made the vectors.", callback=inputs.model)
    ] = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Search what mrl-text index build or push made, for one query or for each of a file."""
    if (query is None) == (queries is None):
        raise ValueError("give what to look for, a QUERY or a file of them with --queries FILE, one of the two")
    if query is not None and not query.strip():
        raise ValueError("the query is empty")
    inputs.only_with(context, "queries", "output", "form")
    inputs.only_with(context, "query", "explain", "as_json")
    if explain and exact:
        raise ValueError("--explain shows the steps of the plan: leave out --exact")
    from mrl_text.search.checks import check_results, is_unicode
    from mrl_text.search.conditions import parse_where
    from mrl_text.search.filters import check_where
    from mrl_text.search.open import engine_of, open_store

    check_results(k)
    if query is not None and not is_unicode(query):
        raise ValueError(
            f"the query {query[:40]!r} has bytes that are no UTF-8, or half of a surrogate pair: take them out"
        )
    conditions = parse_where(where or [])
    if explain and not engine_of(store).abilities.in_process:
        raise ValueError("--explain measures the steps of an index in a folder: a database tells none, so leave it out")
    if explain and conditions:
        raise ValueError("--explain measures searches without conditions: leave out --where, or --explain")
    loading: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    if queries is not None:
        options: dict[str, Any] = {"k": k, "where": conditions, "exact": exact}
        _search_file(store, queries, output, form, {"name": model, **loading}, options)
        return
    with contextlib.closing(open_store(store)) as opened:
        from mrl_text.search.query_model import load_model
        from mrl_text.search.results import results

        check_where(conditions, opened.column_types())  # before a model is loaded
        vector = load_model(opened, model, **loading).encode_query(query)
        hits, costs = opened.explain(vector, k) if explain else (None, [])
        [found] = results(opened, hits or (opened.exact if exact else opened.search)(vector, k, where=conditions))
    if not found:
        typer.echo(f"no row of {opened} meets the conditions", err=True)
    found = [{**one, "score": round(one["score"], 4)} for one in found]
    steps = list(map(_step, costs))
    if as_json:
        content = {"query": query, "results": found, **({"steps": steps} if steps else {})}
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{one['rank']:>3}  {one['score']:.4f}  {one['id']}  {_shortened(str(one['text'] or ''))}")
    if steps:
        print_table(steps)


def _search_file(
    store: str,
    file: Path,
    output: Path | None,
    form: RunFormat | None,
    loading: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Search for each query of a file, and write what was found."""
    from mrl_text.search.open import open_store
    from mrl_text.search.query_file import RUN_SUFFIXES, checked_queries, search_queries, write_answers
    from mrl_text.search.query_model import load_model
    from mrl_text.search.urls import without_password
    from mrl_text.tables.write import open_output, output_kind

    chosen = form or "jsonl"
    if form is None and output is not None:
        chosen = output_kind(output, RUN_SUFFIXES, "results")
    queries = checked_queries(file, chosen)
    with contextlib.closing(open_store(store)) as opened, open_output(output) as stream:
        answers = search_queries(
            opened,
            queries,
            lambda: load_model(opened, **loading),
            fetch=chosen == "jsonl",  # the others hold ids alone
            progress=True,
            **options,
        )
        asked, empty = write_answers(answers, chosen, stream)
    if empty:
        meets = f"no row of {without_password(store)} meets the conditions"
        typer.echo(f"{empty:,} of {count(asked, 'query')} found nothing: {meets}", err=True)
    if output is not None:
        typer.echo(f"{output}: {count(asked, 'query')}, {count(options['k'], 'result')} each at most, as {chosen}")


def _step(cost: StageCost) -> dict[str, Any]:
    spent, read = round(1000 * cost.seconds, 3), round(cost.bytes_read / 1024, 1)
    return {
        "step": cost.name,
        "dim": cost.dim,
        "candidates": cost.candidates,
        "milliseconds": spent,
        "kilobytes_read": read,
    }


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_TEXT else f"{line[: _SHOWN_TEXT - 1]}…"
