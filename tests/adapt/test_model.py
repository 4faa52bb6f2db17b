"""The adaptation inside a model, against the plain matrix product and plain sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from mrl_text import MatryoshkaEncoder
from mrl_text.adapt import Adaptation, apply

TEXTS = ["the cat sits on a mat", "a red car", "the woman plays the piano", "bread and water"]


@pytest.fixture
def adaptation() -> Adaptation:
    matrix = scipy.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0].astype(np.float32)
    return Adaptation(matrix, (8, 32), "rotation")


def encoder(folder: Path, *, normalise: bool) -> MatryoshkaEncoder:
    model = MatryoshkaEncoder(str(folder), device="cpu")
    if normalise:
        model.append(Normalize())
    return model


@pytest.mark.slow
@pytest.mark.parametrize("normalise", [True, False])
def test_the_model_gives_the_rotated_vectors(
    tiny_bert: Path, tmp_path: Path, adaptation: Adaptation, normalise: bool
) -> None:
    model = encoder(tiny_bert, normalise=normalise)
    before = model.encode(TEXTS)
    assert apply(model, adaptation) is model
    assert [type(module).__name__ for module in model][2:] == ["Dense", "Normalize"][: 1 + normalise]
    assert model.matryoshka_dims == (8, 32)
    for dim in (8, 32):
        np.testing.assert_allclose(model.encode(TEXTS, dim=dim), adaptation.transform(before, dim), atol=1e-5)
    after = model.encode(TEXTS)
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu", truncate_dim=8)
    np.testing.assert_allclose(
        plain.encode(TEXTS, normalize_embeddings=True), adaptation.transform(before, 8), atol=1e-5
    )
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["matryoshka_dimensions"] == [8, 32] and config["is_matryoshka"]
    assert not next(module for module in plain if type(module).__name__ == "Dense").bias


def test_adapting_twice_multiplies(tiny_bert: Path, adaptation: Adaptation) -> None:
    model = encoder(tiny_bert, normalise=True)
    before = model.encode(TEXTS)
    apply(apply(model, adaptation), Adaptation(adaptation.matrix, (4,), "rotation"))
    expected = before @ adaptation.matrix @ adaptation.matrix
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    assert model.matryoshka_dims == (4,)


def test_a_model_in_bfloat16_stays_one(tiny_bert: Path, adaptation: Adaptation) -> None:
    model = encoder(tiny_bert, normalise=True).bfloat16()
    before = model.encode(TEXTS)
    apply(model, adaptation)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    np.testing.assert_allclose(model.encode(TEXTS, dim=8), adaptation.transform(before, 8), atol=0.05)


def test_a_cut_saved_with_the_base_is_dropped(tiny_bert: Path, adaptation: Adaptation) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu", truncate_dim=16)
    assert apply(model, adaptation).encode(TEXTS).shape == (4, 32)


def test_another_width_is_refused(tiny_bert: Path) -> None:
    model = encoder(tiny_bert, normalise=True)
    with pytest.raises(ValueError, match="16 numbers, the model's have 32"):
        apply(model, Adaptation(np.eye(16, dtype=np.float32), (8,), "rotation"))
    assert len(model) == 3
