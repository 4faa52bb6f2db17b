"""The whole story on one laptop: train, evaluate at every size, draw the curve, search."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrl_text.docstrings import HELD_OUT_PACKAGES, load_docstrings
from mrl_text.dtypes import fastest_dtype
from mrl_text.models import find_model
from mrl_text.training.recipe_files import load_recipe
from mrl_text.training.trainer import train
from mrl_text.truncation import truncate

if TYPE_CHECKING:
    from rich.console import Console

    from mrl_text.eval.runner import SweepResult


TASK = "DocstringRetrieval"
DEMO_DIM = 32
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
    from mrl_text.eval.report import write_report

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
        precisions=["float32"],
        controls=["base"],
        dtype=fastest_dtype(),
    )
    notes.print("[bold]3/4 Drawing[/bold] the curve")
    report, picture, _ = write_report(result)
    show(comparison(result))
    notes.print(f"[bold]4/4 Searching[/bold] the documentation of this environment at {DEMO_DIM} numbers per text")
    show(demonstration(result, str(model)))
    show(f"\nModel  {model}\nCurve  {picture}\nReport {report}\nScores {result.folder / 'scores.csv'}")
    notes.print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")


def comparison(result: SweepResult) -> str:
    """Text table: nDCG@10 (x100) of base and trained model per size, and the paired difference with its interval."""
    trained, base = result.lines
    scores, control = result.curve(trained), result.curve(base)
    full = max(scores)
    lines = [
        f"nDCG@10 (x100) on {result.compare(TASK, trained, full, base, full).n:,} docstrings of held-out packages",
        "",
        "size  bytes  base, truncated  trained  difference [95 % interval]",
    ]
    for dim in sorted(scores, reverse=True):
        gain = result.compare(TASK, trained, dim, base, dim)
        lines.append(
            f"{dim:4d}  {4 * dim:5d}  {100 * control[dim]:15.2f}  {100 * scores[dim]:7.2f}"
            f"  {100 * gain.mean:+6.2f} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"
        )
    smallest = next((dim for dim in sorted(scores) if scores[dim] >= control[full]), None)
    if smallest is not None:
        gain = result.compare(TASK, trained, smallest, base, full)
        lines.append(
            f"\nTrained at {smallest} against the base at its full {full}: {100 * gain.mean:+.2f}"
            f" [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}] with {full / smallest:.3g}x fewer numbers."
        )
    return "\n".join(lines) + "\n"


def demonstration(result: SweepResult, model: str) -> str:
    """Answers to :data:`DEMO_QUERIES` among the held-out documentation, found on 32 numbers per text.

    The evaluation has encoded the texts already; the index is a slice of that.
    """
    from mrl_text.loading import cached

    documents = load_docstrings(HELD_OUT_PACKAGES)
    cache = cached(find_model(model), dtype=result.lines[0].dtype)
    index = truncate(cache.embed([doc.positive for doc in documents], role="document"), DEMO_DIM)
    lines = [f"{len(documents):,} texts, an index of {index.nbytes / 1e6:.2f} MB ({4 * DEMO_DIM} bytes each)"]
    for query in DEMO_QUERIES:
        best = documents[int(np.argmax(index @ cache.model.encode_query(query, dim=DEMO_DIM)))]
        lines.append(f"  {query!r} -> {best.id}: {best.anchor}")
    return "\n".join(lines)
