"""Rows dealt to batches in a given order, no text twice in a batch, and every row in as few batches as can be."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import NamedTuple

import numpy as np


class Repeats(NamedTuple):
    """The texts that several rows have, numbered."""

    of_row: dict[int, list[int]]
    """Row -> its repeating texts; rows without any are not in it."""
    counts: list[int]
    """Text -> rows that have it."""
    in_column: list[np.ndarray]
    """For each column, rows by distinct text: how often each of them comes there."""


def find_repeats(hashes: np.ndarray) -> Repeats:
    """Of the hashes of all texts, (rows, columns)."""
    _, numbers = np.unique(hashes, return_inverse=True)
    ordered = np.sort(numbers.reshape(hashes.shape), axis=1)
    fresh = np.ones(hashes.shape, dtype=bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]  # a row may have a text in two columns
    rows, texts = np.nonzero(fresh)[0], ordered[fresh]
    counts = np.bincount(texts)
    repeating = counts[texts] > 1
    names, texts = np.unique(texts[repeating], return_inverse=True)
    of_row: dict[int, list[int]] = {}
    for row, text in zip(rows[repeating].tolist(), texts.tolist(), strict=True):
        of_row.setdefault(row, []).append(text)
    in_column = [np.unique(column, return_counts=True)[1] for column in hashes.T]
    return Repeats(of_row, counts[names].tolist(), in_column)


class Deal:
    """Deals rows to batches in a given order, no text twice in a batch."""

    def __init__(self, order: Sequence[int], repeats: Repeats) -> None:
        self.rows_left = len(order)
        self._texts = repeats.of_row
        self._left = list(repeats.counts)  # text -> rows of it that are not dealt
        self._rows_of: dict[int, deque[int]] = {text: deque() for text in range(len(self._left))}
        for row in order if self._texts else ():
            for text in self._texts.get(row, ()):
                self._rows_of[text].append(row)
        self._most = [(-count, text) for text, count in enumerate(self._left)]
        heapify(self._most)
        self._dealt = bytearray(len(order))
        self._upcoming = iter(order)
        self._waiting: list[int] = []

    def batch(self, size: int, batches: int) -> list[int]:
        """The next batch, of up to ``size`` rows, while so many batches are left, this one among them."""
        batch: list[int] = []
        seen: set[int] = set()
        self._deal_due(batch, seen, size, batches)
        first, passed = iter(self._waiting), []
        rows = chain(first, self._upcoming)
        while len(batch) < size and (row := next(rows, None)) is not None:
            if not self._deal(row, batch, seen) and not self._dealt[row]:
                passed.append(row)
        self._waiting = [*passed, *first]
        return batch

    def fit_in(self, batches: list[list[int]], size: int) -> int:
        """Put rows that are left into batches of fewer than ``size``; returns for how many there is no place."""
        rows = [row for row in chain(self._waiting, self._upcoming) if not self._dealt[row]]
        seen = [{text for row in batch for text in self._texts.get(row, ())} for batch in batches] if rows else []
        return sum(
            not any(
                len(batch) < size and self._deal(row, batch, have) for batch, have in zip(batches, seen, strict=True)
            )
            for row in rows
        )

    def _deal_due(self, batch: list[int], seen: set[int], size: int, batches: int) -> None:
        """Deal a row of each text that has to be in every batch from here on."""
        looked_at = []
        while self._most and -self._most[0][0] >= batches and len(batch) < size:
            _, text = heappop(self._most)  # the count may be an older one
            rows = self._rows_of[text]
            while rows and self._dealt[rows[0]]:
                rows.popleft()
            if self._left[text] >= batches:
                any(self._deal(row, batch, seen) for row in rows)
            looked_at.append(text)
        for text in looked_at:
            heappush(self._most, (-self._left[text], text))

    def _deal(self, row: int, batch: list[int], seen: set[int]) -> bool:
        """Put a row into a batch; False where it is dealt already or has a text of the batch."""
        texts = self._texts.get(row, ())
        if self._dealt[row] or not seen.isdisjoint(texts):
            return False
        batch.append(row)
        seen.update(texts)
        self._dealt[row] = True
        self.rows_left -= 1
        for text in texts:
            self._left[text] -= 1
        return True
