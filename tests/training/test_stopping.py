"""Runs that end before their last step, and what trackers see of them."""

from __future__ import annotations

import json
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mrl_text.training.arguments import training_arguments
from mrl_text.training.callbacks import MetricsLog
from mrl_text.training.evaluator import NestedRetrievalEvaluator
from mrl_text.training.outcome import outcome
from mrl_text.training.recipe import Recipe
from mrl_text.training.run import RunFolder
from mrl_text.training.trainer import train
from tests.training.runs import at_step

Make = Callable[..., Recipe]
PATIENT = {"early_stopping_patience": 2, "max_steps": 20}


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[float]], Iterator[float]]:
    """Have validation give these scores, one after the other."""

    def give(values: Iterable[float]) -> Iterator[float]:
        scores = iter(values)
        monkeypatch.setattr(
            NestedRetrievalEvaluator,
            "measure",
            lambda self, model: dict.fromkeys((8, 16, 32), np.full(len(self.queries), next(scores))),
        )
        return scores

    return give


def assert_ends_with(folder: RunFolder, step: int) -> None:
    kept = load_file(folder.checkpoints / f"checkpoint-{step}" / "model.safetensors")
    saved = load_file(folder.model / "model.safetensors")
    assert saved.keys() == kept.keys()
    assert [name for name, value in saved.items() if not torch.equal(value, kept[name])] == []


def result(folder: RunFolder) -> dict[str, Any]:
    return dict(json.loads(folder.result.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_a_run_stops_where_validation_gets_no_better_and_keeps_the_best(
    small_recipe: Make, scored: Any, tmp_path: Path
) -> None:
    left = scored([0.1, 0.5, 0.9, 0.4, 0.9, 0.95])  # before, at four steps, and after
    folder = RunFolder(tmp_path / "run")
    train(small_recipe(training=PATIENT), folder.path)
    assert list(left) == []
    found = result(folder)
    assert (found["steps"], found["best_step"], found["stopped_early"]) == (8, 4, True)
    assert outcome(folder.path).startswith("8 steps, then it stopped early; 24 of 24 rows used")
    assert_ends_with(folder, 4)


@pytest.mark.slow
def test_a_gain_below_the_threshold_is_none(small_recipe: Make, scored: Any, tmp_path: Path) -> None:
    scored([0.1, 0.5, 0.55, 0.6, 0.6])
    folder = RunFolder(tmp_path / "run")
    train(small_recipe(training={**PATIENT, "early_stopping_threshold": 0.08}), folder.path)
    assert result(folder)["steps"] == 6
    assert_ends_with(folder, 6)


@pytest.mark.slow
def test_a_run_that_does_not_stop_early_does_not_say_so(small_recipe: Make, scored: Any, tmp_path: Path) -> None:
    scored([0.1, 0.5, 0.4, 0.6, 0.6])
    folder = RunFolder(tmp_path / "run")
    train(small_recipe(training={"early_stopping_patience": 2}), folder.path)
    assert "stopped_early" not in result(folder)
    assert outcome(folder.path).startswith("6 steps; 24 of 24 rows used")


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["while it counts", "after it stopped"])
def test_a_run_that_is_resumed_goes_on_counting(
    small_recipe: Make, scored: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, killed: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    recipe = small_recipe(training=PATIENT)
    scored([0.1, 0.9, 0.5, 0.4, 0.9, 0.9])
    if killed == "while it counts":
        with monkeypatch.context() as patch:
            patch.setattr(MetricsLog, "on_log", at_step(5, lambda: signal.raise_signal(signal.SIGINT)))
            with pytest.raises(KeyboardInterrupt):
                train(recipe, folder.path)
        scored([0.3, 0.9])
    else:
        train(recipe, folder.path)
        folder.result.unlink()
        scored([0.9])
    train(recipe, folder.path, resume=True)
    assert result(folder)["steps"] == 6
    assert_ends_with(folder, 2)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"early_stopping_patience": 0}, "training.early_stopping_patience=0: must be at least 1"),
        ({"early_stopping_patience": 1.5}, "training.early_stopping_patience=1.5: Input should be a valid integer"),
        ({"early_stopping_threshold": 0.1}, "early_stopping_threshold=0.1: has no effect without early_stopping_pat"),
        ({**PATIENT, "early_stopping_threshold": -1.0}, "training.early_stopping_threshold=-1.0: must be at least 0"),
        ({**PATIENT, "eval_strategy": "no"}, "training.early_stopping_patience=2 needs scores: leave eval_strategy=no"),
    ],
    ids=str,
)
def test_what_cannot_be_waited_for_is_refused(
    small_recipe: Make, tmp_path: Path, training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        training_arguments(small_recipe(training=training), tmp_path)


def test_patience_needs_validation_data(small_recipe: Make, tmp_path: Path) -> None:
    recipe = small_recipe(training=PATIENT)
    alone = recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation": []})})
    with pytest.raises(ValueError, match=r"training.early_stopping_patience=2 needs validation data"):
        training_arguments(alone, tmp_path)


def tracked(folder: Path) -> dict[tuple[str, int], float]:
    """Name and step -> value, from TensorBoard's event files: length, checksum, protocol buffer, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    values = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            values |= {
                (one.tag, event.step): one.simple_value for one in event.summary.value if not one.HasField("tensor")
            }
    return values


@pytest.mark.slow
def test_a_tracker_sees_all_that_the_run_logs_itself(small_recipe: Make, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(small_recipe(training={"report_to": "tensorboard"}), folder.path)
    entries = [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]
    ours = {
        (name, entry["step"]): value
        for entry in entries
        for name, value in entry.items()
        if name not in ("step", "time")
    }
    assert {("loss", 1), ("eval_validation_dim8_ndcg@10", 6), ("infonce_dim32", 3)} <= ours.keys()
    theirs = tracked(folder.path)
    for (name, step), value in ours.items():
        tag = f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"
        assert theirs[tag.replace("@", "_"), step] == pytest.approx(value, rel=1e-6), tag  # as TensorBoard writes names
