"""From a recipe to a trained Matryoshka encoder."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any, get_type_hints

import torch
from datasets import Dataset, DatasetDict
from pydantic import ConfigDict, TypeAdapter, ValidationError
from sentence_transformers import (
    SentenceTransformerModelCardData,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.training_args import BatchSamplers
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.losses import nested_infonce
from mrl_text.models import ModelSource, find_model, peek_width
from mrl_text.training.callbacks import MetricsLog, ProgressLine, StopOnInterrupt
from mrl_text.training.data import check_source, load_source, load_sources
from mrl_text.training.evaluator import NestedRetrievalEvaluator
from mrl_text.training.precision import training_precision
from mrl_text.training.recipe import Recipe
from mrl_text.training.run import RunFolder

logger = logging.getLogger(__name__)

_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "batch_sampler": BatchSamplers.NO_DUPLICATES,
    "warmup_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.25,
    "save_total_limit": 2,
    "logging_steps": 0.02,
    "report_to": "none",
    "seed": 42,
}
"""Where a recipe is silent. In-batch negatives need batches without duplicates: a second copy of the positive
would be counted as wrong."""


def train(recipe: Recipe, output: str | Path, *, resume: bool = False) -> Path:
    """Train a model as the recipe says.

    Everything about the run lands in ``output``: ``recipe.yaml`` (resolved), ``versions.json``, ``metrics.jsonl``,
    ``checkpoints/``, ``model/`` and, last, ``result.json``.

    Args:
        recipe: what to do; see :func:`mrl_text.training.recipe.load_recipe`.
        output: folder of the run.
        resume: continue an interrupted run of the same recipe from its last checkpoint; a finished run is left as
            it is.

    Returns:
        Folder of the trained model, which any sentence-transformers program can load.

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
    data = load_sources(recipe.data.train)
    evaluator = _evaluator(recipe, int(arguments.per_device_eval_batch_size))
    set_seed(arguments.seed)
    model = load_base(recipe, source)
    checkpoint = folder.last_checkpoint()
    if main_process:
        folder.start(recipe)
        folder.rewind_metrics(int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
    trainer = _trainer(recipe, model, arguments, data, evaluator, folder)
    started = time.monotonic()
    with StopOnInterrupt() as interrupt:
        trainer.add_callback(interrupt)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if interrupt.requested and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt(f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}")
    if trainer.is_world_process_zero():
        _save(model, folder, source, trainer, time.monotonic() - started)
    trainer.accelerator.wait_for_everyone()
    return folder.model


def check_recipe(recipe: Recipe) -> ModelSource:
    """Check all that can be known before data and weights are loaded: the model's name and width, local files.

    Raises:
        FileNotFoundError, ValueError: as for :func:`train`.
    """
    source = find_model(recipe.model.name)
    for data_source in (*recipe.data.train, *recipe.data.validation):
        check_source(data_source)
    width = peek_width(source)
    if width is not None:
        _check_sizes(recipe, width)
    return source


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
            output_dir=str(checkpoints), disable_tqdm=True, **{**_DEFAULTS, **given}
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


def load_base(recipe: Recipe, source: ModelSource) -> MatryoshkaEncoder:
    """The recipe's starting model, ready to train.

    Raises:
        FileNotFoundError: a hub model that cannot be reached.
        ValueError: a size larger than the model.
    """
    try:
        model = MatryoshkaEncoder(source.path, model_card_data=_ModelCard())
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(f"model {recipe.model.name} cannot be loaded: {reason}") from error
    if model.width is not None:
        _check_sizes(recipe, model.width)
    model.truncate_dim = None  # a cut saved with the base is not a cut of the model to be trained
    model.matryoshka_dims = recipe.loss.dims
    if not source.name.startswith("local/"):
        model.model_card_data.base_model = source.name
    model.warn_when_cut = False  # the recipe chose the length
    if recipe.model.max_seq_length is not None:
        model.max_seq_length = recipe.model.max_seq_length
    if recipe.model.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = recipe.model.dropout
    if recipe.model.freeze_embeddings and model.transformers_model is not None:
        model.transformers_model.get_input_embeddings().requires_grad_(False)
    return model


def _check_sizes(recipe: Recipe, width: int) -> None:
    for section, dims in (("loss", recipe.loss.dims), ("eval", recipe.eval.dims)):
        if dims and max(dims) > width:
            raise ValueError(f"{section}.dims asks for {max(dims)}, but {recipe.model.name} has width {width}")


def _evaluator(recipe: Recipe, batch_size: int) -> NestedRetrievalEvaluator | None:
    if not recipe.data.validation:
        return None
    parts = [load_source(source) for source in recipe.data.validation]
    anchors = [text for part in parts for text in part["anchor"]]
    positives = [text for part in parts for text in part["positive"]]
    return NestedRetrievalEvaluator(anchors, positives, recipe.loss.dims, batch_size=max(batch_size, 32))


class _ModelCard(SentenceTransformerModelCardData):
    """The parent's card, without random training sentences as examples: what users train on is theirs to show."""

    def set_widget_examples(self, dataset: Any) -> None:
        """Leave the examples empty."""


class _Trainer(SentenceTransformerTrainer):
    """Stops before a loss that is no number reaches the weights; the parent logs such a loss as 0 and goes on."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}; lower training.learning_rate or"
                " turn off half precision (training.bf16=false training.fp16=false)"
            )
        return loss


def _trainer(
    recipe: Recipe,
    model: MatryoshkaEncoder,
    arguments: SentenceTransformerTrainingArguments,
    data: Dataset | DatasetDict,
    evaluator: NestedRetrievalEvaluator | None,
    folder: RunFolder,
) -> SentenceTransformerTrainer:
    loss = nested_infonce(
        model,
        recipe.loss.dims,
        weights=recipe.loss.weights,
        scale=recipe.loss.scale,
        mini_batch_size=recipe.loss.mini_batch_size,
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        loss=loss,
        evaluator=evaluator,
        callbacks=[MetricsLog(folder.metrics), ProgressLine(evaluator.primary_metric if evaluator else None)],
    )
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    return trainer


def _save(
    model: MatryoshkaEncoder,
    folder: RunFolder,
    source: ModelSource,
    trainer: SentenceTransformerTrainer,
    seconds: float,
) -> None:
    base_model = str(Path(source.path).resolve()) if source.name.startswith("local/") else source.name
    model.describe(name=folder.path.resolve().name, base_model=base_model)
    temporary = folder.path / ".model.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(str(temporary))
    shutil.rmtree(folder.model, ignore_errors=True)
    temporary.rename(folder.model)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    arguments = trainer.args
    folder.finish(
        {
            "base_model": {"name": source.name, "revision": source.revision},
            "steps": trainer.state.global_step,
            "last_loss": losses[-1] if losses else None,
            "seconds_this_session": round(seconds, 1),
            "device": str(arguments.device),
            "mixed_precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
        }
    )
