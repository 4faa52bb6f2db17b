"""Published curves, to be drawn beside one's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mrl_text.truncation import bytes_per_vector

from .results import Results


@dataclass(frozen=True)
class Reference:
    """Published scores of one model: size -> task -> score, 0..1."""

    model: str
    scores: dict[int, dict[str, float]]

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        return f"{self.model.rpartition('/')[2]} (published)"

    def mean(self, dim: int, tasks: Sequence[str]) -> float | None:
        """Mean score over tasks at a size; None if a task is missing."""
        found = [self.scores[dim][task] for task in tasks if task in self.scores[dim]]
        return sum(found) / len(found) if found and len(found) == len(tasks) else None

    def bytes(self, dim: int) -> int:
        """Bytes per float32 vector."""
        return bytes_per_vector(dim)


def read_references(files: Sequence[str | Path], results: Results) -> list[Reference]:
    """Read published scores from CSV files.

    Columns ``model``, ``task``, and ``main_score_x100`` or ``score`` (0..1); ``dim`` where a file has several sizes.
    Without it the scores are taken for full width of the model of that name in ``results``. Several rows of a task
    (splits, subsets) are averaged. Other columns are ignored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, a score is not a number, or the size is not known.
    """
    references = []
    for file in files:
        try:
            table = pd.read_csv(file)
        except FileNotFoundError:
            raise FileNotFoundError(f"no reference file at {file}") from None
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not a CSV file: {error}") from None
        references += _read(file, table, results)
    return references


def _read(file: str | Path, table: pd.DataFrame, results: Results) -> list[Reference]:
    score = next((name for name in ("main_score_x100", "score") if name in table.columns), None)
    if score is None or not {"model", "task"} <= set(table.columns):
        found = ", ".join(map(str, table.columns))
        raise ValueError(
            f"{file}: expected the columns model, task, main_score_x100 (or score), and dim; found {found}"
        )
    scale = 100 if score == "main_score_x100" else 1
    values = pd.to_numeric(table[score], errors="coerce") / scale
    if values.isna().any():
        row = int(values.isna().to_numpy().argmax())
        raise ValueError(f"{file}, line {row + 2}: {str(table[score].iloc[row])!r} is not a score")
    if (values.abs() > 1).any():
        wrong = table[score].iloc[int((values.abs() > 1).to_numpy().argmax())]
        raise ValueError(f"{file}: {score} goes from 0 to {scale}; found {wrong}")
    table = table.assign(_score=values, _dim=_dims(file, table, results))
    references = []
    for model, rows in table.groupby("model", sort=False):
        scores: dict[int, dict[str, float]] = defaultdict(dict)
        means = rows.groupby(["_dim", "task"], sort=False, as_index=False)["_score"].mean()
        for dim, task, mean in means.itertuples(index=False, name=None):
            scores[int(dim)][str(task)] = float(mean)
        references.append(Reference(str(model), dict(scores)))
    return references


def _dims(file: str | Path, table: pd.DataFrame, results: Results) -> pd.Series:
    if "dim" in table.columns:
        dims = pd.to_numeric(table["dim"], errors="coerce")
        if dims.isna().any() or (dims < 1).any() or (dims % 1 != 0).any():
            raise ValueError(f"{file}: dim must be a whole number, at least 1, in every row")
        return dims.astype(int)
    widths = results.scores.groupby("model")["dim"].max()
    if unknown := [model for model in table["model"].unique() if model not in widths]:
        raise ValueError(
            f"{file} has no column dim, and {unknown[0]} is not among the evaluated models: add the column"
        )
    return table["model"].map(widths).astype(int)
