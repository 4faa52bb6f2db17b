"""The questions of the Matryoshka paper (arXiv 2205.13147), answered for text by one command."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_text.paper.run import QUESTIONS, paper

__all__ = ["QUESTIONS", "paper"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("mrl_text.paper.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
