"""The ``mrl-text`` command. Each command is a thin call of one function; heavy imports wait until it runs."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from mrl_text.eval import SweepResult

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


class DataAs(StrEnum):
    """Choices of ``--as``."""

    classification = "classification"
    clustering = "clustering"


class AdaptMethod(StrEnum):
    """Choices of ``--method``."""

    rotation = "rotation"
    pca = "pca"
    linear = "linear"


class Format(StrEnum):
    """Choices of ``leaderboard --format``."""

    terminal = "terminal"
    csv = "csv"
    markdown = "markdown"
    html = "html"


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
    from mrl_text.training.recipe_files import recipe_description, shipped_recipes

    for name in shipped_recipes():
        typer.echo(f"{name:16} {recipe_description(name)}")


@recipes_app.command("show")
@_command
def show_recipe(name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")]) -> None:
    """Print a recipe."""
    from mrl_text.training.recipe_files import recipe_text

    typer.echo(recipe_text(name), nl=False)


@recipes_app.command("copy")
@_command
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")],
    file: Annotated[Path, typer.Argument(help="File to write; an existing one is not overwritten.")],
) -> None:
    """Copy a recipe to a file of your own."""
    from mrl_text.training.recipe_files import recipe_text

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
    from mrl_text.training.recipe_files import load_recipe

    run = Path(recipe) if (Path(recipe) / "recipe.yaml").is_file() else None
    loaded = load_recipe(str(run / "recipe.yaml") if run else recipe, overrides or ())
    from mrl_text.quiet import quiet_libraries
    from mrl_text.training.trainer import train as run_training

    quiet_libraries()
    folder = output or run or Path("runs") / Path(recipe).stem
    typer.echo(run_training(loaded, folder, resume=resume))


@app.command()
@_command
def adapt(
    model: Annotated[
        str | None, typer.Argument(help="Folder, hub id or packaged model; leave it out with --embeddings.")
    ] = None,
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="Texts like those the model is for: .txt, CSV, TSV, JSONL or Parquet. As often as you like."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the model; with --embeddings a .npy file.")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Vectors of any provider instead of model and texts: .npy, or Parquet.")
    ] = None,
    method: Annotated[AdaptMethod, typer.Option(help="How to fit.")] = AdaptMethod.rotation,
    dims: Annotated[
        str | None, typer.Option(help="Sizes, comma-separated; default: powers of two from 16, and the width.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="For linear: table with anchor and positive; with --embeddings a .npy of row numbers."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the texts; default: every column of text.")] = None,
    limit: Annotated[int, typer.Option(help="Texts to fit on, at most.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of sampling and fit.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per forward pass.")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")] = None,
) -> None:
    """Make a frozen model Matryoshka in minutes, without labels and with nothing lost at full width."""
    sizes = _whole_numbers(dims, "--dims", "64,128,256") if dims else None
    if output is None:
        raise ValueError("say where the result goes: --output FOLDER, or --output FILE.npy with --embeddings")
    if (model is None) == (embeddings is None):
        raise ValueError("give either a model with --texts, or --embeddings")
    if embeddings is not None and (texts or column or device):
        raise ValueError("--embeddings needs no --texts, --column or --device: nothing is encoded")
    from mrl_text.quiet import quiet_libraries

    quiet_libraries()
    from mrl_text.adapt import adapt as run_adapt
    from mrl_text.adapt import adapt_vectors

    common: dict[str, Any] = {"method": method.value, "dims": sizes, "pairs": pairs, "limit": limit, "seed": seed}
    if embeddings is not None:
        typer.echo(adapt_vectors(embeddings, output, **common))
    else:
        options: dict[str, Any] = {"column": column, "batch_size": batch_size, "device": device}
        typer.echo(run_adapt(str(model), texts or [], output, **common, **options))


@app.command("eval")
@_command
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Folders of runs or models, hub ids, packaged models.")],
    tasks: Annotated[
        str | None, typer.Option(help="mteb tasks, comma-separated; default: those of the run's recipe.")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="mteb benchmark, such as 'MTEB(eng, v2)'.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Your own data: a BEIR folder, or CSV, TSV, JSONL or Parquet. As often as you like."),
    ] = None,
    as_: Annotated[
        DataAs | None, typer.Option("--as", help="What files with text,label are; default: classification.")
    ] = None,
    languages: Annotated[str | None, typer.Option(help="Keep these languages of --tasks: eng,deu-Latn.")] = None,
    subsets: Annotated[str | None, typer.Option(help="Keep these subsets of --tasks.")] = None,
    splits: Annotated[str | None, typer.Option(help="Evaluate these splits of --tasks.")] = None,
    dims: Annotated[
        str | None, typer.Option(help="Sizes, comma-separated; full width is always added. Default: the trained ones.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Numbers of layers to evaluate besides all of them, comma-separated.")
    ] = None,
    precisions: Annotated[str, typer.Option(help="What vectors are stored in.")] = "float32,float16,int8,binary",
    controls: Annotated[
        str, typer.Option(help="What models are compared with: base, pca, random, comma-separated, or none.")
    ] = "base,pca,random",
    pca_texts: Annotated[
        Path | None, typer.Option(help="Fit PCA on these texts, one a line, instead of each task's corpus side.")
    ] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="CSV of published scores to draw beside: model, dim, task, score.")
    ] = None,
    keep: Annotated[float, typer.Option(help="Share of the full score that the recommended size keeps.")] = 0.99,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results, table, curve and report.")] = Path(
        "evaluation"
    ),
    mirror: Annotated[Path | None, typer.Option(help="Folder that mrl-text mirror made; works offline.")] = None,
    cache: Annotated[
        str | None, typer.Option(help="Folder of embeddings to share between evaluations, or none to keep none.")
    ] = None,
    keep_going: Annotated[bool, typer.Option(help="Leave out tasks that cannot run or fail.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per forward pass.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="What the models compute in.")] = Dtype.float32,
) -> None:
    """Evaluate models on mteb tasks or your own data, at every size and precision, from one encoding pass."""
    sizes = _whole_numbers(dims, "--dims", "64,128,256") if dims else None
    depths = _whole_numbers(layers, "--layers", "2,4") if layers else None
    _check_share(keep)
    from rich.console import Console

    from mrl_text.quiet import quiet_libraries

    quiet_libraries()
    from mrl_text.eval.report import print_report, write_report
    from mrl_text.eval.runner import recipe_eval, sweep

    planned = recipe_eval(models[0])
    chosen = _names(tasks) if tasks else [] if benchmark or data else planned.tasks
    planned_dims = planned.dims if len(models) == 1 else []
    texts = _lines(pca_texts) if pca_texts else None
    for file in reference or ():
        if not file.is_file():
            raise FileNotFoundError(f"no reference file at {file}")
    result = sweep(
        models,
        chosen,
        output=output,
        benchmark=benchmark,
        data=data or (),
        as_=as_.value if as_ else None,
        languages=_names(languages),
        subsets=_names(subsets),
        splits=_names(splits),
        dims=sizes or planned_dims or None,
        precisions=_names(precisions),  # type: ignore[arg-type]  # checked by sweep
        controls=[] if controls == "none" else _names(controls),  # type: ignore[arg-type]
        mirror=mirror,
        cache=cache,
        pca_texts=texts,
        keep_going=keep_going,
        batch_size=batch_size,
        device=device,
        dtype=dtype.value,
        layers=depths or planned.layers or None,
    )
    from mrl_text.eval.reference import read_references

    references = read_references(reference or (), result)
    print_report(result, Console(), keep=keep)
    for task, reason in result.failed.items():
        typer.echo(f"{task} was left out: {reason}")
    written = write_report(result, keep=keep, references=references, failed=result.failed)
    typer.echo("\n".join(str(file) for file in (output / "scores.csv", output / "scores.parquet", *written)))
    _write_cards(models, result)


@app.command()
@_command
def leaderboard(
    results: Annotated[list[Path], typer.Argument(help="Output folders of mrl-text eval.")],
    format_: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.terminal,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead; .html writes the interactive page.")
    ] = None,
    reference: Annotated[list[Path] | None, typer.Option(help="CSV of published scores for the page.")] = None,
    keep: Annotated[float, typer.Option(help="Share of the full score that recommended sizes keep.")] = 0.99,
) -> None:
    """One table over models, sizes and precisions, from any number of evaluations."""
    _check_share(keep)
    from mrl_text.eval.leaderboard import load_results, write_leaderboard

    kind = output.suffix.lstrip(".").lower().replace("md", "markdown") if output else format_.value
    text = write_leaderboard(load_results(results), kind, output, keep=keep, references=reference or ())
    typer.echo(text, nl=False)


@app.command()
@_command
def mirror(
    arguments: Annotated[list[str], typer.Argument(metavar="TASKS... DIR", help="mteb tasks, then the folder.")],
    benchmark: Annotated[str | None, typer.Option(help="mteb benchmark, instead of or besides tasks.")] = None,
) -> None:
    """Copy the data sets of mteb tasks from the hub, for evaluation without a network."""
    *names, folder = arguments
    from mrl_text.quiet import quiet_libraries

    quiet_libraries()
    from mrl_text.eval.mirror import mirror_tasks
    from mrl_text.eval.tasks import find_tasks

    copied = mirror_tasks(find_tasks([one for name in names for one in _names(name)], benchmark), folder)
    typer.echo("\n".join(f"{path}  {where}" for path, where in copied.items()))
    typer.echo(f"Evaluate with  mrl-text eval MODEL --tasks ... --mirror {folder}")


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


def _write_cards(models: list[str], result: SweepResult) -> None:
    """Put the curve into the cards of models made here; what was measured stays whatever becomes of that."""
    from mrl_text.training.card import write_curve

    for folder in map(Path, models):
        trained = (folder / "recipe.yaml").is_file() and (folder / "model").is_dir()
        if trained or (folder / "adaptation.json").is_file():
            try:
                write_curve(folder, result)
            except (ValueError, OSError) as error:
                typer.echo(f"{folder}: the model card is left as it was: {' '.join(str(error).split())}", err=True)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) < 2:
        raise ValueError(f"{file} has no texts, one a line, to fit PCA on")
    return lines


def _check_share(keep: float) -> None:
    if not 0 < keep <= 1:
        raise ValueError(f"--keep {keep}: expected a share of the full score, such as 0.99")


def _whole_numbers(text: str, option: str, example: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected whole numbers separated by commas, such as {example}") from None
