"""Sentence embeddings that can be cut to any size (Matryoshka Representation Learning, arXiv 2205.13147).

The public surface is small: :func:`encode`, :class:`MatryoshkaEncoder` and ``__version__``. Names are imported on
first use, so ``import mrl_text`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder
    from mrl_text.loading import encode

    __version__: str

_HOMES = {"MatryoshkaEncoder": "encoder", "encode": "loading"}
__all__ = ["MatryoshkaEncoder", "__version__", "encode"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from mrl_text.versions import installed_version

        return installed_version("mrl-text") or "0+unknown"  # a source tree that was never installed
    if name in _HOMES:
        return getattr(import_module(f"mrl_text.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
