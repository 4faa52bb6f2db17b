"""The ``mrl-text`` command. Each command is a thin call of one function; heavy imports wait until it runs."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from mrl_text import library_logging
from mrl_text.cli.classification import classify, label
from mrl_text.cli.doctor import doctor
from mrl_text.cli.encoding import encode
from mrl_text.cli.errors import OneLineErrors
from mrl_text.cli.evaluation import evaluate, leaderboard, mirror, paper
from mrl_text.cli.index import index_app
from mrl_text.cli.inputs import Commands
from mrl_text.cli.search import search
from mrl_text.cli.sharing import push, serve
from mrl_text.cli.training import adapt, quickstart, recipes_app, train
from mrl_text.cli.upkeep import compact, delete, export, info, verify

app = Commands(
    name="mrl-text",
    cls=OneLineErrors,
    help="Sentence embeddings that can be cut to any size: train, evaluate, use.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
for made in (train, adapt, encode):
    app.command()(made)
app.command("eval")(evaluate)
for used in (leaderboard, search, classify, label, serve, push, mirror, paper, quickstart, doctor):
    app.command()(used)
for kept in (info, compact, delete, verify, export):
    index_app.command()(kept)
app.add_typer(index_app, name="index")
app.add_typer(recipes_app, name="recipes")


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
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mrl_text").setLevel(logging.INFO)
    library_logging.quiet_libraries()
