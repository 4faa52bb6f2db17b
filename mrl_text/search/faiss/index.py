"""An index that finds by a prefix and orders by the rest."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mrl_text.search.checks import check_columns, check_ids, check_queries, check_texts, check_vectors
from mrl_text.search.columns import ColumnType, merge_types
from mrl_text.search.faiss import engine
from mrl_text.search.faiss.engine import Engine
from mrl_text.search.faiss.folder import IndexFolder, saved_generation, whole_folder
from mrl_text.search.faiss.stored_rows import Rows, vector_files
from mrl_text.search.hits import Hits, StageCost
from mrl_text.search.plan import SearchPlan
from mrl_text.truncation import check_dim, truncate

_OUTGROWN = 4
"""Ranges and cells are learned anew when there are so many times the rows that they were learned from."""
_REPEATS = 9


class AdaptiveIndex:
    """Search in two steps or more: candidates by a prefix in memory, order by larger sizes on disk.

    Adaptive and funnel retrieval of Matryoshka embeddings (arXiv 2205.13147, section 4.3), inside FAISS. Only the
    prefix is in memory; full vectors are float16 in a memory-mapped file. Rows have ids, any strings, and may have
    texts. Use :meth:`create`, :meth:`load`.

    Example:
        >>> vectors = np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float32)
        >>> index = AdaptiveIndex.create(width=64, plan=SearchPlan(16, shortlist=100))
        >>> index.add([str(row) for row in range(1000)], vectors)
        >>> index.search(vectors[:2], k=1).ids.tolist()
        [['0'], ['1']]
    """

    def __init__(self, folder: IndexFolder, temporary: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self._folder = folder
        self._temporary = temporary
        manifest = folder.manifest
        self.width: int = manifest["width"]
        self.model: str | None = manifest["model"]
        self.facts: dict[str, Any] = manifest["facts"]
        self._plan = SearchPlan.from_json(manifest["plan"]) if manifest["plan"] else None
        self._rows = Rows(folder)
        self._shortlist: Any = None
        self._learned_from = int(manifest.get("learned_from", 0))
        self._engines: dict[SearchPlan, Engine] = {}
        self._saved_shortlist: Any = None
        if "shortlist" in manifest["files"]:
            self._shortlist = engine.read_shortlist(folder.path / manifest["files"]["shortlist"]["name"])
            self._saved_shortlist = self._shortlist
        self._shortlist_grew = False

    @classmethod
    def create(
        cls,
        folder: Path | str | None = None,
        *,
        width: int,
        plan: SearchPlan | None = None,
        model: str | None = None,
        facts: dict[str, Any] | None = None,
    ) -> AdaptiveIndex:
        """A new, empty index.

        Args:
            folder: where it lives; new or empty. None is a temporary folder that goes with the index, unless it is
                saved elsewhere.
            width: numbers of the full vectors.
            plan: how to search; None compares with every full vector until :meth:`set_plan` is called.
            model: name or folder of the model that made the vectors, for whoever searches by text.
            facts: JSON values to keep with the index.

        Returns:
            The index.

        Raises:
            ValueError: a plan that does not fit the width.
            FileExistsError: the folder has files.
        """
        check_dim(width, None)
        if plan is not None:
            engine.check_plan(plan, width)
        temporary = tempfile.TemporaryDirectory(prefix="mrl-text-index-") if folder is None else None
        path = Path(temporary.name if temporary else str(folder))
        manifest = {
            "width": int(width),
            "model": model,
            "facts": facts or {},
            "plan": plan.to_json() if plan else None,
            "vectors": vector_files(int(width), _smaller_sizes(plan, width)),
        }
        return cls(IndexFolder.create(path, manifest), temporary)

    @classmethod
    def load(cls, folder: Path | str, *, verify: bool = False) -> AdaptiveIndex:
        """An index as it was last saved.

        Args:
            folder: of the index.
            verify: read all files and compare their checksums, not only their sizes.

        Returns:
            The index; its vectors and texts stay on disk.

        Raises:
            FileNotFoundError: there is no index, or a file of it is missing.
            ValueError: a file is not what was saved.
        """
        path = Path(folder)
        while True:
            generation = saved_generation(path)
            try:
                read = IndexFolder.load(path)
                if verify:
                    read.verify()
                return cls(read)
            except (OSError, RuntimeError, ValueError):  # FAISS raises RuntimeError
                if saved_generation(path) == generation:
                    raise
                # else another process saved meanwhile, and deleted files that only the state before needed

    @property
    def plan(self) -> SearchPlan | None:
        """How the index searches; None compares with every full vector."""
        return self._plan

    @property
    def path(self) -> Path:
        """Folder of the index."""
        return self._folder.path

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and bool(self._rows.find([id_])[0] >= 0)

    @property
    def ids(self) -> Iterator[str]:
        """Ids of the rows that can be found, in the order they were added."""
        for start in range(0, self._rows.count, 65_536):
            yield from self._rows.ids(self._rows.live_positions(start, min(start + 65_536, self._rows.count)))

    def texts(self, positions: Sequence[int] | np.ndarray) -> list[str | None]:
        """Texts of rows by position; None for a row that was added without."""
        return self._rows.texts(np.asarray(positions, dtype=np.int64))

    def vectors(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """Full unit vectors of rows by position, as stored: float16 (n, width)."""
        return np.asarray(self._rows.mapped(self.width)[np.asarray(positions, dtype=np.int64)])

    @property
    def column_types(self) -> dict[str, ColumnType]:
        """Types of the user's own columns by name: ``text``, ``int``, ``float`` or ``bool``."""
        return dict(self._rows.column_types)

    def column(self, name: str) -> pa.ChunkedArray:
        """One of the user's columns, for all rows in the order they were added, removed ones included.

        Raises:
            KeyError: no such column.
        """
        return self._rows.column(name)

    def columns(self, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """The user's own columns of rows by position: a value by name, None for a row without."""
        return self._rows.columns(np.asarray(positions, dtype=np.int64))

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Positions int64 (n,) of rows by id, -1 for one that is not there."""
        return self._rows.find(ids)

    def add(
        self,
        ids: Sequence[str],
        embeddings: np.ndarray,
        texts: Sequence[str] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Add rows; a row whose id is there already is replaced.

        They can be found at once, and are on disk for good after :meth:`save`.

        Args:
            ids: any strings, each once.
            embeddings: float array (n, width), any length but zero; stored as unit vectors in float16.
            texts: one for each row, to be shown with results.
            columns: the user's own columns, a value for each row (text, whole number, float, boolean or None).

        Raises:
            ValueError: numbers of ids, vectors, texts and values that differ, an id that comes twice, a vector of
                another width, zero or not finite (with its position), values of another type than their column has,
                or another process that writes.
            TypeError: an id or text that is not a string, or a value of another type.
        """
        vectors = check_vectors(embeddings, self.width)
        check_ids(ids, len(vectors))
        if texts is not None:
            check_texts(texts, len(vectors), "texts")
        own = check_columns(columns, len(vectors))
        merge_types(self._rows.column_types, own)
        if not len(ids):
            return
        self._folder.lock()
        known = self._rows.find(ids)
        self._rows.append(ids, vectors, texts, own)  # first: where the disk is full, the rows before stay
        self._rows.remove(known[known >= 0])
        self._engines.clear()
        if self._shortlist is not None:
            if self._learns() and self._rows.count >= _OUTGROWN * self._learned_from:
                self._shortlist = None
            else:
                engine.add_rows(self._shortlist, [vectors])
                self._shortlist_grew = True

    def remove(self, ids: Collection[str]) -> int:
        """Take rows out; they are not found any more. :meth:`save` to another folder leaves them out for good.

        Args:
            ids: of the rows; those that are not there are passed over.

        Returns:
            How many rows were taken out.

        Raises:
            ValueError: another process writes.
            TypeError: a single string instead of a collection of them.
        """
        self._folder.lock()
        if isinstance(ids, str):
            raise TypeError(f"remove takes a collection of ids, got the string {ids!r}")
        positions = self._rows.find(list(dict.fromkeys(ids)))
        positions = positions[positions >= 0]
        self._rows.remove(positions)
        return len(positions)

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        among: Collection[str] | np.ndarray | None = None,
        plan: SearchPlan | None = None,
    ) -> Hits:
        """The ``k`` best rows for each query, by the plan.

        Args:
            queries: float array (n, width) or (width,), any length but zero.
            k: results wanted.
            among: ids to search, of which those that are not there are passed over, or a mask of rows, bool (rows,),
                as :meth:`column` has them. None searches all.
            plan: another plan on the same shortlist: it may differ in ``shortlist``, ``effort``, ``rerank`` and
                ``final``, as far as the sizes to rerank by are there.

        Returns:
            Arrays of shape (n, k).

        Raises:
            ValueError: vectors of another width, zero or not finite, ``k`` below 1, or a plan for another shortlist.
        """
        vectors = check_queries(queries, k, self.width)
        chosen = plan or self._plan
        allowed = self._rows.allowed(among)
        if chosen is None or self._rows.few(allowed) or not self._rows.count:
            dim = self.width if chosen is None else chosen.dim if chosen.single else chosen.final or self.width
            return self._hits(*self._exact(vectors, k, dim, allowed))
        return self._hits(*self._ready(plan).search(vectors, k, allowed=allowed))

    def exact(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        dim: int | None = None,
        among: Collection[str] | np.ndarray | None = None,
    ) -> Hits:
        """The ``k`` best rows for each query by comparing with all of them, read from disk block by block.

        Args:
            queries: float array (n, width) or (width,).
            k: results wanted.
            dim: compare this many numbers; None is all.
            among: as for :meth:`search`.

        Returns:
            Arrays of shape (n, k).

        Raises:
            ValueError: as :meth:`search`, or an impossible size.
        """
        vectors = check_queries(queries, k, self.width)
        size = self.width if dim is None else check_dim(dim, self.width)
        return self._hits(*self._exact(vectors, k, size, self._rows.allowed(among)))

    def explain(self, query: np.ndarray, k: int = 10) -> tuple[Hits, list[StageCost]]:
        """Search for one query, step by step.

        Args:
            query: float array (width,) or (1, width).
            k: results wanted.

        Returns:
            What :meth:`search` gives, and what each step cost.

        Raises:
            ValueError: more than one query, or as :meth:`search`.
        """
        vectors = check_queries(query, k, self.width)
        if len(vectors) != 1:
            raise ValueError(f"explain takes one query, got {len(vectors)}")
        live = self._rows.live
        if self._plan is None or not self._rows.count:
            seconds = _least_seconds(lambda: self._exact(vectors, k, self.width, live))
            read = self._rows.count * self.width * 2
            return self.search(query, k), [StageCost("exact", self.width, len(self), min(k, len(self)), seconds, read)]
        ready, steps = self._ready(None), self._plan.steps(self.width, k)
        costs: list[StageCost] = []
        spent = 0.0
        for level in range(len(steps) + 1):
            seconds = _least_seconds(partial(ready.search, vectors, k, allowed=live, levels=level))
            dim, given = steps[level - 1] if level else (self._plan.dim, len(self))
            kept = min(steps[level][1] if level < len(steps) else k, len(self))
            read = min(given, len(self)) * dim * 2 if level else 0
            name = "rerank" if level else "shortlist"
            costs.append(StageCost(name, dim, min(given, len(self)), kept, max(0.0, seconds - spent), read))
            spent = max(spent, seconds)
        return self.search(query, k), costs

    def set_plan(self, plan: SearchPlan | None) -> None:
        """Search in another way from now on; kept by the next :meth:`save`.

        Args:
            plan: None compares with every full vector. What the new plan needs is built here, from the vectors on
                disk.

        Raises:
            ValueError: a plan that does not fit the width, or another process that writes.
        """
        if plan is not None:
            engine.check_plan(plan, self.width)
        self._folder.lock()
        if plan is None or self._plan is None or not plan.shares_shortlist(self._plan):
            self._shortlist = None
        self._plan = plan
        self._engines.clear()
        self._rows.keep_sizes(_smaller_sizes(plan, self.width))
        if plan is not None and self._rows.count:
            self._ready(None)

    def save(self, folder: Path | str | None = None) -> Path:
        """Keep the index as it is now. A process killed while it saves leaves what was saved before.

        Args:
            folder: None is the folder of the index. Another one, new or empty, gets a copy without removed rows, and
                the index stays where it is.

        Returns:
            The folder.

        Raises:
            FileExistsError: another folder that has files.
            ValueError: another process writes.
            OSError: the disk is full; what was saved before is untouched.
        """
        if folder is not None and Path(folder).resolve() != self.path.resolve():
            return self._copy(Path(folder))
        self._folder.lock()
        if self._plan is not None and self._rows.count:
            self._built_shortlist()
        state = self._rows.write()
        if self._shortlist is None:
            state["files"].pop("shortlist", None)
        elif self._shortlist is not self._saved_shortlist or self._shortlist_grew:
            name = f"shortlist-{int(self._folder.manifest['generation']) + 1:06d}.faiss"
            state["files"]["shortlist"] = self._folder.write(name, engine.shortlist_content(self._shortlist))
        state |= {
            "facts": self.facts,
            "model": self.model,
            "plan": self._plan.to_json() if self._plan else None,
            "learned_from": self._learned_from,
        }
        self._folder.commit({**self._folder.manifest, **state}, list(state["vectors"]) if self._rows.count else [])
        self._rows.written()
        self._saved_shortlist, self._shortlist_grew = self._shortlist, False
        return self.path

    def memory(self) -> dict[str, int]:
        """Bytes by what they are for.

        Returns:
            In memory: the parts of the shortlist (``codes``, ``graph``, ``cells``), ``ids`` once ids were looked up,
            and ``removed``. On disk: ``disk``, all files.
        """
        parts = engine.shortlist_bytes(self._shortlist) if self._shortlist is not None else {}
        disk = sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())
        return {**parts, **self._rows.nbytes, "disk": disk}

    def close(self) -> None:
        """Let other processes write; a temporary folder is deleted."""
        self._folder.release()
        self._engines.clear()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> AdaptiveIndex:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _learns(self) -> bool:
        plan = self._plan
        return plan is not None and (plan.kind == "ivf" or plan.precision in ("int8", "int4", "binary"))

    def _ready(self, plan: SearchPlan | None) -> Engine:
        """The engine for the index's plan, or for another on the same shortlist; kept until the index changes."""
        wanted = plan or self._plan
        assert wanted is not None
        if wanted not in self._engines:
            wanted.check(self.width)
            if self._plan is None or not wanted.shares_shortlist(self._plan):
                there = f"a shortlist for {self._plan.label}" if self._plan else "no shortlist"
                raise ValueError(f"the index has {there}: call set_plan for {wanted.label}")
            self._engines[wanted] = Engine(wanted, self.width, self._built_shortlist(), self._sizes(wanted))
        return self._engines[wanted]

    def _built_shortlist(self) -> Any:
        if self._shortlist is None:
            assert self._plan is not None
            shortlist = engine.new_shortlist(self._plan, self.width, self._rows.count)
            engine.train_shortlist(shortlist, self._rows.mapped(self.width))
            engine.add_rows(shortlist, (block for _, block in self._rows.blocks()))
            self._shortlist, self._learned_from = shortlist, self._rows.count
        return self._shortlist

    def _sizes(self, plan: SearchPlan) -> dict[int, np.ndarray]:
        sizes = [dim for dim, _ in plan.steps(self.width, 1)]
        if missing := [dim for dim in sizes if dim not in self._rows.files.values()]:
            raise ValueError(f"the index keeps no vectors of {missing[0]} numbers: call set_plan with that plan")
        return {dim: self._rows.mapped(dim) for dim in sizes}

    def _exact(
        self, queries: np.ndarray, k: int, dim: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        return engine.exact_search(truncate(queries, dim), self._rows.blocks_to_compare(dim, allowed), k)

    def _hits(self, scores: np.ndarray, positions: np.ndarray) -> Hits:
        ids = np.full(positions.shape, None, dtype=object)
        found = positions >= 0
        ids[found] = self._rows.ids(positions[found])
        return Hits(ids, scores, positions)

    def _copy(self, folder: Path) -> Path:
        """A copy without removed rows."""
        with whole_folder(folder) as beside:
            copy = AdaptiveIndex.create(
                beside, width=self.width, plan=self._plan, model=self.model, facts=dict(self.facts)
            )
            self._rows.copy_to(copy._rows)
            copy.save()
            copy.close()
        return folder


def _smaller_sizes(plan: SearchPlan | None, width: int) -> list[int]:
    return [dim for dim, _ in plan.steps(width, 1) if dim < width] if plan is not None else []


def _least_seconds(run: Callable[[], object]) -> float:
    seconds: list[float] = []
    while len(seconds) < _REPEATS:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
