"""From a recipe to a trained Matryoshka encoder."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any, get_type_hints

import torch
from accelerate import PartialState
from datasets import DatasetDict
from pydantic import ConfigDict, TypeAdapter, ValidationError
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from mrl_text.cards.sizes import sizes_measured, write_card
from mrl_text.dtypes import training_precision
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.files import read_json, replaced_folder, write_atomically
from mrl_text.models import ModelSource
from mrl_text.training.base import check_recipe, load_base
from mrl_text.training.callbacks import LogBeforeSaving, MetricsLog, ProgressLine, StopOnInterrupt
from mrl_text.training.corpus import batch_arguments, load_training_data, training_prompts
from mrl_text.training.data import load_source
from mrl_text.training.evaluator import NestedRetrievalEvaluator
from mrl_text.training.losses import build_loss
from mrl_text.training.prepare import prepare
from mrl_text.training.recipe import DEFAULT_SEED, Recipe
from mrl_text.training.run import RunFolder, describe_data, explain_failed_write

logger = logging.getLogger(__name__)

_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "warmup_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.25,
    "save_total_limit": 2,
    "logging_steps": 0.02,
    "report_to": "none",
    "seed": DEFAULT_SEED,
}
"""Where a recipe is silent."""


def train(recipe: Recipe, output: str | Path, *, resume: bool = False) -> Path:
    """Train a model as the recipe says.

    Everything about the run lands in ``output``: ``recipe.yaml`` (resolved), ``versions.json``, ``metrics.jsonl``,
    ``checkpoints/``, ``model/`` and, last, ``result.json``.

    Args:
        resume: continue an interrupted run of the same recipe from its last checkpoint; a finished run is left as
            it is.

    Raises:
        FileExistsError: ``output`` holds a run and ``resume`` is off.
        FileNotFoundError: model or data are not there.
        ValueError: a size larger than the model, a bad data column, a wrong training argument, or another recipe
            than the one to resume.
        KeyboardInterrupt: interrupted; a checkpoint was saved and ``resume`` continues from it.
        FloatingPointError: the loss is no longer a number; the last checkpoint stays.
    """
    folder = RunFolder(Path(output))
    source = check_recipe(recipe)
    arguments = training_arguments(recipe, folder.checkpoints)
    main_process = int(os.environ.get("RANK", "0")) == 0  # under torchrun one process looks and writes
    if main_process:
        folder.check(recipe, resume=resume)
    if folder.result.exists():
        logger.info("%s is already complete", folder.path)
        return folder.model
    data = load_training_data(recipe)
    sources = data if isinstance(data, DatasetDict) else {recipe.data.train[0].label: data}
    data_facts = describe_data(sources)
    if main_process:
        folder.check_data(data_facts)
    evaluator = _evaluator(recipe, int(arguments.per_device_eval_batch_size))
    set_seed(arguments.seed)
    model = load_base(recipe, source)
    checkpoint = folder.last_checkpoint()
    if main_process:
        folder.start(recipe, data_facts)
        folder.rewind(checkpoint)
    card: dict[str, Any] = {"data": {name: one["rows"] for name, one in data_facts.items()}}
    if evaluator is not None and main_process:
        card["before"] = _starting_scores(evaluator, model, folder)
    started = time.monotonic()
    longest = model.max_seq_length
    if recipe.model.train_seq_length is not None:
        model.max_seq_length = min(longest or recipe.model.train_seq_length, recipe.model.train_seq_length)
    with arguments.main_process_first(local=False):  # the others, on other machines too, find its files
        model, data = prepare(recipe, model, data, folder)
    arguments.prompts = training_prompts(recipe, data)
    facts: dict[str, Any] = {}
    if recipe.loss.name != "rotation":  # which is fitted by now, and the encoder stays as it is
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=data,
            loss=build_loss(recipe.loss, model),
            evaluator=evaluator,
            callbacks=[MetricsLog(folder.metrics)],
        )
        facts = _fit(trainer, checkpoint, recipe.model.blend, evaluator.primary_metric if evaluator else None)
    if recipe.model.train_seq_length is not None:
        model.max_seq_length = longest
    if main_process:
        facts["seconds_this_session"] = round(time.monotonic() - started, 1)
        after = sizes_measured(evaluator(model)) if evaluator is not None else None
        _save(recipe, model, folder, source, facts, {**card, "after": after})
    PartialState().wait_for_everyone()
    return folder.model


def _fit(trainer: _Trainer, checkpoint: Path | None, blend: float, metric: str | None) -> dict[str, Any]:
    """Run the Trainer; the model ends with the weights to be saved. Returns facts for the result."""
    weights = trainer.model.state_dict()
    start = {name: value.detach().clone() for name, value in weights.items()} if blend < 1 else {}
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    progress = ProgressLine(metric)
    with StopOnInterrupt() as interrupt, closing(progress):
        for callback in (progress, interrupt, LogBeforeSaving()):  # in this order: an interrupt asks for a checkpoint
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if interrupt.requested and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt(f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}")
    with torch.no_grad():
        for name, value in trainer.model.state_dict().items() if start else ():
            if value.is_floating_point():  # the share of the way from where they began
                value.copy_(torch.lerp(start[name].to(value.device), value, blend))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    arguments = trainer.args
    return {
        "steps": trainer.state.global_step,
        "last_loss": losses[-1] if losses else None,
        "device": str(arguments.device),
        "mixed_precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
    }


def training_arguments(recipe: Recipe, checkpoints: Path) -> SentenceTransformerTrainingArguments:
    """The recipe's ``training`` section with our defaults and this machine's mixed precision filled in.

    Raises:
        ValueError: a value the Trainer refuses.
    """
    given = dict(recipe.training)
    _check_values(given)
    if not {"bf16", "fp16"} & set(given):
        given |= training_precision(use_cpu=bool(given.get("use_cpu")))
    if recipe.data.validation:
        given.setdefault("eval_strategy", "steps")
        given.setdefault("eval_steps", 0.25)
    try:
        return SentenceTransformerTrainingArguments(
            output_dir=str(checkpoints), disable_tqdm=True, **{**_DEFAULTS, **batch_arguments(recipe), **given}
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"training: {' '.join(str(error).split())}") from error


def _check_values(given: dict[str, Any]) -> None:
    hints = get_type_hints(SentenceTransformerTrainingArguments)
    for name, value in given.items():
        adapter = TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True))
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise ValueError(f"training.{name}={value}: {reason}") from None
        least = 1 if name.endswith("batch_size") else 0 if name == "learning_rate" else None
        if value is not None and least is not None and value < least:
            raise ValueError(f"training.{name}={value}: must be at least {least}")


def _evaluator(recipe: Recipe, batch_size: int) -> NestedRetrievalEvaluator | None:
    if not recipe.data.validation:
        return None
    parts = [load_source(source) for source in recipe.data.validation]
    anchors = [text for part in parts for text in part["anchor"]]
    positives = [text for part in parts for text in part["positive"]]
    return NestedRetrievalEvaluator(anchors, positives, recipe.loss.dims, batch_size=max(batch_size, 32))


class _Trainer(SentenceTransformerTrainer):
    """Stops before a loss that is no number reaches the weights (the parent logs such a loss as 0 and goes on), at
    the last step (the parent takes one more after resuming there), and at a full disk in plain words."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}; lower training.learning_rate or"
                " turn off half precision (training.bf16=false training.fp16=false)"
            )
        return loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with explain_failed_write(f"the checkpoint of step {self.state.global_step}", Path(self.args.output_dir)):
            super()._save_checkpoint(*args, **kwargs)


def _starting_scores(
    evaluator: NestedRetrievalEvaluator, model: MatryoshkaEncoder, folder: RunFolder
) -> dict[int, float]:
    """What the starting model scores per size; measured once, a run that is resumed reads it."""
    file = folder.path / "start.json"
    if not file.exists():
        write_atomically(file, json.dumps(sizes_measured(evaluator(model))).encode())
    return {int(dim): score for dim, score in read_json(file).items()}


def _save(
    recipe: Recipe,
    model: MatryoshkaEncoder,
    folder: RunFolder,
    source: ModelSource,
    facts: dict[str, Any],
    card: dict[str, Any],
) -> None:
    model.describe(name=folder.path.resolve().name)
    if recipe.model.static is None:  # a table from scratch has only the vocabulary of its base
        model.describe(base_model=source.reference)
    about = {"dims": recipe.loss.dims, "recipe": recipe.to_yaml(), "run": str(folder.path)}
    about["versions"] = read_json(folder.versions)
    with explain_failed_write("the model", folder.path):
        with replaced_folder(folder.model, "modules.json", "model") as partial:
            model.save_pretrained(str(partial))
            write_card(partial, **about, **card)
        base = {"name": source.name, "revision": source.revision, **source.trusted}
        write_atomically(folder.result, json.dumps({"base_model": base, **facts}, indent=2).encode())
