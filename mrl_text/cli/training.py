"""The commands that make models: ``train``, ``adapt``, ``quickstart``, ``recipes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from mrl_text.choices import AdaptMethod
from mrl_text.cli import common, inputs

recipes_app = inputs.Commands(help="List, show and copy training recipes.", invoke_without_command=True)


@recipes_app.callback()
def _recipes(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_recipes()


@recipes_app.command("list")
def list_recipes() -> None:
    """Print every shipped recipe with its description."""
    from mrl_text.training.recipe_files import recipe_description, shipped_recipes

    for name in shipped_recipes():
        typer.echo(f"{name:16} {recipe_description(name)}")


@recipes_app.command("show")
def show_recipe(name: Annotated[str, Argument(help="Name of a shipped recipe.")]) -> None:
    """Print a recipe."""
    from mrl_text.training.recipe_files import recipe_text

    typer.echo(recipe_text(name), nl=False)


@recipes_app.command("copy")
def copy_recipe(
    name: Annotated[str, Argument(help="Name of a shipped recipe.")],
    file: Annotated[Path, Argument(help="File to write; an existing one is not overwritten.")],
) -> None:
    """Copy a recipe to a file of your own."""
    from mrl_text.training.recipe_files import recipe_text

    text = recipe_text(name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise FileExistsError(f"{file} exists already: choose another name") from None
    except OSError as error:
        raise type(error)(f"{file} cannot be written ({error.strerror}): choose another name") from None
    typer.echo(f"{file}: edit it, then run  mrl-text train {file}")


def train(
    recipe: Annotated[str, Argument(help="Name of a shipped recipe, a YAML file, or the folder of a run.")],
    overrides: Annotated[list[str] | None, Argument(help="section.key=value, as often as you like.")] = None,
    output: Annotated[Path | None, common.output_option("Folder of the run; default runs/RECIPE.")] = None,
    resume: Annotated[bool, Option(help="Continue an interrupted run from its last checkpoint.")] = False,
    trust_remote_code: common.TrustRemoteCode = False,
) -> None:
    """Train a Matryoshka encoder as a recipe says."""
    from mrl_text.training.recipe_files import load_recipe

    run = Path(recipe) if (Path(recipe) / "recipe.yaml").is_file() else None
    trusted = ["model.trust_remote_code=true"] if trust_remote_code else []  # and so in the run's recipe
    loaded = load_recipe(str(run / "recipe.yaml") if run else recipe, [*(overrides or ()), *trusted])
    from mrl_text.training.trainer import train as run_training

    folder = output or run or Path("runs") / Path(recipe).stem
    if resume and not (folder / "recipe.yaml").is_file():
        typer.echo(f"{folder} holds no run to resume, so that one begins", err=True)
    model = run_training(loaded, folder, resume=resume)
    from mrl_text.training.outcome import outcome

    typer.echo(f"{outcome(folder)}\n\n{model}")
    tasks = f"  # on {', '.join(loaded.eval.tasks)}, from the hub, without --data" if loaded.eval.tasks else ""
    typer.echo(f"Next: mrl-text eval {folder} --data YOUR_TEST_DATA{tasks}", err=True)


def adapt(
    context: typer.Context,
    model: Annotated[
        str | None,
        Argument(help="Folder, hub id or packaged model; not with --embeddings.", callback=inputs.model),
    ] = None,
    texts: Annotated[
        list[Path] | None,
        Option(
            help="Texts like those the model is for: .txt, CSV, TSV, JSONL or Parquet. As often as you like.",
            callback=inputs.table,
        ),
    ] = None,
    output: Annotated[Path | None, common.output_option("Folder for the model; with --embeddings a .npy file.")] = None,
    embeddings: Annotated[
        Path | None,
        Option(
            help="Vectors instead of model and texts: .npy, Parquet, Arrow, or an encoded folder.",
            callback=inputs.there("vectors: .npy, Parquet, Arrow, or a folder of mrl-text encode"),
        ),
    ] = None,
    method: Annotated[AdaptMethod, Option(help="How to fit.")] = "rotation",
    dims: Annotated[str | None, common.dims_option("powers of two from 16, and the width")] = None,
    pairs: Annotated[
        Path | None,
        Option(
            help="For linear: table with anchor and positive; with --embeddings a .npy of row numbers.",
            callback=inputs.there("pairs"),
        ),
    ] = None,
    column: Annotated[
        str | None, common.text_column_option("Column of the texts; default: every column of text.", "--column")
    ] = None,
    limit: common.TextLimit = 100_000,
    seed: common.Seed = 0,
    batch_size: common.BatchSize = 64,
    device: common.Device = None,
    trust_remote_code: common.TrustRemoteCode = False,
) -> None:
    """Make a frozen model Matryoshka in minutes, without labels and with nothing lost at full width."""
    sizes = common.whole_numbers(dims)
    if output is None:
        raise ValueError("say where the result goes: --output FOLDER, or --output FILE.npy with --embeddings")
    if (model is None) == (embeddings is None):
        raise ValueError("give either a model with --texts, or --embeddings")
    encoding = ("texts", "column", "batch_size", "device", "trust_remote_code")
    if embeddings is not None and (unused := inputs.given(context, *encoding)):
        raise ValueError(f"--embeddings needs no {', '.join(unused)}: nothing is encoded")
    if column is not None:
        for file in texts or ():
            inputs.check_columns(file, [column], "--text-column")
    from mrl_text.adapt import adapt as run_adapt
    from mrl_text.adapt import adapt_vectors
    from mrl_text.adapt.run import FACTS_FILE
    from mrl_text.cards.sizes import kept_text
    from mrl_text.files import read_json

    shared: dict[str, Any] = {"method": method, "dims": sizes, "pairs": pairs, "limit": limit, "seed": seed}
    if embeddings is not None:
        written = adapt_vectors(embeddings, output, **shared)
        facts = written.with_suffix(".json")
    else:
        options: dict[str, Any] = {"column": column, "batch_size": batch_size, "device": device}
        options["trust_remote_code"] = trust_remote_code
        written = run_adapt(str(model), texts or [], output, **shared, **options)
        facts = written / FACTS_FILE
    found = read_json(facts)
    if "kept" in found:
        judged = {name: found[name] for name in ("held_out", "queries", "kept")}
        typer.echo(f"{kept_text(**judged)}\n", err=True)
    typer.echo(written)


def quickstart(
    overrides: Annotated[list[str] | None, Argument(help="Changes to the recipe: section.key=value.")] = None,
    output: Annotated[Path, common.output_option("Folder of the run.")] = Path("runs/quickstart"),
) -> None:
    """Train, evaluate, draw and search on this machine alone, in minutes."""
    from mrl_text.library_logging import work_offline
    from mrl_text.models import require_packaged_model

    require_packaged_model("sentence-transformers/all-MiniLM-L6-v2", extra="quickstart")
    typer.echo(f"The quick start takes minutes. It lands in {output}; interrupted, it continues there.", err=True)
    work_offline()
    from rich.console import Console

    from mrl_text.quickstart import quickstart as run_quickstart

    run_quickstart(output, Console(), Console(stderr=True), overrides or ())
