"""What a sweep prints: tables that begin with bytes, and the recommended size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrl_text.amounts import count, hundredfold, target

from .engines import CHECKED, Engine
from .grid import Cell, Line
from .report import KEEP, scopes
from .results import Results
from .statistics import Estimate

_MOST_ROWS = 40
"""Cells that a table shows; of more only the Pareto front is printed."""


def print_report(
    result: Results,
    console: Console,
    *,
    keep: float = KEEP,
    engine: Engine | None = None,
    vectors: Mapping[str, str] | None = None,
) -> None:
    """Print the table of every model with its controls, and the recommended size, overall and per task type.

    A model that was evaluated with fewer layers has a table of sizes and depths, its base another, and recommended
    sizes for every depth. ``keep`` is the target of the recommendations; an engine restricts them to what it keeps, and
    has lines to paste. ``vectors`` says of models that have no weights where their vectors are.
    """
    for line in result.lines:
        if line.role != "model" or line.layers is not None:
            continue
        console.print(score_table(result, line))
        for table in (task_table(result, line), control_table(result, line), code_table(result, line)):
            if table is not None:
                console.print(table)
        for one in (line, *_controls(result, line)):
            if (depths := depth_table(result, one)) is not None:
                console.print(depths)
        for one in result.depths(line) or [line]:
            sentences = [
                *beaten_by_pca(result, one, (vectors or {}).get(one.model)),
                *recommendations(result, one, keep, engine),
            ]
            for sentence in [*sentences, *(engine_lines(result, one, keep, engine) if engine else [])]:
                console.print(sentence, highlight=False, markup=False, soft_wrap=True)
        console.print()
    if caution := result.caution():
        console.print(caution, highlight=False, markup=False, soft_wrap=True)


def recommendations(result: Results, line: Line, keep: float, engine: Engine | None = None) -> list[str]:
    """A sentence each: the smallest vectors that keep the target overall, and per task type."""
    chosen = {scope: tasks for scope, tasks in scopes(result).items() if scope == "overall" or scope in result.types}
    sentences = []
    for scope, tasks in chosen.items():
        choice = result.recommend(line, keep, tasks, engine)
        where = ", ".join(filter(None, (engine.name if engine else "", line.depth, scope)))
        nothing = "no size can be recommended from these scores"
        if line.depth and result.retention(line, result.cells(line)[0], tasks) is not None:
            nothing = f"no size keeps {target(keep)} of the score of all layers with confidence"
        if result.tells_too_little(line, tasks):
            whole = written(result.estimate(*(result.full(line) or (line, result.cells(line)[0])), tasks))
            nothing = (
                f"no size can be recommended: the full score is {whole}, which tells too little; see whether ids and"
                " texts belong together, or measure on more items"
            )
        sentences.append(choice.sentence(where) if choice else f"{where}: {nothing}")
    return sentences


def engine_lines(result: Results, line: Line, keep: float, engine: Engine) -> list[str]:
    """How an engine keeps the recommended size, and the lines to paste; empty where no size can be recommended."""
    choice = result.recommend(line, keep, engine=engine)
    kept = engine.kept(choice.cell) if choice else None
    if choice is None or kept is None:
        return []
    since = f" from {kept.since} on" if kept.since else ""
    how = f"{engine.name}{since} keeps {choice.cell.label} so: {kept.how} ({kept.source})"
    note = f"{engine.note} The lines are {CHECKED[engine.checked]}."
    return [how, note, "", engine.lines(choice.cell, choice.full.dim)]


def beaten_by_pca(result: Results, line: Line, vectors: str | None = None) -> list[str]:
    """A sentence where principal components of the same vectors score higher, with confidence, than their prefix.

    It says what does something about it: to the model, or where that has no weights to the file of its ``vectors``.
    """
    pca = replace(line, role="control", method="pca")
    gains = {cell.dim: _difference(result, pca, line, cell.dim) for cell in result.cells(pca)}
    known = {dim: gain for dim, gain in sorted(gains.items()) if gain is not None}
    sure = {dim: gain for dim, gain in known.items() if (interval := gain.interval()) and interval.low > 0}
    found = [f"{dim} ({_signed(gain)})" for dim, gain in sure.items()]
    if not found:
        return []
    advice = "mrl-text adapt --method pca puts such components into a model"
    if vectors is not None:
        advice = f"mrl-text adapt --embeddings {vectors} --method pca fits such components to vectors"
    where = f"PCA beats the model at {', '.join(found)}"
    return [f"{where}: the same vectors hold more than their first numbers say; {advice}"]


def task_table(result: Results, line: Line) -> Table | None:
    """Scores x100 in float32, one row per task: how many items, and every size; None for a single task."""
    if len(result.tasks) < 2:
        return None
    sizes = [cell.dim for cell in result.cells(line) if cell.precision == "float32"]
    metrics = result.scores.groupby("task")["metric"].first()
    table = _table("each task, in float32", ("task", "metric", "items", *map(str, sizes)), ("task", "metric"))
    for task in result.tasks:
        scores = [_hundredfold(result, line, Cell(dim), [task]) for dim in sizes]
        items = f"{result.samples[task].n:,}" if task in result.samples else "-"
        table.add_row(escape(task), metrics[task], items, *scores)
    return table


def _measured_on(result: Results, line: Line) -> str:
    """What scores of full width were measured on, in words; empty where nothing is resampled."""
    if len(result.tasks) == 1:
        return str(next(iter(result.samples.values()), ""))
    estimate = result.estimate(line, result.cells(line)[0])
    return count(estimate.n, "item") if estimate is not None and estimate.n else ""


def score_table(result: Results, line: Line) -> Table:
    """One row per cell, the most bytes first: mean score x100 with interval, retention, and which are the best."""
    heading = next(iter(result.tasks)) if len(result.tasks) == 1 else f"mean of {len(result.tasks)} tasks"
    known = [cell for cell in result.cells(line) if result.estimate(line, cell) is not None]
    front = {cell for _, cell in result.pareto(lines=[line]) | result.pareto(lines=[line], one_stage=True)}
    shown = known if len(known) <= _MOST_ROWS else [cell for cell in known if cell in front or cell == known[0]]
    captions = [f"measured on {sample}"] if (sample := _measured_on(result, line)) else []
    if len(shown) < len(known):
        captions.append(f"{len(shown)} of {len(known)} cells")
    staged = " of memory, or of memory and disk" if any(cell.rescore for cell in known) else ""
    captions.append(f"* nothing scores higher in as few bytes{staged}")
    coded = any(cell.comparison == "symmetric" for cell in shown)
    optional = {"on disk": any(cell.rescore for cell in shown), "queries": coded}
    every = ("bytes", "on disk", "size", "precision", "queries", heading, "retention %", "*")
    columns = [column for column in every if optional.get(column, True)]
    table = _table(escape(result.labels[line]), columns, ("precision", "queries", "*"), "bold")
    table.caption, table.caption_justify = "; ".join(captions), "left"
    for cell in sorted(shown, key=lambda one: (-one.bytes, *one.place)):
        row = {"bytes": f"{cell.bytes:,}", "on disk": f"{result.disk(line, cell):,}" if cell.rescore else "-"}
        row |= {"size": str(cell.dim), "precision": cell.precision}
        row |= {"queries": "coded" if cell.comparison == "symmetric" else "float32"}
        row |= {heading: written(result.estimate(line, cell))}
        row |= {"retention %": _kept(result, line, cell)}
        row |= {"*": "*" if cell in front else ""}
        table.add_row(*(row[column] for column in columns))
    return table


def written(estimate: Estimate | None, sign: str = "") -> str:
    """A score, share or difference x100 with its interval, where there are any."""
    if estimate is None:
        return "-"
    interval = estimate.interval()
    ends = (interval.low, interval.high) if interval else (None, None)
    return hundredfold(estimate.value, *ends, sign=sign)


def _kept(result: Results, line: Line, cell: Cell) -> str:
    """The share of the score of full width in float32; that keeps itself, whatever the items."""
    retention = result.retention(line, cell)
    whole = retention is not None and result.full(line) == (line, cell)
    return hundredfold(1) if whole else written(retention)


def code_table(result: Results, line: Line) -> Table | None:
    """FAISS's quantisers at their bytes, beside the best of the model in one stage in as many; None without them.

    The difference comes with its paired interval.
    """
    rivals = [one for one in _controls(result, line) if one.method in ("pq", "rabitq")]
    if not rivals:
        return None
    columns = ("bytes", "model", "score", "quantiser", "score", "model minus quantiser")
    table = _table("at equal bytes, queries in float32", columns, ("model", "quantiser"))
    pairs = [(cell, one) for one in rivals for cell in result.cells(one) if result.estimate(one, cell) is not None]
    for cell, rival in sorted(pairs, key=lambda pair: (-pair[0].bytes, pair[1].method)):
        best, score = best_within(result, line, cell.bytes), result.estimate(rival, cell)
        own = result.estimate(line, best) if best else None
        gain = own - score if own is not None and score is not None else None
        words = f"{rival.label.removeprefix(line.label).strip(' ()')}, {cell.label}"
        scores = [hundredfold(one.value) if one is not None else "-" for one in (own, score)]
        table.add_row(f"{cell.bytes:,}", best.label if best else "-", scores[0], words, scores[1], _signed(gain))
    return table


def best_within(result: Results, line: Line, budget: int) -> Cell | None:
    """The cell of the highest score in one stage, with float queries, in at most so many bytes."""
    found = {
        cell: estimate.value
        for cell in result.cells(line)
        if cell.bytes <= budget and not cell.rescore and cell.comparison == "asymmetric"
        if (estimate := result.estimate(line, cell)) is not None
    }
    return max(found, key=lambda cell: (found[cell], -cell.bytes)) if found else None


def control_table(result: Results, line: Line) -> Table | None:
    """Mean scores x100 of a model and of what it is compared with, by size, all in float32; None without controls.

    The difference from the untrained base comes with its paired interval.
    """
    controls = [one for one in _controls(result, line) if one.method not in ("pq", "rabitq")]  # these have no float32
    if not controls:
        return None
    names = {one: _beside(result, line, one) for one in (line, *controls)}
    bases = [one for one in controls if one.method == "truncation" and one.layers == line.layers]
    gains = {"model minus base": lambda dim: _signed(_difference(result, line, bases[0], dim))} if bases else {}
    return _size_table(result, "in float32, beside controls", names, gains)


def depth_table(result: Results, line: Line) -> Table | None:
    """Mean scores x100 of a line in float32, by size and number of layers; None where only one depth is known."""
    depths = result.depths(line)
    if not depths or line.layers is not None:
        return None
    title = f"{escape(result.labels[line])}, in float32"
    return _size_table(result, title, {one: one.depth or "all layers" for one in depths})


def _size_table(
    result: Results, title: str, names: Mapping[Line, str], more: Mapping[str, Callable[[int], str]] | None = None
) -> Table:
    """One row per size; one column per line, and ``more`` columns that know their cell of a size."""
    last = more or {}
    table = _table(title, ("size", *names.values(), *last))
    for dim in sorted({cell.dim for one in names for cell in result.cells(one)}, reverse=True):
        scores = [_hundredfold(result, one, Cell(dim)) for one in names]
        table.add_row(str(dim), *scores, *(cell(dim) for cell in last.values()))
    return table


def _table(title: str, columns: Sequence[str], words: Sequence[str] = (), style: str = "italic") -> Table:
    """An empty table of numbers; those of its columns that hold ``words`` begin at the left."""
    table = Table(title=title, title_justify="left", title_style=style, pad_edge=False)  # to fit 80 columns
    for column in columns:
        table.add_column(escape(column), justify="left" if column in words else "right")
    return table


def _difference(result: Results, line: Line, other: Line, dim: int) -> Estimate | None:
    """Score of one line minus that of another in float32, paired."""
    score, control = result.estimate(line, Cell(dim)), result.estimate(other, Cell(dim))
    return score - control if score is not None and control is not None else None


def _signed(difference: Estimate | None) -> str:
    """A difference x100, with its interval where there is one."""
    return written(difference, "+")


def _controls(result: Results, line: Line) -> list[Line]:
    """The lines that follow a model up to the next."""
    followers = result.lines[result.lines.index(line) + 1 :]
    return list(itertools.takewhile(lambda one: one.role != "model", followers))


def _beside(result: Results, line: Line, one: Line) -> str:
    if one.model != line.model:
        return result.labels[one]
    return one.label.removeprefix(line.label).strip(" ()") or "model"


def _hundredfold(result: Results, line: Line, cell: Cell, tasks: Sequence[str] | None = None) -> str:
    estimate = result.estimate(line, cell, tasks)
    return "-" if estimate is None else hundredfold(estimate.value)
