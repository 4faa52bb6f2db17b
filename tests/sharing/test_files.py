from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mrl_text.sharing import prepare

REPO = "me/small"


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "model"
    shutil.copytree(saved, folder)
    return folder


def test_only_the_model_goes(model: Path) -> None:
    (model / "checkpoints" / "checkpoint-10").mkdir(parents=True)
    (model / "checkpoints" / "checkpoint-10" / "model.safetensors").write_bytes(b"x")
    for name in ("optimizer.pt", "trainer_state.json", "training_args.bin", "metrics.jsonl", ".env", "notes.txt"):
        (model / name).write_text("{}")
    (model.parent / "recipe.yaml").write_text("a: 1")
    (model / "LICENSE").write_text("mine")
    (model / "onnx").mkdir()
    (model / "onnx" / "model.onnx").write_bytes(b"o")
    upload = prepare(model.parent, REPO)
    kept = {"LICENSE", "onnx/model.onnx", "model.safetensors", "modules.json", "1_Pooling/config.json"}
    assert kept <= upload.files.keys()
    assert {name.split("/")[0] for name in upload.files} & upload.left_out.keys() == set()
    there = {"optimizer.pt", "trainer_state.json", "training_args.bin", "metrics.jsonl", ".env", "notes.txt"}
    assert set(upload.left_out) == there | {"checkpoints/"}


def test_everything_that_sentence_transformers_saves_goes(saved: Path) -> None:
    upload = prepare(saved, REPO)
    written = {file.relative_to(saved).as_posix() for file in saved.rglob("*") if file.is_file()}
    assert {*upload.files, "README.md"} == written
    assert not upload.left_out


def test_a_transformer_in_a_folder_of_its_own_keeps_its_tokenizer(model: Path) -> None:
    names = ["special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "spiece.model", "vocab.txt"]
    modules = json.loads((model / "modules.json").read_text())
    (model / "0_Transformer").mkdir()
    for file in (*model.glob("*.safetensors"), *model.glob("tokenizer*.json"), model / "config.json"):
        file.rename(model / "0_Transformer" / file.name)
    for name in names:
        (model / "0_Transformer" / name).write_text("{}")
    modules[0]["path"] = "0_Transformer"
    (model / "modules.json").write_text(json.dumps(modules))
    there = {f"0_Transformer/{file.name}" for file in (model / "0_Transformer").iterdir()}
    assert there == {name for name in prepare(model, REPO).files if name.startswith("0_Transformer/")}


def test_pickles_are_refused_or_left_out(model: Path) -> None:
    torch.save({}, model / "pytorch_model.bin")
    assert "pytorch_model.bin" in prepare(model, REPO).left_out
    (model / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle.*save it again"):
        prepare(model, REPO)
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        prepare(model, REPO)


def test_broken_weights_are_refused(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        prepare(model, REPO)
    (model / "model.safetensors").write_bytes(content)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002"):
        prepare(model, REPO)


def test_a_file_above_the_hubs_limit_is_refused(model: Path) -> None:
    with (model / "openvino.png").open("wb") as stream:
        stream.truncate(50 * 10**9 + 1)  # takes no room
    with pytest.raises(ValueError, match=r"openvino\.png has 50\.0 GB, the hub takes 50"):
        prepare(model, REPO)


def test_paths_leave_the_configuration_and_nothing_else_changes(model: Path) -> None:
    before = (model / "config.json").read_bytes()
    assert prepare(model, REPO).files["config.json"] == model / "config.json"
    config = json.loads(before) | {"_name_or_path": "/home/ada/base", "note": "/data/deep/texts.csv", "slash": "/"}
    (model / "config.json").write_text(json.dumps(config))
    block = json.loads((model / "config_sentence_transformers.json").read_text())
    block["mrl_text"]["base_model"] = "/home/ada/runs/base"
    block["prompts"] = {"query": "find / locate: "}
    (model / "config_sentence_transformers.json").write_text(json.dumps(block))
    files = prepare(model, REPO).files
    cleaned, ours = (files[name] for name in ("config.json", "config_sentence_transformers.json"))
    assert isinstance(cleaned, bytes)
    assert isinstance(ours, bytes)
    assert json.loads(cleaned) == json.loads(before) | {"note": "texts.csv", "slash": "/"}
    assert "base_model" not in json.loads(ours)["mrl_text"]
    assert json.loads(ours)["prompts"] == block["prompts"]
    assert json.loads((model / "config.json").read_text()) == config, "the folder itself is left alone"
    assert "base_model" not in prepare(model, REPO).card.compose()


def test_a_token_is_refused(model: Path) -> None:
    token = "hf_" + "a1B2" * 9
    (model / "LICENSE").write_text(f"use {token}")
    with pytest.raises(ValueError, match="LICENSE holds an access token") as caught:
        prepare(model, REPO)
    assert token not in str(caught.value)


def test_code_of_a_model_goes_where_the_model_needs_it(model: Path) -> None:
    (model / "pooling.py").write_text("x = 1\n")
    assert "pooling.py" in prepare(model, REPO).left_out
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["type"] = "pooling.MyPooling"
    (model / "modules.json").write_text(json.dumps(modules))
    assert "pooling.py" in prepare(model, REPO).files


@pytest.mark.parametrize("repo", ["small", "a/b/c", "me/-x", "me/sm all", "", "/tmp/x"])
def test_names_that_are_no_repository(saved: Path, repo: str) -> None:
    with pytest.raises(ValueError, match="expected owner/name"):
        prepare(saved, repo)


def test_other_wrong_arguments(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model"):
        prepare(tmp_path, REPO)
    with pytest.raises(ValueError, match="no folder"):
        prepare("some-org/some-model", REPO)
    with pytest.raises(ValueError, match=r"license 'Apache License 2\.0'"):
        prepare(saved, REPO, license="Apache License 2.0")
    with pytest.raises(ValueError, match="language 'English'"):
        prepare(saved, REPO, languages=["English"])
    with pytest.raises(FileNotFoundError, match="no results"):
        prepare(saved, REPO, results=[tmp_path])
    modules = json.dumps([{"idx": 0, "name": "0", "path": "../../etc", "type": "sentence_transformers.x"}])
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "model" / "modules.json").write_text(modules)
    with pytest.raises(ValueError, match="outside the model's folder"):
        prepare(tmp_path / "model", REPO)
