"""The command that answers the paper's questions: ``paper``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from mrl_text.cli import common


@common.command
def paper(
    model: Annotated[str, Argument(help="Folder, hub id or packaged model; a Matryoshka one.")],
    mirror: common.Mirror = None,
    data: common.OwnData = None,
    tasks: Annotated[
        str | None, Option(help="mteb tasks; default with a mirror: STSBenchmark,SciFact,Banking77Classification.")
    ] = None,
    train: Annotated[
        list[Path] | None,
        Option(help="Texts to fit rotations and PCA on, none of them evaluated. As often as you like."),
    ] = None,
    train_limit: common.TextLimit = 10_000,
    base: Annotated[str | None, Option(help="The control; default: the base that the model names.")] = None,
    independent: Annotated[list[str] | None, Option(help="A model trained for one size alone.")] = None,
    questions: Annotated[
        str | None, Option(help="Some of against,interpolation,ablation,fewshot,robustness,superclasses,adaptive.")
    ] = None,
    search: Annotated[Path | None, Option(help="tune.json of mrl-text index tune, to show.")] = None,
    classification: Annotated[Path | None, Option(help="results.json of mrl-text classify, to show.")] = None,
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
    from mrl_text.paper import paper as run_paper

    page = run_paper(
        model, output, base=base, independent=independent or (), mirror=mirror, data=data or (),
        tasks=common.names(tasks) or None, train=train or (), train_limit=train_limit,
        questions=common.names(questions) or None, search=search, classification=classification, dims=sizes,
        seeds=seeds, cache=cache, batch_size=batch_size, device=device, trust_remote_code=trust_remote_code,
        dtype=dtype,
    )  # fmt: skip
    typer.echo(page)
