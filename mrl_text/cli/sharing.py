"""The command that publishes a model: ``push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from mrl_text.choices import CardChoice
from mrl_text.cli.common import command, names, output_option


@command
def push(
    model: Annotated[str, Argument(help="Folder of a run or of a saved model.")],
    repo: Annotated[str, Argument(help="Repository on the hub: owner/name.")],
    results: Annotated[
        list[Path] | None,
        Option(help="Output folder of mrl-text eval, for curve and scores; default: eval/ beside the model."),
    ] = None,
    license_: Annotated[str | None, Option("--license", help="Such as apache-2.0; never guessed.")] = None,
    language: Annotated[str | None, Option(help="ISO 639 codes, comma-separated: en,de.")] = None,
    card: Annotated[CardChoice | None, Option(help="Whose text stays where the hub's card changed, too.")] = None,
    private: Annotated[bool, Option(help="Create the repository private.")] = False,
    revision: Annotated[str | None, Option(help="Branch; created if it is not there.")] = None,
    message: Annotated[str | None, Option("--message", "-m", help="Commit message.")] = None,
    create_pr: Annotated[bool, Option(help="Open a pull request instead.")] = False,
    dry_run: Annotated[bool, Option(help="Write the repository into a folder; no network, no token.")] = False,
    output: Annotated[Path | None, output_option("With --dry-run: where to; default: a temporary folder.")] = None,
) -> None:
    """Publish a model on the hub, with a card that shows what each size costs."""
    if output is not None and not dry_run:
        raise ValueError("--output is where --dry-run writes: add --dry-run, or leave --output out")
    from mrl_text.sharing import describe_card, prepare, write_upload
    from mrl_text.sharing import push as send

    upload = prepare(model, repo, results=results or (), license=license_, languages=names(language))
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
