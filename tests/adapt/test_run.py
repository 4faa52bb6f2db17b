"""From files to an adapted model on disk, with a tiny encoder."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from mrl_text import MatryoshkaEncoder
from mrl_text.adapt import adapt, adapt_vectors, fit, load_adaptation, run
from mrl_text.adapt.judge import kept_by_bytes
from mrl_text.codes import saved_codec
from mrl_text.models import find_model

from ..conftest import WORDS

DIMS = [8, 16, 32]


def sentences(count: int) -> list[str]:
    generator = np.random.default_rng(0)
    return list(dict.fromkeys(" ".join(generator.choice(WORDS, size=6)) for _ in range(count)))


@pytest.fixture(scope="module")
def base(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    MatryoshkaEncoder(str(tiny_bert), device="cpu").save(str(folder))
    return folder


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mrl_text.dtypes.fastest_dtype", lambda device=None: "float32")
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(sentences(600)))
    return file


def steps(monkeypatch: pytest.MonkeyPatch, count: int = 20) -> None:
    monkeypatch.setattr(run, "fit", lambda *args, **options: fit(*args, **options, steps=count))


@pytest.mark.slow
def test_a_model_that_loads_anywhere(
    base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steps(monkeypatch)
    folder = adapt(str(base), [texts], tmp_path / "adapted", dims=DIMS, device="cpu")
    assert folder == tmp_path / "adapted"
    lines = texts.read_text().splitlines()
    plain = SentenceTransformer(str(base), device="cpu").encode(lines, normalize_embeddings=True)
    order = np.random.default_rng(0).permutation(len(lines))
    held_out = plain[order[: len(lines) // 10]]
    expected = fit(plain[np.sort(order[len(held_out) :])], dims=DIMS, steps=20)
    adapted = SentenceTransformer(str(folder), device="cpu", truncate_dim=8)
    np.testing.assert_allclose(
        adapted.encode(lines, normalize_embeddings=True), expected.transform(plain, 8), atol=1e-3
    )
    facts = json.loads((folder / "adaptation.json").read_text())
    assert facts["method"] == "rotation" and facts["dims"] == DIMS
    assert facts["texts"] + facts["held_out"] == len(lines) and facts["held_out"] == len(held_out)
    assert facts["queries"] == len(held_out) // 4
    codec = saved_codec(folder)
    assert codec is not None and expected.codec is not None
    np.testing.assert_allclose(codec.scales, expected.codec.scales, rtol=1e-2)
    smallest, kept = facts["kept"][0], kept_by_bytes(held_out, expected)[0]
    assert (smallest["bytes"], smallest["dim"], smallest["precision"]) == (1, 8, "binary")
    assert smallest["after"] == pytest.approx(kept["after"], abs=0.05)
    assert facts["files"] == ["texts.txt"] and "torch" in facts["versions"] and facts["seconds"] >= 0
    source = find_model(str(folder))
    assert source.matryoshka_dims == tuple(DIMS) and source.name == "local/adapted"
    assert find_model(source.base_model or "").revision == find_model(str(base)).revision
    card = (folder / "README.md").read_text()
    assert "## Adapted with mrl-text" in card and "8, 16, 32" in card and f"{facts['texts']} texts" in card
    assert f"| 1 | 8 x binary | {100 * smallest['before']:.2f} % | {100 * smallest['after']:.2f} % |" in card
    assert f"Of {len(held_out)} texts left out of the fit {facts['queries']} ask in float32" in card
    assert f"Few items ({facts['queries']} queries)" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapted", "cache", "texts.txt"]


@pytest.mark.slow
def test_another_method_encodes_nothing_and_replaces_the_first(
    base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(monkeypatch)
    output = tmp_path / "adapted"
    adapt(str(base), [texts], output, dims=DIMS, device="cpu")
    monkeypatch.setattr("mrl_text.embedding_cache.encode_windows", lambda *_, **__: pytest.fail("encoded again"))
    adapt(str(base), [texts], output, method="pca", dims=[8], device="cpu")
    assert json.loads((output / "adaptation.json").read_text())["method"] == "pca"
    assert find_model(str(output)).matryoshka_dims == (8,)


@pytest.mark.slow
def test_interrupted_while_fitting_keeps_the_vectors_and_the_old_output(
    base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "adapted"
    adapt(str(base), [texts], output, method="pca", dims=[8], device="cpu")
    before = (output / "adaptation.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(run, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            adapt(str(base), [texts], output, dims=DIMS, device="cpu")
    assert (output / "adaptation.json").read_bytes() == before
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(MatryoshkaEncoder, "save", interrupted)
        adapt(str(base), [texts], output, method="pca", dims=[8, 16], device="cpu")
    assert (output / "adaptation.json").read_bytes() == before
    SentenceTransformer(str(output), device="cpu")
    assert adapt(str(base), [texts], output, method="pca", dims=[8, 16], device="cpu") == output


@pytest.mark.slow
def test_linear_takes_pairs(base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(monkeypatch)
    lines = texts.read_text().splitlines()
    rows = [f"{first},{second}" for first, second in itertools.pairwise(lines)]
    (tmp_path / "pairs.csv").write_text("\n".join(["anchor,positive", *rows]))
    folder = adapt(
        str(base), [], tmp_path / "linear", method="linear", pairs=tmp_path / "pairs.csv", dims=DIMS, device="cpu"
    )
    plain = SentenceTransformer(str(base), device="cpu").encode(lines, normalize_embeddings=True)
    chain = np.stack([np.arange(len(lines) - 1), np.arange(1, len(lines))], axis=1)
    expected = fit(plain, method="linear", dims=DIMS, pairs=chain, steps=20)
    adapted = MatryoshkaEncoder(str(folder), device="cpu")
    np.testing.assert_allclose(adapted.encode(lines, dim=8), expected.transform(plain, 8), atol=1e-3)
    assert "differ from those of the base" in (folder / "README.md").read_text()


def test_more_texts_than_the_limit_are_sampled(
    base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_FEWEST", 20)
    folder = adapt(str(base), [texts], tmp_path / "out", method="pca", dims=[8], limit=50, device="cpu")
    assert json.loads((folder / "adaptation.json").read_text())["texts"] == 45


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rotated"}, "did you mean 'rotation'"),
        ({"method": "linear"}, "trained on pairs"),
        ({"pairs": "pairs.csv"}, "no use for pairs"),
        ({"method": "linear", "pairs": "pairs.csv"}, "leave the other texts out"),
        ({"dims": [64]}, "from 1 to 32"),
        ({"limit": 3}, "500 is the least"),
        ({"texts": []}, "no texts were named"),
        ({"texts": ["few.txt"]}, "2 different texts"),
        ({"texts": ["table.xlsx"]}, "none of the types"),
    ],
)
def test_bad_calls_are_refused_before_a_model_is_loaded(
    base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    def loaded(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("mrl_text.loading.MatryoshkaEncoder", loaded)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    given = {"texts": [texts], "dims": DIMS, **options}
    with pytest.raises(ValueError, match=message):
        adapt(str(base), given.pop("texts"), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_what_is_not_ours_is_not_overwritten(base: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    for output in (tmp_path / "mine", texts):
        with pytest.raises(FileExistsError, match="choose another"):
            adapt(str(base), [texts], output, method="pca")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        adapt(str(base), [tmp_path / "gone.txt"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no model"):
        adapt(str(tmp_path / "nowhere"), [texts], tmp_path / "out")


def test_vectors_without_a_model(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(700, 24)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    file = adapt_vectors(tmp_path / "v.npy", tmp_path / "m.npy", method="pca", dims=[8, 24])
    fitted = np.sort(np.random.default_rng(0).permutation(700)[70:])  # the others judge it
    expected = fit(vectors[fitted], method="pca", dims=[8])
    np.testing.assert_allclose(load_adaptation(file).matrix, expected.matrix, atol=1e-5)
    assert load_adaptation(file).facts["kept"][0]["bytes"] == 1
    assert (tmp_path / "m.codec.json").exists()
    assert adapt_vectors(tmp_path / "v.npy", file, method="pca", limit=600).exists()  # its own: written again
    assert load_adaptation(file).facts["texts"] == 540
    np.save(tmp_path / "pairs.npy", np.arange(200).reshape(-1, 2))
    linear = adapt_vectors(tmp_path / "v.npy", file, method="linear", pairs=tmp_path / "pairs.npy", dims=[8])
    assert load_adaptation(linear).method == "linear"
    np.save(tmp_path / "other.npy", vectors)
    with pytest.raises(FileExistsError, match="choose another name"):
        adapt_vectors(tmp_path / "v.npy", tmp_path / "other.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "other.npy"), vectors)
    with pytest.raises(ValueError, match="position 3 is zero"):
        np.save(tmp_path / "v.npy", np.where(np.arange(700)[:, None] == 3, 0, vectors))
        adapt_vectors(tmp_path / "v.npy", file)
    with pytest.raises(ValueError, match="10 vectors, 500 is the least"):
        np.save(tmp_path / "v.npy", vectors[:10])
        adapt_vectors(tmp_path / "v.npy", file)


@pytest.mark.slow
@pytest.mark.parametrize("saved_in", ["bfloat16", "float16"])
def test_a_base_saved_in_fewer_bits_keeps_its_similarities(
    tiny_bert: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved_in: str
) -> None:
    steps(monkeypatch)
    MatryoshkaEncoder(str(tiny_bert), device="cpu").to(getattr(torch, saved_in)).save(str(tmp_path / "base"))
    folder = adapt(str(tmp_path / "base"), [texts], tmp_path / "out", dims=DIMS, device="cpu")
    some = sentences(40)
    exact = SentenceTransformer(str(tmp_path / "base"), device="cpu", model_kwargs={"dtype": "float32"})
    expected, found = exact.encode(some, normalize_embeddings=True), MatryoshkaEncoder(str(folder)).encode(some)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)
