"""What an evaluation says about a model, for its card."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult

from mrl_text.amounts import hundredfold, target
from mrl_text.cards.blocks import CURVE, SIZES, block, find_block, replace_block
from mrl_text.cards.sizes import rewrite
from mrl_text.markdown import collapsed, plain, table
from mrl_text.models import ModelSource, find_model

if TYPE_CHECKING:
    from mrl_text.eval.grid import Cell, Line
    from mrl_text.eval.results import Results
    from mrl_text.eval.statistics import Estimate

PICTURE = "curve.png"


@dataclass(frozen=True)
class Measured:
    """What an evaluation says about a model, ready for its card."""

    text: str
    """Picture, recommended size and tables, as Markdown."""
    picture: bytes
    """The curve, PNG."""
    scores: tuple[EvalResult, ...]
    """For the metadata."""
    dim: int | None
    """Recommended size, for the example; None where that is the full width."""


def write_curve(model_folder: str | Path, results: Results, *, keep: float = 0.99) -> None:
    """Put what ``mrl-text eval`` measured into the card of a model, with the controls, in place of an earlier curve.

    Args:
        model_folder: folder of a run or of a saved model.
        results: an evaluation in which the model took part.
        keep: share of the full score that the recommended size keeps.

    Raises:
        FileNotFoundError: no model there.
        ValueError: the evaluation holds no scores of these weights.
    """
    source = find_model(str(model_folder))
    text = curve_text(results, *measured_lines(source, results), keep=keep)
    rewrite(source.path, lambda card: with_curve(card, text))


def with_curve(readme: str, text: str) -> str:
    """The card with that text as its measured curve, in place of an earlier one (:mod:`mrl_text.cards.blocks`)."""
    if find_block(readme, CURVE) is None:  # a model that we did not train
        return replace_block(readme, SIZES, "## Sizes\n\n" + block(CURVE, text))
    return replace_block(readme, CURVE, text)


def measured_lines(source: ModelSource, result: Results) -> tuple[Line, list[Line]]:
    """The line of a model's own weights in an evaluation, and its controls'; ValueError if the weights have none."""
    names = {source.name}
    if source.base_model is not None:
        with suppress(FileNotFoundError):  # moved away since: the evaluation went without it
            names.add(find_model(source.base_model).name)
    lines = [line for line in result.lines if line.model in names]
    own = [one for one in lines if one.role == "model" and (one.model, one.revision) == (source.name, source.revision)]
    if not own:
        measured = ", ".join(dict.fromkeys(line.model for line in result.lines)) or "nothing"
        raise ValueError(f"the evaluation has no scores of the weights in {source.path}; it measured {measured}")
    kind = (own[0].dtype, own[0].layers)  # the first has all layers
    return own[0], [line for line in lines if line.role == "control" and (line.dtype, line.layers) == kind]


def curve_text(
    results: Results, own: Line, controls: Sequence[Line], *, keep: float = 0.99, picture: bool = False
) -> str:
    """The measured curve as Markdown: the recommended size, and tables of scores (x100) by bytes and by size.

    Other models in ``results`` are left out. ``keep`` is the share of the full score that the recommended size keeps;
    ``picture`` says whether :data:`PICTURE` lies beside the card.
    """
    computed = "" if own.dtype == "float32" else f" The model computed in {own.dtype}."
    blocks = [f"![Score against bytes per vector, this model and what it is compared with]({PICTURE})"] * picture
    blocks.append(
        "Measured with `mrl-text eval`: mean of the tasks' main scores (x100), 95 % intervals where there are any."
        f"{computed} *Kept* is the share of the score at full width in float32."
    )
    blocks.append(_controls_text(own, controls))
    if (choice := results.recommend(own, keep)) is not None:
        blocks.append(f"Recommended, to keep {target(keep)}: {choice.sentence()}.")
    blocks.append(_bytes_text(results, own, controls))
    if len(results.types) > 1:
        blocks += [f"**Mean of {len(results.tasks)} tasks**", _scores(results, own, controls, results.tasks)]
    for kind, tasks in results.types.items():
        blocks += [f"**{plain(kind)}** ({', '.join(map(plain, tasks))})", _scores(results, own, controls, tasks)]
    front = _front(results, own)
    if rest := [cell for cell in results.cells(own) if cell.precision != "float32" and cell not in front]:
        blocks.append(collapsed("Other precisions and comparisons", _cells(results, own, rest)))
    return "\n\n".join(filter(None, blocks))


def _bytes_text(results: Results, own: Line, controls: Sequence[Line]) -> str:
    """What each number of bytes can hold: the Pareto front over all sizes, precisions and comparisons."""
    front = _front(results, own)
    if len({cell.sequence for cell in results.cells(own)}) < 2:
        return ""
    base = next((one for one in controls if one.method == "truncation"), None)
    whole = results.full(base) if base is not None else None
    against = results.estimate(*whole) if whole is not None else None
    said = "**Quality per byte**: nothing else measured scores higher in as few bytes of memory, or of memory and disk."
    if whole is not None and against is not None:
        said += f" The untrained base has {_words(against)} in {whole[1].bytes:,} bytes."
    return f"{said}\n\n{_cells(results, own, front)}"


def _front(results: Results, own: Line) -> list[Cell]:
    return [cell for _, cell in results.pareto(lines=[own]) | results.pareto(lines=[own], one_stage=True)]


def _cells(results: Results, own: Line, cells: Sequence[Cell]) -> str:
    """A table of cells, the most bytes first; queries and disk where they are not the usual ones."""
    disk, coded = any(one.rescore for one in cells), any(one.comparison == "symmetric" for one in cells)
    rows = [["bytes", *["on disk"] * disk, "size", "precision", *["queries"] * coded, "score", "kept, %"]]
    for cell in sorted(cells, key=lambda one: (-one.bytes, *one.place)):
        besides = f"{results.disk(own, cell):,}" if cell.rescore else ""
        queries = "coded" if cell.comparison == "symmetric" else "float32"
        kind = [*[besides] * disk, str(cell.dim), cell.precision, *[queries] * coded]
        rows.append([f"{cell.bytes:,}", *kind, *_score_and_kept(results, own, cell, results.tasks)])
    return table(rows)


def _controls_text(own: Line, controls: Sequence[Line]) -> str:
    said = {
        ("truncation", False): "the untrained base, cut the same way",
        ("pca", True): "principal components of this model's vectors",
        ("random", True): "as many dimensions at random",
        ("pq", True): "FAISS's product quantiser of as many bytes",
        ("rabitq", True): "FAISS's RaBitQ",
    }
    named = [said[key] for line in controls if (key := (line.method, line.model == own.model)) in said]
    words = [f"Compared with: {'; '.join(named)}."] if named else []
    with_base = any(line.model != own.model for line in controls)
    return " ".join([*words, *([] if with_base else ["The untrained base was not measured."])])


def _scores(results: Results, own: Line, controls: Sequence[Line], tasks: Collection[str]) -> str:
    """A table: scores in float32 by size, of the model and of its controls."""
    controls = [line for line in controls if any(cell.precision == "float32" for cell in results.cells(line))]
    labels = [plain(results.labels[line]) for line in (own, *controls)]
    rows = [["bytes", "size", labels[0], "kept, %", *labels[1:]]]
    for cell in sorted((one for one in results.cells(own) if one.precision == "float32"), reverse=True):
        beside = [_words(results.estimate(line, cell, tasks)) for line in controls]
        rows.append([f"{cell.bytes:,}", str(cell.dim), *_score_and_kept(results, own, cell, tasks), *beside])
    return table(rows)


def _score_and_kept(results: Results, own: Line, cell: Cell, tasks: Collection[str]) -> list[str]:
    whole = results.full(own)
    kept = hundredfold(1) if whole == (own, cell) else _words(results.retention(own, cell, tasks))
    return [_words(results.estimate(own, cell, tasks)), kept]


def _words(estimate: Estimate | None) -> str:
    """An estimate x100 with its interval, where there are any."""
    if estimate is None:
        return ""
    interval = estimate.interval()
    return hundredfold(estimate.value, *((interval.low, interval.high) if interval else ()))
