"""What vector engines store and compare: which cells, since when, in how many bytes, and the lines that set them up."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any, Literal

from mrl_text.choices import EngineWord
from mrl_text.markdown import table
from mrl_text.suggest import check_choice
from mrl_text.truncation import PRECISIONS, Precision, bytes_per_vector

from .grid import COMPARISONS, Cell, Comparison

RESULTS = 10
"""Results that the printed searches return; two stages look at as many times more candidates."""

_TEMPLATES = {"store", "search", "full", "rescored"}

Checked = Literal["run", "models", "none"]
CHECKED: dict[Checked, str] = {
    "run": "run in our tests",
    "models": "checked by the client's models, not run",
    "none": "not run here",
}


@dataclass(frozen=True)
class Kept:
    """How an engine keeps vectors of one precision that are compared in one way."""

    precision: Precision
    how: str
    """What of the cell is the engine's own."""
    since: str
    """First version; empty where the source does not say."""
    source: str
    """Address of the page that says so."""
    comparison: Comparison = "asymmetric"
    adds: int = 0
    """Bytes for each vector beside its numbers."""
    unit: int = 1
    """Bytes of the numbers are rounded up to a multiple of it."""
    smallest: int = 0
    """Bytes that the numbers take at least."""
    multiple: int = 1
    """Sizes are multiples of it."""
    above: int = 0
    """Sizes are larger than it."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Parts of the lines that are this precision's own."""

    def bytes(self, dim: int) -> int:
        """Bytes in memory that a vector of that size takes."""
        numbers = max(bytes_per_vector(dim, self.precision), self.smallest)
        return -(-numbers // self.unit) * self.unit + self.adds

    def fits(self, cell: Cell) -> bool:
        """Whether a cell is of this kind and of a size that the engine takes."""
        kind = (cell.precision, cell.comparison) == (self.precision, self.comparison)
        return kind and cell.dim % self.multiple == 0 and cell.dim > self.above


@dataclass(frozen=True)
class Engine:
    """A database or library that holds vectors and finds near ones."""

    word: str
    """As options name it."""
    name: str
    checked: Checked
    """Who has tried the lines: our tests, the client's models of requests, or nobody here."""
    note: str
    """What else takes memory or disk."""
    keeps: tuple[Kept, ...]
    words: Mapping[str, str]
    """Templates: ``store``, ``search``, and for two stages ``full`` and ``rescored``."""

    def kept(self, cell: Cell) -> Kept | None:
        """How the engine keeps a cell; None where it cannot."""
        if cell.rescore and "rescored" not in self.words:
            return None
        return next((one for one in self.keeps if one.fits(cell)), None)

    def bytes(self, cell: Cell) -> int | None:
        """Bytes in memory that the engine takes for a vector of a cell, its own included; None where it cannot keep it.

        Graphs and lists of an index, rows and ids are not in it.
        """
        kept = self.kept(cell)
        return None if kept is None else kept.bytes(cell.dim)

    def lines(self, cell: Cell, width: int) -> str:
        """The lines that make a store of that cell and search it, ready to paste.

        Args:
            cell: size, precision, comparison, and candidates of a first stage.
            width: of the full vectors.

        Raises:
            ValueError: the engine cannot keep the cell.
        """
        kept = self.kept(cell)
        if kept is None:
            known = ", ".join(f"{one.precision} {one.comparison}" for one in self.keeps)
            raise ValueError(f"{self.name} has no {cell}; it keeps {known}")
        words = {**self.words, **kept.words}
        values: dict[str, Any] = {"dim": cell.dim, "packed": -(-cell.dim // 8), "width": width}
        values["count"] = RESULTS * (cell.rescore or 1)
        values |= {name: _filled(words[name], values) for name in kept.words.keys() - _TEMPLATES}
        values["full"] = _filled(words["full"], values) if cell.rescore else ""
        values["search"] = _filled(words["search"], values)
        search = _filled(words["rescored"], values) if cell.rescore else values["search"]
        ending = ";" if search.lstrip().startswith("SELECT") else ""
        return f"{_filled(words['store'], values)}\n{search}{ending}\n"


def _filled(text: str, values: Mapping[str, Any]) -> str:
    return Template(text).substitute(values)


@cache
def engines() -> dict[str, Engine]:
    """Every engine that is known, by its word."""
    text = files("mrl_text.eval").joinpath("engines.toml").read_text(encoding="utf-8")
    return {word: _engine(word, facts) for word, facts in tomllib.loads(text).items()}


def find_engine(word: str) -> Engine:
    """The engine of that word; ValueError names the nearest where there is none."""
    return engines()[check_choice("engine", word, EngineWord)]


def _engine(word: str, facts: dict[str, Any]) -> Engine:
    own = {name: facts.pop(name) for name in ("name", "checked", "note")}
    return Engine(word, **own, keeps=tuple(_kept(one) for one in facts.pop("keeps")), words=facts)


def _kept(facts: dict[str, Any]) -> Kept:
    known = {one.name for one in fields(Kept)}
    own = {name: value for name, value in facts.items() if name in known}
    return Kept(**own, words={name: value for name, value in facts.items() if name not in known})


def engine_table() -> str:
    """Who keeps what since when, as a Markdown table; ``+`` are bytes that the engine adds to each vector."""
    known = {(one.precision, one.comparison) for engine in engines().values() for one in engine.keeps}
    kinds = [kind for kind in itertools.product(PRECISIONS, COMPARISONS) if kind in known]
    heads = [f"{precision}{', symmetric' if comparison == 'symmetric' else ''}" for precision, comparison in kinds]
    rows = [["engine", *heads, "two stages", "lines"]]
    for engine in engines().values():
        kept = {(one.precision, one.comparison): one for one in engine.keeps}
        marks = [_mark(kept.get(kind)) for kind in kinds]
        rows.append([engine.name, *marks, "yes" if "rescored" in engine.words else "", engine.checked])
    return table(rows, words=len(rows[0]))


def _mark(kept: Kept | None) -> str:
    if kept is None:
        return ""
    since = f"[{kept.since or 'yes'}]({kept.source})"
    return f"{since} +{kept.adds}" if kept.adds else since
