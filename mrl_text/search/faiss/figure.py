"""Quality of an index against what a search costs: time per query and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mrl_text.amounts import count
from mrl_text.figures import CONTROL, PALETTE, new_figure, save_figure, tidy
from mrl_text.files import write_atomically
from mrl_text.progress import progress_bar
from mrl_text.search.faiss.index import AdaptiveIndex
from mrl_text.search.faiss.store import FaissStore
from mrl_text.search.measure import measure
from mrl_text.search.measure import threads as limited_threads
from mrl_text.search.plan import SearchPlan
from mrl_text.search.sample_queries import Judged, K, recall
from mrl_text.truncation import check_dim, check_dims

_SHORTLISTS = (10, 20, 50, 100, 200, 500, 1000)
_EFFORTS = (10, 20, 40, 80, 160, 320, 640)
_BLUE, _RED, _GREEN, _PINK, _ORANGE, _ = PALETTE
_STYLES = {
    "exact, full width": ("*", "black"),
    "one size, all rows": ("o", CONTROL),
    "full width, HNSW": ("^", _ORANGE),
    "adaptive, all rows": ("s", _BLUE),
    "funnel, all rows": ("D", _GREEN),
    "adaptive, HNSW": ("v", _RED),
    "this index": ("P", _PINK),
}
_LABELS = {"recall": "recall@10 of the exact results (x100)", "ndcg": "nDCG@10 (x100)"}
_COSTS = {"milliseconds": "time per query, one at a time (ms)", "ram_mb": "memory of the shortlist (MB)"}


def figure(
    index: AdaptiveIndex,
    queries: np.ndarray,
    judged: Judged,
    folder: str | Path,
    *,
    threads: int = 1,
    dims: Sequence[int] | None = None,
    dim: int | None = None,
    progress: bool = False,
) -> list[Path]:
    """Measure ways to search an index and draw them; writes ``search.png`` and ``search.csv``, and returns their paths.

    Exact search at full width, each size alone, HNSW at full width, a shortlist with rerank (all rows, and HNSW on
    int8), a funnel over all sizes, and the index's own plan. Lines vary the shortlist, or the effort of the graph.

    Args:
        index: nothing of it is saved, but its plan is replaced.
        queries: float32 (n, width).
        judged: the same queries; with judgements nDCG@10 is drawn, too.
        folder: where the files go.
        threads: that searches are timed with.
        dims: sizes to draw; None takes those of the model.
        dim: prefix of the shortlists; None takes that of the index's plan.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: a size that the index does not have, a prefix that is no shorter than the vectors, or no query.
    """
    if not len(queries):
        raise ValueError("there are no queries to measure with")
    sizes = check_sizes(index, dims, dim)
    plans = list(_plans(index, sizes, dim))
    rows: list[dict[str, Any]] = []
    with limited_threads(threads):
        exact = index.exact(queries, K).ids
        for line, plan in progress_bar(plans, desc="Measuring", unit="plan", disable=not progress):
            index.set_plan(plan)
            found = index.search(queries, K).ids
            timing = measure(lambda some: index.search(some, K), queries)
            rows.append(
                {
                    "line": line,
                    "label": plan.label,
                    "effort": None if plan.kind == "flat" else plan.effort,
                    "recall": float(recall(found, exact).mean()),
                    "ndcg": None if judged.relevant is None else float(judged.ndcg(found).mean()),
                    "milliseconds": 1000 * timing.single,
                    "milliseconds_in_batch": 1000 * timing.batch,
                    "ram_mb": index.ram() / 2**20,
                }
            )
    table = pd.DataFrame(rows)
    facts = f"{count(len(index), 'document')}, {count(len(queries), 'query')}, {count(threads, 'thread')}"
    file = Path(folder) / "search.csv"
    write_atomically(file, table.to_csv(index=False, float_format="%.6g").encode())
    return [file, *save_figure(_draw(table, facts), Path(folder) / "search.png")]


def check_sizes(index: AdaptiveIndex, dims: Sequence[int] | None, dim: int | None) -> tuple[int, ...]:
    """The sizes that :func:`figure` will draw; its errors that need no queries."""
    if dim is not None and check_dim(dim, index.width) == index.width:
        raise ValueError(f"--dim {dim} is the full width, and a shortlist has fewer numbers: choose a smaller one")
    return check_dims([*(dims or index.facts.get("dims") or []), index.width], index.width)


def _plans(index: AdaptiveIndex, sizes: Sequence[int], dim: int | None) -> Iterator[tuple[str, SearchPlan]]:
    """Plans by line; those that share a shortlist follow each other, as another one has to be built."""
    width = index.width
    own = index.plan
    if own is not None:
        yield "this index", own
    best = own if own is not None and own.dim < width else FaissStore.starting_plan(len(index), width, sizes)
    prefix = dim or best.dim
    for size in sizes:
        single = SearchPlan(size, "flat", "float32", shortlist=K, final=size)
        yield ("exact, full width" if size == width else "one size, all rows"), single
    levels = [level for level in _SHORTLISTS if level < len(index)]
    if prefix < width:
        yield from (("adaptive, all rows", SearchPlan(prefix, shortlist=level)) for level in levels)
        graph = SearchPlan(prefix, "hnsw", "int8")
        yield from (("adaptive, HNSW", replace(graph, shortlist=level, effort=level)) for level in levels)
    if len(dims := [prefix, *(size for size in sizes if size > prefix)]) > 2:
        yield from (("funnel, all rows", SearchPlan.funnel(dims, shortlist=level)) for level in levels)
    full = SearchPlan(width, "hnsw", "float32", shortlist=K, final=width)
    yield from (("full width, HNSW", replace(full, effort=effort)) for effort in _EFFORTS)


def _draw(table: pd.DataFrame, facts: str) -> Figure:
    metrics = ["recall", *(["ndcg"] if table["ndcg"].notna().all() else [])]
    drawn = new_figure(11, 1.2 + 3.7 * len(metrics))
    panels = drawn.subplots(len(metrics), 2, sharey="row", squeeze=False)
    for row, metric in enumerate(metrics):
        for column, (cost, label) in enumerate(_COSTS.items()):
            axes = panels[row, column]
            _draw_panel(axes, table, metric, cost)
            tidy(axes, xlabel=label * (metric == metrics[-1]), ylabel=_LABELS[metric] * (column == 0))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9, title=facts)
    return drawn


def _draw_panel(axes: Axes, table: pd.DataFrame, metric: str, cost: str) -> None:
    axes.set_xscale("log")
    for name, (marker, color) in _STYLES.items():
        points = table[table["line"] == name]
        alone = len(points) == 1
        style = {"linestyle": "", "markersize": 12, "zorder": 3} if alone else {"linewidth": 1.4, "markersize": 5}
        if len(points):
            axes.plot(points[cost], 100 * points[metric], marker=marker, color=color, label=name, **style)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
