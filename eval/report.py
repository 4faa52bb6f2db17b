"""What a sweep prints: one table a model, and the smallest size for each quality target."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from mrl_text.truncation import bytes_per_vector

from .runner import Line, SweepResult
from .statistics import smallest_dim

TARGETS = (0.99, 0.97, 0.95)
_MOST_TASK_COLUMNS = 5


def print_report(result: SweepResult, console: Console) -> None:
    """Print the table of every model with its recommended sizes.

    Args:
        result: a finished sweep.
        console: where to.
    """
    for line in result.lines:
        console.print(score_table(result, line))
        if line.role == "model":
            console.print(recommendation(result, line), highlight=False)
        console.print()


def score_table(result: SweepResult, line: Line) -> Table:
    """Sizes as rows: bytes per float32 vector, scores x100 per task, their mean, and retention in percent."""
    rows = result.scores
    rows = rows[(rows["model"] == line.source.name) & (rows["revision"] == line.source.revision)]
    tasks = list(dict.fromkeys(rows["task"]))
    per_task = rows.groupby(["dim", "task"])["score"].mean()
    curve = result.curve(line)
    full = curve[max(curve)]
    shown = tasks if 1 < len(tasks) <= _MOST_TASK_COLUMNS else []
    table = Table(title=line.label, title_justify="left", title_style="bold")
    for column in ("size", "bytes", *shown, tasks[0] if len(tasks) == 1 else "mean", "retention"):
        table.add_column(column, justify="right")
    for dim in sorted(curve, reverse=True):
        scores = [per_task[dim, task] for task in shown] + [curve[dim]]
        retention = f"{100 * curve[dim] / full:.1f} %" if full > 0 else "-"
        table.add_row(str(dim), str(bytes_per_vector(dim)), *(f"{100 * score:.2f}" for score in scores), retention)
    return table


def recommendation(result: SweepResult, line: Line) -> str:
    """One sentence: the smallest size that keeps 99, 97 and 95 percent of the full-width score."""
    curve = result.curve(line)
    parts = []
    for keep in TARGETS:
        dim = smallest_dim(curve, keep)
        if dim is not None:
            saved = max(curve) / dim
            parts.append(f"{keep:.0%}: {dim}" + (f" ({saved:.3g}x smaller)" if saved > 1 else ""))
    return "Smallest size that keeps " + ", ".join(parts) if parts else "No size can be recommended from these scores"
