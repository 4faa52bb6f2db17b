"""The part of a model card that is ours: what each size costs, what it was trained on, how to repeat it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers import SentenceTransformerModelCardData

from mrl_text.files import write_atomically
from mrl_text.markdown import CURVE, SIZES, block, collapsed, fenced, find_block, plain, replace_block, table
from mrl_text.models import ModelSource, find_model
from mrl_text.truncation import bytes_per_vector

if TYPE_CHECKING:
    from mrl_text.eval.lines import Line
    from mrl_text.eval.results import Results
    from mrl_text.eval.statistics import Estimate

MEASURED = "Measured with `mrl-text eval`: mean of the tasks' main scores (x100), 95 % intervals where there are any."


class ModelCard(SentenceTransformerModelCardData):
    """The parent's card without training sentences as examples: what users train on is theirs to show."""

    def set_widget_examples(self, dataset: Any) -> None:
        """Leave the examples empty."""

    def compute_dataset_metrics(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's facts about a data set, without its first rows."""
        facts = super().compute_dataset_metrics(*args, **kwargs)
        for name in ("examples", "examples_table", "_example_columns"):
            facts.pop(name, None)
        return facts


def describe_sizes(
    readme: str,
    *,
    dims: Sequence[int],
    before: Mapping[int, float] | None = None,
    after: Mapping[int, float] | None = None,
    recipe: str | None = None,
    data: Mapping[str, int | None] | None = None,
    versions: Mapping[str, str] | None = None,
    run: str = "RUN",
) -> str:
    """Put the section "Sizes" into a model card, in place of an earlier one.

    Args:
        readme: the card, with or without YAML head.
        dims: trained sizes.
        before: size -> validation nDCG@10 (0..1) of the starting model.
        after: the same of the trained model; without it the section says that nothing was measured.
        recipe: the recipe as YAML.
        data: label of a source -> its rows; None where they were not counted.
        versions: package -> version.
        run: folder of the run, for the command that measures more.

    Returns:
        The card. What others wrote in it is unchanged.

    Raises:
        ValueError: a begin marker without its end.
    """
    blocks = ["## Sizes", _sizes_text(before, after), _sizes_table(sorted(dims), before or {}, after or {})]
    unmeasured = f"How good each size is has not been measured: run `mrl-text eval {run}`."
    blocks.append(block(CURVE, unmeasured if after is None else ""))  # where the measured curve will stand
    if data:
        blocks.append("Trained on:")
        blocks.append("\n".join(f"- {plain(label)}{_rows(count)}" for label, count in data.items()))
    if recipe is not None:
        blocks.append(collapsed("Recipe", fenced(recipe, "yaml")))
    if versions:
        listed = "\n".join(f"- {plain(name)} {plain(version)}" for name, version in versions.items())
        blocks.append(collapsed("Versions", listed))
    return replace_block(readme, SIZES, "\n\n".join(filter(None, blocks)))


def sizes_measured(metrics: Mapping[str, float]) -> dict[int, float]:
    """Size -> nDCG@10 from the metrics of :class:`~mrl_text.training.evaluator.NestedRetrievalEvaluator`."""
    found = ((re.search(r"dim(\d+)_ndcg@10$", name), value) for name, value in metrics.items())
    return {int(match[1]): float(value) for match, value in found if match}


def write_card(model_folder: str | Path, **facts: Any) -> None:
    """Write the section "Sizes" into the ``README.md`` of a saved model; ``facts`` as for :func:`describe_sizes`."""
    file = Path(model_folder) / "README.md"
    write_atomically(file, describe_sizes(_read(file), **facts).encode())


def write_curve(model_folder: str | Path, result: Results) -> None:
    """Put what ``mrl-text eval`` measured into the card of a model, with the controls, in place of an earlier curve.

    Args:
        model_folder: folder of a run or of a saved model.
        result: an evaluation in which the model took part.

    Raises:
        FileNotFoundError: no model there.
        ValueError: the evaluation holds no scores of these weights.
    """
    source = find_model(str(model_folder))
    file = Path(source.path) / "README.md"
    text = "\n\n".join([MEASURED, *curve_tables(result, *measured_lines(source, result))])
    write_atomically(file, with_curve(_read(file), text).encode())


def with_curve(readme: str, text: str) -> str:
    """The card with that text as its measured curve, in place of an earlier one.

    Raises:
        ValueError: a begin marker without its end.
    """
    if find_block(readme, CURVE) is None:  # a model that we did not train
        return replace_block(readme, SIZES, "## Sizes\n\n" + block(CURVE, text))
    return replace_block(readme, CURVE, text)


def measured_lines(source: ModelSource, result: Results) -> tuple[Line, list[Line]]:
    """The line of a model's own weights in an evaluation, and the lines of its controls.

    Raises:
        ValueError: the evaluation holds no scores of these weights.
    """
    names = {source.name}
    if source.base_model is not None:
        with suppress(FileNotFoundError):  # moved away since: the evaluation went without it
            names.add(find_model(source.base_model).name)
    lines = [line for line in result.lines if line.model in names]
    own = [
        line for line in lines if line.role == "model" and (line.model, line.revision) == (source.name, source.revision)
    ]
    if not own:
        measured = ", ".join(dict.fromkeys(line.model for line in result.lines)) or "nothing"
        raise ValueError(f"the evaluation has no scores of the weights in {source.path}; it measured {measured}")
    kind = (own[0].dtype, own[0].layers)  # the first has all layers
    return own[0], [line for line in lines if line.role == "control" and (line.dtype, line.layers) == kind]


def curve_tables(result: Results, own: Line, controls: Sequence[Line]) -> list[str]:
    """For each type of task its name and a table: score (x100) and interval by size, of a model and its controls."""
    lines = [own, *controls]
    cells = {line: {cell.dim: cell for cell in result.cells(line) if cell.precision == "float32"} for line in lines}
    blocks = []
    for kind, tasks in result.types.items():
        blocks.append(f"**{plain(kind)}** ({', '.join(map(plain, tasks))})")
        rows = [["size", "bytes", *(plain(result.labels[line]) for line in lines)]]
        for dim in sorted(cells[own], reverse=True):
            scores = [
                score_words(result.estimate(line, cells[line][dim], tasks)) if dim in cells[line] else ""
                for line in lines
            ]
            rows.append([str(dim), str(bytes_per_vector(dim)), *scores])
        blocks.append(table(rows))
    return blocks


def score_words(estimate: Estimate | None) -> str:
    """An estimate x100 with its interval, where there are any."""
    if estimate is None:
        return ""
    interval = estimate.interval()
    words = f"{100 * estimate.value:.2f}"
    return words if interval is None else f"{words} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"


def _sizes_text(before: Mapping[int, float] | None, after: Mapping[int, float] | None) -> str:
    text = "The first numbers of a vector are a vector, too, once scaled to unit length. Trained sizes, in float32"
    if after is None:
        return f"{text}:"
    control = ", and of the starting model cut the same way" if before else ""
    return f"{text}, with nDCG@10 (x100) on the validation data of this model{control}:"


def _sizes_table(dims: Sequence[int], before: Mapping[int, float], after: Mapping[int, float]) -> str:
    columns = {"starting model": before, "this model": after}
    shown = {name: scores for name, scores in columns.items() if scores and after}
    rows = [["size", "bytes per vector", *shown]]
    for dim in reversed(dims):
        scores = [f"{100 * scores[dim]:.2f}" if dim in scores else "" for scores in shown.values()]
        rows.append([str(dim), str(bytes_per_vector(dim)), *scores])
    return table(rows)


def _rows(count: int | None) -> str:
    return "" if count is None else f": {count:,} row{'' if count == 1 else 's'}"


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
