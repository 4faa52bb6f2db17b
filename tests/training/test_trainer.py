from __future__ import annotations

import json
import platform
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.models import find_model
from mrl_text.training import base as base_module
from mrl_text.training.arguments import training_arguments
from mrl_text.training.base import located
from mrl_text.training.callbacks import MetricsLog
from mrl_text.training.evaluator import NestedRetrievalEvaluator
from mrl_text.training.recipe import Recipe
from mrl_text.training.recipe_files import load_recipe, shipped_recipes
from mrl_text.training.run import RunFolder
from mrl_text.training.scores import add_scores
from mrl_text.training.trainer import train
from tests.conftest import WORDS
from tests.processes import Started
from tests.training.runs import at_step, contents

MakeRecipe = Callable[..., Recipe]
STEPS = 8
EMBEDDINGS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, triplets: list[dict[str, str]]) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{**row, "score": number % 7 / 6} for number, row in enumerate(triplets)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def make_recipe(tiny_bert: Path, pairs: Path) -> MakeRecipe:
    """A shipped recipe on the tiny BERT and local triplets, in float32 on the CPU; later overrides win."""

    def make(*overrides: str, name: str = "minilm-nli", bf16: bool | None = False) -> Recipe:
        precision = [] if bf16 is None else [f"training.bf16={str(bf16).lower()}"]
        local = [
            f"model.name={tiny_bert}",
            "model.dropout=null",
            f"data.train=[{{source: {pairs}}}]",
            f"data.validation=[{{source: {pairs}, limit: 20}}]",
            "loss.dims=[8,16,32]",
            "loss.weights=null",
            "eval.dims=[]",
            f"training.max_steps={STEPS}",
            "training.per_device_train_batch_size=8",
            "training.learning_rate=1e-3",
            "training.logging_steps=1",
            "training.eval_steps=4",
            "training.save_steps=100",
            "training.use_cpu=true",
        ]
        return load_recipe(name, [*local, *precision, *overrides])

    return make


@pytest.fixture(scope="module")
def finished(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nothing disturbed; tests only read it."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "finished")
    assert train(make_recipe(), folder.path) == folder.model
    return folder


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return dict(load_file(folder.model / "model.safetensors"))


def assert_same_weights(one: RunFolder, other: RunFolder) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=0, atol=1e-7, msg=name)


def logged(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]


def losses(folder: RunFolder) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in logged(folder) if "loss" in entry}


def refuse_model(*arguments: object, **options: object) -> MatryoshkaEncoder:
    raise AssertionError("a model was loaded")


ROTATED = {"rotation.npy", "rotation.json", "rotation.codec.json"}
SHIPPED: dict[str, tuple[list[str], int, set[str]]] = {
    "2d": ([], 32, set()),
    "bert-base-nli": (["model.max_seq_length=64"], 32, set()),
    "independent": (["model.width=8", "loss.dims=[8]"], 8, set()),
    "minilm-distill": (["loss.weights=null"], 32, ROTATED),
    "minilm-nli": ([], 32, set()),
    "quickstart": ([], 32, set()),
    "retrieval": (["data.train=[MINED]"], 32, set()),
    "rotation": ([], 32, ROTATED),
    "static": (["model.static=24", "loss.dims=[8,16,24]"], 24, set()),
    "sts": (["data.train=[SCORED]", "data.validation=[SCORED]"], 32, set()),
}
"""Recipe -> what the tiny model needs besides, the width of the result and the files besides."""
SCORED = "{source: %s, columns: [anchor, positive, score]}"
MINED = "{source: %s, columns: [anchor, positive], mine_negatives: {num: 2, range_min: 0, relative_margin: null}}"


def test_every_shipped_recipe_is_tried() -> None:
    assert list(SHIPPED) == list(shipped_recipes())


@pytest.mark.slow
@pytest.mark.parametrize("validated", [True, False], ids=["with validation", "without validation"])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_trains(
    make_recipe: MakeRecipe, pairs: Path, tmp_path: Path, name: str, validated: bool
) -> None:
    overrides, width, files = SHIPPED[name]
    overrides = [override.replace("MINED", MINED % pairs).replace("SCORED", SCORED % pairs) for override in overrides]
    overrides += [] if validated else ["data.validation=[]"]
    recipe = make_recipe("training.max_steps=1", *overrides, name=name, bf16=None)
    model = train(recipe, tmp_path / "run")
    assert model == tmp_path / "run" / "model"
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    always = {".lock", "recipe.yaml", "versions.json", "data.json", "model", "result.json"}
    trained = set() if name == "rotation" else {"metrics.jsonl", "checkpoints"}
    assert result.get("steps") == (1 if trained else None)
    written = {file.name for file in (tmp_path / "run").iterdir()}
    assert written == always | trained | files | ({"start.json"} if validated else set())
    assert (model / "codec.json").exists() == (name == "rotation")  # of vectors that no training has changed since
    assert SentenceTransformer(str(model), device="cpu").encode(["a dog"]).shape == (1, width)
    card = (model / "README.md").read_text(encoding="utf-8")
    assert ("starting model" in card) == validated


@pytest.mark.slow
def test_the_saved_model_is_a_plain_sentence_transformers_model(finished: RunFolder) -> None:
    texts = ["the dog sleeps", "a red car and a train"]
    plain, ours = (kind(str(finished.model), device="cpu") for kind in (SentenceTransformer, MatryoshkaEncoder))
    for dim in (8, 32):
        expected = plain.encode(texts, truncate_dim=dim, normalize_embeddings=True)
        np.testing.assert_allclose(ours.encode(texts, dim=dim), expected, atol=1e-6)
    assert plain.max_seq_length == 64
    assert ours.matryoshka_dims == (8, 16, 32)
    config = json.loads((finished.model / "config.json").read_text(encoding="utf-8"))
    assert (config["matryoshka_dimensions"], config["is_matryoshka"]) == ([8, 16, 32], True)


@pytest.mark.slow
def test_a_run_records_its_recipe_versions_and_result(
    finished: RunFolder, make_recipe: MakeRecipe, tiny_bert: Path
) -> None:
    assert load_recipe(str(finished.recipe)) == make_recipe()
    versions = json.loads((finished.path / "versions.json").read_text(encoding="utf-8"))
    assert versions["torch"] == torch.__version__
    assert versions.keys() >= {"python", "platform", "mrl-text", "sentence-transformers", "transformers", "datasets"}
    result = json.loads(finished.result.read_text(encoding="utf-8"))
    assert (result["steps"], result["device"], result["mixed_precision"]) == (STEPS, "cpu", "no")
    assert result["last_loss"] == losses(finished)[STEPS]
    assert result["base_model"]["name"] == f"local/{tiny_bert.name}"
    assert re.fullmatch("[0-9a-f]{16}", result["base_model"]["revision"])


def test_every_step_is_logged_and_validation_scores_every_size(finished: RunFolder) -> None:
    entries = logged(finished)
    assert [entry["step"] for entry in entries if "loss" in entry] == list(range(1, STEPS + 1))
    validated = [entry for entry in entries if any("ndcg" in key for key in entry)]
    assert [entry["step"] for entry in validated] == [4, 8]
    for entry in validated:
        scores = {key: value for key, value in entry.items() if "ndcg" in key}
        assert list(scores) == [f"eval_validation_dim{dim}_ndcg@10" for dim in (8, 16, 32)]
        assert all(0 < score <= 1 for score in scores.values())


@pytest.mark.slow
def test_training_lowers_the_loss(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Epoch against epoch: each has every row once, so that it does not matter which rows share a batch."""
    folder = RunFolder(tmp_path / "run")
    train(make_recipe("training.max_steps=32", "data.validation=[]"), folder.path)
    values = list(losses(folder).values())
    assert len(values) == 32
    first, *others = (sum(values[start : start + 8]) for start in range(0, 32, 8))
    assert max(others) < first
    assert others[-1] < 0.8 * first


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(
    finished: RunFolder, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    again, other = RunFolder(tmp_path / "again"), RunFolder(tmp_path / "other")
    train(make_recipe(), again.path)
    train(make_recipe("training.seed=7"), other.path)
    for name, weight in weights(finished).items():
        assert torch.equal(weights(again)[name], weight), name
    with pytest.raises(AssertionError):
        assert_same_weights(finished, other)


@pytest.mark.slow
def test_blended_weights_lie_between_the_start_and_the_trained_ones(
    finished: RunFolder, make_recipe: MakeRecipe, tiny_bert: Path, tmp_path: Path
) -> None:
    half = RunFolder(tmp_path / "half")
    train(make_recipe("model.blend=0.25"), half.path)
    start, trained = load_file(tiny_bert / "model.safetensors"), weights(finished)
    for name, weight in weights(half).items():
        torch.testing.assert_close(weight, 0.75 * start[name] + 0.25 * trained[name], msg=name)
    assert any(not torch.equal(trained[name], start[name]) for name in trained)


@pytest.mark.slow
def test_a_shorter_limit_for_training_is_not_saved(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    short, cut = RunFolder(tmp_path / "short"), RunFolder(tmp_path / "cut")
    train(make_recipe("model.max_seq_length=32", "model.train_seq_length=4", "training.max_steps=2"), short.path)
    train(make_recipe("model.max_seq_length=4", "training.max_steps=2"), cut.path)
    assert MatryoshkaEncoder(str(short.model), device="cpu").max_seq_length == 32
    assert_same_weights(short, cut)


@pytest.mark.slow
def test_frozen_embeddings_stay_and_everything_else_learns(
    finished: RunFolder, make_recipe: MakeRecipe, tiny_bert: Path, tmp_path: Path
) -> None:
    before = load_file(tiny_bert / "model.safetensors")
    thawed = RunFolder(tmp_path / "thawed")
    train(make_recipe("model.freeze_embeddings=false"), thawed.path)
    assert torch.equal(weights(finished)[EMBEDDINGS], before[EMBEDDINGS])
    assert not torch.equal(weights(thawed)[EMBEDDINGS], before[EMBEDDINGS])
    layer = "encoder.layer.1.output.dense.weight"
    assert not torch.equal(weights(finished)[layer], before[layer])


@pytest.mark.slow
def test_cached_gradients_and_dropout_off_reach_the_weights_of_plain_training(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    plain, cached = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "cached")
    train(make_recipe("model.dropout=0", "training.max_steps=2"), plain.path)
    train(make_recipe("model.dropout=0", "training.max_steps=2", "loss.mini_batch_size=3"), cached.path)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(cached)[name], weight, rtol=0, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, triplets: list[dict[str, str]]) -> Path:
    """A file of texts alone."""
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": row["positive"]}) + "\n" for row in triplets), encoding="utf-8")
    return file


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["no_duplicates", "neighbours", "by_length"])
@pytest.mark.parametrize("teacher", ["base", "self", "another", "both"])
def test_self_distillation_trains_on_texts_alone(
    make_recipe: MakeRecipe,
    texts: Path,
    tiny_bert: Path,
    other_model: Path,
    tmp_path: Path,
    batches: str,
    teacher: str,
) -> None:
    others = teacher in ("another", "both")
    teacher = {"another": str(other_model), "both": f"[{other_model},base]"}.get(teacher, teacher)
    source = f"data.train=[{{source: {texts}, columns: [text]}}]"
    loss = ["loss.name=self_distillation", f"loss.teacher={teacher}", "model.prompts={query: 'the '}"]
    folder = RunFolder(tmp_path / "run")
    train(make_recipe(source, *loss, f"data.batches={batches}", "data.validation=[]"), folder.path)
    assert len(losses(folder)) == STEPS
    assert {key for entry in logged(folder) for key in entry if key.startswith("distill")} == {
        f"distill_dim{dim}" for dim in (8, 16, 32)
    }
    layer = "encoder.layer.1.output.dense.weight"
    assert not torch.equal(weights(folder)[layer], load_file(tiny_bert / "model.safetensors")[layer])
    frozen = json.loads(folder.result.read_text(encoding="utf-8")).get("frozen_models", {})
    assert frozen == ({"local/other-model": find_model(str(other_model)).revision} if others else {})
    card = (folder.model / "README.md").read_text(encoding="utf-8")
    assert "<code>anchor</code>" in card
    assert "<code>teacher</code>" not in card


@pytest.mark.slow
def test_scores_of_a_model_or_in_the_data_are_learned_alike(
    make_recipe: MakeRecipe, triplets: list[dict[str, str]], cross_encoder: Path, tmp_path: Path
) -> None:
    loss = ["loss.name=score_distillation", "data.validation=[]"]
    by_model = RunFolder(tmp_path / "by-model")
    train(make_recipe(*loss, f"loss.cross_encoder={cross_encoder}"), by_model.path)
    scores = add_scores(Dataset.from_list(triplets), find_model(str(cross_encoder))).with_format(None)["label"][:]
    rows = [{**row, "scores": given} for row, given in zip(triplets, scores, strict=True)]
    file = tmp_path / "scored.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    by_data = RunFolder(tmp_path / "by-data")
    source = f"{{source: {file}, columns: [anchor, positive, negative, scores]}}"
    train(make_recipe(*loss, f"data.train=[{source}]"), by_data.path)
    found, expected = losses(by_model), losses(by_data)
    assert len(found) == STEPS
    assert found == pytest.approx(expected, abs=1e-4)
    assert {key for entry in logged(by_model) for key in entry if key.startswith("score")} == {
        f"score_dim{dim}" for dim in (8, 16, 32)
    }
    assert min(list(found.values())[-3:]) < max(list(found.values())[:3])


@pytest.mark.slow
def test_codes_join_after_their_share_of_the_steps_and_change_what_is_learned(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    codes = ["loss.precisions=[float32,int2]", "loss.precision_weights=[1,2]", "loss.codes_from=0.5"]
    coded, plain = RunFolder(tmp_path / "coded"), RunFolder(tmp_path / "plain")
    train(make_recipe("loss.spread_out=0.1", *codes), coded.path)
    train(make_recipe("loss.spread_out=0.1"), plain.path)
    values = [entry["infonce_dim32_int2"] for entry in logged(coded) if "infonce_dim32_int2" in entry]
    half = STEPS // 2
    assert values[:half] == [0] * half
    assert min(values[half:]) > 0
    found, expected = losses(coded), losses(plain)
    assert [found[step] == expected[step] for step in range(1, half + 2)] == [True] * half + [False]
    layer = "encoder.layer.1.output.dense.weight"
    assert not torch.equal(weights(coded)[layer], weights(plain)[layer])


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["score_distillation", "matryoshka"])
def test_losses_of_triplets_take_pairs_whose_negatives_are_mined(
    make_recipe: MakeRecipe, triplets: list[dict[str, str]], cross_encoder: Path, tmp_path: Path, loss: str
) -> None:
    file = tmp_path / "pairs.csv"
    rows = [f"{row['anchor']},{row['positive']}" for row in triplets]
    file.write_text("\n".join(["anchor,positive", *rows]), encoding="utf-8")
    own = {"score_distillation": f"cross_encoder={cross_encoder}", "matryoshka": "inner=TripletLoss"}[loss]
    mined = "mine_negatives: {num: 1, range_min: 0, relative_margin: null}"
    source = f"data.train=[{{source: {file}, {mined}}}]"
    folder = RunFolder(tmp_path / "run")
    train(make_recipe(source, f"loss.name={loss}", f"loss.{own}", "data.validation=[]"), folder.path)
    assert len(losses(folder)) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize(("margin", "masked"), [(2.5, True), (-2.5, False)])
def test_the_guide_of_a_recipe_reaches_the_loss(
    make_recipe: MakeRecipe, other_model: Path, tmp_path: Path, margin: float, masked: bool
) -> None:
    """With one margin every candidate but the positive is masked, with the other none."""
    guided = [f"loss.guide={other_model}", f"loss.margin={margin}", "training.max_steps=2", "loss.distill_weight=1"]
    runs = [RunFolder(tmp_path / name) for name in ("guided", "plain")]
    train(make_recipe(*guided, "data.validation=[]"), runs[0].path)
    train(make_recipe(*guided[2:], "data.validation=[]"), runs[1].path)
    contrast, plain = ([entry["infonce_dim32"] for entry in logged(run) if "loss" in entry] for run in runs)
    assert contrast == ([0.0, 0.0] if masked else plain)
    assert min(plain) > 0


@pytest.mark.slow
def test_a_rotation_is_fitted_on_texts_alone_and_changes_no_similarity(
    make_recipe: MakeRecipe, texts: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    source = f"data.train=[{{source: {texts}, columns: [text]}}]"
    model = train(make_recipe(source, "data.validation=[]", name="rotation"), tmp_path / "run")
    sentences = [json.loads(line)["text"] for line in texts.read_text(encoding="utf-8").splitlines()]
    before, after = (
        SentenceTransformer(str(folder), device="cpu").encode(sentences, normalize_embeddings=True)
        for folder in (tiny_bert, model)
    )
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)
    assert np.abs(after - before).max() > 0.01


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 60 questions that have six answers."""
    rows = [
        {"anchor": f"{WORDS[row % 40]} in {WORDS[row // 3]}", "positive": f"the {WORDS[row % 6]}"} for row in range(60)
    ]
    file = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.slow
def test_every_row_is_used_where_answers_repeat(make_recipe: MakeRecipe, questions: Path, tmp_path: Path) -> None:
    source = f"[{{source: {questions}}}]"
    sources = [f"data.train={source}", f"data.validation={source}"]
    folder = RunFolder(tmp_path / "run")
    train(make_recipe(*sources, "training.max_steps=-1", "training.per_device_train_batch_size=16"), folder.path)
    result = json.loads(folder.result.read_text(encoding="utf-8"))
    assert (result["steps"], result["rows_used"], result["data"]) == (10, 60, {"questions": 60})
    assert result["validation"]["queries"] == 60
    measured = {one["dim"]: (one["before"][0], one["after"][0]) for one in result["validation"]["sizes"]}
    before = json.loads((folder.path / "start.json").read_text(encoding="utf-8"))
    assert {int(dim): pytest.approx(np.mean(each)) for dim, each in before.items()} == {
        dim: first for dim, (first, _) in measured.items()
    }
    last = [entry for entry in logged(folder) if "eval_validation_dim8_ndcg@10" in entry][-1]
    assert last["step"] == 10
    for dim, (_, after) in measured.items():
        assert after == pytest.approx(last[f"eval_validation_dim{dim}_ndcg@10"])
    card = (folder.model / "README.md").read_text(encoding="utf-8")
    for first, second in measured.values():
        assert f"| {100 * first:.2f} | {100 * second:.2f} |" in card


def test_batches_that_cannot_be_filled_are_refused_before_the_model_is_loaded(
    make_recipe: MakeRecipe, questions: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(base_module, "load", refuse_model)
    source = f"data.train=[{{source: {questions}}}]"
    with pytest.raises(
        ValueError, match="questions: 60 rows with only 6 different texts in a column make no batch of 8"
    ):
        train(make_recipe(source, "training.dataloader_drop_last=true"), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["", "mined", "taught"])
def test_the_prompts_of_the_base_are_those_of_the_training(
    make_recipe: MakeRecipe, pairs: Path, tiny_bert: Path, tmp_path: Path, source: str
) -> None:
    prompts = {"query": "the fast ", "document": "a slow "}
    base = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    base.prompts = dict(prompts)
    base.save(str(tmp_path / "base"))
    options = ["training.max_steps=2", "data.validation=[]", "model.max_seq_length=64"]
    options += [f"data.train=[{MINED % pairs}]"] if source == "mined" else []
    options += ["loss.distill_weight=1"] if source == "taught" else []
    own, given, without = (RunFolder(tmp_path / name) for name in ("own", "given", "without"))
    train(make_recipe(*options, f"model.name={tmp_path / 'base'}"), own.path)
    train(make_recipe(*options, f"model.prompts={prompts}"), given.path)
    train(make_recipe(*options), without.path)
    assert_same_weights(own, given)
    with pytest.raises(AssertionError):
        assert_same_weights(own, without)


MISTAKES = [
    ("loss.dims=[8,64]", ValueError, "loss.dims asks for 64, but .*tiny-bert.* has width 32"),
    ("eval.dims=[48]", ValueError, "eval.dims asks for 48, but .*tiny-bert.* has width 32"),
    ("data.train[0].source=/nowhere/pairs.jsonl", FileNotFoundError, "no training data at /nowhere/pairs.jsonl"),
    ("data.validation[0].source=nowhere.csv", FileNotFoundError, "no validation data at nowhere.csv"),
    ("data.train=[{source: docstrings, packages: [json]}]", ValueError, "json are held out for evaluation"),
    ("model.name=/nowhere/model", FileNotFoundError, "no model at /nowhere/model"),
    ("model.width=48", ValueError, "^model.width=48, but .*tiny-bert.* has only 32"),
    ("model.width=16", ValueError, "loss.dims asks for 32, but .*tiny-bert.* has width 16"),
    (
        "training.lr_scheduler_type=banana",
        ValueError,
        "^training.lr_scheduler_type 'banana' is unknown; known: .*cosine",
    ),
    ("training.lr_scheduler_type=warmup_stable_decay", ValueError, "^training.lr_scheduler_type=.* 'num_decay_steps'"),
    ("training.lr_scheduler_kwargs={depth: 1}", ValueError, "^training.lr_scheduler_kwargs={'depth': 1}: .*'depth'"),
    ("training.save_steps=2.5", ValueError, "^training.save_steps=2.5: --save_steps must be an integer"),
    ("training.save_steps=0", ValueError, "^training.save_steps=0: must be above 0"),
    ("training.save_total_limit=0", ValueError, "^training.save_total_limit=0: must be at least 1"),
    ("training.eval_strategy=often", ValueError, "^training.eval_strategy 'often' is unknown; known: epoch, no, steps"),
    ("training.eval_steps=-3", ValueError, "^training.eval_steps=-3: must be above 0"),
    ("training.optim=adamw_8bit", ValueError, "^training.optim=adamw_8bit: You need to install `bitsandbytes`"),
    (
        "training.optim_args=fast",
        ValueError,
        "^training.optim_args=fast: has no effect without an optim that reads them",
    ),
    ("training.adam_beta1=1.0", ValueError, "^training.adam_beta1=1.0: Invalid beta parameter"),
    ("training.weight_decay=.nan", ValueError, "^training.weight_decay=nan: must be a finite number"),
    ("training.learning_rate=.nan", ValueError, "^training.learning_rate=nan: must be a finite number"),
    (
        "training.gradient_accumulation_steps=0",
        ValueError,
        "^training.gradient_accumulation_steps=0: must be at least 1",
    ),
    (
        "training.dataloader_persistent_workers=true",
        ValueError,
        "^training.dataloader_persistent_workers=True: .* needs",
    ),
    ("training.fsdp=full_shard", ValueError, "^training.fsdp=full_shard: Using fsdp only works in distributed"),
    ("training.fp16=true", ValueError, "^training.fp16=True needs a CUDA GPU"),
    (
        "training.torch_compile_mode=fast",
        ValueError,
        "^training.torch_compile_mode 'fast' is unknown; known: .*default",
    ),
    ("training.learning_rate_mapping={'(': 1e-4}", ValueError, r"^training.learning_rate_mapping=.*'\(' is no regular"),
    ("training.log_level=loud", ValueError, "^training.log_level 'loud' is unknown"),
    ("training.report_to=wandb", ValueError, "^training.report_to=wandb: wandb is not installed: pip install wandb"),
    ("training.report_to=[wand]", ValueError, "^training.report_to 'wand' is unknown; did you mean 'wandb'"),
    ("training.batch_sampler=group_by_label", ValueError, "^training.batch_sampler=group_by_label: None of the valid"),
    (
        "training.metric_for_best_model=loss",
        ValueError,
        "^training.metric_for_best_model 'loss' is unknown; known: valid",
    ),
    ("training.learning_rate=fast", ValueError, "^training.*learning_rate"),
    ("training.max_steps=0", ValueError, "^training.max_steps=0: must be at least 1, or -1 to go by num_train_epochs"),
    ("training.max_steps=many", ValueError, "^training.*max_steps"),
    ("training.seed=lucky", ValueError, "^training.*seed"),
    ("training.per_device_train_batch_size=0", ValueError, "^training.*per_device_train_batch_size"),
    ("training.per_device_eval_batch_size=big", ValueError, "^training.*per_device_eval_batch_size"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("override", "error", "message"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_mistakes_are_found_before_anything_is_loaded_or_written(
    make_recipe: MakeRecipe,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    override: str,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(base_module, "MatryoshkaEncoder", refuse_model)
    recipe = make_recipe(override)
    with pytest.raises(error, match=message) as refused:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_run_that_failed_on_its_data_can_be_started_again_with_other_columns(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(base_module, "MatryoshkaEncoder", refuse_model)
    for wrong in ("data.train[0].columns=[anchor,answer]", "data.validation[0].columns=[anchor,answer]"):
        with pytest.raises(ValueError, match="has no column 'answer'"):
            train(make_recipe(wrong), tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_broke_off_before_its_first_checkpoint_can_be_begun_anew(
    make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step 1, before any weight was changed: lower loss.scale"
    ):
        train(make_recipe("loss.scale=1e39"), folder.path)
    (folder.path / "notes.txt").write_text("mine", encoding="utf-8")
    folder.metrics.write_text('{"step": 1, "loss": 1.0}\n', encoding="utf-8")  # of what broke off
    with pytest.raises(ValueError, match="with another recipe"):
        train(make_recipe("training.max_steps=1"), folder.path, resume=True)
    with caplog.at_level("INFO"):
        train(make_recipe("training.max_steps=1", "data.validation=[]"), folder.path)
    assert "broke off before its first checkpoint, and is begun anew" in caplog.text
    assert not folder.before.exists(), "of the start that failed"
    assert (folder.path / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert list(losses(folder)) == [1]
    assert losses(folder)[1] > 1
    assert load_recipe(str(folder.recipe)).data.validation == []
    with pytest.raises(FileExistsError, match="already holds a run: continue it with --resume"):
        train(make_recipe("training.max_steps=1"), folder.path)


def test_a_folder_with_a_recipe_of_its_own_is_no_start_that_failed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("# by hand\nmodel: {}\n", encoding="utf-8")
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(make_recipe(), tmp_path)
    assert contents(tmp_path) == {"recipe.yaml": b"# by hand\nmodel: {}\n"}


def test_a_folder_that_another_process_trains_in_is_refused_and_a_lock_left_behind_is_not_in_the_way(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(base_module, "MatryoshkaEncoder", refuse_model)
    folder = RunFolder(tmp_path / "run")
    holding = (
        "import sys, time; from pathlib import Path; from mrl_text.files import hold; held = hold(Path(sys.argv[1]))"
    )
    script = f"{holding}; print('held', flush=True); time.sleep(600)"
    process = Started(script, folder.path)
    process.stdout.readline()
    try:
        for resume in (False, True):
            with pytest.raises(
                ValueError, match=f"^process {process.pid} on {platform.node()} is writing into .*run: wait"
            ):
                train(make_recipe(), folder.path, resume=resume)
    finally:
        process.kill()
        process.wait()
    with pytest.raises(ValueError, match="has no column 'answer'"):  # the lock is free
        train(make_recipe("data.train[0].columns=[anchor,answer]"), folder.path)


@pytest.mark.slow
def test_a_score_that_falls_ends_with_the_weights_that_scored_best(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scores, lengths = iter([0.1, 0.5, 0.9, 0.4, 0.3, 0.9]), []

    def measured(self: NestedRetrievalEvaluator, model: MatryoshkaEncoder) -> dict[int, np.ndarray]:
        lengths.append(model.max_seq_length)
        score = next(scores)
        return {dim: np.full(len(self.queries), score if dim == 32 else 1 - score) for dim in (8, 16, 32)}

    monkeypatch.setattr(NestedRetrievalEvaluator, "measure", measured)
    folder = RunFolder(tmp_path / "run")
    best = "training.load_best_model_at_end=true"
    train(
        make_recipe(
            best, "training.eval_steps=2", "training.save_steps=2", "model.max_seq_length=8", "model.train_seq_length=4"
        ),
        folder.path,
    )
    assert lengths == [8] * 6, "before, at four steps and after, at the length that is saved"
    assert json.loads(folder.result.read_text(encoding="utf-8"))["best_step"] == 4
    kept, last = (load_file(folder.checkpoints / f"checkpoint-{step}" / "model.safetensors") for step in (4, 8))
    assert [name for name, value in weights(folder).items() if not torch.equal(value, kept[name])] == []
    assert any(not torch.equal(kept[name], last[name]) for name in kept)


@pytest.mark.parametrize(
    "override",
    [
        "load_best_model_at_end=true",
        "save_strategy=best",
        "eval_strategy=steps",
        "lr_scheduler_type=reduce_lr_on_plateau",
    ],
)
def test_what_needs_scores_needs_validation_data(make_recipe: MakeRecipe, tmp_path: Path, override: str) -> None:
    with pytest.raises(ValueError, match=f"^training.{override.partition('=')[0]}=.* needs validation data"):
        training_arguments(make_recipe(f"training.{override}", "data.validation=[]"), tmp_path)


def test_yaml_words_for_no_and_nothing_are_taken_as_they_are_meant(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    words = ["save_strategy=no", "eval_strategy=no", "report_to=null", "save_total_limit=null"]
    arguments = training_arguments(make_recipe(*(f"training.{word}" for word in words)), tmp_path / "run")
    assert (arguments.save_strategy, arguments.eval_strategy) == ("no", "no")
    assert (arguments.report_to, arguments.save_total_limit) == ([], None)
    assert not (tmp_path / "run").exists()


def test_the_best_step_is_chosen_by_the_largest_size_unless_told_otherwise(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    best = make_recipe("training.load_best_model_at_end=true", "training.save_steps=4")
    arguments = training_arguments(best, tmp_path)
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == ("validation_dim32_ndcg@10", True)
    told = training_arguments(
        make_recipe("training.save_strategy=best", "training.metric_for_best_model=eval_validation_dim8_ndcg@10"),
        tmp_path,
    )
    assert told.metric_for_best_model == "eval_validation_dim8_ndcg@10"


@pytest.mark.slow
def test_a_damaged_score_of_the_start_is_measured_again(
    finished: RunFolder, make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, folder.path)
    folder.result.unlink()
    folder.before.write_text('{"8": 0.', encoding="utf-8")
    train(make_recipe(), folder.path, resume=True)
    assert f"{folder.before} is damaged: the starting model is measured again" in caplog.text
    assert folder.before.read_bytes() == finished.before.read_bytes()


def test_a_checkpoint_of_weights_alone_cannot_be_gone_on_from(
    finished: RunFolder, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, folder.path)
    folder.result.unlink()
    checkpoint = folder.last_checkpoint()
    assert checkpoint is not None
    (checkpoint / "optimizer.pt").unlink()
    monkeypatch.setattr(base_module, "MatryoshkaEncoder", refuse_model)
    before = contents(folder.path)
    message = "checkpoint-8 has no optimizer, .* warm-up and Adam would start over: train from its weights into another"
    with pytest.raises(ValueError, match=message):
        train(make_recipe(), folder.path, resume=True)
    assert contents(folder.path) == {**before, ".lock": contents(folder.path)[".lock"]}


@pytest.mark.slow
def test_weights_that_broke_in_the_last_step_are_not_saved(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    wild = (
        "training.learning_rate=1e38",
        "training.max_steps=1",
        "training.warmup_steps=0",
        "training.weight_decay=1.0e38",
    )
    with pytest.raises(FloatingPointError, match=r"holds NaN or infinity after the last step; lower training\.learn"):
        train(make_recipe(*wild), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_can_be_repeated_from_anywhere(
    make_recipe: MakeRecipe, pairs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(pairs.parent)
    (pairs.parent / "folder").mkdir(exist_ok=True)
    shutil.copy(pairs, pairs.parent / "folder")
    folder = RunFolder(tmp_path / "run")
    relative = ("data.train=[{source: folder, mine_negatives: {relative_margin: null}}, {source: docstrings}]",)
    relative += (
        f"data.validation=[{{source: {pairs.name}}}]",
        "data.check_against=[SciFact, folder]",
        "loss={name: self_distillation, dims: [8], teacher: [folder, base]}",
        "training.save_total_limit=null",
    )
    recipe = make_recipe(*relative)
    folder.start(located(recipe))
    monkeypatch.chdir(tmp_path)
    again = load_recipe(str(folder.recipe))
    assert [source.source for source in again.data.train] == [str(pairs.parent / "folder"), "docstrings"]
    assert again.data.train[0].label == "folder"
    assert again.data.train[0].mine_negatives.relative_margin is None
    assert again.data.validation[0].source == str(pairs)
    assert again.data.check_against == ["SciFact", str(pairs.parent / "folder")]
    assert again.loss.models == {"teacher": (str(pairs.parent / "folder"), "base")}
    assert again.training["save_total_limit"] is None
    folder.check(located(again), resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_things_in_it_is_left_alone(make_recipe: MakeRecipe, tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is not empty and holds no run"):
        train(make_recipe(), tmp_path, resume=resume)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_run_is_not_overwritten_unless_resumed(
    finished: RunFolder, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "MatryoshkaEncoder", refuse_model)
    before = contents(finished.path)
    with pytest.raises(FileExistsError, match="already holds a run: continue it with --resume"):
        train(make_recipe(), finished.path)
    with pytest.raises(ValueError, match=r"another recipe \(was 'learning_rate: 0.001', now 'learning_rate: 0.002'\)"):
        train(make_recipe("training.learning_rate=2e-3"), finished.path, resume=True)
    assert train(make_recipe(), finished.path, resume=True) == finished.model
    assert contents(finished.path) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_run_resumes_to_the_weights_of_an_undisturbed_one(
    finished: RunFolder,
    make_recipe: MakeRecipe,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    folder = RunFolder(tmp_path / "run")
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_log", at_step(3, lambda: signal.raise_signal(number)))
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step [34] of {STEPS}"):
            train(make_recipe(), folder.path)
    assert signal.getsignal(number) is handler
    saved = folder.last_checkpoint()
    assert saved is not None
    assert saved.name in ("checkpoint-3", "checkpoint-4")
    assert not folder.result.exists()
    assert not folder.model.exists()

    unfinished = folder.checkpoints / "checkpoint-6"  # the power went off while this one was written
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    train(make_recipe(), folder.path, resume=True)
    assert_same_weights(finished, folder)
    assert folder.result.exists()
    assert losses(folder) == pytest.approx(losses(finished))


@pytest.mark.slow
def test_a_second_interrupt_stops_at_once_and_resuming_starts_over(
    finished: RunFolder, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")

    def interrupt_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_log", at_step(3, interrupt_twice))
        with pytest.raises(KeyboardInterrupt):
            train(make_recipe(), folder.path)
    assert folder.last_checkpoint() is None
    assert logged(folder)[-1]["step"] == 3
    train(make_recipe(), folder.path, resume=True)
    assert_same_weights(finished, folder)
    steps = [entry["step"] for entry in logged(folder) if "loss" in entry]
    assert steps == list(range(1, STEPS + 1)), "steps that were repeated are logged twice"


@pytest.mark.slow
@pytest.mark.parametrize("state", [None, b"", b'{"global_step": 3', b"\xff\xfe\x00"])
def test_a_checkpoint_that_was_not_written_to_the_end_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, state: bytes | None
) -> None:
    folder = RunFolder(tmp_path)
    assert folder.last_checkpoint() is None
    for step in (2, 10, 9):
        (folder.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({}, folder.checkpoints / f"checkpoint-{step}" / name)
    for step in (2, 9):
        (folder.checkpoints / f"checkpoint-{step}" / "trainer_state.json").write_text("{}", encoding="utf-8")
    if state is not None:
        (folder.checkpoints / "checkpoint-10" / "trainer_state.json").write_bytes(state)
    found = folder.last_checkpoint()
    assert found is not None
    assert found.name == "checkpoint-9"
    assert "checkpoint-10 was not written to the end and is passed over" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("override", ["training.learning_rate=1e30", "loss.scale=1e39"])
def test_a_loss_that_is_no_number_stops_the_run(make_recipe: MakeRecipe, tmp_path: Path, override: str) -> None:
    folder = RunFolder(tmp_path / "run")
    cause = "training.learning_rate" if "rate" in override else "loss.scale"
    with pytest.raises(FloatingPointError, match=rf"the loss is (nan|inf) at step \d.* lower {cause}"):
        train(make_recipe(override, "training.warmup_steps=0"), folder.path)
    assert not folder.result.exists()
    assert not folder.model.exists()


@pytest.mark.slow
def test_a_run_that_broke_down_leaves_a_checkpoint_from_before(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    rarely_logged = ("training.logging_steps=4", "training.save_steps=1")
    with pytest.raises(FloatingPointError):
        train(make_recipe("training.learning_rate=1e30", "training.warmup_steps=0", *rarely_logged), folder.path)
    saved = folder.last_checkpoint()
    assert saved is not None
    for name, weight in load_file(saved / "model.safetensors").items():
        assert weight.isfinite().all(), f"{saved.name}: {name}"


@pytest.mark.slow
@pytest.mark.parametrize("saved_in", ["bfloat16", "float16"])
def test_training_of_a_base_saved_in_fewer_bits_moves_its_weights(
    make_recipe: MakeRecipe, tiny_bert: Path, tmp_path: Path, saved_in: str
) -> None:
    base = MatryoshkaEncoder(str(tiny_bert), device="cpu").to(getattr(torch, saved_in))
    base.save(str(tmp_path / "base"))
    run = train(make_recipe(f"model.name={tmp_path / 'base'}", "training.learning_rate=1e-5"), tmp_path / "run")
    trained = MatryoshkaEncoder(str(run), device="cpu")
    assert trained.dtype == torch.float32
    before = {name: value.float() for name, value in base.state_dict().items()}
    moved = [
        (value != before[name]).float().mean()
        for name, value in trained.state_dict().items()
        if "attention" in name and name.endswith("weight")
    ]
    assert min(moved) > 0.9  # steps of 1e-5 are too small for weights in fewer bits
