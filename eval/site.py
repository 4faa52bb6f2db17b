"""The leaderboard as a folder of files that any web server, or none, shows: what was measured and what is published."""

from __future__ import annotations

import csv
import html
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_text import __version__
from mrl_text.amounts import hundredfold
from mrl_text.files import write_atomically
from mrl_text.progress import progress_bar

from .grid import Cell, Line
from .leaderboard import load_results
from .pairs import paired
from .published import Figure, read_published
from .report import fill_page, json_for_page
from .results import LINE_COLUMNS, Results, line_of
from .statistics import CONFIDENCE
from .task_sets import Entry, TaskSet, entries, task_sets

logger = logging.getLogger(__name__)

LARGEST = 2_000_000
"""Bytes of all files together: what a page may take on a slow line."""

_VALUES = ("score", "low", "high", "retention", "retention_low", "retention_high")
MEASURED, PUBLISHED = "measured here", "published, not measured by us"


def read_sources(folders: Sequence[str | Path], published: Sequence[str | Path]) -> tuple[Results | None, list[Figure]]:
    """Read and check everything that a site is made of.

    Args:
        folders: results of ``mrl-text eval``, or folders in mteb's layout.
        published: tables of published figures, or folders of them.

    Raises:
        FileNotFoundError, ValueError: as :func:`~mrl_text.eval.leaderboard.load_results` and
            :func:`~mrl_text.eval.published.read_published`; a score out of range; a measured model without full width
            in float32, which retention is measured against, or with larger sizes than that.
    """
    figures = read_published(published)
    results = load_results(folders, all_tasks=True) if folders else None
    if results is not None:
        _check_measured(results)
    task_sets(results, figures)  # which refuses a task of two meanings
    return results, figures


def _check_measured(results: Results) -> None:
    scores = results.scores["score"]
    if not scores.between(-1, 1).all():
        row = results.scores[~scores.between(-1, 1)].iloc[0]
        raise ValueError(f"the score of {row['model']} on {row['task']} is {row['score']}: it goes from -1 to 1")
    for line in results.lines:
        whole = results.full(line)
        largest = max(cell.dim for cell in results.cells(line))
        if whole is None or whole[1].dim < largest:
            raise ValueError(
                f"{line.model} has no result in float32 at its largest size, {largest}, which retention is measured "
                "against: evaluate it at full width, too"
            )


def write_site(
    folder: Path, results: Results | None, figures: Sequence[Figure], *, title: str = "Sizes and bytes: a leaderboard"
) -> list[Path]:
    """Write ``index.html``, a table of every measured model in ``measured/`` and ``published.csv``.

    The page works offline and from any address; it loads nothing. Without JavaScript it is a plain table.

    Args:
        folder: where to write; files of the same names are replaced.
        results, figures: of :func:`read_sources`.
        title: of the page.

    Returns:
        The files, the page first.

    Raises:
        ValueError: nothing to show, or more than :data:`LARGEST` bytes.
    """
    if results is None and not figures:
        raise ValueError("nothing to show: give results of mrl-text eval or a table of published figures")
    tables = dict(_measured_tables(results)) if results else {}
    if figures:
        tables["published.csv"] = _published_csv(figures)
    room = LARGEST - sum(map(len, tables.values()))
    page = render_site(results, figures, title=title, largest=room)
    written = []
    for name, content in {"index.html": page.encode(), **tables}.items():
        write_atomically(folder / name, content)
        written.append(folder / name)
    return written


def render_site(results: Results | None, figures: Sequence[Figure], *, title: str = "", largest: int = LARGEST) -> str:
    """The page as text; ``largest`` is how many bytes it may have. Errors as :func:`write_site`."""
    sets = task_sets(results, figures)
    found = list(entries(results, figures, sets))
    data = _data(results, found, sets)
    parts = {"title": html.escape(title), "lead": html.escape(_lead(found)), "table": _table(results, found, sets)}
    parts["colophon"] = html.escape(f"Made by mrl-text {__version__}.")
    without = len(fill_page("site.html", **parts, data=json_for_page(data)).encode())
    if without > largest:
        raise ValueError(f"the page takes {without:,} bytes, more than {largest:,}: give fewer results")
    data["pairs"], left_out = _pairs(found, sets, largest - without - 1000)
    data["unpaired"] = [one.id for one in left_out]
    if left_out:
        names = ", ".join(one.name for one in left_out)
        logger.warning("left out for the size of the page, intervals of differences on: %s", names)
    return fill_page("site.html", **parts, data=json_for_page(data))


def _data(results: Results | None, found: Sequence[Entry], sets: Sequence[TaskSet]) -> dict[str, Any]:
    places = {one.id: place for place, one in enumerate(sets)}
    lines: dict[str, dict[str, Any]] = {}
    cells: dict[str, dict[str, Any]] = {}
    place: dict[str, int] = {}
    rows = []
    for one in found:
        line = line_id(one.owner)
        lines.setdefault(line, {"id": line, **_line(results, one)})
        name = cell_id(one)
        cells.setdefault(name, {"id": name, "line": line, **_cell(results, one)})
        place.setdefault(name, len(place))
        values = [None if one.values[key] is None else round(one.values[key], 6) for key in _VALUES]
        row = [place[name], places[one.task_set.id], *values, one.values["n"], list(one.missing)]
        rows.append([*row, list(one.sources), one.note])
    shown = [vars(one) | {"tasks": list(one.tasks), "caution": _caution(results, one)} for one in sets]
    return {
        "confidence": CONFIDENCE,
        "sets": shown,
        "lines": [*lines.values()],
        "cells": [*cells.values()],
        "rows": rows,
    }


def _caution(results: Results | None, one: TaskSet) -> str:
    return results.caution(one.tasks) if results else ""


def line_id(owner: Line | str) -> str:
    """The name of a line in links: the same in every build."""
    if isinstance(owner, str):
        return f"published:{owner}"
    notes: list[str] = [owner.method if owner.method != "truncation" else "base" if owner.role == "control" else ""]
    notes += [owner.dtype if owner.dtype != "float32" else "", owner.depth]
    return "".join([f"{owner.model}@{owner.revision[:8]}", *(f",{note}" for note in notes if note)])


def cell_id(entry: Entry) -> str:
    """The name of a cell in links: the same in every build."""
    kind = f"-{entry.stated}" if entry.stated and not entry.cell.precision.startswith("float") else ""
    stages = f"-rescored{entry.cell.rescore}" if entry.cell.rescore else ""
    return f"{line_id(entry.owner)}/{entry.cell.dim}x{entry.cell.precision}{kind}{stages}"


def _line(results: Results | None, entry: Entry) -> dict[str, Any]:
    if isinstance(entry.owner, str) or results is None:
        label = str(entry.owner).rpartition("/")[2]
        return {"label": label, "model": str(entry.owner), "role": "model", "published": True}
    line = entry.owner
    label = results.labels[line]
    return {"label": label, "model": line.model, "role": line.role, "published": False, "file": _href(line)}


def _cell(results: Results | None, entry: Entry) -> dict[str, Any]:
    measured = not isinstance(entry.owner, str)
    disk = results.disk(entry.owner, entry.cell) if results and isinstance(entry.owner, Line) else 0
    return {
        "dim": entry.cell.dim,
        "precision": entry.cell.precision,
        "stored": _stored(entry),
        "kind": "stages" if entry.cell.rescore else entry.stated or "asymmetric",
        "bytes": entry.cell.bytes,
        "disk": disk if measured else 0,
    }


def _stored(entry: Entry) -> str:
    """Size and precision in words, and how queries are compared where documents are codes."""
    cell = entry.cell
    coded = {"asymmetric": ", float queries", "symmetric": ", coded queries", "": ""}[entry.stated]
    stages = f", {cell.rescore}x rescored" if cell.rescore else ""
    return f"{cell.dim} x {cell.precision}{'' if cell.precision.startswith('float') else coded}{stages}"


def _pairs(
    found: Sequence[Entry], sets: Sequence[TaskSet], room: int
) -> tuple[dict[str, list[dict[str, Any]]], list[TaskSet]]:
    """Set -> packed intervals of all differences, for as many sets as there is room for, and the others."""
    kept: dict[str, list[dict[str, Any]]] = {}
    left_out = []
    mine = {one.id: {cell_id(e): e.estimate for e in found if e.task_set == one and e.estimate} for one in sets}
    for one in progress_bar(sets, desc="Comparing", unit="task set"):
        groups = [group.packed() for group in paired(mine[one.id])]
        size = len(json_for_page({one.id: groups}))
        if groups and size <= room:
            kept[one.id] = groups
            room -= size
        elif groups:
            left_out.append(one)
    return kept, left_out


def _lead(found: Sequence[Entry]) -> str:
    measured = {one.owner for one in found if isinstance(one.owner, Line) and one.owner.role == "model"}
    published = {one.owner for one in found if isinstance(one.owner, str)}
    models = {line.model for line in measured} | published
    cells = {cell_id(one) for one in found}
    shared = len({line.model for line in measured} & published)
    both = f", {shared} of them both" if shared else ""
    return (
        "What text embeddings keep when they are cut to fewer numbers and fewer bits. "
        f"Models: {len(models)}, of which {len(measured)} were measured here and {len(published)} have published "
        f"figures{both}; cells, each a size and precision of a model: {len(cells)}. "
        "Scores compare within one set of tasks only, so one set is shown at a time."
    )


def _table(results: Results | None, found: Sequence[Entry], sets: Sequence[TaskSet]) -> str:
    """Bodies of the plain table, one for each set, the best retention first."""
    bodies = []
    for one in sets:
        own = sorted((entry for entry in found if entry.task_set == one), key=_order)
        if own:
            heading = f"{one.name}: {', '.join(one.tasks)}" if one.kind == "mean" else one.name
            heading = ". ".join(filter(None, (heading, _caution(results, one))))
            head = f'<tr><th colspan="6" scope="rowgroup">{html.escape(heading)}</th></tr>'
            bodies.append(f"<tbody>{head}{''.join(map(_row, own))}</tbody>")
    return "\n".join(bodies)


def _order(entry: Entry) -> tuple[float, int]:
    return -(entry.values["retention"] or -1), entry.cell.bytes


def _row(entry: Entry) -> str:
    values = entry.values
    if isinstance(entry.owner, str):
        label, origin = entry.owner.rpartition("/")[2], PUBLISHED
        links = [f'<a href="{html.escape(source)}">{html.escape(_host(source))}</a>' for source in entry.sources]
    else:
        label, origin = entry.owner.label, MEASURED + (", control" if entry.owner.role == "control" else "")
        links = [f'<a href="{_href(entry.owner)}">table</a>']
    lacking = f"lacks {', '.join(entry.missing)}" if entry.missing else ""
    share = shown(values["retention"], values["retention_low"], values["retention_high"])
    cells = [
        f'<th scope="row">{html.escape(label)}<br>{origin}</th>',
        f"<td>{entry.cell.bytes:,}</td>",
        f"<td>{html.escape(_stored(entry))}</td>",
        f"<td>{html.escape(lacking or share)}</td>",
        f"<td>{html.escape(shown(values['score'], values['low'], values['high']))}</td>",
        f"<td>{' '.join(links)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def shown(value: float | None, low: float | None, high: float | None) -> str:
    """A share times 100 with its interval, as the page shows it."""
    if value is None:
        return "–"
    return hundredfold(value, low, high)


def _host(address: str) -> str:
    return re.sub(r"^https?://(www\.)?", "", address).partition("/")[0]


def _href(line: Line) -> str:
    """The table of a measured line, from the page."""
    return f"measured/{re.sub(r'[^A-Za-z0-9._-]+', '-', line_id(line).removeprefix('local/'))}.csv"


def _measured_tables(results: Results) -> Iterator[tuple[str, bytes]]:
    """Name and tidy table of each line: every task, split and subset, with intervals."""
    table = results.table()
    owners = [line_of(row) for row in table[LINE_COLUMNS].itertuples(index=False, name=None)]
    for line in results.lines:
        own = table[[owner == line for owner in owners]]
        yield _href(line), own.to_csv(index=False).encode()


def _published_csv(figures: Sequence[Figure]) -> bytes:
    stream = io.StringIO()
    rows = list(_published_rows(figures))
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _published_rows(figures: Sequence[Figure]) -> Iterator[Mapping[str, Any]]:
    for one in figures:
        cell: Cell = one.cell
        yield {
            **{"model": one.model, "width": one.width, "dim": cell.dim, "precision": cell.precision},
            **{"comparison": one.stated, "rescore": cell.rescore or "", "task": one.task, "tasks": one.tasks or ""},
            **{"type": one.type, "metric": one.metric, "main_score_x100": _hundredfold(one.score)},
            **{"retention_x100": _hundredfold(one.kept), "source": one.source, "note": one.note},
        }


def _hundredfold(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.10g}"
