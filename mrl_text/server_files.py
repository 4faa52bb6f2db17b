"""Files of a saved model, in the words that other readers know.

sentence-transformers 5.4 renamed its modules and their settings. It reads the old names, but servers that read the
files themselves often know nothing else:

- vLLM before its pull request 54533 (September 2026) passes over ``Pooling``, ``Dense`` and ``Normalize`` of the new
  names without a word, and so serves other vectors than the model's; it takes ``max_seq_length`` and
  ``do_lower_case`` from ``sentence_bert_config.json`` if both are there
  (``vllm/transformers_utils/config.py``, ``vllm/model_executor/models/adapters.py``);
- text-embeddings-inference refuses a ``1_Pooling/config.json`` without ``pooling_mode_cls_token`` and
  ``pooling_mode_mean_tokens``, and a ``sentence_bert_config.json`` without ``max_seq_length``
  (``PoolConfig`` and ``STConfig`` in ``router/src/lib.rs``);
- text-embeddings-inference knows the module ``Dense`` by its old name only (``ModuleType`` in ``backends/src/lib.rs``);
- infinity-emb 0.0.78 needs sentence-transformers 3, which has no modules of the new names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrl_text.files import peek_json, write_atomically

_OLD_NAMES = {
    "sentence_transformers.base.modules.transformer.Transformer": "sentence_transformers.models.Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling": "sentence_transformers.models.Pooling",
    "sentence_transformers.base.modules.dense.Dense": "sentence_transformers.models.Dense",
    "sentence_transformers.base.modules.normalize.Normalize": "sentence_transformers.models.Normalize",
}
_POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_TEXT_ONLY = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_ON_SENTENCES = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}


def write_server_files(folder: Path, *, max_seq_length: int | None, do_lower_case: bool = False) -> bool:
    """Rewrite a saved model's settings in the old words, if they say all there is to say.

    That is so for a text transformer followed by ``Pooling``, ``Dense`` and ``Normalize``. Everything else (routes,
    several modalities, static embeddings) stays as sentence-transformers wrote it. Vectors do not change; weights are
    not touched.

    Args:
        max_seq_length: tokens of a text that the model reads; None leaves the files alone.

    Returns:
        Whether the files are in the old words now.
    """
    modules = peek_json(folder / "modules.json")
    if not isinstance(modules, list):
        return False
    types = [_OLD_NAMES.get(module["type"], module["type"]) for module in modules]
    if not types or not set(types) <= set(_OLD_NAMES.values()):
        return False
    rewritten: dict[Path, Any] = {}
    for module, kind in zip(modules, types, strict=True):
        name = "sentence_bert_config.json" if kind.endswith("Transformer") else "config.json"
        file = folder / module["path"] / name
        settings = _settings(kind, peek_json(file), max_seq_length, do_lower_case)
        if settings is None:
            return False
        if settings:
            rewritten[file] = settings
    rewritten[folder / "modules.json"] = [{**module, "type": kind} for module, kind in zip(modules, types, strict=True)]
    for file, content in rewritten.items():
        write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())
    return True


def _settings(kind: str, settings: Any, max_seq_length: int | None, do_lower_case: bool) -> dict[str, Any] | None:
    """The settings of a module in the old words; None where they cannot be said in them."""
    if kind.endswith("Normalize"):  # had no settings
        return {} if _without(settings or {}, _ON_SENTENCES) is not None else None
    if not isinstance(settings, dict):
        return None
    if kind.endswith("Dense"):
        return _without(settings, {**_ON_SENTENCES, "use_residual": False})
    if kind.endswith("Pooling"):
        return _pooling(settings)
    rest = _without(settings, _TEXT_ONLY)  # the limit stands in the tokenizer's own settings
    plain = rest is not None and rest.keys() <= {"max_seq_length", "do_lower_case"} and max_seq_length is not None
    return {"max_seq_length": max_seq_length, "do_lower_case": do_lower_case} if plain else None


def _pooling(settings: dict[str, Any]) -> dict[str, Any] | None:
    if "pooling_mode" not in settings:
        return settings if "word_embedding_dimension" in settings else None
    mode = settings["pooling_mode"]
    modes = {mode} if isinstance(mode, str) else set(mode)
    known = {"embedding_dimension", "pooling_mode", "include_prompt"}
    if not modes <= _POOLING_FLAGS.keys() or not settings.keys() <= known:
        return None
    flags = {flag: name in modes for name, flag in _POOLING_FLAGS.items()}
    width, prompt = settings["embedding_dimension"], settings.get("include_prompt", True)
    return {"word_embedding_dimension": width, **flags, "include_prompt": prompt}


def _without(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any] | None:
    """The settings less those at their defaults; None if one of these has another value."""
    if any(settings[name] != value for name, value in defaults.items() if name in settings):
        return None
    return {name: value for name, value in settings.items() if name not in defaults}
