"""The quality-against-size curve."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mrl_text.files import write_atomically

from .runner import Line, SweepResult

# Okabe and Ito's palette: told apart with every common kind of colour blindness
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CONTROL_COLOR = "#6B6B6B"


def draw_curve(result: SweepResult, folder: Path | None = None) -> list[Path]:
    """Draw score against size, one line a model, untrained bases dashed, and write ``curve.png`` and ``curve.svg``.

    The size axis is logarithmic (base 2). With one task that has per-item scores the 95 % interval is shaded;
    with several tasks the mean over tasks is drawn.

    Args:
        result: a finished sweep.
        folder: where to write; None is the sweep's own folder.

    Returns:
        The two files.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colors = iter(_COLORS * (1 + len(result.lines) // len(_COLORS)))
    for line in result.lines:
        control = line.role == "control"
        _draw_line(axes, result, line, _CONTROL_COLOR if control else next(colors), control)
    dims = sorted(set(result.scores["dim"]))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(dims))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(dim) for dim in dims])
    axes.set_xlabel("numbers per vector (float32: 4 bytes each)")
    axes.set_ylabel(_score_label(result))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    written = []
    for suffix in ("png", "svg"):
        stream = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "mrl-text", "svg.fonttype": "none"}):
            figure.savefig(stream, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
        file = (folder or result.folder) / f"curve.{suffix}"
        write_atomically(file, stream.getvalue())
        written.append(file)
    return written


def _draw_line(axes: matplotlib.axes.Axes, result: SweepResult, line: Line, color: str, control: bool) -> None:
    curve = sorted(result.curve(line).items())
    dims, scores = [dim for dim, _ in curve], [100 * score for _, score in curve]
    fill = "white" if control else color
    axes.plot(dims, scores, "--" if control else "-", color=color, marker="o", markerfacecolor=fill, label=line.label)
    rows = result.scores
    rows = rows[(rows["model"] == line.source.name) & (rows["revision"] == line.source.revision)].sort_values("dim")
    if len(rows) == len(dims) and rows["ci_low"].notna().all():
        axes.fill_between(dims, 100 * rows["ci_low"], 100 * rows["ci_high"], color=color, alpha=0.15, linewidth=0)


def _score_label(result: SweepResult) -> str:
    tasks = list(dict.fromkeys(result.scores["task"]))
    metrics = list(dict.fromkeys(result.scores["metric"]))
    metric = metrics[0].replace("ndcg_at_", "nDCG@").replace("_", " ") if len(metrics) == 1 else "main score"
    return f"{tasks[0]}, {metric} (x100)" if len(tasks) == 1 else f"mean {metric} of {len(tasks)} tasks (x100)"
