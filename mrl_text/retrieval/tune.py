"""The cheapest way to search an index that keeps the quality of exact full-width search."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mrl_text.files import write_atomically
from mrl_text.retrieval.engine import cells
from mrl_text.retrieval.index import AdaptiveIndex
from mrl_text.retrieval.judged import Judged, K, check_metric
from mrl_text.retrieval.plan import CODES, KINDS, Code, Kind, SearchPlan, fits
from mrl_text.retrieval.timing import threads as limited_threads
from mrl_text.retrieval.trials import Trial, Trials, smallest, steps_up_to
from mrl_text.suggest import did_you_mean
from mrl_text.truncation import check_dims

logger = logging.getLogger(__name__)

FILE = "tune.json"
"""Written into the folder of the index."""

_FEW_QUERIES = 50
_LONGEST_SHORTLIST = 5000
_HIGHEST_EFFORT = 1024
_WORTH_A_FUNNEL = 40  # candidates
_ROUNDING = 1e-9
_NEAR = 2  # times the fastest
_MORE_EFFORT = (1.5, 2)  # than just holds on one half
_AS_FAST = 1.05  # within this factor of the fastest, less memory decides
_SMALL_CORPUS = 10_000  # rows; below, comparing with all is fast, and a graph or cells have nothing to save


@dataclass(frozen=True)
class Tuning:
    """What was tried, and what was chosen.

    Attributes:
        chosen: the trial whose plan the index now has.
        confirmed: whether it keeps the target on the queries that it was not chosen by.
        trials: everything that was tried, in that order; the exact search of all full vectors in memory among them.
        metric: ``ndcg@10`` or ``recall@10``.
        keep: share of the exact score that was asked for.
        scores: of exact full-width search, on the queries to choose by and on the others.
        queries: how many there are of these.
        threads: that searches were timed with.
        documents: of the index.
        refused: plans that held on the first half, were cheaper, and failed on the other.
        exact: comparing with every full float32 vector in memory; None where ``max_ram`` forbids it.
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


def tune(
    index: AdaptiveIndex,
    queries: np.ndarray,
    judged: Judged,
    *,
    keep: float = 0.99,
    metric: str | None = None,
    threads: int = 1,
    max_ram: int | None = None,
    dims: Sequence[int] | None = None,
    kinds: Sequence[Kind] | None = None,
    precisions: Sequence[Code] = CODES,
    minutes: float = 20,
    seed: int = 0,
    progress: bool = False,
) -> Tuning:
    """Find the plan with the least time per query that keeps the target, and save the index with it.

    A plan is chosen on one half of the queries and confirmed on the other; one that fails there is passed over for the
    next. First every size and precision is compared with all rows, with the smallest shortlist that is good enough.
    What then takes longer for reranking alone than the best plan so far needs no graph and no cells; for the others
    they are built, the most promising first. Longer shortlists and funnels are tried for what is near the best.

    Args:
        index: its plan is replaced, and it is saved with ``tune.json`` beside it.
        queries: float32 (n, width), encoded at full width.
        judged: the same queries, with judgements or without.
        keep: share of the score of exact full-width search to keep.
        metric: ``ndcg@10`` needs judgements; ``recall@10`` is the share of the exact ten results found. None takes
            nDCG where there are judgements.
        threads: that searches are timed with. Shortlists are built with all there are.
        max_ram: bytes that the shortlist may take; None is no limit.
        dims: prefixes to try; None takes the sizes of the model.
        kinds: of shortlists; None leaves out graph and cells below 10,000 rows.
        precisions: of shortlists.
        minutes: for graphs and cells; none is begun after that.
        seed: of the halves.
        progress: show a progress bar on stderr.

    Returns:
        What was tried and what was chosen.

    Raises:
        ValueError: an impossible option, too few queries, queries whose relevant documents exact search does not find,
            or no plan within ``max_ram``.
    """
    checked_metric = check_metric(metric, judged.relevant is not None)
    if not 0 < keep <= 1:
        raise ValueError(f"keep {keep}: expected a share of the exact score, such as 0.99")
    if len(queries) < 4:
        raise ValueError(f"tuning needs 4 queries at least, and gives reliable results from 100 on; got {len(queries)}")
    if len(queries) < _FEW_QUERIES:
        logger.warning(
            "with %d queries the plan is chosen by luck as much as by quality: take 100 or more", len(queries)
        )
    for name, given, known in (("kind", kinds or (), KINDS), ("precision", precisions, CODES)):
        if unknown := [one for one in given if one not in known]:
            raise ValueError(f"{name} {unknown[0]!r} is unknown{did_you_mean(unknown[0], known)}")
    sizes = check_dims(dims or index.facts.get("dims") or [index.width], index.width)
    order = np.random.default_rng(seed).permutation(len(queries))
    halves = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    with limited_threads(threads):
        trials = Trials(index, queries, judged, checked_metric, halves)
        search = _Search(trials, keep, sizes, max_ram, progress)
        search.compare_with_all(precisions)
        search.approximate([kind for kind in kinds or _default_kinds(len(index)) if kind != "flat"], 60 * minutes)
        search.refine()
    search.bar.close()
    chosen, confirmed, refused = search.choose()
    full = _single(index.width, "flat", "float32")
    found = Tuning(
        chosen=chosen,
        confirmed=confirmed,
        trials=search.tried,
        metric=checked_metric,
        keep=keep,
        scores=trials.scores,
        queries=(len(halves[0]), len(halves[1])),
        threads=threads,
        documents=len(index),
        refused=refused,
        exact=next((trial for trial in search.tried if trial.plan == full and trial.timing), None),
    )
    index.set_plan(chosen.plan)
    index.save()
    write_atomically(index.path / FILE, json.dumps(found.to_json(), indent=1).encode())
    return found


def _default_kinds(rows: int) -> tuple[Kind, ...]:
    return ("flat",) if rows < _SMALL_CORPUS else KINDS


def _single(dim: int, kind: Kind, precision: Code) -> SearchPlan:
    """The prefix alone decides."""
    return SearchPlan(dim, kind, precision, shortlist=K, final=dim)


@dataclass(frozen=True)
class _Enough:
    """The shortest shortlist that is good enough where a prefix is compared with all rows."""

    plan: SearchPlan
    seconds: float
    rerank_seconds: float


class _Search:
    """Goes through plans, from what bounds the others to what those bounds leave open."""

    def __init__(self, trials: Trials, keep: float, sizes: Sequence[int], max_ram: int | None, progress: bool) -> None:
        self.tried: list[Trial] = []
        self.bar = tqdm(desc="Tuning", unit="plan", disable=not progress)
        self._trials = trials
        self._index = trials.index
        self._keep = keep
        self._sizes = sizes
        self._max_ram = max_ram
        self._enough: list[_Enough] = []
        self._shortlists = steps_up_to(min(len(trials.index), _LONGEST_SHORTLIST))

    def compare_with_all(self, precisions: Sequence[Code]) -> None:
        """Every size and precision without graph or cells."""
        for dim in sorted({*self._sizes, self._index.width}):
            for precision in sorted(precisions, key=CODES.index):
                self._compare(SearchPlan(dim, "flat", precision, final=dim if dim == self._index.width else None))

    def _compare(self, plan: SearchPlan) -> None:
        if self._too_large(plan):
            return
        missed = [one.plan for one in self.tried if one.plan.dim == plan.dim and one.note.startswith("misses")]
        if any(one.precision == "float32" for one in missed):
            self._note(plan, "misses the target, as float32 does at this size")
            return
        alone = _single(plan.dim, "flat", plan.precision)
        if self._holds(alone):
            self._measure(alone)
        if plan.dim == self._index.width:
            return
        shortlist = smallest(self._shortlists, lambda level: self._holds(replace(plan, shortlist=level)))
        if shortlist is None:
            longest = replace(plan, shortlist=self._shortlists[-1])
            kept = self._trials.retention(longest)
            self._note(longest, f"misses the target with {longest.shortlist:,} candidates: keeps {100 * kept:.2f} %")
            return
        enough = replace(plan, shortlist=shortlist)
        self._enough.append(_Enough(enough, self._measure(enough), self._trials.rerank_seconds(enough)))

    def approximate(self, kinds: Sequence[Kind], seconds: float) -> None:
        """Graph and cells for what could beat the best so far; none is begun after so many seconds."""
        until = time.monotonic() + seconds
        promising = sorted(self._enough, key=lambda one: one.seconds)
        for kind, enough in itertools.product(sorted(kinds, reverse=True), promising):  # cells take seconds to build
            if fits(kind, enough.plan.precision):
                plan = replace(enough.plan, kind=kind)
                if self._too_large(plan):
                    continue
                if reason := self._hopeless(enough):
                    self._note(plan, reason)
                elif time.monotonic() > until:
                    self._note(plan, "not tried: out of time (--minutes)")
                else:
                    self._fit_effort(plan)

    def refine(self) -> None:
        """More candidates, and funnels, for the comparisons with all rows that are not far from the best."""
        best = self._best()
        for enough in self._enough:
            if enough.seconds <= _NEAR * best:
                for longer in self._longer(enough.plan.shortlist)[1:]:
                    self._measure(replace(enough.plan, shortlist=longer))
                self._funnel(enough.plan)

    def _hopeless(self, enough: _Enough) -> str:
        """Why graph and cells need not be tried for a prefix."""
        if enough.rerank_seconds >= self._best():
            return f"cannot win: its rerank alone takes {1000 * enough.rerank_seconds:.2f} ms"
        smaller = replace(enough.plan, precision="int8")
        if enough.plan.precision in ("float32", "float16") and any(one.plan == smaller for one in self._enough):
            return "int8 needs as few candidates and less memory"
        return ""

    def _fit_effort(self, plan: SearchPlan) -> None:
        """The least effort that is good enough, and some more, for one or two lengths of the shortlist."""
        graph = plan.kind == "hnsw"
        efforts = steps_up_to(_HIGHEST_EFFORT if graph else cells(len(self._index), plan.precision), K if graph else 1)
        measured = 0
        for shortlist in self._longer(plan.shortlist)[:2]:
            longer = replace(plan, shortlist=shortlist)
            least = smallest(efforts, lambda level, longer=longer: self._holds(replace(longer, effort=level)))  # type: ignore[misc]
            if least is None:
                continue
            if graph:
                least = max(least, shortlist)  # the walk keeps at least these in view
            seconds = self._measure(replace(longer, effort=least))
            measured += 1
            if seconds > _NEAR * self._best():
                return
            more = [int(factor * least) for factor in _MORE_EFFORT]
            for effort in sorted(set(more if graph else np.minimum(more, efforts[-1]).tolist()) - {least}):
                self._measure(replace(longer, effort=effort))
            self._funnel(replace(longer, effort=more[0]))
        if not measured:
            last = replace(longer, effort=efforts[-1])
            self._note(last, f"misses the target: keeps {100 * self._trials.retention(last):.2f} %")

    def _funnel(self, plan: SearchPlan) -> None:
        """The same with sizes between, where there are candidates enough to thin out."""
        between = [dim for dim in self._sizes if plan.dim < dim < self._index.width]
        if plan.shortlist < _WORTH_A_FUNNEL or not between:
            return
        options = {"kind": plan.kind, "precision": plan.precision, "effort": plan.effort}

        def funnel(shortlist: int) -> SearchPlan:
            dims = [plan.dim, *between, self._index.width]
            return SearchPlan.funnel(dims, shortlist=shortlist, **options)

        shortlist = smallest(self._longer(plan.shortlist), lambda level: self._holds(funnel(level)))
        if shortlist is not None:
            self._measure(funnel(shortlist))

    def _longer(self, shortlist: int) -> list[int]:
        """That many candidates, twice and four times as many: what just holds on one half may fail on the other."""
        first = self._shortlists.index(shortlist)
        return self._shortlists[first : first + 5 : 2]

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
                f"no plan keeps {self._keep:.2%} of the exact score{limit}: lower --keep or raise --max-ram"
            )
        order: list[Trial] = []
        while left:
            fastest = min(_seconds(trial) for trial in left)
            near = [trial for trial in left if _seconds(trial) <= _AS_FAST * fastest]
            order.append(min(near, key=lambda trial: (trial.ram, _seconds(trial))))
            left.remove(order[-1])
        for refused, trial in enumerate(order):
            if trial.retention and trial.retention[1] >= self._keep - _ROUNDING:
                return trial, True, refused
        return order[0], False, 0

    def _holds(self, plan: SearchPlan) -> bool:
        return self._trials.retention(plan) >= self._keep - _ROUNDING

    def _measure(self, plan: SearchPlan) -> float:
        """Note what the plan gives; returns its seconds per query."""
        trial = self._trials.measure(plan)
        self._add(trial)
        return _seconds(trial)

    def _best(self) -> float:
        """Seconds of the fastest so far that holds on both halves."""
        target = self._keep - _ROUNDING
        holding = (trial for trial in self.tried if trial.retention and min(trial.retention) >= target)
        return min(map(_seconds, holding), default=float("inf"))

    def _note(self, plan: SearchPlan, note: str) -> None:
        self._add(Trial(plan, note))

    def _add(self, trial: Trial) -> None:
        self.tried.append(trial)
        self.bar.set_postfix_str(trial.plan.label)
        self.bar.update()

    def _too_large(self, plan: SearchPlan) -> bool:
        """Whether the codes alone, and for a graph its edges, go beyond the memory that is allowed; notes it."""
        each = plan.code_bytes() + (8 * plan.neighbours if plan.kind == "hnsw" else 0)
        if self._max_ram is None or each * len(self._index) <= self._max_ram:
            return False
        self._note(plan, f"needs {each * len(self._index) / 2**20:,.1f} MB at least, more than allowed")
        return True


def _seconds(trial: Trial) -> float:
    return trial.timing.single if trial.timing else float("inf")
