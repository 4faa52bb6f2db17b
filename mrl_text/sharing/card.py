"""The card of a published model: how to use it, what each size costs, and the words of its author."""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub import ModelCard as HubCard

from mrl_text.choices import CardChoice
from mrl_text.markdown import SIZES, collapsed, fenced, find_block, plain, remove_block, replace_block, table
from mrl_text.sharing.files import check_words, public_text
from mrl_text.sharing.metadata import check_card, merge

if TYPE_CHECKING:
    from mrl_text.eval.lines import Cell, Line
    from mrl_text.eval.results import Results


PICTURE = "curve.png"
USE = "mrl-text use"
"""The block that only a push writes; :mod:`mrl_text.training.card` writes the other."""

_PLACEHOLDER = "sentence_transformers_model_id"  # sentence-transformers' own, for the name that a model will get
_WORDS = re.compile(r"<!-- mrl-text words: ([0-9a-f]{16}) -->")


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


@dataclass(frozen=True)
class CardFacts:
    """All that a card is made of, but for what is on the hub."""

    readme: str
    """The card in the model's folder; may be empty."""
    repo: str
    dims: tuple[int, ...]
    """Trained sizes; empty if unknown."""
    prompts: Mapping[str, str]
    metadata: dict[str, Any]
    measured: Measured | None = None

    def compose(self, hub: str | None = None, prefer: CardChoice | None = None) -> str:
        """The card to publish.

        The author's words stay as they are, ours stand between markers. Where words were changed on the hub since
        the last push, ``prefer`` decides whose stay.

        Args:
            hub: the card that is on the hub now.
            prefer: ``"local"`` or ``"hub"``; None refuses to choose.

        Returns:
            YAML head and Markdown.

        Raises:
            ValueError: words on the hub that would be lost; a damaged card; a home folder or token in the words.
        """
        card, there = parse(self.readme, "README.md"), None if hub is None else parse(hub, "the card on the hub")
        body = card.text
        theirs = there is not None and self._written_there(body, there.text, prefer)
        if there is not None and theirs:
            body = _with_our_blocks(there.text, body)
        body = self._with_use(self._with_sizes(self._named(body)), theirs=theirs)
        scores = self.measured.scores if self.measured else ()
        merge(card, self.metadata, scores, self.repo, there)
        card.text = f"\n{body.strip()}\n"
        text = str(card.content)
        check_words(text)
        check_card(text, scores)
        return text

    def notes(self) -> list[str]:
        """What a reader of the card may stumble over."""
        found = []
        loaded = re.findall(r"SentenceTransformer\(\s*['\"]([^'\"]+/[^'\"]+)['\"]", self.readme)
        if others := [name for name in dict.fromkeys(loaded) if name != self.repo]:
            found.append(f"README.md shows how to load {others[0]}, not {self.repo}: is it the card of another model?")
        if self.measured is None:
            found.append("The card has no curve: run mrl-text eval, and push with --results OUTPUT_OF_EVAL.")
        if not ("license" in self.metadata or parse(self.readme, "README.md").data.get("license")):
            found.append("The card names no license, so nobody may rely on one: say it with --license.")
        return found

    def _written_there(self, here: str, there: str, prefer: CardChoice | None) -> bool:
        """Whether the words on the hub are taken."""
        theirs = words(there)
        last = _WORDS.search(there)
        if not theirs or theirs == words(self._named(here)) or (last and last[1] == _digest(theirs)):
            return False
        if prefer is None:
            raise ValueError(
                f"the card of {self.repo} was written or changed on the hub: --card hub keeps its text,"
                " --card local puts that of README.md in its place"
            )
        return prefer == "hub"

    def _named(self, body: str) -> str:
        """With the repository's name where sentence-transformers left room for it, and never without a title."""
        name = self.repo.partition("/")[2]
        about = "A [sentence-transformers](https://www.SBERT.net) model whose vectors can be cut to a smaller size."
        return body.replace(_PLACEHOLDER, self.repo) if words(body) else f"# {name}\n\n{about}\n\n{body.lstrip()}"

    def _with_sizes(self, body: str) -> str:
        if (found := find_block(body, SIZES)) is not None:
            body = body[: found[0]] + public_text(body[found[0] : found[1]]) + body[found[1] :]
        if self.measured is None:
            return body
        from mrl_text.training.card import with_curve

        return with_curve(body, self.measured.text)

    def _with_use(self, body: str, *, theirs: bool) -> str:
        """Before the sizes, wherever these stand; with the mark of words that the next push may replace."""
        body = remove_block(body, USE)
        content = self._example()
        if not theirs:
            content += f"\n\n<!-- mrl-text words: {_digest(words(body))} -->"
        if (found := find_block(body, SIZES)) is None:
            return replace_block(body, USE, content)
        return f"{body[: found[0]]}{replace_block('', USE, content).strip()}\n\n{body[found[0] :]}"

    def _example(self) -> str:
        prompted = [name for name in ("query", "document") if self.prompts.get(name)]
        texts = '["one text", "another"]'
        recommended = self.measured.dim if self.measured else None
        dim = recommended or (self.dims[(len(self.dims) - 1) // 2] if self.dims else None)
        blocks = ["## Use with any number of dimensions"]
        if len(self.dims) > 1:
            sizes = ", ".join(map(str, self.dims))
            blocks.append(
                f"The first numbers of a vector are a smaller vector, once scaled to unit length. Sizes: {sizes}."
            )
        loaded = f'"{self.repo}"' + (f", truncate_dim={dim}" if dim else "")
        unit = "normalize_embeddings=True"
        lines = ["from sentence_transformers import SentenceTransformer", "", f"model = SentenceTransformer({loaded})"]
        if prompted:
            lines += [f"documents = model.encode_document({texts}, {unit})", f'query = model.encode_query("?", {unit})']
        else:
            lines.append(f"embeddings = model.encode({texts}, {unit})")
        lines[-2 if prompted else -1] += f"  # (2, {dim})" if dim else ""
        note = "`normalize_embeddings=True` matters: a cut vector is not of unit length by itself."
        blocks += [fenced("\n".join(lines), "python"), note]
        ours = [
            "from mrl_text import MatryoshkaEncoder",
            "",
            f'model = MatryoshkaEncoder("{self.repo}")',
            f"embeddings = model.encode({texts}{f', dim={dim}' if dim else ''})  # unit vectors",
        ]
        return "\n\n".join([*blocks, "The same with mrl-text:", fenced("\n".join(ours), "python")])


def parse(text: str, name: str) -> HubCard:
    """A card as the hub's library reads it.

    Args:
        text: the card; without a YAML head, it gets an empty one.
        name: what to call it in an error.

    Raises:
        ValueError: a head that is no YAML mapping, or scores in it that cannot be read.
    """
    try:
        logging.getLogger("huggingface_hub.repocard").disabled = True  # it warns where there is no head
        return HubCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"the metadata of {name} cannot be read ({error}): correct it, or remove it") from None
    finally:
        logging.getLogger("huggingface_hub.repocard").disabled = False


def describe_card(file: Path) -> str:
    """The metadata of a card as YAML, its scores counted instead of listed."""
    data = parse(file.read_text(encoding="utf-8"), file.name).data
    scores: list[EvalResult] = data.get("eval_results") or []
    tasks = dict.fromkeys(one.dataset_name for one in scores)
    data["eval_results"] = data["model_name"] = None
    counted = f"\nmodel-index: {len(scores)} scores on {len(tasks)} data sets" if scores else ""
    return f"{data.to_yaml()}{counted}"


def words(body: str) -> str:
    """A card without our blocks, blanks counted once: what its author wrote."""
    for name in (USE, SIZES):
        body = remove_block(body, name)
    return " ".join(body.split())


def measure(results: Results, own: Line, controls: Sequence[Line], name: str, *, keep: float = 0.99) -> Measured:
    """Turn an evaluation into the part of a card that shows it.

    Args:
        results: finished results; other models in them are left out.
        own: the line of the model.
        controls: the lines it is compared with.
        name: what the model is called from now on.
        keep: share of the full score that the recommended size keeps.
    """
    import pandas as pd

    from mrl_text.eval.figures import draw_curve
    from mrl_text.eval.results import LINE_COLUMNS, Results
    from mrl_text.sharing.metadata import eval_results
    from mrl_text.training.card import MEASURED, curve_tables

    chosen = {astuple(line) for line in (own, *controls)}
    rows = results.scores[LINE_COLUMNS].astype(object).itertuples(index=False, name=None)
    mask = [(*row[:-1], None if row[-1] is pd.NA else row[-1]) in chosen for row in rows]
    only = Results(results.scores[mask].reset_index(drop=True), results.folders)
    for line in only.lines:
        only.labels[line] = only.labels[line].replace(own.label, name, 1)
    with tempfile.TemporaryDirectory() as folder:
        picture = next(file for file in draw_curve(only, Path(folder)) if file.suffix == ".png").read_bytes()
    choice = only.recommend(own, keep)
    dim = choice.cell.dim if choice is not None and choice.cell.dim < choice.full.dim else None
    computed = "" if own.dtype == "float32" else f" The model computed in {own.dtype}."
    kinds = f"{len(only.tasks)} tasks" if len(only.tasks) > 1 else next(iter(only.tasks))
    blocks = [f"![Score against bytes per vector, this model and what it is compared with]({PICTURE})"]
    blocks.append(MEASURED + computed + " *Kept* is the share of the score at full width in float32.")
    blocks.append(_controls_text(own, controls))
    if choice is not None:
        blocks.append(f"Recommended, to keep {100 * keep:.4g} %: {choice.sentence()}.")
    blocks += [f"**Mean of {kinds}**" if len(only.tasks) > 1 else f"**{plain(kinds)}**"]
    blocks.append(_kept_table(only, own, controls))
    blocks += curve_tables(only, own, controls) if len(only.types) > 1 else []
    if (other := _precisions_table(only, own)) is not None:
        blocks.append(collapsed("Other precisions", other))
    return Measured("\n\n".join(blocks), picture, tuple(eval_results(only, own)), dim)


def _controls_text(own: Line, controls: Sequence[Line]) -> str:
    said = {
        ("truncation", False): "the untrained base, cut the same way",
        ("pca", True): "principal components of this model's vectors",
        ("random", True): "as many dimensions at random",
    }
    named = [said[key] for line in controls if (key := (line.method, line.model == own.model)) in said]
    without = [] if any(line.model != own.model for line in controls) else ["The untrained base was not measured."]
    return " ".join([*([f"Compared with: {'; '.join(named)}."] if named else []), *without])


def _kept_table(results: Results, own: Line, controls: Sequence[Line]) -> str:
    from mrl_text.training.card import score_words

    labels = [plain(results.labels[line]) for line in (own, *controls)]
    rows = [["size", "bytes", labels[0], "kept, %", *labels[1:]]]
    for cell in sorted((one for one in results.cells(own) if one.precision == "float32"), reverse=True):
        beside = [score_words(results.estimate(line, cell)) if cell in results.cells(line) else "" for line in controls]
        rows.append([str(cell.dim), str(cell.bytes), *_cell_words(results, own, cell), *beside])
    return table(rows)


def _precisions_table(results: Results, own: Line) -> str | None:
    others = [cell for cell in results.cells(own) if cell.precision != "float32"]
    rows = [["size", "precision", "bytes", "score", "kept, %"]]
    rows += [[str(one.dim), one.precision, str(one.bytes), *_cell_words(results, own, one)] for one in others]
    return table(rows) if others else None


def _cell_words(results: Results, own: Line, cell: Cell) -> list[str]:
    from mrl_text.training.card import score_words

    whole = replace(cell, dim=max(one.dim for one in results.cells(own)), precision="float32")
    kept = None if cell == whole else results.retention(own, cell)
    shown = score_words(kept) if kept is not None else "100" if cell == whole else ""
    return [score_words(results.estimate(own, cell)), shown]


def _with_our_blocks(there: str, here: str) -> str:
    """The text on the hub with our section as it is in the model's folder."""
    found, name = find_block(here, SIZES), SIZES
    if found is None:
        return remove_block(there, name)
    inside = here[found[0] : found[1]].split("\n", 1)[1].rsplit("\n", 1)[0]
    return replace_block(there, name, inside)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
