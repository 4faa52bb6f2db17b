"""FAISS's quantisers and two stages, against searches of FAISS's own indexes and plain numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from mrl_text.codes import Codec
from mrl_text.eval import sweep
from mrl_text.eval import tasks as eval_tasks
from mrl_text.eval.encoders import RESULTS, SAMPLE, Corpus, Reduction
from mrl_text.eval.grid import Cell, Line, Variant
from mrl_text.eval.items import query_scores, read_items
from mrl_text.eval.quantisers import Quantiser
from mrl_text.eval.results import Results, items_file
from mrl_text.truncation import truncate
from tests.eval.task_types import TASKS, search_data

SEARCH = "Search_ndcg_at_10"


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def vectors(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors that are not centred at zero, as those of models are not."""
    return unit(np.random.default_rng(seed).normal(size=(count, dim)) + 0.7)


def index_of(word: str, documents: np.ndarray, sample: np.ndarray | None = None) -> Any:
    """As anybody makes it, with queries that are not quantised."""
    index = faiss.index_factory(documents.shape[1], word, faiss.METRIC_INNER_PRODUCT)
    if word.startswith("RaBitQ"):
        index.qb = 0
    else:
        index.do_polysemous_training = False  # centroids are the same
    index.train(documents if sample is None else sample)
    index.add(documents)
    return index


def scores_of(index: Any, queries: np.ndarray) -> np.ndarray:
    """Scores of every document, in its order."""
    values, rows = index.search(queries, index.ntotal)
    found = np.empty_like(values)
    np.put_along_axis(found, rows, values, axis=1)
    return found


@pytest.mark.parametrize(
    ("word", "dim"),
    [("PQ4", 32), *((f"RaBitQ{bits}", dim) for bits in ("", 2, 4, 7, 8) for dim in (20, 64))],
)
def test_what_a_code_stands_for_scores_as_a_search_of_the_index(word: str, dim: int) -> None:
    documents, queries = vectors(300, dim, 1), vectors(9, dim, 2)
    reduction = Reduction(
        Variant(Line("model", "1", "control", "pq" if word.startswith("PQ") else "rabitq"), Cell(dim, word)),
        True,
        lambda: Corpus(lambda: iter([documents[:100], documents[100:]])),
    )
    found = reduction(queries, "query") @ reduction(documents, "document").T
    index = index_of(word, truncate(documents))  # the same numbers: on the edge of a level the last digit decides
    np.testing.assert_allclose(found, scores_of(index, queries), atol=2e-6)
    assert Cell(dim, word).bytes == index.sa_code_size()
    off = np.abs(found - queries @ documents.T).mean()
    assert 0 < off < 0.15
    alone = reduction(documents)  # of a task without queries: as many numbers as there are
    assert alone.shape == documents.shape
    np.testing.assert_array_equal(alone, reduction(documents, "document")[:, :dim])


@pytest.mark.parametrize("count", [1, 40])
def test_of_fewer_vectors_than_centroids_each_is_a_centroid(count: int) -> None:
    documents = vectors(count, 16, 3)
    np.testing.assert_allclose(Quantiser("PQ4", documents).decode(documents), documents, atol=1e-6)


def test_a_large_corpus_is_fitted_on_a_sample_of_which_each_text_is_equally_likely() -> None:
    blocks = [np.full((30_000, 1), number, np.float32) for number in range(4)]
    sample = Corpus(lambda: iter(blocks))._sample()[:, 0]
    assert len(sample) == SAMPLE
    assert (np.diff(sample) >= 0).all()
    np.testing.assert_allclose(np.bincount(sample.astype(int)) / SAMPLE, 0.25, atol=0.01)


@pytest.fixture(scope="module")
def searched(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A search task and one without queries, on the grid in two stages, beside FAISS's quantisers."""
    names = [SEARCH, "Pairs"]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(eval_tasks.OWN_TASKS, name, TASKS[name])
        return sweep(
            [str(tiny_bert)],
            names,
            output=tmp_path_factory.mktemp("searched"),
            dims=[16],
            precisions=["float32", "int2", "binary"],
            comparisons=["asymmetric", "symmetric"],
            rescore=1,
            controls=["pq", "rabitq"],
            batch_size=1,
        )


@pytest.mark.slow
def test_a_corpus_in_parts_is_searched_like_one_in_one(
    tiny_bert: Path, tmp_path: Path, searched: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(eval_tasks.OWN_TASKS, SEARCH, TASKS[SEARCH])
    monkeypatch.setattr("mrl_text.eval.encoders.BLOCK", 7)
    plain: Any = {"dims": [16], "precisions": ["float32", "int2"], "controls": [], "batch_size": 1}
    parts = sweep([str(tiny_bert)], [SEARCH], output=tmp_path, **plain)
    (line,) = parts.lines
    for cell in parts.cells(line):
        assert items_of(parts, Variant(line, cell)) == items_of(searched, Variant(line, cell)), cell


@pytest.fixture(scope="module")
def texts(tiny_bert: Path) -> tuple[np.ndarray, np.ndarray]:
    """Full vectors of the documents and queries of the search task, one text at a time."""
    parts = search_data()["default"]["test"]
    model = SentenceTransformer(str(tiny_bert))
    titled = zip(parts["corpus"]["title"], parts["corpus"]["text"], strict=True)
    sides = [f"{title} {text}" for title, text in titled], parts["queries"]["text"][:]
    documents, queries = (unit(model.encode(side, batch_size=1)) for side in sides)
    return documents, queries


def ndcg(scores: np.ndarray) -> list[float]:
    """Of each query, for scores of all documents."""
    parts = search_data()["default"]["test"]
    names, queries = parts["corpus"]["id"][:], parts["queries"]["id"][:]
    rows = (dict(zip(names, map(float, row), strict=True)) for row in scores)
    ranking = dict(zip(queries, rows, strict=True))
    found = query_scores(parts["relevant_docs"], ranking, "ndcg", 10)
    return [found[query] for query in sorted(found)]


def items_of(results: Results, variant: Variant) -> list[float]:
    (items,) = read_items(items_file(results.folders[0], variant, SEARCH))
    return list(items.units.columns["value"])


@pytest.mark.slow
def test_quantisers_find_what_an_index_of_the_same_documents_finds(
    searched: Results, texts: tuple[np.ndarray, np.ndarray]
) -> None:
    documents, queries = texts
    lines = [line for line in searched.lines if line.role == "control"]
    assert [line.method for line in lines] == ["pq", "rabitq"]
    for line in lines:
        assert searched.full(line) == (searched.lines[0], Cell(32))
        for cell in searched.cells(line):
            cut = [unit(side[:, : cell.dim]) for side in (documents, queries)]
            enough = np.resize(cut[0], (256, cell.dim)) if line.method == "pq" else None  # FAISS asks for as many
            expected = ndcg(scores_of(index_of(cell.precision, cut[0], enough), cut[1]))
            assert items_of(searched, Variant(line, cell)) == pytest.approx(expected, abs=1e-6), cell
            assert searched.retention(line, cell) is not None  # and where there are no queries
    assert {cell.precision for cell in searched.cells(lines[0])} == {"PQ8", "PQ4", "PQ2"}


@pytest.mark.slow
def test_a_second_stage_puts_the_best_candidates_in_order_by_full_width(
    searched: Results, texts: tuple[np.ndarray, np.ndarray]
) -> None:
    documents, queries = texts
    (line, *_) = searched.lines
    whole = queries @ documents.T
    codec = Codec.fit(documents)
    first = {
        Cell(16, rescore=1): unit(queries[:, :16]) @ unit(documents[:, :16]).T,
        Cell(32, "int2", rescore=1): codec.scores(queries, codec.encode(documents, 32, "int2"), 32, "int2"),
    }
    for cell, scores in first.items():
        best = np.argsort(-scores, axis=1)[:, :RESULTS]
        again = np.full_like(whole, -9)
        np.put_along_axis(again, best, np.take_along_axis(whole, best, axis=1), axis=1)
        found = items_of(searched, Variant(line, cell))
        assert found == pytest.approx(ndcg(again), abs=1e-6), cell
        assert found != items_of(searched, Variant(line, Cell(cell.dim, cell.precision)))
    assert Cell(32, rescore=1) not in searched.cells(line)
    assert searched.estimate(line, Cell(16, "int2", "symmetric", 1), [SEARCH]) is not None
    assert searched.estimate(line, Cell(16, "int2", "symmetric", 1), ["Pairs"]) is None  # nothing is searched
