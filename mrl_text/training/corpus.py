"""All training data of a recipe: loaded or streamed, without repeats and without evaluation texts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from sentence_transformers.base.sampler import GroupByLabelBatchSampler
from sentence_transformers.base.training_args import BatchSamplers
from torch.utils.data import BatchSampler

from mrl_text.amounts import count
from mrl_text.models import find_model, peek_width
from mrl_text.training.batches import SAMPLERS, NoDuplicatesBatchSampler, WeightedBatchSampler
from mrl_text.training.columns import LABEL, PAIRS, Needs
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
    size = int(recipe.training.get("per_device_train_batch_size") or 8)
    if any(loss.needs.rows == "classes" for loss in recipe.losses) and (size < 4 or size % 2):
        raise ValueError(
            f"training.per_device_train_batch_size={size}: batches of classes have two rows of each at a time: set an"
            " even number of at least 4"
        )
    if not recipe.data.stream:
        return
    if any(loss.models for loss in recipe.losses) or recipe.model.rotation or not recipe.loss.steps:
        raise ValueError(
            "data.stream: vectors and scores of frozen models cannot be computed beforehand: leave stream out, or the"
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
        options: dict[str, Any] = {"seed": recipe.seed, "deduplicate": config.deduplicate, "evaluation": forbidden}
        return stream_sources(config.train, recipe.loss.needs, **options)
    needs = [loss.needs for loss in recipe.losses]
    mined = [
        need._replace(texts=2) if one.mine_negatives else need for need, one in zip(needs, config.train, strict=True)
    ]
    data = load_sources(config.train, mined)  # first: its columns are known at once, mteb takes its time
    _check_lists(recipe, data)
    evaluation = _evaluation(recipe)
    if not config.deduplicate and not len(evaluation):
        return data
    seen: dict[Needs, set[bytes]] = {need: set() for need in needs}  # what one loss has seen is new to another
    if not isinstance(data, DatasetDict):
        return _cleaned(data, config.train[0].label, recipe, evaluation, seen[needs[0]])
    parts = zip(data.items(), needs, strict=True)
    return DatasetDict({name: _cleaned(part, name, recipe, evaluation, seen[need]) for (name, part), need in parts})


def _check_lists(recipe: Recipe, data: Dataset | DatasetDict) -> None:
    """Refuse lists of numbers that are not as long as the loss takes them."""
    parts = data.values() if isinstance(data, DatasetDict) else [data]
    for part, source, loss in zip(parts, recipe.data.train, recipe.losses, strict=True):
        if not loss.needs.lists:
            continue
        texts = len(text_columns(part))
        width = recipe.model.width or recipe.model.static or peek_width(find_model(recipe.model.name))
        allowed, found = loss.needs.lengths(texts, width), sorted(set(map(len, part[LABEL][:])))
        if len(found) > 1 or (allowed and found[0] not in allowed):
            raise ValueError(
                f"{source.source}: beside {count(texts, 'text')} are lists of {_or(found)} numbers, and"
                f" {loss.words} takes {_or(allowed) or 'as many'} in every row: change the lists, or the columns"
            )


def _or(numbers: Iterable[int]) -> str:
    return " or ".join(map(str, numbers))


def training_prompts(model: MatryoshkaEncoder, data: Data, needs: Needs = PAIRS) -> dict[str, str] | None:
    """Column -> text put before its texts in training, mining and the teacher's vectors; None where there is none.

    The model's own rule (:meth:`mrl_text.MatryoshkaEncoder.prompt_for`), by which validation, evaluation and use go,
    too: anchors are queries, all other columns documents; texts of a symmetric loss are neither, and have the model's
    default prompt. A recipe's ``model.prompts`` are the model's by then.
    """
    parts = data.values() if isinstance(data, dict) else [data]
    columns = dict.fromkeys(name for part in parts for name in text_columns(part))
    roles = {name: None if needs.symmetric else "query" if name == "anchor" else "document" for name in columns}
    prompts = {name: model.prompt_for(role) or "" for name, role in roles.items()}
    return prompts if any(prompts.values()) else None


def source_prompts(recipe: Recipe, model: MatryoshkaEncoder, data: Data) -> Any:
    """:func:`training_prompts` for the Trainer: of each source where their losses differ."""
    needs = [loss.needs for loss in recipe.losses]
    if not isinstance(data, DatasetDict) or len({need.symmetric for need in needs}) == 1:
        return training_prompts(model, data, needs[0])
    prompts = {name: training_prompts(model, data[name], need) for name, need in zip(data, needs, strict=True)}
    return {name: own or {} for name, own in prompts.items()} if any(prompts.values()) else None


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
    for (name, part), loss in zip(parts.items(), recipe.losses, strict=True):
        rows = loss.needs.rows
        if rows == "classes" and own:
            problems += _class_problems(name, part, batch_size, drop_last)
            continue
        # what another sampler makes of repeating texts is its own affair
        repeats = not own or rows != "negatives"
        sampler = NoDuplicatesBatchSampler(part, batch_size, drop_last, seed=recipe.seed, repeats=repeats)
        candidates = len(text_columns(part)) - (loss.needs.texts > 1) if rows == "negatives" else 1
        told_apart = sampler.largest * candidates * (processes if loss.gathers else 1)
        if drop_last and next(iter(sampler), None) is None:
            problems.append(_no_full_batch(name, part, sampler))
        elif told_apart < 2 and rows != "alone":
            problems.append(f"{name}: {_why_single(part, sampler)}, and a batch of one row has nothing to tell apart")
        else:
            _tell_batches(name, part, sampler, processes)
    if len(problems) == len(parts):
        raise ValueError(problems[0])
    for problem in problems:
        logger.warning("NOT TRAINED ON: %s", problem)


def _class_problems(name: str, data: Dataset, batch_size: int, drop_last: bool) -> list[str]:
    """Why no batch can be made of classes; tells how many rows an epoch leaves out."""
    options: dict[str, Any] = {"valid_label_columns": [LABEL], "generator": torch.Generator()}
    try:
        batches = list(GroupByLabelBatchSampler(data, batch_size, drop_last, **options))
    except ValueError:
        batches = []
    if not batches:
        smaller = " or set training.dataloader_drop_last=false" if drop_last else ""
        return [f"{name}: a batch needs two classes with two rows each: name more data{smaller}"]
    if left_out := len(data) - sum(map(len, batches)):
        logger.warning(
            "%s: %d of %d rows, others each time, are left out of an epoch: classes take turns with two rows, until"
            " only one class has some",
            *(name, left_out, len(data)),
        )
    return []


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


def source_samplers(recipe: Recipe) -> list[Callable[..., BatchSampler]]:
    """What makes the batches of each source, as its loss needs them."""
    kind = SAMPLERS[recipe.data.batches]
    known: dict[str, Callable[..., BatchSampler]] = {"negatives": kind, "classes": GroupByLabelBatchSampler}
    return [known.get(loss.needs.rows, functools.partial(kind, repeats=True)) for loss in recipe.losses]


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
        beside = data.with_format(None)[LABEL][:] if LABEL in data.column_names else None
        for row in np.flatnonzero(keep):
            key = hashes[row].tobytes() + (b"" if beside is None else str(beside[row]).encode())
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
