"""Lower layers that are not trained: what they make of a text is computed once and kept on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset, DatasetDict, IterableDataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn

from mrl_text.embedding_cache import network_hash, settings_of
from mrl_text.files import cache_dir
from mrl_text.layers import find_layers
from mrl_text.token_batches import BOOKKEEPING
from mrl_text.training.activations import Activations, make_room
from mrl_text.training.recipe import ModelConfig
from mrl_text.training.texts import text_columns
from mrl_text.vector_file import KEY_BYTES

logger = logging.getLogger(__name__)

_SAMPLE = 500  # texts whose tokens are counted to tell what all of them will take


@contextmanager
def frozen_layers(model: SentenceTransformer, config: ModelConfig, data: Any = None) -> Iterator[Activations | None]:
    """Train without the recipe's frozen layers while this lasts; nothing happens where it freezes none.

    Before the first step a line says where activations go and how much they will take at most.

    Args:
        model: to be trained; its frozen parameters stay so.
        config: ``freeze_layers``, ``activations`` and ``activations_gb`` of the recipe.
        data: the training data, for that line.

    Yields:
        What is known of the texts, to be flushed where it must not be lost; None where nothing is kept.

    Raises:
        ValueError: a model whose layers are not certain, or that has no more than are to be frozen.
    """
    if config.freeze_layers is None:
        yield None
        return
    frozen = FrozenLayers(model, config.freeze_layers)
    kept = None if config.activations == "none" else _open(model, config, frozen, data)
    with frozen.running(kept):
        yield kept


def _open(model: SentenceTransformer, config: ModelConfig, frozen: FrozenLayers, data: Any) -> Activations:
    """The activations of earlier runs; a line says what those of this run's texts will take."""
    dtype = getattr(torch, config.activations)
    file = cache_dir() / "activations" / frozen.fingerprint / f"{config.activations}.bin"
    known = not isinstance(data, (IterableDataset, type(None)))
    parts = (data.values() if isinstance(data, DatasetDict) else [data]) if known else []
    needed = sum(_tokens(model, part) for part in parts) * frozen.width * dtype.itemsize
    kept = Activations(file, frozen.width, dtype, make_room(file, config.activations_gb * 1e9, needed))
    layers = f"the lower {frozen.layers} of {frozen.of} layers are frozen"
    logger.info("%s; %s keeps their activations, of which it has %.0f MB", layers, file, kept.bytes / 1e6)
    if needed > kept.limit:
        logger.warning(
            "activations of all texts would take about %.0f MB, and there is room for %.0f MB (model.activations_gb,"
            " and 2 GB of the disk are left free): those of other texts are computed in each step",
            *(needed / 1e6, kept.limit / 1e6),
        )
    elif known:
        logger.info("activations of all texts take at most about %.0f MB", needed / 1e6)
    return kept


def _tokens(model: SentenceTransformer, data: Dataset) -> int:
    """About how many tokens the texts of a data set have, by those of some of its rows."""
    rows = data.with_format(None)[:: max(1, len(data) // _SAMPLE)]
    texts = [text for name in text_columns(data) for text in rows[name]]
    per_row = int(model.preprocess(texts)["attention_mask"].sum()) / max(1, len(rows[text_columns(data)[0]]))
    return int(per_row * len(data))


class FrozenLayers:
    """A model without its lower transformer layers: they are frozen, and their output for a text is looked up.

    All that the lower layers depend on is frozen, found by its gradient: token and position embeddings, the layers,
    and what they share with upper ones, such as MPNet's relative positions. They run without dropout.

    While :meth:`running`, a forward pass of the model is transformers' own with stand-ins in place of these layers:
    embeddings, then the stand-ins, which hand over what is known of the texts, then the upper layers and all behind
    them. Unknown texts go through the frozen layers first, without gradients. Texts are known by their tokens, so
    that any loss, prompt, length and order of rows will do.

    Args:
        model: with one transformer.
        layers: lower layers to freeze, 1 to one less than there are.

    Raises:
        ValueError: a number of layers that the model does not have, or a model whose list of layers is not certain.
    """

    def __init__(self, model: SentenceTransformer, layers: int) -> None:
        found = [module for module in model.modules() if isinstance(module, Transformer)]
        if len(found) != 1:
            reason = f"{len(found)} transformers, one per route" if found else "no transformer"
            raise ValueError(f"model.freeze_layers={layers} is for a model with one transformer; this one has {reason}")
        self._transformer = found[0]
        self.backbone: Any = found[0].model
        self.layers = layers
        self._stack = find_layers(self.backbone)
        self.of = len(self._stack)
        if not 1 <= layers < self.of:
            raise ValueError(
                f"model.freeze_layers={layers}, but the model has {self.of} layers: give 1 to {self.of - 1}"
            )
        self._stand_ins = [_StandIn(layer, self) for layer in self._stack]
        self._swapped: list[int] = []  # places where a stand-in is now
        self.output: Any = None  # of the last frozen layer: a tensor (texts, tokens, width), or that in a tuple
        lower = self._freeze(model)
        about = f"{type(self.backbone).__name__}\0{layers}\0{settings_of(self.backbone.config)}"
        self.fingerprint = network_hash(about, lower, self.backbone)
        """What decides the activations, as 32 hex digits."""

    @contextmanager
    def running(self, kept: Activations | None = None) -> Iterator[None]:
        """Let forward passes of the model leave the frozen layers out.

        Args:
            kept: known activations, to which others are added; None computes them in each pass.
        """

        def before(transformer: nn.Module, args: tuple[dict[str, Any], ...]) -> None:
            states = self._states(args[0], kept)
            self.output = (states,) if isinstance(self.output, tuple) else states
            self._swap(range(self.layers))

        hooks = [
            self._stack[self.layers - 1].register_forward_hook(self._note),
            self._transformer.register_forward_pre_hook(before),
            self._transformer.register_forward_hook(lambda *_: self._swap_back(), always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            if kept is not None:
                kept.flush()

    def _freeze(self, model: SentenceTransformer) -> dict[str, Tensor]:
        """Freeze all parameters that the lower layers depend on; gives them by name."""
        weights = {name: one for name, one in self.backbone.named_parameters() if one.is_floating_point()}
        trained = {name for name, one in weights.items() if one.requires_grad}
        self.backbone.requires_grad_(True)
        hook = self._stack[self.layers - 1].register_forward_hook(self._note)
        with torch.enable_grad():
            model(batch_to_device(model.preprocess(["a text"]), model.device))
            states = self._noted()
            slopes = torch.autograd.grad(states.sum(), list(weights.values()), allow_unused=True)
        hook.remove()
        lower = {name for name, slope in zip(weights, slopes, strict=True) if slope is not None}
        for name, one in weights.items():
            one.requires_grad_(name in trained - lower)
        self.width = states.shape[-1]
        self.output = (None,) if isinstance(self.output, tuple) else None
        return {name: weights[name].detach() for name in lower}

    def _note(self, layer: nn.Module, args: Any, output: Any) -> None:
        self.output = output

    def _noted(self) -> Tensor:
        states = self.output[0] if isinstance(self.output, tuple) else self.output
        if not isinstance(states, Tensor) or states.ndim != 3:
            raise ValueError(
                f"the layers of {type(self.backbone).__name__} do not give a vector per token: freeze none"
            )
        return states

    def _swap(self, places: Sequence[int]) -> None:
        for place in places:
            self._stack[place] = self._stand_ins[place]
        self._swapped = list(places)

    def _swap_back(self) -> None:
        for place in self._swapped:
            self._stack[place] = self._stand_ins[place].layer
        self._swapped = []

    def _states(self, features: Mapping[str, Any], kept: Activations | None) -> Tensor:
        """Output of the last frozen layer for a batch, (texts, tokens, width), zero at padding."""
        tokens = {
            name: one for name, one in sorted(features.items()) if isinstance(one, Tensor) and name not in BOOKKEEPING
        }
        mask = tokens.get("attention_mask")
        if mask is None or mask.ndim != 2 or any(value.shape != mask.shape for value in tokens.values()):
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tokens.items())
            raise ValueError(f"layers can be frozen where texts are rows of tokens with a mask; got {shapes}")
        if getattr(self.backbone.config, "output_hidden_states", False):
            raise ValueError("the output of all layers is asked for, and frozen ones do not run: set no freeze_layers")
        mask = mask.bool()
        keys = _keys(tokens, mask)
        sizes = dict(zip(keys, mask.sum(dim=1).tolist(), strict=True))
        known = {} if kept is None else {key: kept.get(key, size) for key, size in sizes.items() if key in kept}
        missing = {key: row for row, key in enumerate(keys) if key not in known}
        known |= self._computed(features, tokens, missing, kept)
        weight = next(self.backbone.parameters())
        states = torch.zeros(*mask.shape, self.width, dtype=weight.dtype, device=weight.device)
        states[mask] = torch.cat([known[key] for key in keys]).to(states)
        return states

    def _computed(
        self,
        features: Mapping[str, Any],
        tokens: Mapping[str, Tensor],
        missing: Mapping[bytes, int],
        kept: Activations | None,
    ) -> dict[bytes, Tensor]:
        """Activations of the texts in some rows, by the frozen layers; they are kept."""
        if not missing:
            return {}
        mask = tokens["attention_mask"].bool()
        rows = torch.tensor(list(missing.values()), device=mask.device)
        columns = mask[rows].any(dim=0)  # without the padding of longer ones
        part = {name: one[rows][:, columns] if name in tokens else one for name, one in features.items()}
        was_training = self.backbone.training
        self.backbone.eval()
        self._swap(range(self.layers, self.of))  # which hand on what the last frozen layer gave
        try:
            with torch.no_grad():
                self._transformer.forward(part)
        finally:
            self._swap_back()
            self.backbone.train(was_training)
        states, own = self._noted(), mask[rows][:, columns]
        if kept is None:
            return {key: states[at][own[at]] for at, key in enumerate(missing)}
        states, own = _rounded(states, own, kept.dtype), own.cpu()
        found = {key: states[at][own[at]] for at, key in enumerate(missing)}
        for key, one in found.items():
            kept.put(key, one)
        return found


def _rounded(states: Tensor, own: Tensor, dtype: torch.dtype) -> Tensor:
    """The states in this type, on the CPU; ``own`` tells tokens from padding."""
    rounded = states.to("cpu", dtype)
    if rounded[own.cpu()].isinf().any() and not states[own].isinf().any():
        fits = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"activations up to {states[own].abs().max():.3g} do not fit {fits}: set model.activations=bfloat16"
        )
    return rounded


def _keys(tokens: Mapping[str, Tensor], mask: Tensor) -> list[bytes]:
    """What tells texts apart: their tokens without padding, and the type that matrix products are computed in."""
    device = mask.device.type
    how = str(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else "")
    tables = [value.cpu().numpy() for name, value in tokens.items() if name != "attention_mask"]
    return [
        hashlib.blake2b(
            b"".join([how.encode(), *(table[row][own].tobytes() for table in tables)]), digest_size=KEY_BYTES
        ).digest()
        for row, own in enumerate(mask.cpu().numpy())
    ]


class _StandIn(nn.Module):
    """Stands where a layer is and gives what the frozen layers gave; asked for anything else, it is that layer."""

    def __init__(self, layer: nn.Module, frozen: FrozenLayers) -> None:
        super().__init__()
        self._of = (layer, frozen)  # a tuple: no submodule

    @property
    def layer(self) -> nn.Module:
        """The layer whose place it takes."""
        return self._of[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the last frozen layer, whatever comes in."""
        return self._of[1].output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.layer, name)
