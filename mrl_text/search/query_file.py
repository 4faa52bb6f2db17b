"""A file of queries, searched for in a store."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mrl_text.choices import RunFormat
from mrl_text.progress import progress_bar
from mrl_text.search.checks import check_results
from mrl_text.search.filters import check_where
from mrl_text.search.push_rows import repeats
from mrl_text.search.results import Result, results
from mrl_text.search.store import Store, Where
from mrl_text.tables.beir import open_queries
from mrl_text.tables.corpus import CorpusFile, Text

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder

RUN_SUFFIXES: dict[str, RunFormat] = {".jsonl": "jsonl", ".csv": "csv", ".trec": "trec", ".run": "trec"}
"""Ending of a file of results -> what is in it."""

_TOGETHER = 256  # queries
_RESULTS = 25_600  # of queries that are searched for together


@dataclass(frozen=True)
class Answer:
    """A query and what was found, best first."""

    id: str  # the query's; of one without an id the number of its line
    text: str
    results: list[Result]


def checked_queries(file: str | Path, form: RunFormat = "jsonl") -> CorpusFile:
    """Open a file of queries and go through their ids; 8 bytes are held for each.

    Raises:
        FileNotFoundError, ValueError: as for :func:`mrl_text.tables.beir.open_queries`; no query, an id twice, or one
            with a blank for TREC's format.
    """
    queries = open_queries(file)
    some = False

    def ids() -> Iterator[str]:
        nonlocal some
        for row in queries.texts():
            if row.problem is None:
                some = True
                yield _id(row, form)

    if twice := next(iter(repeats(ids)), None):
        raise ValueError(f"the id {twice!r} comes twice in {file}: mend it, as ids tell results apart")
    if not some:
        raise ValueError(f"{file} has no query: no row of it has text in {queries.text_columns[0]}")
    return queries


def search_queries(
    store: Store,
    queries: CorpusFile,
    load_model: Callable[[], MatryoshkaEncoder],
    *,
    k: int = 10,
    where: Where | None = None,
    exact: bool = False,
    fetch: bool = True,
    progress: bool = False,
) -> Iterator[Answer]:
    """Search for each query in order; rows without a text are logged and left out. Some queries are held at a time.

    Args:
        store: where to search.
        queries: what :func:`checked_queries` opened.
        load_model: gives what encodes them, :func:`mrl_text.search.query_model.load_model`.
        k: results of each.
        where: rows to search.
        exact: compare with every full vector.
        fetch: look up texts and columns of what is found, too.
        progress: show a progress bar on stderr.

    Raises:
        ValueError, StoreUnavailableError: as for :meth:`mrl_text.search.Store.search`.
    """
    check_results(k)
    check_where(where, store.column_types())  # before a model is loaded
    rows = queries.good_texts()
    model, find = load_model(), store.exact if exact else store.search
    with progress_bar(total=queries.table.count(), unit="query", desc="Searching", disable=not progress) as bar:
        while batch := list(itertools.islice(rows, max(1, min(_TOGETHER, _RESULTS // k)))):
            found = find(model.encode_query([row.text for row in batch]), k, where=where)
            for row, one in zip(batch, results(store, found, fetch=fetch), strict=True):
                yield Answer(_id(row), row.text, one)
            bar.update(batch[-1].number - bar.n)


def write_answers(answers: Iterable[Answer], form: RunFormat, stream: TextIO) -> tuple[int, int]:
    """Write answers as JSON lines, as CSV of ``query-id,corpus-id,rank,score``, or as a run of TREC.

    Returns:
        How many queries there were, and how many of them without a result.

    Raises:
        ValueError: an id with a blank in it, for TREC.
    """
    count = empty = 0
    table = csv.writer(stream, lineterminator="\n")
    if form == "csv":
        table.writerow(["query-id", "corpus-id", "rank", "score"])
    for answer in answers:
        count, empty = count + 1, empty + (not answer.results)
        if form == "jsonl":
            content = {"id": answer.id, "query": answer.text, "results": answer.results}
            stream.write(json.dumps(content, ensure_ascii=False) + "\n")
        elif form == "csv":
            table.writerows([answer.id, one["id"], one["rank"], one["score"]] for one in answer.results)
        else:
            lines = (
                f"{answer.id} Q0 {_one_word(one['id'])} {one['rank']} {one['score']} mrl-text\n"
                for one in answer.results
            )
            stream.writelines(lines)
    return count, empty


def _id(row: Text, form: RunFormat = "jsonl") -> str:
    name = str(row.line) if row.id is None else row.id
    return _one_word(name) if form == "trec" else name


def _one_word(name: str) -> str:
    if len(name.split()) != 1 or name != name.strip():
        raise ValueError(f"the id {name!r} has a blank, which a run of TREC cannot hold: take --format jsonl or csv")
    return name
