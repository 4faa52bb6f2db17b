"""How amounts are written for people, and how many items it takes to trust them."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 100
"""Fewer queries, pairs or texts leave a choice to luck: intervals of small losses are too narrow there."""

_NEAREST_TO_SURE = 0.999


def hundredfold(value: float, low: float | None = None, high: float | None = None, *, sign: str = "") -> str:
    """A number of 0 to 1 times 100, with its interval where both ends are known: ``99.85 [99.31, 100.12]``.

    ``sign`` is ``+`` for differences, which show theirs always.
    """
    numbers = [round(100 * one, 2) + 0.0 for one in (value, low, high) if one is not None]  # never -0.00
    written = [f"{one:{sign}.2f}" for one in numbers]
    return f"{written[0]} [{written[1]}, {written[2]}]" if len(written) == 3 else written[0]


def percent(share: float, low: float | None = None, high: float | None = None) -> str:
    """A share with its interval where both ends are known: ``99.85 % [99.31, 100.12]``."""
    value, *around = hundredfold(share, low, high).split(" ", 1)
    return " ".join([f"{value} %", *around])


def target(share: float) -> str:
    """A share that someone asked for, in no more digits than it has: ``99 %``."""
    return f"{100 * share:.4g} %"


def sure(share: float) -> str:
    """How sure something is; resampling knows nothing finer than one in a thousand."""
    nearest = f"{100 * _NEAREST_TO_SURE:.1f} %"
    return f"more than {nearest}" if share > _NEAREST_TO_SURE else f"{100 * share:.1f} %"


def count(number: int, one: str) -> str:
    """So many of what one is called: ``1,536 bytes``, ``1 query``."""
    return f"{number:,} {one if number == 1 else plural(one)}"


def plural(noun: str) -> str:
    """``queries`` of ``query``, ``bytes`` of ``byte``."""
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def too_few(counted: Sequence[str]) -> str:
    """A warning that names what rests on fewer than :data:`FEW`, such as ``beir: 20 queries``."""
    return (
        f"Few items ({'; '.join(counted)}): what they say, intervals too, is luck as much as quality."
        f" Take {FEW} or more."
    )
