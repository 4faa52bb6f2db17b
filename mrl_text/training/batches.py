"""Which rows form a batch: batch samplers for ``SentenceTransformerTrainer``.

All of them start from an order of the rows that the seed and the epoch alone decide, so that a resumed run sees the
batches the interrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import io
import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler, MultiDatasetDefaultBatchSampler
from sentence_transformers.util import get_world_size

from mrl_text.files import cache_dir, write_atomically
from mrl_text.neighbours import neighbour_batches, neighbour_groups
from mrl_text.training.columns import LABEL
from mrl_text.training.dealing import Deal, Repeats, find_repeats
from mrl_text.training.texts import row_hashes, text_columns

logger = logging.getLogger(__name__)

Batches = Literal["no_duplicates", "neighbours", "by_length"]


class NoDuplicatesBatchSampler(DefaultBatchSampler):
    """Every row once per epoch, in random order, no text twice in a batch.

    A row with a text that its batch already has, in whatever column (case and spacing ignored), waits for the next
    batch that has not. sentence-transformers' class of this name keeps the same promise but skips rows where texts
    repeat often. Here an epoch has at least as many batches as the most frequent text has rows, all of about the same
    size, and such texts are spread over them: 1,000 rows with 20 answers make 50 batches of 20. With ``drop_last``
    an epoch has as many full batches as can be made without a text twice; the rows beyond wait for the next epoch.
    """

    seed: int

    def __init__(self, dataset: Dataset, *args: Any, repeats: bool = False, **kwargs: Any) -> None:
        """As the parent; with ``repeats`` a batch may have a text twice."""
        super().__init__(dataset, *args, **kwargs)
        self.dataset, self.seed, self.repeats = dataset, int(self.seed or 0), repeats

    def __iter__(self) -> Iterator[list[int]]:
        """One epoch: positions of each batch's rows, in exactly ``len`` batches.

        The Trainer's schedule, and the place where a resumed run goes on, count on ``len``. Where rows share texts in
        several columns at once, not every order can be cut so: with ``drop_last`` another pass fills up.
        """
        random = np.random.default_rng((self.seed, self.epoch))
        batches = self._pass(random)
        yield from batches
        missing = len(self) - len(batches)
        while batches and missing > 0:
            batches = self._pass(random)[:missing]
            yield from batches
            missing -= len(batches)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._batches

    @property
    def largest(self) -> int:
        """Rows of the largest batch; 0 where none can be made."""
        rows, batches = len(self.dataset), self._batches
        return min(rows, self._size(rows, batches)) if batches else 0

    @property
    def is_tight(self) -> bool:
        """Whether a text is in so many rows that batches are smaller than asked."""
        return not self.drop_last and 1 < self.most_frequent == self._batches

    @property
    def most_frequent(self) -> int:
        """Rows that share the most frequent text."""
        return max(self._repeats.counts, default=1)

    @property
    def distinct(self) -> int:
        """Different texts in the column that has the fewest."""
        return min(map(len, self._repeats.in_column), default=0)

    @cached_property
    def _batches(self) -> int:
        rows, size = len(self.dataset), self.batch_size
        if not self.drop_last:
            return max(-(-rows // size), self.most_frequent) if rows else 0

        def enough(batches: int) -> bool:  # texts for that many full batches, each text at most once in a batch
            return all(np.minimum(counts, batches).sum() >= batches * size for counts in self._repeats.in_column)

        return bisect_left(range(1, rows // size + 1), True, key=lambda batches: not enough(batches))

    @cached_property
    def _repeats(self) -> Repeats:
        return find_repeats(np.arange(len(self.dataset))[:, None] if self.repeats else row_hashes(self.dataset))

    def _pass(self, random: np.random.Generator) -> list[list[int]]:
        return self._arranged(self._cut(self._order(random).tolist()), random)

    def _order(self, random: np.random.Generator) -> np.ndarray:
        return random.permutation(len(self.dataset))

    def _arranged(self, batches: list[list[int]], random: np.random.Generator) -> list[list[int]]:
        return batches

    def _cut(self, order: list[int]) -> list[list[int]]:
        deal = Deal(order, self._repeats)
        batches = [deal.batch(self._size(deal.rows_left, left), left) for left in range(self._batches, 0, -1)]
        if self.drop_last:
            return [batch for batch in batches if len(batch) == self.batch_size]
        if left_out := deal.fit_in(batches, self.batch_size):
            logger.warning(
                "%d of %d rows fit into no batch without a text twice and are left out of epoch %d",
                *(left_out, len(order), self.epoch + 1),
            )
        return batches

    def _size(self, rows: int, batches: int) -> int:
        """Rows of the next batch, where that many rows and batches are left."""
        # accelerate takes batches of unequal size for the last one, where it deals them to several processes
        even = self.is_tight or (batches <= 2 and not self.drop_last and get_world_size() == 1)
        return int(min(self.batch_size, -(-rows // batches)) if even else self.batch_size)


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

    def _arranged(self, batches: list[list[int]], random: np.random.Generator) -> list[list[int]]:
        shuffled = [batches[index] for index in random.permutation(len(batches))]
        return shuffled if self.is_tight else sorted(shuffled, key=len, reverse=True)  # smaller ones last


class NeighbourBatchSampler(NoDuplicatesBatchSampler):
    """Batches of rows whose first texts are near each other (:mod:`mrl_text.neighbours`).

    Groups come from a frozen model's vectors of the first column, as :func:`mrl_text.training.teacher.add_teacher`
    adds them: the teacher's where there is one, else the base's, else those in ``label``. They are found once and kept
    under the cache directory, so that a resumed run has the same ones. Otherwise as :class:`NoDuplicatesBatchSampler`.

    Raises:
        ValueError: the data has no vectors.
    """

    def __init__(self, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        self._vectors = next((one for one in ("teacher", "base", LABEL) if one in dataset.column_names), None)
        if self._vectors is None:
            raise ValueError("data.batches: neighbours needs a teacher's vectors in the data: see add_teacher")
        self._groups: np.ndarray | None = None

    def _order(self, random: np.random.Generator) -> np.ndarray:
        if self._groups is None:
            self._groups = _cached_groups(_first_vectors(self.dataset, str(self._vectors)), self.seed)
        return np.concatenate(list(neighbour_batches(self._groups, max(self.largest, 1), random)))


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
        there = [weight if len(part) else 0.0 for weight, part in zip(weights, self.batch_samplers, strict=True)]
        self.counts = _shares(there, len(self)) if any(there) else [0] * len(there)

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


def rows_used(sampler: Any, steps: int, batches_per_step: int) -> int:
    """How many different rows the first ``steps`` steps of training see, of each epoch's batches as they come."""
    seen: set[int] = set()
    per_epoch = max(1, -(-len(sampler) // batches_per_step))
    for epoch in range(-(-steps // per_epoch)):
        sampler.set_epoch(epoch)
        before = len(seen)
        for batch in islice(sampler, (steps - epoch * per_epoch) * batches_per_step):
            seen.update(batch)
        if len(seen) == before:  # all there are
            break
    return len(seen)


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


def _first_vectors(data: Dataset, name: str) -> np.ndarray:
    """A frozen model's vectors of the first column, float32 (n, width), read piece by piece: they may be many."""
    table = data.with_format("numpy", columns=[name])
    pieces = (np.asarray(table[start : start + 8192][name]) for start in range(0, len(table), 8192))
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
