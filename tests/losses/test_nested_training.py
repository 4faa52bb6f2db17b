"""Runs of sentence-transformers' Trainer with the nested losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn

from mrl_text.losses import InfoNCE, NestedLoss, SelfDistillation, nested_infonce, self_distillation
from tests.losses.reference import published, without_dropout

pytestmark = pytest.mark.slow

DIMS = [8, 16, 32]
Train = Callable[..., SentenceTransformerTrainer]


@pytest.fixture
def train(tiny_bert: Path, triplets: list[dict[str, str]], tmp_path: Path) -> Train:
    """A run on the tiny BERT, without dropout, in float32: plain gradient descent unless told otherwise."""

    def run(make_loss: Callable[[SentenceTransformer], nn.Module], **options: Any) -> SentenceTransformerTrainer:
        model = SentenceTransformer(str(tiny_bert), device="cuda" if options.pop("gpu", False) else "cpu")
        without_dropout(model)
        data = options.pop("data", Dataset.from_list(triplets))
        defaults: dict[str, Any] = {
            "per_device_train_batch_size": 8,
            "max_steps": 3,
            "optim": "sgd",
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0,
            "use_cpu": model.device.type == "cpu",
        }
        arguments = SentenceTransformerTrainingArguments(
            str(tmp_path / "run"),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **(defaults | options),
        )
        loss = make_loss(model)
        trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, eval_dataset=data, loss=loss)
        trainer.train()
        return trainer

    return run


def logged(trainer: SentenceTransformerTrainer, prefix: str = "loss") -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if prefix in entry]


@pytest.mark.parametrize("mini_batch_size", [None, 3], ids=["at once", "cached"])
def test_a_run_is_the_run_with_sentence_transformers_loss(train: Train, mini_batch_size: int | None) -> None:
    def theirs(model: SentenceTransformer) -> nn.Module:
        if mini_batch_size is None:
            return MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), DIMS)
        return MatryoshkaLoss(model, CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size), DIMS)

    ours = train(lambda model: nested_infonce(model, DIMS, mini_batch_size=mini_batch_size))
    expected = train(theirs)
    assert len(logged(ours)) == 3
    for found, other in zip(logged(ours), logged(expected), strict=True):
        assert found["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert logged(ours)[2]["loss"] < logged(ours)[0]["loss"] - 0.01  # nobody stood still
    for found_weight, other_weight in zip(ours.model.parameters(), expected.model.parameters(), strict=True):
        assert (found_weight - other_weight).abs().max() < 1e-6


def test_the_trainer_logs_every_size_and_the_sum_is_the_loss(train: Train) -> None:
    trainer = train(lambda model: NestedLoss(model, InfoNCE(DIMS), SelfDistillation(DIMS, weights=[3, 2, 1])))
    names = {f"{kind}_dim{dim}" for kind in ("infonce", "distill") for dim in DIMS}
    for entry in logged(trainer):
        assert names <= entry.keys()
        assert sum(entry[name] for name in names) == pytest.approx(entry["loss"], rel=1e-3)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0
    (entry,) = [
        entry
        for entry in trainer.state.log_history
        if any(name in key for key in entry for name in names) and "eval_loss" in entry
    ]
    found = [value for key, value in entry.items() if any(key.endswith(name) for name in names)]
    assert len(found) == 6
    assert sum(found) == pytest.approx(metrics["eval_loss"], rel=1e-3)


class Recorder(NestedLoss):
    """Keeps the batches it was given."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.batches: list[list[dict[str, Any]]] = []

    def forward(self, sentence_features: Any, labels: Tensor | None) -> dict[str, Tensor]:
        columns = list(sentence_features)
        self.batches.append([dict(column) for column in columns])
        return super().forward(columns, labels)


@pytest.mark.parametrize("mini_batch_size", [None, 3], ids=["at once", "cached"])
def test_accumulated_gradients_are_the_mean_over_the_batches(
    train: Train, tiny_bert: Path, mini_batch_size: int | None
) -> None:
    recorders: list[Recorder] = []

    def make(model: SentenceTransformer) -> Recorder:
        recorders.append(Recorder(model, InfoNCE(DIMS), mini_batch_size=mini_batch_size))
        return recorders[0]

    trainer = train(make, max_steps=1, gradient_accumulation_steps=2)
    assert len(recorders[0].batches) == 2
    model = SentenceTransformer(str(tiny_bert), device="cpu").double().eval()
    losses = []
    for batch in recorders[0].batches:
        losses.append(published([model(dict(column))["sentence_embedding"] for column in batch], DIMS) / 2)
        losses[-1].backward()
    assert logged(trainer)[0]["loss"] == pytest.approx(sum(loss.item() for loss in losses), rel=1e-3)
    trained = dict(trainer.model.named_parameters())
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            expected = weight.detach() - 1e-3 * weight.grad
            assert (trained[name] - expected).abs().max() < 3e-7, name


def test_vectors_in_the_label_column_teach(train: Train, tiny_bert: Path, triplets: list[dict[str, str]]) -> None:
    """A run whose data brings the teacher's vectors is the run with the teacher beside it."""
    teacher = SentenceTransformer(str(tiny_bert), device="cpu")
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    names = ["anchor", "positive"]
    vectors = torch.cat([teacher.encode([row[name] for row in triplets], convert_to_tensor=True) for name in names], 1)
    rows = [{name: row[name] for name in names} for row in triplets]
    taught = Dataset.from_list([{**row, "label": vector.tolist()} for row, vector in zip(rows, vectors, strict=True)])
    two_epochs = {"max_steps": 16, "learning_rate": 3e-3}
    stored = train(lambda model: self_distillation(model, DIMS), data=taught, **two_epochs)
    live = train(
        lambda model: self_distillation(model, DIMS, teacher=teacher), data=Dataset.from_list(rows), **two_epochs
    )
    losses = [[entry["loss"] for entry in logged(trainer)] for trainer in (stored, live)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert sum(losses[0][8:]) < 0.9 * sum(losses[0][:8])


def test_the_model_card_says_what_was_trained(train: Train, tmp_path: Path) -> None:
    trainer = train(lambda model: nested_infonce(model, DIMS, weights=[1, 2, 3]), max_steps=1)
    trainer.model.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "NestedLoss" in card
    assert '"infonce"' in card
    assert "Matryoshka Representation Learning" in card


@pytest.mark.parametrize("mini_batch_size", [None, 3], ids=["at once", "cached"])
@pytest.mark.parametrize(
    "precision",
    ["bf16", pytest.param("bf16-gpu", marks=pytest.mark.gpu), pytest.param("fp16-gpu", marks=pytest.mark.gpu)],
)
def test_mixed_precision_gives_the_losses_of_float32(train: Train, precision: str, mini_batch_size: int | None) -> None:
    kind, _, gpu = precision.partition("-")

    def run(**options: Any) -> list[float]:
        trainer = train(lambda model: nested_infonce(model, DIMS, mini_batch_size=mini_batch_size), **options)
        return [entry["loss"] for entry in logged(trainer)]

    assert run(**{kind: True}, gpu=bool(gpu)) == pytest.approx(run(), rel=0.02)
