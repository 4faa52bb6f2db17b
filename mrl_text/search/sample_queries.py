"""Sample queries, maybe with judgements, and how good results for them are."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytrec_eval

from mrl_text.choices import Metric
from mrl_text.suggest import check_choice
from mrl_text.tables.beir import Relevant, read_judgements, read_queries
from mrl_text.tables.columns import Problems

logger = logging.getLogger(__name__)

K = 10  # results that both metrics look at


@dataclass(frozen=True)
class Judged:
    """Queries and what is known about their answers."""

    ids: list[str]  # one for each query
    texts: list[str]
    relevant: dict[str, dict[str, int]] | None = None  # query -> document -> grade, for every query

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
        evaluator = pytrec_eval.RelevanceEvaluator(self.relevant, {f"ndcg_cut.{K}"})
        scores = evaluator.evaluate({name: row for name, row in ranked.items() if row})
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
    there = zip(wanted, found, strict=True)
    return np.array([len(one & set(row.tolist())) / len(one) if one else 1.0 for one, row in there])


def read_judged(
    queries: str | Path,
    qrels: str | Path | None = None,
    *,
    known: Callable[[Sequence[str]], Collection[str]] | None = None,
    limit: int = 1000,
) -> Judged:
    """Read sample queries, BEIR's files among others.

    Args:
        queries: as for :func:`mrl_text.tables.beir.read_queries`.
        qrels: as for :func:`mrl_text.tables.beir.read_judgements`; queries without a document above 0 are left out.
        known: those of some ids that are in the index, to tell judgements of another corpus; None does not check.
        limit: of more queries so many are drawn at random, always the same.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file that cannot be read, no query, or judgements that fit neither queries nor index.
    """
    ids, texts = read_queries(queries)
    judged = Judged(ids, texts)
    if qrels is not None:
        judged = Judged(ids, texts, _relevant(Path(qrels)))
        kept = [row for row, name in enumerate(ids) if name in (judged.relevant or ())]
        if not kept:
            raise ValueError(
                f"no query of {queries} has a relevant document in {qrels}: there the queries are"
                f" {_some(judged.relevant or ())}, here {_some(ids)}"
            )
        if len(kept) < len(ids):
            logger.info("%d of %d queries have judgements; the others are left out", len(kept), len(ids))
        judged = judged.subset(kept)
    if len(judged) > limit:
        logger.info("%d of %d queries are drawn at random; more of them with a larger limit", limit, len(judged))
        judged = judged.subset(sorted(random.Random(0).sample(range(len(judged)), limit)))
    if qrels is not None and known is not None:
        _check_known(judged.relevant or {}, known, qrels)
    return judged


def _relevant(file: Path) -> Relevant:
    """Judgements of the queries that have a relevant document."""
    relevant = read_judgements(file, Problems(file))
    return {query: judged for query, judged in relevant.items() if max(judged.values()) > 0}


def _check_known(relevant: Relevant, known: Callable[[Sequence[str]], Collection[str]], file: str | Path) -> None:
    """Warn of relevant documents that are not in the index; ValueError where none is."""
    positive = list(dict.fromkeys(name for judged in relevant.values() for name, grade in judged.items() if grade > 0))
    there = set(known(positive))
    absent = [name for name in positive if name not in there]
    if len(absent) == len(positive):
        raise ValueError(
            f"{file} judges nothing that can be found: none of its documents, {_some(positive)}, is in the index"
        )
    if absent:
        said = "%d of %d relevant documents of %s are not in the index and count as not found: %s"
        logger.warning(said, len(absent), len(positive), file, _some(absent))


def check_metric(metric: str | None, judgements: bool) -> Metric:
    """The metric that was asked for; None is nDCG@10 with judgements, recall@10 of the exact results without.

    ValueError for an unknown metric, and for nDCG@10 without judgements.
    """
    if metric is None:
        return "ndcg@10" if judgements else "recall@10"
    check_choice("metric", metric, Metric)
    if metric == "ndcg@10" and not judgements:
        raise ValueError("ndcg@10 needs judgements: give --qrels, or take recall@10")
    return cast(Metric, metric)


def _some(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name, _ in zip(names, range(3), strict=False))
    return f"{shown}, ..." if len(names) > 3 else shown
