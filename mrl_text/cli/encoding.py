"""The command ``mrl-text encode``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from mrl_text.amounts import count
from mrl_text.choices import EncodedFormat, EngineName, OnLong
from mrl_text.cli import common


def encode(
    context: typer.Context,
    inputs: common.Corpus,
    output: Annotated[Path, common.output_option("Folder; one that was begun goes on.")],
    model: common.AnyModelOption,
    dims: Annotated[str | None, common.dims_option("full width")] = None,
    precision: Annotated[
        str, Option(help="Of each size, comma-separated: float32, float16, int8, uint8, int4, int2, binary, ubinary.")
    ] = "float32",
    keep: common.KeepColumns = None,
    text_column: common.TextColumn = None,
    id_column: common.IdColumn = None,
    limit: common.Limit = None,
    on_error: common.OnErrorOption = "skip",
    on_long: Annotated[OnLong, Option(help="What to do with texts longer than the model reads.")] = "cut",
    format: Annotated[EncodedFormat, Option(help="Shards, or a memory-mapped array.")] = "parquet",
    backend: common.BackendOption = "torch",
    dtype: common.AutoDtypeOption = "auto",
    shard_rows: Annotated[int, Option(min=1, help="Rows read per shard, which is held in memory.")] = 8192,
    token_budget: Annotated[int | None, Option(min=1, help="Tokens per batch; default: by device.")] = None,
    device: common.Device = None,
    trust_remote_code: common.TrustRemoteCode = False,
    engine: Annotated[EngineName, Option(help="This process, or a Ray cluster (RAY_ADDRESS).")] = "local",
    base_url: common.BaseUrl = None,
    request_texts: common.RequestTexts = None,
    price_per_million: common.Price = None,
    max_total_tokens: common.MaxTotalTokens = None,
    as_json: common.AsJson = False,
) -> None:
    """Encode a corpus of any size into a folder of vectors; interrupted, the same command goes on."""
    sizes = common.whole_numbers(dims)
    api = common.api_options(context, [model])
    from mrl_text.encoding import encode_files

    report = encode_files(
        inputs,
        output,
        model=model,
        dims=sizes,
        id_column=id_column,
        limit=limit,
        on_error=on_error,
        on_long=on_long,
        precisions=common.names(precision),  # type: ignore[arg-type]  # checked there
        keep=common.names(keep),
        text_columns=common.names(text_column),
        shard_rows=shard_rows,
        format=format,
        backend=backend,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        token_budget=token_budget,
        engine=engine,
        api=api,
        progress=True,
    )
    if report.noted:
        common.print_problems(report.problems, report.noted, report.folder)
    if not report.rows:
        raise ValueError(
            f"nothing was encoded: no row of {', '.join(map(str, inputs))} is left, so mend or choose others"
        )
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False, default=str))
        return
    rate = f", {report.encoded / report.seconds:,.0f} texts/s" if report.encoded else ""
    typer.echo(
        f"{report.folder}: {count(report.rows, 'row')} ({report.encoded:,} read now) in {report.seconds:.1f} s{rate},"
        f" {report.backend} in {report.dtype}; {report.left_out:,} left out, {report.cut:,} cut"
    )
