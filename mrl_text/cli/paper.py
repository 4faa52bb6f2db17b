"""The command that answers the paper's questions: ``paper``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mrl_text.cli.common import BatchSize, Device, Dtype, DtypeOption, command, names, whole_numbers


@command
def paper(
    model: Annotated[str, typer.Argument(help="Folder, hub id or packaged model; a Matryoshka one.")],
    mirror: Annotated[Path | None, typer.Option(help="Folder that mrl-text mirror made.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Your own data: a BEIR folder, or CSV, TSV, JSONL or Parquet. As often as you like."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="mteb tasks; default with a mirror: STSBenchmark,SciFact,Banking77Classification."),
    ] = None,
    train: Annotated[
        list[Path] | None,
        typer.Option(help="Texts to fit rotations and PCA on, none of them evaluated. As often as you like."),
    ] = None,
    train_limit: Annotated[int, typer.Option(min=1, help="Texts to fit on, at most.")] = 10_000,
    base: Annotated[str | None, typer.Option(help="The control; default: the base that the model names.")] = None,
    independent: Annotated[list[str] | None, typer.Option(help="A model trained for one size alone.")] = None,
    questions: Annotated[
        str | None,
        typer.Option(help="Some of against,interpolation,ablation,fewshot,robustness,superclasses,adaptive."),
    ] = None,
    search: Annotated[Path | None, typer.Option(help="tune.json of mrl-text index tune, to show.")] = None,
    classification: Annotated[Path | None, typer.Option(help="results.json of mrl-text classify, to show.")] = None,
    dims: Annotated[str | None, typer.Option(help="Sizes, comma-separated; default: the trained ones.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of fits and random dimensions.")] = 3,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the page, figures and answers.")] = Path(
        "paper"
    ),
    cache: Annotated[Path | None, typer.Option(help="Folder of embeddings, as that of mrl-text eval.")] = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Answer the Matryoshka paper's questions for text: one page with figures, question by question."""
    sizes = whole_numbers(dims, "--dims", "64,128,256")
    from mrl_text.quiet import quiet_libraries

    quiet_libraries()
    from mrl_text.paper import paper as run_paper

    page = run_paper(
        model,
        output,
        base=base,
        independent=independent or (),
        mirror=mirror,
        data=data or (),
        tasks=names(tasks) or None,
        train=train or (),
        train_limit=train_limit,
        questions=names(questions) or None,
        search=search,
        classification=classification,
        dims=sizes,
        seeds=seeds,
        cache=cache,
        batch_size=batch_size,
        device=device,
        dtype=dtype.value,
    )
    typer.echo(page)
