"""The commands ``mrl-text index build``, ``push``, ``tune`` and ``figure``."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrl_text.choices import Dtype, OnError
from mrl_text.cli.common import BatchSize, Device, DtypeOption, check_share, command, names, whole_numbers
from mrl_text.cli.search import StoreUrl, print_table

if TYPE_CHECKING:
    import numpy as np

    from mrl_text import MatryoshkaEncoder
    from mrl_text.search import AdaptiveIndex, SearchPlan
    from mrl_text.search.sample_queries import Judged
    from mrl_text.search.tried import Tuning

index_app = typer.Typer(help="Build, tune and measure a search index.", no_args_is_help=True)

_MB = 2**20


class OnDuplicate(StrEnum):
    """Choices of ``--on-duplicate``."""

    fail = "fail"
    first = "first"
    last = "last"


class OnDuplicateRow(StrEnum):
    """Choices of ``--on-duplicate`` of a push."""

    fail = "fail"
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
    on_error: Annotated[OnError, typer.Option(help="What to do with rows without text.")] = "skip",
    on_duplicate: Annotated[OnDuplicate, typer.Option(help="What to do with an id that is there.")] = OnDuplicate.fail,
    batch_size: BatchSize = 32,
    device: Device = None,
    dtype: DtypeOption = "float32",
) -> None:
    """Encode a corpus of any size into an index; interrupted, the same command goes on."""
    sizes = whole_numbers(dims, "--dims", "64,128,256")
    from mrl_text.quiet import quiet_libraries

    quiet_libraries()
    from mrl_text.search.build import build as run_build

    report = run_build(
        corpus,
        output,
        model=model,
        dims=sizes,
        text_columns=names(text_column),
        id_column=id_column,
        limit=limit,
        on_error=on_error,
        on_duplicate=on_duplicate.value,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
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


@index_app.command("push")
@command
def push(
    store: StoreUrl,
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="A folder of mrl-text encode; or corpus files."),
    ],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Encodes corpus files.")] = None,
    dims: Dims = None,
    plan_dim: Annotated[int | None, typer.Option(help="Prefix that finds candidates; default: by the size.")] = None,
    kind: Annotated[str | None, typer.Option(help="With --plan-dim: hnsw (default), flat, ivf.")] = None,
    precision: Annotated[str | None, typer.Option(help="With --plan-dim: float16 (default), binary, int8, ...")] = None,
    shortlist: Annotated[int | None, typer.Option(help="With --plan-dim: candidates; default 200.")] = None,
    effort: Annotated[int | None, typer.Option(help="With --plan-dim: candidates a walk keeps in view; 200.")] = None,
    keep: Annotated[str | None, typer.Option(help="Columns to store beside id and text: lang,year.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Of corpus files: columns to encode.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Of corpus files: default _id, id or the number.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of corpus files to take, at most.")] = None,
    on_error: Annotated[OnError, typer.Option(help="What to do with rows without text.")] = "skip",
    on_duplicate: Annotated[
        OnDuplicateRow, typer.Option(help="What to do with an id that comes twice.")
    ] = OnDuplicateRow.fail,
    work: Annotated[Path | None, typer.Option(help="Keep the vectors of corpus files there.")] = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows sent together.")] = 2000,
    device: Device = None,
) -> None:
    """Put a corpus into a folder, PostgreSQL or Qdrant; rows there are replaced by id. Interrupted, it goes on."""
    sizes = whole_numbers(dims, "--dims", "64,128,256")
    given = {"kind": kind, "precision": precision, "shortlist": shortlist, "effort": effort}
    options = {name: value for name, value in given.items() if value is not None}
    if options and plan_dim is None:
        raise ValueError(f"--{next(iter(options))} is for a plan of your own: give --plan-dim too")
    from mrl_text.quiet import quiet_libraries

    quiet_libraries()
    from mrl_text.search.plan import SearchPlan
    from mrl_text.search.push import push as run_push

    defaults = {"kind": "hnsw", "precision": "float16", "shortlist": 200, "effort": 200}
    report = run_push(
        store,
        sources,
        model=model,
        dims=sizes,
        plan=SearchPlan(plan_dim, **{**defaults, **options}) if plan_dim is not None else None,  # type: ignore[arg-type]
        keep=names(keep),
        text_columns=names(text_column),
        id_column=id_column,
        limit=limit,
        on_error=on_error,
        on_duplicate=on_duplicate.value,
        work=work,
        batch_rows=batch_rows,
        device=device,
        progress=True,
    )
    if report.problems:
        listed = "\n".join(report.problems)
        typer.echo(f"left out {report.left_out:,} rows; see {report.folder}/problems.jsonl\n{listed}", err=True)
    typer.echo(
        f"{report.url}: {report.pushed:,} of {report.rows:,} rows sent in {report.seconds:.1f} s,"
        f" {report.stored:,} there now\nplan: {_label(report.plan)}"
    )


@index_app.command("tune")
@command
def tune(
    store: StoreUrl,
    queries: Queries,
    qrels: Qrels = None,
    keep: Annotated[float, typer.Option(help="Share of the score of exact full-width search to keep.")] = 0.99,
    metric: Annotated[
        Metric | None, typer.Option(help="Default: ndcg@10 with --qrels, else recall@10 of the exact results.")
    ] = None,
    threads: Threads = 1,
    max_ram: Annotated[float | None, typer.Option(help="MB that the shortlist may take; of a folder.")] = None,
    dims: Dims = None,
    kinds: Annotated[
        str | None, typer.Option(help="flat,hnsw,ivf; default: what the store can and its size asks for.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Begin to build no further graph or cells after that.")] = 20,
    limit: Limit = 1000,
    device: Device = None,
    dtype: DtypeOption = "float32",
) -> None:
    """Find the fastest plan that keeps the target on sample queries, and keep it with the index or store."""
    check_share(keep)
    sizes = whole_numbers(dims, "--dims", "64,128,256")
    from mrl_text.search.open import engine_of

    options: dict[str, Any] = {
        "keep": keep,
        "metric": metric.value if metric else None,
        "threads": threads,
        "dims": sizes,
        "kinds": names(kinds) or None,
        "minutes": minutes,
        "progress": True,
    }
    if engine_of(store) != "faiss":
        if max_ram is not None:
            raise ValueError("--max-ram is for an index in a folder: a database decides itself what it holds in memory")
        found = _tune_store(store, queries, qrels, limit, device, dtype, options)
        _print_tuning(found)
        typer.echo("kept with the store")
        return
    index, judged, vectors = _encoded_queries(Path(store), queries, qrels, limit, device, dtype)
    from mrl_text.search.tune import tune as run_tune

    found = run_tune(index, vectors, judged, max_ram=int(max_ram * _MB) if max_ram is not None else None, **options)
    index.close()
    _print_tuning(found)
    typer.echo(f"written into {store}, all of it in {Path(store) / 'tune.json'}")


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
    dtype: DtypeOption = "float32",
) -> None:
    """Draw recall@10 and nDCG@10 against time per query and memory."""
    sizes = whole_numbers(dims, "--dims", "64,128,256")
    index, judged, vectors = _encoded_queries(folder, queries, qrels, limit, device, dtype)
    from mrl_text.search.faiss.figure import figure as draw

    written = draw(index, vectors, judged, output, threads=threads, dims=sizes, dim=dim, progress=True)
    index.close()
    typer.echo("\n".join(map(str, written)))


def _load(folder: Path, device: str | None, dtype: str) -> tuple[AdaptiveIndex, MatryoshkaEncoder]:
    """An index and the model it was built with."""
    from mrl_text.quiet import quiet_libraries
    from mrl_text.search import AdaptiveIndex

    index = AdaptiveIndex.load(folder)
    quiet_libraries()
    from mrl_text.search.build import load_model

    return index, load_model(index, device, dtype)


def _encoded_queries(
    folder: Path, queries: Path, qrels: Path | None, limit: int, device: str | None, dtype: Dtype
) -> tuple[AdaptiveIndex, Judged, np.ndarray]:
    from mrl_text.search import AdaptiveIndex
    from mrl_text.search.sample_queries import read_judged

    known = AdaptiveIndex.load(folder).__contains__
    judged = read_judged(queries, qrels, known=known, limit=limit)  # before the model is loaded
    index, model = _load(folder, device, dtype)
    return index, judged, model.encode_query(judged.texts)


def _tune_store(
    url: str, queries: Path, qrels: Path | None, limit: int, device: str | None, dtype: Dtype, options: dict[str, Any]
) -> Tuning:
    from mrl_text.quiet import quiet_libraries
    from mrl_text.search import open_store
    from mrl_text.search.sample_queries import read_judged
    from mrl_text.search.store_tune import tune as run_tune

    judged = read_judged(queries, qrels, limit=limit)
    with contextlib.closing(open_store(url)) as store:
        quiet_libraries()
        from mrl_text.search.query_model import load_model

        vectors = load_model(store, device=device, dtype=dtype).encode_query(judged.texts)
        return run_tune(store, vectors, judged, **options)


def _print_tuning(found: Tuning) -> None:
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
    print_table(rows)
    plan, (first, other) = found.chosen, found.chosen.retention or (0.0, 0.0)
    number, rest = found.queries
    typer.echo(
        f"\nexact search: {found.metric} {100 * found.scores[0]:.2f} on the {number} queries chosen by,"
        f" {100 * found.scores[1]:.2f} on the other {rest}; times with {found.threads} thread{'s'[: found.threads > 1]}"
    )
    low, high = plan.interval or (first, other)
    typer.echo(
        f"chosen: {_label(plan.plan)}, keeps {100 * first:.2f} % and {100 * other:.2f} %; other queries may give"
        f" {100 * low:.2f} to {100 * high:.2f} %"
    )
    if found.exact and found.exact.timing and plan.timing:
        faster = found.exact.timing.single / plan.timing.single
        if plan.ram and found.exact.ram:
            smaller = f", {found.exact.ram / plan.ram:.1f} times smaller"
            typer.echo(f"against all full vectors in memory: {faster:.1f} times faster{smaller}")
        else:
            typer.echo(f"against exact search: {faster:.1f} times faster")
    if found.refused:
        typer.echo(f"{found.refused} cheaper plans held on the first half and not on the other")
    if not found.confirmed:
        typer.echo(f"NOT CONFIRMED: no plan keeps {found.keep:.2%} on both halves; take more queries", err=True)


def _label(plan: SearchPlan) -> str:
    return plan.label if plan.kind == "flat" else f"{plan.label}, effort {plan.effort}"


def _number(value: float | None, factor: float, digits: int = 2) -> str:
    return "" if value is None else f"{factor * value:,.{digits}f}"
