"""What a search found, as JSON values."""

from __future__ import annotations

import itertools
from typing import Any

from mrl_text.search.hits import Found
from mrl_text.search.store import Store

Result = dict[str, Any]
"""Rank from 1, score and id; where the row was fetched, its text and, if it has any, columns."""


def results(store: Store, found: Found, *, digits: int = 9, fetch: bool = True) -> list[list[Result]]:
    """The rows that were found for each query.

    Args:
        found: what :meth:`mrl_text.search.Store.search` gave.
        digits: of scores; nine tell any two float32 apart.
        fetch: look up texts and columns, too.
    """
    ids = [[name for name in row if name is not None] for row in found.ids]
    every = list(dict.fromkeys(itertools.chain.from_iterable(ids)))
    documents = dict(zip(every, store.documents(every), strict=True)) if fetch else {}

    def result(rank: int, name: str, score: float) -> Result:
        one: Result = {"rank": rank, "score": round(float(score), digits), "id": name}
        if fetch:
            document = documents[name]
            one["text"] = document.text if document else None
            one |= {"columns": document.columns} if document and document.columns else {}
        return one

    return [
        [result(rank, name, score) for rank, (name, score) in enumerate(zip(names, scores, strict=False), start=1)]
        for names, scores in zip(ids, found.scores, strict=True)
    ]
