"""The commands that bring a model to others: ``push``, ``serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from mrl_text.choices import CardChoice
from mrl_text.cli import common, inputs


def push(
    model: Annotated[str, Argument(help="Folder of a run or of a saved model.", callback=inputs.model)],
    repo: Annotated[str, Argument(help="Repository on the hub: owner/name.")],
    results: Annotated[
        list[Path] | None,
        Option(help="Output of mrl-text eval, for curve and scores; default: eval/ beside the model."),
    ] = None,
    license_: Annotated[str | None, Option("--license", help="Such as apache-2.0; never guessed.")] = None,
    language: Annotated[str | None, Option(help="ISO 639 codes, comma-separated: en,de.")] = None,
    card: Annotated[CardChoice | None, Option(help="Whose text stays where the hub's card changed, too.")] = None,
    private: Annotated[bool, Option(help="Create the repository private.")] = False,
    revision: Annotated[str | None, Option(help="Branch; created if it is not there.")] = None,
    message: Annotated[str | None, Option("--message", "-m", help="Commit message.")] = None,
    create_pr: Annotated[bool, Option(help="Open a pull request instead.")] = False,
    dry_run: Annotated[bool, Option(help="Write the repository into a folder; no network, no token.")] = False,
    output: Annotated[Path | None, common.output_option("With --dry-run: folder; default: a temporary one.")] = None,
) -> None:
    """Publish a model on the hub, with a card that shows what each size costs."""
    if output is not None and not dry_run:
        raise ValueError("--output is where --dry-run writes: add --dry-run, or leave --output out")
    from mrl_text.sharing import describe_card, prepare, write_upload
    from mrl_text.sharing import push as send

    upload = prepare(model, repo, results=results or (), license=license_, languages=common.names(language))
    for name, reason in upload.left_out.items():
        typer.echo(f"stays here: {name} ({reason})", err=True)
    for note in upload.card.notes():
        typer.echo(note, err=True)
    if not dry_run:
        url = send(upload, private=private, revision=revision, message=message, create_pr=create_pr, prefer=card)
        typer.echo(url)
        return
    import tempfile

    folder = write_upload(upload, output or tempfile.mkdtemp(prefix=f"{repo.replace('/', '-')}-"))
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        typer.echo(f"{file.stat().st_size:>14,}  {file.relative_to(folder).as_posix()}")
    typer.echo(f"\n{describe_card(folder / 'README.md')}\n\nWritten to {folder}. Nothing was sent.")


def serve(
    model: Annotated[
        str | None,
        Argument(
            help="Folder, hub id or packaged model; default: what made the vectors of --index.", callback=inputs.model
        ),
    ] = None,
    index: Annotated[
        str | None, Option(metavar="STORE", help=f"Search it at /search: {common.STORES}", callback=inputs.store)
    ] = None,
    host: Annotated[str, Option(help="Address to listen on; the default is for this machine only.")] = "127.0.0.1",
    port: Annotated[int, Option(help="0 takes any free one.")] = 8080,
    dims: Annotated[str | None, common.dims_option("every size")] = None,
    backend: common.BackendOption = "torch",
    dtype: common.AutoDtypeOption = "auto",
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
    header_timeout: Annotated[float, Option(help="Seconds that a connection may take to send a request.")] = 10.0,
    max_connections: Annotated[
        int | None, Option(min=1, help="Open at once; default: what the limit of open files allows.")
    ] = None,
    grace: Annotated[float, Option(min=0, help="Seconds for requests under way when told to stop.")] = 30.0,
    token_ids: Annotated[bool, Option("--token-ids", help="Take ids of the model's own tokenizer, too.")] = False,
    device: common.Device = None,
    trust_remote_code: common.TrustRemoteCode = False,
) -> None:
    """Serve a model to OpenAI clients: POST /v1/embeddings with dimensions; /rerank; /search of an index."""
    if model is None and index is None:
        raise ValueError("there is nothing to serve: name a model, or an index with --index")
    from mrl_text.serving import ServerSettings, read_api_key
    from mrl_text.serving import serve as run

    sizes = common.whole_numbers(dims)
    settings = ServerSettings(
        host=host,
        port=port,
        model_name=model_name,
        dims=tuple(sizes) if sizes else None,
        max_inputs=max_inputs,
        max_batch_tokens=max_batch_tokens,
        max_wait_ms=max_wait_ms,
        max_request_bytes=max_request_bytes,
        max_queue=max_queue,
        timeout=timeout,
        header_timeout=header_timeout,
        max_connections=max_connections,
        grace=grace,
        token_ids=token_ids,
        api_key=read_api_key(api_key_env, api_key_file),
    )
    run(
        model,
        settings,
        index=index,
        backend=backend,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        on_ready=typer.echo,
    )
