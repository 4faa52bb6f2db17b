"""Sentence embeddings that can be cut to any size (Matryoshka Representation Learning, arXiv 2205.13147).

The public surface is small: :func:`encode`, :class:`MatryoshkaEncoder` and ``__version__``. Names are imported on
first use, so ``import mrl_text`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder, encode

try:
    __version__ = version("mrl-text")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["MatryoshkaEncoder", "__version__", "encode"]


def __getattr__(name: str) -> Any:
    if name in ("MatryoshkaEncoder", "encode"):
        return getattr(import_module("mrl_text.encoder"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
