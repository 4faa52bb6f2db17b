"""sentence-transformers' own evaluators and utilities over our encoder: they say what they say of their own class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import evaluation
from sentence_transformers.util import mine_hard_negatives, paraphrase_mining, semantic_search

from mrl_text import MatryoshkaEncoder
from tests.conftest import WORDS

LEFT = [f"{word} {WORDS[3 * at % len(WORDS)]} {WORDS[at % 7]}" for at, word in enumerate(WORDS)]
RIGHT = [f"{word} {WORDS[7 * at % len(WORDS)]} {WORDS[at % 5]}" for at, word in enumerate(WORDS)]
SCORES = np.random.default_rng(0).uniform(0, 1, len(LEFT)).tolist()
CORPUS = {f"d{at}": text for at, text in enumerate(RIGHT)}
QUERIES = {f"q{at}": text for at, text in enumerate(LEFT[:9])}

Evaluate = Callable[[Any], Any]
EVALUATORS: dict[str, Evaluate] = {
    "similarity": lambda _: evaluation.EmbeddingSimilarityEvaluator(LEFT, RIGHT, SCORES),
    "similarity in int8": lambda _: evaluation.EmbeddingSimilarityEvaluator(LEFT, RIGHT, SCORES, precision="int8"),
    "similarity, binary": lambda _: evaluation.EmbeddingSimilarityEvaluator(LEFT, RIGHT, SCORES, precision="ubinary"),
    "similarity, cut": lambda _: evaluation.EmbeddingSimilarityEvaluator(LEFT, RIGHT, SCORES, truncate_dim=8),
    "pairs": lambda _: evaluation.BinaryClassificationEvaluator(LEFT, RIGHT, [round(score) for score in SCORES]),
    "triplets": lambda _: evaluation.TripletEvaluator(LEFT, RIGHT, RIGHT[::-1]),
    "search": lambda _: evaluation.InformationRetrievalEvaluator(
        QUERIES, CORPUS, {f"q{at}": {f"d{at}"} for at in range(9)}, write_predictions=False
    ),
    "reranking": lambda _: evaluation.RerankingEvaluator(
        [{"query": LEFT[at], "positive": [RIGHT[at]], "negative": RIGHT[at + 1 : at + 6]} for at in range(9)]
    ),
    "paraphrases": lambda _: evaluation.ParaphraseMiningEvaluator(CORPUS, [("d0", "d1"), ("d2", "d9"), ("d4", "d5")]),
    "translation": lambda _: evaluation.TranslationEvaluator(LEFT, RIGHT),
    "mse": lambda model: evaluation.MSEEvaluator(LEFT, RIGHT, teacher_model=model),
}


@pytest.fixture(scope="module")
def models(tiny_bert: Path) -> tuple[MatryoshkaEncoder, SentenceTransformer]:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu"), SentenceTransformer(str(tiny_bert), device="cpu")


@pytest.mark.parametrize("name", EVALUATORS)
def test_evaluators(models: tuple[MatryoshkaEncoder, SentenceTransformer], name: str, tmp_path: Path) -> None:
    ours, plain = models
    found, expected = (EVALUATORS[name](plain)(model, output_path=str(tmp_path)) for model in models)
    assert found.keys() == expected.keys() and found
    for key in expected:
        if not any(word in key for word in ("dot", "euclidean", "manhattan", "max_", "mse")):  # of unit vectors here
            assert found[key] == pytest.approx(expected[key], abs=2e-5), key
    assert ours.evaluate(EVALUATORS[name](plain)) == pytest.approx(found)


def test_utilities(models: tuple[MatryoshkaEncoder, SentenceTransformer]) -> None:
    answers = [
        [semantic_search(model.encode_query(LEFT), model.encode_document(RIGHT), top_k=3) for model in models],
        [paraphrase_mining(model, LEFT, top_k=3) for model in models],
        [
            mine_hard_negatives(
                Dataset.from_dict({"anchor": LEFT, "positive": RIGHT}), model, num_negatives=2, verbose=False
            ).to_list()
            for model in models
        ],
    ]
    for found, expected in answers:
        assert len(found) == len(expected) and found
        for one, other in zip(_flat(found), _flat(expected), strict=True):
            assert one == (pytest.approx(other, abs=1e-5) if isinstance(other, float) else other)


def _flat(answer: Any) -> list[Any]:
    if isinstance(answer, dict):
        return [leaf for key in sorted(answer) for leaf in _flat(answer[key])]
    return [leaf for part in answer for leaf in _flat(part)] if isinstance(answer, (list, tuple)) else [answer]


@pytest.mark.slow
def test_every_argument_of_the_parent_is_taken_at_every_value_it_takes(
    models: tuple[MatryoshkaEncoder, SentenceTransformer],
) -> None:
    ours, plain = models
    assert inspect.signature(SentenceTransformer.encode).parameters.keys() - {"pool", "chunk_size"} <= (
        inspect.signature(MatryoshkaEncoder.encode).parameters.keys()
    )
    values: dict[str, list[Any]] = {
        "prompt_name": [None, "query"],
        "prompt": [None, "", "the "],
        "batch_size": [1, 7],
        "show_progress_bar": [None, False],
        "output_value": ["sentence_embedding", "token_embeddings", None],
        "precision": [None, "float32", "int8", "uint8", "binary", "ubinary"],
        "convert_to_numpy": [True, False],
        "convert_to_tensor": [True, False],
        "device": [None, "cpu", torch.device("cpu")],
        "normalize_embeddings": [None, True, False],
        "truncate_dim": [None, 8],
        "pool": [None],
        "chunk_size": [None, 3],
    }
    for name, some in values.items():
        for value in some:
            options = {"normalize_embeddings": False, name: value}
            for encode in ("encode", "encode_query", "encode_document"):
                found, expected = (getattr(model, encode)(LEFT, **options) for model in (ours, plain))
                assert type(found) is type(expected), options
                if isinstance(expected, (np.ndarray, torch.Tensor)):
                    np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=str(options))


@pytest.mark.parametrize(
    "inputs",
    ["a cat", LEFT, tuple(LEFT), np.array(LEFT), [("a cat", "the dog")], [["a cat", "the dog"]], [{"text": "a cat"}]],
)
def test_what_the_parent_reads_is_read(models: tuple[MatryoshkaEncoder, SentenceTransformer], inputs: Any) -> None:
    ours, plain = models
    np.testing.assert_allclose(ours.encode(inputs), plain.encode(inputs, normalize_embeddings=True), atol=1e-6)


@pytest.mark.parametrize("encode", ["encode", "encode_query", "encode_document"])
def test_the_old_name_of_the_inputs_is_taken(
    models: tuple[MatryoshkaEncoder, SentenceTransformer], encode: str
) -> None:
    ours, plain = models
    found = getattr(ours, encode)(sentences=LEFT)
    np.testing.assert_allclose(found, getattr(plain, encode)(LEFT, normalize_embeddings=True), atol=1e-6)
