"""What all commands share."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from mrl_text import library_logging
from mrl_text.choices import AutoDtype, Dtype, OnError

Command = TypeVar("Command", bound=Callable[..., Any])


_ANY_MODEL = "Folder, hub id or packaged model."

Model = Annotated[str, typer.Argument(help=_ANY_MODEL)]
ModelOption = Annotated[str, typer.Option("--model", "-m", help=_ANY_MODEL)]
Corpus = Annotated[list[Path], typer.Argument(metavar="INPUT...", help="JSON lines, CSV, TSV, Parquet, .txt.")]
OwnData = Annotated[
    list[Path] | None,
    typer.Option(help="Your own data: a BEIR folder, or CSV, TSV, JSONL or Parquet. As often as you like."),
]
References = Annotated[
    list[Path] | None, typer.Option(help="CSV of published scores to draw beside: model, dim, task, score.")
]
Mirror = Annotated[Path | None, typer.Option(help="Folder that mrl-text mirror made; works offline.")]
TextColumn = Annotated[
    str | None, typer.Option(help="Columns to encode, joined by a blank: title,body. Default: title and text.")
]
IdColumn = Annotated[str | None, typer.Option(help="Default: _id, id or the number of the row.")]
KeepColumns = Annotated[str | None, typer.Option(help="Columns to store besides: lang,year.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Rows to take, at most.")]
TextLimit = Annotated[int, typer.Option(min=1, help="Texts to fit on, at most.")]
OnErrorOption = Annotated[OnError, typer.Option(help="What to do with rows without text.")]
KeepShare = Annotated[float, typer.Option(help="Share of the full score to keep.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts per forward pass.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model, with your rights.")
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="What the model computes in.")]
AutoDtypeOption = Annotated[
    AutoDtype, typer.Option("--dtype", help="What the model computes in; auto: bfloat16 where the device has it.")
]


def dims_option(default: str) -> Any:
    """The option ``--dims``, which says what it is by default."""
    return typer.Option("--dims", "--dim", help=f"Sizes, comma-separated; default: {default}.")


def output_option(what: str) -> Any:
    """The option ``--output``, which says what is written there."""
    return typer.Option("--output", "-o", help=what)


def command(function: Command) -> Command:
    """Keep other libraries quiet; turn errors into one line and exit code 2, an interrupt into exit code 130."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("mrl_text").setLevel(logging.INFO)
        library_logging.quiet_libraries()
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            typer.echo(f"\nInterrupted{f': {interrupt}' if str(interrupt) else ''}. {_hint(function)}", err=True)
            raise typer.Exit(130) from None
        except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
            if os.environ.get("MRL_TEXT_DEBUG"):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None

    return run  # type: ignore[return-value]


def _hint(function: Callable[..., Any]) -> str:
    if function.__name__ == "train":
        return "To continue a run that has begun: mrl-text train RUN_FOLDER --resume"
    return "Run the same command again to continue."


def names(text: str | None) -> list[str]:
    """The names of an option that takes several, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def whole_numbers(text: str | None, option: str = "--dims", example: str = "64,128,256") -> list[int] | None:
    """The numbers of an option that takes several; None stays None.

    Raises:
        ValueError: something else than whole numbers.
    """
    if not text:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected whole numbers separated by commas, such as {example}") from None


def check_share(keep: float) -> None:
    """Refuse a ``--keep`` that is no share.

    Raises:
        ValueError: not above 0 and at most 1.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"--keep {keep}: expected a share of the full score, such as 0.99")


StoreUrl = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="DIR, postgresql://USER@HOST/DATABASE?table=NAME, qdrant://HOST:6333/COLLECTION, qdrant:DIR#COLLECTION.",
    ),
]


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Columns as wide as their longest cell; the first and a column without a name to the left."""
    columns = list(rows[0])
    cells = [columns, *([str(row[name]) for name in columns] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    for row in cells:
        aligned = [
            cell.ljust(width) if name in (columns[0], "") else cell.rjust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        typer.echo("  ".join(aligned).rstrip())
