"""Which files of a model folder are published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from mrl_text.cards.privacy import check_secrets
from mrl_text.models import ModelSource

LARGEST = 50 * 10**9
"""Bytes that a file on the hub may have (huggingface.co/docs/hub/storage-limits)."""

_ROOT = (
    "config.json config_sentence_transformers.json sentence_*_config.json modules.json adaptation.json codec.json"
    " generation_config.json preprocessor_config.json processor_config.json model.safetensors.index.json *.safetensors"
    " tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.txt vocab.json merges.txt"
    " *.model chat_template.jinja *.png *.jpg *.svg LICENSE* NOTICE*"
).split()
"""Files beside ``modules.json`` that belong to a model; every other file stays on this machine."""
_MODULE = (
    "config.json *_config.json *.safetensors *.safetensors.index.json tokenizer*.json special_tokens_map.json"
    " added_tokens.json vocab.txt vocab.json merges.txt *.model chat_template.jinja"
).split()
_EXPORTS = {"onnx": ["*.onnx", "*.onnx_data", "*.json"], "openvino": ["*.xml", "*.bin", "*.json"]}
_PICKLES = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt"]


def model_files(source: ModelSource) -> tuple[dict[str, Path], dict[str, str]]:
    """List the files of a local model to publish.

    Known files of sentence-transformers, transformers, ONNX and OpenVINO go, in the model's own folder and in those
    that ``modules.json`` names. Weights go as safetensors only.

    Returns:
        Path in the repository -> file, without the card; and what stays here -> why.

    Raises:
        FileNotFoundError: no weights, or a shard is missing.
        ValueError: weights that are pickles only, that cannot be read, or a file above 50 GB.
    """
    folder = Path(source.path)
    chosen: dict[str, Path] = {}
    for place, patterns in _places(folder).items():
        for file in sorted((folder / place).iterdir()):
            if file.is_file() and _fits(file.name, patterns):
                chosen[f"{place}/{file.name}" if place else file.name] = file
    left_out = _left_out(folder, chosen)
    _check_weights(folder, chosen)
    for name, file in chosen.items():
        if (size := file.stat().st_size) > LARGEST:
            raise ValueError(f"{name} has {size / 1e9:.1f} GB, the hub takes 50: save the model in smaller shards")
        if file.suffix not in (".safetensors", ".onnx", ".onnx_data", ".bin", ".png", ".jpg"):
            check_secrets(name, file.read_bytes())
    return chosen, left_out


def is_stale(name: str, published: set[str]) -> bool:
    """Whether a file on the hub is weights of an earlier version, loaded beside or before those ``published`` now."""
    place, _, file = name.rpartition("/")
    ours = place in {other.rpartition("/")[0] for other in published} and place not in _EXPORTS
    weights = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
    return ours and name not in published and _fits(file, weights)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _places(folder: Path) -> dict[str, list[str]]:
    places = {"": [*_ROOT, "*.py"] if _has_own_code(folder) else _ROOT}
    if (folder / "modules.json").is_file():
        try:
            paths = [str(module["path"]) for module in json.loads((folder / "modules.json").read_bytes())]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{folder / 'modules.json'} cannot be read ({error}): save the model again") from None
        for path in filter(None, paths):
            if not (folder / path).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"modules.json names {path}, which is outside the model's folder")
            if not (folder / path).is_dir():
                raise FileNotFoundError(f"modules.json names {path}, but there is no such folder in {folder}")
            places[Path(path).as_posix()] = _MODULE
    return places | {name: patterns for name, patterns in _EXPORTS.items() if (folder / name).is_dir()}


def _has_own_code(folder: Path) -> bool:
    """Whether modules or architecture are classes in files of the folder."""
    named = [folder / name for name in ("config.json", "modules.json")]
    config, modules = (file.read_text(encoding="utf-8") if file.is_file() else "" for file in named)
    types = re.findall(r'"type":\s*"([^"]+)"', modules)
    return '"auto_map"' in config or any(not name.startswith("sentence_transformers.") for name in types)


def _check_weights(folder: Path, chosen: dict[str, Path]) -> None:
    from safetensors import SafetensorError, safe_open

    weights = {name: file for name, file in chosen.items() if file.suffix == ".safetensors"}
    for name, file in chosen.items():
        if name.endswith(".safetensors.index.json"):
            shards = {str(Path(name).parent / one) for one in json.loads(file.read_bytes())["weight_map"].values()}
            if missing := sorted(shards - weights.keys()):
                raise FileNotFoundError(f"{missing[0]}, named by {name}, is not in {folder}")
    for place in _places(folder):
        names = [name for name in weights if name.rpartition("/")[0] == place]
        pickles = [one for one in (folder / place).iterdir() if fnmatch(one.name, "pytorch_model*.bin")]
        if pickles and not names and place not in _EXPORTS:
            raise ValueError(
                f"{pickles[0]} is a pickle, which runs code when it is loaded: load the model and save it again,"
                " it is written as safetensors"
            )
    if not weights:
        raise FileNotFoundError(f"no weights in {folder}: expected model.safetensors")
    for name, file in weights.items():
        if file.stat().st_size > LARGEST:
            continue  # refused for its size
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{name} is damaged ({error}): save the model again") from None


def _left_out(folder: Path, chosen: dict[str, Path]) -> dict[str, str]:
    """First level only: a run's checkpoints need no list of files."""
    found: dict[str, str] = {}
    for entry in sorted(folder.iterdir()):
        inside = any(name.startswith(f"{entry.name}/") for name in chosen)
        if entry.name in chosen or entry.name == "README.md" or inside:
            continue
        reason = "a pickle; safetensors are published" if _fits(entry.name, _PICKLES) else "not part of a model"
        found[entry.name + ("/" if entry.is_dir() else "")] = reason
    return found
