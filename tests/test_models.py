from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.models import (
    PACKAGED_MODELS,
    ModelSource,
    find_model,
    peek_width,
    read_metadata,
    require_packaged_model,
)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


pytestmark = pytest.mark.usefixtures("without_network")


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a model in it, as training leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "first-try"
    model = MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=[8, 32], device="cpu")
    model.describe(base_model="someone/base")
    model.save(str(folder / "model"))
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_a_plain_folder_is_a_model_named_after_it(tiny_bert: Path) -> None:
    source = find_model(str(tiny_bert))
    assert source.path == str(tiny_bert)
    assert source.name == f"local/{tiny_bert.name}"
    assert source.label == tiny_bert.name
    assert re.fullmatch("[0-9a-f]{16}", source.revision)
    assert (source.base_model, source.matryoshka_dims) == (None, ())


def test_a_run_folder_stands_for_the_model_in_it(trained: Path) -> None:
    source = find_model(str(trained))
    assert source.path == str(trained / "model")
    assert source.name == "local/first-try"
    assert source == find_model(str(trained / "model"))


def test_a_folder_tells_its_base_model_and_sizes(trained: Path) -> None:
    source = find_model(str(trained))
    assert source.base_model == "someone/base"
    assert source.matryoshka_dims == (8, 32)


def test_sizes_are_read_from_somebody_elses_config_as_the_encoder_does(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_bert, tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [8, 32]}), encoding="utf-8")
    assert MatryoshkaEncoder(str(folder), device="cpu").matryoshka_dims == (8, 32)
    assert find_model(str(folder)).matryoshka_dims == (8, 32)


def test_the_recorded_name_wins_over_the_folder(trained: Path, tmp_path: Path) -> None:
    folder = copy_of(trained / "model", tmp_path / "renamed")
    assert find_model(str(folder)).name == "local/renamed"
    file = folder / "config_sentence_transformers.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["mrl_text"]["name"] = "given"
    file.write_text(json.dumps(config), encoding="utf-8")
    assert find_model(str(folder)).name == "local/given"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"mrl_text": 3}', "{}"])
def test_a_folder_without_readable_metadata_has_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text(content, encoding="utf-8")
    assert read_metadata(tmp_path) == {}
    assert read_metadata(tmp_path / "missing") == {}


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c", "../nowhere"])
def test_a_missing_path_is_refused(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"no model at {name}: expected a folder with modules.json")):
        find_model(name)


def test_a_folder_without_a_model_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected modules\.json or config\.json"):
        find_model(str(tmp_path))
    file = Path("weights")
    file.write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        find_model("weights")


@pytest.mark.parametrize(
    ("name", "full"), [("someone/some-model", "someone/some-model"), ("bare", "sentence-transformers/bare")]
)
def test_a_hub_id_comes_back_unresolved(name: str, full: str) -> None:
    source = find_model(name)
    assert source == ModelSource(path=full, name=full, is_local=False)
    assert source.revision == "main"
    assert source.label == name.rpartition("/")[2]


def test_a_folder_wins_over_a_hub_id_of_the_same_name(tiny_bert: Path) -> None:
    copy_of(tiny_bert, Path("someone/some-model").absolute())
    assert find_model("someone/some-model").name == "local/some-model"


def test_weights_in_an_installed_package_are_found_under_the_hub_name_and_the_bare_one(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "toy_weights"
    copy_of(tiny_bert, package / "inner")
    (package / "__init__.py").write_text("raise RuntimeError('no need to import it')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGED_MODELS, "someone/toy", ("toy_weights", "inner"))
    source = find_model("someone/toy")
    assert source == find_model("toy")
    assert (source.path, source.name) == (str(package / "inner"), "someone/toy")
    assert source.revision == find_model(str(tiny_bert)).revision
    assert require_packaged_model("someone/toy", extra="some") == package / "inner"


def test_without_its_package_a_packaged_model_is_a_hub_id_or_an_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGED_MODELS, "someone/toy", ("no_such_package_here", "inner"))
    assert find_model("toy") == ModelSource(path="someone/toy", name="someone/toy", is_local=False)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'mrl-text[some]'")):
        require_packaged_model("someone/toy", extra="some")


@pytest.mark.model
def test_minilm_is_taken_from_its_package() -> None:
    source = find_model(MINILM)
    assert source == find_model("all-MiniLM-L6-v2")
    assert source.name == MINILM
    assert (Path(source.path) / "model.safetensors").is_file()
    assert Path(source.path) == require_packaged_model(MINILM, extra="quickstart")
    assert peek_width(source) == 384


def test_the_revision_is_that_of_the_content_wherever_it_lies(trained: Path, tmp_path: Path) -> None:
    folder = copy_of(trained / "model", tmp_path / "elsewhere")
    revision = find_model(str(trained)).revision
    assert find_model(str(folder)).revision == revision
    (folder / "README.md").write_text("another text", encoding="utf-8")
    assert find_model(str(folder)).revision == revision


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
def test_the_revision_changes_with_what_the_model_computes(trained: Path, tmp_path: Path, file: str) -> None:
    folder = copy_of(trained / "model", tmp_path / "changed")
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    assert find_model(str(folder)).revision != find_model(str(trained)).revision


def test_the_revision_changes_with_the_name_of_a_weight_file(trained: Path, tmp_path: Path) -> None:
    folder = copy_of(trained / "model", tmp_path / "changed")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert find_model(str(folder)).revision != find_model(str(trained)).revision


def test_the_width_of_a_plain_transformer_is_read_from_its_configuration(tiny_bert: Path) -> None:
    assert peek_width(find_model(str(tiny_bert))) == 32


@pytest.mark.parametrize("dense", [(), (24,), (24, 48)], ids=["none", "one", "two"])
def test_the_width_is_that_of_the_last_dense_module(tiny_bert: Path, tmp_path: Path, dense: tuple[int, ...]) -> None:
    layers = [Dense(before, after) for before, after in zip((32, *dense), dense, strict=False)]
    model = SentenceTransformer(modules=[*SentenceTransformer(str(tiny_bert), device="cpu"), *layers], device="cpu")
    model.save(str(tmp_path / "model"))
    assert peek_width(find_model(str(tmp_path / "model"))) == model.encode("the cat").shape[0]


def test_the_width_of_several_poolings_side_by_side_is_not_mistaken(tiny_bert: Path, tmp_path: Path) -> None:
    pooling = Pooling(32, pooling_mode=("cls", "mean"))
    model = SentenceTransformer(modules=[SentenceTransformer(str(tiny_bert), device="cpu")[0], pooling], device="cpu")
    model.save(str(tmp_path / "model"))
    assert model.encode("the cat").shape == (64,)
    assert peek_width(find_model(str(tmp_path / "model"))) in (64, None)


def test_a_module_whose_settings_say_nothing_leaves_the_width_unknown(tiny_bert: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path / "model")
    kinds = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling", "someone.Wider")
    modules = [{"idx": idx, "name": str(idx), "path": "", "type": kind} for idx, kind in enumerate(kinds)]
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    assert peek_width(find_model(str(tmp_path / "model"))) is None


@pytest.mark.parametrize("content", ["{}", "{", '{"hidden_size": "many"}'])
def test_the_width_of_a_model_that_does_not_tell_is_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    assert peek_width(find_model(str(tmp_path))) is None


def test_a_hub_model_that_cannot_be_reached_is_named_before_anything_is_loaded() -> None:
    with pytest.raises(FileNotFoundError, match="neither a model folder nor a hub model"):
        peek_width(find_model("someone/some-model"))
