"""Vectors that exist already, of any model or provider: evaluated as those of a model are, without a model."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrl_text.encoding.folder import read_embeddings
from mrl_text.models import ModelSource
from mrl_text.tables import Problems, open_table
from mrl_text.tables.beir import QUERY_IDS, one_of, read_judgements
from mrl_text.tables.corpus import ID_COLUMNS
from mrl_text.truncation import usable

from .own_data import OwnData, task_name

if TYPE_CHECKING:
    from mrl_text.embedding_cache import EmbeddingCache

logger = logging.getLogger(__name__)

_BLOCK = 50_000  # vectors looked at together: a file may be larger than memory


@dataclass(frozen=True)
class VectorSource(ModelSource):
    """In the place of a model: vectors by their rows."""

    documents: np.ndarray = field(kw_only=True, repr=False, compare=False)
    """Float (n, width)."""
    queries: np.ndarray = field(kw_only=True, repr=False, compare=False)
    """Float (q, width)."""

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return int(self.documents.shape[1])

    @cached_property
    def revision(self) -> str:
        """First 16 hex digits of the hash of all numbers."""
        digest = hashlib.blake2b(digest_size=8)
        for vectors in (self.documents, self.queries):
            digest.update(f"{vectors.dtype} {vectors.shape}\0".encode())
            for start in range(0, len(vectors), _BLOCK):
                digest.update(np.ascontiguousarray(vectors[start : start + _BLOCK]).data)
        return digest.hexdigest()

    def cache(self) -> EmbeddingCache:
        """What the evaluation asks for vectors; a text is the number of a row."""
        from .vector_rows import VectorRows  # torch comes with it, which nobody waits for to hear of a wrong id

        return VectorRows(self.documents, self.queries)


@dataclass(frozen=True, eq=False)
class VectorTask(OwnData):
    """Who answers whom among vectors. Two providers' vectors of the same documents are two models on one task."""

    @cached_property
    def revision(self) -> str:
        """Hash of the ids of all documents and of the judgements."""
        documents = sorted(self.tables["corpus"]["id"])
        judged = sorted((query, sorted(grades.items())) for query, grades in self.relevant.items())
        return hashlib.sha256(repr((documents, judged)).encode()).hexdigest()[:16]


def read_vector_task(
    documents: str | Path, queries: str | Path, judgements: str | Path
) -> tuple[VectorSource, VectorTask]:
    """Read vectors of documents and queries, and which documents answer which query; all of it is checked here.

    Args:
        documents: ``.npy`` (n, width), Parquet or Arrow with one column of float lists, or a folder of ``mrl-text
            encode``. Ids are those of the folder or of the first of :data:`~mrl_text.tables.corpus.ID_COLUMNS`; of
            ``.npy``, and without such a column, the numbers of the rows from 0.
        queries: the same of queries, in the same width.
        judgements: a table of ``query-id``, ``corpus-id`` and ``score``, as in BEIR.

    Returns:
        What stands in the place of a model, named after the file of documents; and the task, named after that of
        judgements, of the queries that have one.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: one cannot be read, vectors that are not float, of another width, zero or not finite, or judgements
            about ids that are not there.
    """
    open_table(judgements)
    places, ids, rows, numbered = [], [], [], []
    for file, known in ((documents, ID_COLUMNS), (queries, QUERY_IDS)):
        vectors, named = read_embeddings(file, known)
        places.append(Path(file).expanduser().absolute())
        ids.append(named if named is not None else list(map(str, range(len(vectors)))))
        rows.append(_checked(vectors, places[-1]))
        numbered.append(named is None)
        if numbered[-1]:
            logger.info("%s has no column of ids: they are the numbers of the rows, from 0", places[-1])
    if (width := rows[0].shape[1]) != rows[1].shape[1]:
        raise ValueError(
            f"{places[0]} has vectors of {width} numbers, {places[1]} of {rows[1].shape[1]}: give one model's"
        )
    place = Path(judgements).expanduser().absolute()
    unnamed = [file.name for file, by_number in zip(places, numbered, strict=True) if by_number]
    advice = f"rows of {' and '.join(unnamed)} are numbered from 0: give ids in a column _id of Parquet"
    asked, among = (one_of(set(known), file.name) for known, file in zip(reversed(ids), reversed(places), strict=True))
    relevant = read_judgements(place, Problems(place, advice if unnamed else ""), queries=asked, documents=among)
    judged = {name for documents in relevant.values() for name in documents}, set(relevant)
    for file, count, by_number, found in zip(places, map(len, rows), numbered, judged, strict=True):
        if by_number and "0" not in found and str(count - 1) in found:
            logger.warning("%s: no judgement names row 0 of %s: are its rows numbered from 1 there?", place, file)
    tables = {
        "corpus": {"id": ids[0], "title": [""] * len(ids[0]), "text": list(map(str, range(len(ids[0]))))},
        "queries": {
            "id": [name for name in ids[1] if name in relevant],
            "text": [str(row) for row, name in enumerate(ids[1]) if name in relevant],
        },
    }
    if unjudged := len(ids[1]) - len(tables["queries"]["id"]):
        logger.info("%s: %d of %d queries have no judgement and are left out", places[1], unjudged, len(ids[1]))
    name = f"local/{task_name(places[0].with_suffix(''))}"
    source = VectorSource(str(places[0]), name, True, documents=rows[0], queries=rows[1])
    return source, VectorTask(place, {"qrels": place}, "Retrieval", tables, relevant)


def _checked(vectors: np.ndarray, place: Path) -> np.ndarray:
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.size:
        found = f"{vectors.dtype} of shape {vectors.shape}"
        raise ValueError(f"{place} holds {found}: give float vectors as the model made them, a row a text")
    for start in range(0, len(vectors), _BLOCK):
        bad = ~usable(vectors[start : start + _BLOCK].astype(np.float32, copy=False))
        if bad.any():
            row = start + int(bad.argmax())
            raise ValueError(f"{place}: the vector at position {row} is zero or not finite: encode that text again")
    return vectors
