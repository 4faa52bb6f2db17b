"""Training that is killed, runs out of disk, breaks down or finds other data: what is kept, and where it goes on."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mrl_text.training.callbacks import MetricsLog
from mrl_text.training.losses import NestedInfoNCEConfig
from mrl_text.training.recipe import Recipe
from mrl_text.training.recipe_files import load_recipe
from mrl_text.training.run import RunFolder, describe_data
from mrl_text.training.trainer import train
from tests.conftest import WORDS
from tests.processes import Started, command
from tests.training.runs import at_step, contents

pytestmark = pytest.mark.slow

TIMES = {"time", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the readers write out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
        patch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
        patch.setenv("MRL_TEXT_CACHE", str(folder))
        yield


def write_pairs(file: Path, count: int) -> Path:
    words = random.Random(file.stem)
    rows = [
        {"anchor": " ".join(words.choices(WORDS, k=5)), "positive": " ".join(words.choices(WORDS, k=7))}
        for _ in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    return [write_pairs(tmp_path / f"{name}.jsonl", count) for name, count in (("captions", 64), ("questions", 40))]


@pytest.fixture
def content(tiny_bert: Path, sources: list[Path]) -> dict[str, Any]:
    """A recipe with all that a resume has to bring back: dropout, two sources, a teacher and maps to its vectors,
    epochs, running means."""
    return {
        "model": {"name": str(tiny_bert)},  # BERT's own dropout of 0.1
        "data": {
            "train": [{"source": str(file)} for file in sources],
            "validation": [{"source": str(sources[1]), "limit": 20}],
        },
        "loss": {"dims": [8, 16, 32], "distill_weight": 2.0, "embed_weight": 1.0},
        "training": {
            "num_train_epochs": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",  # a step too many would change the weights
            "logging_steps": 3,
            "eval_steps": 4,
            "save_steps": 5,
            "use_cpu": True,
            "bf16": False,
        },
    }


def as_recipe(content: dict[str, Any], **training: Any) -> Recipe:
    return Recipe.model_validate({**content, "training": {**content["training"], **training}})


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return dict(load_file(folder.model / "model.safetensors"))


def logged(folder: RunFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert logged(one) == logged(other)


class Killed(BaseException):
    """As good as kill -9 for what is on the disk: nobody expects it."""


def kill() -> None:
    raise Killed


def start(recipe: Path, folder: RunFolder, *options: str) -> Started:
    return command("train", recipe, "--output", folder.path, *options)


def kill_when(process: Started, moment: Callable[[], bool]) -> None:
    while process.poll() is None and not moment():
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.errors


def last_step(folder: RunFolder) -> int:
    """The last step whose line is complete in the log."""
    if not folder.metrics.exists():
        return 0
    *lines, _ = folder.metrics.read_text(encoding="utf-8").split("\n")
    return max((json.loads(line)["step"] for line in lines), default=0)


def is_writing_a_checkpoint(folder: RunFolder) -> bool:
    found = list(folder.checkpoints.glob("checkpoint-*"))
    whole = [one for one in found if (one / "trainer_state.json").exists()]
    return 0 < len(whole) < len(found)


def test_a_run_killed_again_and_again_ends_as_if_undisturbed(content: dict[str, Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    train(load_recipe(str(recipe)), whole.path)
    moments: list[Callable[[], bool]] = [
        lambda: is_writing_a_checkpoint(killed),
        lambda: last_step(killed) >= 19,  # in the second epoch
        (killed.path / ".model.partial").exists,  # after the last step, before the result
    ]
    for number, moment in enumerate(moments):
        kill_when(start(recipe, killed, *(["--resume"] if number else [])), moment)
        assert killed.last_checkpoint() is not None
        assert not killed.result.exists()
    resumed = start(recipe, killed, "--resume")
    assert resumed.wait() == 0, resumed.errors
    assert_same_run(whole, killed)
    assert not [file for file in killed.path.iterdir() if file.name.startswith(".model")]


@pytest.mark.parametrize(
    "training",
    [{"max_steps": 18}, {"batch_sampler": "batch_sampler"}, {"multi_dataset_batch_sampler": "round_robin"}],
    ids=["ends within an epoch", "rows with duplicates", "one source after the other"],
)
def test_every_order_of_batches_is_taken_up_where_it_was(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
) -> None:
    recipe = as_recipe(content, num_train_epochs=2, logging_steps=1, **training)
    whole = RunFolder(tmp_path / "whole")
    train(recipe, whole.path)
    for step in (8, 17):  # in the first epoch and in the second
        killed = RunFolder(tmp_path / f"killed-{step}")
        with monkeypatch.context() as patch:
            patch.setattr(MetricsLog, "on_log", at_step(step, kill))
            with pytest.raises(Killed):
                train(recipe, killed.path)
        train(recipe, killed.path, resume=True)
        assert_same_run(whole, killed)


def test_a_run_that_lost_only_its_result_trains_no_further(content: dict[str, Any], tmp_path: Path) -> None:
    recipe = as_recipe(content, max_steps=7)  # within the first epoch: the Trainer itself would take one more step
    folder = RunFolder(tmp_path / "run")
    train(recipe, folder.path)
    before, lines = weights(folder), logged(folder)
    folder.result.unlink()
    train(recipe, folder.path, resume=True)
    assert [name for name, weight in weights(folder).items() if not torch.equal(weight, before[name])] == []
    assert logged(folder) == lines
    assert json.loads(folder.result.read_text(encoding="utf-8"))["steps"] == 7


@pytest.mark.parametrize("limit", [64_000, 128_000], ids=["weights do not fit", "optimizer does not fit"])
def test_a_checkpoint_that_cannot_be_written_stops_the_run_and_leaves_the_one_before(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """A limit on the size of files stands for the full disk, which only root can make."""
    recipe = as_recipe(content, max_steps=14)
    whole, full = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "full")
    train(recipe, whole.path)
    assert (
        max(file.stat().st_size for file in whole.checkpoints.rglob("*")) > 128_000 > full.path.stat().st_size
        if (full.path.exists())
        else True
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr(
            MetricsLog, "on_log", at_step(6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1])))
        )
        try:
            with pytest.raises(
                OSError, match=r"the checkpoint of step 10 could not be written to .* MB free"
            ) as stopped:
                train(recipe, full.path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(stopped.value)
    assert "make room and go on with --resume" in str(stopped.value)
    kept = full.last_checkpoint()
    assert kept is not None
    assert kept.name == "checkpoint-5"
    train(recipe, full.path, resume=True)
    assert_same_run(whole, full)


def test_a_loss_that_is_no_number_leaves_a_checkpoint_to_go_on_from(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = as_recipe(content, max_steps=12)
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    train(recipe, whole.path)
    original = NestedInfoNCEConfig.build

    def spoilt(*arguments: Any) -> torch.nn.Module:
        loss = original(*arguments)
        forward, calls = loss.forward, iter(range(100))

        def from_the_eighth_on(*inputs: Any) -> dict[str, torch.Tensor]:
            values: dict[str, torch.Tensor] = forward(*inputs)
            return {name: value * float("nan") for name, value in values.items()} if next(calls) >= 7 else values

        loss.forward = from_the_eighth_on
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(NestedInfoNCEConfig, "build", spoilt)
        with pytest.raises(FloatingPointError, match=r"the loss is nan at step 8; lower training.learning_rate"):
            train(recipe, broken.path)
    kept = broken.last_checkpoint()
    assert kept is not None
    assert kept.name == "checkpoint-5"
    train(recipe, broken.path, resume=True)
    assert_same_run(whole, broken)


@pytest.fixture
def interrupted(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_log", at_step(6, kill))
        with pytest.raises(Killed):
            train(as_recipe(content), folder.path)
    return folder


def test_data_that_vanished_is_named_and_the_run_is_left_as_it_is(
    content: dict[str, Any], sources: list[Path], interrupted: RunFolder
) -> None:
    before = contents(interrupted.path)
    sources[0].rename(sources[0].with_suffix(".away"))
    with pytest.raises(FileNotFoundError, match=f"no training data at {sources[0]}"):
        train(as_recipe(content), interrupted.path, resume=True)
    assert contents(interrupted.path) == before
    sources[0].with_suffix(".away").rename(sources[0])
    train(as_recipe(content), interrupted.path, resume=True)
    assert interrupted.result.exists()


@pytest.mark.parametrize("change", ["one word", "one row less", "another order"])
def test_a_run_does_not_go_on_with_other_data(
    content: dict[str, Any], sources: list[Path], interrupted: RunFolder, change: str
) -> None:
    lines = sources[1].read_text(encoding="utf-8").splitlines(keepends=True)
    if change == "one word":
        lines[30] = lines[30].replace('"anchor": "', '"anchor": "piano ')
    else:
        lines = lines[:-1] if change == "one row less" else lines[::-1]
    sources[1].write_text("".join(lines), encoding="utf-8")
    before = contents(interrupted.path)
    with pytest.raises(ValueError, match=r"cannot resume .*: the data of '.*questions' is not what") as refused:
        train(as_recipe(content), interrupted.path, resume=True)
    assert "captions" not in str(refused.value)
    assert ("39 rows" in str(refused.value)) == (change == "one row less")
    assert contents(interrupted.path) == before


def test_a_copied_data_file_is_the_same_data_and_another_label_is_not(sources: list[Path], tmp_path: Path) -> None:
    first = datasets.load_dataset("json", data_files=str(sources[0]), split="train")
    (tmp_path / "copy.jsonl").write_bytes(sources[0].read_bytes())
    copy = datasets.load_dataset("json", data_files=str(tmp_path / "copy.jsonl"), split="train")
    teacher = copy.add_column("teacher", [[0.5, 0.25]] * len(copy))
    assert describe_data({"one": first}) == describe_data({"one": copy}) == describe_data({"one": teacher})
    assert describe_data({"one": first})["one"]["rows"] == 64
    scored, other = (copy.add_column("label", [score] * len(copy)) for score in (0.5, 0.25))
    facts = [describe_data({"one": one}) for one in (copy, scored, other)]
    assert len({one["one"]["hash"] for one in facts}) == 3


def test_of_streamed_data_the_beginning_counts(sources: list[Path]) -> None:
    def facts() -> dict[str, Any]:
        streamed = datasets.load_dataset("json", data_files=str(sources[0]), split="train", streaming=True)
        return describe_data({"one": streamed})["one"]

    before = facts()
    assert before["rows"] is None
    assert facts() == before
    write_pairs(sources[0], 63)
    assert facts() != before


def test_a_checkpoint_with_half_a_file_is_passed_over_and_removed(
    interrupted: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = interrupted.last_checkpoint()
    assert earlier is not None
    newer = earlier.with_name("checkpoint-6")
    shutil.copytree(earlier, newer)
    assert interrupted.last_checkpoint() == newer
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        file = newer / name
        whole = file.read_bytes()
        for keep in (0.0, 0.5, 0.99):
            file.write_bytes(whole[: int(keep * len(whole))])
            caplog.clear()
            assert interrupted.last_checkpoint() == earlier, f"{keep} of {name}"
            assert f"{newer} was not written to the end and is passed over" in caplog.text
        file.write_bytes(whole)
        assert interrupted.last_checkpoint() == newer
    interrupted.rewind(earlier)
    assert not newer.exists()
    assert earlier.exists()


def test_rewinding_keeps_the_log_up_to_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = [f'{{"step": {step}, "loss": 1.0}}\n' for step in (0, 3, 5, 6)]
    folder.metrics.write_text("".join(lines) + '{"step": 7, "lo', encoding="utf-8")
    folder.rewind(folder.checkpoints / "checkpoint-5")
    assert folder.metrics.read_text(encoding="utf-8") == "".join(lines[:3])
    folder.rewind(None)
    assert folder.metrics.read_text(encoding="utf-8") == ""
