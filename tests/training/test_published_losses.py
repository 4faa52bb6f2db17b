from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from torch import nn

from mrl_text.training.batches import NoDuplicatesBatchSampler
from mrl_text.training.recipe import Recipe
from mrl_text.training.trainer import train

Row = dict[str, Any]
DIMS = [8, 16, 32]
STEPS = 4
TRAINING = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "seed": 3,
    "use_cpu": True,
    "bf16": False,
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


@pytest.fixture(scope="module")
def scored(triplets: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences that people scored, some of them in several pairs."""
    rows = [
        {"first": row["anchor"], "second": triplets[number // 2]["positive"], "points": number % 11 / 2}
        for number, row in enumerate(triplets[:40])
    ]
    file = tmp_path_factory.mktemp("scored") / "scored.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def make_recipe(tiny_bert: Path) -> Callable[..., Recipe]:
    def make(loss: Row, *sources: Row, **data: Any) -> Recipe:
        model = {"name": str(tiny_bert)}
        loss = {"name": "matryoshka", "dims": DIMS, **loss}
        return Recipe.model_validate(
            {"model": model, "data": {"train": sources, **data}, "loss": loss, "training": TRAINING}
        )

    return make


class Recorded(nn.Module):
    """A loss that keeps the ids of the texts and the labels it was given."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss, self.model, self.batches = loss, loss.model, []

    def forward(self, features: Any, labels: torch.Tensor | None) -> torch.Tensor:
        columns = [one["input_ids"].tolist() for one in features]
        self.batches.append((columns, None if labels is None else labels.tolist()))
        return self.loss(features, labels)


@pytest.mark.slow
def test_cosent_by_recipe_is_a_run_of_sentence_transformers(
    make_recipe: Callable[..., Recipe], scored: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    source = {"source": str(scored), "columns": ["first", "second", "points"]}
    options = {"inner": "CoSENTLoss", "weights": [2.0, 1.0, 0.5], "options": {"scale": 10.0}}
    recipe = make_recipe(options, source, validation=[{**source, "limit": 30}])
    folder = train(recipe, tmp_path / "ours")

    rows = [json.loads(line) for line in scored.read_text(encoding="utf-8").splitlines()]
    theirs = SentenceTransformer(str(tiny_bert), device="cpu")
    loss = losses.MatryoshkaLoss(theirs, losses.CoSENTLoss(theirs, scale=10.0), DIMS, [2.0, 1.0, 0.5])
    data = Dataset.from_list([{"a": row["first"], "b": row["second"], "score": row["points"]} for row in rows])
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "theirs"),
        batch_sampler=functools.partial(NoDuplicatesBatchSampler, repeats=True),
        report_to="none",
        **TRAINING,
    )
    SentenceTransformerTrainer(theirs, arguments, data, loss=loss).train()
    ours, expected = weights(folder), theirs[0].auto_model.state_dict()
    start = SentenceTransformer(str(tiny_bert), device="cpu")[0].auto_model.state_dict()
    assert ours.keys() == expected.keys()
    assert max(float((expected[name] - start[name]).abs().max()) for name in expected) > 1e-3
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)

    texts = [[row[name] for row in rows[:30]] for name in ("first", "second")]
    gold = [row["points"] for row in rows[:30]]
    sizes = json.loads((tmp_path / "ours" / "result.json").read_text(encoding="utf-8"))["validation"]
    assert (sizes["metric"], sizes["pairs"]) == ("Spearman correlation", 30)
    for size in sizes["sizes"]:
        published = EmbeddingSimilarityEvaluator(*texts, gold, truncate_dim=size["dim"], main_similarity="cosine")
        for when, model in (("before", SentenceTransformer(str(tiny_bert), device="cpu")), ("after", theirs)):
            assert size[when][0] == pytest.approx(published(model)["spearman_cosine"], abs=1e-5)
