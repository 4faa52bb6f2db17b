"""From a corpus, or from what ``mrl-text encode`` wrote, into a store; interrupted, it goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from tqdm import tqdm

from mrl_text.api.options import is_api_name
from mrl_text.choices import OnDuplicate
from mrl_text.files import write_atomically
from mrl_text.models import find_model, peek_width
from mrl_text.progress import progress_bar
from mrl_text.search.open import create_store, engine_of, open_store
from mrl_text.search.plan import SearchPlan
from mrl_text.search.push_rows import EncodingOptions, PushSource, check_options, open_push_source, stored_columns
from mrl_text.search.retry import closed_on_error
from mrl_text.search.store import Store
from mrl_text.search.urls import without_password
from mrl_text.suggest import check_choice
from mrl_text.truncation import check_dims, halves

if TYPE_CHECKING:
    from mrl_text.encoding import EncodedBatch

logger = logging.getLogger(__name__)

BATCH_ROWS = 2000  # sent together; at width 384 about 3 MB
_CHECKPOINT_SECONDS = 5.0


@dataclass(frozen=True)
class PushReport:
    """What a push did."""

    url: str  # of the store, without a password
    folder: Path | None  # where the vectors are kept; None where they were removed when all was stored
    rows: int  # that the source holds
    pushed: int  # of them, sent in this call; the others had been confirmed before
    stored: int  # rows in the store now
    left_out: int  # rows of corpus files without a vector: no text, or not readable
    noted: int  # problems: those rows, texts that were cut, cells that did not fit their column
    problems: list[str]  # the first ten of them, with their place; all are in the folder's problems.jsonl
    plan: SearchPlan  # how the store searches
    seconds: float  # of the whole call
    duplicates: int  # rows that another with the same id replaces or keeps out


def push(
    store_url: str | Path,
    sources: str | Path | Sequence[str | Path],
    *,
    model: str | None = None,
    dims: Sequence[int] | None = None,
    plan: SearchPlan | None = None,
    keep: Sequence[str] = (),
    on_duplicate: OnDuplicate = "fail",
    work: str | Path | None = None,
    batch_rows: int = BATCH_ROWS,
    checkpoint_seconds: float = _CHECKPOINT_SECONDS,
    progress: bool = False,
    **encoding: Unpack[EncodingOptions],
) -> PushReport:
    """Put the rows of an encoded folder, or of corpus files, into a store.

    Corpus files are encoded first. The store is made if it is not there; a row whose id is there is replaced. The
    position that the store has confirmed is noted beside the vectors, so that the same call goes on after an
    interruption, and the store ends up as if there had been none. An empty folder or table gets its index after the
    last row; a Qdrant server builds while rows come.

    Args:
        store_url: as for :func:`mrl_text.search.open_store`.
        sources: a folder that ``mrl-text encode`` wrote, with full vectors in float32 or float16; or corpus files
            (JSON lines, CSV, TSV, Parquet, .txt).
        model: encodes corpus files; a folder names its own, and another is refused.
        dims: sizes the model may be cut to, for the plan and for tuning; None takes the trained ones, the encoded
            ones, or halves of the width. They are fixed when the store is made.
        plan: how to search; None keeps the store's, and gives a new one a safe plan
            (:meth:`mrl_text.search.Store.starting_plan`).
        keep: columns to store beside id and text. Of a folder: none takes all that it has.
        on_duplicate: fail if an id comes twice, before anything is encoded or sent; or take the first or the last row.
        work: folder for the vectors of corpus files, kept; None is one in the cache, removed when all is stored.
        batch_rows: rows sent together.
        checkpoint_seconds: least time between two notes of the position.
        progress: show a progress bar on stderr.
        **encoding: of corpus files, :class:`mrl_text.search.push_rows.EncodingOptions`.

    Raises:
        FileNotFoundError: no such file, folder or model.
        ValueError: no rows, a folder without full vectors, an id twice, a store with rows of another width or model, a
            plan that the engine cannot follow, or as of encoding.
        StoreUnavailableError: no answer; what was confirmed is kept, and the same call goes on.
    """
    started = time.monotonic()
    check_choice("on_duplicate", on_duplicate, OnDuplicate)
    check_options(encoding)
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
    _check_before(store_url, model, dims, plan, keep)
    source = open_push_source(
        sources, model=model, keep=keep, work=work, on_duplicate=on_duplicate, progress=progress, **encoding
    )
    if not source.encoded.rows:
        given = sources if isinstance(sources, str | Path) else ", ".join(map(str, sources))
        lost = f": {source.left_out:,} were left out, {source.problems[0]}" if source.problems else ""
        raise ValueError(f"nothing was pushed: {given} has no rows to store{lost}")
    return send(
        source,
        store_url,
        dims=dims,
        plan=plan,
        keep=keep,
        on_duplicate=on_duplicate,
        batch_rows=batch_rows,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
        started=started,
    )


def send(
    source: PushSource,
    store_url: str | Path,
    *,
    dims: Sequence[int] | None = None,
    plan: SearchPlan | None = None,
    keep: Sequence[str] = (),
    on_duplicate: OnDuplicate = "fail",
    replace: bool = True,
    batch_rows: int = BATCH_ROWS,
    checkpoint_seconds: float = _CHECKPOINT_SECONDS,
    progress: bool = False,
    finish: Callable[[Store], None] | None = None,
    started: float | None = None,
) -> PushReport:
    """Put encoded rows into a store; other arguments, results and errors as for :func:`push`.

    Args:
        source: the rows.
        replace: False leaves a row that is in the store as it is where ``on_duplicate`` is ``first``.
        finish: called with the store when all rows are in it, before the note of the position is removed.
        started: when the work began, by :func:`time.monotonic`.
    """
    started = time.monotonic() if started is None else started
    engine_of(store_url).check_columns(source.columns(keep))
    left_out = source.repeats(on_duplicate)
    store = _store(store_url, source, dims, plan)
    rows = source.encoded.rows
    with contextlib.closing(store):
        journal = Journal(source.encoded.path, store.path.resolve() if store.path else store_url, keep)
        start = _confirmed(store, source, journal, left_out, texts=replace)
        there = set() if replace or on_duplicate == "fail" else _there(store, source, start)
        left_out |= there if on_duplicate == "first" else set()
        store.expect(rows - start)
        with progress_bar(total=rows, initial=start, unit="row", desc="Pushing", disable=not progress) as bar:
            _load(store, source.batches(start, batch_rows, keep), left_out, journal, checkpoint_seconds, bar)
        store.flush()
        chosen = plan or store.plan or store.starting_plan(store.count(), store.width, store.dims)
        if chosen != store.plan:
            store.set_plan(chosen)
            store.flush()
        if finish is not None:
            finish(store)
        stored = store.count()
    journal.remove()
    if source.temporary:
        shutil.rmtree(source.encoded.path, ignore_errors=True)
    seconds, url = time.monotonic() - started, without_password(store_url)
    folder, duplicates = None if source.temporary else source.encoded.path, len(left_out | there)
    return PushReport(
        url=url,
        folder=folder,
        rows=rows,
        pushed=rows - start,
        stored=stored,
        left_out=source.left_out,
        noted=source.noted,
        problems=source.problems,
        plan=chosen,
        seconds=seconds,
        duplicates=duplicates,
    )


def _check_before(
    url: str | Path, model: str | None, dims: Sequence[int] | None, plan: SearchPlan | None, keep: Sequence[str]
) -> None:
    """What can be known before anything is encoded: the store answers, can be made or written, and all fits into it."""
    engine, found = engine_of(url), find_model(model) if model is not None else None
    names = stored_columns(keep)
    engine.check_columns(names)
    width = peek_width(found) if found is not None else None
    if dims is not None and found is not None:
        check_dims(dims, width)
    if plan is not None and width is not None:
        engine.check_plan(plan, width)
    try:
        store = open_store(url)
    except FileNotFoundError:
        engine.check_place(str(url))
        return
    with contextlib.closing(store):
        if not store.is_empty():
            _check_same(store, None, found.reference if found is not None else None, dims)
        store.check_writable(names)


def _store(url: str | Path, source: PushSource, dims: Sequence[int] | None, plan: SearchPlan | None) -> Store:
    """The store, made if it is not there; refused if it holds something else, and made anew if that is no row."""
    if plan is not None:
        engine_of(url).check_plan(plan, source.width)
    with contextlib.suppress(FileNotFoundError):
        store = open_store(url)
        with closed_on_error(store):
            try:
                _check_same(store, source.width, source.model, dims)
            except ValueError:
                if not store.is_empty():
                    raise
                logger.warning("%s holds no rows, and is made anew for these", store)
                store.drop()
                store.close()
            else:
                return store
    sizes = _sizes(dims, source)
    first = plan or engine_of(url).starting_plan(source.encoded.rows, source.width, sizes)
    return create_store(url, width=source.width, plan=first, model=source.model, dims=sizes)


def _check_same(store: Store, width: int | None, model: str | None, dims: Sequence[int] | None) -> None:
    """Raise if the store holds something else; what is None is not compared."""
    if width is not None and store.width != width:
        raise ValueError(f"{store} holds vectors of width {store.width}, these have {width}: push into another store")
    if store.model is not None and model is not None and store.model != model:
        raise ValueError(f"{store} holds vectors of {store.model}, these are of {model}: push into another store")
    if dims is not None and check_dims([*dims, store.width], store.width) != tuple(store.dims):
        raise ValueError(
            f"{store} was made with the sizes {', '.join(map(str, store.dims))}: leave --dims out, or push into another"
        )


def _sizes(dims: Sequence[int] | None, source: PushSource) -> tuple[int, ...]:
    """Sizes the model may be cut to, its width among them."""
    width, name = source.width, source.model
    if dims is None:
        manifest = source.encoded.manifest  # an export says which sizes its store had
        dims = manifest.get("sizes") or _trained(name) or [dim for dim in manifest["dims"] if dim != width]
    if not dims:
        dims = halves(width)
        sizes = ", ".join(map(str, dims))
        logger.warning("%s does not say which sizes it was trained for: tuning will try %s", name, sizes)
    return check_dims([*dims, width], width)


def _trained(model: str | None) -> tuple[int, ...]:
    """Sizes that a model on this machine was trained for; none where that is its width alone."""
    if model is None or is_api_name(model):
        return ()
    try:
        trained = find_model(model).matryoshka_dims
    except FileNotFoundError:
        return ()
    return trained if len(trained) > 1 else ()


def _confirmed(store: Store, source: PushSource, journal: Journal, left_out: Collection[int], *, texts: bool) -> int:
    """Rows that need not be sent again: those noted, if the store still has a sample of them."""
    sample = [row for row in source.sample(journal.rows) if row[0] not in left_out]
    found = store.documents([name for _, name, _ in sample])
    for (_, _, text), document in zip(sample, found, strict=True):
        if document is None or (texts and text is not None and document.text != text):
            logger.warning("%s has lost rows that it had confirmed: all are sent again", store)
            return 0
    return journal.rows


def _there(store: Store, source: PushSource, start: int) -> set[int]:
    """Positions from ``start`` on of rows whose id is in the store."""
    there: set[int] = set()
    first = 0
    for ids in () if store.is_empty() else source.ids():
        if first + len(ids) > start:
            there |= {first + row for row, one in enumerate(store.documents(ids)) if one is not None}
        first += len(ids)
    return {position for position in there if position >= start}


def _load(
    store: Store, batches: Iterable[EncodedBatch], left_out: Collection[int], journal: Journal, every: float, bar: tqdm
) -> None:
    """Send rows batch by batch, and note now and then how many are in the store for good."""
    sent, noted = int(bar.n), time.monotonic()
    for batch in batches:
        rows = [row for row in range(len(batch.ids)) if sent + row not in left_out]
        texts = None if batch.texts is None else [batch.texts[row] for row in rows]
        columns = {name: [values[row] for row in rows] for name, values in batch.columns.items()}
        if rows:
            store.add([batch.ids[row] for row in rows], batch.vectors[rows].astype(np.float32), texts, columns)
        sent += len(batch.ids)
        bar.update(len(batch.ids))
        if time.monotonic() - noted >= every:
            store.confirm()
            journal.write(sent)
            noted = time.monotonic()


class Journal:
    """Rows, from the first on, of an encoded folder that a store has confirmed: ``rows``.

    A note counts for one store, one state of the folder and one choice of columns. It is there while a push is
    unfinished only: a finished one that is called again sends everything again. It is a small file in ``folder`` that
    only its owner may read, and neither user nor password of ``url`` is in it.
    """

    def __init__(self, folder: Path, url: str | Path, keep: Sequence[str] = ()) -> None:
        self._keep = sorted(set(keep))
        self._url = without_password(url)
        name = hashlib.sha256(self._url.encode()).hexdigest()[:16]
        self._file = folder / f"push-{name}.json"
        self._manifest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
        self.rows: int = self._read().get("rows", 0)
        self._warned = False

    def write(self, rows: int) -> None:
        """Note that so many rows, from the first on, are in the store for good."""
        self.rows = rows
        note = {"store": self._url, "manifest": self._manifest, "keep": self._keep, "rows": rows}
        try:
            write_atomically(self._file, json.dumps(note, indent=1).encode(), private=True)
        except OSError as error:
            if not self._warned:
                logger.warning("an interrupted push will begin anew: %s cannot be written (%s)", self._file, error)
            self._warned = True

    def remove(self) -> None:
        """The push is finished."""
        self.rows = 0
        with contextlib.suppress(OSError):  # it could not be written either
            self._file.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        wanted = {"store": self._url, "manifest": self._manifest, "keep": self._keep}
        fits = isinstance(known, dict) and all(known.get(name) == value for name, value in wanted.items())
        return known if fits else {}
