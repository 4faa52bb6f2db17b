from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from mrl_text.search.plan import CODES, SearchPlan


def test_steps_hand_on_fewer_candidates_at_larger_sizes() -> None:
    plan = SearchPlan(32, shortlist=200, rerank=((64, 100), (128, 50)))
    assert plan.steps(384, 10) == [(64, 200), (128, 100), (384, 50)]
    assert plan.steps(384, 80) == [(64, 200), (128, 100), (384, 80)]  # no step hands on fewer than are wanted


def test_a_search_for_more_than_the_shortlist_asks_for_as_many() -> None:
    assert SearchPlan(32, shortlist=20).steps(384, 50) == [(384, 50)]


def test_a_prefix_alone_needs_no_steps() -> None:
    assert SearchPlan(64, final=64).steps(384, 10) == []
    assert SearchPlan(384).steps(384, 10) == []


def test_funnel_has_the_papers_shape() -> None:
    plan = SearchPlan.funnel([8, 16, 32, 64, 128, 256])
    assert (plan.dim, plan.shortlist, plan.final) == (8, 200, 256)
    assert plan.rerank == ((16, 100), (32, 50), (64, 25), (128, 12))


def test_json_gives_the_same_plan() -> None:
    plan = SearchPlan(32, "hnsw", "int8", 300, ((64, 100), (128, 20)), 256, 64, 24)
    assert SearchPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_graph_built_otherwise_is_another_shortlist() -> None:
    plan = SearchPlan(8, "hnsw", ef_construction=300)
    assert SearchPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert SearchPlan.from_json({"dim": 8, "kind": "hnsw"}).construction == 100  # as written before there was any
    assert SearchPlan(8, "hnsw", neighbours=64).construction == 128
    assert not plan.shares_shortlist(SearchPlan(8, "hnsw"))
    assert plan.shares_shortlist(SearchPlan(8, "hnsw", effort=300, shortlist=7, ef_construction=300))
    assert SearchPlan(8, "hnsw", ef_construction=100).shares_shortlist(SearchPlan(8, "hnsw"))
    assert SearchPlan(8, neighbours=8).shares_shortlist(SearchPlan(8))


def test_faiss_builds_a_graph_so() -> None:
    faiss_index = pytest.importorskip("mrl_text.search.faiss.index").AdaptiveIndex
    import faiss

    rows = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    for plan, wanted in (
        (SearchPlan(8, "hnsw"), (16, 100)),
        (SearchPlan(8, "hnsw", neighbours=5, ef_construction=7), (5, 7)),
    ):
        with faiss_index.create(width=16, plan=plan) as index:
            index.add([str(row) for row in range(300)], rows)
            index.save()
            loaded = faiss_index.load(index.path)
            graph = faiss.downcast_index(loaded._shortlist.index.index).hnsw
            assert (graph.nb_neighbors(1), graph.efConstruction) == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 0}, "dim must be at least 1"),
        ({"dim": 8, "kind": "hsnw"}, "did you mean 'hnsw'"),
        ({"dim": 8, "precision": "int88"}, "did you mean 'int8'"),
        ({"dim": 8, "kind": "hnsw", "neighbours": 1}, "neighbours"),
        ({"dim": 8, "kind": "hnsw", "ef_construction": 15}, r"from 16 \(the neighbours\) to 10,000, got 15"),
        ({"dim": 8, "kind": "hnsw", "neighbours": 2, "ef_construction": 3}, "from 4"),
        ({"dim": 8, "kind": "hnsw", "ef_construction": 10_001}, "to 10,000, got 10001"),
        ({"dim": 8, "kind": "hnsw", "ef_construction": 0}, "ef_construction must be"),
        ({"dim": 8, "kind": "ivf", "ef_construction": 100}, "ivf builds no graph"),
        ({"dim": 64, "rerank": ((32, 10),)}, "sizes must grow"),
        ({"dim": 64, "final": 32}, "sizes must grow"),
        ({"dim": 8, "shortlist": 10, "rerank": ((32, 20),)}, "must not grow"),
        ({"dim": 8, "rerank": ((32, 0),)}, "candidates"),
        ({"dim": 8, "shortlist": 0}, "shortlist"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchPlan(**values)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (SearchPlan(8, "hnsw", "binary"), "binary is for flat and ivf in FAISS"),
        (SearchPlan(8, "hnsw", "int4"), "int4 is for flat and ivf in FAISS"),
        (SearchPlan(8, "hnsw", "RaBitQfs4"), "RaBitQfs4 is for flat and ivf in FAISS"),
        (SearchPlan(8, precision="int1.5"), "int1.5 is for Qdrant"),
        (SearchPlan(7, precision="int2"), "codes 2 numbers together, and 7 is no multiple"),
        (SearchPlan(10, "ivf", "int1"), "codes 4 numbers together, and 10 is no multiple"),
    ],
)
def test_a_plan_of_another_engine_is_refused_by_faiss(plan: SearchPlan, message: str) -> None:
    assert SearchPlan.from_json(plan.to_json()) == plan
    faiss_index = pytest.importorskip("mrl_text.search.faiss.index").AdaptiveIndex
    with pytest.raises(ValueError, match=message):
        faiss_index.create(width=16, plan=plan)
    with faiss_index.create(width=16) as index, pytest.raises(ValueError, match=message):
        index.set_plan(plan)


def test_bytes_of_codes_are_those_of_faiss() -> None:
    shortlist = pytest.importorskip("mrl_text.search.faiss.shortlist")
    for dim, precision in itertools.product((4, 60, 64), CODES):
        if precision == "int1.5":
            continue
        plan = SearchPlan(dim, precision=precision)
        found = shortlist._prefix_index(plan, 1000)
        place = 8 if hasattr(found, "nlist") else 0
        size = found.code_size if hasattr(found, "code_size") else 4 * dim
        assert plan.code_bytes() == size + place, plan


def test_a_plan_must_fit_the_width() -> None:
    for plan in (SearchPlan(128), SearchPlan(8, rerank=((128, 10),)), SearchPlan(8, final=128)):
        with pytest.raises(ValueError, match="from 1 to 64"):
            plan.check(64)
    with pytest.raises(ValueError, match="full width"):
        SearchPlan(8, rerank=((64, 10),)).check(64)


def test_unknown_names_in_json_are_refused() -> None:
    with pytest.raises(ValueError, match="shortlist"):
        SearchPlan.from_json({"dim": 8, "shortlists": 5})


def test_a_funnel_needs_two_sizes() -> None:
    with pytest.raises(ValueError, match="two sizes"):
        SearchPlan.funnel([64])
