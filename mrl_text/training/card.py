"""The part of a model card that is ours: what each size costs, what it was trained on, how to repeat it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers import SentenceTransformerModelCardData

from mrl_text.files import write_atomically
from mrl_text.models import find_model
from mrl_text.truncation import bytes_per_vector

if TYPE_CHECKING:
    from mrl_text.eval import SweepResult

_SIZES, _CURVE = "mrl-text sizes", "mrl-text curve"


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
    blocks.append(_between(_CURVE, unmeasured if after is None else ""))  # where the measured curve will stand
    if data:
        blocks.append("Trained on:")
        blocks.append("\n".join(f"- {_words(label)}{_rows(count)}" for label, count in data.items()))
    if recipe is not None:
        blocks.append(_collapsed("Recipe", _fenced(recipe, "yaml")))
    if versions:
        listed = "\n".join(f"- {_words(name)} {_words(version)}" for name, version in versions.items())
        blocks.append(_collapsed("Versions", listed))
    return _replace(readme, _SIZES, "\n\n".join(block for block in blocks if block))


def sizes_measured(metrics: Mapping[str, float]) -> dict[int, float]:
    """Size -> nDCG@10 from the metrics of :class:`~mrl_text.training.evaluator.NestedRetrievalEvaluator`."""
    found = ((re.search(r"dim(\d+)_ndcg@10$", name), value) for name, value in metrics.items())
    return {int(match[1]): float(value) for match, value in found if match}


def write_card(model_folder: str | Path, **facts: Any) -> None:
    """Write the section "Sizes" into the ``README.md`` of a saved model; ``facts`` as for :func:`describe_sizes`."""
    file = Path(model_folder) / "README.md"
    write_atomically(file, describe_sizes(_read(file), **facts).encode())


def write_curve(model_folder: str | Path, result: SweepResult) -> None:
    """Put what ``mrl-text eval`` measured into the card of a model, with the controls, in place of an earlier curve.

    Args:
        model_folder: folder of a run or of a saved model.
        result: an evaluation in which the model took part.

    Raises:
        FileNotFoundError: no model there.
        ValueError: the evaluation holds no scores of these weights.
    """
    source = find_model(str(model_folder))
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
    controls = [line for line in lines if line.role == "control" and (line.dtype, line.layers) == kind]
    file = Path(source.path) / "README.md"
    readme = _read(file)
    if _find(readme, _CURVE) is None:  # a model that we did not train
        readme = _replace(readme, _SIZES, "## Sizes\n\n" + _between(_CURVE, ""))
    write_atomically(file, _replace(readme, _CURVE, _curve_text(result, own[0], controls)).encode())


def _curve_text(result: SweepResult, own: Any, controls: Sequence[Any]) -> str:
    lines = [own, *controls]
    cells = {line: {cell.dim: cell for cell in result.cells(line) if cell.precision == "float32"} for line in lines}
    blocks = [
        "Measured with `mrl-text eval`: mean of the tasks' main scores (x100), 95 % intervals where there are any."
    ]
    for kind, tasks in result.types.items():
        blocks.append(f"**{_words(kind)}** ({', '.join(map(_words, tasks))})")
        rows = [["size", "bytes", *(_words(result.labels[line]) for line in lines)]]
        for dim in sorted(cells[own], reverse=True):
            scores = [
                _score_words(result.estimate(line, cells[line][dim], tasks)) if dim in cells[line] else ""
                for line in lines
            ]
            rows.append([str(dim), str(bytes_per_vector(dim)), *scores])
        blocks.append(_table(rows))
    return "\n\n".join(blocks)


def _score_words(estimate: Any) -> str:
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
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{'---:|' * len(rows[0])}", *body])


def _rows(count: int | None) -> str:
    return "" if count is None else f": {count:,} row{'' if count == 1 else 's'}"


def _words(text: str) -> str:
    """On one line, and none of it read as markup: labels come from file names."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _collapsed(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _between(name: str, content: str) -> str:
    return f"<!-- {name}: begin -->\n{content}\n<!-- {name}: end -->"


def _find(text: str, name: str) -> tuple[int, int] | None:
    """Where the marked block of that name begins and ends, markers included; None where there is none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    start = text.find(begin)
    if start < 0:
        return None
    stop = text.find(end, start)
    if stop < 0:
        raise ValueError(f"the model card has {begin!r} without {end!r}: write the end back, or remove the marker")
    return start, stop + len(end)


def _replace(readme: str, name: str, content: str) -> str:
    """The card with that block's content; a block that is not there goes before the first section."""
    block = _between(name, content)
    if (found := _find(readme, name)) is not None:
        return readme[: found[0]] + block + readme[found[1] :]
    head = re.match(r"---\n.*?\n---\n", readme, re.DOTALL)
    section = re.compile(r"^## ", re.MULTILINE).search(readme, head.end() if head else 0)
    if section is None:
        return f"{readme.rstrip()}\n\n{block}\n".lstrip()
    return f"{readme[: section.start()]}{block}\n\n{readme[section.start() :]}"
