"""The index against plain numpy: exact where it says exact, and after any sequence of changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mrl_text.choices import Code, Kind
from mrl_text.search import AdaptiveIndex, Hits, SearchPlan
from mrl_text.search.plan import cells

WIDTH = 32
PLANS = [
    SearchPlan(8),
    SearchPlan(8, precision="float16"),
    SearchPlan(8, precision="int8"),
    SearchPlan(8, precision="int4"),
    SearchPlan(8, precision="binary"),
    SearchPlan(8, precision="int2"),
    SearchPlan(8, precision="int1"),
    SearchPlan(8, precision="RaBitQ3"),
    SearchPlan(WIDTH, precision="RaBitQfs"),
    SearchPlan(8, precision="RaBitQfs4"),
    SearchPlan(8, "hnsw"),
    SearchPlan(8, "hnsw", "float16"),
    SearchPlan(8, "hnsw", "int8"),
    SearchPlan(8, "ivf"),
    SearchPlan(8, "ivf", "float16"),
    SearchPlan(8, "ivf", "int8"),
    SearchPlan(8, "ivf", "int4"),
    SearchPlan(8, "ivf", "binary"),
    SearchPlan(8, "ivf", "int2"),
    SearchPlan(8, "ivf", "RaBitQ2"),
    SearchPlan(8, "ivf", "RaBitQfs"),
    SearchPlan(8, "ivf", "RaBitQfs2"),
    SearchPlan(8, shortlist=2000, rerank=((16, 2000),)),
]


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """Vectors whose first numbers say most."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((count, WIDTH)) * np.exp(-np.arange(WIDTH) / 8)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"row {number}" for number in range(first, first + count)]


def stored(rows: np.ndarray, dim: int = WIDTH) -> np.ndarray:
    """What the index keeps: unit vectors in float16; here in float64, cut to ``dim`` and then made unit length."""
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    return unit if dim == WIDTH else unit[:, :dim] / np.linalg.norm(unit[:, :dim], axis=1, keepdims=True)


def cosines(queries: np.ndarray, rows: np.ndarray, dim: int = WIDTH) -> np.ndarray:
    """Reference: float64 cosines of the cut vectors."""
    cut = queries.astype(np.float64)[:, :dim]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True) @ stored(rows, dim).T


def assert_best(hits: Hits, similarity: np.ndarray, k: int, tolerance: float = 1e-6) -> None:
    """The scores are those of the k best rows, and each row has the score that is given for it (ties may swap)."""
    best = -np.sort(-similarity, axis=1)[:, :k]
    found = hits.positions[:, : best.shape[1]]
    np.testing.assert_allclose(hits.scores[:, : best.shape[1]], best, atol=tolerance)
    np.testing.assert_allclose(np.take_along_axis(similarity, found, 1), best, atol=tolerance)
    assert all(len(set(row)) == len(row) for row in found.tolist())


@pytest.fixture
def index() -> Iterator[AdaptiveIndex]:
    with AdaptiveIndex.create(width=WIDTH, plan=SearchPlan(8, shortlist=50)) as made:
        made.add(names(500), vectors(500), [f"text {number}" for number in range(500)])
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.label)
def test_with_a_shortlist_of_all_rows_the_result_is_exact(plan: SearchPlan) -> None:
    rows, queries = vectors(700), vectors(40, seed=1)
    everything = SearchPlan.from_json({**plan.to_json(), "shortlist": 2000, "effort": 10**4})
    with AdaptiveIndex.create(width=WIDTH, plan=everything) as made:
        made.add(names(700), rows)
        assert_best(made.search(queries, 10), cosines(queries, rows), 10)


def test_exact_equals_numpy_at_every_size(index: AdaptiveIndex) -> None:
    rows, queries = vectors(500), vectors(30, seed=2)
    for dim in (1, 8, 20, WIDTH):
        assert_best(index.exact(queries, 7, dim=dim), cosines(queries, rows, dim), 7)


def test_a_single_shot_orders_by_the_prefix() -> None:
    rows, queries = vectors(400), vectors(30, seed=3)
    with AdaptiveIndex.create(width=WIDTH, plan=SearchPlan(8, final=8)) as made:
        made.add(names(400), rows)
        assert_best(made.search(queries, 5), cosines(queries, rows, 8), 5)


def test_a_smaller_final_size_orders_by_it() -> None:
    rows, queries = vectors(400), vectors(30, seed=4)
    with AdaptiveIndex.create(width=WIDTH, plan=SearchPlan(8, shortlist=400, final=16)) as made:
        made.add(names(400), rows)
        assert_best(made.search(queries, 5), cosines(queries, rows, 16), 5, tolerance=5e-4)  # a float16 file of its own


def test_a_funnel_keeps_what_a_slow_one_keeps() -> None:
    rows, queries = vectors(600), vectors(25, seed=5)
    plan = SearchPlan(4, shortlist=60, rerank=((8, 30), (16, 12)))
    with AdaptiveIndex.create(width=WIDTH, plan=plan) as made:
        made.add(names(600), rows)
        hits = made.search(queries, 5)
    for number, query in enumerate(queries):
        left = np.arange(600)
        for dim, keep in ((4, 60), (8, 30), (16, 12), (WIDTH, 5)):
            left = left[np.argsort(-cosines(query[None], rows[left], dim)[0], kind="stable")[:keep]]
        assert hits.positions[number].tolist() == left.tolist()


def test_the_shortlist_decides_what_can_be_found(index: AdaptiveIndex) -> None:
    queries = vectors(20, seed=6)
    candidates = index.exact(queries, 50, dim=8).positions
    found = index.search(queries, 10).positions
    for few, many in zip(found, candidates, strict=True):
        assert set(few) <= set(many)


def test_another_shortlist_for_one_search(index: AdaptiveIndex) -> None:
    rows, queries = vectors(500), vectors(20, seed=7)
    hits = index.search(queries, 10, plan=SearchPlan(8, shortlist=500))
    assert_best(hits, cosines(queries, rows), 10)
    with pytest.raises(ValueError, match="set_plan"):
        index.search(queries, 10, plan=SearchPlan(16))
    with pytest.raises(ValueError, match="keeps no vectors of 16"):
        index.search(queries, 10, plan=SearchPlan(8, rerank=((16, 20),)))


@pytest.mark.parametrize("plan", [SearchPlan(8, shortlist=500), SearchPlan(8, "hnsw", shortlist=500), None])
def test_a_filter_returns_only_what_it_allows(plan: SearchPlan | None) -> None:
    rows, queries = vectors(500), vectors(20, seed=8)
    with AdaptiveIndex.create(width=WIDTH, plan=plan) as made:
        made.add(names(500), rows)
        for allowed in (np.arange(0, 500, 3), np.array([5, 77, 401])):  # many, and so few that each is compared
            hits = made.search(queries, 10, among=[*(f"row {number}" for number in allowed), "not there"])
            similarity = np.full((20, 500), -np.inf)
            similarity[:, allowed] = cosines(queries, rows[allowed])
            assert_best(hits, similarity, min(10, len(allowed)))
            assert (hits.positions[:, len(allowed) :] == -1).all()


def test_where_fewer_rows_are_there_the_rest_is_empty(index: AdaptiveIndex) -> None:
    hits = index.search(vectors(2), 3, among=["row 3"])
    assert hits.ids.tolist() == [["row 3", None, None]] * 2
    assert hits.positions.tolist() == [[3, -1, -1]] * 2
    assert np.isneginf(hits.scores[:, 1:]).all()


def test_an_empty_index_finds_nothing() -> None:
    for plan in (None, SearchPlan(8), SearchPlan(8, "ivf", "int8")):
        with AdaptiveIndex.create(width=WIDTH, plan=plan) as made:
            assert made.search(vectors(2), 3).ids.tolist() == [[None] * 3] * 2
            made.add([], np.zeros((0, WIDTH), np.float32))
            made.save()
            assert len(AdaptiveIndex.load(made.path)) == 0


def test_an_id_that_is_there_is_replaced(index: AdaptiveIndex) -> None:
    fresh = vectors(1, seed=9)
    index.add(["row 7"], fresh, ["new"])
    hits = index.search(fresh, 1)
    assert hits.ids.tolist() == [["row 7"]]
    assert index.texts(hits.positions[0]) == ["new"]
    assert len(index) == 500
    assert sorted(index.ids) == sorted(names(500))


def test_ids_are_any_strings() -> None:
    odd = ["", " ", "a\0b", "ключ", "鍵\n", "🗝️" * 300, "\ud800"[:0] + "x"]
    with AdaptiveIndex.create(width=WIDTH) as made:
        made.add(odd, vectors(len(odd)))
        made.save()
        loaded = AdaptiveIndex.load(made.path)
        assert loaded.search(vectors(len(odd)), 1).ids[:, 0].tolist() == odd
        assert all(one in loaded for one in odd)


def test_thousands_of_queries_at_once(index: AdaptiveIndex) -> None:
    queries = vectors(5000, seed=10)
    together = index.search(queries, 3)
    alone = np.concatenate([index.search(query, 3).positions for query in queries[:20]])
    assert together.positions.shape == (5000, 3)
    assert together.positions[:20].tolist() == alone.tolist()


def test_a_saved_index_gives_the_same_results(index: AdaptiveIndex, tmp_path: Path) -> None:
    queries = vectors(30, seed=11)
    index.remove(names(10))
    index.save()
    index.add(["late"], vectors(1, seed=12))
    index.save()
    before = index.search(queries)
    loaded = AdaptiveIndex.load(index.path, verify=True)
    after = loaded.search(queries)
    assert after.ids.tolist() == before.ids.tolist()
    assert after.scores.tolist() == before.scores.tolist()
    assert loaded.texts([20, 500]) == ["text 20", None]
    copy = AdaptiveIndex.load(index.save(tmp_path / "copy"), verify=True)
    assert copy.search(queries).ids.tolist() == before.ids.tolist()
    assert list(copy.ids) == list(index.ids) == [*names(490, 10), "late"]
    assert len(list(copy.path.glob("*.arrow"))) == 1


def test_a_new_plan_is_kept(index: AdaptiveIndex) -> None:
    rows, queries = vectors(500), vectors(20, seed=13)
    index.save()
    index.set_plan(SearchPlan(8, "hnsw", shortlist=500, rerank=((16, 400),)))
    index.save()
    loaded = AdaptiveIndex.load(index.path)
    assert loaded.plan == SearchPlan(8, "hnsw", shortlist=500, rerank=((16, 400),))
    assert_best(loaded.search(queries), cosines(queries, rows), 10)
    index.set_plan(SearchPlan(4))
    index.save()
    assert not list(index.path.glob("size-*.f16"))
    assert len(list(index.path.glob("shortlist-*.faiss"))) == 1


def test_a_size_that_was_left_and_comes_back_has_all_rows(index: AdaptiveIndex) -> None:
    funnel = SearchPlan(8, shortlist=600, rerank=((16, 600),))
    index.set_plan(funnel)
    index.save()
    index.set_plan(SearchPlan(8))
    index.add(names(50, 500), vectors(50, seed=14))
    index.set_plan(funnel)
    rows, queries = np.concatenate([vectors(500), vectors(50, seed=14)]), vectors(20, seed=15)
    assert_best(index.search(queries), cosines(queries, rows), 10)


def test_ranges_are_learned_anew_when_the_index_outgrew_them() -> None:
    rows = np.concatenate([vectors(20) * np.linspace(0.01, 1, WIDTH), vectors(600, seed=16)]).astype(np.float32)
    with AdaptiveIndex.create(width=WIDTH, plan=SearchPlan(16, precision="int8", shortlist=40)) as made:
        made.add(names(20), rows[:20])
        made.search(rows[:1])
        made.add(names(600, 20), rows[20:])
        with AdaptiveIndex.create(width=WIDTH, plan=made.plan) as fresh:
            fresh.add(names(620), rows)
            queries = vectors(50, seed=17)
            assert made.search(queries).positions.tolist() == fresh.search(queries).positions.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        SearchPlan(16, "ivf", effort=2),
        SearchPlan(16, "ivf", "int4", effort=2),
        SearchPlan(16, "ivf", "binary", effort=2),
        SearchPlan(16, "ivf", "int1", effort=2),
        SearchPlan(16, "ivf", "RaBitQfs2", effort=2),
        SearchPlan(16, "ivf", "int8", effort=2, final=16),
        SearchPlan(16, "hnsw", effort=10, shortlist=10),
        SearchPlan(16, "flat", "int4"),
    ],
    ids=lambda plan: plan.label,
)
@pytest.mark.parametrize("matching", [480, 1500])
def test_a_filter_finds_k_rows_and_the_right_ones(plan: SearchPlan, matching: int) -> None:
    rows, queries = vectors(8000), vectors(40, seed=21)
    mask = np.zeros(8000, dtype=bool)
    mask[np.random.default_rng(3).permutation(8000)[:matching]] = True
    dim = plan.last_dim(WIDTH)
    with AdaptiveIndex.create(width=WIDTH, plan=plan) as made:
        made.add(names(8000), rows)
        found = made.search(queries, 10, among=mask).positions
        allowed = np.flatnonzero(mask)
        best = allowed[np.argsort(-cosines(queries, rows[mask], dim), axis=1)[:, :10]]
        assert mask[found].all()
        shares = [len(set(one) & set(other)) / 10 for one, other in zip(found.tolist(), best.tolist(), strict=True)]
        assert np.mean(shares) > (0.99 if matching == 480 else 0.6)  # as good as the plan is without a filter
        many = made.search(queries, matching + 5, among=mask).positions
        assert (np.sort(many, axis=1)[:, 5:] == allowed).all()
        assert (many[:, matching:] == -1).all()


def test_cells_that_hold_too_few_rows_are_made_up_for() -> None:
    rows = vectors(2000)
    with AdaptiveIndex.create(width=WIDTH, plan=SearchPlan(16, "ivf", effort=1, shortlist=10)) as made:
        made.add(names(2000), rows)
        found = made.search(rows[:5], 300)
    assert (found.positions >= 0).all()
    best = -np.sort(-cosines(rows[:5], rows), axis=1)[:, :300]
    np.testing.assert_allclose(found.scores, best, atol=1e-3)


def test_memory_is_what_faiss_would_write(index: AdaptiveIndex) -> None:
    import faiss

    for plan in PLANS[:-1]:
        index.set_plan(plan)
        counted = sum(size for part, size in index.memory().items() if part in ("codes", "graph", "cells"))
        written = len(faiss.serialize_index(index._shortlist.index))
        filling = 16 * cells(500, plan.precision) * plan.code_bytes() if plan.in_cells else 0  # up to 32 rows a cell
        assert counted == pytest.approx(written, abs=3000 + filling), plan  # the rest is the same for any rows


@pytest.mark.parametrize("precision", ["int2", "int1", "RaBitQ2", "RaBitQfs", "RaBitQfs2"])
def test_few_bits_find_what_their_number_of_bits_can(precision: Code) -> None:
    """As many as levels by the book do (one bit: signs; two: Max 1960, table I), of vectors in all directions."""
    rows = np.random.default_rng(0).standard_normal((2000, WIDTH)).astype(np.float32)
    queries = np.random.default_rng(1).standard_normal((100, WIDTH)).astype(np.float32)
    best = np.argsort(-cosines(queries, rows), axis=1)[:, :10]

    def found(effort: int, kind: Kind = "ivf") -> float:
        made.set_plan(SearchPlan(WIDTH, kind, precision, shortlist=30, effort=effort))
        return share(made.search(queries, 10).positions)

    def share(hits: np.ndarray) -> float:
        return float(np.mean([np.isin(one, other).mean() for one, other in zip(best, hits, strict=True)]))

    numbers = stored(rows) * WIDTH**0.5
    two_bits = np.array([-1.51, -0.453, 0.453, 1.51])[np.digitize(numbers, [-0.982, 0, 0.982])]
    levels = np.sign(numbers) if precision in ("int1", "RaBitQfs") else two_bits
    by_the_book = share(np.argsort(-(queries @ levels.T), axis=1)[:, :30])
    with AdaptiveIndex.create(width=WIDTH) as made:
        made.add(names(2000), rows)
        everywhere = found(1, "flat")
        assert everywhere > by_the_book - 0.04
        assert found(1) < 0.5 * found(1000)  # the cells looked into are those that were asked for


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int4", "int2", "int1"])
def test_in_cells_as_many_bits_find_more(precision: Code) -> None:
    """Of vectors that lie in heaps: only what is left of each in its cell is coded."""
    random = np.random.default_rng(0)
    heaps = random.standard_normal((16, WIDTH))
    rows = (heaps[random.integers(0, 16, 3000)] + 0.3 * random.standard_normal((3000, WIDTH))).astype(np.float32)
    queries = rows[:100] + 0.1 * random.standard_normal((100, WIDTH)).astype(np.float32)
    best = np.argsort(-cosines(queries, rows), axis=1)[:, :10]
    shares = []
    with AdaptiveIndex.create(width=WIDTH) as made:
        made.add(names(3000), rows)
        for kind in ("flat", "ivf"):
            made.set_plan(SearchPlan(WIDTH, kind, precision, shortlist=15, effort=1000))
            hits = made.search(queries, 10).positions
            shares.append(np.mean([np.isin(one, other).mean() for one, other in zip(best, hits, strict=True)]))
    assert shares[1] > shares[0] + 0.05


def test_explain_names_every_step(index: AdaptiveIndex) -> None:
    index.set_plan(SearchPlan(4, shortlist=60, rerank=((8, 30),)))
    hits, costs = index.explain(vectors(1, seed=18)[0], 5)
    assert hits.ids.tolist() == index.search(vectors(1, seed=18), 5).ids.tolist()
    assert [(cost.dim, cost.candidates, cost.kept, cost.bytes_read) for cost in costs] == [
        (4, 500, 60, 0),
        (8, 60, 30, 60 * 8 * 2),
        (WIDTH, 30, 5, 30 * WIDTH * 2),
    ]
    assert all(cost.seconds >= 0 for cost in costs)


def bad_vectors() -> dict[str, tuple[np.ndarray, str]]:
    zero, nan = vectors(3), vectors(3)
    zero[1], nan[2, 0] = 0, np.nan
    return {
        "narrow": (vectors(3)[:, :16], "full vectors go in"),
        "whole numbers": (np.ones((3, WIDTH), dtype=np.int8), "float vectors"),
        "zero": (zero, "position 1 is zero"),
        "not finite": (nan, "position 2 is zero or not finite"),
    }


@pytest.mark.parametrize("case", bad_vectors())
def test_vectors_that_cannot_be_compared_are_refused(index: AdaptiveIndex, case: str) -> None:
    bad, message = bad_vectors()[case]
    with pytest.raises(ValueError, match=message):
        index.add(["a", "b", "c"], bad)
    with pytest.raises(ValueError, match=message.replace("embedding", "query")):
        index.search(bad)
    assert len(index) == 500


def test_other_bad_input_is_refused(index: AdaptiveIndex) -> None:
    with pytest.raises(ValueError, match="'a' comes twice"):
        index.add(["a", "b", "a"], vectors(3))
    with pytest.raises(ValueError, match="as many ids"):
        index.add(["a"], vectors(3))
    with pytest.raises(ValueError, match="as many texts"):
        index.add(["a", "b"], vectors(2), ["one"])
    with pytest.raises(TypeError, match="position 1 is int"):
        index.add(["a", 2], vectors(2))  # type: ignore[list-item]
    for k in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="k must be"):
            index.search(vectors(1), k)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="collection of ids"):
        index.search(vectors(1), among="row 3")
    with pytest.raises(TypeError, match="collection of ids"):
        index.remove("row 3")
    with pytest.raises(ValueError, match="from 1 to 32"):
        index.set_plan(SearchPlan(64))
    assert index.plan == SearchPlan(8, shortlist=50)


def test_hashes_that_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.search.faiss.stored_rows._hashes", lambda ids: np.zeros(len(ids), dtype=np.uint64))
    with AdaptiveIndex.create(width=WIDTH) as made:
        made.add(names(20), vectors(20))
        assert made.remove(["row 3", "row 19", "row 77"]) == 2
        assert "row 3" not in made
        assert "row 4" in made
        made.add(["row 3"], vectors(1))
        assert len(made) == 19


class Changes(RuleBasedStateMachine):
    """Any sequence of add, remove, save and new plans, against a dictionary of vectors."""

    @initialize(plan=st.sampled_from([None, *PLANS]))
    def create(self, plan: SearchPlan | None) -> None:
        self.index = AdaptiveIndex.create(width=WIDTH, plan=self.wide(plan))
        self.rows: dict[str, np.ndarray] = {}
        self.seed = 100

    @staticmethod
    def wide(plan: SearchPlan | None) -> SearchPlan | None:
        """With candidates enough to be exact."""
        return plan and SearchPlan.from_json({**plan.to_json(), "shortlist": 2000, "effort": 10**4})

    @rule(ids=st.lists(st.text(st.sampled_from("abé"), max_size=2), unique=True, max_size=12))
    def add(self, ids: list[str]) -> None:
        self.seed += 1
        new = vectors(len(ids), seed=self.seed)
        self.index.add(ids, new, [f"text of {id_}" for id_ in ids])
        self.rows |= dict(zip(ids, new, strict=True))

    @rule(ids=st.lists(st.text(st.sampled_from("abé"), max_size=2), max_size=6))
    def remove(self, ids: list[str]) -> None:
        there = {id_ for id_ in ids if id_ in self.rows}
        assert self.index.remove(ids) == len(there)
        for id_ in there:
            del self.rows[id_]

    @rule(plan=st.sampled_from([None, *PLANS]))
    def set_plan(self, plan: SearchPlan | None) -> None:
        self.index.set_plan(self.wide(plan))

    @rule(reload=st.booleans())
    def save(self, reload: bool) -> None:
        self.index.save()
        if reload:
            temporary = self.index._temporary
            self.index._folder.release()
            self.index = AdaptiveIndex.load(self.index.path, verify=True)
            self.index._temporary = temporary

    @rule(among=st.lists(st.text(st.sampled_from("abé"), max_size=2), max_size=8), k=st.integers(1, 20))
    def search(self, among: list[str], k: int) -> None:
        self.compare(k, {id_: row for id_, row in self.rows.items() if id_ in among}, among)

    @invariant()
    def finds_all(self) -> None:
        if hasattr(self, "index"):
            assert len(self.index) == len(self.rows)
            assert sorted(self.index.ids) == sorted(self.rows)
            self.compare(5, self.rows, None)

    def compare(self, k: int, rows: dict[str, np.ndarray], among: list[str] | None) -> None:
        queries = vectors(3, seed=1)
        hits = self.index.search(queries, k, among=among)
        ids = list(rows)
        wanted = min(k, len(ids))
        assert all(id_ is None for id_ in hits.ids[:, wanted:].ravel())
        if wanted:
            similarity = cosines(queries, np.stack(list(rows.values())))
            np.testing.assert_allclose(hits.scores[:, :wanted], -np.sort(-similarity)[:, :wanted], atol=1e-6)
            for row, found in enumerate(hits.ids[:, :wanted]):
                where = [ids.index(id_) for id_ in found]
                np.testing.assert_allclose(similarity[row, where], hits.scores[row, :wanted], atol=1e-6)
                assert self.index.texts(hits.positions[row, :wanted]) == [f"text of {id_}" for id_ in found]

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()


Changes.TestCase.settings = settings(
    max_examples=25, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)
TestChanges = Changes.TestCase
