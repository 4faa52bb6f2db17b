from __future__ import annotations

import copy
import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    util,
)
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.models import ModelSource, find_model
from mrl_text.training import trainer as trainer_module
from mrl_text.training.base import check_recipe
from mrl_text.training.batches import NoDuplicatesBatchSampler
from mrl_text.training.data import load_source
from mrl_text.training.published_losses import INNER, MatryoshkaConfig
from mrl_text.training.recipe import Recipe, SourceConfig
from mrl_text.training.trainer import train
from tests.conftest import WORDS

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


TEXTS = [f"{first} {second}" for first, second in zip(WORDS[:16], WORDS[16:32], strict=True)]
VECTORS = np.random.default_rng(4).standard_normal((16, 32)).round(3).tolist()
ROWS: list[Row] = [
    {
        "a": TEXTS[row],
        "b": f"the {TEXTS[row]}",
        "c": f"a {TEXTS[(row + 3) % 16]}",
        "d": f"in {TEXTS[(row + 5) % 16]}",
        "score": row / 15,
        "binary": row % 2,
        "topic": ["sport", "art", "weather", "7"][row // 4],
        "margin": row / 3 - 2,
        "scores": [row / 5, 1.5, -row / 7],
        "vector": VECTORS[row],
    }
    for row in range(16)
]


def margins(model: Any) -> Any:
    return losses.MarginMSELoss(model, similarity_fct=util.pairwise_euclidean_sim)


def hard(model: Any) -> Any:
    metric = losses.BatchHardTripletLossDistanceFunction.cosine_distance
    return losses.BatchHardTripletLoss(model, distance_metric=metric, margin=0.2)


def both_ways(model: Any) -> Any:
    options = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    return losses.MultipleNegativesRankingLoss(model, scale=7.0, **options)


def guided(kind: Any, **options: Any) -> Callable[[Any], Any]:
    def build(model: Any) -> Any:
        return kind(model, guide=copy.deepcopy(model), **options)

    return build


CASES: list[tuple[Row, str, Callable[[Any], Any], Any]] = [
    ({"inner": "CoSENTLoss"}, "a b score", losses.CoSENTLoss, [row / 15 for row in range(16)]),
    ({"inner": "AnglELoss", "options": {"scale": 3}}, "a b score", lambda m: losses.AnglELoss(m, 3.0), "score"),
    ({"inner": "CosineSimilarityLoss"}, "a b score", losses.CosineSimilarityLoss, "score"),
    (
        {"inner": "ContrastiveLoss", "options": {"distance_metric": "EUCLIDEAN", "margin": 0.9}},
        "a b binary",
        lambda m: losses.ContrastiveLoss(m, losses.SiameseDistanceMetric.EUCLIDEAN, 0.9),
        [row % 2 for row in range(16)],
    ),
    ({"inner": "OnlineContrastiveLoss"}, "a b binary", losses.OnlineContrastiveLoss, "binary"),
    (
        {"inner": "TripletLoss", "options": {"distance_metric": "COSINE", "triplet_margin": 0.1}},
        "a b c",
        lambda m: losses.TripletLoss(m, losses.TripletDistanceMetric.COSINE, 0.1),
        None,
    ),
    # classes are numbered in the order of their names: 7, art, sport, weather
    ({"inner": "BatchAllTripletLoss"}, "a topic", losses.BatchAllTripletLoss, [2] * 4 + [1] * 4 + [3] * 4 + [0] * 4),
    (
        {"inner": "BatchHardTripletLoss", "options": {"distance_metric": "cosine_distance", "margin": 0.2}},
        "a topic",
        hard,
        "topic",
    ),
    ({"inner": "BatchHardSoftMarginTripletLoss"}, "a topic", losses.BatchHardSoftMarginTripletLoss, "topic"),
    ({"inner": "BatchSemiHardTripletLoss"}, "a topic", losses.BatchSemiHardTripletLoss, "topic"),
    (
        {
            "inner": "MultipleNegativesRankingLoss",
            "options": {"directions": ["query_to_doc", "doc_to_query"], "partition_mode": "per_direction", "scale": 7},
        },
        "a b",
        both_ways,
        None,
    ),
    (
        {"inner": "CachedMultipleNegativesRankingLoss", "options": {"mini_batch_size": 5}},
        "a b c d",
        losses.MultipleNegativesRankingLoss,
        None,
    ),
    ({"inner": "MegaBatchMarginLoss"}, "a b", losses.MegaBatchMarginLoss, None),
    (
        {"inner": "GISTEmbedLoss", "guide": "base", "options": {"margin": 0.05, "margin_strategy": "relative"}},
        "a b c",
        guided(losses.GISTEmbedLoss, margin=0.05, margin_strategy="relative"),
        None,
    ),
    (
        {"inner": "CachedGISTEmbedLoss", "guide": "base", "options": {"mini_batch_size": 4, "temperature": 0.1}},
        "a b",
        guided(losses.GISTEmbedLoss, temperature=0.1),
        None,
    ),
    ({"inner": "MSELoss"}, "a vector", losses.MSELoss, VECTORS),
    (
        {"inner": "MarginMSELoss", "options": {"similarity_fct": "pairwise_euclidean_sim"}},
        "a b c margin",
        margins,
        [row / 3 - 2 for row in range(16)],
    ),
    ({"inner": "MarginMSELoss"}, "a b c d scores", losses.MarginMSELoss, "scores"),
    (
        {"inner": "DistillKLDivLoss", "options": {"temperature": 2}},
        "a b c d scores",
        lambda m: losses.DistillKLDivLoss(m, temperature=2.0),
        [[row / 5, 1.5, -row / 7] for row in range(16)],
    ),
]


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> MatryoshkaEncoder:
    encoder = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    encoder.eval()
    return encoder


def test_every_loss_is_tried() -> None:
    assert {options["inner"] for options, *_ in CASES} == set(INNER)


@pytest.mark.parametrize(
    ("options", "columns", "published", "labels"), CASES, ids=[f"{one['inner']} {names}" for one, names, *_ in CASES]
)
def test_a_loss_by_recipe_is_the_published_one_on_the_numbers_of_the_file(
    model: MatryoshkaEncoder,
    tmp_path: Path,
    options: Row,
    columns: str,
    published: Callable[[Any], Any],
    labels: Any,
) -> None:
    names = columns.split()
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    config = MatryoshkaConfig(dims=DIMS, weights=[3.0, 1.0, 0.5], **options)
    data = load_source(SourceConfig(source=str(file), columns=names), config.needs)
    batch = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)(list(data))
    features, given = _features(batch), batch.get("label")

    by_hand = [dict(model.preprocess([row[name] for row in ROWS])) for name in names if len(name) == 1]
    if isinstance(labels, str):
        ids = {"sport": 2, "art": 1, "weather": 3, "7": 0}
        labels = [ids[row[labels]] if labels == "topic" else row[labels] for row in ROWS]
    expected = losses.MatryoshkaLoss(model, published(model), DIMS, [3.0, 1.0, 0.5])
    values, gradients = [], []
    for loss, columns_, numbers in (
        (config.build(model), features, given),
        (expected, by_hand, None if labels is None else torch.tensor(labels)),
    ):
        model.zero_grad()
        value = loss(columns_, numbers)
        value.backward()
        values.append(float(value.detach()))
        gradients.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]))
    assert abs(values[1]) > 1e-4
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-4 * float(gradients[1].abs().max()))


def _features(batch: Row) -> list[Row]:
    names = dict.fromkeys(name.removesuffix("_input_ids") for name in batch if name.endswith("_input_ids"))
    return [
        {key.removeprefix(f"{name}_"): value for key, value in batch.items() if key.startswith(f"{name}_")}
        for name in names
    ]


@pytest.fixture(scope="module")
def places(triplets: list[Row], scored: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Pairs, scored pairs, texts of classes and texts alone; the name of a file may have dots."""
    folder = tmp_path_factory.mktemp("places")
    pairs, topics = folder / "pairs.v1.5.jsonl", folder / "topics.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in triplets[:24]), encoding="utf-8")
    rows = [{"text": row["anchor"], "topic": row["anchor"].split()[-1]} for row in triplets]
    topics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [
        {"source": str(pairs), "columns": ["anchor", "positive"]},
        {
            "source": str(scored),
            "columns": ["first", "second", "points"],
            "loss": {"name": "matryoshka", "inner": "CoSENTLoss"},
        },
        {
            "source": str(topics),
            "columns": ["text", "topic"],
            "loss": {"name": "matryoshka", "inner": "BatchAllTripletLoss", "options": {"margin": 0.3}},
        },
        {
            "source": str(pairs),
            "columns": ["negative"],
            "loss": {"name": "matryoshka", "inner": "MSELoss", "teacher": "base"},
        },
    ]


@pytest.mark.slow
def test_sources_have_losses_of_their_own_and_a_run_is_resumed(
    make_recipe: Callable[..., Recipe], places: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, Any]] = []

    class Watched(trainer_module._Trainer):
        def compute_loss(self, model: Any, inputs: Row, *args: Any, **kwargs: Any) -> Any:
            name, size = inputs["dataset_name"], inputs["anchor_input_ids"].shape[0]
            labels = inputs.get("label")
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            seen.append((name, size, labels))
            if len(seen) == 7 and not interrupted:
                interrupted.append(True)
                signal.raise_signal(signal.SIGINT)
            return loss

    monkeypatch.setattr(trainer_module, "_Trainer", Watched)
    recipe = make_recipe({"name": "nested_infonce"}, *places, deduplicate=False)
    training = {**recipe.training, "max_steps": 12, "save_steps": 50}
    recipe = recipe.model_copy(update={"training": training})
    interrupted = [True]
    whole = train(recipe, tmp_path / "whole")
    expected, interrupted, seen = seen, [], []
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "resumed")
    resumed = train(recipe, tmp_path / "resumed", resume=True)
    assert [(name, size) for name, size, _ in seen] == [(name, size) for name, size, _ in expected]
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=0, atol=1e-7, msg=name)
    names = [Path(place["source"]).stem.replace(".", "_") for place in places]
    assert {name for name, *_ in seen} == {f"{number} {name}" for number, name in enumerate(names, start=1)}
    for name, _, labels in seen:
        if name.startswith("3"):  # classes, two rows or more of each
            assert min(torch.bincount(labels)[torch.bincount(labels) > 0]) >= 2
        assert (labels is None) == (name[0] in "14")
    result = json.loads((tmp_path / "whole" / "result.json").read_text(encoding="utf-8"))
    assert result["steps"] == 12
    assert result["data"] == {"1 pairs.v1.5": 24, "2 scored": 40, "3 topics": 64, "4 pairs.v1.5": 24}


@pytest.mark.slow
def test_a_teacher_of_mse_is_computed_once_and_cut_with_the_student(
    make_recipe: Callable[..., Recipe], scored: Path, other_width: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    source = {"source": str(scored), "columns": ["first", "second"]}
    recipe = make_recipe({"inner": "MSELoss", "teacher": str(other_width)}, source, deduplicate=False)
    training = {**recipe.training, "max_steps": 1, "per_device_train_batch_size": 40, "logging_steps": 1}
    model = recipe.model.model_copy(update={"dropout": 0.0})
    train(recipe.model_copy(update={"training": training, "model": model}), tmp_path / "run")
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])

    rows = [json.loads(line) for line in scored.read_text(encoding="utf-8").splitlines()]
    texts = [[row[name] for row in rows] for name in ("first", "second")]
    student, teacher = (SentenceTransformer(str(folder), device="cpu") for folder in (tiny_bert, other_width))
    expected = 0.0
    for dim in DIMS:
        parts = []
        for column in texts:
            wanted = np.asarray(teacher.encode(column, normalize_embeddings=True), dtype=np.float64)[:, :dim]
            found = np.asarray(student.encode(column), dtype=np.float64)[:, :dim]
            found /= np.linalg.norm(found, axis=1, keepdims=True)
            parts.append(((found - wanted) ** 2).mean())
        expected += np.mean(parts)
    assert logged["loss"] == pytest.approx(expected, rel=1e-3)


@pytest.fixture(scope="module")
def other_width(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same width."""
    folder = tmp_path_factory.mktemp("teacher") / "other-weights"
    other = SentenceTransformer(str(tiny_bert), device="cpu")
    torch.manual_seed(8)
    for parameter in other.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    other.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"inner": "CoSentLoss"}, "inner 'CoSentLoss' is unknown; did you mean 'CoSENTLoss'"),
        (
            {"inner": "CoSENTLoss", "options": {"scal": 3}},
            "options.scal=3: CoSENTLoss has no such argument; .* 'scale'",
        ),
        ({"inner": "CoSENTLoss", "options": {"scale": "big"}}, "options.scale=big: Input should be a valid number"),
        ({"inner": "CoSENTLoss", "options": {"scale": 0}}, "options.scale=0: must be above 0"),
        ({"inner": "CoSENTLoss", "options": {"scale": float("nan")}}, "options.scale=nan: must be a finite number"),
        (
            {"inner": "CoSENTLoss", "options": {"similarity_fct": "pairwise_cos"}},
            "options.similarity_fct=pairwise_cos: function .* did you mean 'pairwise_cos_sim'",
        ),
        ({"inner": "CoSENTLoss", "options": {"similarity_fct": ["a"]}}, "options.similarity_fct"),
        ({"inner": "MSELoss", "options": {"projection_dim": 8}}, "MSELoss has no such argument"),
        (
            {"inner": "CosineSimilarityLoss", "options": {"loss_fct": "MSELoss"}},
            "CosineSimilarityLoss has no such argument",
        ),
        (
            {"inner": "MultipleNegativesRankingLoss", "options": {"directions": ["doc_to_query"]}},
            "options: 'query_to_doc' direction is required",
        ),
        ({"inner": "GISTEmbedLoss"}, "GISTEmbedLoss needs a guide: set guide to base"),
        ({"inner": "CoSENTLoss", "guide": "base"}, "CoSENTLoss has no use for a guide"),
        ({"inner": "CoSENTLoss", "teacher": "base"}, "CoSENTLoss has no use for a teacher"),
        (
            {"inner": "CachedMultipleNegativesRankingLoss", "layers_per_step": 1},
            "caches gradients, which does not go with layers",
        ),
        (
            {"inner": "CoSENTLoss", "scale": 5},
            "matryoshka does not take scale: leave it out, give it under options where it is the inner loss's, or",
        ),
    ],
)
def test_what_the_inner_loss_does_not_take_is_refused_before_anything_is_loaded(loss: Row, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatryoshkaConfig(dims=DIMS, **loss)


def test_what_wraps_the_model_wraps_it_in_losses_of_classes_too(model: MatryoshkaEncoder) -> None:
    class Wrapper(torch.nn.Module):  # as torch.compile and several devices do
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, features: Row) -> Row:
            found: Row = self.module(features)
            return found

    def value(loss: Any) -> float:
        return float(loss([dict(model.preprocess([row["a"] for row in ROWS]))], torch.arange(16) // 4).detach())

    loss = MatryoshkaConfig(dims=DIMS, inner="BatchHardTripletLoss").build(model)
    plain = value(loss)
    trainer = object.__new__(SentenceTransformerTrainer)
    wrapped = trainer.override_model_in_loss(loss, Wrapper(model))  # type: ignore[arg-type]
    assert value(wrapped) == pytest.approx(plain)
    full = MatryoshkaConfig(dims=[32], inner="BatchHardTripletLoss").build(model)
    assert value(full) * 3 != pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_a_teacher_of_mse_has_the_width_of_the_model_and_nothing_turns_its_vectors(
    make_recipe: Callable[..., Recipe], scored: Path, other_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"source": str(scored), "columns": ["first"]}
    asked = make_recipe({"inner": "MSELoss", "teacher": str(other_model)}, source)
    message = r"other-model has width 20, the model 32, and MSELoss compares number by number"
    with pytest.raises(ValueError, match=message):  # a static model's width is known once it is loaded
        train(asked, tmp_path / "run")
    monkeypatch.setattr("mrl_text.models.peek_width", lambda source: 20)
    with pytest.raises(ValueError, match=message):
        check_recipe(asked)
    turned = {"model": {"name": "m", "rotation": True}, "data": {"train": [source]}}
    with pytest.raises(ValueError, match=r"model.rotation: MSELoss compares vectors number by number"):
        Recipe.model_validate(
            {**turned, "loss": {"name": "matryoshka", "dims": DIMS, "inner": "MSELoss", "teacher": "base"}}
        )


def test_layers_are_trained_besides_sizes_by_the_published_loss_of_both(model: MatryoshkaEncoder) -> None:
    texts = [[row[name] for row in ROWS] for name in ("a", "b")]
    scores = torch.tensor([row["score"] for row in ROWS])
    ours = MatryoshkaConfig(dims=DIMS, weights=[3.0, 1.0, 0.5], inner="CoSENTLoss", layers_per_step=2).build(model)
    inner = losses.CoSENTLoss(model)
    theirs = losses.Matryoshka2dLoss(model, inner, DIMS, [3.0, 1.0, 0.5], n_layers_per_step=2, n_dims_per_step=-1)

    def value(loss: Any) -> float:
        return float(loss([dict(model.preprocess(column)) for column in texts], scores).detach())

    assert value(ours) == pytest.approx(value(theirs))
    last = MatryoshkaConfig(dims=DIMS, weights=[3.0, 1.0, 0.5], inner="CoSENTLoss").build(model)
    assert value(last) != pytest.approx(value(ours), rel=0.01)
    table = StaticEmbedding(model.tokenizer.backend_tokenizer, embedding_dim=32)
    with pytest.raises(ValueError, match=r"loss.layers_per_step: StaticEmbedding has no layers to train: leave it out"):
        MatryoshkaConfig(dims=DIMS, inner="CoSENTLoss", layers_per_step=1).build(MatryoshkaEncoder(modules=[table]))


@pytest.mark.parametrize("trusted", [False, True])
def test_a_guide_may_run_its_own_code_where_the_model_may(
    model: MatryoshkaEncoder, tiny_bert: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def found(name: str, *, trust_remote_code: bool = False) -> ModelSource:
        asked.append(trust_remote_code)
        return find_model(name, trust_remote_code=trust_remote_code)

    monkeypatch.setattr("mrl_text.models.find_model", found)
    monkeypatch.setattr(model, "trust_remote_code", trusted)
    MatryoshkaConfig(dims=DIMS, inner="GISTEmbedLoss", guide=str(tiny_bert)).build(model)
    assert asked == [trusted]
