from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from transformers import (
    AutoModel,
    DistilBertConfig,
    FNetConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    Qwen3Config,
)

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.training.adapters import METHODS, adapter_config, attach_adapters, merge_adapters, try_adapters
from mrl_text.training.callbacks import MetricsLog
from mrl_text.training.recipe import Recipe
from mrl_text.training.run import RunFolder
from mrl_text.training.trainer import train
from tests.training.runs import at_step

STEPS = 6
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
Options = dict[str, Any]
OPTIONS: dict[str, Options] = {
    "MISS": {"r": 4},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"scaling": 10.0},
    "LN_TUNING": {"target_modules": ["LayerNorm"]},
}
"""What some methods need for matrices of 32 x 32."""


@pytest.fixture
def texts(triplets: list[dict[str, str]]) -> list[str]:
    return [row["positive"] for row in triplets[:20]]


@pytest.fixture
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    return MatryoshkaEncoder(str(tiny_bert), device="cpu")


def moved(model: MatryoshkaEncoder) -> None:
    """Give what is trained other values, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("method", METHODS)
def test_merged_weights_compute_what_the_adapters_computed(
    model: MatryoshkaEncoder, texts: list[str], method: str
) -> None:
    names, before = set(model.state_dict()), model.encode(texts)
    attach_adapters(model, {"peft_type": method, **OPTIONS.get(method, {})}, seed=0)
    moved(model)
    adapted = model.encode(texts)
    merge_adapters(model)
    np.testing.assert_allclose(model.encode(texts), adapted, atol=1e-6)
    assert np.abs(adapted - before).max() > 1e-3
    assert set(model.state_dict()) == names


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"use_rslora": True, "r": 4, "lora_alpha": 8, "lora_dropout": 0.5},
        {"modules_to_save": ["pooler"]},
        {"trainable_token_indices": [3, 5]},
        {"bias": "all"},
        {"target_modules": ["query"], "layers_to_transform": [1]},
        {"target_modules": "all-linear"},
    ],
    ids=str,
)
def test_variants_of_lora_are_merged_too(model: MatryoshkaEncoder, texts: list[str], options: Options) -> None:
    names = set(model.state_dict())
    attach_adapters(model, options, seed=0)
    moved(model)
    adapted = model.encode(texts)
    merge_adapters(model)
    np.testing.assert_allclose(model.encode(texts), adapted, atol=1e-6)
    assert set(model.state_dict()) == names


Make = Callable[..., Recipe]
ADAPTERS = {"peft": {"r": 4, "lora_dropout": 0.1}}


@pytest.fixture(scope="module")
def make(small_recipe: Make) -> Make:
    """A recipe with adapters on the tiny BERT, which has dropout of its own."""
    return lambda **options: small_recipe(**{"training": {}, **ADAPTERS, **options})


@pytest.fixture(scope="module")
def finished(make: Make, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nothing disturbed; tests only read it."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "finished")
    train(make(), folder.path)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.slow
def test_what_is_saved_is_a_plain_model_with_the_vectors_of_the_adapters(
    finished: RunFolder, tiny_bert: Path, texts: list[str]
) -> None:
    assert not list(finished.model.rglob("adapter*"))
    last = finished.checkpoints / f"checkpoint-{STEPS}"
    assert (last / "adapter_model.safetensors").exists()
    plain, adapted, base = (
        SentenceTransformer(str(folder), device="cpu").encode(texts) for folder in (finished.model, last, tiny_bert)
    )
    np.testing.assert_allclose(plain, adapted, atol=1e-6)
    assert np.abs(plain - base).max() > 1e-2
    before, after = weights(tiny_bert), weights(finished.model)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in before if name.endswith(("query.weight", "value.weight"))}


@pytest.mark.slow
def test_a_run_gives_the_weights_of_sentence_transformers_own(
    make: Make, tiny_bert: Path, triplets: list[dict[str, str]], tmp_path: Path
) -> None:
    from datasets import Dataset
    from transformers import set_seed

    plain = {"optim": "sgd", "learning_rate": 0.5, "per_device_train_batch_size": 24, "max_steps": 3, "bf16": False}
    plain |= {"lr_scheduler_type": "constant", "warmup_steps": 0, "use_cpu": True, "weight_decay": 0.0, "seed": 42}
    options = {"r": 4, "lora_alpha": 16}  # peft's own targets are ours
    ours = train(make(dropout=0, peft=options, training=plain), tmp_path / "run")

    model = SentenceTransformer(str(tiny_bert), device="cpu")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    set_seed(42)
    model.add_adapter(LoraConfig(**options))
    loss = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), [8, 16, 32])
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "plain"), save_strategy="no", report_to="none", disable_tqdm=True, **plain
    )
    rows = Dataset.from_list(triplets[:24])  # all in one batch, whose order does not matter
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    texts = [row["positive"] for row in triplets]
    found = SentenceTransformer(str(ours), device="cpu").encode(texts)
    np.testing.assert_allclose(found, model.encode(texts), atol=1e-5)
    assert np.abs(found - SentenceTransformer(str(tiny_bert), device="cpu").encode(texts)).max() > 1e-3


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_weights_of_an_undisturbed_one(
    finished: RunFolder, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_log", at_step(3, lambda: signal.raise_signal(signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step [34] of {STEPS}"):
            train(make(), folder.path)
    train(make(), folder.path, resume=True)
    for name, weight in weights(finished.model).items():
        torch.testing.assert_close(weights(folder.model)[name], weight, rtol=0, atol=1e-7, msg=name)


@pytest.mark.slow
def test_the_adapters_that_scored_best_are_merged(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, texts: list[str]
) -> None:
    scores = iter([0.1, 0.9, 0.4, 0.3, 0.9])
    monkeypatch.setattr(
        "mrl_text.training.evaluator.NestedRetrievalEvaluator.measure",
        lambda self, model: dict.fromkeys((8, 16, 32), np.full(len(self.queries), next(scores))),
    )
    folder = RunFolder(tmp_path / "run")
    train(make(training={"load_best_model_at_end": True}), folder.path)
    assert json.loads(folder.result.read_text(encoding="utf-8"))["best_step"] == 2
    saved, best, last = (
        SentenceTransformer(str(one), device="cpu").encode(texts)
        for one in (folder.model, *(folder.checkpoints / f"checkpoint-{step}" for step in (2, STEPS)))
    )
    np.testing.assert_allclose(saved, best, atol=1e-6)
    assert np.abs(saved - last).max() > 1e-3


@pytest.mark.slow
def test_a_checkpoint_finds_its_base_from_anywhere(
    make: Make, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, texts: list[str]
) -> None:
    monkeypatch.chdir(tiny_bert.parent)
    model = train(make(name=tiny_bert.name, training={"max_steps": 1, "save_steps": 1}), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    checkpoint = SentenceTransformer(str(tmp_path / "run" / "checkpoints" / "checkpoint-1"), device="cpu")
    expected = SentenceTransformer(str(model), device="cpu").encode(texts)
    np.testing.assert_allclose(checkpoint.encode(texts), expected, atol=1e-6)


@pytest.mark.slow
def test_a_share_of_merged_adapters_is_kept(finished: RunFolder, make: Make, tiny_bert: Path, tmp_path: Path) -> None:
    model = train(make(blend=0.25), tmp_path / "run")
    start, trained = weights(tiny_bert), weights(finished.model)
    for name, weight in weights(model).items():
        torch.testing.assert_close(weight, 0.75 * start[name] + 0.25 * trained[name], msg=name)


@pytest.mark.slow
def test_adapters_train_beside_a_rotation(make: Make, tiny_bert: Path, tmp_path: Path, texts: list[str]) -> None:
    options = {"rotation": True, "freeze_embeddings": True}
    model = train(make(**options, loss={"distill_weight": 1.0}, training={"max_steps": 2}), tmp_path / "run")
    plain = SentenceTransformer(str(model), device="cpu")
    assert [type(module).__name__ for module in plain] == ["Transformer", "Pooling", "Dense"]
    rotation = plain[2].linear.weight.detach().numpy()
    assert np.abs(rotation @ rotation.T - np.eye(32)).max() > 1e-4, "it is trained, too"
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(32), atol=0.2)
    before, after = weights(tiny_bert), weights(model)
    assert torch.equal(after["embeddings.word_embeddings.weight"], before["embeddings.word_embeddings.weight"])
    query = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(after[query], before[query])


BACKBONES: dict[str, tuple[PretrainedConfig, set[str]]] = {
    "mpnet": (MPNetConfig(**WIDE, vocab_size=60), {"q", "v"}),
    "distilbert": (DistilBertConfig(dim=32, hidden_dim=64, n_heads=2, n_layers=1, vocab_size=60), {"q_lin", "v_lin"}),
    "modernbert": (ModernBertConfig(**WIDE, vocab_size=60, pad_token_id=0, reference_compile=False), {"Wqkv"}),
    "qwen3": (Qwen3Config(**WIDE, vocab_size=60, num_key_value_heads=1, head_dim=16), {"q_proj", "v_proj"}),
    "mixer": (FNetConfig(**WIDE, vocab_size=60), {"dense", "projection"}),  # has no attention
}


@pytest.mark.parametrize("kind", BACKBONES)
def test_query_and_value_are_adapted_where_nothing_is_said(model: MatryoshkaEncoder, kind: str) -> None:
    config, expected = BACKBONES[kind]
    model[0].model = AutoModel.from_config(config)
    attach_adapters(model, {"r": 2}, seed=0)
    adapted = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert {name.rpartition(".")[2] for name in adapted} == expected


def test_adapters_begin_as_the_seed_says_and_change_nothing(
    model: MatryoshkaEncoder, tiny_bert: Path, texts: list[str]
) -> None:
    others = [MatryoshkaEncoder(str(tiny_bert), device="cpu") for _ in range(2)]
    before = model.encode(texts)
    for one, seed in zip((model, *others), (1, 1, 2), strict=True):
        attach_adapters(one, {}, seed=seed)
        torch.rand(3)  # whatever is drawn in between
    np.testing.assert_allclose(model.encode(texts), before, atol=1e-6)
    name = next(name for name in model.state_dict() if "lora_A" in name)
    first, same, other = (one.state_dict()[name] for one in (model, *others))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_base_saved_as_adapters_is_merged_first(
    make: Make, model: MatryoshkaEncoder, texts: list[str], tmp_path: Path
) -> None:
    from mrl_text.training.base import check_recipe, load_base

    model.add_adapter(LoraConfig(target_modules=["query"]))
    moved(model)
    expected = model.encode(texts)
    model.save(str(tmp_path / "adapted"))
    assert (tmp_path / "adapted" / "adapter_config.json").exists()
    recipe = make(name=str(tmp_path / "adapted"))
    loaded = load_base(recipe, check_recipe(recipe)).to("cpu")
    np.testing.assert_allclose(loaded.encode(texts), expected, atol=1e-6)
    assert not [name for name in loaded.state_dict() if "lora" in name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft_type": "lora"}, "model.peft.peft_type=lora: not among the methods that become weights, LORA, LOHA"),
        ({"peft_type": "PREFIX_TUNING"}, "model.peft.peft_type=PREFIX_TUNING: not among the methods"),
        ({"rank": 8}, "model.peft.rank: no argument of LORA that a recipe takes"),
        ({"lora_alhpa": 8}, "model.peft.lora_alhpa: .*did you mean 'lora_alpha'"),
        ({"r": "8"}, "model.peft.r=8: Input should be a valid integer"),
        ({"r": 0}, "model.peft: .*should be a positive integer value"),
        ({"task_type": "CAUSAL_LM"}, "model.peft.task_type: no argument of LORA that a recipe takes"),
        ({"loftq_config": {}}, "model.peft.loftq_config: no argument of LORA that a recipe takes"),
        ({"init_lora_weights": "eva"}, "model.peft.init_lora_weights=eva: needs more than a recipe can say"),
        ({"target_modules": ["q_proj"]}, "model.peft: Target modules .*q_proj.* not found"),
    ],
    ids=str,
)
def test_what_peft_cannot_do_is_refused_in_a_line(model: MatryoshkaEncoder, options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        try_adapters(model, options, freeze_embeddings=False)
    assert "\n" not in str(caught.value)


def test_trying_out_leaves_the_model_as_it_is(model: MatryoshkaEncoder) -> None:
    names = set(model.state_dict())
    try_adapters(model, {}, freeze_embeddings=True)
    assert set(model.state_dict()) == names
    assert all(weight.requires_grad for weight in model.parameters())


def test_adapters_of_frozen_embeddings_are_refused(model: MatryoshkaEncoder) -> None:
    with pytest.raises(ValueError, match=r"model.freeze_embeddings=true, but model.peft adapts the token embeddings"):
        try_adapters(model, {"target_modules": ["word_embeddings"]}, freeze_embeddings=True)


def test_where_nothing_is_trained_there_is_nothing_to_adapt(make: Make) -> None:
    with pytest.raises(ValueError, match=r"model.peft: loss.name rotation trains no encoder: leave it out"):
        make(loss={"name": "rotation"})
    with pytest.raises(ValueError, match="static begins from nothing and has no use for peft: leave it out"):
        make(static=8)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.training.adapters.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"model.peft needs the package peft: pip install 'mrl-text\[peft\]'"):
        adapter_config({})
