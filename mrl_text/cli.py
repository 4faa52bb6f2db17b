"""The ``mrl-text`` command. Each command is a thin call of one function; heavy imports wait until it runs."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

app = typer.Typer(
    name="mrl-text",
    help="Sentence embeddings that can be cut to any size: train, evaluate, use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="List, show and copy training recipes.", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes")


class Dtype(StrEnum):
    """Choices of ``--dtype``."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> None:
    """Entry point of the console script."""
    app()


def _command(function: Command) -> Command:
    """Turn the library's errors into one line and exit code 2, an interrupt into exit code 130."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("mrl_text").setLevel(logging.INFO)
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


@recipes_app.callback()
def _recipes(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_recipes()


@recipes_app.command("list")
@_command
def list_recipes() -> None:
    """Print every shipped recipe with its description."""
    from mrl_text.training.recipe import recipe_description, shipped_recipes

    for name in shipped_recipes():
        typer.echo(f"{name:16} {recipe_description(name)}")


@recipes_app.command("show")
@_command
def show_recipe(name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")]) -> None:
    """Print a recipe."""
    from mrl_text.training.recipe import recipe_text

    typer.echo(recipe_text(name), nl=False)


@recipes_app.command("copy")
@_command
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")],
    file: Annotated[Path, typer.Argument(help="File to write; an existing one is not overwritten.")],
) -> None:
    """Copy a recipe to a file of your own."""
    from mrl_text.training.recipe import recipe_text

    text = recipe_text(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise FileExistsError(f"{file} exists already: choose another name") from None
    typer.echo(f"{file}: edit it, then run  mrl-text train {file}")


@app.command()
@_command
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, a YAML file, or the folder of a run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, as often as you like.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; default runs/RECIPE.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run from its last checkpoint.")] = False,
) -> None:
    """Train a Matryoshka encoder as a recipe says."""
    from mrl_text.training.recipe import load_recipe

    run = Path(recipe) if (Path(recipe) / "recipe.yaml").is_file() else None
    loaded = load_recipe(str(run / "recipe.yaml") if run else recipe, overrides or ())
    from mrl_text.quiet import quiet_libraries
    from mrl_text.training.trainer import train as run_training

    quiet_libraries()
    folder = output or run or Path("runs") / Path(recipe).stem
    typer.echo(run_training(loaded, folder, resume=resume))


@app.command("eval")
@_command
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Folders of runs or models, hub ids, packaged models.")],
    tasks: Annotated[
        str | None, typer.Option(help="mteb tasks, comma-separated; default: those of the run's recipe.")
    ] = None,
    dims: Annotated[
        str | None, typer.Option(help="Sizes, comma-separated; full width is always added. Default: the trained ones.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results, table and curve.")] = Path(
        "evaluation"
    ),
    mirror: Annotated[
        Path | None, typer.Option(help="Folder with local copies of hub data sets (DIR/organisation/name).")
    ] = None,
    control: Annotated[bool, typer.Option(help="Add the untrained base of a trained model, truncated.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per forward pass.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="What the models compute in.")] = Dtype.float32,
) -> None:
    """Evaluate models on mteb tasks at every size, from one encoding pass."""
    sizes = _whole_numbers(dims) if dims else None
    from rich.console import Console

    from mrl_text.quiet import quiet_libraries

    quiet_libraries()
    from mrl_text.eval.figures import draw_curve
    from mrl_text.eval.report import print_report
    from mrl_text.eval.runner import recipe_eval, sweep

    planned = recipe_eval(models[0])
    names = [name.strip() for name in tasks.split(",") if name.strip()] if tasks else planned.tasks
    planned_dims = planned.dims if len(models) == 1 else []
    result = sweep(
        models,
        names,
        output=output,
        dims=sizes or planned_dims or None,
        mirror=mirror,
        control=control,
        batch_size=batch_size,
        device=device,
        dtype=dtype.value,
    )
    print_report(result, Console())
    written = [result.folder / "scores.csv", result.folder / "scores.parquet", *draw_curve(result)]
    typer.echo("\n".join(str(file) for file in written))


@app.command()
@_command
def quickstart(
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: section.key=value.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")] = Path("runs/quickstart"),
) -> None:
    """Train, evaluate, draw and search on this machine alone, in minutes."""
    from mrl_text.models import require_packaged_model
    from mrl_text.quiet import quiet_libraries, work_offline

    require_packaged_model("sentence-transformers/all-MiniLM-L6-v2", extra="quickstart")
    typer.echo(f"The quick start takes minutes. It lands in {output}; interrupted, it continues there.", err=True)
    work_offline()
    from rich.console import Console

    quiet_libraries()
    from mrl_text.quickstart import quickstart as run_quickstart

    run_quickstart(output, Console(), Console(stderr=True), overrides or ())


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--dims {text!r}: expected whole numbers separated by commas, such as 64,128,256") from None
