"""The recommended size: the smallest vectors that keep a target, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrl_text.amounts import count, percent, sure, target

from .grid import Cell, Line
from .statistics import Estimate

if TYPE_CHECKING:
    from .engines import Engine


@dataclass(frozen=True)
class Recommendation:
    """The smallest vectors that keep a target, and what they save."""

    line: Line
    cell: Cell
    keep: float
    retention: Estimate
    full: Cell
    """What is kept from and compared with: full width in float32."""
    engine: Engine | None = None
    """Whose bytes count; None counts those of the numbers alone."""
    few: bool = False
    """Whether some task has too few items to say how sure the choice is."""

    @property
    def bytes(self) -> int:
        """Bytes in memory per vector, with what the engine adds."""
        return engine_bytes(self.cell, self.engine) or 0

    @property
    def full_bytes(self) -> int:
        """The same of full width in float32."""
        return engine_bytes(self.full, self.engine) or 0

    @property
    def disk(self) -> int:
        """Bytes on disk per vector that a second stage needs besides."""
        return self.full.bytes if self.cell.rescore else 0

    @property
    def sureness(self) -> float | None:
        """Bootstrap probability that the retention is at least the target; None without per-item scores, or few."""
        return None if self.few else self.retention.sureness(self.keep)

    @property
    def cost(self) -> tuple[int, int, float]:
        """Orders choices: fewer bytes in memory, then one stage before two, then what keeps more."""
        return self.bytes, self.cell.rescore, -self.retention.value

    @property
    def saved_bytes(self) -> int:
        """Bytes saved per vector."""
        return self.full_bytes - self.bytes

    @property
    def _in_words(self) -> str:
        return count(self.bytes, "byte") + (f" in memory (and {self.disk:,} on disk)" if self.disk else "")

    def headline(self) -> str:
        """In a few words: size, precision, bytes, retention."""
        if self.cell == self.full:
            kept = f"{target(self.keep)} of the score"
            return f"Stay at {self.cell.label}: nothing smaller keeps {kept} with confidence"
        return (
            f"{self.cell.label}: {self._in_words} per vector instead of {self.full_bytes:,}"
            f" keep {percent(self.retention.value)} of the score"
        )

    def sentence(self, scope: str = "") -> str:
        """In words: size, precision, retention with interval, sureness, savings."""
        interval, sureness = self.retention.interval(), self.sureness
        where = f"{scope}: " if scope else ""
        if self.cell == self.full:
            return f"{where}nothing smaller than {self.cell.label} keeps {target(self.keep)} with confidence"
        low, high = (interval.low, interval.high) if interval else (None, None)
        known = "too few items to say how sure that is" if interval else "a point estimate: nothing to resample"
        if sureness is not None:
            known = f"at least {target(self.keep)}: {sure(sureness)} sure"
        smaller, saved = self.full_bytes / self.bytes, gigabytes(self.saved_bytes)
        return (
            f"{where}{self.cell.label} keeps {percent(self.retention.value, low, high)} of the full score ({known});"
            f" {self._in_words} per vector instead of {self.full_bytes:,} ({smaller:.3g}x smaller), {saved:.4g} GB less"
            " per 100 million"
        )


def engine_bytes(cell: Cell, engine: Engine | None) -> int | None:
    """Bytes in memory that a cell takes, with what an engine adds; None where the engine does not keep it."""
    return cell.bytes if engine is None else engine.bytes(cell)


def gigabytes(bytes_per_vector: int) -> float:
    """GB (10^9 bytes) that 100 million vectors take."""
    return bytes_per_vector * 100_000_000 / 1e9
