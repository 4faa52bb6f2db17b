"""Standard input as a file of rows, which can be read more than once."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from mrl_text.files import cache_dir
from mrl_text.tables.read import open_binary, reading

logger = logging.getLogger(__name__)

_BLOCK = 2**20
_COMPRESSED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


def spool(stream: BinaryIO) -> Path:
    """Copy a stream into a file of the cache, in a folder of its own for the caller to remove; say what it is read as.

    What begins with ``{`` or ``[`` is JSON, Parquet is known by its first bytes, and anything else is a text a line;
    JSON and text may be compressed with gzip or Zstandard. The place depends on the content alone, and so does the
    time of change: what was begun with the same rows goes on.

    Raises:
        ValueError: nothing comes.
        OSError: the cache cannot be written.
    """
    place = cache_dir() / "stdin"
    place.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    block = stream.read(_BLOCK)
    if not block:
        raise ValueError("standard input is empty: it needs at least one row")
    compression = next((ending for magic, ending in _COMPRESSED.items() if block.startswith(magic)), "")
    with tempfile.NamedTemporaryFile(dir=place, suffix=compression, delete=False) as copy:
        copied = Path(copy.name)
        while block:
            digest.update(block)
            copy.write(block)
            block = stream.read(_BLOCK)
    ending = _ending(copied) + compression
    file = place / digest.hexdigest()[:16] / f"stdin{ending}"
    file.parent.mkdir(exist_ok=True)
    copied.replace(file)
    os.utime(file, (0, 0))
    logger.info("standard input is read as %s", ending)
    return file


def remove(file: Path) -> None:
    """Remove what :func:`spool` made."""
    shutil.rmtree(file.parent, ignore_errors=True)


def _ending(file: Path) -> str:
    head = b""
    with contextlib.suppress(ValueError), reading(file), open_binary(file) as stream:
        head = stream.read(_BLOCK).lstrip(b"\xef\xbb\xbf \t\r\n")[:4]
    if head == b"PAR1":
        return ".parquet"
    return ".jsonl" if head[:1] in (b"{", b"[") else ".txt"
