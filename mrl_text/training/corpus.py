"""All training data of a recipe: loaded or streamed, without repeats and without evaluation texts."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset
from sentence_transformers.base.training_args import BatchSamplers

from mrl_text.training.batches import SAMPLERS, WeightedBatchSampler
from mrl_text.training.data import check_source, load_sources
from mrl_text.training.leaks import evaluation_hashes, leaked_rows
from mrl_text.training.recipe import Recipe
from mrl_text.training.streams import stream_sources
from mrl_text.training.texts import row_hashes, text_columns

logger = logging.getLogger(__name__)


def check_data(recipe: Recipe) -> None:
    """Fail early (FileNotFoundError, ValueError) on what can be seen without reading the data."""
    for source in recipe.data.train:
        check_source(source)
    for source in recipe.data.validation:
        check_source(source, "validation")
    if not recipe.data.stream:
        return
    if recipe.loss.needs_teacher or recipe.model.rotation or recipe.loss.name == "rotation":
        raise ValueError(
            "data.stream: the base's vectors of all texts cannot be computed beforehand: leave stream out, or the"
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
    names = _checked_against(recipe)
    evaluation = evaluation_hashes(names, config.mirror) if names else np.zeros(0, dtype=np.uint64)
    if config.stream:
        forbidden = evaluation if config.on_leak == "drop" else None
        return stream_sources(config.train, seed=recipe.seed, deduplicate=config.deduplicate, evaluation=forbidden)
    data = load_sources(config.train)
    if not config.deduplicate and not len(evaluation):
        return data
    seen: set[bytes] = set()
    if not isinstance(data, DatasetDict):
        return _cleaned(data, config.train[0].label, recipe, evaluation, seen)
    return DatasetDict({name: _cleaned(part, name, recipe, evaluation, seen) for name, part in data.items()})


def training_prompts(recipe: Recipe, data: Dataset | DatasetDict | IterableDataset) -> dict[str, str] | None:
    """What ``SentenceTransformerTrainingArguments(prompts=...)`` takes: column -> text put before its texts.

    The anchors get the recipe's ``query`` prompt, all other columns its ``document`` prompt.
    """
    given = recipe.model.prompts
    if not any(given.values()):
        return None
    parts = data.values() if isinstance(data, dict) else [data]
    columns = dict.fromkeys(name for part in parts for name in text_columns(part))
    return {name: given.get("query" if name == "anchor" else "document", "") for name in columns}


def batch_arguments(recipe: Recipe) -> dict[str, Any]:
    """Training arguments that make the batches of the recipe: its samplers, for one source and across sources."""
    if recipe.data.stream:
        return {"batch_sampler": BatchSamplers.BATCH_SAMPLER}  # the only one a stream can have
    arguments: dict[str, Any] = {"batch_sampler": SAMPLERS[recipe.data.batches]}
    weights = [source.weight for source in recipe.data.train if source.weight is not None]
    if len(weights) > 1:
        arguments["multi_dataset_batch_sampler"] = functools.partial(WeightedBatchSampler, weights=weights)
    return arguments


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
