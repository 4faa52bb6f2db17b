"""Encoding of corpora of any size: streams, files to shards, and reading these."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_text.encoding.files import EncodeReport, encode_files
    from mrl_text.encoding.folder import EncodedBatch, EncodedFolder, open_encoded

_HOMES = {
    "EncodeReport": "files",
    "EncodedBatch": "folder",
    "EncodedFolder": "folder",
    "encode_files": "files",
    "open_encoded": "folder",
}
__all__ = ["EncodeReport", "EncodedBatch", "EncodedFolder", "encode_files", "open_encoded"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"mrl_text.encoding.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
