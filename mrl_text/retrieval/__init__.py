"""Adaptive and funnel retrieval: find by a prefix, order by the rest (extra ``search``)."""

from __future__ import annotations

from mrl_text.retrieval.hits import Hits, StageCost
from mrl_text.retrieval.index import AdaptiveIndex
from mrl_text.retrieval.plan import SearchPlan

__all__ = ["AdaptiveIndex", "Hits", "SearchPlan", "StageCost"]
