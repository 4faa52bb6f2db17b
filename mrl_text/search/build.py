"""From the files of a corpus to an index in a folder; what was begun goes on, and further files and rows come to it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from mrl_text.choices import OnDuplicate, OnError
from mrl_text.models import ModelSource, find_model, peek_width
from mrl_text.search.faiss.index import AdaptiveIndex
from mrl_text.search.faiss.store import FaissStore
from mrl_text.search.push import PushReport, send
from mrl_text.search.push_rows import EncodingOptions, check_options, encode_corpus
from mrl_text.suggest import check_choice
from mrl_text.tables.corpus import CorpusFile, open_corpus
from mrl_text.truncation import check_dims

if TYPE_CHECKING:
    from mrl_text.search.store import Store

_Entry = dict[str, Any]  # what an index knows of a file: size, time of change, columns, how many of its rows were read


def build(
    corpus: Sequence[str | Path],
    folder: str | Path,
    *,
    model: str,
    dims: Sequence[int] | None = None,
    keep: Sequence[str] = (),
    on_duplicate: OnDuplicate = "fail",
    progress: bool = False,
    **encoding: Unpack[EncodingOptions],
) -> PushReport:
    """Encode a corpus at full width and push it into an index that knows which rows of which files it has.

    A second call, after an interruption or with further files, encodes only what is not there yet.

    Args:
        corpus: see :func:`mrl_text.tables.open_table`; BEIR's ``corpus.jsonl`` as it is.
        folder: of the index; an index that :func:`build` began is continued.
        model: folder, hub id or packaged model; must be that of an index that is continued.
        dims: sizes the model may be cut to, for the plan and for tuning; None takes the trained ones, and halves of
            the width where the model does not tell.
        keep: columns to store beside id and text: text, numbers and truth values. Of a file that was indexed before,
            those that were kept then.
        on_duplicate: what to do with an id that is there: fail, keep the first row or the last.
        progress: show a progress bar on stderr.
        **encoding: :class:`mrl_text.search.push_rows.EncodingOptions`; float32 unless ``dtype`` says otherwise.

    Raises:
        FileNotFoundError: a file or the model is not there.
        ValueError: files that cannot be read, or changed since they were begun; another model than before; an id
            twice; a row without text where ``on_error`` is ``fail``.
    """
    started = time.monotonic()
    check_options(encoding)
    limit, options = encoding.get("limit"), EncodingOptions(dtype="float32") | encoding
    check_choice("on_error", encoding.get("on_error", "skip"), OnError)
    check_choice("on_duplicate", on_duplicate, OnDuplicate)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 row, got {limit}")
    files = [open_corpus(path, options.get("text_columns", ()), options.get("id_column"), keep) for path in corpus]
    if not files or len({file.path for file in files}) < len(files):
        raise ValueError(f"{'a corpus file is named twice' if files else 'no corpus file was named'}")
    found = find_model(model, trust_remote_code=options.get("trust_remote_code", False))
    check_dims(dims or [1], peek_width(found))
    place = Path(folder).expanduser()
    index = _existing(place, found, files)
    known: dict[str, _Entry] = index.facts.get("build", {}).get("sources", {}) if index is not None else {}
    done = {Path(path): int(entry["rows"]) for path, entry in known.items()}
    entries = _entries(files, limit)
    if index is not None:
        if dims is not None:
            index.facts["dims"] = list(check_dims([*dims, index.width], index.width))
            index.save(build=False)
            index.close()
        if all(entry["rows"] <= done.get(Path(path), 0) for path, entry in entries.items()):
            return _unchanged(place)
    # other rows than the last build left are those of one that was interrupted, which come again
    whole = index is not None and len(index) == index.facts.get("build", {}).get("rows", len(index) if known else None)
    paths, old = [file.path for file in files], index if whole else None
    source = encode_corpus(
        paths, model, keep, on_duplicate=on_duplicate, known=old, done=done, progress=progress, **options
    )
    source.check_columns(keep)
    if not source.encoded.rows and not index:
        raise ValueError(f"nothing was indexed: no row of {', '.join(map(str, corpus))} has text")

    def finish(store: Store) -> None:
        facts = cast(FaissStore, store).index.facts
        read = {path: entry for path, entry in entries.items() if entry["rows"] > done.get(Path(path), 0)}
        built = {"sources": {**known, **read}, "rows": store.count()}
        facts |= {"revision": found.revision, **found.trusted, "build": built}
        store.flush()

    source = dataclasses.replace(source, temporary=True)
    sending: dict[str, Any] = {
        "dims": dims,
        "keep": keep,
        "on_duplicate": on_duplicate,
        "replace": False,
        "progress": progress,
    }
    return send(source, place, finish=finish, started=started, **sending)


def _existing(folder: Path, found: ModelSource, files: Sequence[CorpusFile]) -> AdaptiveIndex | None:
    """The index to continue, if there is one and it fits."""
    if not (folder / "index.json").exists():
        FaissStore.check_place(str(folder))
        return None
    index = AdaptiveIndex.load(folder)
    if index.model is None:
        raise ValueError(f"{folder} holds an index that was not built from files: choose another folder")
    reference = found.reference
    if index.model != reference or index.facts.get("revision") not in (None, "main", found.revision):
        other = "an earlier version of it" if index.model == reference else index.model
        raise ValueError(f"{folder} was built with {other}, not with {reference}: choose another folder")
    sources = index.facts.get("build", {}).get("sources", {})
    for file in files:
        entry, now = sources.get(str(file.path)), _entry(file, 0)
        if entry is None:
            continue
        if any(entry[name] != now[name] for name in file.table.stamp()):
            since = f"since {entry['rows']} rows of it were indexed"
            raise ValueError(f"{file.path} has changed {since}: build into another folder")
        if (entry["text_columns"], entry["id_column"]) != (now["text_columns"], now["id_column"]):
            by = f"{', '.join(entry['text_columns'])} with the id {entry['id_column']}"
            raise ValueError(f"{file.path} was indexed by the columns {by}: build into another folder to choose others")
        if (kept := entry.get("keep", [])) != now["keep"]:
            with_ = ", ".join(kept) or "no column"
            raise ValueError(f"{file.path} was indexed with {with_} kept: build into another folder to keep others")
    return index


def _entry(file: CorpusFile, rows: int) -> _Entry:
    columns = {"text_columns": list(file.text_columns), "id_column": file.id_column, "keep": list(file.keep)}
    return {**file.table.stamp(), **columns, "rows": rows}


def _entries(files: Sequence[CorpusFile], limit: int | None) -> dict[str, _Entry]:
    """What the index is to know of each file by path, once ``limit`` rows of all of them are in it."""
    entries: dict[str, _Entry] = {}
    left = math.inf if limit is None else limit
    for file in files:
        rows = int(min(file.table.count(), left))
        left -= rows
        entries[str(file.path)] = _entry(file, rows)
    return entries


def _unchanged(folder: Path) -> PushReport:
    with contextlib.closing(FaissStore.open(str(folder))) as store:
        plan = store.plan or store.starting_plan(store.count(), store.width, store.dims)
        return PushReport(str(folder), None, 0, 0, store.count(), 0, 0, [], plan, 0.0, 0)
