"""What all commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from mrl_text.choices import AutoBackend, AutoDtype, Dtype, EngineWord, OnError
from mrl_text.cli import inputs
from mrl_text.tables.corpus import ID_COLUMNS

if TYPE_CHECKING:
    from mrl_text.api.options import ApiOptions

_PROBLEMS = 3  # rows that are shown of those that were left out or cut
_ANY_MODEL = "Folder, hub id or packaged model."

Model = Annotated[str, Argument(help=_ANY_MODEL, callback=inputs.model)]
ModelOption = Annotated[str, Option("--model", "-m", help=_ANY_MODEL, callback=inputs.model)]
AnyModelOption = Annotated[
    str, Option("--model", "-m", help=f"{_ANY_MODEL[:-1]}; or openai:NAME, by an API.", callback=inputs.any_model)
]
Corpus = Annotated[
    list[Path],
    Argument(metavar="INPUT...", help="JSON lines, CSV, TSV, Parquet, .txt; - is stdin.", callback=inputs.table),
]
OwnData = Annotated[
    list[Path] | None,
    Option(
        help="Your own data: a BEIR folder, or CSV, TSV, JSONL or Parquet. As often as you like.",
        callback=inputs.table_or_folder,
    ),
]
OwnColumns = Annotated[
    str | None,
    Option("--columns", help="Columns of --data by other names: sentence1=question,sentence2=answer."),
]
References = Annotated[
    list[Path] | None,
    Option(help="Published scores to draw, CSV of model, dim, task, score.", callback=inputs.table),
]
Mirror = Annotated[
    Path | None,
    Option(help="Folder that mrl-text mirror made; works offline.", callback=inputs.there("a mirror folder")),
]
IdColumn = Annotated[
    str | None, Option(help=f"Default: the first of {', '.join(ID_COLUMNS)}; else the number of the row.")
]
KeepColumns = Annotated[str | None, Option(help="Columns to store besides: lang,year.")]
Limit = Annotated[int | None, Option(min=1, help="Rows to take, at most.")]
TextLimit = Annotated[int, Option(min=1, help="Texts to fit on, at most.")]
OnErrorOption = Annotated[OnError, Option(help="What to do with rows without text.")]
KeepShare = Annotated[float, Option(help="Share of the full score to keep.")]
EngineOption = Annotated[EngineWord | None, Option(help="Recommend what it can store, with the lines to paste.")]
Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="Of what is drawn at random.")]
BatchSize = Annotated[int, Option(min=1, help="Texts of full length per forward pass; more of shorter ones.")]
Device = Annotated[str | None, Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")]
TrustRemoteCode = Annotated[bool, Option("--trust-remote-code", help="Run the model's own code, with your rights.")]
BackendOption = Annotated[
    AutoBackend, Option("--backend", help="What computes the model; auto: the fastest that is installed, by a trial.")
]
DtypeOption = Annotated[Dtype, Option("--dtype", help="What the model computes in; int8: not with torch.")]
AutoDtypeOption = Annotated[
    AutoDtype, Option("--dtype", help="What to compute in; auto: bfloat16 where it is native; int8: not with torch.")
]

AsJson = Annotated[bool, Option("--json", help="Print JSON.")]

BaseUrl = Annotated[str | None, Option(help="With openai:NAME: the API; default: OPENAI_BASE_URL, else OpenAI's own.")]
RequestTexts = Annotated[int | None, Option(min=1, help="With openai:NAME: texts per request; default: 2048.")]
Price = Annotated[float | None, Option(min=0, help="With openai:NAME: US dollars a million tokens, to show the cost.")]
MaxTotalTokens = Annotated[
    int | None, Option(min=1, help="With openai:NAME: refuse beforehand to send more tokens, as estimated.")
]


def text_column_option(what: str, *earlier: str) -> Any:
    """The option ``--text-column``, which says what it names; by the names it had ``earlier`` it is known still."""
    return Option("--text-column", *earlier, help=what)


TextColumn = Annotated[str | None, text_column_option("Columns to encode, joined by a blank. Default: title,text.")]


def dims_option(default: str) -> Any:
    """The option ``--dims``, which says what it is by default."""
    return Option("--dims", "--dim", help=f"Sizes, comma-separated; default: {default}.")


def output_option(what: str) -> Any:
    """The option ``--output``, which says what is written there."""
    return Option("--output", "-o", help=what)


def api_options(context: typer.Context, models: Sequence[str]) -> ApiOptions | None:
    """How the APIs of models ``openai:NAME`` are asked; None where there are none.

    Raises:
        ValueError: an address that is none, or options of an API without such a model.
    """
    from mrl_text.api.options import PREFIX, ApiOptions, is_api_name

    known = ("base_url", "request_texts", "price_per_million", "max_total_tokens")
    if any(map(is_api_name, models)):
        given = {name: context.params[name] for name in known if context.params[name] is not None}
        return ApiOptions(**given)
    if unused := inputs.given(context, *known):
        raise ValueError(f"{unused[0]} is for a model {PREFIX}NAME, and none is named: leave it out")
    return None


def names(text: str | None) -> list[str]:
    """The names of an option that takes several; None gives none, and text without a name raises ``ValueError``."""
    found = [name.strip() for name in (text or "").split(",") if name.strip()]
    if text is not None and not found:
        raise ValueError(f"{text!r} names nothing: give names separated by commas, or leave the option out")
    return found


def own_columns(text: str | None) -> dict[str, str]:
    """What ``--columns`` says, ``ours=theirs,ours=theirs``; None gives none.

    Raises:
        ValueError: something else, or a name twice.
    """
    pairs = [[side.strip() for side in one.split("=", 1)] for one in names(text)]
    if any(len(pair) != 2 or not all(pair) for pair in pairs) or len({ours for ours, _ in pairs}) < len(pairs):
        raise ValueError(f"--columns {text}: expected pairs, each once, such as sentence1=question")
    return dict(pairs)


def whole_numbers(text: str | None, option: str = "--dims", example: str = "64,128,256") -> list[int] | None:
    """The numbers of an option that takes several; None stays None, and anything else raises ``ValueError``."""
    if not text:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected whole numbers separated by commas, such as {example}") from None


def check_share(keep: float) -> None:
    """Refuse with ``ValueError`` a ``--keep`` that is not above 0 and at most 1."""
    if not 0 < keep <= 1:
        raise ValueError(f"--keep {keep}: expected a share of the full score, such as 0.99")


STORES = "DIR, postgresql://USER@HOST/DATABASE?table=NAME, qdrant://HOST:6333/COLLECTION, qdrant:DIR#COLLECTION."
StoreUrl = Annotated[str, Argument(metavar="STORE", help=STORES)]
FilledStore = Annotated[str, Argument(metavar="STORE", help=STORES, callback=inputs.store)]
WhereOption = Annotated[
    list[str] | None,
    Option(
        "--where",
        help="Rows: lang=en,de, lang!=en, 'year>=2020', title=Photo*, lang=null; joined by and, or. May be repeated.",
    ),
]


def print_problems(problems: Sequence[str], count: int, folder: Path | None) -> None:
    """Print the first rows that were left out or cut, of ``count``, to stderr, and where ``folder`` has all."""
    shown = problems[:_PROBLEMS]
    if count > len(shown):
        place = f", all in {folder / 'problems.jsonl'}" if folder else ""
        shown = [*shown, f"... and {count - len(shown):,} more{place}"]
    typer.echo("\n".join(shown), err=True)


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
