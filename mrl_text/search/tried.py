"""Plans tried so far, how to fit one to a target, and which to take."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mrl_text.search.plan import Code, Kind, SearchPlan
from mrl_text.search.sample_queries import Judged, K, Metric, check_metric
from mrl_text.search.trials import PlanTrials, Trial, smallest, steps_up_to

logger = logging.getLogger(__name__)

_FEW_QUERIES = 50
_WORTH_A_FUNNEL = 40  # candidates
_ROUNDING = 1e-9
NEAR = 2  # times the fastest
_MORE_EFFORT = (1.5, 2)  # than just holds on one half
_AS_FAST = 1.05  # within this factor of the fastest, less memory decides


@dataclass(frozen=True)
class Tuning:
    """What was tried, and what was chosen.

    Attributes:
        chosen: the trial whose plan the index now has.
        confirmed: whether it keeps the target on the queries that it was not chosen by.
        trials: everything that was tried, in that order; the exact search of all full vectors among them.
        metric: ``ndcg@10`` or ``recall@10``.
        keep: share of the exact score that was asked for.
        scores: of exact full-width search, on the queries to choose by and on the others.
        queries: how many there are of these.
        threads: that searches were timed with.
        documents: of the index.
        refused: plans that held on the first half, were cheaper, and failed on the other.
        exact: comparing with every full vector: of an index in a folder float32 in memory, None where ``max_ram``
            forbids it; of a store its own exact search.
    """

    chosen: Trial
    confirmed: bool
    trials: list[Trial]
    metric: str
    keep: float
    scores: tuple[float, float]
    queries: tuple[int, int]
    threads: int
    documents: int
    refused: int
    exact: Trial | None

    def to_json(self) -> dict[str, Any]:
        """The tuning as JSON values."""
        facts = {
            name: getattr(self, name)
            for name in ("metric", "keep", "scores", "queries", "threads", "documents", "confirmed", "refused")
        }
        exact = self.exact and self.exact.to_json()
        return {
            **facts,
            "chosen": self.chosen.to_json(),
            "exact": exact,
            "trials": [trial.to_json() for trial in self.trials],
        }


def check_task(
    queries: np.ndarray, judged: Judged, keep: float, metric: str | None, seed: int
) -> tuple[Metric, tuple[np.ndarray, np.ndarray]]:
    """The metric, and two halves of the queries: rows to choose by and rows to confirm on.

    Raises:
        ValueError: an impossible share or metric, or fewer than four queries.
    """
    checked = check_metric(metric, judged.relevant is not None)
    if not 0 < keep <= 1:
        raise ValueError(f"keep {keep}: expected a share of the exact score, such as 0.99")
    if len(queries) < 4:
        raise ValueError(f"tuning needs 4 queries at least, and gives reliable results from 100 on; got {len(queries)}")
    if len(queries) < _FEW_QUERIES:
        logger.warning(
            "with %d queries the plan is chosen by luck as much as by quality: take 100 or more", len(queries)
        )
    order = np.random.default_rng(seed).permutation(len(queries))
    return checked, (np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :]))


def single(dim: int, kind: Kind, precision: Code) -> SearchPlan:
    """The plan by which the prefix alone decides."""
    return SearchPlan(dim, kind, precision, shortlist=K, final=dim)


class Tried:
    """Plans tried, noted and compared.

    Args:
        trials: measure them.
        keep: share of the exact score to keep.
        sizes: that funnels may go through, ascending.
        width: of the full vectors.
        longest: candidates, at most.
        max_ram: bytes that the shortlist may take; None is no limit.
        progress: show a progress bar on stderr.

    Attributes:
        tried: every trial, in order.
        bar: the progress bar.
    """

    def __init__(
        self,
        trials: PlanTrials,
        keep: float,
        sizes: Sequence[int],
        width: int,
        longest: int,
        *,
        max_ram: int | None = None,
        progress: bool = False,
    ) -> None:
        self.tried: list[Trial] = []
        self.bar = tqdm(desc="Tuning", unit="plan", disable=not progress)
        self._plan_trials = trials
        self._keep = keep
        self._sizes = sizes
        self._width = width
        self._shortlists = steps_up_to(longest)
        self._max_ram = max_ram

    def choose(self) -> tuple[Trial, bool, int]:
        """The fastest that holds on both halves; among those about as fast, the one with the least memory.

        Returns:
            The trial, whether it holds on the second half, and how many were refused for not doing so.

        Raises:
            ValueError: nothing holds on the first half.
        """
        left = [trial for trial in self.tried if trial.retention and trial.retention[0] >= self._keep - _ROUNDING]
        if self._max_ram is not None:
            left = [trial for trial in left if (trial.ram or 0) <= self._max_ram]
        if not left:
            limit = f" with {self._max_ram:,} bytes for the shortlist" if self._max_ram is not None else ""
            raise ValueError(
                f"no plan keeps {self._keep:.2%} of the exact score{limit}: lower --keep"
                + " or raise --max-ram" * (self._max_ram is not None)
            )
        order: list[Trial] = []
        while left:
            fastest = min(seconds(trial) for trial in left)
            near = [trial for trial in left if seconds(trial) <= _AS_FAST * fastest]
            order.append(min(near, key=lambda trial: (trial.ram or 0, seconds(trial))))
            left.remove(order[-1])
        for refused, trial in enumerate(order):
            if trial.retention and trial.retention[1] >= self._keep - _ROUNDING:
                return trial, True, refused
        return order[0], False, 0

    def _fit_shortlist(self, plan: SearchPlan) -> SearchPlan | None:
        """The plan with the shortest shortlist that is good enough; None, and a note, where the longest is not."""
        shortlist = smallest(self._shortlists, lambda level: self._holds(replace(plan, shortlist=level)))
        if shortlist is not None:
            return replace(plan, shortlist=shortlist)
        longest = replace(plan, shortlist=self._shortlists[-1])
        kept = self._plan_trials.retention(longest)
        self._note(longest, f"misses the target with {longest.shortlist:,} candidates: keeps {100 * kept:.2f} %")
        return None

    def _fit_effort(self, plan: SearchPlan, efforts: Sequence[int]) -> None:
        """The least effort that is good enough, and some more, for one or two lengths of the shortlist."""
        graph = plan.kind == "hnsw"
        measured = 0
        for shortlist in self._longer(plan.shortlist)[: 1 if plan.single else 2]:
            longer = replace(plan, shortlist=shortlist)
            least = smallest(efforts, lambda level, longer=longer: self._holds(replace(longer, effort=level)))  # type: ignore[misc]
            if least is None:
                continue
            if graph:
                least = max(least, shortlist)  # the walk keeps at least these in view
            spent = self._measure(replace(longer, effort=least))
            measured += 1
            if spent > NEAR * self._best():
                return
            more = [min(int(factor * least), max(least, efforts[-1])) for factor in _MORE_EFFORT]
            for effort in sorted(set(more) - {least}):
                self._measure(replace(longer, effort=effort))
            self._funnel(replace(longer, effort=more[0]))
        if not measured:
            last = replace(longer, effort=efforts[-1])
            self._note(last, f"misses the target: keeps {100 * self._plan_trials.retention(last):.2f} %")

    def _funnel(self, plan: SearchPlan) -> None:
        """The same with sizes between, where there are candidates enough to thin out."""
        between = [dim for dim in self._sizes if plan.dim < dim < self._width]
        if plan.shortlist < _WORTH_A_FUNNEL or not between:
            return
        options = {"kind": plan.kind, "precision": plan.precision, "effort": plan.effort}

        def funnel(shortlist: int) -> SearchPlan:
            dims = [plan.dim, *between, self._width]
            return SearchPlan.funnel(dims, shortlist=shortlist, **options)

        shortlist = smallest(self._longer(plan.shortlist), lambda level: self._holds(funnel(level)))
        if shortlist is not None:
            self._measure(funnel(shortlist))

    def _longer(self, shortlist: int) -> list[int]:
        """That many candidates, twice and four times as many: what just holds on one half may fail on the other."""
        first = self._shortlists.index(shortlist)
        return self._shortlists[first : first + 5 : 2]

    def _holds(self, plan: SearchPlan) -> bool:
        return self._plan_trials.retention(plan) >= self._keep - _ROUNDING

    def _measure(self, plan: SearchPlan) -> float:
        """Note what the plan gives; returns its seconds per query."""
        trial = self._plan_trials.measure(plan)
        self._add(trial)
        return seconds(trial)

    def _best(self) -> float:
        """Seconds of the fastest so far that holds on both halves."""
        target = self._keep - _ROUNDING
        holding = (trial for trial in self.tried if trial.retention and min(trial.retention) >= target)
        return min(map(seconds, holding), default=float("inf"))

    def _note(self, plan: SearchPlan, note: str) -> None:
        self._add(Trial(plan, note))

    def _add(self, trial: Trial) -> None:
        self.tried.append(trial)
        self.bar.set_postfix_str(trial.plan.label)
        self.bar.update()


def seconds(trial: Trial) -> float:
    """Time per query of a trial, searched one by one; infinity where it was not measured."""
    return trial.timing.single if trial.timing else float("inf")
