"""The cheapest way to search an index that keeps the quality of exact full-width search."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mrl_text.files import write_atomically
from mrl_text.search.faiss.engine import cells
from mrl_text.search.faiss.index import AdaptiveIndex
from mrl_text.search.plan import CODES, KINDS, Code, Kind, SearchPlan, fits
from mrl_text.search.sample_queries import Judged, K
from mrl_text.search.timing import threads as limited_threads
from mrl_text.search.trials import Trials, steps_up_to
from mrl_text.search.tried import NEAR, Tried, Tuning, check_task, single
from mrl_text.suggest import did_you_mean
from mrl_text.truncation import check_dims

FILE = "tune.json"
"""Written into the folder of the index."""

_LONGEST_SHORTLIST = 5000
_HIGHEST_EFFORT = 1024
_SMALL_CORPUS = 10_000  # rows; below, comparing with all is fast, and a graph or cells have nothing to save


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
    checked_metric, halves = check_task(queries, judged, keep, metric, seed)
    for name, given, known in (("kind", kinds or (), KINDS), ("precision", precisions, CODES)):
        if unknown := [one for one in given if one not in known]:
            raise ValueError(f"{name} {unknown[0]!r} is unknown{did_you_mean(unknown[0], known)}")
    sizes = check_dims(dims or index.facts.get("dims") or [index.width], index.width)
    with limited_threads(threads):
        trials = Trials(index, queries, judged, checked_metric, halves)
        search = _Search(trials, keep, sizes, max_ram, progress)
        search.compare_with_all(precisions)
        search.approximate([kind for kind in kinds or _default_kinds(len(index)) if kind != "flat"], 60 * minutes)
        search.refine()
    search.bar.close()
    chosen, confirmed, refused = search.choose()
    full = single(index.width, "flat", "float32")
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


@dataclass(frozen=True)
class _Enough:
    """The shortest shortlist that is good enough where a prefix is compared with all rows."""

    plan: SearchPlan
    seconds: float
    rerank_seconds: float


class _Search(Tried):
    """Goes through plans, from what bounds the others to what those bounds leave open."""

    def __init__(self, trials: Trials, keep: float, sizes: Sequence[int], max_ram: int | None, progress: bool) -> None:
        longest = min(len(trials.index), _LONGEST_SHORTLIST)
        super().__init__(trials, keep, sizes, trials.index.width, longest, max_ram=max_ram, progress=progress)
        self._trials = trials
        self._index = trials.index
        self._enough: list[_Enough] = []

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
        alone = single(plan.dim, "flat", plan.precision)
        if self._holds(alone):
            self._measure(alone)
        if plan.dim == self._index.width:
            return
        if enough := self._fit_shortlist(plan):
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
                    rows = len(self._index)
                    graph = plan.kind == "hnsw"
                    highest = _HIGHEST_EFFORT if graph else cells(rows, plan.precision)
                    self._fit_effort(plan, steps_up_to(highest, K if graph else 1))

    def refine(self) -> None:
        """More candidates, and funnels, for the comparisons with all rows that are not far from the best."""
        best = self._best()
        for enough in self._enough:
            if enough.seconds <= NEAR * best:
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

    def _too_large(self, plan: SearchPlan) -> bool:
        """Whether the codes alone, and for a graph its edges, go beyond the memory that is allowed; notes it."""
        each = plan.code_bytes() + (8 * plan.neighbours if plan.kind == "hnsw" else 0)
        if self._max_ram is None or each * len(self._index) <= self._max_ram:
            return False
        self._note(plan, f"needs {each * len(self._index) / 2**20:,.1f} MB at least, more than allowed")
        return True
