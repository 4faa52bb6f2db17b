"""Qdrant, a server, a cluster or embedded, as a store."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from qdrant_client.local.persistence import STORAGE_FILE_NAME

from mrl_text.files import check_writable
from mrl_text.search.checks import check_collection, check_queries, check_strings
from mrl_text.search.columns import ColumnType, as_type, merge_types
from mrl_text.search.filters import check_where, columns_of, selective
from mrl_text.search.hits import Found
from mrl_text.search.plan import SearchPlan
from mrl_text.search.qdrant import requests
from mrl_text.search.qdrant.calls import META, Address, Client
from mrl_text.search.qdrant.requests import ID, TEXT, models
from mrl_text.search.retry import closed_on_error
from mrl_text.search.settings import StoreSettings
from mrl_text.search.store import Document, Store, StoreUnavailableError, Where
from mrl_text.truncation import truncate

logger = logging.getLogger(__name__)

_FACTS = "mrl_text"  # our entry in the metadata of a collection, as JSON text: whole or not at all
_UPLOAD_BYTES = 4 << 20  # a server takes 32 MB; smaller ones lose less when one is sent again
_QUERIES = 64
_POINTS = 1000
_MOVED = 256
_POLL = 0.5
_LONGEST_BUILD = 6 * 3600.0


class QdrantStore(Store):
    """A collection with a named vector for each size that the plan uses.

    Made by :meth:`create`, found again by :meth:`open`. A search is one request: the shortlist and each step of the
    plan are nested ``prefetch`` stages. Rows have a UUID made from their id; adding one again replaces it, so an
    interrupted upload is repeated and not resumed by position. Needs Qdrant 1.16 (metadata of collections), and 1.18 to
    change to a plan with other sizes. The store closes its client.
    """

    reserved = (ID, TEXT)

    def __init__(self, url: str, client: Client, info: Any) -> None:
        self._address, self._call = client.address, client
        self._remote = client.address.folder is None
        super().__init__(url, self._learn(info))

    @classmethod
    def open(cls, url: str) -> QdrantStore:
        """The collection of a URL; errors as :func:`~mrl_text.search.open_store`.

        Raises:
            ValueError: besides, a collection that was not made here, or a folder open elsewhere.
        """
        address = Address.parse(url)
        if address.folder is not None:
            if not (address.folder / META).is_file():
                raise FileNotFoundError(f"no embedded Qdrant in {address.folder}: create the store first")
            rows = address.folder / "collection" / address.collection / STORAGE_FILE_NAME
            if rows.parent.is_dir() and not (rows.is_file() and rows.stat().st_size):  # the client would begin anew
                raise ValueError(f"{rows} is missing or empty: restore it, or fill another folder")
        client = Client(address)
        with closed_on_error(client):
            if not client("collection_exists"):
                raise FileNotFoundError(f"{address} has no collection {address.collection!r}: create the store first")
            return cls(url, client, client("get_collection"))

    @classmethod
    def check_place(cls, url: str) -> None:
        """A folder of the embedded mode must be one; the key of a server has to be good for more than reading."""
        address = Address.parse(url)
        if address.folder is not None:
            check_writable(address.folder, "choose another folder")
            return
        client = Client(address)
        with contextlib.closing(client):
            if client("collection_exists"):
                raise FileExistsError(f"{address} has a collection {address.collection!r} already: choose another name")
            with contextlib.suppress(FileNotFoundError, ValueError):  # it is not there, and would not be changed
                client("update_collection")

    @classmethod
    def check_columns(cls, names: Collection[str]) -> None:
        """No quotation marks."""
        super().check_columns(names)
        for name in names:
            requests.payload_key(name)

    @classmethod
    def check_plan(cls, plan: SearchPlan, width: int) -> None:
        """There are no cells, and no codes of other engines."""
        requests.vectors_config(plan, width)

    @classmethod
    def _make(cls, url: str, settings: StoreSettings) -> QdrantStore:
        """A new collection; ValueError, too, for a server too old to keep what a store must know of itself."""
        config = requests.vectors_config(settings.plan, settings.width)
        facts = json.dumps({"version": 1, **settings.to_json(), "columns": {}, "made": uuid.uuid4().hex})
        client = Client(address := Address.parse(url))
        with closed_on_error(client):
            if client("collection_exists"):
                raise FileExistsError(f"{address} has a collection {address.collection!r} already: open it")
            try:
                client("create_collection", vectors_config=config, on_disk_payload=True, metadata={_FACTS: facts})
            except FileExistsError:  # made by our first request, whose answer was lost, or by somebody else meanwhile
                if (client("get_collection").config.metadata or {}).get(_FACTS) != facts:
                    raise
            info = client("get_collection")
            if not info.config.metadata:
                client("delete_collection")
                raise ValueError(f"{address} does not keep metadata of a collection: update it to 1.16 or newer")
            return cls(url, client, info)

    def check_writable(self, columns: Collection[str]) -> None:
        """The key of a server has to be good for more than reading: no point is deleted."""
        super().check_writable(columns)
        if self._remote:
            with contextlib.suppress(FileNotFoundError, ValueError):
                self._call("delete", points_selector=models.PointIdsList(points=[]))

    def _add(
        self, ids: Sequence[str], vectors: np.ndarray, texts: Sequence[str | None] | None, own: dict[str, list[Any]]
    ) -> None:
        """A few megabytes at a time, each confirmed before the next is sent."""
        if self._remote:  # another writer may have changed the plan, and with it the vectors that a row needs
            self._refresh()
        self._learn_columns(own)
        own |= {name: as_type(own[name], type_) for name, type_ in self._columns.items() if name in own}
        names = list(requests.vectors_config(self.plan, self.width))
        for batch in requests.point_batches(ids, vectors, texts, own, names, _UPLOAD_BYTES):
            self._call("upsert", points=batch, wait=True)

    def flush(self) -> None:
        """Wait until a server has built its graphs and codes. The embedded mode has none and writes at once.

        Raises:
            StoreUnavailableError: it reports a failure, or is not done after six hours.
        """
        if not self._remote:
            return
        started = told = time.monotonic()
        quiet = 0  # a server may need a moment to see that there is something to build
        while quiet < 2:
            info = self._call("get_collection")
            now = time.monotonic()
            if info.status == models.CollectionStatus.RED or info.optimizer_status != models.OptimizersStatusOneOf.OK:
                raise StoreUnavailableError(f"{self._address} failed to build the index: {info.optimizer_status}")
            if info.status == models.CollectionStatus.GREY:  # it was restarted, and builds on when it is told to
                self._call("update_collection", optimizers_config=models.OptimizersConfigDiff())
            quiet = quiet + 1 if info.status == models.CollectionStatus.GREEN else 0
            if now - started > _LONGEST_BUILD:
                raise StoreUnavailableError(f"{self._address} still builds its index after {now - started:.0f} seconds")
            if now - told > 30:
                told = now
                done = f"{info.indexed_vectors_count or 0:,} vectors of {info.points_count or 0:,} rows"
                logger.info("%s is building its index: %s are in it", self._address, done)
            if quiet < 2:
                time.sleep(_POLL)

    def search(
        self, queries: np.ndarray, k: int = 10, *, where: Where | None = None, plan: SearchPlan | None = None
    ) -> Found:
        """The ``k`` best rows for each query, one request for each 64."""
        vectors = check_queries(queries, k, self.width)
        if plan is not None:
            return self._search(vectors, k, where, self._followed(plan))
        before = self.plan
        try:
            return self._search(vectors, k, where, before)
        except (ValueError, FileNotFoundError):  # the vectors of a plan that somebody has replaced are gone
            self._refresh()
            if self.plan == before:
                raise
            return self._search(vectors, k, where, self.plan)

    def exact(self, queries: np.ndarray, k: int = 10, *, where: Where | None = None) -> Found:
        """The ``k`` best rows by comparing with every full vector."""
        return self._search(check_queries(queries, k, self.width), k, where, None)

    def delete(self, ids: Collection[str]) -> int:
        """Take rows out."""
        check_collection(ids, "delete")
        there = 0
        for records in self._records(list(dict.fromkeys(ids)), payload=False):
            if points := [record.id for record in records]:
                self._call("delete", points_selector=models.PointIdsList(points=points), wait=True)
            there += len(points)
        return there

    def delete_where(self, where: Where) -> int:
        """Take out the rows that a filter lets through."""
        self._refresh()
        found = requests.condition_filter(selective(check_where(where, self._columns)), self._columns)
        there = int(self._call("count", count_filter=found, exact=True).count)
        self._call("delete", points_selector=models.FilterSelector(filter=found), wait=True)
        return there

    def rows(self, where: Where | None = None) -> Iterator[tuple[list[Document], np.ndarray]]:
        """Rows in the order of their points."""
        self._refresh()
        found = requests.condition_filter(check_where(where, self._columns), self._columns)
        full = requests.vector_name(self.width, self.width)
        for records in self._scrolled(found, with_payload=True, with_vectors=[full]):
            vectors = np.array([record.vector[full] for record in records], dtype=np.float32)
            yield [self._document(record) for record in records], vectors

    def column_types(self) -> dict[str, ColumnType]:
        """Types of the user's own columns by name."""
        self._refresh()
        return dict(self._columns)

    def count(self) -> int:
        """Rows that can be found."""
        return int(self._call("count", exact=True).count)

    def drop(self) -> None:
        """Delete the collection."""
        self._call("delete_collection")

    def documents(self, ids: Sequence[str]) -> list[Document | None]:
        """Rows by id."""
        check_strings(ids, len(ids), "ids")
        found: dict[str, Document] = {}
        for records in self._records(list(dict.fromkeys(ids)), payload=True):
            found |= {document.id: document for document in map(self._document, records)}
        return [found.get(id_) for id_ in ids]

    def set_plan(self, plan: SearchPlan | None) -> None:
        """Search in another way from now on.

        Sizes that the collection lacks are cut from its full vectors and added, and those that the new plan does not
        use are dropped once it holds; interrupted, the old plan goes on and the next call continues.

        Raises:
            ValueError: a plan that Qdrant cannot follow, or a server older than 1.18 that lacks a size.
            StoreUnavailableError: no answer.
        """
        wanted = requests.vectors_config(plan, self.width)
        there = self._refresh()
        for name, params in wanted.items():
            if name not in there:
                self._add_vector(name, params)
            self._fill(name)
        if self._remote:
            changes = {name: requests.config_change(params) for name, params in wanted.items()}
            self._call("update_collection", vectors_config=changes)
        self._keep({**self._facts, "plan": plan.to_json() if plan else None})
        for name in wanted:  # rows that others added meanwhile, by the plan before
            self._fill(name)
        for name in there - set(wanted):
            with contextlib.suppress(FileNotFoundError):  # older than 1.18: it stays, unused
                self._call("delete_vector_name", name)
        self._refresh()
        self.flush()

    def close(self) -> None:
        """Let go of the connection, or of the folder."""
        self._call.close()

    def _learn(self, info: Any) -> StoreSettings:
        """Take over what the collection says of itself."""
        what = f"{self._address} has a collection {self._address.collection!r}"
        try:
            self._facts: dict[str, Any] = json.loads(info.config.metadata[_FACTS])
            self._vectors = set(info.config.params.vectors)
            version = self._facts["version"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{what} that mrl-text did not make: choose another name") from None
        if version != 1:
            raise ValueError(f"{what} of version {version!r} of the layout: update mrl-text")
        self._columns: dict[str, ColumnType] = self._facts.get("columns", {})
        return StoreSettings.from_json(self._facts, f"what {self._address} knows of {self._address.collection!r}")

    def _refresh(self) -> set[str]:
        """Learn what others may have changed; returns the names of the vectors that are there."""
        self.settings = self._learn(self._call("get_collection"))
        return self._vectors

    def _keep(self, facts: dict[str, Any]) -> None:
        self._call("update_collection", metadata={_FACTS: json.dumps(facts)})

    def _learn_columns(self, own: Mapping[str, Sequence[Any]]) -> None:
        """Note columns that are new, with an index for each where there is a server, before rows have them."""
        self.check_columns(own)
        if merge_types(self._columns, own) == self._columns:
            return
        self._refresh()
        merged = merge_types(self._columns, own)
        for name in merged.keys() - self._columns.keys() if self._remote else ():
            index = requests.payload_key(name), requests.INDEX_TYPES[merged[name]]
            self._call("create_payload_index", *index, wait=True)
        self._keep({**self._facts, "columns": merged})
        self._refresh()

    def _followed(self, plan: SearchPlan) -> SearchPlan:
        """This plan, if the collection has what it needs."""
        missing = requests.vectors_config(plan, self.width).keys() - self._vectors
        scan = plan.kind == "flat" and plan.precision in ("float32", "float16")
        if missing or not (scan or (self.plan is not None and plan.shares_shortlist(self.plan))):
            label = self.plan.label if self.plan else "comparing with every full vector"
            raise ValueError(f"the store is built for {label}: call set_plan for {plan.label}")
        return plan

    def _search(self, vectors: np.ndarray, k: int, where: Where | None, plan: SearchPlan | None) -> Found:
        """By a plan, or by comparing with every full vector; and so where a graph led to fewer rows under a filter."""
        if not columns_of(where) <= self._columns.keys():
            self._refresh()
        condition = requests.condition_filter(check_where(where, self._columns), self._columns)
        found = self._asked(vectors, k, condition, plan)
        few = np.flatnonzero([one is None for one in found.ids[:, -1]])
        if self._remote and condition is not None and plan is not None and plan.kind == "hnsw" and len(few):
            rest = self._asked(vectors[few], k, condition, replace(plan, kind="flat"))
            found.ids[few], found.scores[few] = rest.ids, rest.scores
        return found

    def _asked(self, vectors: np.ndarray, k: int, condition: Any, plan: SearchPlan | None) -> Found:
        found = Found.nothing(len(vectors), k)
        for first in range(0, len(vectors), _QUERIES):
            some = [
                requests.search_request(one, k, plan, condition, parameters=self._remote)
                for one in vectors[first : first + _QUERIES]
            ]
            answers = self._call("query_batch_points", requests=some)
            for row, answer in enumerate(answers, first):
                for place, point in enumerate(answer.points):
                    found.ids[row, place], found.scores[row, place] = point.payload[ID], point.score
        return found

    def _document(self, record: Any) -> Document:
        payload = dict(record.payload)
        id_, text = payload.pop(ID), payload.pop(TEXT, None)
        return Document(id_, text, {**dict.fromkeys(self._columns), **payload})

    def _scrolled(self, condition: Any, **wanted: Any) -> Iterator[list[Any]]:
        """Points that meet a condition, all for None, in lists."""
        offset: Any = None
        while True:
            records, offset = self._call("scroll", scroll_filter=condition, limit=_MOVED, offset=offset, **wanted)
            if records:
                yield records
            if offset is None:
                return

    def _records(self, ids: Sequence[str], *, payload: bool) -> Any:
        """Points of rows that are there, in lists."""
        for first in range(0, len(ids), _POINTS):
            points = [requests.point_id(id_) for id_ in ids[first : first + _POINTS]]
            yield self._call("retrieve", points, with_payload=payload)

    def _add_vector(self, name: str, params: Any) -> None:
        datatype = models.VectorStorageDatatype(params.datatype.value)
        dense = models.DenseVectorConfig(size=params.size, distance=params.distance, datatype=datatype)
        try:
            self._call("create_vector_name", name, models.DenseVectorNameConfig(dense=dense))
        except FileNotFoundError:
            raise ValueError(
                f"{self._address} is older than 1.18 and cannot add a size to a collection: make a new store with that"
                " plan, and push to it"
            ) from None
        if self._remote:  # before rows have it, so that it is built once
            self._call("update_collection", vectors_config={name: requests.config_change(params)})

    def _fill(self, name: str) -> None:
        """Cut the vectors of a size from the full ones, for all rows that lack them."""
        dim, full = requests.vector_dim(name), requests.vector_name(self.width, self.width)
        if name == full:
            return
        lacking = models.Filter(must_not=[models.HasVectorCondition(has_vector=name)])
        for records in self._scrolled(lacking, with_payload=False, with_vectors=[full]):
            cut = truncate(np.array([record.vector[full] for record in records], dtype=np.float32), dim)
            points = [
                models.PointVectors(id=record.id, vector={name: numbers})
                for record, numbers in zip(records, requests.numbers(cut), strict=True)
            ]
            self._call("update_vectors", points=points, wait=True)
