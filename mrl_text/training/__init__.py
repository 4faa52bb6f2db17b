"""Contrastive fine-tuning by recipe: data sources, trainer, run folders."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_text.training.recipe import Recipe
    from mrl_text.training.recipe_files import load_recipe
    from mrl_text.training.trainer import train

_HOMES = {"Recipe": "recipe", "load_recipe": "recipe_files", "train": "trainer"}
__all__ = ["Recipe", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"mrl_text.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
