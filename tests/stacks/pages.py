"""The pages of docs/stacks: what each says to install, to run and to expect."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import blocks

FOLDER = Path(__file__).parents[2] / "docs" / "stacks"
CORPUS = FOLDER / "corpus.jsonl"
NAMES = sorted(file.stem for file in FOLDER.glob("*.md") if file.stem != "README")
SERVER = "http://localhost:9200"
"""Where pages of search servers find one: a stand-in here."""


@dataclass(frozen=True)
class Page:
    """A page by its parts."""

    name: str
    text: str

    @classmethod
    def read(cls, name: str) -> Page:
        """The page of that name, without ``.md``."""
        return cls(name, (FOLDER / f"{name}.md").read_text(encoding="utf-8"))

    def blocks(self, language: str) -> list[str]:
        """Its blocks in a language, in order."""
        return [block.text for block in blocks(FOLDER / f"{self.name}.md", language)]

    @property
    def commands(self) -> list[list[str]]:
        """Its command lines, the one that installs first."""
        return [shlex.split(line) for block in self.blocks("bash") for line in block.splitlines()]

    @property
    def packages(self) -> list[str]:
        """What it says to install beside this project."""
        return [package for package in self.commands[0][2:] if not package.startswith("mrl-text")]

    @property
    def extras(self) -> str:
        """The extras of this project that it says to install, as ``[quickstart]``."""
        return next(package for package in self.commands[0] if package.startswith("mrl-text")).removeprefix("mrl-text")

    @property
    def code(self) -> str:
        """Its Python, the blocks one after the other."""
        return "\n".join(self.blocks("python"))

    @property
    def files(self) -> dict[str, str]:
        """The JSON files that it shows, by name."""
        return dict(re.findall(r"^`(\w+\.json)`.*?^```json\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL))

    @property
    def printed(self) -> list[str]:
        """The lines that its Python prints, as the page says."""
        return [line for block in self.blocks("text") for line in block.splitlines()]
