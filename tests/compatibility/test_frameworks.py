"""A saved model in LangChain and LlamaIndex, unchanged: the same vectors as from us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl_text import MatryoshkaEncoder

pytestmark = pytest.mark.slow

TEXTS = ["the cat sits on the mat", "a dog eats bread", "Größe 東京", "plays music " * 200]


@pytest.fixture(scope="module", params=["tiny", pytest.param("real", marks=pytest.mark.model)])
def saved(request: pytest.FixtureRequest, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = str(tiny_bert) if request.param == "tiny" else "sentence-transformers/all-MiniLM-L6-v2"
    folder = tmp_path_factory.mktemp("saved") / "model"
    MatryoshkaEncoder(source, matryoshka_dims=[8, 16, 32], device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="module")
def ours(saved: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(saved), device="cpu")


@pytest.mark.parametrize("dim", [None, 16])
def test_langchain(saved, ours, dim):
    embeddings = pytest.importorskip("langchain_huggingface").HuggingFaceEmbeddings(
        model_name=str(saved),
        model_kwargs={"device": "cpu", **({"truncate_dim": dim} if dim else {})},
        encode_kwargs={"normalize_embeddings": True},
    )
    expected = ours.encode(TEXTS, dim=dim)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), expected[0], atol=1e-5)


@pytest.mark.parametrize("dim", [None, 16])
def test_llama_index(saved, ours, dim):
    huggingface = pytest.importorskip("llama_index.embeddings.huggingface")
    options = {"truncate_dim": dim} if dim else {}
    embeddings = huggingface.HuggingFaceEmbedding(model_name=str(saved), device="cpu", normalize=True, **options)
    expected = ours.encode(TEXTS, dim=dim)
    np.testing.assert_allclose(embeddings.get_text_embedding_batch(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(embeddings.get_query_embedding(TEXTS[0]), expected[0], atol=1e-5)
