"""The cheapest way to search a store that keeps the quality of its exact full-width search."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from mrl_text.amounts import FEW, percent, target
from mrl_text.choices import Code, Kind
from mrl_text.files import write_atomically
from mrl_text.progress import progress_bar
from mrl_text.search.measure import PlanTrials, Trial, Tuning, seconds, smallest, steps_up_to
from mrl_text.search.measure import threads as limited_threads
from mrl_text.search.plan import CODES, SearchPlan, cells, misfit
from mrl_text.search.sample_queries import Judged, K, check_metric
from mrl_text.search.store import Store, Where
from mrl_text.suggest import check_choice
from mrl_text.truncation import check_dims

logger = logging.getLogger(__name__)

FILE = "tune.json"  # written into the folder of an index
_SMALL_CORPUS = 10_000  # rows; below, comparing with all is fast, and a graph or cells have nothing to save
_SMALL_TABLE = 1000  # rows; below, a database spends its time on the way to and fro, and all plans are as fast
_WORTH_A_FUNNEL = 40  # candidates
_ROUNDING = 1e-9
_NEAR = 2  # times the fastest
_MORE_EFFORT = (1.5, 2)  # than just holds on one half
_AS_FAST = 1.05  # within this factor of the fastest, less memory decides, and then what keeps more
_BINARY_SHARE = 2  # in a graph, one bit a number finds too little below this part of the width


def tune(
    store: Store,
    queries: np.ndarray,
    judged: Judged,
    *,
    keep: float = 0.99,
    metric: str | None = None,
    where: Where | None = None,
    threads: int = 1,
    max_ram: int | None = None,
    dims: Sequence[int] | None = None,
    kinds: Sequence[Kind] | None = None,
    precisions: Sequence[Code] | None = None,
    minutes: float = 20,
    seed: int = 0,
    progress: bool = False,
) -> Tuning:
    """Find the plan with the least time per query that keeps the target, and keep it with the store.

    A plan is chosen on one half of the queries and confirmed on the other; one that fails there gives way to the next.

    In a folder every size and precision is first compared with all rows, with the smallest shortlist that is good
    enough. What then takes longer for reranking alone than the best plan so far needs no graph and no cells; for the
    others they are built, the most promising first. In a database an index is built for one size after the other, those
    near a third of the width first, full vectors without rerank among them; meanwhile it searches by what is being
    tried: tune one in use in a quiet hour, or a copy. Longer shortlists, more effort and funnels are tried near the
    best.

    Args:
        store: its plan is replaced, or set again if nothing is chosen; a folder of ours gets ``tune.json``.
        queries: float32 (n, width), encoded at full width.
        judged: the same queries, with judgements or without.
        keep: share of the score of exact full-width search to keep.
        metric: ``ndcg@10`` needs judgements and is taken where there are some; ``recall@10`` is the share of the exact
            ten results found.
        where: conditions that searches come with; under them, too, ``keep`` of the exact ten results are to be found.
        threads: that searches are timed with. Shortlists are built with all there are; a server uses what it is set to.
        max_ram: bytes that the shortlist may take, of a folder; None is no limit.
        dims: prefixes to try; None takes those of the store.
        kinds: of indexes; None is what suits the engine and the number of rows.
        precisions: of prefixes; None is what suits the engine.
        minutes: no graph, cells or index is begun to be built after that.
        seed: of the halves.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: an impossible option, too few queries, an empty store, queries whose relevant documents exact
            search does not find, or no plan that keeps the target.
        StoreUnavailableError: no answer.
    """
    checked_metric = check_metric(metric, judged.relevant is not None)
    sizes = check_options(
        store, max_ram=max_ram, dims=dims, kinds=kinds, precisions=precisions, minutes=minutes, where=where
    )
    halves = _halves(queries, keep, seed)
    abilities = store.abilities
    rows, before = store.count(), store.plan
    if not rows:
        raise ValueError("the store is empty: fill it with mrl-text index push before tuning")
    trials = PlanTrials(store, queries, judged, checked_metric, halves, where)
    search = _Search(trials, keep, sizes, rows, max_ram=max_ram, seconds=60 * minutes)
    try:
        with limited_threads(threads), progress_bar(desc="Tuning", unit="plan", disable=not progress) as search.bar:
            exact = search.run(kinds, precisions or abilities.precisions)
        chosen, confirmed, refused = search.choose()
        store.set_plan(chosen.plan)
        store.flush()
    except BaseException:
        if store.plan != before and not abilities.in_process:  # what is in a folder was not saved
            store.set_plan(before)
        raise
    used, scores = (len(halves[0]), len(halves[1])), trials.scores
    found = Tuning(chosen, confirmed, search.tried, checked_metric, keep, scores, used, threads, rows, refused, exact)
    if store.path is not None:
        write_atomically(store.path / FILE, json.dumps(found.to_json(), indent=1).encode())
    return found


def check_options(
    store: Store,
    *,
    max_ram: int | None = None,
    dims: Sequence[int] | None = None,
    kinds: Sequence[str] | None = None,
    precisions: Sequence[Code] | None = None,
    minutes: float = 0,
    where: Where | None = None,
) -> tuple[int, ...]:
    """The prefixes that :func:`tune` will try, with these options of it; its errors that need no queries."""
    for kind in kinds or ():
        check_choice("kind", kind, Kind)
    sizes = check_dims(dims or store.dims, store.width)
    for precision in precisions or ():
        _check_precision(store, check_choice("precision", precision, Code), sizes)
    if max_ram is not None and not store.abilities.in_process:
        raise ValueError("max_ram is for an index in a folder: a database decides itself what it holds in memory")
    for name, value, least in (("max_ram", max_ram, 1), ("minutes", minutes, 0)):
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value:g}")
    if where and store.exact(np.ones((1, store.width), np.float32), 1, where=where).ids[0, 0] is None:
        raise ValueError("no row meets the conditions: check their values")
    return sizes


def _check_precision(store: Store, precision: Code, sizes: Sequence[int]) -> None:
    """Raise ValueError for one that the store has for none of these sizes."""
    for size in (*sizes, store.width):
        try:
            return store.check_plan(SearchPlan(size, "flat", precision), store.width)
        except ValueError as error:
            reason = error
    raise reason


def _halves(queries: np.ndarray, keep: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the queries: rows to choose by and rows to confirm on."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep {keep}: expected a share of the exact score, such as 0.99")
    if len(queries) < 4:
        raise ValueError(
            f"tuning needs 4 queries at least, and gives reliable results from {FEW} on; got {len(queries)}"
        )
    if len(queries) < FEW:
        advice = "with %d queries the plan is chosen by luck as much as by quality: take %d or more"
        logger.warning(advice, len(queries), FEW)
    order = np.random.default_rng(seed).permutation(len(queries))
    return np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])


@dataclass(frozen=True)
class _Enough:
    """The shortest shortlist that is good enough where a prefix is compared with all rows."""

    plan: SearchPlan
    seconds: float
    rerank_seconds: float


class _Search:
    """Goes through plans and notes what came of them, in ``tried``; no index is begun after ``seconds``."""

    bar: tqdm
    _until: float

    def __init__(
        self, trials: PlanTrials, keep: float, sizes: Sequence[int], rows: int, *, max_ram: int | None, seconds: float
    ) -> None:
        self.tried: list[Trial] = []
        self._trials, self._store = trials, trials.store
        self._width, self._abilities = self._store.width, self._store.abilities
        self._keep, self._sizes, self._rows, self._max_ram, self._seconds = keep, sizes, rows, max_ram, seconds
        self._shortlists = steps_up_to(min(rows, self._abilities.longest))
        self._enough: list[_Enough] = []

    def run(self, kinds: Sequence[Kind] | None, precisions: Sequence[Code]) -> Trial | None:
        """Try everything that could win; returns the trial of comparing with every full vector."""
        small = self._rows < _SMALL_CORPUS
        full = SearchPlan(self._width, "flat", "float32", shortlist=K, final=self._width)
        if self._abilities.in_process:  # comparing with all rows bounds what the others can save
            self._compare_with_all(precisions)
            self._until = time.monotonic() + self._seconds
            chosen = kinds or (() if small else self._abilities.kinds)
            self._approximate([kind for kind in chosen if kind != "flat"])
            self._refine()
            return next((trial for trial in self.tried if trial.plan == full and trial.timing), None)
        exact = self._trials.measure_exact(full)
        self._add(exact)
        self._until = time.monotonic() + self._seconds
        if kinds is None and self._rows < _SMALL_TABLE:
            logger.info("%d rows are compared in full as fast as anything: --kinds hnsw tries more", self._rows)
            self._build(replace(full, precision="float16"))
            return exact
        for plan in self._indexes(kinds or (*self._abilities.kinds, *(("flat",) if small else ())), precisions):
            self._build(plan)
        return exact

    def _compare_with_all(self, precisions: Sequence[Code]) -> None:
        """Every size and precision without graph or cells."""
        for dim in sorted({*self._sizes, self._width}):
            for precision in sorted(precisions, key=CODES.index):
                plan = SearchPlan(dim, "flat", precision)
                if reason := misfit(plan):
                    self._note(plan, f"not for this store: {reason}")
                else:
                    full = dim == self._width and precision in ("float32", "float16", "int8")  # nothing sorts better
                    self._compare(replace(plan, final=dim) if full else plan)

    def _compare(self, plan: SearchPlan) -> None:
        if self._too_large(plan):
            return
        missed = [one.plan for one in self.tried if one.plan.dim == plan.dim and one.note.startswith("misses")]
        if any(one.precision == "float32" for one in missed):
            self._note(plan, "misses the target, as float32 does at this size")
            return
        alone = SearchPlan(plan.dim, "flat", plan.precision, shortlist=K, final=plan.dim)
        if self._holds(alone):
            self._measure(alone)
        if plan.single:
            return
        if enough := self._fit_shortlist(plan):
            self._enough.append(_Enough(enough, self._measure(enough), self._trials.rerank_seconds(enough)))

    def _approximate(self, kinds: Sequence[Kind]) -> None:
        """Graph and cells for what could beat the best so far."""
        promising = sorted(self._enough, key=lambda one: one.seconds)
        for kind, enough in itertools.product(sorted(kinds, reverse=True), promising):  # cells take seconds to build
            plan = replace(enough.plan, kind=kind)
            if misfit(plan) or self._too_large(plan):
                continue
            if reason := self._hopeless(enough) or self._late():
                self._note(plan, reason)
                continue
            graph = kind == "hnsw"
            highest = self._abilities.effort if graph else cells(self._rows, plan.precision)
            self._fit_effort(plan, steps_up_to(highest, K if graph else 1))

    def _refine(self) -> None:
        """More candidates, and funnels, for the comparisons with all rows that are not far from the best."""
        best = self._best()
        for enough in self._enough:
            if enough.seconds <= _NEAR * best:
                for longer in self._longer(enough.plan.shortlist)[1:]:
                    self._measure(replace(enough.plan, shortlist=longer))
                self._funnel(enough.plan)

    def _indexes(self, kinds: Sequence[Kind], precisions: Sequence[Code]) -> Iterator[SearchPlan]:
        """A plan for each index to build in a database, the most promising first."""
        sizes = sorted({*self._sizes, self._width}, key=lambda dim: abs(np.log(3 * dim / self._width)))
        for kind, precision, dim in itertools.product(kinds, precisions, sizes):
            if precision != "binary" or dim * _BINARY_SHARE >= self._width:
                last = dim if dim == self._width and precision in ("float16", "float32") else None
                yield SearchPlan(dim, kind, precision, self._shortlists[-1], final=last, effort=self._abilities.effort)

    def _build(self, plan: SearchPlan) -> None:
        """Build the index of a plan, and find the shortest shortlist and the least effort that are good enough."""
        if reason := self._late():
            self._note(plan, reason)
            return
        try:
            self._trials.use(plan)
        except ValueError as error:
            self._note(plan, f"not for this store: {error}")
            return
        enough = replace(plan, shortlist=K) if plan.single else self._fit_shortlist(plan)
        if enough is None:
            return
        if plan.kind != "flat":
            self._fit_effort(enough, steps_up_to(self._abilities.effort))
        elif self._holds(enough):
            for longer in self._longer(enough.shortlist)[: 1 if plan.single else 3]:
                self._measure(replace(enough, shortlist=longer))

    def _late(self) -> str:
        return "not tried: out of time (--minutes)" if time.monotonic() > self._until else ""

    def _hopeless(self, enough: _Enough) -> str:
        """Why graph and cells need not be tried for a prefix."""
        if enough.rerank_seconds >= self._best():
            return f"cannot win: its rerank alone takes {1000 * enough.rerank_seconds:.2f} ms"
        smaller = replace(enough.plan, precision="int8")
        if enough.plan.precision in ("float32", "float16") and any(one.plan == smaller for one in self._enough):
            return "int8 needs as few candidates and less memory"
        return ""

    def _too_large(self, plan: SearchPlan) -> bool:
        """Whether the codes alone, and for a graph its edges, go beyond the memory that is allowed; notes it."""
        each = plan.code_bytes() + (8 * plan.neighbours if plan.kind == "hnsw" else 0)
        if self._max_ram is None or each * self._rows <= self._max_ram:
            return False
        self._note(plan, f"needs {each * self._rows / 2**20:,.1f} MB at least, more than allowed")
        return True

    def choose(self) -> tuple[Trial, bool, int]:
        """The fastest that holds on both halves; of those about as fast the smallest in memory, then the best kept.

        Returns the trial, whether it holds on the second half, and how many were refused for not doing so.
        """
        left = [trial for trial in self.tried if trial.retention and trial.retention[0] >= self._keep - _ROUNDING]
        if self._max_ram is not None:
            left = [trial for trial in left if (trial.ram or 0) <= self._max_ram]
        if not left:
            limit = f" with {self._max_ram:,} bytes for the shortlist" if self._max_ram is not None else ""
            more = " or raise --max-ram" * (self._max_ram is not None)
            raise ValueError(f"no plan keeps {target(self._keep)} of the exact score{limit}: lower --keep{more}")
        order: list[Trial] = []
        while left:
            fastest = min(seconds(trial) for trial in left)
            near = [trial for trial in left if seconds(trial) <= _AS_FAST * fastest]
            order.append(min(near, key=lambda trial: (trial.ram or 0, -min(trial.retention or (0,)), seconds(trial))))
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
        kept = self._trials.retention(longest)
        self._note(longest, f"misses the target with {longest.shortlist:,} candidates: keeps {percent(kept)}")
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
            least = max(least, shortlist) if graph else least  # the walk keeps at least these in view
            spent = self._measure(replace(longer, effort=least))
            measured += 1
            if spent > _NEAR * self._best():
                return
            more = [min(int(factor * least), max(least, efforts[-1])) for factor in _MORE_EFFORT]
            for effort in sorted(set(more) - {least}):
                self._measure(replace(longer, effort=effort))
            self._funnel(replace(longer, effort=more[0]))
        if not measured:
            last = replace(longer, effort=efforts[-1])
            self._note(last, f"misses the target: keeps {percent(self._trials.retention(last))}")

    def _funnel(self, plan: SearchPlan) -> None:
        """The same with sizes between, where there are candidates enough to thin out."""
        between = [dim for dim in self._sizes if plan.dim < dim < self._width]
        if plan.shortlist < _WORTH_A_FUNNEL or not between:
            return
        options: dict[str, Any] = {"kind": plan.kind, "precision": plan.precision, "effort": plan.effort}
        funnel = partial(SearchPlan.funnel, [plan.dim, *between, self._width], **options)

        try:
            shortlist = smallest(self._longer(plan.shortlist), lambda level: self._holds(funnel(shortlist=level)))
        except ValueError as error:  # sizes between that the store does not hold
            self._note(plan, f"no funnel on this store: {error}")
            return
        if shortlist is not None:
            self._measure(funnel(shortlist=shortlist))

    def _longer(self, shortlist: int) -> list[int]:
        """That many candidates, twice and four times as many: what just holds on one half may fail on the other."""
        first = self._shortlists.index(shortlist)
        return self._shortlists[first : first + 5 : 2]

    def _holds(self, plan: SearchPlan) -> bool:
        return self._trials.retention(plan) >= self._keep - _ROUNDING

    def _measure(self, plan: SearchPlan) -> float:
        """Note what the plan gives; returns its seconds per query."""
        trial = self._trials.measure(plan)
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
