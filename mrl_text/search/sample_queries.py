"""Sample queries, maybe with judgements, and how good results for them are."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytrec_eval

from mrl_text.suggest import did_you_mean

logger = logging.getLogger(__name__)

Metric = Literal["ndcg@10", "recall@10"]
METRICS: tuple[Metric, ...] = get_args(Metric)
K = 10
"""Results that both metrics look at."""

_TEXT_COLUMNS = ("text", "query", "question")
_ID_COLUMNS = ("_id", "id", "query-id", "qid")
_QRELS = ("query-id", "corpus-id", "score")


@dataclass(frozen=True)
class Judged:
    """Queries and what is known about their answers.

    Attributes:
        ids: one for each query.
        texts: the queries.
        relevant: query -> document -> grade, for every query; None without judgements.
    """

    ids: list[str]
    texts: list[str]
    relevant: dict[str, dict[str, int]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Sequence[int]) -> Judged:
        """The queries of those rows."""
        ids = [self.ids[row] for row in rows]
        kept = None if self.relevant is None else {name: self.relevant[name] for name in ids}
        return Judged(ids, [self.texts[row] for row in rows], kept)

    def ndcg(self, found: np.ndarray) -> np.ndarray:
        """nDCG@10 of each query, as trec_eval computes it.

        Args:
            found: document ids (n, k), best first; None where fewer were found.

        Returns:
            float64 (n,).

        Raises:
            ValueError: there are no judgements.
        """
        if self.relevant is None:
            raise ValueError("nDCG needs judgements: give --qrels")
        ranked = {  # scores that keep the order: trec_eval breaks ties by id
            name: {str(one): float(-rank) for rank, one in enumerate(row) if one is not None}
            for name, row in zip(self.ids, found, strict=True)
        }
        scores = pytrec_eval.RelevanceEvaluator(self.relevant, {f"ndcg_cut.{K}"}).evaluate(
            {name: row for name, row in ranked.items() if row}
        )
        return np.array([scores.get(name, {}).get(f"ndcg_cut_{K}", 0.0) for name in self.ids])


def recall(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Share of the exact results that were found, for each query.

    Args:
        found: ids or positions (n, k).
        exact: the same of the exact search (n, k); None or -1 where there are fewer.

    Returns:
        float64 (n,); 1 where the exact search found nothing.
    """
    wanted = [{one for one in row.tolist() if one not in (None, -1)} for row in exact]
    return np.array(
        [len(one & set(row.tolist())) / len(one) if one else 1.0 for one, row in zip(wanted, found, strict=True)]
    )


def read_judged(
    queries: str | Path,
    qrels: str | Path | None = None,
    *,
    known: Callable[[str], bool] | None = None,
    limit: int = 1000,
) -> Judged:
    """Read sample queries, BEIR's files among others.

    Args:
        queries: JSON lines, CSV, TSV or Parquet with ``text`` (or ``query``, ``question``) and maybe ``_id``; or .txt
            with a query a line.
        qrels: table with ``query-id``, ``corpus-id``, ``score``; queries without a document above 0 are left out.
        known: whether an id is in the index, to tell judgements of another corpus; None does not check.
        limit: of more queries so many are drawn at random, always the same.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file that cannot be read, no query, or judgements that fit neither queries nor index.
    """
    ids, texts = _queries(Path(queries).expanduser())
    judged = Judged(ids, texts)
    if qrels is not None:
        relevant = _qrels(Path(qrels).expanduser(), known)
        kept = [row for row, name in enumerate(ids) if name in relevant]
        if not kept:
            raise ValueError(
                f"no query of {queries} has a relevant document in {qrels}: there the queries are {_some(relevant)},"
                f" here {_some(ids)}"
            )
        if len(kept) < len(ids):
            logger.info("%d of %d queries have judgements; the others are left out", len(kept), len(ids))
        judged = Judged(ids, texts, relevant).subset(kept)
    if len(judged) <= limit:
        return judged
    return judged.subset(sorted(random.Random(0).sample(range(len(judged)), limit)))


def _queries(file: Path) -> tuple[list[str], list[str]]:
    if file.suffix.lower() == ".txt":
        if not file.is_file():
            raise FileNotFoundError(f"no queries at {file}")
        texts = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if not texts:
            raise ValueError(f"{file} holds no query")
        return [str(number) for number in range(1, len(texts) + 1)], texts
    from mrl_text.eval import rows

    problems = rows.Problems(file)
    table = rows.read_table(file, rows.read_bytes(file), (*_TEXT_COLUMNS, *_ID_COLUMNS), problems)
    column = next((name for name in _TEXT_COLUMNS if name in table.columns), None)
    if column is None:
        rows.require(table, _TEXT_COLUMNS[:1])
    texts = rows.checked(table, str(column), rows.text, problems)
    name = next((name for name in _ID_COLUMNS if name in table.columns), None)
    ids = rows.checked(table, name, rows.identifier, problems) if name else [str(line) for line in table.lines]
    problems.raise_if_any()
    if len(set(ids)) < len(ids):
        twice = next(one for row, one in enumerate(ids) if one in ids[:row])
        raise ValueError(f"{file} has the query {twice!r} twice: ids must be different")
    return ids, texts


def _qrels(file: Path, known: Callable[[str], bool] | None) -> dict[str, dict[str, int]]:
    from mrl_text.eval import rows

    problems = rows.Problems(file)
    table = rows.read_table(file, rows.read_bytes(file), _QRELS, problems)
    rows.require(table, _QRELS)
    queries, documents = (rows.checked(table, name, rows.identifier, problems) for name in _QRELS[:2])
    grades = rows.checked(table, _QRELS[2], _grade, problems)
    problems.raise_if_any()
    absent = [
        name
        for name, grade in zip(documents, grades, strict=True)
        if grade > 0 and known is not None and not known(name)
    ]
    positive = sum(grade > 0 for grade in grades)
    if not positive or len(absent) == positive:
        reason = f"none of its documents, {_some(documents)}, is in the index" if positive else "no score is above 0"
        raise ValueError(f"{file} judges nothing that can be found: {reason}")
    if absent:
        logger.warning("%d of %d relevant documents of %s are not in the index", len(absent), positive, file)
    relevant: dict[str, dict[str, int]] = {}
    for query, document, grade in zip(queries, documents, grades, strict=True):
        relevant.setdefault(query, {})[document] = grade
    return {query: judged for query, judged in relevant.items() if max(judged.values()) > 0}


def _grade(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"is {value!r:.60}, not a whole number") from None


def check_metric(metric: str | None, judgements: bool) -> Metric:
    """The metric that was asked for; None is nDCG@10 with judgements, recall@10 of the exact results without.

    Raises:
        ValueError: an unknown metric, or nDCG@10 without judgements.
    """
    if metric is None:
        return "ndcg@10" if judgements else "recall@10"
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is unknown{did_you_mean(metric, METRICS)}")
    if metric == "ndcg@10" and not judgements:
        raise ValueError("ndcg@10 needs judgements: give --qrels, or take recall@10")
    return metric


def _some(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name, _ in zip(names, range(3), strict=False))
    return f"{shown}, ..." if len(names) > 3 else shown
