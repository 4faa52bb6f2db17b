"""An index that finds by a prefix and orders by the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.files import replaced_folder
from mrl_text.search.checks import check_collection, check_queries, check_rows
from mrl_text.search.columns import merge_types
from mrl_text.search.faiss.contents import Contents
from mrl_text.search.faiss.engine import Engine, exact_search, least_seconds
from mrl_text.search.faiss.folder import IndexFolder, not_described, read_manifest
from mrl_text.search.faiss.shortlist import Shortlist, check_plan
from mrl_text.search.faiss.stored_rows import Rows, vector_files
from mrl_text.search.hits import Hits, StageCost
from mrl_text.search.plan import SearchPlan
from mrl_text.truncation import check_dim, truncate


class AdaptiveIndex(Contents):
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
        super().__init__(folder)
        self._temporary = temporary
        manifest = folder.manifest
        self.width: int = manifest["width"]
        self.model: str | None = manifest["model"]
        self.facts: dict[str, Any] = manifest["facts"]
        self._plan = SearchPlan.from_json(manifest["plan"]) if manifest["plan"] else None
        self._shortlist = Shortlist(folder)
        self._engines: dict[SearchPlan, Engine] = {}
        self._many_to_come = False

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
            folder: new or empty. None is a temporary folder that goes with the index, unless it is saved elsewhere.
            width: numbers of the full vectors.
            plan: how to search; None compares with every full vector until :meth:`set_plan` is called.
            model: name or folder of the model that made the vectors, for whoever searches by text.
            facts: JSON values to keep with the index.

        Raises:
            ValueError: a plan that does not fit the width.
            FileExistsError: the folder has files.
        """
        check_dim(width, None)
        if plan is not None:
            check_plan(plan, width)
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
        """An index as it was last saved; its vectors and texts stay on disk.

        Args:
            folder: of the index.
            verify: read all files and compare their checksums, not only their sizes.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: a file is missing, or not what was saved.
        """
        path = Path(folder)
        while True:
            generation = read_manifest(path)["generation"]
            try:
                read = IndexFolder.load(path)
                if verify:
                    read.verify()
                return cls(read)
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                if read_manifest(path)["generation"] == generation:
                    if isinstance(error, OSError | ValueError):
                        raise
                    raise not_described(path) from error
                # else another process saved meanwhile, and deleted files that only the state before needed

    @property
    def plan(self) -> SearchPlan | None:
        """How the index searches; None compares with every full vector."""
        return self._plan

    def add(
        self,
        ids: Sequence[str],
        embeddings: np.ndarray,
        texts: Sequence[str | None] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Add rows; a row whose id is there already is replaced.

        They can be found at once, and are on disk for good after :meth:`save`.

        Args:
            ids: any strings, each once.
            embeddings: float array (n, width), any length but zero; stored as unit vectors in float16.
            texts: one for each row, to be shown with results; None for a row without.
            columns: the user's own columns, a value for each row (text, whole number, float, boolean or None).

        Raises:
            ValueError: as :func:`mrl_text.search.checks.check_rows`, values of another type than their column has, or
                another process that writes.
            TypeError: an id or text that is not a string, or a value of another type.
        """
        vectors, own = check_rows(ids, embeddings, texts, columns, self.width)
        if len(ids):
            self.put(ids, vectors, texts, own)

    def put(
        self, ids: Sequence[str], vectors: np.ndarray, texts: Sequence[str | None] | None, own: dict[str, list[Any]]
    ) -> None:
        """As :meth:`add`, for one row or more that :func:`mrl_text.search.checks.check_rows` has seen.

        A row that is there and just so, vector, text and columns, stays where it is.
        """
        merge_types(self._rows.column_types, own)
        self._folder.lock()
        known = self._rows.find(ids)
        new = np.flatnonzero(self._rows.differ(known, vectors, texts, own))
        if not len(new):
            return
        if len(new) < len(ids):
            ids, known, vectors = [ids[row] for row in new.tolist()], known[new], vectors[new]
            texts = [texts[row] for row in new.tolist()] if texts is not None else None
            own = {name: [values[row] for row in new.tolist()] for name, values in own.items()}
        if self._many_to_come:
            self._shortlist.index = None
        self._rows.append(ids, vectors, texts, own)  # first: where the disk is full, the rows before stay
        self._rows.remove(known[known >= 0])
        self._engines.clear()
        if self._plan is not None:
            self._shortlist.add(self._plan, vectors, self._rows.count)

    def remove(self, ids: Collection[str] | np.ndarray) -> int:
        """Take rows out; they are not found any more. :meth:`compact` frees their place.

        Args:
            ids: of the rows, of which those that are not there are passed over; or a mask of rows, bool (rows,).

        Returns:
            How many rows were taken out.

        Raises:
            ValueError: another process writes.
            TypeError: a single string instead of a collection of them.
        """
        self._folder.lock()
        check_collection(ids, "remove")
        positions = self._rows.positions(ids)
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
        """The ``k`` best rows for each query, by the plan: arrays (n, k).

        Args:
            queries: float array (n, width) or (width,), any length but zero.
            k: results wanted.
            among: ids to search, of which those that are not there are ignored, or a mask of rows, bool (rows,), as
                :meth:`column` has them. None searches all.
            plan: another plan on the same shortlist: it may differ in ``shortlist``, ``effort``, ``rerank`` and
                ``final``, as far as the sizes to rerank by are there.

        Raises:
            ValueError: vectors of another width, zero or not finite, ``k`` below 1, or a plan for another shortlist.
        """
        vectors = check_queries(queries, k, self.width)
        chosen = plan or self._plan
        allowed = self._rows.allowed(among)
        there = self._rows.count if allowed is None else int(allowed.sum())
        if chosen is None or not there or self._rows.few(allowed):
            dim = self.width if chosen is None else chosen.last_dim(self.width)
            return self._hits(*self._exact(vectors, k, dim, allowed))
        scores, positions = self._ready(plan).search(vectors, k, allowed=allowed)
        short = np.flatnonzero(positions[:, min(k, there) - 1] < 0)
        if len(short):  # the cells or the graph led to fewer rows than there are
            scores[short], positions[short] = self._exact(vectors[short], k, chosen.last_dim(self.width), allowed)
        return self._hits(scores, positions)

    def exact(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        dim: int | None = None,
        among: Collection[str] | np.ndarray | None = None,
    ) -> Hits:
        """The ``k`` best rows for each query by comparing with all of them, read from disk block by block.

        Arguments, results and errors as for :meth:`search`; ``dim`` compares that many numbers, None all.
        """
        vectors = check_queries(queries, k, self.width)
        size = self.width if dim is None else check_dim(dim, self.width)
        return self._hits(*self._exact(vectors, k, size, self._rows.allowed(among)))

    def explain(self, query: np.ndarray, k: int = 10) -> tuple[Hits, list[StageCost]]:
        """Search for one query, float (width,) or (1, width): what :meth:`search` gives, and what each step cost."""
        vectors = check_queries(query, k, self.width)
        if len(vectors) != 1:
            raise ValueError(f"explain takes one query, got {len(vectors)}")
        hits, rows, live = self.search(vectors, k), len(self), self._rows.live
        if self._plan is not None and self._rows.count:
            return hits, self._ready(None).costs(vectors, k, rows, live)
        seconds = least_seconds(lambda: self._exact(vectors, k, self.width, live))
        read = self._rows.count * self.width * 2
        return hits, [StageCost("exact", self.width, rows, min(k, rows), seconds, read)]

    def set_plan(self, plan: SearchPlan | None) -> None:
        """Search in another way from now on; kept by the next :meth:`save`.

        Args:
            plan: None compares with every full vector. What the new plan needs is built here, from the vectors on
                disk.

        Raises:
            ValueError: a plan that does not fit the width, or another process that writes.
        """
        if plan is not None:
            check_plan(plan, self.width)
        self._folder.lock()
        if plan is None or self._plan is None or not plan.shares_shortlist(self._plan):
            self._shortlist.index = None
        self._plan = plan
        self._engines.clear()
        self._rows.keep_sizes(_smaller_sizes(plan, self.width))
        if plan is not None and self._rows.count:
            self._ready(None)

    def expect_many(self) -> None:
        """Do without a shortlist once rows come that are new; it is learned from all of them when it is needed."""
        self._many_to_come = True

    def save(self, folder: Path | str | None = None, *, build: bool = True) -> Path:
        """Keep the index as it is now, and return its folder; a process killed meanwhile leaves what was saved before.

        Args:
            folder: None is the folder of the index. Another one, new or empty, gets a copy without removed rows, and
                the index stays where it is.
            build: False leaves a shortlist that is not there to the next search or save.

        Raises:
            FileExistsError: another folder that has files.
            ValueError: another process writes.
            OSError: the disk is full; what was saved before is untouched.
        """
        if folder is not None and Path(folder).resolve() != self.path.resolve():
            return self._copy(Path(folder))
        self._folder.lock()
        if build and self._plan is not None and self._rows.count:
            self._shortlist.built(self._plan, self._rows)
        self._many_to_come &= not build
        self._keep(self._folder, self._rows, self._shortlist)
        return self.path

    def compact(self) -> None:
        """Leave removed rows out for good and join the files of texts to one; what was changed is saved with it.

        All is written anew beside what is there, so it takes as much room once more; a process killed meanwhile leaves
        what was saved before. Rows get other positions. Whoever has loaded the index goes on with what was there.

        Raises:
            ValueError: another process writes.
            OSError: the disk is full; what was saved before is untouched.
        """
        self.save(build=False)
        folder, rows, shortlist = self._folder, self._rows, self._shortlist
        if self.removed:
            mark = f"-{int(folder.manifest['generation']) + 1:06d}"
            folder = folder.emptied(vector_files(self.width, self._rows.sizes, mark))
            self._rows.copy_to(folder)
            rows, shortlist = Rows(folder), Shortlist(folder)
        if self._plan is not None and rows.count:
            shortlist.built(self._plan, rows)
        self._keep(folder, rows, shortlist, join=True)
        self._folder, self._rows, self._shortlist = folder, rows, shortlist
        self._engines.clear()

    def delete(self) -> None:
        """Delete the files of the index for good, and the folder where it has no others; ValueError as :meth:`add`."""
        self._engines.clear()
        self._folder.delete()

    def memory(self) -> dict[str, int]:
        """Bytes by what they are for.

        In memory: the parts of the shortlist (``codes``, ``graph``, ``cells``), ``ids`` once ids were looked up, and
        ``removed``. On disk: ``disk``, all files.
        """
        disk = sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())
        return {**self._shortlist.nbytes(), **self._rows.nbytes, "disk": disk}

    def ram(self) -> int:
        """Bytes that the shortlist takes in memory: all of the plan but what is read from disk."""
        return sum(self._shortlist.nbytes().values())

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

    def _ready(self, plan: SearchPlan | None) -> Engine:
        """The engine for the index's plan, or for another on the same shortlist; kept until the index changes."""
        wanted = plan or self._plan
        assert wanted is not None
        if wanted not in self._engines:
            wanted.check(self.width)
            if self._plan is None or not wanted.shares_shortlist(self._plan):
                there = f"a shortlist for {self._plan.label}" if self._plan else "no shortlist"
                raise ValueError(f"the index has {there}: call set_plan for {wanted.label}")
            shortlist = self._shortlist.built(self._plan, self._rows)
            self._engines[wanted] = Engine(wanted, self.width, shortlist, self._sizes(wanted))
        return self._engines[wanted]

    def _sizes(self, plan: SearchPlan) -> dict[int, np.ndarray]:
        sizes = [dim for dim, _ in plan.steps(self.width, 1)]
        if missing := [dim for dim in sizes if dim not in self._rows.files.values()]:
            raise ValueError(f"the index keeps no vectors of {missing[0]} numbers: call set_plan with that plan")
        return {dim: self._rows.mapped(dim) for dim in sizes}

    def _exact(
        self, queries: np.ndarray, k: int, dim: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        return exact_search(truncate(queries, dim), self._rows.blocks_to_compare(dim, allowed), k)

    def _hits(self, scores: np.ndarray, positions: np.ndarray) -> Hits:
        ids = np.full(positions.shape, None, dtype=object)
        found = positions >= 0
        ids[found] = self._rows.ids(positions[found])
        return Hits(ids, scores, positions)

    def _keep(self, folder: IndexFolder, rows: Rows, shortlist: Shortlist, *, join: bool = False) -> None:
        state = rows.write(join=join)
        state |= shortlist.write(state["files"])
        state |= {"facts": self.facts, "model": self.model, "plan": self._plan.to_json() if self._plan else None}
        folder.commit({**folder.manifest, **state}, list(state["vectors"]) if rows.count else [])
        rows.written()
        shortlist.written()

    def _copy(self, folder: Path) -> Path:
        with replaced_folder(folder, None, "index") as beside:
            copy = AdaptiveIndex.create(
                beside, width=self.width, plan=self._plan, model=self.model, facts=dict(self.facts)
            )
            self._rows.copy_to(copy._folder)
            copy._rows = Rows(copy._folder)
            copy.save()
            copy.close()
        return folder


def _smaller_sizes(plan: SearchPlan | None, width: int) -> list[int]:
    return [dim for dim, _ in plan.steps(width, 1) if dim < width] if plan is not None else []
