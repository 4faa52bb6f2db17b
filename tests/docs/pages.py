"""The pages that users read, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "recipes" / "README.md"]
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Block(NamedTuple):
    """A fenced block: its language (empty where it names none), its text, and the line its fence is on, from 1."""

    page: Path
    language: str
    text: str
    line: int

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    found = [(match[2], match[3], text.count("\n", 0, match.start()) + 1) for match in _FENCE.finditer(text)]
    return [Block(page, language, code, line) for language, code, line in found if language in languages]


class Call(NamedTuple):
    """A call of a program: the words after the program's name, and whether it stands in a sentence."""

    page: Path
    line: str
    words: list[str]
    in_sentence: bool

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.line}"


def calls(page: Path, program: str) -> Iterator[Call]:
    """Every call of a program on a page."""
    for block in blocks(page, "", "bash", "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if (words := _words(line, program)) is not None:
                yield Call(page, line.strip(), words, in_sentence=False)
    for match in _INLINE.finditer(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)):
        line = " ".join(match[1].split())
        if (words := _words(line, program)) is not None:
            yield Call(page, line, words, in_sentence=True)


def _words(line: str, program: str) -> list[str] | None:
    """What follows the program's name on a line, up to a pipe or a comment; None where the line does not call it."""
    match = re.match(rf"\s*(?:\$ )?(?:[A-Z_]+=(?:\$\([^)]*\)|\S+) +)*{re.escape(program)}(?= |$)(.*)", line)
    if not match:
        return None
    try:
        words = shlex.split(match[1], comments=True)
    except ValueError:  # a sentence with an apostrophe in it
        return None
    end = next((at for at, word in enumerate(words) if re.fullmatch(r"[|;&]+|[0-9]?[<>].*|\.\.\.|…", word)), len(words))
    return words[:end]
