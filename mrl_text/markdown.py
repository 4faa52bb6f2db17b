"""Pieces of Markdown: tables, code, and text that is not read as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence


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
