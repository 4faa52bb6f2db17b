"""The command ``mrl-text encode``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mrl_text.cli.common import AutoDtype, Device, OnError, command, names, whole_numbers


class Format(StrEnum):
    """Choices of ``--format``."""

    parquet = "parquet"
    npy = "npy"


class OnLong(StrEnum):
    """Choices of ``--on-long``."""

    cut = "cut"
    skip = "skip"
    fail = "fail"


class EngineName(StrEnum):
    """Choices of ``--engine``."""

    local = "local"
    ray = "ray"


@command
def encode(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="JSON lines, CSV, TSV, Parquet, .txt.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; one that was begun goes on.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder, hub id or packaged model.")],
    dims: Annotated[
        str | None, typer.Option("--dims", "--dim", help="Sizes, comma-separated; default: full width.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of each size, comma-separated: float32, float16, int8, uint8, binary, ubinary.")
    ] = "float32",
    keep: Annotated[str | None, typer.Option(help="Columns to store besides; text is what was encoded.")] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Columns to encode, joined by a blank: title,body. Default: title and text.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Default: _id, id or the number of the row.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows to take, at most.")] = None,
    on_error: Annotated[OnError, typer.Option(help="What to do with rows without text.")] = OnError.skip,
    on_long: Annotated[OnLong, typer.Option(help="What to do with texts longer than the model reads.")] = OnLong.cut,
    format: Annotated[Format, typer.Option("--format", help="Shards, or a memory-mapped array.")] = Format.parquet,
    dtype: Annotated[
        AutoDtype, typer.Option(help="What the model computes in; auto: bfloat16 where the device has it.")
    ] = AutoDtype.auto,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows read per shard, which is held in memory.")] = 8192,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Tokens per batch; default: by device.")] = None,
    device: Device = None,
    engine: Annotated[
        EngineName, typer.Option(help="This process, or a Ray cluster (RAY_ADDRESS).")
    ] = EngineName.local,
) -> None:
    """Encode a corpus of any size into a folder of vectors; interrupted, the same command goes on."""
    sizes = whole_numbers(dims, "--dims", "64,128,256")
    from mrl_text.quiet import quiet_libraries

    quiet_libraries()
    from mrl_text.encoding import encode_files

    report = encode_files(
        inputs,
        output,
        model=model,
        dims=sizes,
        precisions=names(precision),  # type: ignore[arg-type]  # checked there
        keep=names(keep),
        text_columns=names(text_column),
        id_column=id_column,
        limit=limit,
        on_error=on_error.value,
        on_long=on_long.value,
        shard_rows=shard_rows,
        format=format.value,
        dtype=dtype.value,
        device=device,
        token_budget=token_budget,
        engine=engine.value,
        progress=True,
    )
    if count := report.left_out + report.cut + report.misfits:
        more = f"\n... all in {report.folder / 'problems.jsonl'}" * (count > len(report.problems))
        typer.echo("\n".join(report.problems) + more, err=True)
    rate = f", {report.encoded / report.seconds:,.0f} texts/s" if report.encoded else ""
    typer.echo(
        f"{report.folder}: {report.rows:,} rows ({report.encoded:,} read now) in {report.seconds:.1f} s{rate},"
        f" {report.dtype}; {report.left_out:,} left out, {report.cut:,} cut"
    )
