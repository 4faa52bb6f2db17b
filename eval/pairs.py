"""Paired intervals of all differences between cells, packed so that a page holds thousands of them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .statistics import Estimate, tail

STEP = 1e-4
"""Resolution of a bound: 0.01 points, the last digit that is shown."""


@dataclass(frozen=True)
class Pairs:
    """Cells that were measured on the same items, and the interval of each difference between two of them.

    Attributes:
        cells: names of the cells, n of them.
        bounds: (n (n - 1) / 2, 2) lower and upper bounds of the score of the first minus that of the second, in units
            of :data:`STEP`: 0 - 1, 0 - 2, ..., 1 - 2, ...
        n: units behind them (queries, pairs, experiments).
    """

    cells: list[str]
    bounds: npt.NDArray[np.int16]
    n: int

    def packed(self) -> dict[str, Any]:
        """For JSON: the bounds as little-endian 16-bit numbers in base64."""
        return {
            "cells": self.cells,
            "n": self.n,
            "bounds": base64.b64encode(self.bounds.astype("<i2").tobytes()).decode(),
        }


def paired(estimates: Mapping[str, Estimate]) -> list[Pairs]:
    """All paired differences; cells of the same draws are one group, and a cell without replicates is in none.

    ``estimates`` is name -> estimate on one set of tasks. The bounds are those of
    :meth:`~mrl_text.eval.statistics.Estimate.interval` of a difference.
    """
    groups: dict[frozenset[str], dict[str, Estimate]] = {}
    for name, estimate in estimates.items():
        if estimate.replicates is not None and estimate.draws:
            groups.setdefault(estimate.draws, {})[name] = estimate
    return [_group(group) for group in groups.values() if len(group) > 1]


def _group(group: Mapping[str, Estimate]) -> Pairs:
    replicates = np.stack([one.replicates for one in group.values() if one.replicates is not None])
    freedom = np.array([max(one.dof, 1) for one in group.values()])
    rows = [np.empty((0, 2))]
    for place in range(len(group) - 1):
        differences = replicates[place] - replicates[place + 1 :]
        smallest = np.minimum(freedom[place], freedom[place + 1 :])
        bounds = np.empty((len(differences), 2))
        for dof in np.unique(smallest):
            chosen, share = smallest == dof, tail(float(dof))
            bounds[chosen] = np.quantile(differences[chosen], (share, 1 - share), axis=1).T
        rows.append(bounds)
    whole = np.rint(np.concatenate(rows) / STEP).astype(np.int16)
    return Pairs(list(group), whole, min(one.n for one in group.values()))
