"""What a run computes once before its first step: the teacher's vectors and the rotation."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict

from mrl_text.dtypes import compute_dtype
from mrl_text.loading import load
from mrl_text.models import find_model
from mrl_text.training.corpus import training_prompts
from mrl_text.training.recipe import Recipe
from mrl_text.training.run import RunFolder, explain_failed_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mrl_text.adapt.adaptation import Adaptation
    from mrl_text.encoder import MatryoshkaEncoder

logger = logging.getLogger(__name__)

_ROTATION_TEXTS = 100_000  # as many as :func:`mrl_text.adapt.adapt` takes unless told otherwise


def prepare(recipe: Recipe, model: MatryoshkaEncoder, data: Any, folder: RunFolder) -> tuple[MatryoshkaEncoder, Any]:
    """Mine negatives, add a frozen model's vectors to the data and rotate the model, where the recipe asks for it.

    What it computes is kept on disk, so that a run that is resumed finds it. Gives the model to train and its data,
    with columns of vectors where the loss or the batches need them.
    """
    if any(source.mine_negatives for source in recipe.data.train):
        from mrl_text.training.negatives import mine_sources

        data = mine_sources(data, recipe.data.train, model, prompts=training_prompts(model, data))
    grouped = {"base": ("base",)} if recipe.data.batches == "neighbours" else {}
    roles = [loss.models if loss.needs_teacher else loss.models | grouped for loss in recipe.losses]
    scorers = [one.pop("cross_encoder", None) for one in roles]
    data = _scored(recipe, scorers, data)
    taught = data
    for names in dict.fromkeys(names for one in roles for names in one.values()):
        columns = [[role for role, wanted in one.items() if wanted == names] for one in roles]
        taught = _taught(recipe, names, model, taught, columns)
    if recipe.model.rotation or not recipe.loss.steps:
        from mrl_text.adapt import apply

        vectors = _taught(recipe, ("base",), model, data, [["base"]] * len(roles))
        model = apply(model, _rotation(recipe, model, vectors, folder.rotation))
        model.matryoshka_dims = recipe.loss.dims
    return model, taught


def _scored(recipe: Recipe, scorers: list[tuple[str, ...] | None], data: Any) -> Any:
    """The data with the scores of a cross-encoder, for the sources whose loss names one."""
    from mrl_text.training.scores import add_scores

    def scored(part: Dataset, names: Sequence[str] | None) -> Dataset:
        trust = recipe.model.trust_remote_code
        return part if names is None else add_scores(part, find_model(names[0], trust_remote_code=trust))

    if not any(scorers):
        return data
    parts = data if isinstance(data, DatasetDict) else {"": data}
    done = {label: scored(part, names) for (label, part), names in zip(parts.items(), scorers, strict=True)}
    return DatasetDict(done) if isinstance(data, DatasetDict) else done[""]


def _taught(recipe: Recipe, names: Sequence[str], base: MatryoshkaEncoder, data: Any, columns: list[list[str]]) -> Any:
    """The data with the vectors of frozen models, the base or others, side by side in these columns by source."""
    from mrl_text.training.teacher import add_teacher

    frozen = [_frozen(recipe, name, base) for name in names]
    for loss in recipe.losses:
        if loss.models.get("teacher") == names and names != ("base",):
            loss.check_width(base.width or 0, sum(one.width or 0 for one in frozen))
    parts = data if isinstance(data, DatasetDict) else {"": data}
    taught = {}
    for (label, part), roles, loss in zip(parts.items(), columns, recipe.losses, strict=True):
        prompts = [training_prompts(one, part, loss.needs) for one in frozen]
        taught[label] = add_teacher(part, frozen, prompts=prompts, names=roles) if roles else part
    return DatasetDict(taught) if isinstance(data, DatasetDict) else taught[""]


def _frozen(recipe: Recipe, name: str, base: MatryoshkaEncoder) -> MatryoshkaEncoder:
    """The base as it is now, or another model, to compute vectors with."""
    if name == "base":
        frozen: MatryoshkaEncoder = copy.deepcopy(base).to(getattr(torch, compute_dtype(base, "auto")))
    else:
        frozen = load(find_model(name, trust_remote_code=recipe.model.trust_remote_code), dtype="auto")
        frozen.warn_when_cut = False  # it reads as much as it can
    return frozen


def _rotation(recipe: Recipe, model: MatryoshkaEncoder, taught: Any, file: Path) -> Adaptation:
    """The rotation of the run: fitted once, and again where its files are damaged."""
    from mrl_text.adapt import fit, load_adaptation

    try:
        return load_adaptation(file)
    except (FileNotFoundError, ValueError) as error:
        if file.exists():
            logger.warning("%s; the rotation is fitted again", error)
    weights = None if recipe.loss.steps else recipe.loss.weights  # else they are the training's
    vectors = _vectors(taught, model.width or 0, recipe.seed)
    fitted = fit(vectors, dims=recipe.loss.dims, weights=weights, seed=recipe.seed)
    with explain_failed_write("the rotation", file.parent):
        fitted.save(file)
    return fitted


def _vectors(data: Dataset | DatasetDict, width: int, seed: int) -> np.ndarray:
    """The vectors of up to 100,000 texts of the data, each text once, float32 (n, width)."""
    parts = data.values() if isinstance(data, DatasetDict) else [data]
    tables = [np.asarray(part.with_format("numpy")["base"][:], dtype=np.float32).reshape(-1, width) for part in parts]
    vectors = np.unique(np.concatenate(tables), axis=0)
    if len(vectors) > _ROTATION_TEXTS:
        logger.info("the rotation is fitted on %d of the %d texts, drawn at random", _ROTATION_TEXTS, len(vectors))
    generator = np.random.default_rng(seed)
    return vectors[np.sort(generator.permutation(len(vectors))[:_ROTATION_TEXTS])]
