"""The commands that measure models: ``eval``, ``leaderboard``, ``mirror``, ``paper``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from mrl_text.amounts import count
from mrl_text.api.options import api_name, is_api_name, result_name
from mrl_text.choices import LabelledAs, TableFormat
from mrl_text.cli import common, inputs
from mrl_text.cli.questions import what_to_measure

if TYPE_CHECKING:
    from mrl_text.eval.given_vectors import VectorSource, VectorTask
    from mrl_text.eval.results import Results
    from mrl_text.training.recipe import EvalConfig

_OF_MODELS = (
    *("tasks", "benchmark", "data", "as_", "columns", "languages", "subsets", "splits", "layers", "pca_texts"),
    *("mirror", "cache", "keep_going", "batch_size", "device", "trust_remote_code", "backend", "dtype"),
)
_COMPUTED = ("layers", "batch_size", "device", "trust_remote_code", "backend", "dtype")
_VECTORS = inputs.there("vectors: .npy, Parquet, Arrow, or a folder of mrl-text encode")
_BESIDE = {"queries": "--queries", "qrels": "--qrels"}


def evaluate(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        Argument(
            help="Folders of runs or models, hub ids, packaged models; openai:NAME, by an API.",
            callback=inputs.any_model,
        ),
    ] = None,
    tasks: Annotated[
        str | None, Option(help="mteb tasks, comma-separated; default: those of the recipe, or it asks.")
    ] = None,
    benchmark: Annotated[str | None, Option(help="mteb benchmark, such as 'MTEB(eng, v2)'.")] = None,
    data: common.OwnData = None,
    as_: Annotated[LabelledAs | None, Option("--as", help="What text,label data is; default: classification.")] = None,
    columns: common.OwnColumns = None,
    vectors: Annotated[
        Path | None,
        Option(
            help="Instead of models, vectors of documents: .npy, Parquet, Arrow, encoded folder.", callback=_VECTORS
        ),
    ] = None,
    queries: Annotated[Path | None, Option(help="With --vectors: those of the queries.", callback=_VECTORS)] = None,
    qrels: Annotated[
        Path | None,
        Option(help="With --vectors: query-id, corpus-id, score; ids of .npy are row numbers.", callback=inputs.table),
    ] = None,
    languages: Annotated[str | None, Option(help="Keep these languages of --tasks: eng,deu-Latn.")] = None,
    subsets: Annotated[str | None, Option(help="Keep these subsets of --tasks.")] = None,
    splits: Annotated[str | None, Option(help="Evaluate these splits of --tasks.")] = None,
    dims: Annotated[str | None, common.dims_option("the trained ones; full width is always added")] = None,
    layers: Annotated[str | None, Option(help="Numbers of layers to evaluate besides all, comma-separated.")] = None,
    precisions: Annotated[
        str, Option(help="What vectors are stored in, comma-separated.")
    ] = "float32,float16,int8,int4,int2,binary",
    comparisons: Annotated[
        str, Option(help="asymmetric: float queries against codes; symmetric: codes against codes.")
    ] = "asymmetric",
    rescore: Annotated[
        int, Option(min=0, help="Evaluate two stages, too: so many candidates a result, put in order by full width.")
    ] = 0,
    controls: Annotated[
        str, Option(help="What to compare with: base, pca, random, pq, rabitq, or none.")
    ] = "base,pca,random",
    pca_texts: Annotated[
        Path | None, Option(help="Fit PCA on this file's texts, not on each task's corpus.", callback=inputs.table)
    ] = None,
    reference: common.References = None,
    keep: common.KeepShare = 0.99,
    engine: common.EngineOption = None,
    output: Annotated[Path, common.output_option("Folder for results, table, curve and report.")] = Path("evaluation"),
    mirror: common.Mirror = None,
    cache: Annotated[str | None, Option(help="Folder of embeddings to share, or none to keep none.")] = None,
    keep_going: Annotated[bool, Option(help="Leave out tasks that cannot run or fail.")] = False,
    batch_size: common.BatchSize = 32,
    device: common.Device = None,
    trust_remote_code: common.TrustRemoteCode = False,
    backend: common.BackendOption = "torch",
    dtype: common.DtypeOption = "float32",
    base_url: common.BaseUrl = None,
    request_texts: common.RequestTexts = None,
    price_per_million: common.Price = None,
    max_total_tokens: common.MaxTotalTokens = None,
    as_json: common.AsJson = False,
) -> None:
    """Evaluate models, or vectors of any, on mteb tasks or your own data, at every size and precision."""
    sizes = common.whole_numbers(dims)
    depths = common.whole_numbers(layers, "--layers", "2,4")
    common.check_share(keep)
    if pca_texts is not None and "pca" not in common.names(controls):
        raise ValueError(f"--pca-texts is for the control pca, and --controls names {controls}: leave it out")
    _check_source(context, models, vectors)
    api = common.api_options(context, models or [])
    from mrl_text.eval.given_vectors import read_vector_task
    from mrl_text.eval.grid import check_plan
    from mrl_text.eval.own_data import read_all
    from mrl_text.eval.reference import check_references, read_references
    from mrl_text.models import find_any_model

    grid: dict[str, Any] = {
        "dims": sizes,
        "precisions": common.names(precisions),
        "comparisons": common.names(comparisons),
        "rescore": rescore,
        "controls": [] if controls == "none" else common.names(controls),
        "layers": depths,
    }
    check_plan(**grid)
    for model in models or ():  # what a mistake is likely in, before seconds of importing
        find_any_model(model, trust_remote_code=trust_remote_code, api=api)
    if models and not (tasks or benchmark or data or as_ or _planned(models).tasks):
        tasks, benchmark, data = what_to_measure(models)
    read = read_all(data or (), as_, common.own_columns(columns))
    texts = _texts(pca_texts) if pca_texts else None
    given = read_vector_task(vectors, queries, qrels) if vectors and queries and qrels else None
    check_references(reference or ())
    from rich.console import Console

    from mrl_text.eval.engines import find_engine
    from mrl_text.eval.leaderboard import with_earlier
    from mrl_text.eval.report import plain_json, summarize, write_report
    from mrl_text.eval.runner import sweep
    from mrl_text.eval.tables import print_report

    planned = _planned(models or [])
    grid["dims"] = sizes or (planned.dims if len(models or ()) == 1 else None) or None
    grid["layers"] = depths or planned.layers or None
    chosen = common.names(tasks) if tasks else [] if benchmark or read else planned.tasks
    if not (chosen or benchmark or given) and (unused := inputs.given(context, "languages", "subsets", "splits")):
        raise ValueError(f"{unused[0]} is for mteb tasks, and none is evaluated: leave it out")
    result = sweep(
        [given[0]] if given else models or [],
        chosen,
        output=output,
        benchmark=benchmark,
        read=[*read, *([given[1]] if given else [])],
        languages=common.names(languages),
        subsets=common.names(subsets),
        splits=common.names(splits),
        **grid,
        mirror=mirror,
        cache=cache,
        pca_texts=texts,
        keep_going=keep_going,
        batch_size=batch_size,
        device=device,
        trust_remote_code=trust_remote_code,
        backend=backend,
        dtype=dtype,
        api=api,
        references=reference or (),
    )
    own = find_engine(engine) if engine else None
    if not as_json:
        print_report(result, Console(), keep=keep, engine=own, vectors=_weightless(models or [], given, vectors))
        for task, reason in result.failed.items():
            typer.echo(f"{task} was left out: {reason}")
    whole = with_earlier(result)
    references = read_references(reference or (), whole)
    found = summarize(whole, keep=keep, references=references, failed=result.failed, engine=own)
    written = write_report(whole, found, references=references)
    files = [str(file) for file in (output / "scores.csv", output / "scores.parquet", *written)]
    if as_json:
        typer.echo(plain_json({**found, "files": files}))
    else:
        typer.echo("\n".join(files))
    _write_cards(models or [], whole, keep)


def leaderboard(
    context: typer.Context,
    results: Annotated[
        list[Path] | None,
        Argument(
            help="Output folders of mrl-text eval, or results in mteb's layout.",
            callback=inputs.there("what mrl-text eval writes"),
        ),
    ] = None,
    format_: Annotated[TableFormat, Option("--format", help="What to print.")] = "terminal",
    output: Annotated[Path | None, common.output_option("File to write; .html is the interactive page.")] = None,
    reference: common.References = None,
    keep: Annotated[
        float | None, Option(help="Share of the full score to keep; default: what the evaluations were asked for.")
    ] = None,
    engine: common.EngineOption = None,
    site: Annotated[
        Path | None, Option(help="Folder for a static site, with published figures beside what was measured.")
    ] = None,
    published: Annotated[
        list[Path] | None,
        Option(
            help="With --site or --check: tables of published figures; default: those of the package.",
            callback=inputs.there("a table of published figures, or a folder of them"),
        ),
    ] = None,
    check: Annotated[bool, Option("--check", help="Check results and published figures; write nothing.")] = False,
) -> None:
    """One table over models, sizes and precisions, from any number of evaluations; or a site of it."""
    if keep is not None:
        common.check_share(keep)
    if site is not None or check:
        if unused := inputs.given(context, "format_", "output", "reference", "keep", "engine"):
            raise ValueError(f"{unused[0]} is for the table, not for {'--check' if check else '--site'}: leave it out")
        if site is not None and check:
            raise ValueError(f"--check writes nothing: leave --site {site} out, or --check")
        _site(results or [], published, site)
        return
    if published:
        raise ValueError("--published is for --site: give --site DIR too, or leave --published out")
    if not results:
        raise ValueError("Missing results: name output folders of mrl-text eval, or see mrl-text leaderboard --help")
    from mrl_text.eval.engines import find_engine
    from mrl_text.eval.leaderboard import highlights, load_results, write_leaderboard
    from mrl_text.eval.report import asked

    kind = output.suffix.lstrip(".").lower().replace("md", "markdown") if output else format_
    if kind != format_ and inputs.given(context, "format_"):
        raise ValueError(f"--format {format_} and the ending of {output} disagree: leave --format out")
    own = find_engine(engine) if engine else None
    loaded, share = load_results(results), keep or asked(results)
    typer.echo(write_leaderboard(loaded, kind, output, keep=share, references=reference or (), engine=own), nl=False)
    if output is not None:
        typer.echo("\n".join(highlights(loaded, share)), err=True)


def _site(results: list[Path], published: list[Path] | None, folder: Path | None) -> None:
    """Check what a site is made of, and write it where there is a folder for it."""
    if folder is not None and folder.is_file():
        raise ValueError(f"--site {folder}: that is a file, and a site is a folder")
    from mrl_text.eval.leaderboard import highlights
    from mrl_text.eval.published import packaged, packaged_results, read_published
    from mrl_text.eval.report import asked
    from mrl_text.eval.site import read_sources, write_site

    tables = published or [packaged()]
    read_published(tables)  # within a second: results take longer
    measured, figures = read_sources(results or ([] if published else packaged_results()), tables)
    models = {figure.model for figure in figures}
    if folder is not None:
        typer.echo("\n".join(map(str, write_site(folder, measured, figures))))
        told = highlights(measured, asked(results)) if measured is not None else []
        typer.echo("\n".join([*told, f"published figures of {count(len(models), 'model')}"]), err=True)
        return
    typer.echo(f"published: {count(len(figures), 'figure')} of {count(len(models), 'model')}, all in order")
    if measured is not None:
        lines = [line for line in measured.lines if line.role == "model"]
        typer.echo(f"measured: {count(len(measured.scores), 'result')} of {count(len(lines), 'model')}, all in order")


def mirror(
    arguments: Annotated[list[str], Argument(metavar="TASKS... DIR", help="mteb tasks, then the folder.")],
    benchmark: Annotated[str | None, Option(help="mteb benchmark, instead of or besides tasks.")] = None,
) -> None:
    """Copy the data sets of mteb tasks from the hub, for evaluation without a network."""
    *tasks, folder = arguments
    from mrl_text.eval.mirror import mirror_tasks
    from mrl_text.eval.tasks import find_tasks

    copied = mirror_tasks(find_tasks([one for text in tasks for one in common.names(text)], benchmark), folder)
    typer.echo("\n".join(f"{path}  {where}" for path, where in copied.items()))
    typer.echo(f"Evaluate with  mrl-text eval MODEL --tasks ... --mirror {folder}")


def paper(
    context: typer.Context,
    model: Annotated[str, Argument(help="Folder, hub id or packaged model; a Matryoshka one.", callback=inputs.model)],
    mirror: common.Mirror = None,
    data: common.OwnData = None,
    columns: common.OwnColumns = None,
    tasks: Annotated[
        str | None, Option(help="mteb tasks; default with a mirror: STSBenchmark,SciFact,Banking77Classification.")
    ] = None,
    train: Annotated[
        list[Path] | None,
        Option(help="Texts to fit rotations and PCA on, none is evaluated.", callback=inputs.table),
    ] = None,
    train_limit: common.TextLimit = 10_000,
    base: Annotated[
        str | None, Option(help="The control; default: the base that the model names.", callback=inputs.model)
    ] = None,
    independent: Annotated[
        list[str] | None, Option(help="A model trained for one size alone.", callback=inputs.model)
    ] = None,
    questions: Annotated[
        str | None, Option(help="Some of against,interpolation,ablation,fewshot,robustness,superclasses,adaptive.")
    ] = None,
    search: Annotated[
        Path | None,
        Option(help="tune.json of mrl-text index tune, to show.", callback=inputs.there("a result file, tune.json")),
    ] = None,
    classification: Annotated[
        Path | None,
        Option(
            help="results.json of mrl-text classify, to show.", callback=inputs.there("a result file, results.json")
        ),
    ] = None,
    dims: Annotated[str | None, common.dims_option("the trained ones")] = None,
    seeds: Annotated[int, Option(min=1, help="Of fits and random dimensions.")] = 3,
    output: Annotated[Path, common.output_option("Folder for the page, figures and answers.")] = Path("paper"),
    cache: Annotated[Path | None, Option(help="Folder of embeddings, as that of mrl-text eval.")] = None,
    batch_size: common.BatchSize = 64,
    device: common.Device = None,
    trust_remote_code: common.TrustRemoteCode = False,
    dtype: common.DtypeOption = "float32",
) -> None:
    """Answer the Matryoshka paper's questions for text: one page with figures, question by question."""
    sizes = common.whole_numbers(dims)
    inputs.only_with(context, "train", "train_limit")
    inputs.only_with(context, "data", "columns")
    from mrl_text.eval.own_data import read_all

    read = read_all(data or (), columns=common.own_columns(columns))  # before torch is imported
    from mrl_text.paper import paper as run_paper

    page = run_paper(
        model,
        output,
        base=base,
        independent=independent or (),
        mirror=mirror,
        read=read,
        tasks=common.names(tasks) or None,
        train=train or (),
        train_limit=train_limit,
        questions=common.names(questions) or None,
        search=search,
        classification=classification,
        dims=sizes,
        seeds=seeds,
        cache=cache,
        batch_size=batch_size,
        device=device,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
    )
    typer.echo(page)


def _write_cards(models: list[str], result: Results, keep: float) -> None:
    """Put the curve into the cards of models made here; what was measured stays whatever becomes of that."""
    from mrl_text.cards.measured import write_curve

    for folder in map(Path, models):
        trained = (folder / "recipe.yaml").is_file() and (folder / "model").is_dir()
        if trained or (folder / "adaptation.json").is_file():
            try:
                write_curve(folder, result, keep=keep)
            except (ValueError, OSError) as error:
                typer.echo(f"{folder}: the model card is left as it was: {' '.join(str(error).split())}", err=True)


def _check_source(context: typer.Context, models: list[str] | None, vectors: Path | None) -> None:
    """Models or vectors, and of the other options those that go with them."""
    inputs.only_with(context, "vectors", "queries", "qrels")
    inputs.only_with(context, "data", "columns")
    if vectors is None:
        if not models:
            raise ValueError("name models to evaluate, or give --vectors, --queries and --qrels")
        if all(map(is_api_name, models)) and (unused := inputs.given(context, *_COMPUTED)):
            raise ValueError(f"{unused[0]} is for models that are computed here, not for {models[0]}: leave it out")
        return
    if models:
        raise ValueError(f"give either models ({', '.join(models)}) or --vectors")
    if missing := [option for name, option in _BESIDE.items() if context.params[name] is None]:
        raise ValueError(f"--vectors needs {' and '.join(missing)}: what is asked, and who answers whom")
    if unused := inputs.given(context, *_OF_MODELS):
        raise ValueError(f"--vectors needs no {', '.join(unused)}: nothing is encoded")


def _weightless(
    models: list[str], given: tuple[VectorSource, VectorTask] | None, vectors: Path | None
) -> dict[str, str]:
    """Models that have vectors alone, by their names in results -> where these are, for a command line."""
    named = {result_name(api_name(one)): "ENCODED_FOLDER" for one in models if is_api_name(one)}
    return {given[0].name: shlex.quote(str(vectors))} if given else named


def _planned(models: list[str]) -> EvalConfig:
    """What the recipe of the first model says of its evaluation; nothing without one."""
    from mrl_text.training.recipe import EvalConfig
    from mrl_text.training.recipe_files import recipe_eval

    return recipe_eval(models[0]) if models else EvalConfig()


def _texts(file: Path) -> list[str]:
    from mrl_text.tables.texts import read_texts

    if len(texts := read_texts(file)) < 2:
        raise ValueError(f"{file} has one text only: PCA is fitted on two at least")
    return texts
