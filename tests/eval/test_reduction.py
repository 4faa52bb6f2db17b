"""Smaller vectors and fewer bits, against sentence-transformers, scikit-learn and arithmetic by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sentence_transformers import SentenceTransformer, quantize_embeddings
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from mrl_text import MatryoshkaEncoder
from mrl_text.eval import sweep
from mrl_text.eval import tasks as eval_tasks
from mrl_text.eval.encoders import CellEncoder, Corpus, Reduction, model_meta
from mrl_text.eval.grid import EVALUATED_PRECISIONS, RANDOM_SEEDS, Cell, Line, Method, Variant
from mrl_text.eval.items import read_facts
from mrl_text.eval.results import items_file
from mrl_text.eval.tasks import TaskLoader
from mrl_text.loading import cached
from mrl_text.models import find_model
from mrl_text.truncation import Precision, dequantize, quantize
from tests.coding import BITS, stood_for
from tests.conftest import WORDS
from tests.eval.task_types import TASKS, by_mteb

WIDTH = 32


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, task in TASKS.items():
        monkeypatch.setitem(eval_tasks.OWN_TASKS, name, task)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """Vectors with a mean, and with directions that differ in variance."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(count, WIDTH)) * np.geomspace(3, 0.1, WIDTH)
    rotation = np.linalg.qr(np.random.default_rng(99).normal(size=(WIDTH, WIDTH)))[0]
    return (mixed @ rotation + 0.3).astype(np.float32)


def corpus(*blocks: np.ndarray) -> Corpus:
    return Corpus(lambda: iter(blocks))


def no_corpus() -> Corpus:
    raise AssertionError("nothing is to be fitted here")


def variant(dim: int, precision: Precision = "float32", method: Method = "truncation", seed: int | None = None) -> Any:
    return Variant(Line("model", "1", method=method), Cell(dim, precision), seed)


def symmetric(dim: int, precision: Precision) -> Variant:
    return Variant(Line("model", "1"), Cell(dim, precision, "symmetric"))


def unit(cut: np.ndarray) -> np.ndarray:
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


@pytest.mark.parametrize("dim", [1, 8, 32])
def test_int8_codes_are_those_of_sentence_transformers_calibrated_on_the_corpus(dim: int) -> None:
    documents, queries = vectors(200, 1), vectors(50, 2)
    side = corpus(documents[:150], documents[150:])
    reduced = Reduction(symmetric(dim, "int8"), True, lambda: side)(queries, "query")
    calibration, cut = unit(documents[:, :dim]), unit(queries[:, :dim])
    codes = np.asarray(quantize_embeddings(cut, "int8", calibration_embeddings=calibration)).astype(np.float64)
    low, high = calibration.min(axis=0).astype(np.float64), calibration.max(axis=0).astype(np.float64)
    ranges = side.measured(symmetric(dim, "int8"))
    assert ranges is not None
    np.testing.assert_allclose(ranges, [low, high], atol=1e-6)
    recovered = (reduced - low) / ((high - low) / 255) - 128.5
    differing = np.abs(recovered - codes) > 1e-2  # a value on the edge of a bucket may go either way
    assert differing.mean() < 0.005
    assert np.abs(recovered - codes).max() < 1.01


def test_values_beyond_the_ranges_are_clipped() -> None:
    documents = np.tile(np.linspace(-1, 1, 256, dtype=np.float32)[:, None], WIDTH)
    queries = np.stack([np.full(WIDTH, value, np.float32) for value in (-7, -1.01, 0.5, 1.01, 7)])
    reduced = Reduction(symmetric(8, "int8"), False, lambda: corpus(documents))(queries)
    assert reduced.shape == (5, 8)
    np.testing.assert_array_equal(reduced[0], reduced[1])
    np.testing.assert_array_equal(reduced[3], reduced[4])
    np.testing.assert_allclose(reduced[0], -1, atol=1 / 255 + 1e-6)
    np.testing.assert_allclose(reduced[4], 1, atol=1 / 255 + 1e-6)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_rounding_moves_a_value_by_half_a_bucket_at_most(precision: Precision) -> None:
    documents = unit(vectors(300, 3))
    ranges = np.stack([documents.min(axis=0), documents.max(axis=0)])
    stored = quantize(documents, precision, ranges=ranges)
    half = (ranges[1] - ranges[0]) / 255 / 2
    moved = np.abs(dequantize(stored, precision, WIDTH, ranges=ranges) - documents)
    assert (moved <= half * 1.001 + 1e-7).all()
    assert (moved.max(axis=0) > 0.9 * half).all()
    reduced = Reduction(symmetric(WIDTH, "int8"), True, lambda: corpus(documents))(documents)
    np.testing.assert_allclose(reduced, documents, atol=float(half.max()) * 1.01)


def test_a_dimension_in_which_all_documents_agree_keeps_its_value() -> None:
    documents = vectors(20, 4)
    documents[:, 2] = 0.25
    reduced = Reduction(symmetric(4, "int8"), False, lambda: corpus(documents))(vectors(5, 5))
    np.testing.assert_array_equal(reduced[:, 2], np.float32(0.25))


@pytest.mark.parametrize("dim", [1, 8, 11, 32])
def test_the_dot_product_of_binary_vectors_counts_equal_bits(dim: int) -> None:
    some = vectors(60, 6)
    reduced = Reduction(symmetric(dim, "binary"), True, no_corpus)(some)
    np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), 1, atol=1e-6)
    bits = np.unpackbits(np.asarray(quantize_embeddings(some[:, :dim], "ubinary")), axis=1)
    hamming = (bits[:, None] != bits[None]).sum(axis=2)
    np.testing.assert_allclose(reduced @ reduced.T, 1 - 2 * hamming / dim, atol=1e-5)


@pytest.mark.parametrize("dim", [1, 8, 24, 32, 100, 384])
def test_binary_vectors_are_compared_by_whole_numbers(tiny_bert: Path, dim: int) -> None:
    bits = np.random.default_rng(dim).integers(0, 2, (80, dim), dtype=np.uint8)
    stored = dequantize(np.packbits(bits, axis=1), "ubinary", dim)
    expected = np.array([[dim - 2 * int((one != other).sum()) for other in bits] for one in bits]) / np.float32(dim)
    source, binary = find_model(str(tiny_bert)), symmetric(dim, "binary")
    encoder = CellEncoder(cached(source), binary, model_meta(source, binary), lambda subset: corpus())
    np.testing.assert_array_equal(np.asarray(encoder.similarity(stored, stored)), expected.astype(np.float32))
    paired = np.asarray(encoder.similarity_pairwise(stored, stored[::-1].copy()))
    np.testing.assert_array_equal(paired, np.diag(expected[:, ::-1]).astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dims"), [("Pairs", [7, 24]), ("ManySTS", [24]), ("Summaries", [24])])
def test_binary_scores_are_those_of_hamming_distances_and_ties_are_ties(
    tiny_bert: Path, tmp_path: Path, name: str, dims: list[int]
) -> None:
    result = sweep([str(tiny_bert)], [name], output=tmp_path, dims=dims, precisions=["binary"], controls=[])
    table = result.scores[result.scores["precision"] == "binary"]
    assert (table["n"] > 10).all()  # with intervals: the items make the score
    model = SentenceTransformer(str(tiny_bert), device="cpu")

    def agreement(left: list[str], right: list[str], dim: int) -> np.ndarray:
        """Bits that agree, of each left text with each right one."""
        bits = [np.stack([model.encode(text)[:dim] > 0 for text in side]) for side in (left, right)]
        return np.asarray((bits[0][:, None] == bits[1][None]).sum(axis=2))

    for row in table.itertuples():
        task = TASKS[name]()
        task.load_data()
        data = task.dataset.get(row.subset, task.dataset)[row.split]
        if name == "Summaries":
            each = [
                stats.spearmanr(
                    one["relevance"], agreement(one["machine_summaries"], one["human_summaries"], row.dim).max(1)
                )
                for one in data
                if len(set(one["relevance"])) > 1
            ]
            expected = np.mean([found.statistic for found in each])
        else:
            alike = np.diag(agreement(data["sentence1"][:], data["sentence2"][:], row.dim))
            if name == "Pairs":
                expected = average_precision_score(data["labels"][:], alike)
            else:
                expected = stats.spearmanr(data["score"][:], alike).statistic
        assert row.score == pytest.approx(expected, abs=1e-6), row


def decoded(documents: np.ndarray, queries: np.ndarray, dim: int, precision: str) -> np.ndarray:
    """By hand, in float64: levels fitted to each number of unit vectors."""
    scales = np.sqrt(np.mean(unit(documents.astype(np.float64)) ** 2, axis=0))
    return unit(stood_for(unit(queries.astype(np.float64)), scales, precision)[:, :dim])


@pytest.mark.parametrize("precision", BITS)
@pytest.mark.parametrize("dim", [1, 8, 32])
def test_codes_stand_for_levels_fitted_on_the_corpus(dim: int, precision: Precision) -> None:
    documents, some = vectors(200, 1), vectors(50, 2)
    side = corpus(documents[:150], documents[150:])
    reduced = Reduction(variant(dim, precision), True, lambda: side)(some)
    expected = decoded(documents, some, dim, precision)
    far = np.abs(reduced - expected).max(axis=1) > 1e-5  # a number on the edge of a level may go either way
    assert far.mean() < 0.05
    scales = side.measured(variant(dim, precision))
    assert scales is not None
    np.testing.assert_allclose(scales, np.sqrt(np.mean(unit(documents) ** 2, axis=0)), rtol=1e-5)


@pytest.mark.parametrize("precision", [*BITS, "binary", "float16"])
def test_queries_stay_floats_unless_they_are_compared_code_with_code(precision: Precision) -> None:
    some, side = vectors(20, 3), corpus(vectors(100, 4))
    plain = Reduction(variant(8, precision), True, lambda: side)(some, "query")
    np.testing.assert_array_equal(plain, Reduction(variant(8), True, no_corpus)(some))
    coded = Reduction(variant(8, precision), True, lambda: side)(some)
    assert not np.array_equal(plain, coded)
    if precision not in ("float16", "int8"):  # int8 is sentence-transformers' code there, with ranges
        both = Reduction(symmetric(8, precision), True, lambda: side)(some, "query")
        np.testing.assert_allclose(both, coded, atol=1e-6)


def test_a_vector_that_is_zero_has_no_code_and_stays_zero() -> None:
    some = vectors(5, 5)
    some[2] = 0
    for precision in ("int4", "binary"):
        reduced = Reduction(variant(8, precision), True, lambda: corpus(some))(some)
        np.testing.assert_array_equal(reduced[2], 0)
        np.testing.assert_allclose(np.linalg.norm(np.delete(reduced, 2, axis=0), axis=1), 1, atol=1e-6)
    nothing = Reduction(variant(8, "int4"), True, lambda: corpus(0 * some))(some)
    assert np.isfinite(nothing).all()


def test_float16_is_the_rounding_of_numpy() -> None:
    some = vectors(30, 7)
    reduced = Reduction(variant(16, "float16"), True, no_corpus)(some)
    np.testing.assert_allclose(reduced, unit(some[:, :16]).astype(np.float16).astype(np.float32), atol=2**-12)
    np.testing.assert_array_equal(reduced, reduced.astype(np.float16))
    assert reduced.dtype == np.float32


@pytest.mark.parametrize("precision", EVALUATED_PRECISIONS)
def test_no_texts_are_no_vectors(precision: Precision) -> None:
    assert Reduction(variant(8, precision), True, no_corpus)(np.zeros((0, WIDTH), np.float32)).shape == (0, 8)


@pytest.mark.parametrize("dim", [1, 5, 32])
@pytest.mark.parametrize("blocks", [1, 7])
def test_principal_components_are_those_of_scikit_learn_up_to_sign(dim: int, blocks: int) -> None:
    documents, queries = vectors(400, 8), vectors(40, 9)
    side = corpus(*np.array_split(documents, blocks))
    expected = PCA(n_components=dim, svd_solver="full").fit(documents).transform(queries)
    reduced = Reduction(variant(dim, method="pca"), False, lambda: side)(queries)
    signs = np.sign((reduced * expected).sum(axis=0))
    np.testing.assert_allclose(reduced * signs, expected, atol=2e-3)
    normalized = Reduction(variant(dim, method="pca"), True, lambda: side)(queries)
    np.testing.assert_allclose(normalized * signs, unit(expected), atol=2e-3)
    assert reduced.dtype == np.float32


def test_principal_components_are_fitted_on_other_texts_where_given() -> None:
    documents, others = vectors(100, 10), vectors(100, 11) * np.linspace(0.1, 4, WIDTH, dtype=np.float32)
    side = Corpus(lambda: iter([documents]), lambda: iter([others]))
    reduced = Reduction(variant(4, method="pca"), False, lambda: side)(documents)
    expected = PCA(n_components=4, svd_solver="full").fit(others).transform(documents)
    np.testing.assert_allclose(np.abs(reduced), np.abs(expected), atol=2e-3)


@pytest.mark.parametrize("count", [1, 2, 10])
def test_fewer_texts_than_dimensions_still_give_every_size(count: int) -> None:
    documents = vectors(count, 12)
    side = corpus(documents)
    full = Reduction(variant(WIDTH, method="pca"), False, lambda: side)(documents)
    centred = documents - documents.mean(axis=0)
    np.testing.assert_allclose(full @ full.T, centred @ centred.T, atol=1e-2)  # a rotation
    np.testing.assert_allclose(full[:, count - 1 :], 0, atol=1e-2)  # n texts span n - 1 directions
    others = vectors(20, 13)
    rotated = Reduction(variant(WIDTH, method="pca"), False, lambda: side)(others)
    moved = others - documents.mean(axis=0)
    np.testing.assert_allclose(rotated @ rotated.T, moved @ moved.T, atol=1e-2)
    for dim in (1, 8, WIDTH):
        reduced = Reduction(variant(dim, method="pca"), True, lambda: side)(others)
        assert reduced.shape == (20, dim)
        np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), 1, atol=1e-5)


def test_random_dimensions_are_fixed_by_their_seed_and_nested() -> None:
    some = vectors(25, 14)

    def chosen(dim: int, seed: int) -> np.ndarray:
        return Reduction(variant(dim, method="random", seed=seed), False, no_corpus)(some)

    for seed in RANDOM_SEEDS:
        np.testing.assert_array_equal(chosen(8, seed), chosen(8, seed))
        np.testing.assert_array_equal(chosen(16, seed)[:, :8], chosen(8, seed))
        columns = [int(np.flatnonzero((some == column[:, None]).all(axis=0))[0]) for column in chosen(WIDTH, seed).T]
        assert sorted(columns) == list(range(WIDTH))
    assert len({chosen(8, seed).tobytes() for seed in RANDOM_SEEDS}) == len(RANDOM_SEEDS)


def test_vectors_of_dot_product_models_keep_their_length() -> None:
    some = vectors(10, 15)
    plain = Reduction(variant(8), False, no_corpus)(some)
    np.testing.assert_array_equal(plain, some[:, :8])
    np.testing.assert_allclose(np.linalg.norm(Reduction(variant(8), True, no_corpus)(some), axis=1), 1, atol=1e-6)


def test_a_corpus_is_read_once_for_each_size() -> None:
    read: list[int] = []

    def blocks() -> Iterator[np.ndarray]:
        read.append(1)
        yield vectors(20, 16)

    side = Corpus(blocks)
    for dim in (8, 16, 8, 16):
        Reduction(symmetric(dim, "int8"), True, lambda: side)(vectors(3, 17))
    assert len(read) == 2
    for dim in (8, 16):
        Reduction(variant(dim, "int2"), True, lambda: side)(vectors(3, 17))  # one codec holds every size
    assert len(read) == 3
    assert side.measured(symmetric(32, "int8")) is None


def _texts_of(name: str) -> dict[str, list[str]]:
    """Subset -> what int8 is to be calibrated on, read from the data of the task."""
    data: Any = TaskLoader([name]).fresh(name).dataset
    if name == "Rerank":
        documents = data["default"]["test"]["corpus"]
        titled = zip(documents["title"], documents["text"], strict=True)
        return {"default": [f"{title} {text}" for title, text in titled]}
    if name == "ManySTS":
        return {
            subset: [text for rows in splits.values() for side in ("sentence1", "sentence2") for text in rows[side]]
            for subset, splits in data.items()
        }
    if name == "Clusters":
        return {"default": list(data["test"]["sentences"])}
    return {subset: list(splits["train"]["text"]) for subset, splits in data.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("Rerank", "50 documents of the task"),
        ("ManySTS", "160 texts of the task"),
        ("Clusters", "80 texts of the task"),
        ("Classes", "texts of the task"),
    ],
)
def test_the_side_that_an_index_would_hold_is_what_int8_is_calibrated_on(
    name: str, stated: str, tiny_bert: Path, tmp_path: Path
) -> None:
    kinds: Any = {"precisions": ["int8"], "comparisons": ["symmetric"], "controls": []}
    result = sweep([str(tiny_bert)], [name], output=tmp_path, dims=[8], **kinds)
    facts = read_facts(items_file(tmp_path, Variant(result.lines[0], Cell(8, "int8", "symmetric")), name))
    assert facts["calibration"].endswith(stated)
    ranges, texts = json.loads(facts["ranges"]), _texts_of(name)
    assert set(ranges) == set(texts)
    model = SentenceTransformer(str(tiny_bert), truncate_dim=8)
    for subset, some in texts.items():
        encoded = model.encode(some, normalize_embeddings=True)
        low, high = ranges[subset]
        if name == "Classes":  # a sample of the training texts, of which each experiment takes a few
            assert (np.array(low) >= encoded.min(axis=0) - 1e-5).all()
            assert (np.array(high) <= encoded.max(axis=0) + 1e-5).all()
            distances = [np.abs(encoded[:, dim, None] - [low[dim], high[dim]]).min(axis=0) for dim in range(8)]
            np.testing.assert_allclose(distances, 0, atol=1e-5)
        else:
            np.testing.assert_allclose([low, high], [encoded.min(axis=0), encoded.max(axis=0)], atol=1e-5)


@pytest.mark.slow
def test_a_dot_product_model_scores_as_in_plain_mteb_without_normalisation(tiny_bert: Path, tmp_path: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), similarity_fn_name="dot")
    model.save_pretrained(str(tmp_path / "dotted"))
    name, scores = "Search_ndcg_at_10", {}
    result = sweep(
        [str(tmp_path / "dotted")], [name], output=tmp_path / "out", dims=[8, 32], precisions=["float32"], controls=[]
    )
    for normalize in (False, True):
        for dim in (8, 32):
            plain = SentenceTransformer(str(tmp_path / "dotted"), truncate_dim=dim)
            assert plain.similarity_fn_name == "dot"
            scores[normalize, dim] = by_mteb(plain, TASKS[name](), normalize=normalize).get_score()
    assert result.curve(result.lines[0]) == pytest.approx({dim: scores[False, dim] for dim in (8, 32)}, abs=1e-4)
    assert scores[False, 8] != pytest.approx(scores[True, 8], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean", "manhattan"])
def test_a_folder_is_searched_by_the_measure_of_the_model(tiny_bert: Path, tmp_path: Path, measure: str) -> None:
    folder, data = tmp_path / "model", tmp_path / "beir"
    MatryoshkaEncoder(str(tiny_bert), similarity_fn_name=measure).save_pretrained(str(folder))
    corpus = [f"the {word} {WORDS[3 * at % len(WORDS)]}" for at, word in enumerate(WORDS)]
    queries = [f"{word} and a {WORDS[at]}" for at, word in enumerate(WORDS[:12])]
    (data / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", corpus), ("queries", queries)):
        rows = [json.dumps({"_id": f"{name[0]}{at}", "text": text}) for at, text in enumerate(texts)]
        (data / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    judged = "".join(f"q{at}\tc{at}\t1\n" for at in range(len(queries)))
    (data / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
    result = sweep(
        [str(folder)], data=[data], output=tmp_path / "out", dims=[8, 32], precisions=["float32"], controls=[]
    )
    encoder = SentenceTransformer(str(tiny_bert))
    for dim in (8, 32):
        asked, found = (
            encoder.encode(texts, normalize_embeddings=measure == "cosine", truncate_dim=dim).astype(np.float64)
            for texts in (queries, corpus)
        )
        if measure in ("cosine", "dot"):
            scores = asked @ found.T
        else:
            scores = -np.linalg.norm(asked[:, None] - found[None], ord=2 if measure == "euclidean" else 1, axis=2)
        ranks = [int((row > row[at]).sum()) for at, row in enumerate(scores)]
        expected = np.mean([1 / np.log2(rank + 2) if rank < 10 else 0 for rank in ranks])
        assert result.curve(result.lines[0])[dim] == pytest.approx(expected, abs=1e-4)
