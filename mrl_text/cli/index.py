"""The commands ``mrl-text index build``, ``tune``, ``figure`` and ``mrl-text search``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrl_text.cli.common import BatchSize, Device, Dtype, DtypeOption, check_share, command, names, whole_numbers

if TYPE_CHECKING:
    import numpy as np

    from mrl_text import MatryoshkaEncoder
    from mrl_text.retrieval import AdaptiveIndex, SearchPlan, StageCost
    from mrl_text.retrieval.judged import Judged
    from mrl_text.retrieval.tune import Tuning

index_app = typer.Typer(help="Build, tune and measure a search index.", no_args_is_help=True)

_MB = 2**20
_SHOWN_TEXT = 160


class OnError(StrEnum):
    """Choices of ``--on-error``."""

    skip = "skip"
    fail = "fail"


class OnDuplicate(StrEnum):
    """Choices of ``--on-duplicate``."""

    fail = "fail"
    first = "first"
    last = "last"


class Metric(StrEnum):
    """Choices of ``--metric``."""

    ndcg = "ndcg@10"
    recall = "recall@10"


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the index.")]
Queries = Annotated[Path, typer.Option(help="JSON lines, CSV, TSV or Parquet with text (and _id), or .txt.")]
Qrels = Annotated[Path | None, typer.Option(help="Judgements: query-id, corpus-id, score (BEIR's qrels/test.tsv).")]
Dims = Annotated[str | None, typer.Option(help="Sizes, comma-separated; default: those of the model.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that searches are timed with.")]
Limit = Annotated[int, typer.Option(min=1, help="Queries to use; of more, so many are drawn at random.")]


@index_app.command("build")
@command
def build(
    corpus: Annotated[list[Path], typer.Argument(help="JSON lines (BEIR's corpus.jsonl), CSV, TSV, Parquet, .txt.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the index; one that is there goes on.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder, hub id or packaged model.")],
    dims: Dims = None,
    text_column: Annotated[
        str | None, typer.Option(help="Columns to encode, joined by a blank: title,body. Default: title and text.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Default: _id, id or the number of the row.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows to take, at most.")] = None,
    on_error: Annotated[OnError, typer.Option(help="What to do with rows without text.")] = OnError.skip,
    on_duplicate: Annotated[OnDuplicate, typer.Option(help="What to do with an id that is there.")] = OnDuplicate.fail,
    batch_size: BatchSize = 32,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Encode a corpus of any size into an index; interrupted, the same command goes on."""
    sizes = whole_numbers(dims, "--dims", "64,128,256")
    from mrl_text.quiet import quiet_libraries

    quiet_libraries()
    from mrl_text.retrieval.build import build as run_build

    report = run_build(
        corpus,
        output,
        model=model,
        dims=sizes,
        text_columns=names(text_column),
        id_column=id_column,
        limit=limit,
        on_error=on_error.value,
        on_duplicate=on_duplicate.value,
        batch_size=batch_size,
        device=device,
        dtype=dtype.value,
        progress=True,
    )
    if report.left_out:
        more = f"\n... and {report.left_out - len(report.problems)} more" * (report.left_out > len(report.problems))
        typer.echo(f"left out {report.left_out}:\n" + "\n".join(report.problems) + more, err=True)
    if report.duplicates:
        typer.echo(f"{report.duplicates} ids came again; the {on_duplicate.value} row was kept", err=True)
    memory = dict(report.memory)
    disk = memory.pop("disk", 0) / _MB
    typer.echo(
        f"{report.folder}: {report.rows:,} documents ({report.encoded:,} encoded now) in {report.seconds:.1f} s,"
        f" {sum(memory.values()) / _MB:,.1f} MB of memory, {disk:,.1f} MB of disk\nplan: {report.plan.label}"
    )


@index_app.command("tune")
@command
def tune(
    folder: Folder,
    queries: Queries,
    qrels: Qrels = None,
    keep: Annotated[float, typer.Option(help="Share of the score of exact full-width search to keep.")] = 0.99,
    metric: Annotated[
        Metric | None, typer.Option(help="Default: ndcg@10 with --qrels, else recall@10 of the exact results.")
    ] = None,
    threads: Threads = 1,
    max_ram: Annotated[float | None, typer.Option(help="MB that the shortlist may take.")] = None,
    dims: Dims = None,
    kinds: Annotated[
        str | None, typer.Option(help="flat,hnsw,ivf; default: all, and flat below 10,000 documents.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Start no further graph or cells after that.")] = 20,
    limit: Limit = 1000,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Find the fastest plan that keeps the target on sample queries, and write it into the index."""
    check_share(keep)
    sizes = whole_numbers(dims, "--dims", "64,128,256")
    index, judged, vectors = _encoded_queries(folder, queries, qrels, limit, device, dtype)
    from mrl_text.retrieval.tune import tune as run_tune

    found = run_tune(
        index,
        vectors,
        judged,
        keep=keep,
        metric=metric.value if metric else None,
        threads=threads,
        max_ram=int(max_ram * _MB) if max_ram is not None else None,
        dims=sizes,
        kinds=names(kinds) or None,  # type: ignore[arg-type]  # checked there
        minutes=minutes,
        progress=True,
    )
    index.close()
    _print_tuning(found, folder)


@index_app.command("figure")
@command
def figure(
    folder: Folder,
    queries: Queries,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for search.png and search.csv.")],
    qrels: Qrels = None,
    threads: Threads = 1,
    dims: Dims = None,
    dim: Annotated[int | None, typer.Option(help="Prefix of the shortlists; default: that of the plan.")] = None,
    limit: Limit = 1000,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Draw recall@10 and nDCG@10 against time per query and memory."""
    sizes = whole_numbers(dims, "--dims", "64,128,256")
    index, judged, vectors = _encoded_queries(folder, queries, qrels, limit, device, dtype)
    from mrl_text.retrieval.figure import figure as draw

    written = draw(index, vectors, judged, output, threads=threads, dims=sizes, dim=dim, progress=True)
    index.close()
    typer.echo("\n".join(map(str, written)))


@command
def search(
    folder: Folder,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 10,
    explain: Annotated[bool, typer.Option(help="Show what each step cost.")] = False,
    exact: Annotated[bool, typer.Option(help="Compare with every document at full width.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = None,
) -> None:
    """Search an index that mrl-text index build made."""
    if not query.strip():
        raise ValueError("the query is empty")
    if explain and exact:
        raise ValueError("--explain shows the steps of the plan: leave out --exact")
    index, model = _load(folder, device, "float32")
    vector = model.encode_query(query)
    costs: list[StageCost] = []
    if explain:
        hits, costs = index.explain(vector, k)
    else:
        hits = index.exact(vector, k) if exact else index.search(vector, k)
    texts = index.texts(hits.positions[0][hits.positions[0] >= 0])
    found = [
        {"rank": rank, "score": round(float(score), 4), "id": name, "text": text}
        for rank, (score, name, text) in enumerate(zip(hits.scores[0], hits.ids[0], texts, strict=False), start=1)
    ]
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
    if as_json:
        content = {"query": query, "results": found, **({"steps": steps} if steps else {})}
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{one['rank']:>3}  {one['score']:.4f}  {one['id']}  {_shortened(str(one['text'] or ''))}")
    if steps:
        _print_table(steps)


def _load(folder: Path, device: str | None, dtype: str) -> tuple[AdaptiveIndex, MatryoshkaEncoder]:
    """An index and the model it was built with."""
    from mrl_text.quiet import quiet_libraries
    from mrl_text.retrieval import AdaptiveIndex

    index = AdaptiveIndex.load(folder)
    quiet_libraries()
    from mrl_text.retrieval.build import load_model

    return index, load_model(index, device, dtype)


def _encoded_queries(
    folder: Path, queries: Path, qrels: Path | None, limit: int, device: str | None, dtype: Dtype
) -> tuple[AdaptiveIndex, Judged, np.ndarray]:
    from mrl_text.retrieval import AdaptiveIndex
    from mrl_text.retrieval.judged import read_judged

    known = AdaptiveIndex.load(folder).__contains__
    judged = read_judged(queries, qrels, known=known, limit=limit)  # before the model is loaded
    index, model = _load(folder, device, dtype.value)
    return index, judged, model.encode_query(judged.texts)


def _print_tuning(found: Tuning, folder: Path) -> None:
    rows = []
    for trial in found.trials:
        chosen, other = trial.retention or (None, None)
        rows.append(
            {
                "plan": f"{_label(trial.plan)}{' *' * (trial == found.chosen)}",
                "kept %": _number(chosen, 100),
                "other half": _number(other, 100),
                "ms": _number(trial.timing.single if trial.timing else None, 1000, 3),
                "ms in batch": _number(trial.timing.batch if trial.timing else None, 1000, 3),
                "MB": _number(trial.ram, 1 / _MB),
                "": trial.note,
            }
        )
    _print_table(rows)
    plan, (first, other) = found.chosen, found.chosen.retention or (0.0, 0.0)
    number, rest = found.queries
    typer.echo(
        f"\nexact search: {found.metric} {100 * found.scores[0]:.2f} on the {number} queries chosen by,"
        f" {100 * found.scores[1]:.2f} on the other {rest}; times with {found.threads} thread{'s'[: found.threads > 1]}"
    )
    typer.echo(f"chosen: {_label(plan.plan)}, keeps {100 * first:.2f} % and {100 * other:.2f} %")
    if found.exact and found.exact.timing and plan.timing and plan.ram and found.exact.ram:
        faster, smaller = found.exact.timing.single / plan.timing.single, found.exact.ram / plan.ram
        typer.echo(f"against all full vectors in memory: {faster:.1f} times faster, {smaller:.1f} times smaller")
    if found.refused:
        typer.echo(f"{found.refused} cheaper plans held on the first half and not on the other")
    if not found.confirmed:
        typer.echo(f"NOT CONFIRMED: no plan keeps {found.keep:.2%} on both halves; take more queries", err=True)
    typer.echo(f"written into {folder}, all of it in {folder / 'tune.json'}")


def _label(plan: SearchPlan) -> str:
    return plan.label if plan.kind == "flat" else f"{plan.label}, effort {plan.effort}"


def _number(value: float | None, factor: float, digits: int = 2) -> str:
    return "" if value is None else f"{factor * value:,.{digits}f}"


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
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
