"""The model that a recipe starts from."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding

from mrl_text.cards.trained import ModelCard
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.layers import peek_layers
from mrl_text.linear_layers import add_linear
from mrl_text.loading import check_length, load
from mrl_text.models import ModelSource, find_model, peek_width
from mrl_text.training.adapters import adapter_config, merge_adapters, try_adapters
from mrl_text.training.corpus import check_data
from mrl_text.training.losses import LossConfig
from mrl_text.training.recipe import ModelConfig, Recipe, SourceConfig
from mrl_text.training.scores import check_cross_encoder

logger = logging.getLogger(__name__)


def check_recipe(recipe: Recipe) -> ModelSource:
    """Check all that can be known before data and weights are loaded: the model's name and width, local files.

    Errors are those of :func:`mrl_text.training.train`.
    """
    source = find_model(recipe.model.name, trust_remote_code=recipe.model.trust_remote_code)
    for field, name in (named for loss in recipe.losses for named in loss.frozen):
        if name != "base":
            _check_frozen(field, name)
    if recipe.model.peft is not None:
        adapter_config(recipe.model.peft)
    check_data(recipe)
    base_width = peek_width(source)
    if base_width is not None and recipe.model.width is not None and recipe.model.width > base_width:
        raise ValueError(f"model.width={recipe.model.width}, but {recipe.model.name} has only {base_width}")
    frozen, layers = recipe.model.freeze_layers, peek_layers(source) if recipe.model.freeze_layers else None
    if frozen is not None and layers is not None and frozen >= layers:
        raise ValueError(f"model.freeze_layers={frozen}, but {recipe.model.name} has {layers}: at most {layers - 1}")
    width = recipe.model.static or recipe.model.width or base_width
    if width is not None:
        _check_sizes(recipe, width)
    return source


def _check_frozen(field: str, name: str) -> None:
    """Refuse a model that is not there, or does not do what the field asks of it."""
    try:
        peek_width(found := find_model(name))
    except FileNotFoundError as error:
        other = "another model" if field == "cross_encoder" else "another model, or base"
        raise FileNotFoundError(f"loss.{field}: {error}; name {other}") from error
    if field == "cross_encoder":
        check_cross_encoder(found)


def located(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths in place of those of this working directory, so that a run can be repeated."""

    def there(name: str) -> str:
        path = Path(name).expanduser()
        return str(path.absolute()) if path.exists() else name

    def found(loss: LossConfig) -> LossConfig:
        def at(given: Any) -> Any:
            return [at(one) for one in given] if isinstance(given, list) else given if given == "base" else there(given)

        return loss.model_copy(update={field: at(getattr(loss, field)) for field, _ in loss.frozen})

    def sources(given: list[SourceConfig]) -> list[SourceConfig]:
        named = [{"source": one.source if one.source == "docstrings" else there(one.source)} for one in given]
        losses = [{"loss": one.loss and found(one.loss)} for one in given]
        return [one.model_copy(update=name | loss) for one, name, loss in zip(given, named, losses, strict=True)]

    data = recipe.data
    update: dict[str, Any] = {"train": sources(data.train), "validation": sources(data.validation)}
    update["check_against"] = data.check_against and [there(name) for name in data.check_against]
    update["mirror"] = data.mirror and there(data.mirror)
    model = recipe.model.model_copy(update={"name": there(recipe.model.name)})
    return recipe.model_copy(
        update={"model": model, "data": data.model_copy(update=update), "loss": found(recipe.loss)}
    )


def load_base(recipe: Recipe, source: ModelSource) -> MatryoshkaEncoder:
    """The recipe's starting model, ready to train: float32 weights, in whatever type it was saved."""
    model = load(source, model_card_data=ModelCard())
    merge_adapters(model)  # of a base that was saved as adapters
    if recipe.model.static is not None:
        # a table of one vector per token, from scratch, over the model's vocabulary
        table = StaticEmbedding(model.tokenizer.backend_tokenizer, embedding_dim=recipe.model.static)
        model = MatryoshkaEncoder(modules=[table], model_card_data=ModelCard())
    if recipe.model.pooling is not None:
        _pool(model, recipe.model.pooling, recipe.model.name)
    if recipe.model.layer_norm:
        _normalise_layer(model)
    if recipe.model.width is not None:
        _narrow(model, recipe.model.width)
    if model.width is not None:
        _check_sizes(recipe, model.width)
    if recipe.training.get("router_mapping") and not model.has_routes:
        raise ValueError(f"training.router_mapping: {recipe.model.name} has no routes to choose from: leave it out")
    model.matryoshka_dims = recipe.loss.dims
    if not source.name.startswith("local/") and recipe.model.static is None:
        model.model_card_data.base_model = source.name
    model.warn_when_cut = False  # the recipe chose the length
    _set_options(model, recipe.model)
    return model


def _set_options(model: MatryoshkaEncoder, config: ModelConfig) -> None:
    model.prompts.update(config.prompts)  # saved with the model, and used by encode_query and encode_document
    check_length(model, config.max_seq_length, config.name)
    if config.max_seq_length is not None and config.static is None:
        model.max_seq_length = config.max_seq_length
    if config.train_seq_length is not None and config.train_seq_length >= (model.max_seq_length or math.inf):
        told = (config.train_seq_length, model.max_seq_length)
        logger.info("model.train_seq_length=%d has no effect: the model reads %d tokens anyway", *told)
    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = config.dropout
    if config.freeze_embeddings:
        if model.transformers_model is None:
            raise ValueError(f"model.freeze_embeddings=true, but {config.name} is no transformer: leave it out")
        model.transformers_model.get_input_embeddings().requires_grad_(False)
    if config.peft is not None:
        try_adapters(model, config.peft, freeze_embeddings=config.freeze_embeddings)


def _pool(model: MatryoshkaEncoder, mode: str, name: str) -> None:
    """Have the vectors of tokens made into one in this way."""
    there = [place for place, module in enumerate(model) if isinstance(module, Pooling)]
    if not there:
        raise ValueError(f"model.pooling={mode}, but {name} has no pooling of tokens: leave it out")
    before = model[there[0]]
    model[there[0]] = Pooling(before.embedding_dimension, mode, before.include_prompt)


def _normalise_layer(model: MatryoshkaEncoder) -> None:
    """Put a layer norm without weights behind what makes the vectors, as a layer that servers know.

    Layer norm takes the mean of a vector's numbers from each of them, and divides them all by one number, which unit
    length undoes at every size: what is left is a fixed linear layer and ``Normalize``.
    """
    width = model.width or 0
    add_linear(model, torch.eye(width) - 1 / width)
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    model[-2].requires_grad_(False)


def _narrow(model: MatryoshkaEncoder, width: int) -> None:
    """Put a linear layer to ``width`` numbers behind the pooling; it begins as the plain cut."""
    full = model.width
    if full is None or width > full:
        raise ValueError(f"model.width={width}, but the model has {full}")
    add_linear(model, torch.eye(width, full))


def _check_sizes(recipe: Recipe, width: int) -> None:
    for loss in recipe.losses:
        loss.check_width(width)
    for section, dims in (("loss", recipe.loss.dims), ("eval", recipe.eval.dims)):
        if dims and max(dims) > width:
            raise ValueError(f"{section}.dims asks for {max(dims)}, but {recipe.model.name} has width {width}")
    weights = recipe.loss.weights if not recipe.loss.steps else None
    weighted = zip(recipe.loss.dims, weights or [1.0] * len(recipe.loss.dims), strict=True)
    if (recipe.model.rotation or not recipe.loss.steps) and not any(w for dim, w in weighted if dim < width):
        raise ValueError(f"a rotation changes nothing at {width}, the full width: give loss.dims a smaller size")
