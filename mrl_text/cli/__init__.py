"""The ``mrl-text`` command. Each command is a thin call of one function; heavy imports wait until it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from mrl_text.cli.classification import classify, label
from mrl_text.cli.encoding import encode
from mrl_text.cli.evaluation import evaluate, leaderboard, mirror
from mrl_text.cli.index import index_app
from mrl_text.cli.paper import paper
from mrl_text.cli.search import search
from mrl_text.cli.serving import serve
from mrl_text.cli.sharing import push
from mrl_text.cli.training import adapt, quickstart, recipes_app, train

app = typer.Typer(
    name="mrl-text",
    help="Sentence embeddings that can be cut to any size: train, evaluate, use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(adapt)
app.command()(encode)
app.command("eval")(evaluate)
app.command()(leaderboard)
app.command()(search)
app.command()(classify)
app.command()(label)
app.command()(serve)
app.command()(push)
app.command()(mirror)
app.command()(paper)
app.command()(quickstart)
app.add_typer(index_app, name="index")
app.add_typer(recipes_app, name="recipes")


def main() -> None:
    """Entry point of the console script."""
    app()


def _show_version(value: bool) -> None:
    if value:
        from mrl_text import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
