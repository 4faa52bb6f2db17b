"""``manifest.json``: what an encoding is bound to, and what came out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.choices import EncodedFormat
from mrl_text.codes import CODEC_FILE, CODED, Codec
from mrl_text.encoding.folder import MANIFEST, readable
from mrl_text.encoding.job import TEXT, Job, column_name
from mrl_text.files import read_json, write_atomically
from mrl_text.models import ModelSource

_SETTLED_LATER = {"dims": [], "backend": "auto", "dtype": "auto"}  # what is found where the user does not say it

_ONCE = {"backend": "torch"}  # what older manifests leave out


def binding(job: Job, found: ModelSource, *, shard_rows: int, limit: int | None, form: EncodedFormat) -> dict[str, Any]:
    """All that the result depends on and that is known before the model is loaded."""
    return {
        "model": found.reference,
        **({"base_url": found.api.base_url} if found.api else {}),  # before the revision, which depends on it
        "revision": found.revision,
        "dims": list(job.dims),
        "precisions": list(job.precisions),
        "backend": job.backend,
        "dtype": job.dtype,
        "format": form,
        "keep": list(job.keep),
        "shard_rows": shard_rows,
        "limit": limit,
        "on_long": job.on_long,
        "token_budget": job.token_budget,
        "sources": [
            {
                "path": str(source.path),
                **source.table.stamp(),
                "text_columns": list(source.text_columns),
                "id_column": source.id_column,
                **({"skip": job.done[source.path]} if source.path in job.done else {}),
            }
            for source in job.sources
        ],
    }


def describe(job: Job, bound: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an encoding that begins."""
    columns = {"id": "string"}
    for dim in job.dims:
        columns |= {column_name(dim, precision): precision for precision in job.precisions}
    columns |= {TEXT: "string"} if TEXT in job.keep else {}
    columns |= {name: str(kind) for name, kind in job.types.items()}
    return {
        "version": 1,
        **bound,
        "dims": list(job.dims),
        "backend": job.backend,
        "dtype": job.dtype,
        **({"trust_remote_code": True} if job.trust_remote_code else {}),
        "width": job.width,
        "columns": columns,
        "ranges": {str(dim): ranges.tolist() for dim, ranges in job.ranges.items()},
        "rows": 0,
        "problems": {"left out": 0, "cut": 0, "cell": 0},
        "shards": [],
        "complete": False,
    }


def restore(job: Job, manifest: dict[str, Any], folder: Path) -> Job:
    """The job as it was prepared when the encoding in that folder began."""
    with readable(folder / CODEC_FILE):
        codec = Codec.load(folder / CODEC_FILE) if CODED & set(job.precisions) else None
    return dataclasses.replace(
        job,
        codec=codec,
        dims=tuple(manifest["dims"]),
        backend=manifest["backend"],
        dtype=manifest["dtype"],
        width=manifest["width"],
        ranges={int(dim): np.array(ranges, dtype=np.float32) for dim, ranges in manifest["ranges"].items()},
    )


def check_same(folder: Path, manifest: dict[str, Any], bound: dict[str, Any], job: Job) -> None:
    """Refuse to continue an encoding that was begun otherwise: ValueError names the first difference."""
    if manifest.get("version") != 1:
        found = manifest.get("version")
        raise ValueError(f"{folder} is of version {found}, and this package writes version 1: choose another folder")
    for name, value in bound.items():
        before = manifest.get(name)
        if before == value or (name in _SETTLED_LATER and value == _SETTLED_LATER[name]):
            continue
        if name == "on_long" and before == "fail":
            continue  # no shard that is there holds a longer text
        if name == "revision":
            raise ValueError(f"{job.model} has changed since {folder} was begun: choose another folder")
        if name == "sources":
            raise ValueError(
                f"{_source_difference(before or [], value)} since {folder} was begun: choose another folder"
            )
        raise ValueError(
            f"{folder} was begun with {name} {_shown(before)}, not {_shown(value)}: choose another folder, or the same"
            f" {name}"
        )


def _source_difference(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> str:
    old, new = [source["path"] for source in before], [source["path"] for source in now]
    if old != new:
        return f"the inputs are {', '.join(new)} and were {', '.join(old)}"
    was, source = next((a, b) for a, b in zip(before, now, strict=True) if a != b)
    name = next(name for name in source if was.get(name) != source[name])
    if name in ("size", "mtime_ns"):
        return f"{source['path']} has changed"
    return f"{name} of {source['path']} is {_shown(source[name])} and was {_shown(was.get(name))}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none."""
    file = folder / MANIFEST
    if not file.is_file():
        return None
    manifest: dict[str, Any] = read_json(file)
    return manifest | {name: value for name, value in _ONCE.items() if name not in manifest}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write it whole or not at all."""
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
