"""The commands ``mrl-text index build``, ``push``, ``tune`` and ``figure``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrl_text.amounts import count, hundredfold, percent, target
from mrl_text.choices import Code, Kind, Metric, OnDuplicate
from mrl_text.cli import inputs
from mrl_text.cli.common import (
    AutoDtypeOption,
    BackendOption,
    Corpus,
    Device,
    DtypeOption,
    FilledStore,
    IdColumn,
    KeepColumns,
    KeepShare,
    Limit,
    ModelOption,
    OnErrorOption,
    StoreUrl,
    TextColumn,
    TrustRemoteCode,
    check_share,
    dims_option,
    names,
    output_option,
    print_problems,
    print_table,
    whole_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from mrl_text.search import SearchPlan, Store
    from mrl_text.search.measure import Trial, Tuning
    from mrl_text.search.push import PushReport
    from mrl_text.search.sample_queries import Judged

_SHOWN_PLANS = 20  # of those that tuning tried, besides the chosen one and the exact search
_ALIKE = 1.1  # times within this factor are told as the same

index_app = inputs.Commands(help="Build, tune, measure and look after a search index.", no_args_is_help=True)

_MB = 2**20

Queries = Annotated[
    Path, typer.Option(help="JSON lines, CSV, TSV or Parquet with text (and _id), or .txt.", callback=inputs.table)
]
Qrels = Annotated[
    Path | None,
    typer.Option(help="Judgements: query-id, corpus-id, score (BEIR's qrels/test.tsv).", callback=inputs.table),
]
Dims = Annotated[str | None, dims_option("those of the model")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that searches are timed with.")]
QueryLimit = Annotated[int, typer.Option(min=1, help="Queries to use; of more, so many are drawn at random.")]
OnDuplicateOption = Annotated[OnDuplicate, typer.Option(help="What to do with an id that comes more than once.")]


@index_app.command("build")
def build(
    corpus: Corpus,
    output: Annotated[Path, output_option("Folder for the index; one that is there goes on.")],
    model: ModelOption,
    dims: Dims = None,
    keep: KeepColumns = None,
    text_column: TextColumn = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    on_error: OnErrorOption = "skip",
    on_duplicate: OnDuplicateOption = "fail",
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    backend: BackendOption = "torch",
    dtype: AutoDtypeOption = "float32",
) -> None:
    """Encode a corpus of any size into an index; interrupted, the same command goes on."""
    sizes = whole_numbers(dims)
    from mrl_text.search import AdaptiveIndex
    from mrl_text.search.build import build as run_build

    report = run_build(
        corpus,
        output,
        model=model,
        dims=sizes,
        keep=names(keep),
        text_columns=names(text_column),
        id_column=id_column,
        limit=limit,
        on_error=on_error,
        on_duplicate=on_duplicate,
        device=device,
        trust_remote_code=trust_remote_code,
        backend=backend,
        dtype=dtype,
        progress=True,
    )
    _print_problems(report, on_duplicate)
    with AdaptiveIndex.load(output) as index:
        disk, memory = index.memory()["disk"] / _MB, index.ram() / _MB
    typer.echo(
        f"{report.url}: {count(report.stored, 'document')} ({report.pushed:,} added now) in {report.seconds:.1f} s,"
        f" {memory:,.1f} MB of memory, {disk:,.1f} MB of disk\nplan: {_label(report.plan)}"
    )


@index_app.command("push")
def push(
    context: typer.Context,
    store: StoreUrl,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder of mrl-text encode; or corpus files, - is stdin.",
            callback=inputs.table_or_folder,
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Encodes corpus files.", callback=inputs.model)
    ] = None,
    dims: Dims = None,
    plan_dim: Annotated[int | None, typer.Option(help="Prefix that finds candidates; default: by the size.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="With --plan-dim; default hnsw.")] = None,
    precision: Annotated[Code | None, typer.Option(help="With --plan-dim; default float16.")] = None,
    shortlist: Annotated[int | None, typer.Option(help="With --plan-dim: candidates; default 200.")] = None,
    effort: Annotated[int | None, typer.Option(help="With --plan-dim: candidates a walk keeps in view; 200.")] = None,
    neighbours: Annotated[int | None, typer.Option(help="With --plan-dim: edges of a vector in the graph; 16.")] = None,
    ef_construction: Annotated[
        int | None, typer.Option(help="With --plan-dim: candidates in view while the graph is built; 100.")
    ] = None,
    keep: KeepColumns = None,
    text_column: TextColumn = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    on_error: OnErrorOption = "skip",
    on_duplicate: OnDuplicateOption = "fail",
    work: Annotated[Path | None, typer.Option(help="Keep the vectors of corpus files there.")] = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows sent together.")] = 2000,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Put a corpus into a folder, PostgreSQL or Qdrant; rows there are replaced by id. Interrupted, it goes on."""
    sizes = whole_numbers(dims)
    given = {"kind": kind, "precision": precision, "shortlist": shortlist, "effort": effort, "neighbours": neighbours}
    given |= {"ef_construction": ef_construction}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    inputs.only_with(context, "plan_dim", *given)
    if kind == "flat" and effort is not None:
        raise ValueError("--effort is for hnsw and ivf, flat compares with every row: leave it out")
    from mrl_text.search.plan import SearchPlan
    from mrl_text.search.push import push as run_push

    defaults = {"kind": "hnsw", "precision": "float16", "shortlist": 200, "effort": 200}
    report = run_push(
        store,
        sources,
        model=model,
        dims=sizes,
        plan=SearchPlan(plan_dim, **{**defaults, **options}) if plan_dim is not None else None,
        keep=names(keep),
        text_columns=names(text_column),
        id_column=id_column,
        limit=limit,
        on_error=on_error,
        on_duplicate=on_duplicate,
        work=work,
        batch_rows=batch_rows,
        device=device,
        trust_remote_code=trust_remote_code,
        progress=True,
    )
    _print_problems(report, on_duplicate)
    typer.echo(
        f"{report.url}: {report.pushed:,} of {count(report.rows, 'row')} sent in {report.seconds:.1f} s,"
        f" {report.stored:,} there now\nplan: {_label(report.plan)}"
    )


@index_app.command("tune")
def tune(
    store: FilledStore,
    queries: Queries,
    qrels: Qrels = None,
    keep: KeepShare = 0.99,
    metric: Annotated[
        Metric | None, typer.Option(help="Default: ndcg@10 with --qrels, else recall@10 of the exact results.")
    ] = None,
    threads: Threads = 1,
    max_ram: Annotated[float | None, typer.Option(help="MB that the shortlist may take; of a folder.")] = None,
    dims: Dims = None,
    kinds: Annotated[
        str | None, typer.Option(help="flat,hnsw,ivf; default: what the store can and its size asks for.")
    ] = None,
    precisions: Annotated[
        str | None, typer.Option(help="Of prefixes: int4,int2,int1,RaBitQfs, ...; default: what suits the store.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Begin to build no further graph or cells after that.")] = 20,
    where: Annotated[
        list[str] | None, typer.Option(help="Keep the target under these conditions, too, as of mrl-text search.")
    ] = None,
    limit: QueryLimit = 1000,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    backend: BackendOption = "torch",
    dtype: DtypeOption = "float32",
) -> None:
    """Find the fastest plan that keeps the target on sample queries, and keep it with the index or store."""
    check_share(keep)
    sizes = whole_numbers(dims)
    loaded_with = {"device": device, "backend": backend, "dtype": dtype, "trust_remote_code": trust_remote_code}
    from mrl_text.search.conditions import parse_where
    from mrl_text.search.open import engine_of, open_store
    from mrl_text.search.tune import check_options
    from mrl_text.search.tune import tune as run_tune

    conditions = parse_where(where or [])
    in_process = engine_of(store).abilities.in_process
    if max_ram is not None and not in_process:
        raise ValueError("--max-ram is for an index in a folder: a database decides itself what it holds in memory")
    options: dict[str, Any] = {
        "max_ram": int(max_ram * _MB) if max_ram is not None else None,
        "dims": sizes,
        "kinds": names(kinds) or None,
        "precisions": names(precisions) or None,
        "minutes": minutes,
    }
    with contextlib.closing(open_store(store)) as opened:
        check_options(opened, **options, where=conditions)
        judged, vectors = _encoded_queries(opened, queries, qrels, limit, **loaded_with)
        found = run_tune(
            opened,
            vectors,
            judged,
            keep=keep,
            metric=metric,
            where=conditions,
            threads=threads,
            progress=True,
            **options,
        )
    _print_tuning(found)
    written = f"written into {store}, all of it in {Path(store) / 'tune.json'}"
    typer.echo(written if in_process else "kept with the store")


@index_app.command("figure")
def figure(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the index.", callback=inputs.store)],
    queries: Queries,
    output: Annotated[Path, output_option("Folder for search.png and search.csv.")],
    qrels: Qrels = None,
    threads: Threads = 1,
    dims: Dims = None,
    dim: Annotated[int | None, typer.Option(help="Prefix of the shortlists; default: that of the plan.")] = None,
    limit: QueryLimit = 1000,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    backend: BackendOption = "torch",
    dtype: DtypeOption = "float32",
) -> None:
    """Draw recall@10 and nDCG@10 against time per query and memory."""
    sizes = whole_numbers(dims)
    loaded_with = {"device": device, "backend": backend, "dtype": dtype, "trust_remote_code": trust_remote_code}
    from mrl_text.files import check_writable
    from mrl_text.search.faiss.figure import check_sizes
    from mrl_text.search.faiss.figure import figure as draw
    from mrl_text.search.faiss.store import FaissStore

    check_writable(output, "choose another folder with --output")
    with contextlib.closing(FaissStore.open(str(folder))) as store:
        check_sizes(store.index, sizes, dim)
        judged, vectors = _encoded_queries(store, queries, qrels, limit, **loaded_with)
        written = draw(store.index, vectors, judged, output, threads=threads, dims=sizes, dim=dim, progress=True)
    typer.echo("\n".join(map(str, written)))


def _encoded_queries(
    store: Store, queries: Path, qrels: Path | None, limit: int, **loaded_with: Any
) -> tuple[Judged, np.ndarray]:
    """Sample queries, read before the model is loaded, and their vectors."""
    from mrl_text.search.query_model import load_model
    from mrl_text.search.sample_queries import read_judged

    def known(names: Sequence[str]) -> set[str]:
        return {document.id for document in store.documents(names) if document is not None}

    judged = read_judged(queries, qrels, known=known, limit=limit)
    return judged, load_model(store, **loaded_with).encode_query(judged.texts)


def _print_problems(report: PushReport, on_duplicate: OnDuplicate) -> None:
    if report.problems:
        if report.left_out:
            typer.echo(f"left out {count(report.left_out, 'row')}", err=True)
        print_problems(report.problems, report.noted, report.folder)
    if report.duplicates:
        typer.echo(f"{count(report.duplicates, 'id')} came again; the {on_duplicate} row was kept", err=True)


def _telling(found: Tuning) -> list[Trial]:
    """The chosen plan, the exact search and the fastest of the others, in the order they were tried."""
    trials = found.trials
    single = {place: one.timing.single for place, one in enumerate(trials) if one.timing and one.retention}
    fastest = set(sorted(single, key=single.__getitem__)[:_SHOWN_PLANS])
    if len(trials) <= _SHOWN_PLANS:
        return trials
    return [one for place, one in enumerate(trials) if place in fastest or one in (found.chosen, found.exact)]


def _print_tuning(found: Tuning) -> None:
    from mrl_text.search.measure import unseen

    rows, shown = [], _telling(found)
    for trial in shown:
        chosen, other = trial.retention or (None, None)
        share, spent = trial.filtered or (None, None)
        filtered = {"found %": _number(share, 100), "ms filtered": _number(spent, 1000, 3)}
        rows.append(
            {
                "plan": f"{_label(trial.plan)}{' *' * (trial == found.chosen)}",
                "kept %": _number(chosen, 100),
                "other half": _number(other, 100),
                "ms": _number(trial.timing.single if trial.timing else None, 1000, 3),
                "ms in batch": _number(trial.timing.batch if trial.timing else None, 1000, 3),
                **(filtered if found.chosen.filtered else {}),
                "MB": _number(trial.ram or None, 1 / _MB),  # a database has no index where it compares with all
                "": trial.note,
            }
        )
    print_table(rows)
    if more := len(found.trials) - len(shown):
        typer.echo(f"... and {more} more plans that are slower, or were not worth measuring")
    plan, (first, other) = found.chosen, found.chosen.retention or (0.0, 0.0)
    number, rest = found.queries
    typer.echo(
        f"\nexact search: {found.metric} {hundredfold(found.scores[0])} on the {number} queries chosen by,"
        f" {hundredfold(found.scores[1])} on the other {rest}; times with {count(found.threads, 'thread')}"
    )
    low, high = plan.interval or (first, other)
    others = f"other queries may give {100 * low:.2f} to {percent(high)}"
    if low == high:
        others = f"not one of {number + rest} queries differs, and of others up to {percent(unseen(number + rest))} may"
    typer.echo(f"chosen: {_label(plan.plan)}, keeps {percent(first)} and {percent(other)}; {others}")
    itself = plan.plan.kind == "flat" and plan.plan.single and found.exact and plan.plan.dim == found.exact.plan.dim
    if found.exact and found.exact.timing and plan.timing and not (itself and not plan.plan.coarse):
        faster = found.exact.timing.single / plan.timing.single
        smaller = f", {found.exact.ram / plan.ram:.1f} times smaller" if plan.ram and found.exact.ram else ""
        compared = "all full vectors in memory" if smaller else "exact search"
        speed = f"{faster:.1f} times faster" if faster > 1 else f"{1 / faster:.1f} times slower"
        speed = "as fast" if 1 / _ALIKE < faster < _ALIKE else speed
        typer.echo(f"against {compared}: {speed}{smaller}")
    if found.refused:
        typer.echo(f"{count(found.refused, 'cheaper plan')} held on the first half and not on the other")
    if not found.confirmed:
        typer.echo(f"NOT CONFIRMED: no plan keeps {target(found.keep)} on both halves; take more queries", err=True)


def _label(plan: SearchPlan) -> str:
    return plan.label if plan.kind == "flat" else f"{plan.label}, effort {plan.effort}"


def _number(value: float | None, factor: float, digits: int = 2) -> str:
    return "" if value is None else f"{factor * value:,.{digits}f}"
