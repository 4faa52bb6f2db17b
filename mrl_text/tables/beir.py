"""BEIR's files: queries and judgements, beside the corpus of :mod:`mrl_text.tables.corpus`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from mrl_text.tables.columns import Problems, checked, read_columns, require
from mrl_text.tables.corpus import ID_COLUMNS, CorpusFile, open_corpus
from mrl_text.tables.read import open_table
from mrl_text.tables.values import grade, identifier, shown, text

QRELS = ("query-id", "corpus-id", "score")
"""Columns of judgements."""

_TEXT_COLUMNS = ("text", "query", "question")
QUERY_IDS = (*ID_COLUMNS, "query-id", "qid")
"""Columns that may hold the ids of queries."""

Relevant = dict[str, dict[str, int]]
"""Query -> document -> grade."""


def read_queries(file: str | Path, problems: Problems | None = None) -> tuple[list[str], list[str]]:
    """Ids and texts of queries; a query without an id is called after the number of its line.

    Args:
        file: a table with ``text`` (or ``query``, ``question``) and maybe one of :data:`QUERY_IDS`, or .txt with a
            query a line.
        problems: where malformed rows are noted, to be raised with those of other files; the lists are shorter then.

    Raises:
        FileNotFoundError, ValueError: as for :func:`~mrl_text.tables.read_columns`; no column of texts, rows without
            text or with half an id, or an id twice.
    """
    noted = Problems(Path(file)) if problems is None else problems
    columns = read_columns(file, (*_TEXT_COLUMNS, *QUERY_IDS), noted)
    name = next((name for name in _TEXT_COLUMNS if name in columns.names), "")
    if not name:
        require(columns, _TEXT_COLUMNS[:1])
    texts = checked(columns, name, text, noted)
    named = next((name for name in QUERY_IDS if name in columns.names), None)
    ids = checked(columns, named, unique(), noted) if named else [str(line) for line in columns.lines]
    if problems is None:
        noted.raise_if_any()
    return ids, texts


def open_queries(file: str | Path) -> CorpusFile:
    """Queries to be read one by one, with the columns of :func:`read_queries`.

    Raises:
        FileNotFoundError, ValueError: as for :func:`mrl_text.tables.open_table`, or no column of texts.
    """
    known = open_table(file).columns
    names = [name for name in _TEXT_COLUMNS if name in known]
    if not names:
        raise ValueError(f"{file} has the columns {', '.join(map(repr, known))}; it needs {' or '.join(_TEXT_COLUMNS)}")
    return open_corpus(file, names[:1], next((name for name in QUERY_IDS if name in known), None))


def read_judgements(
    file: str | Path,
    problems: Problems,
    *,
    queries: Callable[[object], str] = identifier,
    documents: Callable[[object], str] = identifier,
) -> Relevant:
    """Judgements of a table with the columns of :data:`QRELS`.

    Args:
        file: the table; grades may be written ``1`` or ``1.0``.
        problems: of this file and of those read before it, which are raised here.
        queries: converts, and checks, the id of a query.
        documents: likewise of a document.

    Returns:
        For each query in the file its documents with their grades, 0 among them.

    Raises:
        FileNotFoundError, ValueError: as for :func:`~mrl_text.tables.read_columns`; malformed rows, a pair with two
            different grades, or no grade above 0.
    """
    columns = read_columns(file, QRELS, problems, required=[QRELS])
    names = checked(columns, QRELS[0], queries, problems), checked(columns, QRELS[1], documents, problems)
    grades = checked(columns, QRELS[2], grade, problems)
    problems.raise_if_any()
    relevant: Relevant = {}
    for line, query, document, one in zip(columns.lines, *names, grades, strict=True):
        if (earlier := relevant.setdefault(query, {}).setdefault(document, one)) != one:
            said = f"judges {query!r} and {document!r} as {one}, an earlier line as {earlier}"
            problems.add(columns.table, line, said)
    problems.raise_if_any()
    if not any(grades):
        raise ValueError(f"{columns.table.path} has no positive judgement: at least one score must be above 0")
    return relevant


def unique() -> Callable[[object], str]:
    """A converter to ids that refuses the second use of one."""
    seen: set[str] = set()

    def convert(value: object) -> str:
        name = identifier(value)
        if name in seen:
            raise ValueError(f"{shown(name)} is used before")
        seen.add(name)
        return name

    return convert


def one_of(known: Collection[str], where: str) -> Callable[[object], str]:
    """A converter to ids that refuses one that is not ``known``; ``where`` names the file they are in."""

    def convert(value: object) -> str:
        if (name := identifier(value)) not in known:
            raise ValueError(f"{shown(name)} is not in {where}")
        return name

    return convert
