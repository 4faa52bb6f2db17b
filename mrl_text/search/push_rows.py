"""The rows that a push sends: an encoded folder, or corpus files that are encoded first."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrl_text.encoding.folder import IDS, MANIFEST, SHARDS, EncodedBatch, EncodedFolder, open_encoded
from mrl_text.files import cache_dir
from mrl_text.models import find_model
from mrl_text.sources import open_source
from mrl_text.suggest import did_you_mean

if TYPE_CHECKING:
    from mrl_text.truncation import Precision

_FULL: tuple[Precision, ...] = ("float32", "float16")
_TEXT = "text"
_HELD = re.compile(
    r"null|bool|u?int\d+|halffloat|float|double|(large_)?string|string_view|dictionary<values=(large_)?string,.*"
)
"""Arrow's names of the types of columns that go into a store."""


@dataclass(frozen=True)
class PushSource:
    """Rows with full vectors.

    Attributes:
        encoded: where they are.
        temporary: whether the folder is ours, to be removed when all is stored.
        left_out: rows of the corpus without a vector.
        problems: the first ten of the rows that were left out or cut, with their place.
    """

    encoded: EncodedFolder
    temporary: bool
    left_out: int
    problems: list[str]

    @property
    def width(self) -> int:
        """Numbers of the full vectors."""
        return int(self.encoded.manifest["width"])

    @property
    def model(self) -> str | None:
        """What made them."""
        model: str | None = self.encoded.manifest["model"]
        return model

    def batches(self, start: int, rows: int, keep: Sequence[str] = ()) -> Iterator[EncodedBatch]:
        """The rows from ``start`` on, at most so many together, with the columns to store; none named is all.

        A number that is NaN, as Parquet has it for a missing one, becomes None.
        """
        precision = next(one for one in _FULL if one in self.encoded.manifest["precisions"])
        position = 0
        for batch in self.encoded.batches(self.width, precision, batch_rows=rows):
            first = max(0, start - position)
            position += len(batch.ids)
            if first >= len(batch.ids):
                continue
            texts = None if batch.texts is None else batch.texts[first:]
            kept = {name: values[first:] for name, values in batch.columns.items() if not keep or name in keep}
            columns = {name: [None if _missing(one) else one for one in values] for name, values in kept.items()}
            yield replace(batch, ids=batch.ids[first:], vectors=batch.vectors[first:], texts=texts, columns=columns)

    def check_columns(self, keep: Sequence[str]) -> None:
        """Raise unless the rows have these columns, none being all, in types that stores hold.

        Raises:
            ValueError: names one that they lack, or that holds dates, lists or the like.
        """
        types = self.encoded.manifest["columns"]
        known = [name for name in types if not name.startswith("embedding_")]
        if unknown := [name for name in keep if name not in known]:
            raise ValueError(f"{self.encoded.path} has no column {unknown[0]!r}{did_you_mean(unknown[0], known)}")
        for name in keep or known:
            if not _HELD.fullmatch(types[name]):
                raise ValueError(
                    f"{self.encoded.path}: column {name!r} holds {types[name]}, and stores hold text, numbers and truth"
                    " values: name the columns to store, --keep, or encode a corpus that has it as text"
                )

    def repeated(self) -> str | None:
        """An id that comes twice, if there is one; eight bytes a row are held."""
        parts = [np.fromiter(map(hash, ids), np.int64, len(ids)) for ids in self._ids()]
        values, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *parts]), return_counts=True)
        doubtful = set(values[counts > 1].tolist())
        met: set[str] = set()
        for ids in self._ids() if doubtful else ():
            for one in (one for one in ids if hash(one) in doubtful):
                if one in met:
                    return one
                met.add(one)
        return None

    def _ids(self) -> Iterator[list[str]]:
        from pyarrow import parquet

        path, manifest = self.encoded.path, self.encoded.manifest
        whole = (
            [path / IDS] if manifest["format"] == "npy" else [path / SHARDS / one["file"] for one in manifest["shards"]]
        )
        for file in whole:
            yield parquet.read_table(file, columns=["id"])["id"].to_pylist()


def open_push_source(
    sources: str | Path | Sequence[str | Path],
    *,
    model: str | None,
    keep: Sequence[str],
    work: str | Path | None,
    device: str | None,
    progress: bool,
    **options: Any,
) -> PushSource:
    """The rows to send; corpus files are encoded here, and go on where an earlier call was.

    Args:
        sources: one encoded folder, or corpus files.
        model: for corpus files.
        keep: columns to store.
        work: folder for the vectors of corpus files; None is one in the cache.
        device: where to encode.
        progress: show a progress bar.
        **options: of :func:`mrl_text.encoding.encode_files`, for corpus files.

    Raises:
        FileNotFoundError: no such file, folder or model.
        ValueError: a folder without full vectors in float32 or float16, an unfinished one, corpus files without a
            model, or as of encoding.
    """
    paths = [Path(one).expanduser() for one in ([sources] if isinstance(sources, str | Path) else sources)]
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise ValueError(f"{folders[0]} is a folder: push one encoded folder, or corpus files, at a time")
    if folders and not (folders[0] / MANIFEST).is_file():
        raise ValueError(f"{folders[0]} is no folder that mrl-text encode wrote: it has no {MANIFEST}")
    if folders:
        found = PushSource(open_encoded(folders[0]), False, 0, [])
    else:
        found = _encode(paths, model, keep, work, {"device": device, "progress": progress, **options})
    _check_full(found.encoded)
    found.check_columns(keep)
    return found


def model_reference(name: str) -> str:
    """What an encoded folder and a store note about a model: what finds it again from another working directory.

    Raises:
        FileNotFoundError: the name looks like a path, but no model is there.
    """
    found = find_model(name)
    return str(Path(found.path).resolve()) if found.name.startswith("local/") else found.name


def _encode(
    paths: Sequence[Path], model: str | None, keep: Sequence[str], work: str | Path | None, options: dict[str, Any]
) -> PushSource:
    if model is None:
        files = ", ".join(map(str, paths)) or "nothing"
        raise ValueError(f"{files} must be encoded: give --model, or push a folder that mrl-text encode wrote")
    from mrl_text.encoding import encode_files

    kept = [_TEXT, *(name for name in keep if name != _TEXT)]
    folder = Path(work).expanduser() if work else _cached(paths, model, kept, options)
    report = encode_files(paths, folder, model=model, precisions=["float16"], keep=kept, **options)
    temporary = work is None and not report.problems  # else problems.jsonl is kept
    return PushSource(open_encoded(folder), temporary, report.left_out, report.problems)


def _cached(paths: Sequence[Path], model: str, keep: Sequence[str], options: dict[str, Any]) -> Path:
    """Folder for the vectors of these files as they are now, by this model."""
    files = [[str(source.path), source.stamp()] for source in map(open_source, paths)]
    chosen = {name: value for name, value in options.items() if name not in ("device", "progress")}
    found = find_model(model)
    key = json.dumps([files, found.path, found.revision, list(keep), chosen], sort_keys=True, default=list)
    return cache_dir() / "push" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _check_full(encoded: EncodedFolder) -> None:
    manifest = encoded.manifest
    if manifest["width"] not in manifest["dims"] or not any(one in manifest["precisions"] for one in _FULL):
        raise ValueError(
            f"{encoded.path} holds {', '.join(map(str, manifest['dims']))} numbers in"
            f" {', '.join(manifest['precisions'])}: a store needs the full width, {manifest['width']}, in float32 or"
            " float16"
        )
