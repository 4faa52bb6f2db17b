"""From a corpus, or from what ``mrl-text encode`` wrote, into a store; interrupted, it goes on where it was."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from tqdm.auto import tqdm

from mrl_text.choices import OnError
from mrl_text.models import find_model
from mrl_text.search.build import default_plan
from mrl_text.search.open import create_store, engine_of, open_store
from mrl_text.search.plan import SearchPlan
from mrl_text.search.push_journal import Journal, without_password
from mrl_text.search.push_rows import PushSource, model_reference, open_push_source
from mrl_text.search.store import Store
from mrl_text.suggest import did_you_mean
from mrl_text.truncation import check_dims

if TYPE_CHECKING:
    from mrl_text.encoding import EncodedBatch

logger = logging.getLogger(__name__)

OnDuplicate = Literal["fail", "last"]
BATCH_ROWS = 2000
"""Rows sent together; at width 384 about 3 MB."""

_CHECKPOINT_SECONDS = 5.0
_FEW_ROWS = 10_000  # a database compares so many prefixes in milliseconds, without an index
_SMALLEST_HALF = 16
_SAMPLE = 100  # confirmed rows that are looked for before a push goes on


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Attributes:
        url: of the store, without a password.
        rows: that the source holds.
        pushed: of them, sent in this call; the others had been confirmed before.
        stored: rows in the store now.
        folder: where the vectors are kept; None where they were removed when all was stored.
        left_out: rows of corpus files without a vector: no text, or not readable.
        problems: the first ten rows of corpus files that were left out or cut, with their place; all of them are in
            ``problems.jsonl`` of the folder, which is kept then.
        plan: how the store searches.
        seconds: of the whole call.
    """

    url: str
    folder: Path | None
    rows: int
    pushed: int
    stored: int
    left_out: int
    problems: list[str]
    plan: SearchPlan
    seconds: float


def push(
    store_url: str | Path,
    sources: str | Path | Sequence[str | Path],
    *,
    model: str | None = None,
    dims: Sequence[int] | None = None,
    plan: SearchPlan | None = None,
    keep: Sequence[str] = (),
    text_columns: Sequence[str] = (),
    id_column: str | None = None,
    limit: int | None = None,
    on_error: OnError = "skip",
    on_duplicate: OnDuplicate = "fail",
    work: str | Path | None = None,
    device: str | None = None,
    batch_rows: int = BATCH_ROWS,
    checkpoint_seconds: float = _CHECKPOINT_SECONDS,
    progress: bool = False,
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
        model: encodes corpus files; a folder names its own.
        dims: sizes the model may be cut to, for the plan and for tuning; None takes the trained ones, the encoded
            ones, or halves of the width. They are fixed when the store is made.
        plan: how to search; None keeps the store's, and gives a new one :func:`starting_plan`.
        keep: columns to store beside id and text. Of a folder: none takes all that it has.
        text_columns: of corpus files: what to encode, joined by a blank; none takes title and text.
        id_column: of corpus files: None takes ``_id``, ``id`` or the number of the row.
        limit: rows of corpus files to take, at most.
        on_error: leave out rows of corpus files without text, or fail at the first.
        on_duplicate: fail if an id comes twice, before anything is sent; or let the last row win.
        work: folder for the vectors of corpus files, kept; None is one in the cache, removed when all is stored.
        device: where to encode.
        batch_rows: rows sent together.
        checkpoint_seconds: least time between two notes of the position.
        progress: show a progress bar on stderr.

    Returns:
        What was done.

    Raises:
        FileNotFoundError: no such file, folder or model.
        ValueError: a folder without full vectors, an id twice, a store of another width or model, a plan that the
            engine cannot follow, or as of encoding.
        StoreUnavailableError: no answer; what was confirmed is kept, and the same call goes on.
    """
    started = time.monotonic()
    if on_duplicate not in get_args(OnDuplicate):
        raise ValueError(f"on_duplicate {on_duplicate!r} is unknown{did_you_mean(on_duplicate, get_args(OnDuplicate))}")
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
    engine = engine_of(store_url)
    _check_before(store_url, model, dims)
    source = open_push_source(
        sources,
        model=model,
        keep=keep,
        work=work,
        device=device,
        progress=progress,
        text_columns=text_columns,
        id_column=id_column,
        limit=limit,
        on_error=on_error,
    )
    folder = source.encoded.path
    if on_duplicate == "fail" and (twice := source.repeated()) is not None:
        raise ValueError(
            f"the id {twice!r} comes twice in {folder}: take the last with --on-duplicate last, or mend it"
        )
    store = _store(store_url, source, dims, plan)
    journal = Journal(folder, Path(store_url).resolve() if engine == "faiss" else store_url, keep)
    try:
        start = _confirmed(store, source, journal)
        if engine == "faiss":
            _set_plan_aside(store, journal, plan)
        confirm = store.flush if engine == "faiss" else _nothing  # a database has confirmed what was added
        checkpoint = _Checkpoint(journal, confirm, start, checkpoint_seconds)
        rows = source.encoded.rows
        with tqdm(total=rows, initial=start, unit="row", desc="Pushing", disable=not progress) as bar:
            _load(store, source.batches(start, batch_rows, keep), checkpoint, bar)
        store.flush()
        chosen = _finish(store, journal, plan, engine)
        stored = store.count()
    finally:
        store.close()
    journal.remove()
    if source.temporary:
        shutil.rmtree(folder, ignore_errors=True)
    return PushReport(
        url=without_password(store_url),
        folder=None if source.temporary else folder,
        rows=rows,
        pushed=rows - start,
        stored=stored,
        left_out=source.left_out,
        problems=source.problems,
        plan=chosen,
        seconds=time.monotonic() - started,
    )


def starting_plan(engine: str, rows: int, width: int, dims: Sequence[int]) -> SearchPlan:
    """A plan that is safe to start with; ``mrl-text index tune`` finds a better one.

    A folder gets :func:`mrl_text.search.build.default_plan`. A database gets a graph over the smallest of ``dims``
    that is at least a third of the width; up to 10,000 rows it compares every prefix.

    Args:
        engine: ``faiss``, ``postgresql`` or ``qdrant``.
        rows: in the store.
        width: of full vectors.
        dims: sizes the model may be cut to.
    """
    if engine == "faiss":
        return default_plan(rows, width, dims)
    dim = min((dim for dim in dims if 3 * dim >= width), default=width)
    final = dim if dim == width else None
    return SearchPlan(dim, "flat" if rows <= _FEW_ROWS else "hnsw", "float16", 200, final=final, effort=200)


def _check_before(url: str | Path, model: str | None, dims: Sequence[int] | None) -> None:
    """What can be known before anything is encoded: that the store answers, and what it holds."""
    with contextlib.suppress(FileNotFoundError), contextlib.closing(open_store(url)) as store:
        _check_same(store, None, model_reference(model) if model is not None else None, dims)


def _store(url: str | Path, source: PushSource, dims: Sequence[int] | None, plan: SearchPlan | None) -> Store:
    """The store, made if it is not there; refused if it holds something else."""
    if plan is not None:
        plan.check(source.width)
    try:
        store = open_store(url)
    except FileNotFoundError:
        sizes = _sizes(dims, source)
        first = plan or starting_plan(engine_of(url), source.encoded.rows, source.width, sizes)
        return create_store(url, width=source.width, plan=first, model=source.model, dims=sizes)
    try:
        _check_same(store, source.width, source.model, dims)
    except ValueError:
        store.close()
        raise
    return store


def _check_same(store: Store, width: int | None, model: str | None, dims: Sequence[int] | None) -> None:
    """Raise if the store holds something else; what is None is not compared."""
    shown = without_password(store.url)
    if width is not None and store.width != width:
        raise ValueError(f"{shown} holds vectors of width {store.width}, these have {width}: push into another store")
    if store.model is not None and model is not None and store.model != model:
        raise ValueError(f"{shown} holds vectors of {store.model}, these are of {model}: push into another store")
    if dims is not None and check_dims([*dims, store.width], store.width) != tuple(store.dims):
        raise ValueError(
            f"{shown} was made with the sizes {', '.join(map(str, store.dims))}: leave --dims out, or push into another"
        )


def _sizes(dims: Sequence[int] | None, source: PushSource) -> tuple[int, ...]:
    """Sizes the model may be cut to, its width among them."""
    width, name = source.width, source.model
    if dims is None:
        dims = _trained(name) or [dim for dim in source.encoded.manifest["dims"] if dim != width]
    if not dims:
        dims = [width >> step for step in range(8) if width >> step >= _SMALLEST_HALF]
        logger.warning("%s does not say which sizes it was trained for: tuning will try %s", name, dims)
    return check_dims([*dims, width], width)


def _trained(model: str | None) -> tuple[int, ...]:
    """Sizes that a model on this machine was trained for; none where that is its width alone."""
    try:
        trained = find_model(model).matryoshka_dims if model else ()
    except FileNotFoundError:
        return ()
    return trained if len(trained) > 1 else ()


def _confirmed(store: Store, source: PushSource, journal: Journal) -> int:
    """Rows that need not be sent again: those noted, if the store still has a sample of them."""
    position = 0
    for batch in source.batches(0, max(1, journal.rows // _SAMPLE)) if journal.rows else ():
        if position >= journal.rows:
            break
        (found,) = store.documents(batch.ids[:1])
        if found is None or (batch.texts is not None and found.text != batch.texts[0]):
            logger.warning("%s has lost rows that it had confirmed: all are sent again", without_password(store.url))
            return 0
        position += len(batch.ids)
    return journal.rows


def _set_plan_aside(store: Store, journal: Journal, plan: SearchPlan | None) -> None:
    """Do without a shortlist while an empty index is filled: it is learned from all rows, in one go, afterwards."""
    if store.plan is not None and not store.count():
        journal.plan = plan or store.plan
        journal.write(0)
        store.set_plan(None)


class _Checkpoint:
    """Notes now and then how many rows are in the store for good."""

    def __init__(self, journal: Journal, confirm: Callable[[], None], start: int, seconds: float) -> None:
        self._journal, self._confirm = journal, confirm
        self._rows, self._seconds = start, seconds
        self._noted = time.monotonic()

    def sent(self, rows: int) -> None:
        """So many more rows were sent."""
        self._rows += rows
        if time.monotonic() - self._noted >= self._seconds:
            self._confirm()
            self._journal.write(self._rows)
            self._noted = time.monotonic()


def _nothing() -> None:
    pass


def _load(store: Store, batches: Iterable[EncodedBatch], checkpoint: _Checkpoint, bar: tqdm) -> None:
    """Send rows batch by batch."""
    for batch in batches:
        last = {name: row for row, name in enumerate(batch.ids)}  # of an id that comes twice
        rows = sorted(last.values())
        texts = None if batch.texts is None else [batch.texts[row] for row in rows]
        columns = {name: [values[row] for row in rows] for name, values in batch.columns.items()}
        store.add([batch.ids[row] for row in rows], batch.vectors[rows].astype(np.float32), texts, columns)
        checkpoint.sent(len(batch.ids))
        bar.update(len(batch.ids))


def _finish(store: Store, journal: Journal, plan: SearchPlan | None, engine: str) -> SearchPlan:
    """Build the index of the plan, unless it is there."""
    chosen = plan or store.plan or journal.plan
    chosen = chosen or starting_plan(engine, store.count(), store.width, store.dims)
    if chosen != store.plan:
        store.set_plan(chosen)
        store.flush()
    return chosen
