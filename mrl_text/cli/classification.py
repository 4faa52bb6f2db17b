"""The commands ``mrl-text classify`` and ``mrl-text label``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from mrl_text.amounts import count
from mrl_text.choices import Cost
from mrl_text.cli import common, inputs

Text = Annotated[str, common.text_column_option("Column of the texts.", "--text")]


def classify(
    context: typer.Context,
    model: common.Model,
    train: Annotated[
        Path, Argument(help="CSV, TSV, JSON lines or Parquet with texts and labels; - is stdin.", callback=inputs.table)
    ],
    output: Annotated[Path, common.output_option("Folder for the classifier, results and curve.")],
    test: Annotated[
        Path | None, Option(help="Another such table; default: a fifth of TRAIN.", callback=inputs.table)
    ] = None,
    dims: Annotated[str | None, common.dims_option("16, 24, 32, 48, 64, ... and the width")] = None,
    tied: Annotated[bool, Option("--tied", help="One weight matrix for all sizes (MRL-E).")] = False,
    keep: common.KeepShare = 0.999,
    expected_dims: Annotated[float | None, Option(help="Instead of --keep: the average size to stay within.")] = None,
    cost: Annotated[Cost, Option(help="What is kept low: the largest size used, or the sum.")] = "largest",
    text: Text = "text",
    label: Annotated[str, Option("--label-column", "--label", help="Column of the labels.")] = "label",
    seed: common.Seed = 0,
    batch_size: common.BatchSize = 64,
    device: common.Device = None,
    trust_remote_code: common.TrustRemoteCode = False,
) -> None:
    """Fit a classifier that looks at as many numbers of a vector as an input needs."""
    sizes = common.whole_numbers(dims)
    common.check_share(keep)
    if expected_dims is not None and inputs.given(context, "keep"):
        raise ValueError("--expected-dims stands in place of --keep: give one of them")
    for file in filter(None, (train, test)):
        inputs.check_columns(file, [text, label], "--text-column and --label-column")
    from rich.console import Console

    from mrl_text.classification import classify as run
    from mrl_text.classification.run import print_classification

    result = run(
        model,
        train,
        output,
        test=test,
        text=text,
        label=label,
        dims=sizes,
        tied=tied,
        keep=keep,
        cost=cost,
        seed=seed,
        expected_dims=expected_dims,
        batch_size=batch_size,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    print_classification(result, Console())
    typer.echo("\n".join(map(str, result.files)))
    typer.echo(f"Next: mrl-text label {output} NEW_TEXTS.csv", err=True)


def label(
    folder: Annotated[
        Path,
        Argument(
            metavar="DIR", help="What mrl-text classify wrote.", callback=inputs.there("what mrl-text classify writes")
        ),
    ],
    texts: Annotated[
        Path, Argument(help="CSV, TSV, JSON lines, Parquet or .txt with texts; - is stdin.", callback=inputs.table)
    ],
    output: Annotated[
        Path | None, common.output_option("File, .csv or .jsonl, maybe .gz or .zst; default: CSV on stdout.")
    ] = None,
    text: Text = "text",
    batch_size: common.BatchSize = 64,
    device: common.Device = None,
    trust_remote_code: common.TrustRemoteCode = False,
) -> None:
    """Label new texts with a saved classifier: their columns, label, probability and the size that was enough."""
    from mrl_text.tables.write import ROW_SUFFIXES, open_output, output_kind, write_rows

    kind = output_kind(output, ROW_SUFFIXES, "labels") if output else "csv"
    inputs.check_columns(texts, [text], "--text-column")
    from mrl_text.classification import label_texts as run

    rows = run(folder, texts, text=text, batch_size=batch_size, device=device, trust_remote_code=trust_remote_code)
    with open_output(output) as stream:
        written = write_rows(rows, kind, stream)
    if output is not None:
        typer.echo(f"{output}: {count(written, 'row')}")
