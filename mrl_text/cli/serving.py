"""The command ``mrl-text serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from mrl_text.cli.common import AutoDtypeOption, Device, Model, TrustRemoteCode, command, dims_option, whole_numbers


@command
def serve(
    model: Model,
    host: Annotated[str, Option(help="Address to listen on; the default is for this machine only.")] = "127.0.0.1",
    port: Annotated[int, Option(help="0 takes any free one.")] = 8080,
    dims: Annotated[str | None, dims_option("every size")] = None,
    dtype: AutoDtypeOption = "auto",
    model_name: Annotated[str | None, Option(help="What clients call the model.")] = None,
    api_key_env: Annotated[
        str | None, Option(metavar="NAME", help="Variable with the token; default: MRL_TEXT_API_KEY if set.")
    ] = None,
    api_key_file: Annotated[Path | None, Option(metavar="FILE", help="File with the token instead.")] = None,
    max_batch_tokens: Annotated[
        int | None, Option(min=1, help="Tokens per forward pass, padding included; default: 1536, GPU 16384.")
    ] = None,
    max_wait_ms: Annotated[float, Option(min=0, help="Patience of an idle server for a fuller batch.")] = 2.0,
    max_inputs: Annotated[int, Option(min=1, help="Texts per request.")] = 2048,
    max_request_bytes: Annotated[int, Option(min=1, help="Bytes per request.")] = 8 * 2**20,
    max_queue: Annotated[int, Option(min=1, help="Tokens that may wait; more get 429.")] = 262_144,
    timeout: Annotated[float, Option(help="Seconds that a request may take.")] = 60.0,
    grace: Annotated[float, Option(min=0, help="Seconds for requests under way when told to stop.")] = 30.0,
    token_ids: Annotated[bool, Option("--token-ids", help="Take ids of the model's own tokenizer, too.")] = False,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve a model to OpenAI clients: POST /v1/embeddings with dimensions; /v1/models, /health, /metrics."""
    from mrl_text.serving import ServerSettings, read_api_key
    from mrl_text.serving import serve as run

    sizes = whole_numbers(dims)
    settings = ServerSettings(
        host=host, port=port, model_name=model_name, dims=tuple(sizes) if sizes else None, max_inputs=max_inputs,
        max_batch_tokens=max_batch_tokens, max_wait_ms=max_wait_ms, max_request_bytes=max_request_bytes,
        max_queue=max_queue, timeout=timeout, grace=grace, token_ids=token_ids,
        api_key=read_api_key(api_key_env, api_key_file),
    )  # fmt: skip
    run(model, settings, dtype=dtype, device=device, trust_remote_code=trust_remote_code, on_ready=typer.echo)
