"""From the files of a corpus to an index, chunk by chunk; interrupted, it goes on where it was."""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from tqdm.auto import tqdm

from mrl_text.models import ModelSource, find_model
from mrl_text.search.faiss.engine import cells
from mrl_text.search.faiss.index import AdaptiveIndex
from mrl_text.search.plan import Code, SearchPlan
from mrl_text.sources import Row, Source, open_source
from mrl_text.suggest import did_you_mean
from mrl_text.truncation import check_dims

if TYPE_CHECKING:
    from mrl_text.dtypes import Dtype
    from mrl_text.encoder import MatryoshkaEncoder

logger = logging.getLogger(__name__)

OnError = Literal["skip", "fail"]
OnDuplicate = Literal["fail", "first", "last"]

_CHUNK_ROWS = 2048
_MANY_ROWS = 50_000  # above, comparing with every row takes milliseconds
_SMALL_SHARE = 0.1  # of new rows: fewer are put into the shortlist that is there, for more it is built anew
_SMALLEST_HALF = 16
_SHOWN = 10


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        folder: the index.
        rows: documents in the index now.
        seconds: of the whole call.
        memory: bytes by part, as :meth:`mrl_text.search.AdaptiveIndex.memory`.
        plan: how it searches.
        encoded: documents that went through the model in this call.
        left_out: rows without text or that cannot be read, in this call.
        problems: the first ten of them, with their place.
        duplicates: rows whose id was there already, where that is allowed, in this call.
    """

    folder: Path
    rows: int
    seconds: float
    memory: dict[str, int]
    plan: SearchPlan
    encoded: int
    left_out: int
    problems: list[str]
    duplicates: int


@dataclass
class _Progress:
    """What a build met so far."""

    encoded: int = 0
    left_out: int = 0
    problems: list[str] = field(default_factory=list)
    duplicates: int = 0


def build(
    corpus: Sequence[str | Path],
    folder: str | Path,
    *,
    model: str,
    dims: Sequence[int] | None = None,
    text_columns: Sequence[str] = (),
    id_column: str | None = None,
    plan: SearchPlan | None = None,
    limit: int | None = None,
    on_error: OnError = "skip",
    on_duplicate: OnDuplicate = "fail",
    batch_size: int = 32,
    device: str | None = None,
    dtype: Dtype = "float32",
    chunk_rows: int = _CHUNK_ROWS,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> BuildReport:
    """Encode a corpus at full width and put it into an index.

    Files are streamed. Every chunk is saved with the number of the row it ends at, so that a second call, after an
    interruption or with further files, encodes only what is not there yet.

    Args:
        corpus: JSON lines, CSV, TSV, Parquet or .txt; BEIR's ``corpus.jsonl`` as it is.
        folder: of the index; an index that :func:`build` began is continued.
        model: folder, hub id or packaged model; must be that of an index that is continued.
        dims: sizes the model may be cut to, for the plan and for tuning; None takes the trained ones, and halves of
            the width where the model does not tell.
        text_columns: what to encode, joined by a blank; see :func:`mrl_text.sources.open_source`.
        id_column: likewise. A row without an id is called after its number, in further files ``file:number``.
        plan: how to search; None takes :func:`default_plan`, or keeps what a continued index has.
        limit: rows to take of the files together, at most.
        on_error: leave out rows without text, or that cannot be read, and report them; or fail at the first.
        on_duplicate: what to do with an id that is there: fail, keep the first row or the last.
        batch_size: texts per forward pass.
        device: where to encode; None is the best there is.
        dtype: what the model computes in.
        chunk_rows: rows encoded and saved together.
        trust_remote_code: allow code that comes with the model to run.
        progress: show a progress bar on stderr.

    Returns:
        What was done.

    Raises:
        FileNotFoundError: a file or the model is not there.
        ValueError: files that cannot be read, or changed since they were begun; another model than before; an id
            twice; a row without text where ``on_error`` is ``fail``.
    """
    started = time.monotonic()
    for name, value, known in (("on_error", on_error, OnError), ("on_duplicate", on_duplicate, OnDuplicate)):
        if value not in get_args(known):
            raise ValueError(f"{name} {value!r} is unknown{did_you_mean(str(value), get_args(known))}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 row, got {limit}")
    sources = [open_source(path, text_columns, id_column) for path in corpus]
    if not sources or len({source.path for source in sources}) < len(sources):
        raise ValueError(f"{'a corpus file is named twice' if sources else 'no corpus file was named'}")
    found = find_model(model, trust_remote_code=trust_remote_code)
    load = functools.cache(lambda: _load_encoder(found, device, dtype))
    place = Path(folder).expanduser()
    index = _existing(place, found, sources)
    if index is None:
        index = _new_index(place, found, load(), dims)
    elif dims is not None:
        index.facts["dims"] = list(check_dims([*dims, index.width], index.width))
    try:
        adder = _Adder(index, load, on_error, on_duplicate, batch_size, chunk_rows)
        _set_plan_aside(index, sources, limit)
        with tqdm(total=_total(sources, limit), unit="row", desc="Indexing", disable=not progress) as bar:
            left = limit
            for source in sources:
                adder.add(source, left, bar)
                left = None if left is None else max(0, left - _entry(index, source)["rows"])
        if not len(index):
            raise ValueError(f"nothing was indexed: no row of {', '.join(map(str, corpus))} has text")
        chosen = _finish(index, plan)
        seconds = time.monotonic() - started
        return BuildReport(place, len(index), seconds, index.memory(), chosen, **vars(adder.progress))
    finally:
        index.close()


def load_model(
    index: AdaptiveIndex, device: str | None = None, dtype: Dtype = "float32", trust_remote_code: bool = False
) -> MatryoshkaEncoder:
    """The model that an index was built with, for its queries; warns if it has changed since.

    Raises:
        FileNotFoundError: the model is not where it was.
        ValueError: the index names none.
    """
    if index.model is None:
        raise ValueError(f"{index.path} names no model to encode queries with: it was not built from files")
    found = find_model(index.model, trust_remote_code=trust_remote_code)
    revision = index.facts.get("revision")
    if found.is_local and revision not in (None, found.revision):
        logger.warning("%s has changed since %s was built: results may be poor, build it anew", found.path, index.path)
    return _load_encoder(found, device, dtype)


def default_plan(rows: int, width: int, dims: Sequence[int]) -> SearchPlan:
    """A plan that is safe to start with; :func:`mrl_text.search.tune.tune` finds a better one.

    Up to 50,000 rows every row is compared in float32, by the smallest of ``dims`` that is at least a sixth of the
    width. Above, int4 in cells, three eighths of which are looked into, by the smallest of at least a third.
    """
    large = rows > _MANY_ROWS
    dim = min((dim for dim in dims if (3 if large else 6) * dim >= width), default=width)
    final = dim if dim == width else None
    if large:
        precision: Code = "int8" if final else "int4"  # int4 finds candidates, and nothing would put them in order
        effort = max(1, 3 * cells(rows, precision) // 8)
        return SearchPlan(dim, "ivf", precision, shortlist=200, effort=effort, final=final)
    return SearchPlan(dim, "flat", "float32", shortlist=200, final=final)


class _Adder:
    """Puts the rows of sources into an index, chunk by chunk, each saved with the place where it ends."""

    def __init__(
        self,
        index: AdaptiveIndex,
        load: Callable[[], MatryoshkaEncoder],
        on_error: OnError,
        on_duplicate: OnDuplicate,
        batch_size: int,
        chunk_rows: int,
    ) -> None:
        self.progress = _Progress()
        self._index, self._load = index, load
        self._on_error, self._on_duplicate = on_error, on_duplicate
        self._batch_size, self._chunk_rows = batch_size, chunk_rows

    def add(self, source: Source, upto: int | None, bar: tqdm) -> None:
        """Index what is not there yet of the first ``upto`` rows of a file."""
        entry = _entry(self._index, source)
        bar.update(entry["rows"])
        if entry["complete"] or (upto is not None and entry["rows"] >= upto):
            return
        rows = itertools.takewhile(lambda row: upto is None or row.number <= upto, source.rows(entry["rows"]))
        while chunk := list(itertools.islice(rows, self._chunk_rows)):
            self._add_chunk(source, chunk)
            bar.update(chunk[-1].number - entry["rows"])
            entry["rows"] = chunk[-1].number
            self._save(source, entry)
        if upto is None or entry["rows"] < upto:
            entry["complete"] = True
            self._save(source, entry)

    def _save(self, source: Source, entry: dict[str, Any]) -> None:
        self._index.facts["build"]["sources"][str(source.path)] = entry
        self._index.save()

    def _add_chunk(self, source: Source, chunk: Sequence[Row]) -> None:
        kept: dict[str, Row] = {}
        for row in chunk:
            if row.problem is not None:
                self._leave_out(source, row, row.problem)
                continue
            name = _row_name(self._index, source, row)
            if name in kept or name in self._index:
                self._meet_again(source, row, name, kept)
                if self._on_duplicate == "first":
                    continue
            kept[name] = row
        if not kept:
            return
        texts = [row.text for row in kept.values()]
        vectors = self._load().encode_document(texts, batch_size=self._batch_size, show_progress_bar=False)
        norms = np.linalg.norm(vectors, axis=1)
        good = np.isfinite(norms) & (norms > 0)
        for row, usable in zip(kept.values(), good, strict=True):
            if not usable:
                self._leave_out(source, row, "got a vector from the model that is zero or not finite")
        ids = [name for name, usable in zip(kept, good, strict=True) if usable]
        self._index.add(ids, vectors[good], [kept[name].text for name in ids])
        self.progress.encoded += len(texts)

    def _leave_out(self, source: Source, row: Row, problem: str) -> None:
        text = f"{source.path.name}, row {row.number}: {problem}"
        if self._on_error == "fail":
            raise ValueError(f"{text}; mend it, or leave such rows out with --on-error skip")
        self.progress.left_out += 1
        if len(self.progress.problems) < _SHOWN:
            self.progress.problems.append(text)

    def _meet_again(self, source: Source, row: Row, name: str, chunk: dict[str, Row]) -> None:
        if self._on_duplicate == "fail":
            where = (
                f"{source.path.name}, row {chunk[name].number}" if name in chunk else _first_place(self._index, name)
            )
            raise ValueError(
                f"the id {name!r} is used twice: {where} and {source.path.name}, row {row.number}; mend it, or choose"
                " with --on-duplicate first or last"
            )
        self.progress.duplicates += 1


def _load_encoder(found: ModelSource, device: str | None, dtype: Dtype) -> MatryoshkaEncoder:
    from mrl_text.loading import load

    return load(found, dtype=dtype, device=device)


def _existing(folder: Path, found: ModelSource, sources: Sequence[Source]) -> AdaptiveIndex | None:
    """The index to continue, if there is one and it fits."""
    if not (folder / "index.json").exists():
        return None
    index = AdaptiveIndex.load(folder)
    if "build" not in index.facts:
        raise ValueError(f"{folder} holds an index that was not built from files: choose another folder")
    if index.model != found.reference or index.facts["revision"] not in (found.revision, "main"):
        other = "an earlier version of it" if index.model == found.reference else index.model
        raise ValueError(f"{folder} was built with {other}, not with {found.reference}: choose another folder")
    for source in sources:
        entry = index.facts["build"]["sources"].get(str(source.path))
        if entry is None:
            continue
        if {name: entry[name] for name in source.stamp()} != source.stamp():
            raise ValueError(
                f"{source.path} has changed since {entry['rows']} rows of it were indexed: build into another folder"
            )
        if (entry["text_columns"], entry["id_column"]) != (list(source.text_columns), source.id_column):
            raise ValueError(
                f"{source.path} was indexed by the columns {', '.join(entry['text_columns'])} with the id"
                f" {entry['id_column']}: build into another folder to choose others"
            )
    return index


def _new_index(
    folder: Path, found: ModelSource, encoder: MatryoshkaEncoder, dims: Sequence[int] | None
) -> AdaptiveIndex:
    width = encoder.width or int(encoder.encode(["width"]).shape[1])
    if dims is None:
        trained = encoder.matryoshka_dims
        dims = trained if len(trained) > 1 else [width >> step for step in range(8) if width >> step >= _SMALLEST_HALF]
        if len(trained) < 2:
            logger.warning("%s does not say which sizes it was trained for: tuning will try %s", found.name, dims)
    facts = {
        "dims": list(check_dims([*dims, width], width)),
        "revision": found.revision,
        **found.trusted,
        "build": {"sources": {}, "plan": None},
    }
    return AdaptiveIndex.create(folder, width=width, model=found.reference, facts=facts)


def _entry(index: AdaptiveIndex, source: Source) -> dict[str, Any]:
    """What is known of a file: size, time of change, columns, rows done and whether that is all."""
    known: dict[str, Any] | None = index.facts["build"]["sources"].get(str(source.path))
    columns = {"text_columns": list(source.text_columns), "id_column": source.id_column}
    return known or {**source.stamp(), **columns, "rows": 0, "complete": False}


def _row_name(index: AdaptiveIndex, source: Source, row: Row) -> str:
    """Its id; else its number, told apart from those of the index's first file by the name of the file."""
    if row.id is not None:
        return row.id
    first = next(iter(index.facts["build"]["sources"]), str(source.path))
    return str(row.number) if first == str(source.path) else f"{source.path.name}:{row.number}"


def _first_place(index: AdaptiveIndex, name: str) -> str:
    """Where the row came from that has an id; the files are read again, as this is for an error."""
    for path, entry in index.facts["build"]["sources"].items():
        if Path(path).is_file():
            source = Source(Path(path), tuple(entry["text_columns"]), entry["id_column"])
            for row in itertools.islice(source.rows(), entry["rows"]):
                if row.problem is None and _row_name(index, source, row) == name:
                    return f"{source.path.name}, row {row.number}"
    return "an earlier file"


def _total(sources: Sequence[Source], limit: int | None) -> int:
    total = sum(source.count() for source in sources)
    return total if limit is None else min(total, limit)


def _set_plan_aside(index: AdaptiveIndex, sources: Sequence[Source], limit: int | None) -> None:
    """Do without a shortlist while many rows come: it would be written with every chunk."""
    new = _total(sources, limit) - sum(_entry(index, source)["rows"] for source in sources)
    if index.plan is not None and new > _SMALL_SHARE * len(index):
        index.facts["build"]["plan"] = index.plan.to_json()
        index.set_plan(None)


def _finish(index: AdaptiveIndex, plan: SearchPlan | None) -> SearchPlan:
    """Build the shortlist of the plan, unless it is there, and save."""
    earlier = index.facts["build"]["plan"]
    chosen = plan or index.plan or (SearchPlan.from_json(earlier) if earlier else None)
    chosen = chosen or default_plan(len(index), index.width, index.facts["dims"])
    if chosen != index.plan:
        index.set_plan(chosen)
    index.facts["build"]["plan"] = None
    index.save()
    return chosen
