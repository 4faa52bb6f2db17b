"""The rows that a push sends: an encoded folder, or corpus files that are encoded first."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from mrl_text.choices import AutoBackend, AutoDtype, OnDuplicate, OnError
from mrl_text.encoding.folder import IDS, MANIFEST, SHARDS, EncodedBatch, EncodedFolder, open_encoded
from mrl_text.files import cache_dir
from mrl_text.models import ModelSource, find_model
from mrl_text.suggest import check_columns, did_you_mean
from mrl_text.tables.corpus import CorpusFile, id_prefixes, open_corpus

if TYPE_CHECKING:
    from mrl_text.truncation import Precision

logger = logging.getLogger(__name__)

_SAMPLED = 10  # files, and rows of each, that are looked at before a push goes on
_FULL: tuple[Precision, ...] = ("float32", "float16")
_TEXT = "text"
_HELD = re.compile(
    r"null|bool|u?int\d+|halffloat|float|double|(large_)?string|string_view|dictionary<values=(large_)?string,.*"
)
"""Arrow's names of the types of columns that go into a store."""
_TIMES = re.compile(r"(date32|date64|timestamp|time32|time64)\[.*\]")
"""Of those that go in as text."""
_DATED = (datetime.date, datetime.time)  # a datetime is a date, and a Timestamp of pandas is one, too


class EncodingOptions(TypedDict, total=False):
    """How corpus files are read and encoded: options of :func:`mrl_text.encoding.encode_files`."""

    text_columns: Sequence[str]  # what to encode, joined by a blank; none takes title and text
    id_column: str | None  # None takes the first of ID_COLUMNS, else the number of the row
    limit: int | None  # rows to take of the files together, at most
    on_error: OnError  # leave out rows without text, or that cannot be read, and report them; or fail at the first
    device: str | None  # where to encode; None is the best there is
    backend: AutoBackend  # what computes the model; auto is the fastest by a short trial
    dtype: AutoDtype  # what the model computes in
    shard_rows: int  # rows encoded together; what an interruption may lose
    trust_remote_code: bool  # allow code that comes with the model to run


def check_options(options: EncodingOptions) -> None:
    """Raise TypeError for a name that is none of these options."""
    if unknown := sorted(options.keys() - EncodingOptions.__annotations__.keys()):
        raise TypeError(f"there is no option {unknown[0]!r}{did_you_mean(unknown[0], EncodingOptions.__annotations__)}")


def stored_columns(names: Sequence[str]) -> list[str]:
    """The columns among them that are stored beside id and text."""
    return [name for name in names if name not in ("id", _TEXT)]


def check_types(where: Path, types: Mapping[str, str]) -> None:
    """Raise ValueError for a column, by Arrow's names of the types, that stores do not hold."""
    for name, type_ in types.items():
        if not _HELD.fullmatch(type_) and not _TIMES.fullmatch(type_):
            raise ValueError(
                f"{where}: column {name!r} holds {type_}, and stores hold text, numbers, truth values, and dates as"
                " text: name the columns to store, --keep, or make it text"
            )


def _plain(value: Any) -> Any:
    """A value as stores hold it: no NaN, which Parquet has for a missing number; a date or time as ISO 8601 text."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return value.isoformat() if isinstance(value, _DATED) else value


@dataclass(frozen=True)
class PushSource:
    """Rows with full vectors."""

    encoded: EncodedFolder  # where they are
    temporary: bool = False  # whether the folder is ours, to be removed when all is stored
    left_out: int = 0  # rows of the corpus without a vector
    noted: int = 0  # problems of the corpus: those rows, texts that were cut, cells that did not fit
    problems: list[str] = field(default_factory=list)  # the first ten of them, with their place

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

        A number that is NaN, as Parquet has it for a missing one, becomes None, and a date its text.
        """
        precision = next(one for one in _FULL if one in self.encoded.manifest["precisions"])
        for batch in self.encoded.batches(self.width, precision, batch_rows=rows, start=start):
            kept = {name: values for name, values in batch.columns.items() if not keep or name in keep}
            columns = {name: list(map(_plain, values)) for name, values in kept.items()}
            yield replace(batch, columns=columns)

    def columns(self, keep: Sequence[str]) -> list[str]:
        """Names of the columns to store, none in ``keep`` being all; ValueError for one that there is not."""
        types = self.encoded.manifest["columns"]
        known = [name for name in types if not name.startswith("embedding_")]
        check_columns(self.encoded.path, keep, known)
        return stored_columns(keep or known)

    def check_columns(self, keep: Sequence[str]) -> None:
        """Raise ValueError unless the rows have these columns, none being all, in types that stores hold."""
        types = {name: self.encoded.manifest["columns"][name] for name in self.columns(keep)}
        check_types(self.encoded.path, types)
        if times := [repr(name) for name, type_ in types.items() if _TIMES.fullmatch(type_)]:
            logger.info("%s: dates and times, stored as text such as 2020-01-31T12:00:00", ", ".join(times))

    def repeats(self, policy: OnDuplicate) -> set[int]:
        """Positions of the rows to leave out, as each id may be there once; ValueError where the policy is to fail."""
        found = repeats(lambda: (name for names in self.ids() for name in names))
        if found and policy == "fail":
            raise ValueError(
                f"the id {next(iter(found))!r} comes twice in {self.encoded.path}: mend it, or choose a row with"
                " --on-duplicate first or last"
            )
        return {one for at in found.values() for one in (at[1:] if policy == "first" else at[:-1])}

    def ids(self) -> Iterator[list[str]]:
        """All ids in order, group by group."""
        for _, _, file, group in self._groups():
            yield _column(file, group, "id")

    def sample(self, rows: int) -> list[tuple[int, str, str | None]]:
        """A hundred of the first rows, at most: position, id and text. No vector is read, and few files are."""
        groups = [group for group in self._groups() if group[0] < rows]
        found = []
        for at in _spread(len(groups)):
            first, count, file, group = groups[at]
            ids, texts = _column(file, group, "id"), _column(file, group, _TEXT)
            places = _spread(min(count, rows - first))
            found += [(first + row, ids[row], texts[row] if texts else None) for row in places]
        return found

    def _groups(self) -> Iterator[tuple[int, int, Path, int]]:
        """Rows that are stored together: first position, number, file and group of it."""
        from pyarrow import parquet

        path, manifest = self.encoded.path, self.encoded.manifest
        shards = [path / SHARDS / one["file"] for one in manifest["shards"]]
        first = 0
        for file in [path / IDS] if manifest["format"] == "npy" else shards:
            metadata = parquet.read_metadata(file)
            for group in range(metadata.num_row_groups):
                if rows := metadata.row_group(group).num_rows:
                    yield first, rows, file, group
                first += rows


def _column(file: Path, group: int, name: str) -> list[str]:
    """A column of some rows; empty where there is none of that name."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        known = name in opened.schema_arrow.names
        values: list[str] = opened.read_row_group(group, columns=[name])[name].to_pylist() if known else []
        return values


def _spread(count: int) -> list[int]:
    """Some numbers from 0 to below ``count``, evenly."""
    return sorted({*np.linspace(0, count - 1, _SAMPLED, dtype=int).tolist()}) if count else []


def repeats(ids: Callable[[], Iterable[str]]) -> dict[str, list[int]]:
    """Positions of each id that comes more than once. Eight bytes are held for each id.

    ``ids`` gives them in order; it is called again only where some may be equal.
    """
    hashes = np.fromiter(map(hash, ids()), np.int64)
    values, counts = np.unique(hashes, return_counts=True)
    doubtful = set(values[counts > 1].tolist())
    found: dict[str, list[int]] = {}
    for position, one in enumerate(ids() if doubtful else ()):
        if hash(one) in doubtful:
            found.setdefault(one, []).append(position)
    return {one: at for one, at in found.items() if len(at) > 1}


def open_push_source(
    sources: str | Path | Sequence[str | Path], *, model: str | None, keep: Sequence[str], **options: Any
) -> PushSource:
    """The rows to send, of one encoded folder; or corpus files are encoded here, and go on where an earlier call was.

    Options are those of :func:`encode_corpus`; errors as :func:`mrl_text.search.push.push`.
    """
    paths = [Path(one).expanduser() for one in ([sources] if isinstance(sources, str | Path) else sources)]
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise ValueError(f"{folders[0]} is a folder: push one encoded folder, or corpus files, at a time")
    if folders and not (folders[0] / MANIFEST).is_file():
        raise ValueError(f"{folders[0]} is no folder that mrl-text encode wrote: it has no {MANIFEST}")
    if not folders and model is None:
        files = ", ".join(map(str, paths)) or "nothing"
        raise ValueError(f"{files} must be encoded: give --model, or push a folder that mrl-text encode wrote")
    if folders:
        _refuse_unused(folders[0], options)
    found = PushSource(open_encoded(folders[0])) if folders else encode_corpus(paths, str(model), keep, **options)
    if folders and model is not None and find_model(model).reference != found.model:
        raise ValueError(f"{folders[0]} was encoded with {found.model}, not with {model}: leave --model out")
    _check_full(found.encoded)
    found.check_columns(keep)
    if folders and _TEXT not in found.encoded.manifest["columns"]:
        logger.warning(
            "%s holds no texts, so the store will have none to show: mrl-text encode keeps them with --keep %s,"
            " whatever column they are from",
            folders[0],
            _TEXT,
        )
    return found


def _refuse_unused(folder: Path, options: Mapping[str, Any]) -> None:
    """Options of encoding change nothing in a folder that is encoded."""
    for name, value in options.items():
        if name in (*EncodingOptions.__annotations__, "work") and value not in (None, (), [], False, "skip"):
            raise ValueError(f"{name} {value} is for corpus files, and {folder} is encoded already: leave it out")


def encode_corpus(
    paths: Sequence[Path],
    model: str,
    keep: Sequence[str] = (),
    *,
    work: str | Path | None = None,
    on_duplicate: OnDuplicate = "fail",
    known: Container[str] | None = None,
    **options: Any,
) -> PushSource:
    """Encode corpus files at full width, or go on doing so.

    Args:
        paths: of the files.
        model: that encodes them.
        keep: columns to store beside id and text.
        work: folder for the vectors; None is one in the cache, to be removed when all is stored.
        on_duplicate: to fail at an id that comes twice before anything is encoded.
        known: ids that may not come either, to fail.
        **options: :class:`EncodingOptions`, and others of :func:`mrl_text.encoding.encode_files`.
    """
    files = [open_corpus(path, options.get("text_columns", ()), options.get("id_column"), keep) for path in paths]
    from mrl_text.encoding import encode_files  # torch comes with it
    from mrl_text.encoding.job import column_types

    check_types(next(iter(paths), Path()), {name: str(kind) for name, kind in column_types(files, keep).items()})
    if on_duplicate == "fail":
        _check_ids(files, options.get("done") or {}, options.get("limit"), known)
    kept = [_TEXT, *(name for name in keep if name != _TEXT)]
    folder = Path(work).expanduser() if work else _work_folder(files, find_model(model), kept, options)
    report = encode_files(paths, folder, model=model, precisions=["float16"], keep=kept, **options)
    temporary = work is None and not report.problems  # else problems.jsonl is kept
    return PushSource(open_encoded(folder), temporary, report.left_out, report.noted, report.problems)


def _check_ids(
    files: Sequence[CorpusFile], done: Mapping[Path, int], limit: int | None, known: Container[str] | None
) -> None:
    """Refuse an id that comes twice, with both places; the files are read once."""
    order = list(dict.fromkeys([*done, *(file.path for file in files)]))
    prefixes = dict(zip(order, id_prefixes(order), strict=True))

    def named() -> Iterator[tuple[str, str]]:
        left = limit
        for file in files:
            number = done.get(file.path, 0)
            for row in file.texts(number) if left is None or number < left else ():
                number = row.number
                if row.problem is None:
                    place = f"{file.path.name}, row {number}"
                    yield (f"{prefixes[file.path]}{number}" if row.id is None else row.id), place
                if number == left:
                    break
            left = None if left is None else max(0, left - number)

    twice = repeats(lambda: (name for name, _ in named()))
    mend = "mend it, or choose with --on-duplicate first or last"
    for name, (first, second, *_) in twice.items():
        one, other = (place for at, (_, place) in enumerate(named()) if at in (first, second))
        raise ValueError(f"the id {name!r} is used twice: {one} and {other}; {mend}")
    if known is not None and (taken := next((pair for pair in named() if pair[0] in known), None)):
        raise ValueError(f"the id {taken[0]!r} of {taken[1]} is in the index already; {mend}")


def _work_folder(
    files: Sequence[CorpusFile], model: ModelSource, keep: Sequence[str], options: Mapping[str, Any]
) -> Path:
    """Folder in the cache for the vectors of these files as they are now, by this model, with these options."""
    stamps = [[str(file.path), file.table.stamp()] for file in files]
    done = {str(path): rows for path, rows in (options.get("done") or {}).items()}
    passing = ("device", "progress", "done", "trust_remote_code")
    chosen = {name: value for name, value in options.items() if name not in passing}
    key = json.dumps([stamps, model.path, model.revision, list(keep), chosen, done], sort_keys=True, default=list)
    return cache_dir() / "push" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _check_full(encoded: EncodedFolder) -> None:
    manifest = encoded.manifest
    if manifest["width"] not in manifest["dims"] or not any(one in manifest["precisions"] for one in _FULL):
        dims, precisions = ", ".join(map(str, manifest["dims"])), ", ".join(manifest["precisions"])
        needed = f"a store needs the full width, {manifest['width']}, in float32 or float16"
        raise ValueError(f"{encoded.path} holds {dims} numbers in {precisions}: {needed}")
