"""A transformer that another engine computes, in the place of the torch module."""

from __future__ import annotations

import copy
import importlib
import logging
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from filelock import FileLock
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.functional import normalize
from transformers.modeling_outputs import BaseModelOutput

from mrl_text.choices import Backend, BackendDtype
from mrl_text.embedding_cache import network_hash, settings_of
from mrl_text.files import cache_dir, replaced_folder
from mrl_text.lanes import Share, share

logger = logging.getLogger(__name__)

_MARKER = "graph.txt"  # in the folder of a graph: what it was made of
_FORMAT = 1  # of the folders: another one is made anew

_PROBES = (
    ["A short text.", "Another one, which is longer by some words than the first."],
    ["one"],
    ["Of three texts", "the last is the longest, because it goes on after the comma, and on.", "and on"],
    ["short", "and long, " * 150],  # which leaves tokens of padding without a neighbour in a sliding window
)
_SAME = 0.9999  # the smallest cosine of a text's mean of token vectors between engines in float32
_ALIKE = 0.8  # and in fewer bits: below that something is broken

Trace = Callable[[str | None], ExportedProgram]

_ENGINES = {
    "onnx": ("mrl_text.backends.onnx", "OnnxBackbone"),
    "openvino": ("mrl_text.backends.openvino", "OpenVinoBackbone"),
}


class CompiledBackbone(nn.Module, ABC):
    """What stands in a model for its transformer: takes the same tokens, gives the same ``last_hidden_state``.

    For inference on the processor only. It has no weights that torch could train or save. The graph is made once and
    kept in :func:`mrl_text.files.cache_dir`, known by the weights, the settings, and the versions of what made it.

    Args:
        backbone: the torch module, in float32, whose work it takes over.
        example: what it takes, integers (texts, tokens) by name: two texts or more, one of them with much padding.
        dtype: what is computed in: one of :meth:`dtypes`.

    Raises:
        ValueError: a model that the engine cannot take.
        OSError: the cache folder cannot be written.
    """

    backend: ClassVar[Backend]
    packages: ClassVar[tuple[str, ...]]  # that it needs; a graph is known by their versions
    identity: Tensor

    def __init__(self, backbone: nn.Module, example: dict[str, Tensor], dtype: BackendDtype) -> None:
        super().__init__()
        self.config: Any = backbone.config
        self.inputs = tuple(example)
        self.computes_in = dtype
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", *self.packages))
        made_of = f"format {_FORMAT}, {self.backend}, {dtype}, {', '.join(self.inputs)}, {versions}"
        key = network_hash(f"{made_of}\0{settings_of(self.config)}", backbone.state_dict(), backbone)
        # a graph has no weights that models could be told apart by
        self.register_buffer("identity", torch.tensor(list(bytes.fromhex(key)), dtype=torch.uint8))
        self.folder = cache_dir() / "graphs" / key
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_name(f".{key}.lock")):  # of several processes that begin at once one makes it
            if not (self.folder / _MARKER).is_file():
                logger.info("%s makes a graph in %s, once, in %s", self.backend, dtype, self.folder)
                with replaced_folder(self.folder, _MARKER, "graph") as new:
                    self.make(lambda attention: _traced(backbone, example, attention), new)
                    (new / _MARKER).write_text(f"{type(backbone).__name__}: {made_of}\n", encoding="utf-8")
        self._prepare()

    def __getstate__(self) -> dict[str, Any]:
        """For another process, and for copies: an engine cannot be sent, so the graph is read again there."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_engines", "_opening")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the graph again."""
        self.__dict__.update(state)
        self._prepare()

    def _prepare(self) -> None:
        self._engines: dict[Share, Any] = {}
        self._opening = threading.Lock()
        self._engine()  # so that a graph that cannot be read is an error at once

    def _engine(self) -> Any:
        """The engine for the share of the processor that the calling thread has, opened when it is first asked for."""
        mine = share()
        with self._opening:
            if mine not in self._engines:
                self._engines[mine] = self.open(self.folder, mine)
            return self._engines[mine]

    @property
    def device(self) -> torch.device:
        """The processor."""
        return torch.device("cpu")

    @classmethod
    @abstractmethod
    def dtypes(cls) -> tuple[BackendDtype, ...]:
        """What the engine computes in on this machine."""

    @abstractmethod
    def make(self, trace: Trace, folder: Path) -> None:
        """Write the graph of a program that takes the inputs in order and returns token vectors.

        Args:
            trace: gives it, for any number of texts and tokens, with the attention that is named: None is the model's
                own, ``eager`` that of plain products.
        """

    @abstractmethod
    def open(self, folder: Path, given: Share) -> Any:
        """An engine that reads the graph, for as many calls of :meth:`run` at once as a share has lanes."""

    @abstractmethod
    def run(self, engine: Any, inputs: list[np.ndarray]) -> np.ndarray:
        """Token vectors, float32 (texts, tokens, width), of the inputs in order, int64 (texts, tokens)."""

    def forward(self, output_hidden_states: bool = False, **inputs: Any) -> BaseModelOutput:
        """What the torch module returns, less all but ``last_hidden_state``.

        Raises:
            ValueError: hidden states of inner layers are asked for, or an input is missing.
        """
        if output_hidden_states:
            raise ValueError(f"{self.backend} gives the last layer only: load the model with backend torch")
        if missing := [name for name in self.inputs if name not in inputs]:
            raise ValueError(f"the graph takes {missing[0]}, which is not given: load the model with backend torch")
        vectors = self.run(self._engine(), [inputs[name].cpu().numpy() for name in self.inputs])
        return BaseModelOutput(last_hidden_state=torch.from_numpy(vectors).to(inputs[self.inputs[0]].device))

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refuse with ``ValueError``: a graph is made of a saved model, not the other way round."""
        raise ValueError(f"a model that {self.backend} computes cannot be saved: save it loaded with backend torch")


def engine_of(backend: str) -> type[CompiledBackbone]:
    """The class of an engine.

    Raises:
        ModuleNotFoundError: it is not installed; the error says what to install.
    """
    module, name = _ENGINES[backend]
    try:
        engine: type[CompiledBackbone] = getattr(importlib.import_module(module), name)
        for package in engine.packages:
            version(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"backend {backend} needs {error.name}, which is not installed: pip install 'mrl-text[{backend}]'"
        ) from error
    return engine


def check_backend(backend: str, dtype: str, device: str | None) -> BackendDtype:
    """Refuse, before anything is loaded, what an engine cannot do; the type that it will compute in.

    Args:
        backend: ``onnx`` or ``openvino``.
        dtype: ``auto`` takes bfloat16 where the engine and the processor have it, else float32.
        device: as for :func:`mrl_text.loading.load`.

    Raises:
        ValueError: a type that it does not compute in, or a device that is no processor.
        ModuleNotFoundError: it is not installed.
    """
    available = engine_of(backend).dtypes()
    if device not in (None, "cpu"):
        raise ValueError(f"{backend} computes on the processor here: device {device!r} is for backend torch")
    if dtype == "auto":
        return "bfloat16" if "bfloat16" in available else "float32"
    found = next((one for one in available if one == dtype), None)
    if found is None:
        raise ValueError(
            f"{backend} computes in {', '.join(available)} on this machine, not in {dtype}: choose --dtype"
        )
    return found


def compile_model(model: SentenceTransformer, backend: Backend, dtype: BackendDtype, name: str) -> None:
    """Hand the transformer of a model to another engine, in place, and check on a few texts that it computes the same.

    Args:
        model: in float32, on the processor.
        backend: ``onnx`` or ``openvino``.
        dtype: as :func:`check_backend` gave it.
        name: of the model, for errors.

    Raises:
        ValueError: a model without a transformer, one that cannot be exported, or vectors that differ.
    """
    engine = engine_of(backend)
    transformers = [module for module in model.modules() if isinstance(module, Transformer)]
    if not transformers:
        raise ValueError(f"model {name} has no transformer that {backend} could compute: leave it to backend torch")
    for module in transformers:
        expected = [_text_vectors(module, texts) for texts in _PROBES]
        example = {
            key: value for key, value in module.preprocess(list(_PROBES[-1])).items() if isinstance(value, Tensor)
        }
        try:
            module.model = engine(module.model, example, dtype)
            found = [_text_vectors(module, texts) for texts in _PROBES]
        except (OSError, ImportError, MemoryError):
            raise
        except Exception as error:  # exporters and engines raise what they like
            reason = " ".join(str(error).split()).partition(". ")[0][:200]
            raise ValueError(f"{backend} cannot take model {name} ({reason}): leave it to backend torch") from error
        module.backend = backend
        cosine = min(float((one * other).sum(dim=1).min()) for one, other in zip(expected, found, strict=True))
        if not cosine >= (_SAME if dtype == "float32" else _ALIKE):
            raise ValueError(
                f"{backend} in {dtype} computes other vectors of model {name} than torch does (cosine {cosine:.4f}):"
                " leave it to backend torch"
            )
    model.backend = backend


def _text_vectors(module: Transformer, texts: Sequence[str]) -> Tensor:
    """Means of token vectors, of unit length, float32 (texts, width)."""
    with torch.inference_mode():
        output = module(module.preprocess(list(texts)))
    mask = output["attention_mask"].unsqueeze(-1).float()
    return normalize((output["token_embeddings"].float() * mask).sum(dim=1), dim=1)


def _traced(backbone: Any, example: dict[str, Tensor], attention: str | None) -> ExportedProgram:
    size = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    if attention is not None:
        backbone = copy.deepcopy(backbone)
        backbone.set_attn_implementation(attention)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts of torch among themselves
        network = _LastHiddenState(backbone, tuple(example)).eval()
        return torch.export.export(network, tuple(example.values()), dynamic_shapes=((size,) * len(example),))


class _LastHiddenState(nn.Module):
    """A backbone as a function of tensors to one tensor, as exporters want it."""

    def __init__(self, backbone: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        found: Tensor = self.backbone(**dict(zip(self.names, tensors, strict=True))).last_hidden_state
        return found
