"""The card of a published model: how to use it, what each size costs, and the words of its author."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub import ModelCard as HubCard

from mrl_text.cards.blocks import SIZES, USE, find_block, remove_block, replace_block
from mrl_text.cards.measured import Measured, with_curve
from mrl_text.cards.metadata import merge
from mrl_text.cards.privacy import check_words, public_text
from mrl_text.choices import CardChoice
from mrl_text.markdown import fenced

_PLACEHOLDER = "sentence_transformers_model_id"  # sentence-transformers' own, for the name that a model will get
_WORDS = re.compile(r"<!-- mrl-text words: ([0-9a-f]{16}) -->")


@dataclass(frozen=True)
class CardFacts:
    """Everything that makes a card, except what is on the hub."""

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
        return text

    def notes(self) -> list[str]:
        """Warn of what may puzzle a reader of the card."""
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
        """Whether the card keeps the words on the hub."""
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
        return body if self.measured is None else with_curve(body, self.measured.text)

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
            about = "The first numbers of a vector are a smaller vector, once scaled to unit length."
            blocks.append(f"{about} Sizes: {', '.join(map(str, self.dims))}.")
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
            "from mrl_text import MatryoshkaEncoder\n",
            f'model = MatryoshkaEncoder("{self.repo}")',
            f"embeddings = model.encode({texts}{f', dim={dim}' if dim else ''})  # unit vectors",
        ]
        return "\n\n".join([*blocks, "The same with mrl-text:", fenced("\n".join(ours), "python")])


def parse(text: str, name: str) -> HubCard:
    """Read a card with the hub's library; one without a YAML head gets an empty one.

    A head that is no YAML mapping, or scores in it that cannot be read, are a ValueError that shows ``name``.
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
    """Return what the author wrote: the card without our blocks, each run of blanks as one."""
    for name in (USE, SIZES):
        body = remove_block(body, name)
    return " ".join(body.split())


def _with_our_blocks(there: str, here: str) -> str:
    """The text on the hub with our section as it is in the model's folder."""
    if (found := find_block(here, SIZES)) is None:
        return remove_block(there, SIZES)
    inside = here[found[0] : found[1]].split("\n", 1)[1].rsplit("\n", 1)[0]
    return replace_block(there, SIZES, inside)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
