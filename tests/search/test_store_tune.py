"""Tuning of a store whose times are made up, so that what is right does not depend on the machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mrl_text.search import Store, Where
from mrl_text.search.hits import Found
from mrl_text.search.measure import PlanTrials, Timing, Trial
from mrl_text.search.plan import SearchPlan
from mrl_text.search.sample_queries import Judged
from mrl_text.search.tune import tune
from tests.search.memory_store import MemoryStore

WIDTH, ROWS, QUERIES = 32, 600, 60


def matryoshka_like(rows: int, seed: int) -> np.ndarray:
    """Vectors whose first numbers say most."""
    return (np.random.default_rng(seed).standard_normal((rows, WIDTH)) / np.arange(1, WIDTH + 1) ** 0.5).astype("f4")


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return matryoshka_like(ROWS, 0)[:QUERIES] + 0.2 * matryoshka_like(QUERIES, 1)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore(WIDTH, dims=(4, 8, 16, 32))
    made.add([f"d{row}" for row in range(ROWS)], matryoshka_like(ROWS, 0))
    assert isinstance(made, Store)
    return made


JUDGED = Judged([f"q{row}" for row in range(QUERIES)], ["text"] * QUERIES)


@pytest.fixture(autouse=True)
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time grows with the numbers compared by the walk and the candidates put in order."""

    def measured(self: PlanTrials, plan: SearchPlan, note: str = "") -> Trial:
        retention = self.retention(plan, 0), self.retention(plan, 1)
        first = plan.dim * (5000 + 20 * plan.effort if plan.kind == "hnsw" else 20 * ROWS)
        seconds = first + sum(dim * given for dim, given in plan.steps(WIDTH, 10))
        return Trial(plan, note, retention, Timing(seconds, seconds), self.store.ram())

    monkeypatch.setattr(PlanTrials, "measure", measured)


def kept(store: MemoryStore, plan: SearchPlan, queries: np.ndarray) -> float:
    """Share of the exact ten, without the code under test."""
    vectors = np.stack(list(store.vectors.values()))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = store.search(queries, 10, plan=plan).ids
    shares = []
    for row, query in enumerate(queries.astype(np.float64)):
        exact = {f"d{one}" for one in np.argsort(-(units @ query))[:10]}
        shares.append(len(exact & set(found[row])) / 10)
    return float(np.mean(shares))


@pytest.mark.slow
def test_the_cheapest_plan_that_holds_on_both_halves_is_kept(store: MemoryStore, queries: np.ndarray) -> None:
    found = tune(store, queries, JUDGED, keep=0.97, precisions=["float16"], kinds=["hnsw", "flat"])
    assert found.confirmed
    assert store.plan == found.chosen.plan
    assert kept(store, found.chosen.plan, queries) >= 0.97
    holding = [one for one in found.trials if one.retention and min(one.retention) >= 0.97]
    assert found.chosen.timing is not None
    assert found.chosen.timing.single <= 1.05 * min(one.timing.single for one in holding if one.timing)
    assert found.chosen.plan.dim < WIDTH
    measured = {(one.plan.dim, one.plan.kind) for one in found.trials if one.timing}
    assert (WIDTH, "hnsw") in measured  # the graph over full vectors is among what is compared
    assert (8, "flat") in measured
    assert found.exact is not None
    assert found.exact.timing is not None  # measured, whatever it is
    assert found.exact.retention is None  # and not chosen from
    assert all(one.plan.effort >= one.plan.shortlist for one in found.trials if one.timing and one.plan.kind == "hnsw")


@pytest.mark.slow
def test_an_index_is_built_once_for_each_size_kind_and_precision(store: MemoryStore, queries: np.ndarray) -> None:
    found = tune(
        store, queries, JUDGED, keep=0.9, precisions=["float16", "binary"], dims=[8, 16], kinds=["hnsw", "flat"]
    )
    built = [(plan.dim, plan.kind, plan.precision) for plan in store.built[:-1] if plan]
    assert len(set(built)) == len(built)
    assert (8, "hnsw", "float16") in built
    assert (16, "hnsw", "binary") in built
    assert (8, "hnsw", "binary") not in built  # too few bits
    assert store.built[-1] == found.chosen.plan


@pytest.mark.slow
def test_what_the_engine_cannot_follow_is_noted(store: MemoryStore, queries: np.ndarray) -> None:
    found = tune(store, queries, JUDGED, keep=0.9, precisions=["int8", "float16"], kinds=["hnsw"])
    notes = {one.plan.precision: one.note for one in found.trials if one.note.startswith("not for this store")}
    assert notes == {"int8": "not for this store: int8 is not for this engine: take float16"}
    assert found.chosen.plan.precision == "float16"


def test_a_prefix_that_misses_says_by_how_much(store: MemoryStore, queries: np.ndarray) -> None:
    found = tune(store, queries, JUDGED, keep=1, kinds=["hnsw"], precisions=["float16"], dims=[4], seed=1)
    # the imitated graph keeps 333 of 600 candidates in view at most: at 4 numbers that loses some of the ten
    assert all(one.retention is None or one.retention[0] <= 1 for one in found.trials)
    narrow = [one for one in found.trials if one.plan.dim == 4]
    assert narrow[0].note.startswith("misses the target with 600 candidates: keeps")
    assert found.chosen.plan.dim == WIDTH


def test_time_that_is_over_begins_no_index(store: MemoryStore, queries: np.ndarray) -> None:
    before = SearchPlan(8, shortlist=50)
    store.set_plan(before)
    with pytest.raises(ValueError, match="no plan"):
        tune_nothing(store, queries)
    assert store.plan == before


def test_a_small_table_is_compared_in_full(
    store: MemoryStore, queries: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        found = tune(store, queries, JUDGED)
    assert found.chosen.plan == SearchPlan(WIDTH, "flat", "float16", shortlist=10, final=WIDTH)
    assert "600 rows are compared in full as fast as anything: --kinds hnsw tries more" in caplog.text


def tune_nothing(store: MemoryStore, queries: np.ndarray) -> Any:
    """Exact search alone is no plan of a store."""
    return tune(store, queries, JUDGED, minutes=0)


def test_an_interrupted_tuning_leaves_the_plan_that_was_there(
    store: MemoryStore, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = SearchPlan(8, "hnsw", shortlist=50)
    store.set_plan(before)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PlanTrials, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(store, queries, JUDGED, keep=0.9)
    assert store.plan == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0}, "expected a share"),
        ({"metric": "ndcg@10"}, "needs judgements"),
        ({"kinds": ["hnws"]}, "did you mean 'hnsw'"),
        ({"precisions": ["int5"]}, "precision 'int5' is unknown"),
        ({"dims": [64]}, "64"),
        ({"max_ram": 1000}, "max_ram is for an index in a folder"),
    ],
)
def test_mistakes_are_named(store: MemoryStore, queries: np.ndarray, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tune(store, queries, JUDGED, **change)
    with pytest.raises(ValueError, match="4 queries at least"):
        tune(store, queries[:3], JUDGED)
    with pytest.raises(ValueError, match="the store is empty"):
        tune(MemoryStore(WIDTH), queries, JUDGED)


class LosingStore(MemoryStore):
    """Under conditions a short shortlist loses half of the results."""

    def search(
        self, queries: np.ndarray, k: int = 10, *, where: Where | None = None, plan: SearchPlan | None = None
    ) -> Found:
        found = super().search(queries, k, plan=plan)
        chosen = plan or self.plan
        if where and chosen is not None and chosen.shortlist < 150:
            found.ids[:, k // 2 :] = None
        return found


@pytest.mark.slow
def test_a_plan_has_to_hold_under_conditions_too(queries: np.ndarray) -> None:
    store = LosingStore(WIDTH, dims=(4, 8, 16, 32))
    store.add([f"d{row}" for row in range(ROWS)], matryoshka_like(ROWS, 0))
    options: dict[str, Any] = {"precisions": ["float16"], "kinds": ["hnsw", "flat"]}
    without = tune(store, queries, JUDGED, keep=0.95, **options)
    found = tune(store, queries, JUDGED, keep=0.95, **options, where={"lang": "de"})
    assert without.chosen.plan.shortlist < 150 <= found.chosen.plan.shortlist
    assert found.confirmed
    assert all(one.retention[0] <= 0.5 for one in found.trials if one.retention and one.plan.shortlist < 150)
