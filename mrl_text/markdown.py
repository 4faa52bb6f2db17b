"""Pieces of Markdown that our tools write into model cards, and the marked blocks that they replace later."""

from __future__ import annotations

import re
from collections.abc import Sequence

SIZES, CURVE = "mrl-text sizes", "mrl-text curve"
"""Blocks of a model card: all about sizes, and inside it what ``mrl-text eval`` measured."""


def table(rows: Sequence[Sequence[object]], *, words: int = 0) -> str:
    """A table; the first row is the head, the first ``words`` columns are left-aligned, the others right-aligned."""
    head, *body = (f"| {' | '.join(map(str, row))} |" for row in rows)
    return "\n".join([head, f"|{'---|' * words}{'---:|' * (len(rows[0]) - words)}", *body])


def plain(text: str) -> str:
    """On one line, and none of it read as markup: labels come from file names."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def fenced(text: str, language: str) -> str:
    """A code block; its fence is longer than any inside."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def collapsed(title: str, content: str) -> str:
    """Content that shows once its title is clicked."""
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def block(name: str, content: str) -> str:
    """Content between markers that do not show."""
    return f"<!-- {name}: begin -->\n{content}\n<!-- {name}: end -->"


def find_block(text: str, name: str) -> tuple[int, int] | None:
    """Where the marked block of that name begins and ends, markers included; None where there is none.

    Raises:
        ValueError: a begin marker without its end.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    start = text.find(begin)
    if start < 0:
        return None
    stop = text.find(end, start)
    if stop < 0:
        raise ValueError(f"the model card has {begin!r} without {end!r}: write the end back, or remove the marker")
    return start, stop + len(end)


def replace_block(text: str, name: str, content: str) -> str:
    """The text with that block's content; a block that is not there goes before the first section.

    Raises:
        ValueError: a begin marker without its end.
    """
    marked = block(name, content)
    if (found := find_block(text, name)) is not None:
        return text[: found[0]] + marked + text[found[1] :]
    head = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    section = re.compile(r"^## ", re.MULTILINE).search(text, head.end() if head else 0)
    if section is None:
        return f"{text.rstrip()}\n\n{marked}\n".lstrip()
    return f"{text[: section.start()]}{marked}\n\n{text[section.start() :]}"


def remove_block(text: str, name: str) -> str:
    """The text without that block.

    Raises:
        ValueError: a begin marker without its end.
    """
    found = find_block(text, name)
    return text if found is None else f"{text[: found[0]].rstrip()}\n\n{text[found[1] :].lstrip()}"
