"""MTEB at every truncation size from one encoding pass."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runner import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".runner", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
