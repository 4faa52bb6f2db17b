"""The cheapest way to search a store that keeps the quality of its exact full-width search."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mrl_text.search.hits import Found
from mrl_text.search.plan import CODES, KINDS, Code, Kind, SearchPlan
from mrl_text.search.sample_queries import Judged, K, Metric
from mrl_text.search.store import Store
from mrl_text.search.timing import threads as limited_threads
from mrl_text.search.trials import PlanTrials, Trial, steps_up_to
from mrl_text.search.tried import Tried, Tuning, check_task, single
from mrl_text.suggest import did_you_mean
from mrl_text.truncation import check_dims

_PRECISIONS: tuple[Code, ...] = ("float16", "binary")
_LONGEST = 1000  # candidates and effort; the most that pgvector's hnsw.ef_search allows
_SMALL_CORPUS = 10_000  # rows; below, comparing with all prefixes is tried too
_BINARY_SHARE = 2  # one bit a number finds too little below this part of the width


def tune(
    store: Store,
    queries: np.ndarray,
    judged: Judged,
    *,
    keep: float = 0.99,
    metric: str | None = None,
    threads: int = 1,
    dims: Sequence[int] | None = None,
    kinds: Sequence[Kind] | None = None,
    precisions: Sequence[Code] = _PRECISIONS,
    minutes: float = 20,
    seed: int = 0,
    progress: bool = False,
) -> Tuning:
    """Find the plan with the least time per query that keeps the target, and keep it with the store.

    A plan is chosen on one half of the queries and confirmed on the other. For each size the index of the store is
    built anew, the sizes near a third of the width first; then the shortest shortlist and the least effort that are
    good enough are found, some more of both is tried, and a funnel. A graph over full vectors without rerank is among
    what is tried. Meanwhile the store searches by what is being tried: tune a store in use in a quiet hour, or a copy.

    Args:
        store: its plan is replaced; what it had is set again if nothing is chosen.
        queries: float32 (n, width), encoded at full width.
        judged: the same queries, with judgements or without.
        keep: share of the score of exact full-width search to keep.
        metric: ``ndcg@10`` needs judgements; ``recall@10`` is the share of the exact ten results found. None takes
            nDCG where there are judgements.
        threads: of this process, for stores that compute in it. A server uses what it is set to.
        dims: prefixes to try; None takes those of the store.
        kinds: ``hnsw``, ``flat``; None is ``hnsw``, and ``flat`` as well below 10,000 rows.
        precisions: of what the prefix is compared in; ``binary`` only for at least half of the width.
        minutes: no index is begun to be built after that.
        seed: of the halves.
        progress: show a progress bar on stderr.

    Returns:
        What was tried and what was chosen. ``ram`` of a trial is the size of the index where the store tells.

    Raises:
        ValueError: an impossible option, too few queries, an empty store, queries whose relevant documents exact
            search does not find, or no plan that keeps the target.
        StoreUnavailableError: no answer.
    """
    checked_metric, halves = check_task(queries, judged, keep, metric, seed)
    for name, given, known in (("kind", kinds or (), KINDS), ("precision", precisions, CODES)):
        if unknown := [one for one in given if one not in known]:
            raise ValueError(f"{name} {unknown[0]!r} is unknown{did_you_mean(unknown[0], known)}")
    sizes = check_dims(dims or store.dims, store.width)
    rows, before = store.count(), store.plan
    if not rows:
        raise ValueError("the store is empty: fill it with mrl-text index push before tuning")
    trials = StoreTrials(store, queries, judged, checked_metric, halves)
    search = _Search(trials, keep, sizes, store.width, min(rows, _LONGEST), progress=progress)
    chosen_kinds = kinds or (("hnsw", "flat") if rows < _SMALL_CORPUS else ("hnsw",))
    try:
        with limited_threads(threads), contextlib.closing(search.bar):
            exact = search.note_exact()
            search.run(chosen_kinds, precisions, 60 * minutes)
        chosen, confirmed, refused = search.choose()
        store.set_plan(chosen.plan)
        store.flush()
    except BaseException:
        if store.plan != before:
            store.set_plan(before)
        raise
    return Tuning(
        chosen=chosen,
        confirmed=confirmed,
        trials=search.tried,
        metric=checked_metric,
        keep=keep,
        scores=trials.scores,
        queries=(len(halves[0]), len(halves[1])),
        threads=threads,
        documents=rows,
        refused=refused,
        exact=exact,
    )


class StoreTrials(PlanTrials):
    """Tries plans on a store; its index is built anew only where a plan needs another."""

    def __init__(
        self,
        store: Store,
        queries: np.ndarray,
        judged: Judged,
        metric: Metric,
        halves: tuple[np.ndarray, np.ndarray],
    ) -> None:
        super().__init__(store, queries, judged, metric, halves)
        self._store = store

    def use(self, plan: SearchPlan) -> None:
        """Have the index that the plan needs."""
        current = self._store.plan
        if current is None or not current.shares_shortlist(plan):
            self._store.set_plan(plan)
            self._store.flush()

    def search(self, queries: np.ndarray, plan: SearchPlan) -> Found:
        """What the plan finds, whichever the store keeps."""
        return self._store.search(queries, K, plan=plan)

    def ram(self) -> int | None:
        """Bytes of the index that finds the shortlist, where the store tells."""
        sizes = getattr(self._store, "index_bytes", None)
        return sizes().get("shortlist", 0) if sizes else None


class _Search(Tried):
    """Size by size, as the index of each has to be built."""

    def note_exact(self) -> Trial:
        """Time of the store's exact search."""
        trial = self._plan_trials.measure_exact(single(self._width, "flat", "float32"))
        self._add(trial)
        return trial

    def run(self, kinds: Sequence[Kind], precisions: Sequence[Code], seconds: float) -> None:
        """Every plan that the engine can follow; no index is begun after so many seconds."""
        until = time.monotonic() + seconds
        for plan in self._plans(kinds, precisions):
            if time.monotonic() > until:
                self._note(plan, "not tried: out of time (--minutes)")
                continue
            try:
                self._plan_trials.use(plan)
            except ValueError as error:
                self._note(plan, f"not for this store: {error}")
                continue
            self._fit(plan)

    def _plans(self, kinds: Sequence[Kind], precisions: Sequence[Code]) -> Iterator[SearchPlan]:
        """One for each index to build, the most promising first."""
        sizes = sorted({*self._sizes, self._width}, key=lambda dim: abs(np.log(3 * dim / self._width)))
        for kind in kinds:
            for precision in precisions:
                for dim in sizes:
                    if precision == "binary" and dim * _BINARY_SHARE < self._width:
                        continue
                    alone = dim == self._width and precision in ("float16", "float32")
                    last = dim if alone else None
                    yield SearchPlan(dim, kind, precision, self._shortlists[-1], final=last, effort=_LONGEST)

    def _fit(self, plan: SearchPlan) -> None:
        """The shortest shortlist and the least effort that are good enough for one index."""
        enough = replace(plan, shortlist=K) if plan.single else self._fit_shortlist(plan)
        if enough is None:
            return
        if plan.kind != "flat":
            self._fit_effort(enough, steps_up_to(_LONGEST))
        elif self._holds(enough):
            for longer in self._longer(enough.shortlist)[: 1 if plan.single else 3]:
                self._measure(replace(enough, shortlist=longer))

    def _funnel(self, plan: SearchPlan) -> None:
        try:
            super()._funnel(plan)
        except ValueError as error:  # sizes between that the store does not hold
            self._note(plan, f"no funnel on this store: {error}")
