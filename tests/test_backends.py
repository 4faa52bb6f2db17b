"""Other engines than torch: the same vectors, whatever the kind of model; graphs made once; a choice by trial."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding
from torch import nn
from transformers import AutoModel, BertTokenizerFast, ModernBertConfig, MPNetConfig, PretrainedConfig, Qwen3Config

from mrl_text import MatryoshkaEncoder, backends
from mrl_text.backends import base, trial
from mrl_text.dtypes import compute_dtype
from mrl_text.embedding_cache import fingerprint
from mrl_text.encoding import encode_files
from mrl_text.eval.runner import sweep
from mrl_text.loading import cached, load
from mrl_text.models import find_model
from mrl_text.serving.embedder import Embedder
from tests.conftest import WORDS, invoke

TEXTS = ["the cat sits on the mat", "a red house", "water", " ".join(WORDS[:20]), "a"]
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": 60, "pad_token_id": 0}
CONFIGS: dict[str, PretrainedConfig] = {
    "mpnet": MPNetConfig(**WIDE, num_hidden_layers=2),
    "modernbert": ModernBertConfig(**WIDE, num_hidden_layers=3, reference_compile=False, local_attention=4),
    "qwen3": Qwen3Config(**WIDE, num_hidden_layers=2, num_key_value_heads=1, head_dim=16),
}
ENGINES = ["onnx", "openvino"]


@pytest.fixture(autouse=True)
def _cache_of_the_test(common: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one for each test: a graph takes seconds to make, and the tests of this file share those of a model."""
    monkeypatch.setenv("MRL_TEXT_CACHE", str(common / "graphs"))


def made(config: PretrainedConfig, tiny_bert: Path, folder: Path, pooling: str, side: str = "right") -> Path:
    """A model of random weights with a rotation behind it."""
    AutoModel.from_config(config).eval().save_pretrained(folder / "backbone")
    tokenizer = BertTokenizerFast.from_pretrained(tiny_bert, model_max_length=40, padding_side=side)
    tokenizer.save_pretrained(folder / "backbone")
    transformer = Transformer(str(folder / "backbone"))
    rotation = Dense(32, 32, bias=False, activation_function=nn.Identity())
    nn.init.orthogonal_(rotation.linear.weight)
    modules = [transformer, Pooling(32, pooling), rotation, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def least_cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one.astype(float) * other).sum(axis=1).min())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "backend"),
    [("bert", "onnx"), ("mpnet", "onnx"), ("qwen3", "onnx"), ("modernbert", "openvino"), ("qwen3", "openvino")],
)
def test_vectors_are_those_of_torch(tiny_bert: Path, tmp_path: Path, backend: Any, kind: str) -> None:
    decoder = kind == "qwen3"
    path = tiny_bert
    if kind in CONFIGS:
        path = made(
            CONFIGS[kind], tiny_bert, tmp_path, "lasttoken" if decoder else "mean", "left" if decoder else "right"
        )
    source = find_model(str(path))
    expected, model = load(source, device="cpu").encode(TEXTS), load(source, backend=backend)
    assert {type(module.model).__name__ for module in model.modules() if isinstance(module, Transformer)} == {
        "OnnxBackbone" if backend == "onnx" else "OpenVinoBackbone"
    }
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=2e-5)
    np.testing.assert_allclose(model.encode(TEXTS, batch_size=1), expected, atol=2e-5)
    np.testing.assert_allclose(next(model.encode_stream(TEXTS, token_budget=20)), expected, atol=2e-5)
    assert (model.width, model.get_backend(), str(model.device)) == (expected.shape[1], backend, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ENGINES)
def test_int8_is_near_and_not_the_same(tiny_bert: Path, backend: Any) -> None:
    source = find_model(str(tiny_bert))
    exact, model = load(source, device="cpu"), load(source, backend=backend, dtype="int8")
    assert compute_dtype(model) == "int8"
    found = model.encode(TEXTS)
    assert least_cosine(found, exact.encode(TEXTS)) > 0.99
    assert np.abs(found - exact.encode(TEXTS)).max() > 1e-5
    np.testing.assert_allclose(
        next(model.encode_stream(TEXTS, dtype="int8", token_budget=1)), model.encode(TEXTS, batch_size=1), atol=1e-5
    )
    with pytest.raises(ValueError, match="loaded to compute in int8"):
        next(model.encode_stream(TEXTS, dtype="float32"))
    with pytest.raises(ValueError, match="torch does not compute in int8"):
        next(exact.encode_stream(TEXTS, dtype="int8"))


class Products(nn.Module):
    """A matrix on either side, and one product of inputs, which has no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(300, 8), nn.Parameter(torch.randn(300, 8) * torch.logspace(-2, 2, 8))
        with torch.no_grad():
            self.left.weight[3] = 0

    def forward(self, texts: torch.Tensor) -> torch.Tensor:
        return (self.left(texts) + texts @ self.right) @ (texts.T[:8] @ texts[:, :8])


def test_openvino_rounds_the_weights_of_each_output_to_int8() -> None:
    import openvino

    from mrl_text.backends.openvino import _nothing_is_reported, _round_weights

    torch.manual_seed(0)
    network, texts = Products(), torch.randn(16, 300)
    with _nothing_is_reported():
        graph = openvino.convert_model(network, example_input=texts)
    _round_weights(graph)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    found = openvino.compile_model(graph, "CPU", settings)(texts.numpy())[0]
    exact = network(texts).detach().numpy()
    with torch.no_grad():
        for weights in (network.left.weight, network.right.T):
            step = (weights.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-9)
            weights.copy_((weights / step).round() * step)
    expected = network(texts).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert np.abs(expected - exact).max() > 1


@pytest.mark.slow
def test_openvino_tells_nobody_of_its_use(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its converter reports each use from a process of its own, and keeps the user's number in ``~/intel``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("multiprocessing.Process.start", lambda process: pytest.fail("a process is started"))
    load(find_model(str(tiny_bert)), backend="openvino")
    assert [folder.name for folder in tmp_path.iterdir()] == ["cache"]
    assert "CI" not in os.environ


@pytest.mark.slow
def test_fewer_layers_are_cut_before_they_are_handed_over(tiny_bert: Path) -> None:
    source = find_model(str(tiny_bert))
    expected = load(source, device="cpu", layers=1).encode(TEXTS)
    model = load(source, backend="onnx", layers=1)
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=2e-5)
    assert np.abs(load(source, backend="onnx").encode(TEXTS) - expected).max() > 1e-3
    with pytest.raises(ValueError, match="cannot tell the layers"):
        model.truncate_layers(1)


@pytest.mark.slow
def test_a_graph_is_made_once_and_vectors_are_kept_apart(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_model(str(tiny_bert))
    models = [load(source, device="cpu")]
    models += [load(source, backend=backend, dtype=dtype) for backend, dtype in (("onnx", "float32"), ("onnx", "int8"))]  # type: ignore[arg-type]
    assert len({fingerprint(model) for model in models}) == 3

    def refuse(*args: Any) -> None:
        raise AssertionError("a graph is made again")

    monkeypatch.setattr(base, "_traced", refuse)
    assert fingerprint(load(source, backend="onnx")) == fingerprint(models[1])
    copy = pickle.loads(pickle.dumps(models[2]))  # as for a pool of processes
    np.testing.assert_array_equal(copy.encode(TEXTS), models[2].encode(TEXTS))
    vectors = cached(source, backend="onnx", dtype="int8").embed(TEXTS)
    np.testing.assert_allclose(vectors, models[2].encode(TEXTS, normalize_embeddings=False), atol=1e-5)


@pytest.mark.slow
def test_a_model_that_is_computed_otherwise_is_refused(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl_text.backends.onnx import OnnxBackbone

    run = OnnxBackbone.run
    monkeypatch.setattr(OnnxBackbone, "run", lambda self, engine, inputs: np.roll(run(self, engine, inputs), 1, axis=2))
    with pytest.raises(ValueError, match=r"computes other vectors of model .* leave it to backend torch"):
        load(find_model(str(tiny_bert)), backend="onnx")


@pytest.mark.slow
def test_a_model_that_another_engine_computes_is_not_saved(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save it loaded with backend torch"):
        load(find_model(str(tiny_bert)), backend="onnx").save(str(tmp_path / "copy"))


def test_what_cannot_be_is_refused_before_a_model_is_read(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_model(str(tiny_bert))
    with monkeypatch.context() as patch:
        patch.setattr("mrl_text.loading._load", lambda *args: pytest.fail("the model is read"))
        for options, message in (
            ({"dtype": "int8"}, "choose another backend"),
            (
                {"backend": "onnx", "dtype": "bfloat16"},
                "onnx computes in float32, int8 on this machine, not in bfloat16",
            ),
            ({"backend": "openvino", "dtype": "float16"}, "openvino computes in"),
            ({"backend": "openvino", "device": "meta"}, "device 'meta' is for backend torch"),
            ({"backend": "onxx"}, "did you mean 'onnx'"),
        ):
            with pytest.raises(ValueError, match=message):
                load(source, **options)  # type: ignore[arg-type]
        patch.setitem(base._ENGINES, "onnx", ("mrl_text.backends.not_there", "Nothing"))
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'mrl-text\[onnx\]'"):
            load(source, backend="onnx")
    static = MatryoshkaEncoder(modules=[StaticEmbedding(MatryoshkaEncoder(str(tiny_bert)).tokenizer, embedding_dim=8)])
    static.save(str(tmp_path / "static"))
    with pytest.raises(ValueError, match="no transformer that onnx could compute"):
        load(find_model(str(tmp_path / "static")), backend="onnx")
    assert load(find_model(str(tmp_path / "static")), backend="auto").get_backend() == "torch"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"torch": 1.0, "onnx": 0.97, "openvino": 0.99}, "torch"),  # no more than a trial can tell
        ({"torch": 1.0, "onnx": 0.9, "openvino": 0.5}, "openvino"),
        ({"onnx": 0.5, "openvino": 0.6}, "onnx"),
        ({"torch": 0.0}, "torch"),
    ],
)
def test_a_trial_is_kept(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: dict[Any, float], expected: str
) -> None:
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path))
    source, tried = find_model(str(tiny_bert)), []

    def try_(load: Any) -> dict[Any, float]:
        tried.append(load)
        return seconds

    monkeypatch.setattr(trial, "_try", try_)
    unused: Any = None
    assert backends.fastest(source, "float32", unused) == backends.fastest(source, "float32", unused) == expected
    assert len(tried) == 1
    backends.fastest(source, "int8", unused)
    assert len(tried) == 2
    assert {entry["dtype"] for entry in json.loads((tmp_path / "trials.json").read_text()).values()} == {
        "float32",
        "int8",
    }


@pytest.mark.slow
def test_auto_tries_all_that_can(tiny_bert: Path) -> None:
    source = find_model(str(tiny_bert))
    assert load(source, backend="auto", dtype="int8").get_backend() in ENGINES
    assert load(source, backend="auto").get_backend() in ("torch", *ENGINES)
    entries = json.loads((base.cache_dir() / "trials.json").read_text()).values()
    tried = {entry["dtype"]: entry["seconds"] for entry in entries if entry["model"] == source.name}
    assert {dtype: sorted(seconds) for dtype, seconds in tried.items()} == {
        "int8": ENGINES,  # torch has it not
        "float32": ["onnx", "openvino", "torch"],
    }
    assert all(seconds > 0 for seconds in tried["float32"].values())


@pytest.mark.slow
def test_commands_compute_with_it(tiny_bert: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("text\n" + "\n".join(TEXTS) + "\n")
    model = load(find_model(str(tiny_bert)), backend="onnx", dtype="int8")
    expected = model.encode(TEXTS)
    assert least_cosine(Embedder(str(tiny_bert), backend="onnx", dtype="int8").encode(TEXTS), expected) > 0.999
    folder = tmp_path / "encoded"
    options = [corpus, "--model", tiny_bert, "--output", folder, "--format", "npy"]
    told = invoke("encode", *options, "--backend", "onnx", "--dtype", "int8")
    assert "onnx in int8" in told.output
    assert least_cosine(np.load(folder / "embedding_32.npy"), expected) > 0.99
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["backend"], manifest["dtype"]) == ("onnx", "int8")
    assert "was begun with backend onnx, not torch" in invoke("encode", *options).output


@pytest.mark.slow
def test_a_folder_from_before_there_was_a_choice_goes_on(tiny_bert: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("text\n" + "\n".join(TEXTS) + "\n")
    options: dict[str, Any] = {"model": str(tiny_bert), "output": tmp_path / "encoded"}
    encode_files([corpus], **options)
    file = tmp_path / "encoded" / "manifest.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "backend"}))
    assert encode_files([corpus], **options).backend == "torch"
    with pytest.raises(ValueError, match="was begun with backend torch, not onnx"):
        encode_files([corpus], backend="onnx", **options)


@pytest.mark.slow
def test_its_scores_are_a_line_of_their_own(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [f"{TEXTS[i]},{TEXTS[j]},{(i + j) % 5}" for i in range(5) for j in range(5)]
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2,score\n" + "\n".join(rows) + "\n")
    options: dict[str, Any] = {"data": [tmp_path / "pairs.csv"], "output": tmp_path / "out", "dims": [16, 32]}
    options |= {"precisions": ["float32"], "controls": []}
    sweep([str(tiny_bert)], **options)
    found = sweep([str(tiny_bert)], **options, backend="onnx", dtype="int8").scores
    assert set(found["dtype"]) == {"onnx-int8"}
    assert set(found["dim"]) == {16, 32}
    from mrl_text.eval.leaderboard import with_earlier

    result = sweep([str(tiny_bert)], **options, backend="onnx")
    lines = {line.dtype: line for line in with_earlier(result).lines}
    assert set(lines) == {"float32", "onnx-float32", "onnx-int8"}
    assert lines["onnx-int8"].computing == {"backend": "onnx", "dtype": "int8"}
    assert lines["float32"].computing == {"backend": "torch", "dtype": "float32"}
