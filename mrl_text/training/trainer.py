"""From a recipe to a trained Matryoshka encoder."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict, IterableDataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch.utils.data import BatchSampler
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from mrl_text.cards.sizes import write_card
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.files import hold, peek_json, read_json, replaced_folder, write_atomically
from mrl_text.loading import not_finite
from mrl_text.losses import NestedLoss
from mrl_text.models import ModelSource, find_model
from mrl_text.training.activations import Activations
from mrl_text.training.adapters import attach_adapters, has_adapters, load_trained, merge_adapters, save_trained
from mrl_text.training.arguments import training_arguments
from mrl_text.training.base import check_recipe, load_base, located
from mrl_text.training.batches import rows_used
from mrl_text.training.callbacks import EarlyStopping, LogBeforeSaving, MetricsLog, ProgressLine, StopOnInterrupt
from mrl_text.training.columns import LABEL
from mrl_text.training.corpus import check_batches, load_training_data, source_prompts, source_samplers
from mrl_text.training.data import load_source
from mrl_text.training.evaluator import NestedEvaluator, NestedRetrievalEvaluator, NestedSimilarityEvaluator, metric_of
from mrl_text.training.frozen_layers import frozen_layers
from mrl_text.training.outcome import Scores, compared, totals
from mrl_text.training.prepare import prepare
from mrl_text.training.recipe import EARLY_STOPPING, Recipe
from mrl_text.training.run import RunFolder, describe_data, explain_failed_write
from mrl_text.training.teacher import VectorsCollator

logger = logging.getLogger(__name__)

_LEARNED = "loss.safetensors"  # of a checkpoint: what the loss learns beside the model


def train(recipe: Recipe, output: str | Path, *, resume: bool = False) -> Path:
    """Train a model as the recipe says.

    Everything about the run lands in ``output``: ``recipe.yaml`` (resolved), ``versions.json``, ``metrics.jsonl``,
    ``checkpoints/``, ``model/`` and, last, ``result.json``.

    Args:
        recipe: what to do; see :func:`mrl_text.training.recipe.load_recipe`.
        output: folder of the run.
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
    recorded = located(recipe)
    main_process = int(os.environ.get("RANK", "0")) == 0  # under torchrun one process looks and writes
    if main_process:
        folder.check(recorded, resume=resume)
    if folder.result.exists():
        logger.info("%s is already complete", folder.path)
        return folder.model
    with hold(folder.path) if main_process else nullcontext():
        if main_process:
            folder.check(recorded, resume=resume)  # again, as another process may have been at it
        _train(recipe, recorded, folder, source, arguments, resume=resume)
    return folder.model


def _train(
    recipe: Recipe,
    recorded: Recipe,
    folder: RunFolder,
    source: ModelSource,
    arguments: SentenceTransformerTrainingArguments,
    *,
    resume: bool,
) -> None:
    main_process = int(os.environ.get("RANK", "0")) == 0
    checkpoint = folder.last_checkpoint()
    evaluator = _evaluator(recipe, int(arguments.per_device_eval_batch_size))
    data = load_training_data(recipe)
    how: dict[str, Any] = {"drop_last": arguments.dataloader_drop_last, "processes": arguments.world_size}
    check_batches(recipe, data, batch_size=arguments.train_batch_size, **how)
    sources = data if isinstance(data, DatasetDict) else {recorded.data.train[0].label: data}
    data_facts = describe_data(sources)
    if main_process:
        folder.check_data(data_facts)
    set_seed(arguments.seed)
    model = load_base(recipe, source)
    if main_process:
        with explain_failed_write("the run", folder.path):
            folder.start(recorded, data_facts, resume=resume)
            folder.rewind(checkpoint)
    card: dict[str, Any] = {"data": {name: one["rows"] for name, one in data_facts.items()}}
    before = _starting_scores(evaluator, model, folder) if evaluator is not None and main_process else {}
    started = time.monotonic()
    facts: dict[str, Any] = {}
    saved_length, length = model.max_seq_length, recipe.model.train_seq_length
    with _reading(model, length and min(length, saved_length or length)):
        with arguments.main_process_first(local=False):  # the others, on other machines too, find its files
            model, data = prepare(recipe, model, data, folder)
            if any(source.mine_negatives for source in recipe.data.train):  # which leaves rows out
                check_batches(recipe, data, batch_size=arguments.train_batch_size, **how)
        if recipe.loss.steps:  # else all is fitted by now, and the encoder stays as it is
            model.codec = None  # it was of vectors that the model will not make any more
            start = _start(model, recipe.model.blend)
            if recipe.model.peft is not None:
                attach_adapters(model, recipe.model.peft, seed=arguments.seed, above=recipe.model.freeze_layers)
            loss = recipe.build_loss(model, list(data) if isinstance(data, DatasetDict) else [])
            if isinstance(loss, dict):  # by the names of its sources, as the Trainer asks for
                data = DatasetDict(zip(loss, data.values(), strict=True))
            arguments.prompts = source_prompts(recipe, model, data)
            trainer = _Trainer(
                model=model,
                args=arguments,
                train_dataset=data,
                loss=loss,
                evaluator=evaluator,
                callbacks=[MetricsLog(folder.metrics), *recipe.callbacks(loss), *_early_stopping(recipe)],
            )
            trainer.saved_length = saved_length if length else None
            if not recipe.data.stream and "batch_sampler" not in recipe.training:
                trainer.samplers = source_samplers(recipe)
            with frozen_layers(model, recipe.model, data) as trainer.activations:
                facts = _fit(trainer, checkpoint)
            _finish(model, start, recipe.model.blend)
    if main_process:
        facts["seconds_this_session"] = round(time.monotonic() - started, 1)
        if evaluator is not None:
            after = {dim: evaluator.units(each) for dim, each in evaluator.measure(model).items()}
            facts["validation"] = compared(before, after, evaluator.metric)
            card |= {"before": totals(before), "after": totals(after), "metric": evaluator.metric.words}
        _save(recipe, model, folder, source, {**facts, "data": card["data"]}, card)
    PartialState().wait_for_everyone()


@contextmanager
def _reading(model: MatryoshkaEncoder, tokens: int | None) -> Iterator[None]:
    """Let the model read so many tokens of a text for the time being; None leaves it as it is."""
    if tokens is None:
        yield
        return
    before = model.max_seq_length
    model.max_seq_length = tokens
    try:
        yield
    finally:
        model.max_seq_length = before


def _early_stopping(recipe: Recipe) -> Iterator[EarlyStopping]:
    told = {name: recipe.training[name] for name in EARLY_STOPPING if name in recipe.training}
    if told.get("early_stopping_patience"):
        yield EarlyStopping(**told)


def _start(model: MatryoshkaEncoder, blend: float) -> dict[str, torch.Tensor]:
    """The weights to begin with, where a share of them is to be kept."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()} if blend < 1 else {}


def _finish(model: MatryoshkaEncoder, start: dict[str, torch.Tensor], blend: float) -> None:
    """From trained weights and adapters to the weights that are saved."""
    merge_adapters(model)
    if broken := not_finite(model):
        raise FloatingPointError(f"{broken} after the last step; lower training.learning_rate")
    with torch.no_grad():
        for name, value in model.state_dict().items() if start else ():
            if value.is_floating_point():  # the share of the way from where they began
                value.copy_(torch.lerp(start[name].to(value.device), value, blend))


def _fit(trainer: _Trainer, checkpoint: Path | None) -> dict[str, Any]:
    """Run the Trainer; the model ends with what was trained last, or best. Returns facts for the result."""
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    evaluator = trainer.evaluator
    progress = ProgressLine(evaluator.primary_metric, evaluator.metric.words) if evaluator else ProgressLine()
    with StopOnInterrupt() as interrupt, closing(progress):
        for callback in (progress, interrupt, LogBeforeSaving()):  # in this order: an interrupt asks for a checkpoint
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if interrupt.requested and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt(f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}")
    if trainer.args.load_best_model_at_end and trainer.state.best_global_step is None:
        logger.warning("no step was validated, so that the model has the weights of the last one and not the best")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    arguments = trainer.args
    best = {"best_step": trainer.state.best_global_step} if arguments.load_best_model_at_end else {}
    early = {"stopped_early": True} if trainer.state.global_step < trainer.state.max_steps else {}
    return {
        "steps": trainer.state.global_step,
        "rows_used": _rows_used(trainer),
        **early,
        **best,
        "last_loss": losses[-1] if losses else None,
        "device": str(arguments.device),
        "mixed_precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
    }


def _rows_used(trainer: _Trainer) -> int:
    """Different rows that the steps so far have seen; of a stream all rows, as nobody knows which of them repeat."""
    steps, arguments = trainer.state.global_step, trainer.args
    per_step = arguments.gradient_accumulation_steps * arguments.world_size
    if isinstance(trainer.train_dataset, IterableDataset):
        return int(steps * per_step * arguments.train_batch_size)
    sampler = trainer.callback_handler.train_dataloader.batch_sampler
    return rows_used(getattr(sampler, "batch_sampler", sampler), steps, per_step)  # of all processes


def _evaluator(recipe: Recipe, batch_size: int) -> NestedEvaluator | None:
    if not recipe.data.validation:
        return None
    needs = recipe.validation_needs
    parts = [load_source(source, needs) for source in recipe.data.validation]
    columns = ("anchor", "positive", *([LABEL] if needs.label else []))
    anchors, positives, *scores = ([cell for part in parts for cell in part[name]] for name in columns)
    options: dict[str, Any] = {"dims": recipe.loss.dims, "batch_size": max(batch_size, 32)}
    if not needs.label:
        return NestedRetrievalEvaluator(anchors, positives, **options)
    return NestedSimilarityEvaluator(anchors, positives, scores[0], metric=metric_of(needs), **options)


class _Trainer(SentenceTransformerTrainer):
    """Stops before a loss that is no number reaches the weights (the parent logs such a loss as 0 and goes on), at
    the last step (the parent takes one more after resuming there), and at a full disk in plain words. Checkpoints of
    adapters are loaded without their base."""

    data_collator_class = VectorsCollator
    saved_length: int | None = None  # tokens per text of the saved model, where training has fewer
    activations: Activations | None = None  # of frozen layers
    samplers: Sequence[Callable[..., BatchSampler]] = ()  # of each source, where their losses decide

    def get_batch_sampler(self, dataset: Dataset, *args: Any, **kwargs: Any) -> BatchSampler | None:
        """The batches of a source, as its loss needs them."""
        parts = self.train_dataset.values() if isinstance(self.train_dataset, DatasetDict) else [self.train_dataset]
        for part, sampler in zip(parts, self.samplers, strict=False):
            if part is dataset:
                return sampler(dataset, *args, **kwargs)
        batches: BatchSampler | None = super().get_batch_sampler(dataset, *args, **kwargs)
        return batches

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the parent, and a loss of ours reads the vectors of frozen models beside the label."""
        vectors = inputs.pop("vectors", {})
        nested = self._nested()
        if "" in nested or inputs.get("dataset_name") in nested:
            inputs[LABEL] = {LABEL: inputs.get(LABEL), **vectors}
        elif "teacher" in vectors:  # one vector for each text
            inputs[LABEL] = vectors["teacher"].unflatten(1, (len(self.collect_features(inputs)[0]), -1))
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _nested(self) -> dict[str, NestedLoss]:
        """The losses of ours, by their data set where each has its own."""
        losses = self.loss if isinstance(self.loss, dict) else {"": self.loss}
        return {name: loss for name, loss in losses.items() if isinstance(loss, NestedLoss)}

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            lower = "; lower training.learning_rate"
            if self.state.global_step == 0:
                lower = ", before any weight was changed: lower loss.scale"
            raise FloatingPointError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}{lower} or turn off half precision"
                " (training.bf16=false training.fp16=false)"
            )
        return loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.control.should_training_stop |= self.state.global_step >= self.state.max_steps
        if self.control.should_training_stop:
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate as before and after the run: at the length that is saved, and without a draw that training sees."""
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices), _reading(self.model, self.saved_length):
            scores: dict[str, float] = super().evaluate(*args, **kwargs)
        return scores

    def _load_best_model(self) -> None:
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"  # wherever the run lies now
        if not best.is_dir():
            raise FileNotFoundError(f"{best}, the best of the validated checkpoints, is gone: bring it back")
        logger.info("step %d scored best: the model gets its weights", self.state.best_global_step)
        self._load_from_checkpoint(str(best))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        if has_adapters(self.model):
            load_trained(self.model, Path(checkpoint_path))
        else:
            super()._load_from_checkpoint(checkpoint_path)
        file = Path(checkpoint_path) / _LEARNED
        learned = load_file(file) if file.is_file() else {}
        for name, loss in self._nested().items():
            loss.learned = {key.removeprefix(f"{name}/"): one for key, one in learned.items()}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        output, step = Path(self.args.output_dir), self.state.global_step
        if self.activations is not None:
            self.activations.flush()  # a run that goes on from here finds what this one has seen
        with explain_failed_write(f"the checkpoint of step {step}", output):
            if has_adapters(self.model) and self.args.should_save:
                save_trained(self.model, output / f"checkpoint-{step}")
            losses = self._nested().items()
            learned = {f"{name}/{key}": one for name, loss in losses for key, one in loss.learned.items()}
            if learned and self.args.should_save:
                (output / f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)
                save_file(learned, output / f"checkpoint-{step}" / _LEARNED)
            super()._save_checkpoint(*args, **kwargs)


def _starting_scores(evaluator: NestedEvaluator, model: MatryoshkaEncoder, folder: RunFolder) -> Scores:
    """What the starting model scores per size and query or pair; measured once, a run that is resumed reads it."""
    known = peek_json(folder.before)
    shape = {str(dim): evaluator.items for dim in evaluator.dims}
    if not isinstance(known, dict) or {dim: np.size(each) for dim, each in known.items()} != shape:
        if folder.before.exists():
            logger.warning("%s is damaged: the starting model is measured again", folder.before)
        known = {str(dim): each.tolist() for dim, each in evaluator.measure(model).items()}
        with explain_failed_write("the scores of the starting model", folder.path):
            write_atomically(folder.before, json.dumps(known).encode())
    return {int(dim): evaluator.units(np.asarray(each, dtype=np.float64)) for dim, each in known.items()}


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
        others = {name for loss in recipe.losses for _, name in loss.frozen} - {"base"}
        frozen = {found.name: found.revision for found in map(find_model, sorted(others))}
        about_models = {"base_model": base, **({"frozen_models": frozen} if frozen else {})}
        write_atomically(folder.result, json.dumps({**about_models, **facts}, indent=2).encode())
