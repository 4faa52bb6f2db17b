"""Adaptive and funnel retrieval: find by a prefix, order by the rest (extra ``search``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mrl_text.retrieval.hits import Hits, StageCost
from mrl_text.retrieval.plan import SearchPlan

if TYPE_CHECKING:
    from mrl_text.retrieval.index import AdaptiveIndex

__all__ = ["AdaptiveIndex", "Hits", "SearchPlan", "StageCost"]


def __getattr__(name: str) -> Any:
    if name == "AdaptiveIndex":  # needs FAISS, which stores in databases do not
        from mrl_text.retrieval.index import AdaptiveIndex

        return AdaptiveIndex
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
