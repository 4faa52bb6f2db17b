"""Which rows form a batch: batch samplers for ``SentenceTransformerTrainer``.

All of them start from an order of the rows that the seed and the epoch alone decide, so that a resumed run sees the
batches the interrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler, MultiDatasetDefaultBatchSampler

from mrl_text.files import cache_dir, write_atomically
from mrl_text.neighbours import neighbour_batches, neighbour_groups
from mrl_text.training.texts import LABEL, row_hashes, text_columns

logger = logging.getLogger(__name__)

Batches = Literal["no_duplicates", "neighbours", "by_length"]


class NoDuplicatesBatchSampler(DefaultBatchSampler):
    """Every row once per epoch, in random order, no text twice in a batch.

    A row with a text that its batch already has, in whatever column (case and spacing ignored), waits for the next
    batch that has not. sentence-transformers' class of this name keeps the same promise but reads every row anew in
    every epoch; here 8 bytes per text are kept instead. Rows that fit nowhere else come last, in smaller batches.
    """

    seed: int

    def __init__(self, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        self.dataset, self.seed = dataset, int(self.seed or 0)
        self._hashes: np.ndarray | None = None

    def __iter__(self) -> Iterator[list[int]]:
        """One epoch: positions of each batch's rows.

        Where texts repeat so often that a pass leaves too few full batches, another pass fills up to ``len``: the
        Trainer's schedule, and the place where a resumed run goes on, count on it.
        """
        random = np.random.default_rng((self.seed, self.epoch))
        batches = list(self._pass(random))
        yield from batches
        missing = len(self) - len(batches)
        while batches and missing > 0:
            batches = list(self._pass(random))[:missing]
            yield from batches
            missing -= len(batches)

    def __len__(self) -> int:
        """Batches in an epoch; more come only where texts repeat and ``drop_last`` is off."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return int(full + (rest > 0 and not self.drop_last))

    def _pass(self, random: np.random.Generator) -> Iterator[list[int]]:
        for batch in self._arranged(self._cut(self._order(random)), random):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def _order(self, random: np.random.Generator) -> np.ndarray:
        return random.permutation(len(self.dataset))

    def _arranged(self, batches: Iterable[list[int]], random: np.random.Generator) -> Iterable[list[int]]:
        return batches

    def _cut(self, order: np.ndarray) -> Iterator[list[int]]:
        if self._hashes is None:
            self._hashes = row_hashes(self.dataset)
        texts: list[list[int]] = self._hashes.tolist()
        upcoming = iter(order.tolist())
        waiting: list[int] = []
        while True:
            batch: list[int] = []
            seen: set[int] = set()
            passed: list[int] = []
            first = iter(waiting)
            for row in chain(first, upcoming):
                if not seen.isdisjoint(texts[row]):
                    passed.append(row)
                    continue
                batch.append(row)
                seen.update(texts[row])
                if len(batch) == self.batch_size:
                    break
            if not batch:
                return
            waiting = [*passed, *first]
            yield batch


class LengthBatchSampler(NoDuplicatesBatchSampler):
    """Batches of rows of similar length, in random order: less padding, which is most of the work on a GPU.

    The shuffled rows are sorted by length (characters of all columns) inside stretches of 64 batches, so that an
    epoch still mixes. Otherwise as :class:`NoDuplicatesBatchSampler`.
    """

    def __init__(self, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        self._lengths: np.ndarray | None = None

    def _order(self, random: np.random.Generator) -> np.ndarray:
        if self._lengths is None:
            self._lengths = _lengths(self.dataset)
        lengths = self._lengths
        shuffled = random.permutation(len(lengths))
        stretch = 64 * self.batch_size
        stretches = (shuffled[start : start + stretch] for start in range(0, len(shuffled), stretch))
        return np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in stretches])

    def _arranged(self, batches: Iterable[list[int]], random: np.random.Generator) -> Iterable[list[int]]:
        found = list(batches)
        full = [batch for batch in found if len(batch) == self.batch_size]
        smaller = [batch for batch in found if len(batch) < self.batch_size]
        return [*(full[index] for index in random.permutation(len(full))), *smaller]


class NeighbourBatchSampler(NoDuplicatesBatchSampler):
    """Batches of rows whose first texts are near each other (:mod:`mrl_text.neighbours`).

    Groups come from the teacher's vectors of the first column in the data's ``label``, as
    :func:`mrl_text.training.teacher.add_teacher` makes it. They are found once and kept under the cache directory,
    so that a resumed run has the same ones. Otherwise as :class:`NoDuplicatesBatchSampler`.

    Raises:
        ValueError: the data has no such label.
    """

    def __init__(self, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        if LABEL not in dataset.column_names:
            raise ValueError("data.batches: neighbours needs a teacher's vectors in the data: see add_teacher")
        self._groups: np.ndarray | None = None

    def _order(self, random: np.random.Generator) -> np.ndarray:
        if self._groups is None:
            self._groups = _cached_groups(_first_vectors(self.dataset), self.seed)
        return np.concatenate(list(neighbour_batches(self._groups, self.batch_size, random)))


class WeightedBatchSampler(MultiDatasetDefaultBatchSampler):
    """Mixes the batches of several data sets in given shares.

    An epoch has as many batches as the data sets together. A data set whose share is larger than its number of
    batches starts over, in another order; one whose share is smaller shows other rows in the next epoch.

    Raises:
        ValueError: not one positive weight per data set.
    """

    seed: int

    def __init__(self, *args: Any, weights: Sequence[float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seed = int(self.seed or 0)
        if len(weights) != len(self.batch_samplers) or min(weights) <= 0:
            expected = f"{len(self.batch_samplers)} positive weights, one per source"
            raise ValueError(f"expected {expected}, got {list(weights)}")
        self.counts = _shares(weights, len(self))

    def __iter__(self) -> Iterator[list[int]]:
        """One epoch: positions in the concatenated data."""
        random = np.random.default_rng((self.seed, self.epoch))
        offsets = [0, *accumulate(len(part) for part in self.dataset.datasets)]
        streams = [self._repeated(number) for number in range(len(self.counts))]
        for number in random.permutation(np.repeat(np.arange(len(self.counts)), self.counts)):
            batch = next(streams[number], None)
            if batch is not None:
                yield [row + offsets[number] for row in batch]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(len(sampler) for sampler in self.batch_samplers)

    def _repeated(self, number: int) -> Iterator[list[int]]:
        """Batches of one data set, pass after pass; each pass of each epoch has an order of its own."""
        sampler = self.batch_samplers[number]
        passes = max(1, -(-self.counts[number] // max(1, len(sampler))))
        first = self.epoch * passes
        while True:
            sampler.set_epoch(first)
            first += 1
            empty = True
            for batch in sampler:
                empty = False
                yield batch
            if empty:
                return


SAMPLERS: dict[Batches, type[NoDuplicatesBatchSampler]] = {
    "no_duplicates": NoDuplicatesBatchSampler,
    "neighbours": NeighbourBatchSampler,
    "by_length": LengthBatchSampler,
}
"""What ``data.batches`` may say -> what ``training.batch_sampler`` takes."""


def _lengths(data: Dataset) -> np.ndarray:
    plain = data.with_format(None)
    return np.asarray(
        np.sum([np.fromiter(map(len, plain[name][:]), dtype=np.int64) for name in text_columns(data)], axis=0)
    )


def _shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to ``total``, as close to the weights' shares as can be (largest remainders)."""
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * total
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    return [int(count) for count in counts]


def _first_vectors(data: Dataset) -> np.ndarray:
    """A teacher's vectors of the first column, float32 (n, width), read piece by piece: the label may be wide."""
    labels = data.with_format("numpy", columns=[LABEL])
    pieces = (np.asarray(labels[start : start + 8192][LABEL]) for start in range(0, len(labels), 8192))
    columns = len(text_columns(data))
    return np.concatenate([piece[:, : piece.shape[1] // columns].astype(np.float32) for piece in pieces])


def _cached_groups(vectors: np.ndarray, seed: int) -> np.ndarray:
    digest = hashlib.blake2b(np.ascontiguousarray(vectors).data, digest_size=16, key=f"groups {seed}".encode())
    file: Path = cache_dir() / "neighbours" / f"{digest.hexdigest()}.npy"
    if file.is_file():
        return np.asarray(np.load(file))
    logger.info("grouping %d texts by their nearness", len(vectors))
    groups = neighbour_groups(vectors, seed=seed)
    stream = io.BytesIO()
    np.save(stream, groups)
    write_atomically(file, stream.getvalue())
    return groups
