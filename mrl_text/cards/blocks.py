"""The parts of a model card: its YAML head, and marked blocks that are ours to replace.

A begin marker without its end is a ``ValueError`` for every function here.
"""

from __future__ import annotations

import re

SIZES, CURVE, USE = "mrl-text sizes", "mrl-text curve", "mrl-text use"
"""All about sizes; inside it what ``mrl-text eval`` measured; and how to use the model, which only a push writes."""


def split_head(text: str) -> tuple[str, str]:
    """The YAML head of a card with its rulers, empty where there is none, and the rest."""
    head = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    return (head.group(), text[head.end() :]) if head else ("", text)


def block(name: str, content: str) -> str:
    """Content between markers that do not show."""
    return f"<!-- {name}: begin -->\n{content}\n<!-- {name}: end -->"


def find_block(text: str, name: str) -> tuple[int, int] | None:
    """Where the marked block of that name begins and ends, markers included; None where there is none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    start = text.find(begin)
    if start < 0:
        return None
    stop = text.find(end, start)
    if stop < 0:
        raise ValueError(f"the model card has {begin!r} without {end!r}: write the end back, or remove the marker")
    return start, stop + len(end)


def replace_block(text: str, name: str, content: str) -> str:
    """The text with that block's content; a block that is not there goes before the first section."""
    marked = block(name, content)
    if (found := find_block(text, name)) is not None:
        return text[: found[0]] + marked + text[found[1] :]
    section = re.compile(r"^## ", re.MULTILINE).search(text, len(split_head(text)[0]))
    if section is None:
        return f"{text.rstrip()}\n\n{marked}\n".lstrip()
    return f"{text[: section.start()]}{marked}\n\n{text[section.start() :]}"


def remove_block(text: str, name: str) -> str:
    """The text without that block."""
    found = find_block(text, name)
    return text if found is None else f"{text[: found[0]].rstrip()}\n\n{text[found[1] :].lstrip()}"
