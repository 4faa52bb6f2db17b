"""The scores of a sweep, and every question that can be asked of them: means, retention, differences, the choice."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mrl_text.amounts import too_few

from .grid import Cell, Comparison, Line, Variant
from .items import Items, Sample, read_items
from .recommendation import Recommendation, engine_bytes
from .statistics import Estimate, Interval, Units, bootstrap, mean_estimate

if TYPE_CHECKING:
    from .engines import Engine

TABLE = "scores"
"""Name of the table's files, without suffix."""

LINE_COLUMNS = ["model", "revision", "role", "method", "dtype", "layers"]
CELL_COLUMNS = ["dim", "precision", "comparison", "rescore"]
KEY_COLUMNS = [*LINE_COLUMNS, "task", "split", "subset", *CELL_COLUMNS, "seed"]
_TABLE_NAMES = {"low": "ci_low", "high": "ci_high"}
_KEPT = ("retention_low", "retention_high")


class Results:
    """Scores of models at sizes and precisions, with their per-item scores.

    Args:
        scores: the tidy table, one row per model, line, task, split, subset, size, precision and seed; scores 0..1.
        folders: where per-item scores lie, ``<folder>/items``.
    """

    def __init__(self, scores: pd.DataFrame, folders: Sequence[Path]) -> None:
        self.scores = with_new_columns(scores).astype({"seed": "Int64"})
        self.folders = [Path(folder) for folder in folders]
        self._estimates: dict[str, dict[tuple[Line, Cell], Estimate]] = {}
        self._part_estimates: dict[str, dict[tuple[Variant, str, str], Estimate]] = {}
        self._units: dict[str, str] = {}

    def only(self, lines: Iterable[Line]) -> Results:
        """The scores of these lines alone."""
        chosen = set(lines)
        mask = [line_of(row) in chosen for row in self.scores[LINE_COLUMNS].itertuples(index=False, name=None)]
        return Results(self.scores[mask].reset_index(drop=True), self.folders)

    @cached_property
    def lines(self) -> list[Line]:
        """Every line, in the order of the table."""
        return [line_of(row) for row in self.scores[LINE_COLUMNS].drop_duplicates().itertuples(index=False, name=None)]

    @cached_property
    def labels(self) -> dict[Line, str]:
        """Line -> its name; with revision and type where two would have the same."""
        count = Counter(line.label for line in self.lines)
        return {
            line: line.label if count[line.label] == 1 else f"{line.label} [{line.revision[:8]}, {line.dtype}]"
            for line in self.lines
        }

    @cached_property
    def tasks(self) -> dict[str, str]:
        """Task -> type, in the order of the table."""
        unique = self.scores[["task", "type"]].drop_duplicates()
        return dict(zip(unique["task"], unique["type"], strict=True))

    @cached_property
    def types(self) -> dict[str, list[str]]:
        """Type -> its tasks."""
        grouped: dict[str, list[str]] = defaultdict(list)
        for task, kind in self.tasks.items():
            grouped[kind].append(task)
        return dict(grouped)

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """Task -> what the scores of its models rest on; not of a task that gives nothing to resample."""
        found = {}
        for task in self.tasks:
            known = [one.n for (line, _), one in self._task(task).items() if line.role == "model" and one.n]
            if known:
                found[task] = Sample(min(known), self._units[task])
            elif told := self._told(task):
                found[task] = told
        return found

    def caution(self, tasks: Collection[str] | None = None) -> str:
        """A warning that names which of the tasks have few items, and how many; empty where none has."""
        chosen = self.tasks if tasks is None else tasks
        few = [f"{task}: {one}" for task in chosen if (one := self.samples.get(task)) and one.few]
        return too_few(few) if few else ""

    def cells(self, line: Line) -> list[Cell]:
        """Cells of a line, largest first."""
        return self._cells.get(line, [])

    def estimate(self, line: Line, cell: Cell, tasks: Collection[str] | None = None) -> Estimate | None:
        """Mean score over tasks, each counting once however many splits and subsets it has; None if one is missing."""
        found = [self._task(task).get((line, cell)) for task in (self.tasks if tasks is None else tasks)]
        known = [estimate for estimate in found if estimate is not None]
        return mean_estimate(known) if known and len(known) == len(found) else None

    def curve(
        self,
        line: Line,
        precision: str = "float32",
        tasks: Collection[str] | None = None,
        *,
        comparison: Comparison = "asymmetric",
        rescore: int = 0,
    ) -> dict[int, float]:
        """Size -> mean score over tasks at one precision, in one comparison."""
        chosen = [cell for cell in self.cells(line) if cell.sequence == (precision, comparison, rescore)]
        found = {cell.dim: self.estimate(line, cell, tasks) for cell in chosen}
        return {dim: estimate.value for dim, estimate in found.items() if estimate is not None}

    def full(self, line: Line) -> tuple[Line, Cell] | None:
        """What the retention of a line is measured against: the same model, with all layers, at its full width."""
        model = line.model, line.revision, line.dtype, "truncation", None
        whole = [
            (other, cell)
            for other in self.lines
            if (other.model, other.revision, other.dtype, other.method, other.layers) == model
            for cell in self.cells(other)
            if cell.precision == "float32"
        ]
        return max(whole, key=lambda pair: pair[1].dim, default=None)

    def disk(self, line: Line, cell: Cell) -> int:
        """Bytes on disk per vector that a second stage needs beside those in memory: full width in float32."""
        whole = self.full(line)
        return whole[1].bytes if cell.rescore and whole else 0

    def depths(self, line: Line) -> list[Line]:
        """The same line with all its layers and with fewer, deepest first; empty where only one depth is known."""
        same = [one for one in self.lines if replace(one, layers=None, role=line.role) == replace(line, layers=None)]
        return sorted(same, key=lambda one: -(one.layers or math.inf)) if len(same) > 1 else []

    def retention(self, line: Line, cell: Cell, tasks: Collection[str] | None = None) -> Estimate | None:
        """Score divided by the full-width float32 score of the same model; None where either is missing or zero."""
        reference, score = self.full(line), self.estimate(line, cell, tasks)
        whole = self.estimate(*reference, tasks) if reference else None
        return score / whole if score is not None and whole is not None and whole.value > 0 else None

    def compare(self, task: str, line: Line, cell: Cell | int, other: Line, other_cell: Cell | int) -> Interval:
        """Paired bootstrap of the score difference of two lines on one task; a plain number is a size in float32.

        What was not measured on the same items is resampled apart, as independent samples are.

        Raises:
            KeyError: the size was not evaluated.
            ValueError: the task gives nothing to resample.
        """
        left, right = (Cell(one) if isinstance(one, int) else one for one in (cell, other_cell))
        estimates = self._task(task)
        interval = (estimates[line, left] - estimates[other, right]).interval()
        if interval is None:
            raise ValueError(f"{task} has no per-item scores that both share")
        return interval

    def recommend(
        self, line: Line, keep: float, tasks: Collection[str] | None = None, engine: Engine | None = None
    ) -> Recommendation | None:
        """The smallest vectors whose retention's lower bound clears ``keep``.

        The smallest is that of the fewest bytes in memory. Sizes are tried from full width down, one precision and
        comparison after the other, and each is left at the first size that fails: this fixed sequence keeps the error
        rate of a single test within it, and a small size that clears the bar by luck below one that does not is not
        chosen. Without an interval the point estimate decides. A line with fewer layers is held against all layers at
        full width, too. With an engine, only what it stores and compares is tried, and bytes are those that it takes.

        Returns:
            None where full width was not measured, its score is not positive or :meth:`tells_too_little`, and for a
            line with fewer layers none of whose sizes clears the bar.

        Raises:
            ValueError: ``keep`` is not between 0 and 1.
        """
        if not 0 < keep <= 1:
            raise ValueError(f"keep is a share of the full score, above 0 and at most 1; got {keep}")
        reference = self.full(line)
        if reference is None or (whole := self.retention(*reference, tasks)) is None:
            return None
        if self.tells_too_little(line, tasks):
            return None
        choice = partial(Recommendation, full=reference[1], engine=engine, few=bool(self.caution(tasks)))
        best = choice(line, reference[1], keep, whole) if line.layers is None else None
        cells = [cell for cell in self.cells(line) if engine_bytes(cell, engine) is not None]
        for sequence in dict.fromkeys(cell.sequence for cell in cells):
            for cell in sorted((one for one in cells if one.sequence == sequence), reverse=True):
                retention = self.retention(line, cell, tasks)
                interval = retention.interval() if retention else None
                if retention is None or (interval.low if interval else retention.value) < keep:
                    break
                found = choice(line, cell, keep, retention)
                best = found if best is None else min(best, found, key=lambda one: one.cost)
        return best

    def tells_too_little(self, line: Line, tasks: Collection[str] | None = None) -> bool:
        """Whether the interval of the score at full width reaches below half of it: a share of it would say nothing."""
        reference = self.full(line)
        whole = self.estimate(*reference, tasks) if reference else None
        return bool(whole and (interval := whole.interval()) and interval.low < whole.value / 2)

    def pareto(
        self,
        tasks: Collection[str] | None = None,
        lines: Collection[Line] | None = None,
        *,
        one_stage: bool = False,
    ) -> set[tuple[Line, Cell]]:
        """Of the models' cells, or those of some lines, the ones that none beats with as few bytes in memory.

        ``one_stage`` leaves out those that need full vectors on disk besides.
        """
        points = [
            (cell.bytes, -estimate.value, line, cell)
            for line in ([one for one in self.lines if one.role == "model"] if lines is None else lines)
            for cell in self.cells(line)
            if not (one_stage and cell.rescore) and (estimate := self.estimate(line, cell, tasks)) is not None
        ]
        front, best = set(), float("inf")
        for _, negative, line, cell in sorted(points, key=lambda point: point[:2]):
            if negative < best:
                best = negative
                front.add((line, cell))
        return front

    def table(self) -> pd.DataFrame:
        """The tidy table with interval, units, retention and its interval in every row."""
        rows = []
        for row in self.scores.to_dict("records"):
            variant, where, parts = _variant(row), (row["split"], row["subset"]), self._parts(row["task"])
            estimate, reference = parts.get((variant, *where)), self.full(variant.line)
            whole = parts.get((Variant(*reference), *where)) if reference else None
            facts: dict[str, Any] = dict(row)  # type: ignore[arg-type]  # column names are strings
            found = numbers(estimate, estimate / whole if estimate and whole else None)
            del found["score"]  # the table has mteb's own
            facts |= {_TABLE_NAMES.get(name, name): value for name, value in found.items()}
            rows.append(facts | {"unit": self._units.get(row["task"], facts.get("unit", ""))})
        floats = dict.fromkeys((*_TABLE_NAMES.values(), "retention", *_KEPT), float)
        return pd.DataFrame(rows).astype({"seed": "Int64", "layers": "Int64", "n": "Int64", **floats})

    @cached_property
    def _cells(self) -> dict[Line, list[Cell]]:
        rows = self.scores[[*LINE_COLUMNS, *CELL_COLUMNS]].drop_duplicates()
        cells: dict[Line, list[Cell]] = defaultdict(list)
        for row in rows.to_dict("records"):
            cells[line_of(row[column] for column in LINE_COLUMNS)].append(cell_of(row))
        for own in cells.values():
            own.sort(key=lambda cell: cell.place)
        return dict(cells)

    def _task(self, task: str) -> dict[tuple[Line, Cell], Estimate]:
        """Estimates of every line and cell on a task."""
        if task not in self._estimates:
            seeds: dict[tuple[Line, Cell, str, str], list[Estimate]] = defaultdict(list)
            for (variant, split, subset), estimate in self._parts(task).items():
                seeds[variant.line, variant.cell, split, subset].append(estimate)
            grouped: dict[tuple[Line, Cell], list[Estimate]] = defaultdict(list)
            for (line, cell, _, _), estimates in seeds.items():
                grouped[line, cell].append(mean_estimate(estimates))
            self._estimates[task] = {key: mean_estimate(estimates) for key, estimates in grouped.items()}
        return self._estimates[task]

    def _parts(self, task: str) -> dict[tuple[Variant, str, str], Estimate]:
        """Estimates by variant, split and subset; computed once per task.

        What was measured on the same items has the same draws, be it another size, another model or, in a parallel
        corpus, another language. Experiments are samples of their own, whatever their numbers.
        """
        if task not in self._part_estimates:
            rows = self.scores[self.scores["task"] == task]
            parts: dict[tuple[Variant, str, str], Estimate] = {}
            units: dict[tuple[str, str, str], dict[tuple[Variant, str, str], Units]] = defaultdict(dict)
            for row in rows.to_dict("records"):
                point = Estimate(float(row["score"]), None, float("inf"), 0)
                parts[_variant(row), row["split"], row["subset"]] = point
            for variant in dict.fromkeys([key[0] for key in parts]):
                for one in self._items(variant, task):
                    self._units[task] = one.unit
                    part = variant, one.split, one.subset
                    if part in parts:
                        apart = one.subset if one.unit == "experiment" else ""
                        units[one.split, apart, _digest(one.units)][part] = one.units
            for (split, _, digest), group in units.items():
                first = next(iter(group))[2]
                estimates = bootstrap(list(group.values()), f"{task}/{split}/{first}/{digest}")
                parts.update(zip(group, estimates, strict=True))
            self._part_estimates[task] = parts
        return self._part_estimates[task]

    def _told(self, task: str) -> Sample | None:
        """What the table says of a task whose items are not at hand, where they are of one split and subset."""
        if "n" not in self.scores:
            return None
        rows = self.scores[(self.scores["task"] == task) & (self.scores["role"] == "model")].dropna(subset=["n"])
        if len(rows) == 0 or len(rows[["split", "subset"]].drop_duplicates()) > 1:
            return None
        unit = rows["unit"].iloc[0] if "unit" in rows else ""
        return Sample(int(rows["n"].min()), unit if isinstance(unit, str) else "")

    def _items(self, variant: Variant, task: str) -> list[Items]:
        files = (items_file(folder, variant, task) for folder in self.folders)
        return next((read_items(file) for file in files if file.is_file()), [])


def with_new_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns that older versions did not write.

    They had all layers (``layers`` is missing), one stage, and coded queries as they coded documents.
    """
    floats = table["precision"].str.startswith("float") if "precision" in table else False
    older = {"layers": None, "comparison": np.where(floats, "asymmetric", "symmetric"), "rescore": 0}
    lacking = {name: value for name, value in older.items() if name not in table}
    return table.assign(**lacking).astype({"layers": "Int64", "rescore": "int64"})


def line_of(row: Iterable[Any]) -> Line:
    """The line of a row of the table, of its :data:`LINE_COLUMNS`."""
    model, revision, role, method, dtype, layers = row
    return Line(model, revision, role, method, dtype, None if pd.isna(layers) else int(layers))


def _variant(row: Any) -> Variant:
    line = line_of(row[column] for column in LINE_COLUMNS)
    return Variant(line, cell_of(row), None if pd.isna(row["seed"]) else int(row["seed"]))


def cell_of(row: Any) -> Cell:
    """The cell of a row of the table."""
    return Cell(int(row["dim"]), row["precision"], row["comparison"], int(row["rescore"]))


def _digest(units: Units) -> str:
    return hashlib.blake2b("\n".join(units.ids.tolist()).encode(), digest_size=8).hexdigest()


def items_file(folder: Path, variant: Variant, task: str) -> Path:
    """Where the per-item scores of one evaluation lie."""
    return folder / "items" / variant.line.slug / variant.slug / f"{task}.parquet"


def numbers(score: Estimate | None, retention: Estimate | None) -> dict[str, Any]:
    """Score, interval and units, retention and its interval; None for what is not known."""
    found: dict[str, Any] = {}
    for estimate, names in ((score, ("score", "low", "high", "n")), (retention, ("retention", *_KEPT))):
        interval = estimate.interval() if estimate else None
        bounds = (interval.low, interval.high, interval.n) if interval else (None, None, None)
        found |= zip(names, (estimate.value if estimate else None, *bounds), strict=False)
    return found
