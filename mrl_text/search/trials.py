"""Plans tried on an index: how good their results are, how long they take, what they hold in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mrl_text.search.faiss.index import AdaptiveIndex
from mrl_text.search.hits import Found
from mrl_text.search.plan import SearchPlan
from mrl_text.search.sample_queries import Judged, K, Metric, recall
from mrl_text.search.timing import Timing, measure

_EXPLAINED = 10


@dataclass(frozen=True)
class Trial:
    """One plan and what came of it.

    Attributes:
        plan: as it was tried.
        note: why it was not measured, or not chosen; empty otherwise.
        retention: score over that of exact full-width search, on the queries to choose by and on the others; None
            where it was not looked at.
        timing: seconds per query; None where it was not measured.
        ram: bytes of the shortlist.
        interval: of the retention on all queries, 95 %: what other queries of the same kind may give.
    """

    plan: SearchPlan
    note: str = ""
    retention: tuple[float, float] | None = None
    timing: Timing | None = None
    ram: int | None = None
    interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON values."""
        timing = self.timing and {"single": self.timing.single, "batch": self.timing.batch}
        measured: dict[str, Any] = {"retention": self.retention, "interval": self.interval}
        measured |= {"seconds_per_query": timing, "ram_bytes": self.ram}
        return {"plan": self.plan.to_json(), "label": self.plan.label, "note": self.note, **measured}


class Searched(Protocol):
    """What plans are tried on."""

    @property
    def plan(self) -> SearchPlan | None:
        """How it searches."""

    def exact(self, queries: np.ndarray, k: int = 10) -> Found:
        """The best rows by comparing with every full vector."""

    def search(self, queries: np.ndarray, k: int = 10, *, plan: SearchPlan | None = None) -> Found:
        """The best rows by the plan, or by another."""

    def set_plan(self, plan: SearchPlan | None) -> None:
        """Search in another way from now on."""


class PlanTrials:
    """Tries plans against the exact full-width search of the same vectors.

    Args:
        index: an index or a store; its plan is changed.
        queries: float32 (n, width).
        judged: the same queries; their judgements are needed for nDCG.
        metric: what is kept.
        halves: rows of the queries to choose by, and of the others.

    Attributes:
        scores: of exact full-width search: on the queries to choose by, and on the others.
    """

    def __init__(
        self,
        index: Searched,
        queries: np.ndarray,
        judged: Judged,
        metric: Metric,
        halves: tuple[np.ndarray, np.ndarray],
    ) -> None:
        self._index = index
        self._queries = queries
        self._judged = judged
        self._metric = metric
        self._halves = halves
        self._exact = index.exact(queries, K)
        self._exact_scores = [self._scores(self._exact.ids[half], half) for half in halves]
        first, second = (float(best.mean()) for best in self._exact_scores)
        self.scores: tuple[float, float] = (first, second)
        if min(self.scores) <= 0:
            raise ValueError("exact search finds no relevant document for these queries: are they of this corpus?")

    def retention(self, plan: SearchPlan, half: int = 0) -> float:
        """Score of a plan over that of exact full-width search; the shortlist is built where it is another."""
        return float(self._kept(plan, half).mean()) / self.scores[half]

    def measure(self, plan: SearchPlan, note: str = "") -> Trial:
        """Quality on both halves, time per query, memory."""
        kept = [self._kept(plan, half) for half in (0, 1)]
        first, second = (float(one.mean()) / score for one, score in zip(kept, self.scores, strict=True))
        interval = ratio_interval(np.concatenate(kept), np.concatenate(self._exact_scores))
        timing = measure(lambda some: self.search(some, plan), self._queries[self._halves[0]])
        return Trial(plan, note, (first, second), timing, self.ram(), interval)

    def measure_exact(self, plan: SearchPlan) -> Trial:
        """Time of comparing with every full vector, noted under a plan that says so; not to be chosen."""
        timing = measure(lambda some: self._index.exact(some, K), self._queries[self._halves[0]])
        return Trial(plan, "exact search, for comparison", timing=timing)

    def use(self, plan: SearchPlan) -> None:
        """Search by that plan from now on."""
        if self._index.plan != plan:
            self._index.set_plan(plan)

    def search(self, queries: np.ndarray, plan: SearchPlan) -> Found:
        """What the plan in use finds."""
        return self._index.search(queries, K)

    def ram(self) -> int | None:
        """Bytes of the shortlist in use; None where that is not known."""
        return None

    def _kept(self, plan: SearchPlan, half: int) -> np.ndarray:
        """Score of a plan for each query of a half."""
        self.use(plan)
        rows = self._halves[half]
        return self._scores(self.search(self._queries[rows], plan).ids, rows)

    def _scores(self, found: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self._metric == "ndcg@10":
            return np.asarray(self._judged.subset(rows.tolist()).ndcg(found))
        return np.asarray(recall(found, self._exact.ids[rows]))


def ratio_interval(part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
    """95 % interval of the ratio of two means over the same items (ratio estimator, Cochran 1977, section 6).

    Args:
        part: (n,) values above the line, two at least.
        whole: (n,) below it.

    Returns:
        Lower and upper bound.
    """
    ratio = part.mean() / whole.mean()
    half = 1.96 * np.std(part - ratio * whole, ddof=1) / (whole.mean() * len(part) ** 0.5)
    return float(ratio - half), float(ratio + half)


class Trials(PlanTrials):
    """Tries plans on an index of ours; nothing is saved."""

    def __init__(
        self,
        index: AdaptiveIndex,
        queries: np.ndarray,
        judged: Judged,
        metric: Metric,
        halves: tuple[np.ndarray, np.ndarray],
    ) -> None:
        super().__init__(index, queries, judged, metric, halves)
        self.index = index

    def rerank_seconds(self, plan: SearchPlan) -> float:
        """Time per query that goes into putting the candidates in order."""
        self.use(plan)
        costs = [self.index.explain(query, K)[1] for query in self._queries[self._halves[0][:_EXPLAINED]]]
        return float(np.median([sum(cost.seconds for cost in one if cost.name == "rerank") for one in costs]))

    def ram(self) -> int:
        """Bytes of the shortlist in use."""
        return shortlist_ram(self.index)


def shortlist_ram(index: AdaptiveIndex) -> int:
    """Bytes that the shortlist of an index holds in memory."""
    return sum(size for part, size in index.memory().items() if part in ("codes", "graph", "cells"))


def smallest(levels: Sequence[int], enough: Callable[[int], bool]) -> int | None:
    """The smallest level that is enough, by bisection: what is enough stays so further up. None if the last is not."""
    if not levels or not enough(levels[-1]):
        return None
    return levels[bisect_left(levels[:-1], True, key=enough)]


def steps_up_to(limit: int, first: int = K) -> list[int]:
    """10, 15, 20, 30, 40, 60, 80, 120, ... up to ``limit``, which is the last."""
    levels = [first << power for power in range(40)]
    between = [level + level // 2 for level in levels]
    return sorted({level for level in (*levels, *between) if level < limit} | {max(first, limit)})
