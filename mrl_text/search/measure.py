"""How good the results of a plan are, and how long they take, measured so that two plans can be compared."""

from __future__ import annotations

import contextlib
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mrl_text.choices import Metric
from mrl_text.search.plan import SearchPlan
from mrl_text.search.sample_queries import Judged, K, recall
from mrl_text.search.store import Store, Where

REPEATS = 5
_SINGLE_QUERIES = 50
_EXPLAINED = 10
_BUDGET = 1.0  # seconds of each of the two measurements; slow searches are repeated less


@dataclass(frozen=True)
class Timing:
    """Seconds per query."""

    single: float  # queries one after the other, as a server meets them
    batch: float  # all queries in one call


def measure(search: Callable[[np.ndarray], object], queries: np.ndarray) -> Timing:
    """Median time per query of up to five repeats, after one that is not counted.

    Args:
        search: takes float32 queries (n, width).
        queries: float32 (n, width); the first 50 are searched one by one, all of them as a batch.
    """
    alone = [queries[row : row + 1] for row in range(min(_SINGLE_QUERIES, len(queries)))]
    one_by_one = _median(lambda: [search(query) for query in alone])
    return Timing(one_by_one / len(alone), _median(lambda: search(queries)) / len(queries))


def _median(work: Callable[[], object]) -> float:
    work()  # reads what is to be read from the disk
    spent: list[float] = []
    while len(spent) < REPEATS and sum(spent) < _BUDGET:
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let FAISS and linear algebra use that many threads, and what they used before afterwards; ValueError below 1."""
    if count < 1:
        raise ValueError(f"threads must be at least 1, got {count}")
    with threadpool_limits(count), contextlib.ExitStack() as stack:
        if find_spec("faiss"):
            from mrl_text.search.faiss.engine import faiss_threads

            stack.enter_context(faiss_threads(count))
        yield


@dataclass(frozen=True)
class Trial:
    """One plan and what came of it; what was not measured, or what the store does not tell, is None."""

    plan: SearchPlan
    note: str = ""  # why it was not measured, or not chosen
    # score over that of exact full-width search, on the queries to choose by and on the others
    retention: tuple[float, float] | None = None
    timing: Timing | None = None
    ram: int | None = None  # bytes of the index that finds the candidates
    interval: tuple[float, float] | None = None  # 95 % of the retention: what other queries of the same kind may give
    # the same searches under the conditions of tuning: share of the exact ten results found, seconds per query
    filtered: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON values."""
        timing = self.timing and vars(self.timing)
        measured: dict[str, Any] = {"retention": self.retention, "interval": self.interval}
        measured |= {"seconds_per_query": timing, "ram_bytes": self.ram, "filtered": self.filtered}
        return {"plan": self.plan.to_json(), "label": self.plan.label, "note": self.note, **measured}


@dataclass(frozen=True)
class Tuning:
    """What was tried, and what was chosen."""

    chosen: Trial  # whose plan the index now has
    confirmed: bool  # whether it keeps the target on the queries that it was not chosen by
    trials: list[Trial]  # in the order they were tried; the exact search of all full vectors among them
    metric: Metric
    keep: float  # share of the exact score that was asked for
    scores: tuple[float, float]  # of exact full-width search, on the queries to choose by and on the others
    queries: tuple[int, int]  # how many there are of these
    threads: int  # that searches were timed with
    documents: int
    refused: int  # plans that held on the first half, were cheaper, and failed on the other
    # comparing with every full vector: of a folder float32 in memory, None where max_ram forbids it; of a database its
    # own exact search
    exact: Trial | None

    def to_json(self) -> dict[str, Any]:
        """The tuning as JSON values."""
        named = {"chosen": self.chosen.to_json(), "exact": self.exact and self.exact.to_json()}
        return {**vars(self), **named, "trials": [trial.to_json() for trial in self.trials]}


class PlanTrials:
    """Tries plans against the exact full-width search of the same store.

    Args:
        store: its plan is changed.
        queries: float32 (n, width).
        judged: the same queries; their judgements are needed for nDCG.
        metric: what is kept.
        halves: rows of the queries to choose by, and of the others; ``scores`` are those of exact search on them.
        where: conditions that searches may come with; under them the exact ten results are to be found.
    """

    def __init__(
        self,
        store: Store,
        queries: np.ndarray,
        judged: Judged,
        metric: Metric,
        halves: tuple[np.ndarray, np.ndarray],
        where: Where | None = None,
    ) -> None:
        self.store = store
        self._queries, self._judged, self._metric, self._halves = queries, judged, metric, halves
        self._exact = store.exact(queries, K)
        self._exact_scores = [self._scores(self._exact.ids[half], half) for half in halves]
        first, second = (float(best.mean()) for best in self._exact_scores)
        self.scores: tuple[float, float] = (first, second)
        if min(self.scores) <= 0:
            raise ValueError("exact search finds no relevant document for these queries: are they of this corpus?")
        self._where = where
        self._filtered = store.exact(queries, K, where=where).ids if where else None

    def use(self, plan: SearchPlan) -> None:
        """Have what the plan needs; a store in this process also makes the sizes between that it lacks."""
        current = self.store.plan
        fits = current is not None and current.shares_shortlist(plan) and not self.store.abilities.in_process
        if current != plan and not fits:
            self.store.set_plan(plan)

    def retention(self, plan: SearchPlan, half: int = 0) -> float:
        """Score of a plan over that of exact full-width search; the shortlist is built where it is another.

        Where there are conditions it is the worse of two: that, and the share of the exact results found under them.
        """
        return self._worse(self._kept(plan, half), self._found(plan, half), half)

    def measure(self, plan: SearchPlan, note: str = "") -> Trial:
        """Quality on both halves, time per query, memory."""
        kept = [self._kept(plan, half) for half in (0, 1)]
        found = [self._found(plan, half) for half in (0, 1)]
        first, second = (self._worse(kept[half], found[half], half) for half in (0, 1))
        low, high = ratio_interval(np.concatenate(kept), np.concatenate(self._exact_scores))
        interval = low, high if self._metric == "ndcg@10" else min(high, 1.0)  # no recall is above that of exact search
        timing = measure(lambda some: self.store.search(some, K, plan=plan), self._queries[self._halves[0]])
        filtered = None
        if self._where:
            search = partial(self.store.search, k=K, where=self._where, plan=plan)
            share = float(np.concatenate(found).mean())
            filtered = share, measure(search, self._queries[self._halves[0]]).single
        return Trial(plan, note, (first, second), timing, self.store.ram(), interval, filtered)

    def measure_exact(self, plan: SearchPlan) -> Trial:
        """Time of comparing with every full vector, noted under a plan that says so; not to be chosen."""
        timing = measure(lambda some: self.store.exact(some, K), self._queries[self._halves[0]])
        return Trial(plan, "exact search, for comparison", timing=timing)

    def rerank_seconds(self, plan: SearchPlan) -> float:
        """Time per query that goes into putting the candidates in order, of a store that tells."""
        self.use(plan)
        costs = [self.store.explain(query, K)[1] for query in self._queries[self._halves[0][:_EXPLAINED]]]
        return float(np.median([sum(cost.seconds for cost in one if cost.name == "rerank") for one in costs]))

    def _kept(self, plan: SearchPlan, half: int) -> np.ndarray:
        """Score of a plan for each query of a half."""
        self.use(plan)
        rows = self._halves[half]
        return self._scores(self.store.search(self._queries[rows], K, plan=plan).ids, rows)

    def _worse(self, kept: np.ndarray, found: np.ndarray, half: int) -> float:
        """The share of the exact score, or of the exact results under the conditions: the lesser."""
        shares = [float(kept.mean()) / self.scores[half], *([float(found.mean())] if len(found) else [])]
        return min(shares)

    def _found(self, plan: SearchPlan, half: int) -> np.ndarray:
        """Share of the exact results under the conditions that a plan finds, for each query; empty without any."""
        if self._filtered is None:
            return np.zeros(0)
        rows = self._halves[half]
        found = self.store.search(self._queries[rows], K, where=self._where, plan=plan).ids
        return np.asarray(recall(found, self._filtered[rows]))

    def _scores(self, found: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self._metric == "ndcg@10":
            return np.asarray(self._judged.subset(rows.tolist()).ndcg(found))
        return np.asarray(recall(found, self._exact.ids[rows]))


def ratio_interval(part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
    """95 % interval of the ratio of two means over the same items (ratio estimator, Cochran 1977, section 6).

    Args:
        part: (n,) values above the line, two at least.
        whole: (n,) below it.
    """
    ratio = part.mean() / whole.mean()
    half = 1.96 * np.std(part - ratio * whole, ddof=1) / (whole.mean() * len(part) ** 0.5)
    return float(ratio - half), float(ratio + half)


def unseen(items: int) -> float:
    """Share of items like these that may still differ where not one of them does, at 95 % (Clopper and Pearson 1934).

    Args:
        items: that were looked at, one at least.
    """
    return float(1 - 0.05 ** (1 / items))


def seconds(trial: Trial) -> float:
    """Time per query of a trial, searched one by one, with conditions or without, whichever is slower.

    Infinity where it was not measured.
    """
    if trial.timing is None:
        return float("inf")
    return max(trial.timing.single, trial.filtered[1] if trial.filtered else 0.0)


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
