"""Result files in mteb's layout, of ours or anybody's, as the table that a sweep writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from mrl_text.suggest import did_you_mean

from .grid import Cell, Comparison, Method

META = "model_meta.json"
"""mteb's description of a model, beside the results of it."""

_EXPERIMENT = ("embed_dim", "output_dtypes", "comparison", "rescore", "reduction", "dtype", "num_layers")
"""What :attr:`mrl_text.eval.grid.Variant.experiment` says of a result."""


def has_results(folder: Path) -> bool:
    """Whether mteb wrote into a folder, at any depth."""
    return next(folder.rglob(META), None) is not None


def read_mteb_results(folder: Path) -> pd.DataFrame:
    """The scores in a folder of mteb's results: one row per model, task, split, subset, size and precision.

    Every ``<Task>.json`` beside a ``model_meta.json`` counts. The size is ``embed_dim`` of the experiment, or else of
    the model. Per-item scores are not in these files, so that nothing read from them alone has an interval.

    Raises:
        ValueError: a file is damaged, a score is not from -1 to 1, a task is not one of mteb's, or an experiment is
            none that a size and precision tells.
    """
    metas = sorted(folder.rglob(META))
    described = [(meta, _json(meta)) for meta in metas]
    rows = [
        row
        for meta, model in described
        for file in sorted(meta.parent.glob("*.json"))
        if file.name != META
        for row in _rows(file, _where(meta, model))
    ]
    if not rows:
        raise ValueError(
            f"{folder} has no result of a task beside its {META}: expected files such as STSBenchmark.json"
        )
    return pd.DataFrame(rows)


def _where(file: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a line and a cell."""
    told = meta.get("experiment_kwargs") or {}
    if unknown := next((name for name in told if name not in _EXPERIMENT), None):
        hint = did_you_mean(unknown, _EXPERIMENT)
        raise ValueError(f"{file}: experiment_kwargs has {unknown!r}, which no size or precision is{hint}")
    dim = told.get("embed_dim", meta.get("embed_dim"))
    if not isinstance(dim, int) or dim < 1:
        raise ValueError(f"{file}: embed_dim is {dim!r}: write the size of the vectors there")
    method, _, seed = str(told.get("reduction", "truncation")).partition("-")
    coded = not str(told.get("output_dtypes", "float32")).startswith("float")
    comparison = told.get("comparison", "symmetric" if coded else "asymmetric")
    cell = Cell(dim, told.get("output_dtypes", "float32"), comparison, int(told.get("rescore", 0)))
    if method not in get_args(Method) or comparison not in get_args(Comparison):
        raise ValueError(f"{file}: experiment_kwargs {told} is of no method or comparison that is known here")
    try:
        size = cell.bytes
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return {
        "model": str(meta.get("name")),
        "revision": str(meta.get("revision") or ""),
        "role": "model" if method == "truncation" else "control",
        "method": method,
        "dtype": str(told.get("dtype", "float32")),
        "layers": told.get("num_layers"),
        "dim": dim,
        "precision": cell.precision,
        "comparison": cell.comparison,
        "rescore": cell.rescore,
        "seed": int(seed) if seed else None,
        "bytes": size,
        "calibration": "",
    }


def _rows(file: Path, where: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    import mteb

    found = _json(file)
    name = found.get("task_name")
    try:
        metadata = mteb.get_task(name).metadata
    except (KeyError, ValueError, TypeError):
        raise ValueError(f"{file}: {name!r} is no task of mteb") from None
    if not isinstance(found.get("scores"), dict) or not found["scores"]:
        raise ValueError(f"{file} has no scores: expected what mteb writes, split by split")
    for split, subsets in found["scores"].items():
        for scores in subsets:
            score = scores.get("main_score")
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.fabs(score) <= 1:
                raise ValueError(f"{file}: main_score of {split} is {score!r}: it goes from -1 to 1")
            yield {
                **where,
                "task": metadata.name,
                "type": metadata.type,
                "split": split,
                "subset": scores.get("hf_subset", "default"),
                "metric": metadata.main_score,
                "score": float(score),
                "data": str(found.get("dataset_revision")),
            }


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): write it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no object: expected what mteb writes")
    return found
