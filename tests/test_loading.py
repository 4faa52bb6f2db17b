"""Loading by one rule: types, devices, code that comes with a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding

from mrl_text import MatryoshkaEncoder
from mrl_text.loading import cached, full_width, load
from mrl_text.models import find_model
from mrl_text.serving.embedder import Embedder
from tests.conftest import WORDS, invoke

TEXTS = ["the cat sits on the mat", "a red house", "water"]


@pytest.fixture(scope="session", params=["bfloat16", "float16"])
def small(request: pytest.FixtureRequest, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model saved in fewer bits."""
    folder = tmp_path_factory.mktemp("small") / str(request.param)
    MatryoshkaEncoder(str(tiny_bert), device="cpu").to(getattr(torch, request.param)).save(str(folder))
    assert json.loads((folder / "config.json").read_text())["dtype"] == request.param
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_is_the_one_asked_for_whatever_was_saved(small: Path, dtype: Any) -> None:
    source = find_model(str(small))
    model = load(source, dtype=dtype, device="cpu")
    assert {str(parameter.dtype) for parameter in model.parameters()} == {f"torch.{dtype}"}
    assert {str(parameter.dtype) for parameter in load(source, device="cpu").parameters()} == {"torch.float32"}
    exact = SentenceTransformer(str(small), device="cpu", model_kwargs={"dtype": "float32"}).encode(TEXTS)
    np.testing.assert_allclose(load(source, device="cpu").encode(TEXTS, normalize_embeddings=False), exact, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_encode_and_encode_stream_compute_alike(tiny_bert: Path, dtype: Any) -> None:
    model = load(find_model(str(tiny_bert)), dtype=dtype, device="cpu")
    [streamed] = model.encode_stream(TEXTS)
    np.testing.assert_allclose(streamed, model.encode(TEXTS), atol=1e-6 if dtype == "float32" else 4e-3)
    if dtype == "float32":  # by default, and so in float32 on processors with bfloat16, too
        assert not np.allclose(next(model.encode_stream(TEXTS, dtype="bfloat16")), streamed, atol=1e-5)


def test_auto_takes_fewer_bits_where_they_are_native_and_of_use(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = MatryoshkaEncoder(str(tiny_bert)).tokenizer
    MatryoshkaEncoder(modules=[StaticEmbedding(tokenizer, embedding_dim=16)]).save(str(tmp_path / "static"))
    for native in (True, False):
        monkeypatch.setattr("mrl_text.dtypes._has_bfloat16", lambda kind, native=native: native)
        dtypes = [load(find_model(str(one)), dtype="auto").dtype for one in (tiny_bert, tmp_path / "static")]
        assert dtypes == [torch.bfloat16 if native else torch.float32, torch.float32]


def test_a_cut_saved_with_the_model_is_undone(tiny_bert: Path, tmp_path: Path) -> None:
    MatryoshkaEncoder(str(tiny_bert), truncate_dim=8).save(str(tmp_path / "cut"))
    assert load(find_model(str(tmp_path / "cut"))).encode("a cat").shape == (32,)


@pytest.mark.parametrize("device", ["banana", "cuda:77", "mps:3" if torch.backends.mps.is_available() else "mps"])
def test_a_device_that_is_not_there_is_named_before_anything_is_read(tiny_bert: Path, device: str) -> None:
    source = find_model(str(tiny_bert))
    for call in (load, cached):
        with pytest.raises(ValueError, match=f"device '{device}' is not there; this machine has cpu"):
            call(source, device=device)


@pytest.mark.parametrize("kind", ["static", "router", "two poolings"])
def test_the_full_width_is_that_of_the_vectors_where_the_files_do_not_tell(
    tiny_bert: Path, tmp_path: Path, kind: str
) -> None:
    transformer = SentenceTransformer(str(tiny_bert), device="cpu")[0]
    table = StaticEmbedding(transformer.tokenizer.backend_tokenizer, embedding_dim=32)
    modules = {
        "static": [table],
        "router": [Router.for_query_document([table], [transformer, Pooling(32)]), Normalize()],
        "two poolings": [transformer, Pooling(32, pooling_mode=("cls", "mean"))],
    }[kind]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save(str(tmp_path / "model"))
    assert full_width(find_model(str(tmp_path / "model"))) == model.encode("the cat").shape[0]


def test_the_width_of_modules_that_do_not_tell_is_measured(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SentenceTransformer, "get_embedding_dimension", lambda self: None)
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu", truncate_dim=8)
    assert (model.width, model.matryoshka_dims, model.encode(TEXTS, dim=24).shape) == (32, (32,), (3, 24))
    with pytest.raises(ValueError, match="dim must be from 1 to 32, the model's width, got 33"):
        model.encode(TEXTS, dim=33)


def test_a_model_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FileNotFoundError, match=f"model local/{tmp_path.name} cannot be loaded"):
        load(find_model(str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="model nobody/nothing cannot be loaded"):
        load(find_model("nobody/nothing"))
    with pytest.raises(ValueError, match="dtype 'float64' is unknown"):
        load(find_model(str(tmp_path)), dtype="float64")  # type: ignore[arg-type]


def test_code_that_comes_with_a_model_runs_only_if_that_was_allowed(own_code: Path) -> None:
    with pytest.raises(ValueError) as refused:
        load(find_model(str(own_code)))
    message = str(refused.value)
    assert f"read it in {own_code}" in message and "--trust-remote-code" in message and "http" not in message
    model = load(find_model(str(own_code), trust_remote_code=True), device="cpu")
    assert type(model.transformers_model).__name__ == "DoublingModel"
    assert model.encode(TEXTS).shape == (3, 32)


def test_vectors_of_other_code_are_others(own_code: Path, tmp_path: Path) -> None:
    import shutil

    changed = tmp_path / "changed"
    shutil.copytree(own_code, changed)
    code = changed / "modeling_doubling.py"
    code.write_text(code.read_text().replace("2 *", "-2 *"))
    first, second = (
        cached(find_model(str(folder), trust_remote_code=True)).embed(TEXTS) for folder in (own_code, changed)
    )
    np.testing.assert_allclose(second, -first, atol=1e-6)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{at}", "text": f"the {word}"}) + "\n" for at, word in enumerate(WORDS))
    )
    rows = [f"the {word},{('a', 'b')[at % 2]}" for at, word in enumerate(WORDS)]
    (tmp_path / "labels.csv").write_text("\n".join(["text,label", *rows]))
    rows = [f"{at} {word},the {word}" for at, word in enumerate(WORDS * 20)]
    (tmp_path / "pairs.csv").write_text("\n".join(["anchor,positive", *rows]))
    return tmp_path


@pytest.mark.usefixtures("command_line")
@pytest.mark.slow
def test_every_command_that_loads_a_model_asks_before_its_code_runs(own_code: Path, corpus: Path) -> None:
    commands = {
        "encode corpus.jsonl --output encoded --model OWN": "encoded/manifest.json",
        "index build corpus.jsonl --output index --model OWN": "index/index.json",
        "search index cat": "",
        "index push pushed corpus.jsonl --model OWN": "",
        "index tune index --queries corpus.jsonl --minutes 0.01 --keep 0.1": "",
        "classify OWN labels.csv --output classes --dims 8,32": "classes/results.json",
        "label classes labels.csv": "",
        "eval OWN --data labels.csv --output scores --dims 8,32 --controls none": "",
        "adapt OWN --texts pairs.csv --output adapted --dims 8": "adapted/adaptation.json",
        'train quickstart model.name=OWN data.train=[{"source":"pairs.csv"}] data.validation=[] loss.dims=[8,32]'
        " loss.weights=null eval.dims=[] training.max_steps=1 model.dropout=null training.use_cpu=true"
        " training.dataloader_drop_last=false --output run": "run/recipe.yaml",
    }
    for line, file in commands.items():
        words = [word.replace("OWN", str(own_code)) for word in line.split()]
        refused = invoke(*words)
        assert refused.exit_code == 2, (line, refused.output)
        assert "comes with code of its own" in refused.stderr and "--trust-remote-code" in refused.stderr, line
        allowed = invoke(*words, "--trust-remote-code")
        assert allowed.exit_code == 0, (line, allowed.output)
        recorded = Path(file).read_text(encoding="utf-8").replace('"', "").replace(" ", "") if file else ""
        assert not file or "trust_remote_code:true" in recorded, line
    (meta, *_) = Path("scores").rglob("model_meta.json")
    assert json.loads(meta.read_text(encoding="utf-8"))["loader_kwargs"] == {"trust_remote_code": True}


@pytest.mark.usefixtures("command_line")
def test_a_server_refuses_code_unless_it_is_allowed(own_code: Path) -> None:
    refused = invoke("serve", str(own_code), "--port", "0")
    assert refused.exit_code == 2 and "comes with code of its own" in refused.stderr
    assert Embedder(str(own_code), trust_remote_code=True).width == 32


@pytest.mark.usefixtures("command_line")
@pytest.mark.parametrize("command", ["eval OWN --data labels.csv --output o", "encode corpus.jsonl -o o -m OWN"])
def test_commands_refuse_a_device_in_one_line(tiny_bert: Path, corpus: Path, command: str) -> None:
    result = invoke(*command.replace("OWN", str(tiny_bert)).split(), "--device", "banana")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "device 'banana' is not there; this machine has cpu" in result.stderr


@pytest.fixture
def copy(tiny_bert: Path, tmp_path: Path) -> Path:
    """The tiny BERT in a folder to break."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "copy"))


def test_a_model_without_a_vocabulary_is_refused(copy: Path) -> None:
    for file in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (copy / file).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=f"has no vocabulary, .* put its tokenizer files .* into {copy}$"):
        load(find_model(str(copy)), device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers_are_named(copy: Path, value: float, dtype: Any) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][3, 5] = value
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    message = r"encoder\.layer\.1\.output\.dense\.weight holds NaN or infinity: its weights are damaged"
    with pytest.raises(ValueError, match=message):
        load(find_model(str(copy)), dtype=dtype, device="cpu")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_damaged_file_of_a_model_is_named(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises((ValueError, FileNotFoundError), match=f"{copy / name} is damaged") as refused:
        load(find_model(str(copy)), device="cpu")
    assert "\n" not in str(refused.value)


def test_more_tokens_than_positions_are_refused(copy: Path, tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    model.max_seq_length = 65
    model.save(str(copy / "longer"))
    with pytest.raises(
        ValueError, match=r"^max_seq_length=65, but model local/longer has 64 positions: give at most 64$"
    ):
        load(find_model(str(copy / "longer")), device="cpu")
