"""All training data of a recipe: loaded or streamed, without repeats and without evaluation texts."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset
from sentence_transformers.base.training_args import BatchSamplers

from mrl_text.training.batches import SAMPLERS, NoDuplicatesBatchSampler, WeightedBatchSampler
from mrl_text.training.data import check_source, load_sources
from mrl_text.training.leaks import evaluation_hashes, leaked_rows
from mrl_text.training.recipe import Recipe
from mrl_text.training.streams import stream_sources
from mrl_text.training.texts import row_hashes, text_columns

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder

logger = logging.getLogger(__name__)

Data: TypeAlias = Dataset | DatasetDict | IterableDataset


def check_data(recipe: Recipe) -> None:
    """Fail early (FileNotFoundError, ValueError) on what can be seen without reading the data."""
    for source in recipe.data.train:
        check_source(source)
    for source in recipe.data.validation:
        check_source(source, "validation")
    if recipe.data.mirror is not None and not Path(recipe.data.mirror).expanduser().is_dir():
        raise FileNotFoundError(f"data.mirror: no folder at {recipe.data.mirror}; mrl-text mirror makes one")
    if not recipe.data.stream:
        return
    if recipe.loss.models or recipe.model.rotation or not recipe.loss.steps:
        raise ValueError(
            "data.stream: a frozen model's vectors of all texts cannot be computed beforehand: leave stream out, or the"
            " rotation, and distil with loss.teacher=self"
        )
    if int(recipe.training.get("max_steps") or 0) < 1:
        raise ValueError("data.stream: nobody knows where a stream ends: set training.max_steps")
    if recipe.data.on_leak == "refuse" and _checked_against(recipe):
        raise ValueError(
            "data.stream: a stream cannot be searched for evaluation texts beforehand: set data.on_leak=drop to leave"
            " out such rows as they come, or data.check_against=[] not to check"
        )


def load_training_data(recipe: Recipe) -> Dataset | DatasetDict | IterableDataset:
    """Load the training sources, leave out repeated rows and keep evaluation texts out.

    Returns:
        One data set, a ``DatasetDict`` of several sources, or a stream.

    Raises:
        FileNotFoundError, ValueError: as for :func:`mrl_text.training.data.load_source`.
        ValueError: the training data has a text of the evaluation data and ``data.on_leak`` is ``refuse``, an unknown
            evaluation task, or no row left of a source.
    """
    check_data(recipe)
    config = recipe.data
    if config.stream:
        forbidden = _evaluation(recipe) if config.on_leak == "drop" else None
        return stream_sources(config.train, seed=recipe.seed, deduplicate=config.deduplicate, evaluation=forbidden)
    data = load_sources(config.train)  # first: its columns are known at once, mteb takes its time
    evaluation = _evaluation(recipe)
    if not config.deduplicate and not len(evaluation):
        return data
    seen: set[bytes] = set()
    if not isinstance(data, DatasetDict):
        return _cleaned(data, config.train[0].label, recipe, evaluation, seen)
    return DatasetDict({name: _cleaned(part, name, recipe, evaluation, seen) for name, part in data.items()})


def training_prompts(model: MatryoshkaEncoder, data: Data) -> dict[str, str] | None:
    """Column -> text put before its texts in training, mining and the teacher's vectors; None where there is none.

    The model's own rule (:meth:`mrl_text.MatryoshkaEncoder.prompt_for`), by which validation, evaluation and use go,
    too: anchors are queries, all other columns documents. A recipe's ``model.prompts`` are the model's by then.
    """
    parts = data.values() if isinstance(data, dict) else [data]
    columns = dict.fromkeys(name for part in parts for name in text_columns(part))
    prompts = {name: model.prompt_for("query" if name == "anchor" else "document") or "" for name in columns}
    return prompts if any(prompts.values()) else None


def check_batches(recipe: Recipe, data: Data, *, batch_size: int, drop_last: bool, processes: int = 1) -> None:
    """Refuse data of which no batch can be made; tell where batches are smaller than asked or leave rows out.

    Raises:
        ValueError: the reason, with rows, different texts and batch size, and what to change.
    """
    if isinstance(data, IterableDataset):
        return
    parts = data if isinstance(data, DatasetDict) else {recipe.data.train[0].label: data}
    own = "batch_sampler" not in recipe.training
    problems = []
    for name, part in parts.items():
        # what another sampler makes of repeating texts is its own affair
        sampler = NoDuplicatesBatchSampler(part if own else _numbered(part), batch_size, drop_last, seed=recipe.seed)
        columns = len(text_columns(part))
        told_apart = sampler.largest * (columns - 1 if recipe.loss.needs_pairs else columns)
        told_apart *= processes if recipe.loss.gathers else 1
        if drop_last and next(iter(sampler), None) is None:
            problems.append(_no_full_batch(name, part, sampler))
        elif told_apart < 2:
            problems.append(f"{name}: {_why_single(part, sampler)}, and a batch of one row has nothing to tell apart")
        else:
            _tell_batches(name, part, sampler, processes)
    if len(problems) == len(parts):
        raise ValueError(problems[0])
    for problem in problems:
        logger.warning("NOT TRAINED ON: %s", problem)


def _why_single(data: Dataset, sampler: NoDuplicatesBatchSampler) -> str:
    if len(data) == 1:
        return "there is only one row: name more data"
    if sampler.most_frequent == len(data):
        return f"all {len(data):,} rows share a text: name data with more texts, or a column of negatives"
    return f"training.per_device_train_batch_size={sampler.batch_size}: set 2 or more"


def _no_full_batch(name: str, data: Dataset, sampler: NoDuplicatesBatchSampler) -> str:
    rows, size, most = len(data), sampler.batch_size, min(len(data), sampler.distinct)
    few = f"{rows:,} rows" if most == rows else f"{rows:,} rows with only {most:,} different texts in a column"
    return (
        f"{name}: {few} make no batch of {size:,} without a text twice, and training.dataloader_drop_last leaves out"
        f" smaller ones: set it to false, or training.per_device_train_batch_size to {most:,} at most"
    )


def _tell_batches(name: str, data: Dataset, sampler: NoDuplicatesBatchSampler, processes: int) -> None:
    rows, size, batches = len(data), sampler.batch_size, len(sampler)
    if sampler.is_tight and sampler.largest < size:
        if processes > 1:
            raise ValueError(
                f"{name}: {batches:,} of {rows:,} rows share a text, so batches have {sampler.largest} rows and"
                f" fewer, and {processes} processes need batches of one size: set"
                f" training.per_device_train_batch_size={sampler.largest} and training.dataloader_drop_last=true"
            )
        logger.warning(
            "%s: %d of %d rows share a text, and no batch has a text twice: an epoch has %d batches of at most %d rows,"
            " not of %d; training.gradient_accumulation_steps=%d makes the steps as large as asked",
            *(name, batches, rows, batches, sampler.largest, size, max(2, round(size / sampler.largest))),
        )
    elif sampler.largest < size and batches == 1:
        logger.warning("%s: a batch has %d rows, which is all there are, not %d", name, rows, size)
    elif left_out := rows - batches * size if sampler.drop_last else 0:
        logger.info(
            "%s: an epoch has %d batches of %d rows; %d of %d rows, others each time, are left out of it"
            " (training.dataloader_drop_last)",
            *(name, batches, size, left_out, rows),
        )


def _numbered(data: Dataset) -> Dataset:
    return Dataset.from_dict({"anchor": [str(row) for row in range(len(data))]})


def batch_arguments(recipe: Recipe) -> dict[str, Any]:
    """Training arguments that make the batches of the recipe: its samplers, for one source and across sources."""
    if recipe.data.stream:
        return {"batch_sampler": BatchSamplers.BATCH_SAMPLER}  # the only one a stream can have
    arguments: dict[str, Any] = {"batch_sampler": SAMPLERS[recipe.data.batches]}
    weights = [source.weight for source in recipe.data.train if source.weight is not None]
    if len(weights) > 1:
        arguments["multi_dataset_batch_sampler"] = functools.partial(WeightedBatchSampler, weights=weights)
    return arguments


def _evaluation(recipe: Recipe) -> np.ndarray:
    names = _checked_against(recipe)
    return evaluation_hashes(names, recipe.data.mirror) if names else np.zeros(0, dtype=np.uint64)


def _checked_against(recipe: Recipe) -> list[str]:
    return recipe.eval.tasks if recipe.data.check_against is None else recipe.data.check_against


def _cleaned(data: Dataset, name: str, recipe: Recipe, evaluation: np.ndarray, seen: set[bytes]) -> Dataset:
    """The rows that may be trained on; ``seen`` grows by them."""
    hashes = row_hashes(data)
    leaked = leaked_rows(hashes, evaluation)
    if leaked.any():
        _tell_leak(data, name, recipe, hashes, leaked, evaluation)
    keep = ~leaked if recipe.data.on_leak == "drop" else np.ones(len(data), dtype=bool)
    if recipe.data.deduplicate:
        before = int(keep.sum())
        for row in np.flatnonzero(keep):
            key = hashes[row].tobytes()
            keep[row] = key not in seen
            seen.add(key)
        if repeats := before - int(keep.sum()):
            logger.info("%s: %d of %d rows were there before and are left out", name, repeats, len(data))
    if keep.all():
        return data
    if not keep.any():
        raise ValueError(f"{name}: no row is left without repeats and evaluation texts")
    return data.select(np.flatnonzero(keep))


def _tell_leak(
    data: Dataset, name: str, recipe: Recipe, hashes: np.ndarray, leaked: np.ndarray, evaluation: np.ndarray
) -> None:
    row = int(np.argmax(leaked))
    column = text_columns(data)[int(np.argmax(np.isin(hashes[row], evaluation)))]
    found = (
        f"{int(leaked.sum())} of {len(data)} rows of {name} have a text that is also in"
        f" {', '.join(_checked_against(recipe))}, first row {row + 1}: {data[row][column][:100]!r}"
    )
    if recipe.data.on_leak == "refuse":
        raise ValueError(
            f"{found}. Scores would be too good to be true: leave these rows out with data.on_leak=drop, or train on"
            " them all the same with data.on_leak=allow"
        )
    logger.warning("%s; %s", found, "they are left out" if recipe.data.on_leak == "drop" else "trained on as told")
