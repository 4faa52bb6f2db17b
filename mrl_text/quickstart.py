"""The whole story on one laptop: train, evaluate at every size, draw the curve, search."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrl_text.amounts import count, hundredfold
from mrl_text.codes import Codec, FewBits
from mrl_text.docstrings import HELD_OUT_PACKAGES, load_docstrings
from mrl_text.dtypes import fastest_dtype
from mrl_text.models import find_model
from mrl_text.training.recipe_files import load_recipe
from mrl_text.training.trainer import train
from mrl_text.truncation import Precision

if TYPE_CHECKING:
    from rich.console import Console

    from mrl_text.eval.runner import SweepResult
    from mrl_text.eval.statistics import Interval

TASK = "DocstringRetrieval"
DEMO_DIM = 256
DEMO_PRECISION: FewBits = "int2"
PRECISIONS: tuple[Precision, ...] = ("float32", "int4", "int2", "binary")
DEMO_QUERIES = (
    "find the shortest path between two nodes",
    "group similar points into clusters",
    "choose a random element from a list",
)


def quickstart(output: Path, console: Console, notes: Console, overrides: Sequence[str] = ()) -> None:
    """Train on the docstrings of this environment, evaluate base and trained model, draw, search.

    Everything lands in ``output``; finished parts are not done again, so an interrupted quick start continues.

    Args:
        output: folder of the run.
        console: where the answer goes.
        notes: where progress notes go.
        overrides: changes to the ``quickstart`` recipe, ``section.key=value``.

    Raises:
        ModuleNotFoundError: the ``quickstart`` extra is not installed.
        KeyboardInterrupt: interrupted; the same call continues.
    """
    from mrl_text.eval import sweep
    from mrl_text.eval.report import summarize, write_report

    show = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    started = time.monotonic()
    recipe = load_recipe("quickstart", overrides)
    notes.print(f"[bold]1/4 Training[/bold] {recipe.model.name} on the docstrings of this Python environment")
    model = train(recipe, output, resume=True)
    notes.print("[bold]2/4 Evaluating[/bold] the untrained base and the trained model on packages held out of training")
    result = sweep(
        [str(model)],
        [TASK],
        output=output / "eval",
        dims=recipe.eval.dims,
        precisions=PRECISIONS,
        controls=["base"],
        dtype=fastest_dtype(),
    )
    notes.print("[bold]3/4 Drawing[/bold] the curve")
    report, picture, _ = write_report(result, summarize(result))
    show(comparison(result))
    notes.print(
        f"[bold]4/4 Searching[/bold] the documentation of this environment, {DEMO_DIM} x {DEMO_PRECISION} a text"
    )
    show(demonstration(result, str(model)))
    show(f"\nModel  {model}\nCurve  {picture}\nReport {report}\nScores {result.folder / 'scores.csv'}")
    notes.print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")


def comparison(result: SweepResult) -> str:
    """Text table: nDCG@10 (x100) of the trained model by bytes, and its paired difference from the whole base.

    Beside it stands the base, untrained, cut in float32 to as many bytes.
    """
    from mrl_text.eval.grid import Cell

    trained, base = result.lines
    control = result.curve(base)
    whole = max(control)
    best = {cell for line, cell in result.pareto() if line == trained} | {Cell(whole)}
    gains = {
        cell: (estimate.value, result.compare(TASK, trained, cell, base, whole))
        for cell in sorted(best, key=lambda cell: -cell.bytes)
        if (estimate := result.estimate(trained, cell)) is not None
    }
    bytes_of_base, score_of_base = Cell(whole).bytes, 100 * control[whole]
    lines = [
        f"nDCG@10 (x100) on {gains[Cell(whole)][1].n:,} docstrings of held-out packages",
        f"The untrained base has {score_of_base:.2f} in {bytes_of_base:,} bytes, {whole} x float32",
        "",
        "bytes  trained, in     score  above the whole base [95 % interval]  base, cut to as many bytes",
    ]
    for cell, (score, gain) in gains.items():
        cut = max((score for dim, score in control.items() if Cell(dim).bytes <= cell.bytes), default=None)
        shown = "too few" if cut is None else f"{100 * cut:.2f}"
        lines.append(f"{cell.bytes:5,d}  {cell.label:13} {100 * score:6.2f}  {_difference(gain):>36}  {shown:>26}")
    if enough := [cell for cell, (_, gain) in gains.items() if gain.mean >= 0]:
        fewer = bytes_of_base / enough[-1].bytes
        in_words = f"{count(enough[-1].bytes, 'byte')} ({enough[-1].label})"
        lines.append(
            f"\nTrained in {in_words} against the base in its {bytes_of_base:,}:"
            f" {_difference(gains[enough[-1]][1])} with {fewer:.3g}x fewer bytes."
        )
    return "\n".join(lines) + "\n"


def demonstration(result: SweepResult, model: str) -> str:
    """Answers to :data:`DEMO_QUERIES` among the held-out documentation, found on 64 bytes per text.

    The evaluation has encoded the texts already; the index is a code of that.
    """
    from mrl_text.loading import cached

    documents = load_docstrings(HELD_OUT_PACKAGES)
    cache = cached(find_model(model), **result.lines[0].computing)
    vectors = cache.embed([doc.positive for doc in documents], role="document")
    codec, dim = Codec.fit(vectors), min(DEMO_DIM, vectors.shape[1])
    index = codec.encode(vectors, dim, DEMO_PRECISION)
    lines = [
        f"{len(documents):,} texts, an index of {index.nbytes / 1e6:.2f} MB ({count(index.shape[1], 'byte')} each)"
    ]
    found = codec.scores(cache.model.encode_query(list(DEMO_QUERIES)), index, dim, DEMO_PRECISION).argmax(axis=1)
    for query, best in zip(DEMO_QUERIES, (documents[place] for place in found), strict=True):
        lines.append(f"  {query!r} -> {best.id}: {best.anchor}")
    return "\n".join(lines)


def _difference(gain: Interval) -> str:
    return hundredfold(gain.mean, gain.low, gain.high, sign="+")
