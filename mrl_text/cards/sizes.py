"""What we write into the card of a model that was trained or adapted here: sizes, data, how to repeat it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_text.amounts import FEW, count, hundredfold, percent, too_few
from mrl_text.cards.blocks import CURVE, SIZES, block, replace_block, split_head
from mrl_text.files import write_atomically
from mrl_text.markdown import collapsed, fenced, plain, table
from mrl_text.truncation import bytes_per_vector


def describe_sizes(
    readme: str,
    *,
    dims: Sequence[int],
    before: Mapping[int, float] | None = None,
    after: Mapping[int, float] | None = None,
    metric: str = "nDCG@10",
    recipe: str | None = None,
    data: Mapping[str, int | None] | None = None,
    versions: Mapping[str, str] | None = None,
    run: str = "RUN",
) -> str:
    """Put the section "Sizes" into a model card, in place of an earlier one.

    Args:
        readme: the card, with or without YAML head.
        dims: trained sizes.
        before: size -> validation score (0..1) of the starting model.
        after: the same of the trained model; without it the section says that nothing was measured.
        metric: what the scores are.
        recipe: the recipe as YAML.
        data: label of a source -> its rows; None where they were not counted.
        versions: package -> version.
        run: folder of the run, for the command that measures more.

    Returns:
        The card. What others wrote in it is unchanged; errors as :mod:`mrl_text.cards.blocks` says.
    """
    blocks = ["## Sizes", _sizes_text(before, after, metric), _sizes_table(sorted(dims), before or {}, after or {})]
    unmeasured = f"How good each size is has not been measured: run `mrl-text eval {run}`."
    blocks.append(block(CURVE, unmeasured if after is None else ""))  # where the measured curve will stand
    if data:
        blocks += ["Trained on:", "\n".join(f"- {plain(label)}{_rows(number)}" for label, number in data.items())]
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
    rewrite(model_folder, lambda card: describe_sizes(card, **facts))


def rewrite(model_folder: str | Path, change: Callable[[str], str]) -> None:
    """Replace the ``README.md`` of a saved model by what ``change`` makes of it; a missing one is empty."""
    file = Path(model_folder) / "README.md"
    write_atomically(file, change(file.read_text(encoding="utf-8") if file.is_file() else "").encode())


def describe_adaptation(
    readme: str,
    name: str,
    *,
    base: str,
    method: str,
    dims: Sequence[int],
    texts: int,
    held_out: int = 0,
    queries: int = 0,
    kept: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card of an adapted model: ours first, then the base's, whose title and snippet would pass for this model's.

    Args:
        readme: the card of the base, with or without YAML head.
        name: of the adapted model.
        base: its name.
        method: as for :func:`mrl_text.adapt.fit`.
        dims: the sizes that it was fitted for, ascending.
        texts: how many it was fitted on.
        held_out, queries, kept: as for :func:`kept_text`.
    """
    how = {
        "rotation": "an orthogonal rotation, fitted without labels; full-width similarities are those of the base",
        "pca": "an orthogonal rotation to the principal axes; full-width similarities are those of the base",
        "linear": "a linear map trained on pairs; full-width similarities differ from those of the base",
    }[method]
    section = (
        "## Adapted with mrl-text\n\n"
        f"The vectors of {base} can be cut to {', '.join(map(str, dims))} numbers: behind the unchanged encoder stands"
        f" {how}. Fitted on {texts:,} texts. Cut, then scale to unit length:"
        f" `SentenceTransformer(..., truncate_dim={dims[0]})` and `encode(..., normalize_embeddings=True)`.\n\n"
        "`codec.json` holds the codec of its vectors: `mrl_text.codes.saved_codec` reads it, and codes each number in"
        " one to eight bits.\n"
    )
    if kept:
        section += f"\n{kept_text(held_out=held_out, queries=queries, kept=kept)}\n"
    head, text = split_head(readme)
    card = f"\n## Card of the base model\n\n{text.strip()}\n" if text.strip() else ""
    return f"{head}\n# {name}\n\n{section}{card}".lstrip()


def kept_text(*, held_out: int, queries: int, kept: Sequence[Mapping[str, Any]]) -> str:
    """What few bytes keep of adapted vectors, as Markdown: what the rows are, on how many texts, the table, in percent.

    Args:
        held_out: texts left out of the fit, to judge it by.
        queries: how many of these asked.
        kept: rows of :func:`mrl_text.adapt.judge.kept_by_bytes`.
    """
    rows = [["bytes, at most", "best code", "before", "adapted"]]
    for row in kept:
        shares = [percent(row[when]) for when in ("before", "after")]
        rows.append([f"{row['bytes']:,}", f"{row['dim']} x {row['precision']}", *shares])
    said = [
        "How many of the ten texts nearest at full width a code of few bytes finds.",
        f"Of {count(held_out, 'text')} left out of the fit {queries:,} ask in float32, and the others are searched.",
        "A row is a number of bytes and the best code of the adapted vectors in no more.",
        "Before: what the best code of the vectors as they were finds in as many.",
    ]
    few = f"\n\n{too_few([count(queries, 'query')])} A fortieth of the texts asks." if queries < FEW else ""
    return "\n".join(said) + f"{few}\n\n{table(rows)}"


def _sizes_text(before: Mapping[int, float] | None, after: Mapping[int, float] | None, metric: str) -> str:
    text = "The first numbers of a vector are a vector, too, once scaled to unit length. Trained sizes, in float32"
    control = ", and of the starting model cut the same way" if before else ""
    measured = f", with {metric} (x100) on the validation data of this model{control}"
    return f"{text}{'' if after is None else measured}:"


def _sizes_table(dims: Sequence[int], before: Mapping[int, float], after: Mapping[int, float]) -> str:
    columns = {"starting model": before, "this model": after} if after else {}
    shown = {name: scores for name, scores in columns.items() if scores}
    rows = [["size", "bytes per vector", *shown]]
    for dim in reversed(dims):
        scores = [hundredfold(scores[dim]) if dim in scores else "" for scores in shown.values()]
        rows.append([str(dim), f"{bytes_per_vector(dim):,}", *scores])
    return table(rows)


def _rows(number: int | None) -> str:
    return "" if number is None else f": {count(number, 'row')}"
