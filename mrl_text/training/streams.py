"""Training data that is read while training: for what does not fit on the disk or in memory."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import IterableDataset, interleave_datasets

from mrl_text.training.columns import PAIRS, Needs
from mrl_text.training.data import features_of, open_dataset, target_columns, unreadable
from mrl_text.training.recipe import SourceConfig
from mrl_text.training.texts import text_hash

logger = logging.getLogger(__name__)

_SHUFFLE_BUFFER = 10_000


def stream_sources(
    sources: Sequence[SourceConfig],
    needs: Needs = PAIRS,
    *,
    seed: int,
    deduplicate: bool = True,
    evaluation: np.ndarray | None = None,
) -> IterableDataset:
    """One endless stream of all sources, row by row at random by their weights.

    Each source is shuffled in a window of 10,000 rows. One that ends starts over in another order. Sources without
    weights have the same share each, as nobody knows how long they are. As the stream has no end, and so no epochs,
    a resumed run finds its place by the number of rows alone.

    Args:
        needs: what the loss needs.
        deduplicate: remember the rows of each source (about 100 bytes a row) and leave out those that come again
            before the source starts over.
        evaluation: hashes of evaluation texts (:func:`mrl_text.training.leaks.evaluation_hashes`); rows with one of
            them are left out. None leaves all in.

    Raises:
        FileNotFoundError, ValueError: as for :func:`mrl_text.training.data.load_source`, or sources with other columns
            than the first.
    """
    parts = [_stream(source, needs, seed, deduplicate, evaluation) for source in sources]
    columns = [", ".join(part.column_names) for part in parts]
    if len(set(columns)) > 1:
        raise ValueError(f"data.stream: all sources need the same columns, and they have {'; '.join(columns)}")
    if len(parts) == 1:
        return parts[0]
    weights = np.array([source.weight or 1.0 for source in sources])
    return interleave_datasets(parts, probabilities=(weights / weights.sum()).tolist(), seed=seed)


def _stream(
    source: SourceConfig, needs: Needs, seed: int, deduplicate: bool, evaluation: np.ndarray | None
) -> IterableDataset:
    raw = open_dataset(source, needs, streaming=True)
    if source.limit is not None:
        raw = raw.take(source.limit)
    try:
        first = next(iter(raw), None)
    except Exception as error:  # the readers raise many types; nothing has been read before
        raise unreadable(source.source, error) from error
    if first is None:
        raise ValueError(f"{source.source} has no row")
    names = target_columns(source, list(first), needs)
    for name in needs.split(list(names))[0]:
        if not isinstance(first[name], str | None):
            raise ValueError(f"{source.source}: column {name!r} holds {type(first[name]).__name__}, not text")
    features = features_of({name: name for name in names.values()}, needs)
    options = {"raw": raw, "names": names, "needs": needs, "label": source.label, "seed": seed}
    options["deduplicate"] = deduplicate
    options["forbidden"] = frozenset(evaluation.tolist() if evaluation is not None else ())
    return IterableDataset.from_generator(_rows, features=features, gen_kwargs=options)


def _rows(
    raw: IterableDataset,
    names: Mapping[str, str],
    needs: Needs,
    label: str,
    seed: int,
    deduplicate: bool,
    forbidden: frozenset[int],
) -> Iterator[dict[str, Any]]:
    """Pass after pass, each in an order of its own."""
    for number in itertools.count():
        shuffled = raw.shuffle(seed=seed + number, buffer_size=_SHUFFLE_BUFFER)
        left_out = Counter[str]()
        kept = 0
        for cells in _kept(shuffled, list(names), needs, deduplicate, forbidden, left_out):
            kept += 1
            yield dict(zip(names.values(), cells, strict=True))
        if not kept:
            raise ValueError(f"{label}: no row is left without blank cells and evaluation texts")
        if left_out and not number:
            counted = ", ".join(f"{count} for {reason}" for reason, count in sorted(left_out.items()))
            logger.warning("%s: rows left out: %s", label, counted)


def _kept(
    raw: IterableDataset,
    columns: list[str],
    needs: Needs,
    deduplicate: bool,
    forbidden: frozenset[int],
    left_out: Counter[str],
) -> Iterator[list[Any]]:
    """Cells of the rows of one pass that may be trained on; the others are counted."""
    seen: set[int] = set()
    names, number = needs.split(columns)
    for row in raw:
        texts = [row[name] for name in names]
        beside = [needs.read(number, row[number], typed=True)] if number else []
        if None in beside or not all(isinstance(text, str) and text.strip() for text in texts):
            left_out["blank cells"] += 1
            continue
        hashes = tuple(text_hash(text) for text in texts) if deduplicate or forbidden else ()
        key = hash((hashes, *map(str, beside)))
        if not forbidden.isdisjoint(hashes):
            left_out["evaluation texts"] += 1
        elif deduplicate and key in seen:
            left_out["repeats"] += 1
        else:
            if deduplicate:
                seen.add(key)
            yield [*texts, *beside]
