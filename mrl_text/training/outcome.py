"""What came of a run: steps, rows, scores before and after at every size, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrl_text.amounts import count, hundredfold
from mrl_text.eval.statistics import Estimate, Units, bootstrap
from mrl_text.files import read_json
from mrl_text.training.evaluator import NDCG, Metric
from mrl_text.truncation import bytes_per_vector

Scores = Mapping[int, Units]
"""Size -> what was measured of each query or pair."""


def totals(scores: Scores) -> dict[int, float]:
    """Size -> score over all queries or pairs."""
    return {dim: each.score() for dim, each in scores.items()}


def compared(before: Scores, after: Scores, metric: Metric = NDCG) -> dict[str, Any]:
    """The validation before and after, for ``result.json``.

    Returns:
        ``metric``, the number of ``queries`` or ``pairs``, and ``sizes``: for each size, ascending, ``dim`` and, as
        [value, low, high] with the ends of the 95 % interval (None for a single query), ``before``, ``after`` and
        ``difference``, of the same queries or pairs.
    """
    sizes = []
    for dim, each in sorted(after.items()):
        first, second = bootstrap([before[dim], each], key=f"validation {dim}")
        found = {"before": first, "after": second, "difference": second - first}
        sizes.append({"dim": dim, **{name: _ends(estimate) for name, estimate in found.items()}})
    return {"metric": metric.words, metric.items: len(each), "sizes": sizes}


def outcome(folder: Path) -> str:
    """What to tell of a finished run, from its ``result.json``: several lines."""
    result = read_json(folder / "result.json")
    data: dict[str, int | None] = result.get("data", {})
    lines = []
    if "steps" not in result:
        lines.append("The rotation is fitted; the encoder is as it was")
    else:
        rows, used = sum(number or 0 for number in data.values()), result.get("rows_used")
        of = (
            "" if used is None else f"; {used:,} of {rows:,} rows used" if rows else f"; {used:,} rows of a stream used"
        )
        early = ", then it stopped early" if result.get("stopped_early") else ""
        lines.append(f"{count(result['steps'], 'step')}{early}{of}")
    if validation := result.get("validation"):
        metric = validation.get("metric", NDCG.words)
        items, number = next((name, validation[name]) for name in ("queries", "pairs") if name in validation)
        one = {"queries": "query", "pairs": "pair"}[items]
        lines += [f"Validation: {metric} (x100) of {count(number, one)}, 95 % intervals", ""]
        lines += _table(validation["sizes"])
    else:
        lines.append("Nothing was validated: name data.validation to see scores before and after")
    return "\n".join(lines)


def _ends(estimate: Estimate) -> list[float | None]:
    interval = estimate.interval()
    return [estimate.value, *((interval.low, interval.high) if interval else (None, None))]


def _table(sizes: list[dict[str, Any]]) -> list[str]:
    rows = [["size", "bytes", "before", "after", "difference"]]
    for one in reversed(sizes):
        words = [
            hundredfold(*one[name], sign=sign) for name, sign in (("before", ""), ("after", ""), ("difference", "+"))
        ]
        rows.append([str(one["dim"]), f"{bytes_per_vector(one['dim']):,}", *words])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
